"""Muon: momentum made orthogonal (Jordan et al. 2024), for matrices and convolution filters; AdamW for the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from cnnlab.device import constant

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, tuned for speed near zero
FUSED = 3  # iterations carried out on one Gram matrix; its rounding errors grow twelvefold with each


def orthogonalise(matrices: Sequence[Tensor], steps: int = 5) -> list[Tensor]:
    """(rows, columns) matrices → nearly U·Vᵀ of the singular value decomposition of each, by Newton–Schulz iteration.

    All but tiny singular values end between about 0.7 and 1.2, however ill-conditioned the matrix is and whether the
    factors of the products are rounded to float32, TF32 or bfloat16 (tests/training/test_training_muon.py). Matrices
    of the same shorter side go through the iteration together, however long the other side is.

    Args:
        matrices: float tensors of two dimensions, of any sizes.
        steps: iterations, at least 1; singular values below about 3.4⁻ˢᵗᵉᵖˢ of the Frobenius norm stay small.
    """
    flat = [m.float().T if m.shape[0] > m.shape[1] else m.float() for m in matrices]
    norms = torch._foreach_norm(flat)
    torch._foreach_add_(norms, 1e-7)
    flat = list(torch._foreach_div(flat, norms))
    by_side: dict[int, list[int]] = defaultdict(list)
    for i, x in enumerate(flat):
        by_side[x.shape[0]].append(i)
    for members in by_side.values():
        group = [flat[i] for i in members]
        iterate = _iterate if group[0].device.type == "cpu" else _iterate_together
        for i, x in zip(members, iterate(group, steps), strict=True):
            flat[i] = x
    return [(x.T if m.shape[0] > m.shape[1] else x).to(m.dtype) for m, x in zip(matrices, flat, strict=True)]


def _iterate(matrices: list[Tensor], steps: int) -> list[Tensor]:
    """`steps` times X ← (aI + bG + cG²)X with G = XXᵀ, for wide matrices of one height, see `_factors`."""
    for done in range(0, steps, FUSED):
        scales, rests = _factors(torch.stack([x @ x.T for x in matrices]), min(FUSED, steps - done))
        matrices = [torch.addmm(x * scale, rest, x) for x, scale, rest in zip(matrices, scales, rests, strict=True)]
    return matrices


def _iterate_together(matrices: list[Tensor], steps: int) -> list[Tensor]:
    """`_iterate` in few kernels, for accelerators: shorter matrices are filled with zeros, which change no product.

    Factors are rounded to TF32 there. In bfloat16 more is lost, 0.35 instead of 0.03 of a singular value after five
    steps, and the iteration on one Gram matrix is not bounded.
    """
    widths = [x.shape[1] for x in matrices]
    together = matrices[0].new_zeros(len(matrices), len(matrices[0]), max(widths))  # (n, side, longest)
    torch._foreach_copy_([x[:, :width] for x, width in zip(together, widths, strict=True)], matrices)
    for done in range(0, steps, FUSED):
        scales, rests = _factors(together @ together.mT, min(FUSED, steps - done))
        together = torch.baddbmm(together * scales, rests, together)
    return [x[:, :width] for x, width in zip(together, widths, strict=True)]


def _factors(gram: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """By what X is multiplied in `steps` iterations, of its (n, side, side) G: the diagonal (n, side, 1), and the rest.

    The iteration runs on G alone: every factor aI + Q is a polynomial of the first G, so all commute,
    G ← (aI + Q)G(aI + Q), and X is multiplied once, by the product of the factors. For a filter of 256×2304 that is
    half the arithmetic.

    Two things keep it bounded where products round their factors, as bfloat16 does by 0.2 %. Rounding gives G small
    negative eigenvalues, which the iteration multiplies by up to a² each time; G is computed anew from X before they
    matter. And what is multiplied by a multiple of the identity, or by the diagonal in the end, is never rounded: else
    the directions of large singular values leak into those of small ones.
    """
    a, b, c = COEFFICIENTS
    product = None
    for step in range(steps):
        q = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        if product is None:
            product = q.clone()
            product.diagonal(dim1=1, dim2=2).add_(a)
        else:
            product = torch.baddbmm(product, q, product, beta=a)
        if step < steps - 1:
            half = torch.baddbmm(gram, q, gram, beta=a)
            gram = torch.baddbmm(half, half, q, beta=a)
    assert product is not None
    diagonal = product.diagonal(dim1=1, dim2=2)
    scales = diagonal.clone().unsqueeze(2)  # (n, side, 1)
    diagonal.zero_()
    return scales, product


@contextmanager
def short_products() -> Iterator[None]:
    """Let oneDNN round or split the factors of float32 products on the processor to bfloat16.

    What that means differs by processor: plain rounding (2e-3) where there is AMX, a split with 5e-5 where there is
    AVX512_BF16 alone, nothing on others. What runs in here must not depend on it.
    """
    products: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = products.fp32_precision
    products.fp32_precision = "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before


class Muon(torch.optim.Optimizer):
    """Groups with `orthogonal=True` take Muon's step, all others AdamW's.

    Args:
        params: parameter groups.
        lr: step size; a filter's update has a root-mean-square of about lr·0.2, as AdamW's (Liu et al. 2025, eq. 4).
            With keep_norm it is the share of the filter bank's norm that a step changes.
        momentum: of the Nesterov average, 0 to 1.
        weight_decay: decoupled, as in AdamW.
        steps: Newton–Schulz iterations.
        keep_norm: scale each filter bank back to the norm it began with after every step (K. Jordan 2024). For filters
            before a normalisation, whose scale has no effect.
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
        keep_norm: bool = False,
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
            "keep_norm": keep_norm,
            "betas": tuple(betas),
            "eps": eps,
            "orthogonal": orthogonal,
            "fused": True,  # AdamW's part is; load_state_dict then puts the count of steps beside its parameter
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
            if parameters:
                (self._step_orthogonal if group["orthogonal"] else self._step_adamw)(parameters, group)
        return loss

    def _step_orthogonal(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients: list[Any] = [p.grad for p in parameters]
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
                if group["keep_norm"]:
                    self.state[p]["norm"] = p.norm()
        averages = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        nesterov = torch._foreach_lerp(gradients, averages, group["momentum"])
        with short_products():
            updates = orthogonalise([update.flatten(1) for update in nesterov], group["steps"])
        if group["keep_norm"]:
            first = torch.stack([self.state[p]["norm"] for p in parameters])  # of zeros there is none to keep
            kept = first / constant(tuple(min(u.shape) ** 0.5 for u in updates), first.device)
            plain = constant(tuple(0.2 * max(u.shape) ** 0.5 for u in updates), first.device)
            torch._foreach_mul_(updates, list(torch.where(first > 0, kept, plain)))
        else:
            torch._foreach_mul_(updates, [0.2 * max(u.shape) ** 0.5 for u in updates])
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        updates = [update.view(p.shape) for p, update in zip(parameters, updates, strict=True)]
        torch._foreach_add_(parameters, updates, alpha=-group["lr"])
        if group["keep_norm"]:
            norms = torch.stack(torch._foreach_norm(parameters))
            torch._foreach_mul_(parameters, list(torch.where(first > 0, first / norms, 1.0)))

    def _step_adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """torch's own, over this optimizer's state."""
        for p in parameters:
            if not self.state[p]:
                step = torch.zeros((), device=p.device)
                self.state[p].update(step=step, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            exp_avgs=[self.state[p]["exp_avg"] for p in parameters],
            exp_avg_sqs=[self.state[p]["exp_avg_sq"] for p in parameters],
            max_exp_avg_sqs=[],
            state_steps=[self.state[p]["step"] for p in parameters],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
