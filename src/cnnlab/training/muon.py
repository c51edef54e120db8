"""Muon: momentum made orthogonal (Jordan et al. 2024), for matrices and convolution filters; AdamW for the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, tuned for speed near zero


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """(n, rows, columns) → nearly U·Vᵀ of each matrix's singular value decomposition, by Newton–Schulz iteration.

    All but tiny singular values end between about 0.7 and 1.2. The iteration X ← (aI + bG + cG²)X with G = XXᵀ is
    carried out on G alone: every factor P is a polynomial of the first G, so all commute, G ← PGP, and X is multiplied
    once, by their product. For a filter of 256×2304 that is a fifth of the arithmetic.
    """
    a, b, c = COEFFICIENTS
    x = matrices.float()
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    identity = torch.eye(x.shape[1], device=x.device)
    gram, product = x @ x.transpose(1, 2), identity
    for _ in range(steps):
        factor = a * identity + b * gram + c * (gram @ gram)
        product = factor @ product
        gram = factor @ gram @ factor
    x = product @ x
    return (x.transpose(1, 2) if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Groups with `orthogonal=True` take Muon's step, all others AdamW's.

    Args:
        params: parameter groups.
        lr: step size; a filter's update has a root-mean-square of about lr·0.2, as AdamW's (Liu et al. 2025, eq. 4).
        momentum: of the Nesterov average, 0 to 1.
        weight_decay: decoupled, as in AdamW.
        steps: Newton–Schulz iterations.
        betas, eps: of AdamW.
        orthogonal: default for groups that do not say.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        orthogonal: bool = True,
    ) -> None:
        if not (lr >= 0 and 0 <= momentum < 1 and weight_decay >= 0 and steps >= 1 and all(0 <= b < 1 for b in betas)):
            raise ValueError(f"lr {lr}, momentum {momentum}, weight_decay {weight_decay}, steps {steps}, betas {betas}")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "steps": steps,
            "betas": tuple(betas),
            "eps": eps,
            "orthogonal": orthogonal,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["orthogonal"]:
                self._step_orthogonal(parameters, group)
            else:
                self._step_adamw(parameters, group)
        return loss

    def _step_orthogonal(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Filters of one shape are orthogonalised together."""
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for p in parameters:
            assert p.grad is not None
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            average = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
            update = p.grad.lerp(average, group["momentum"]).flatten(1)  # Nesterov
            by_shape[(update.shape[0], update.shape[1])].append((p, update))
        for (rows, columns), pairs in by_shape.items():
            updates = orthogonalise(torch.stack([update for _, update in pairs]), group["steps"])
            scale = 0.2 * max(rows, columns) ** 0.5
            for (p, _), update in zip(pairs, updates, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(update.view(p.shape), alpha=group["lr"] * scale)

    def _step_adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        for p in parameters:
            assert p.grad is not None
            state = self.state[p]
            if not state:
                state["step"] = 0
                state["mean"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
            state["step"] += 1
            state["mean"].lerp_(p.grad, 1 - beta1)
            state["square"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
            deviation = (state["square"] / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.addcdiv_(state["mean"], deviation, value=-group["lr"] / (1 - beta1 ** state["step"]))
