"""Muon: momentum made orthogonal (Jordan et al. 2024), for matrices and convolution filters; AdamW for the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from cnnlab.device import constant

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, tuned for speed near zero
FUSED = 3  # iterations carried out on one Gram matrix; its rounding errors grow twelvefold with each
PADDING = 1_000_000_000  # multiply-adds over zeros that an accelerator does in the time that a few launches take

Shape = tuple[int, int]


def orthogonalise(matrices: Sequence[Tensor], steps: int = 5) -> list[Tensor]:
    """(rows, columns) matrices → nearly U·Vᵀ of the singular value decomposition of each, by Newton–Schulz iteration.

    All but tiny singular values end between about 0.7 and 1.2, however ill-conditioned the matrix is and whether the
    factors of the products are rounded to float32, TF32 or bfloat16 (tests/training/test_training_muon.py). Matrices
    of the same shorter side go through the iteration together, however long the other side is. This is the form for
    processors, of least arithmetic; `PaddedBatches` is the one of fewest kernels.

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
        for i, x in zip(members, _iterate([flat[i] for i in members], steps), strict=True):
            flat[i] = x
    return [(x.T if m.shape[0] > m.shape[1] else x).to(m.dtype) for m, x in zip(matrices, flat, strict=True)]


def _iterate(matrices: list[Tensor], steps: int) -> list[Tensor]:
    """`steps` times X ← (aI + bG + cG²)X with G = XXᵀ, for wide matrices of one height, see `_factors`."""
    for done in range(0, steps, FUSED):
        scales, rests = _factors(torch.stack([x @ x.T for x in matrices]), min(FUSED, steps - done))
        matrices = [torch.addmm(x * scale, rest, x) for x, scale, rest in zip(matrices, scales, rests, strict=True)]
    return matrices


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


@dataclass(frozen=True)
class _Batch:
    """Some of the matrices as one batch (n, side, length) of wide ones; all of them together are one vector.

    Attributes:
        members: their numbers; numbers: the same on the device.
        into: (n · side · length,) places in the vector of what lies in the batch; of padding the vector's last, a zero.
        out: of each member the places in the batch of what it holds, one member after the other.
        sizes: how many numbers each member holds.
    """

    members: list[int]
    numbers: Tensor
    shape: tuple[int, int, int]
    into: Tensor
    out: Tensor
    sizes: list[int]


class PaddedBatches:
    """`orthogonalise` for accelerators, where launching kernels takes longer than small products do.

    Matrices of near sizes lie in one batch, padded with zeros, which change no product, and take the plain iteration in
    bfloat16: three products a step on all of them. As the Gram matrix is taken anew from X in every step, singular
    values stay below 1.21 (tests/training/test_training_muon.py), where the form for processors would not be bounded.

    Args:
        shapes: (rows, columns) of each matrix.
    """

    def __init__(self, shapes: Sequence[Shape], device: torch.device) -> None:
        starts = [0]
        for rows, columns in shapes:
            starts.append(starts[-1] + rows * columns)
        self.zero = torch.zeros(1, device=device)
        self.batches = [_lay_out(members, shapes, starts, device) for members in _near_sizes(shapes)]

    def orthogonalise(self, vectors: Sequence[Tensor], steps: int, scales: Sequence[Tensor]) -> list[Tensor]:
        """(rows · columns,) of each matrix, row after row → the same of its orthogonal factor times its scale, float32.

        Args:
            scales: for each of `batches` (n, 1, 1).
        """
        together = torch.cat([*vectors, self.zero])
        results = list(vectors)
        for batch, scale in zip(self.batches, scales, strict=True):
            x = together.index_select(0, batch.into).view(batch.shape)
            norms = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).add_(1e-7)
            x = torch.div(x, norms, out=x.new_empty(x.shape, dtype=torch.bfloat16))
            self._place(results, batch, newton_schulz(x, steps) * scale)
        return results

    def spread(self, values: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
        """For each of `batches` (n, 1, 1), one number for each matrix → vectors that hold it at every place."""
        results = list(like)
        for batch, value in zip(self.batches, values, strict=True):
            self._place(results, batch, value.expand(batch.shape))
        return results

    def take(self, values: Tensor) -> list[Tensor]:
        """(matrices,) one number for each → (n, 1, 1) for each of `batches`."""
        if len(self.batches) == 1:  # they are in order there
            return [values.view(-1, 1, 1)]
        return [values.index_select(0, batch.numbers).view(-1, 1, 1) for batch in self.batches]

    @staticmethod
    def _place(results: list[Tensor], batch: _Batch, x: Tensor) -> None:
        parts = torch.split(x.reshape(-1).index_select(0, batch.out), batch.sizes)
        for i, part in zip(batch.members, parts, strict=True):
            results[i] = part


def newton_schulz(x: Tensor, steps: int) -> Tensor:
    """`steps` times X ← (aI + bG + cG²)X with G = XXᵀ, for (n, side, length) matrices of norm 1, side ≤ length."""
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, factor, x, beta=a)
    return x


def _near_sizes(shapes: Sequence[Shape]) -> list[list[int]]:
    """Numbers of the matrices that share a batch, in order: as many as PADDING allows, from the largest down."""

    def work(side: int, length: int) -> int:
        return side * side * (2 * length + side)

    sizes = {i: (min(shape), max(shape)) for i, shape in enumerate(shapes)}
    groups: list[list[int]] = []
    padding, largest = 0, (0, 0)
    for i in sorted(sizes, key=sizes.__getitem__, reverse=True):
        length = max(largest[1], sizes[i][1])
        longer = len(groups[-1]) * (work(largest[0], length) - work(*largest)) if groups else 0
        extra = longer + work(largest[0], length) - work(*sizes[i])
        if groups and padding + extra <= PADDING:
            groups[-1].append(i)
            padding, largest = padding + extra, (largest[0], length)
        else:
            groups.append([i])
            padding, largest = 0, sizes[i]
    return [sorted(group) for group in groups]


def _lay_out(members: list[int], shapes: Sequence[Shape], starts: list[int], device: torch.device) -> _Batch:
    side, length = (max(wanted(shapes[i]) for i in members) for wanted in (min, max))
    shape = (len(members), side, length)
    into = torch.full(shape, starts[-1])  # where the zero is
    places, outs = torch.arange(into.numel()).view(shape), []
    for number, i in enumerate(members):
        rows, columns = shapes[i]
        own = torch.arange(starts[i], starts[i + 1]).view(rows, columns)
        tall = rows > columns
        into[number, : min(rows, columns), : max(rows, columns)] = own.T if tall else own
        block = places[number, : min(rows, columns), : max(rows, columns)]
        outs.append((block.T if tall else block).reshape(-1))
    kind = torch.int32 if max(into.numel(), starts[-1]) < 2**31 else torch.int64
    sizes = [len(out) for out in outs]
    into, out = into.view(-1).to(device, kind), torch.cat(outs).to(device, kind)
    return _Batch(members, torch.tensor(members, device=device), shape, into, out, sizes)


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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        vars(self).pop("_filters", None)  # which hold what the state said

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        others: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)  # AdamW's, by settings
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            if not group["orthogonal"]:
                others[group["lr"], group["betas"], group["weight_decay"], group["eps"]] += parameters
            elif parameters[0].device.type == "cpu":
                self._step_orthogonal(parameters, group)
            else:
                self._step_together(parameters, group)
        for settings, parameters in others.items():
            self._step_adamw(parameters, *settings)
        return loss

    def _nesterov(self, parameters: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """What is orthogonalised, for each parameter; the averages move on."""
        gradients: list[Any] = [p.grad for p in parameters]
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
                if group["keep_norm"]:
                    self.state[p]["norm"] = p.norm()
        averages = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        return list(torch._foreach_lerp(gradients, averages, group["momentum"]))

    def _step_orthogonal(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        nesterov = self._nesterov(parameters, group)
        with short_products():
            updates = orthogonalise([update.flatten(1) for update in nesterov], group["steps"])
        if group["keep_norm"]:
            first = torch.stack([self.state[p]["norm"] for p in parameters])
            torch._foreach_mul_(updates, list(_sizes([_rows_columns(p) for p in parameters], first)))
        else:
            torch._foreach_mul_(updates, [0.2 * max(u.shape) ** 0.5 for u in updates])
        updates = [update.view(p.shape) for p, update in zip(parameters, updates, strict=True)]
        _move(parameters, updates, group)
        if group["keep_norm"]:
            norms = torch.stack(torch._foreach_norm(parameters))
            torch._foreach_mul_(parameters, list(torch.where(first > 0, first / norms, 1.0)))

    def _step_together(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """`_step_orthogonal` in few kernels, for accelerators; equal but for the rounding of bfloat16."""
        vectors = [_in_memory_order(n, p) for n, p in zip(self._nesterov(parameters, group), parameters, strict=True)]
        filters = self._filters_of(parameters, group)
        updates = filters.batches.orthogonalise(vectors, group["steps"], filters.sizes)
        _move(parameters, [_laid_out_as(p, update) for p, update in zip(parameters, updates, strict=True)], group)
        if filters.kept is not None:
            norms = torch.stack(torch._foreach_norm(parameters))
            factors = filters.batches.take(torch.where(filters.kept, filters.first / norms, 1.0))
            spread = filters.batches.spread(factors, vectors)
            torch._foreach_mul_(parameters, [_laid_out_as(p, f) for p, f in zip(parameters, spread, strict=True)])

    def _filters_of(self, parameters: list[Tensor], group: dict[str, Any]) -> _Filters:
        """Made in the first step, and again after a state was loaded or other parameters have a gradient."""
        found: dict[tuple[int, ...], _Filters] = vars(self).setdefault("_filters", {})
        key = tuple(map(id, parameters))
        if key not in found:
            norms = torch.stack([self.state[p]["norm"] for p in parameters]) if group["keep_norm"] else None
            found[key] = _Filters.of(parameters, norms)
        return found[key]

    def _step_adamw(
        self, parameters: list[Tensor], lr: Any, betas: tuple[float, float], weight_decay: float, eps: float
    ) -> None:
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
            beta1=betas[0],
            beta2=betas[1],
            lr=lr,
            weight_decay=weight_decay,
            eps=eps,
            maximize=False,
        )


@dataclass(frozen=True)
class _Filters:
    """What does not change from step to step of the filters that are orthogonalised together.

    Attributes:
        sizes: for each of `batches` (n, 1, 1) by what an orthogonal factor is multiplied.
        first: (filters,) norms that are kept; kept: those there are, None where norms are free.
    """

    batches: PaddedBatches
    sizes: list[Tensor]
    first: Tensor
    kept: Tensor | None

    @classmethod
    def of(cls, parameters: list[Tensor], norms: Tensor | None) -> _Filters:
        shapes, device = [_rows_columns(p) for p in parameters], parameters[0].device
        batches = PaddedBatches(shapes, device)
        first = torch.zeros(len(shapes), device=device) if norms is None else norms
        return cls(batches, batches.take(_sizes(shapes, first)), first, None if norms is None else first > 0)


def _sizes(shapes: list[Shape], first: Tensor) -> Tensor:
    """(filters,) by what each orthogonal factor is multiplied for a rate of 1.

    Args:
        first: (filters,) norms to keep; 0 where there is none, as in a bank of zeros.
    """
    kept = first / constant(tuple(min(shape) ** 0.5 for shape in shapes), first.device)
    free = constant(tuple(0.2 * max(shape) ** 0.5 for shape in shapes), first.device)
    return torch.where(first > 0, kept, free)


def _move(parameters: list[Tensor], updates: list[Tensor], group: dict[str, Any]) -> None:
    """Decay, and a step against the updates; the rate is a number or, in a graph, a scalar on the device."""
    rate, decay = group["lr"], group["weight_decay"]
    if decay:
        torch._foreach_mul_(parameters, 1 - rate * decay)
    if isinstance(rate, Tensor):
        torch._foreach_sub_(parameters, torch._foreach_mul(updates, rate))
    else:
        torch._foreach_add_(parameters, updates, alpha=-rate)


def _rows_columns(p: Tensor) -> Shape:
    return len(p), p.numel() // len(p)


def _in_memory_order(x: Tensor, like: Tensor) -> Tensor:
    """(numel,) as `like` lies in memory: a filter's columns are then in another order, which no product shows."""
    return (x.permute(0, 2, 3, 1) if _is_channels_last(like) else x).reshape(-1)


def _laid_out_as(like: Tensor, vector: Tensor) -> Tensor:
    """The tensor whose `_in_memory_order` is the vector, with the strides of `like`, which fused kernels ask for."""
    if like.is_contiguous() or _is_channels_last(like):
        return vector.as_strided(like.shape, like.stride(), vector.storage_offset())
    return vector.view(like.shape)


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
