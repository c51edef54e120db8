"""The image axes and receptive fields of a traced tensor, and how operations on its dimensions change them.

A dimension is a product of axis factors, because layers reshape: (B, H, W, C) becomes (B·H·W, C) for a linear layer and
back. Only batches of one image are traced.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import prod

from cnnlab.geometry import ReceptiveField
from cnnlab.models.operations import SpatialStep, slice_step


@dataclass(frozen=True)
class AxisFactor:
    """A factor of a tensor's dimension: `size` positions along an axis of the image, or (None) along none."""

    size: int
    axis: int | None = None


Factors = tuple[AxisFactor, ...]


def plain_dim(size: int) -> Factors:
    """A dimension that runs along no axis of the image."""
    return (AxisFactor(size),) if size > 1 else ()


@dataclass(frozen=True)
class TracedTensor:
    """Which dimensions of a tensor run along which axis of the image, and what its positions see of it.

    Attributes:
        dims: each dimension as a product of factors: H, or H·W, or channels·H·W after a flatten.
        fields: the receptive field along each axis of the image; None is the whole image.
    """

    dims: tuple[Factors, ...]
    fields: tuple[ReceptiveField | None, ...]

    @classmethod
    def of_image(cls, shape: Sequence[int]) -> TracedTensor:
        """(1, C, H, W), or another number of axes after the channels: each pixel sees itself."""
        axes = tuple((AxisFactor(size, axis),) for axis, size in enumerate(shape[2:]))
        return cls((plain_dim(shape[0]), plain_dim(shape[1]), *axes), (ReceptiveField(),) * len(axes))

    def has(self, axis: int) -> bool:
        """Are there positions along this axis?"""
        return any(factor.axis == axis for dim in self.dims for factor in dim)

    def axis_of(self, dim: int) -> int | None:
        """The axis that a dimension runs along; None if along none, or along several things at once."""
        return self.dims[dim][0].axis if len(self.dims[dim]) == 1 else None

    @property
    def is_map(self) -> bool:
        """Are there still positions along every axis?"""
        return len(self.dims) > 2 and all(self.has(axis) for axis in range(len(self.fields)))

    @property
    def positions(self) -> int:
        return prod(factor.size for dim in self.dims for factor in dim if factor.axis is not None)

    def with_field(self, axis: int, field: ReceptiveField | None) -> TracedTensor:
        return replace(self, fields=(*self.fields[:axis], field, *self.fields[axis + 1 :]))

    def with_dim(self, dim: int, factors: Factors) -> TracedTensor:
        dim %= len(self.dims)
        return replace(self, dims=(*self.dims[:dim], factors, *self.dims[dim + 1 :]))

    def without(self, dim: int) -> TracedTensor:
        dim %= len(self.dims)
        return replace(self, dims=(*self.dims[:dim], *self.dims[dim + 1 :]))

    def mixed_over(self, dims: Iterable[int]) -> TracedTensor:
        """Each position along `dims` has seen all the others."""
        traced = self
        for axis in {factor.axis for dim in dims for factor in self.dims[dim] if factor.size > 1} - {None}:
            traced = traced.with_field(axis, None)  # type: ignore[arg-type]
        return traced

    def reduced(self, dims: Sequence[int], keepdim: bool) -> TracedTensor:
        """Summed over `dims`; a sum over a single position sees no more than that position."""
        alone = {dim: tuple(factor for factor in self.dims[dim] if factor.size == 1) for dim in dims}
        pairs = [(i, alone.get(i, factors)) for i, factors in enumerate(self.dims) if keepdim or i not in alone]
        return replace(self.mixed_over(dims), dims=tuple(factors for _, factors in pairs))

    def permuted(self, order: Sequence[int]) -> TracedTensor:
        return replace(self, dims=tuple(self.dims[dim] for dim in order))

    def after_step(self, dim: int, step: SpatialStep) -> TracedTensor:
        """After a kernel has been moved along a dimension, or positions were taken from it."""
        traced = self._unfolded(dim)
        axis, field = traced.axis_of(dim), None
        if axis is not None:
            field = traced.fields[axis]
            return traced.with_field(axis, field and step.field(field)).with_dim(dim, (AxisFactor(step.size, axis),))
        if (
            step.field(ReceptiveField()) == ReceptiveField()
            and prod(factor.size for factor in self.dims[dim]) == step.size
        ):
            return traced
        # Neighbours in a sequence of rows, say, are no neighbours in the image.
        return traced.mixed_over([dim]).with_dim(dim, plain_dim(step.size))

    def sliced(
        self, dim: int, size: int, start: int | None, stop: int | None, step: int = 1
    ) -> tuple[TracedTensor, str]:
        """Positions start, start + step, … before stop, and their number in writing if `dim` runs along an axis."""
        taken = slice_step(size, start or 0, size if stop is None else stop, step)
        traced = self._unfolded(dim)
        if traced.axis_of(dim) is not None:
            return traced.after_step(dim, taken), taken.arithmetic
        return (traced if taken.size == size else traced.with_dim(dim, plain_dim(taken.size))), ""

    def _unfolded(self, dim: int) -> TracedTensor:
        """Positions that were folded out of channels (depth to space) become positions of a larger map."""
        first, *inner = self.dims[dim] or (AxisFactor(1),)
        if first.axis is None or not inner or any(factor.axis is not None for factor in inner):
            return self
        scale = prod(factor.size for factor in inner)
        field = self.fields[first.axis]
        traced = self.with_field(first.axis, field and field.through(lambda q: (q // scale,), scale, 1))
        return traced.with_dim(dim, (AxisFactor(first.size * scale, first.axis),))

    def reshaped(self, shape: Sequence[int]) -> TracedTensor:
        """The same positions in other dimensions. Cutting one in two leaves the axis with the outer, coarser part."""
        traced = self
        queue = deque(factor for dim in self.dims for factor in dim)
        dims: list[Factors] = []
        for rest in shape:
            factors: list[AxisFactor] = []
            if rest == 1 and queue and queue[0].size == 1:
                factors.append(queue.popleft())
            while rest > 1:
                factor = queue.popleft()
                if rest % factor.size == 0:
                    rest //= factor.size
                    factors += [factor] if factor.size > 1 else []
                elif factor.size % rest == 0:
                    inner = factor.size // rest
                    queue.appendleft(AxisFactor(inner))
                    if factor.axis is not None:
                        field = traced.fields[factor.axis]
                        traced = traced.with_field(factor.axis, field and field.after_conv(inner, inner))
                    factors.append(AxisFactor(rest, factor.axis))
                    rest = 1
                else:  # positions are mixed with something else in a way that factors cannot express
                    return replace(
                        self.mixed_over(range(len(self.dims))), dims=tuple(plain_dim(size) for size in shape)
                    )
            dims.append(tuple(factors))
        return replace(traced, dims=tuple(dims))

    def broadcast(self, shape: Sequence[int]) -> TracedTensor:
        """With the dimensions of `shape`, aligned at the right; a broadcast dimension has no positions."""
        traced = replace(self, dims=(((),) * (len(shape) - len(self.dims)) + self.dims)[-len(shape) :] if shape else ())
        for i, size in enumerate(shape):
            before = prod(factor.size for factor in traced.dims[i])
            if before == size:
                continue
            axis = traced.axis_of(i)
            if before > 1 and size == 1:
                traced = traced.mixed_over([i])
            elif before > 1 and axis is not None:  # an operation unknown here that resizes
                field = traced.fields[axis]
                traced = traced.with_field(axis, field and field.after_resize(before, size, "nearest"))
                traced = traced.with_dim(i, (AxisFactor(size, axis),))
                continue
            traced = traced.with_dim(i, ())
        return traced


def merge(tensors: Sequence[TracedTensor], shape: Sequence[int]) -> TracedTensor:
    """Element by element, with broadcasting: positions see what each of the tensors that have positions sees."""
    tensors = [traced.broadcast(shape) for traced in tensors]
    dims = tuple(
        next((s.dims[i] for s in tensors if any(factor.axis is not None for factor in s.dims[i])), plain_dim(size))
        for i, size in enumerate(shape)
    )
    return TracedTensor(dims, merge_fields(tensors))


def merge_fields(tensors: Sequence[TracedTensor]) -> tuple[ReceptiveField | None, ...]:
    """For each axis all that is seen by those with positions along it, if there are any; else by all."""
    fields: list[ReceptiveField | None] = []
    for axis in range(len(tensors[0].fields)):
        seen = [traced.fields[axis] for traced in tensors if traced.has(axis)] or [
            traced.fields[axis] for traced in tensors
        ]
        known = [field for field in seen if field is not None]
        fields.append(reduce(ReceptiveField.merge, known) if len(known) == len(seen) else None)
    return tuple(fields)


def concatenate(tensors: Sequence[TracedTensor], dim: int, size: int) -> TracedTensor:
    """Joined along `dim` to `size`: along channels, positions see what each sees; along an axis, each its own."""
    axis = tensors[0].axis_of(dim)
    joined = TracedTensor(tensors[0].dims, merge_fields(tensors))
    if axis is None:
        return joined.with_dim(dim, plain_dim(size))
    return joined.with_field(axis, reduce(larger, (s.fields[axis] for s in tensors))).with_dim(
        dim, (AxisFactor(size, axis),)
    )


def larger(one: ReceptiveField | None, other: ReceptiveField | None) -> ReceptiveField | None:
    if one is None or other is None:
        return None
    return max(one, other, key=lambda field: field.size)


def multiply(left: TracedTensor | None, right: TracedTensor | None, shape: Sequence[int]) -> TracedTensor | None:
    """A product of matrices, batched or not: rows of the left, columns of the right, the sum over what is between."""
    known = [traced for traced in (left, right) if traced is not None]
    if not known:
        return None
    dims = [plain_dim(size) for size in shape]
    if len(shape) == 3:
        dims[0] = known[0].dims[0]
    summed = []
    if left is not None:
        dims[-2:-1] = left.dims[-2:-1] if len(shape) > 1 else []
        summed.append(left.mixed_over([-1]))
    if right is not None:
        dims[-1:] = right.dims[-1:] if len(right.dims) > 1 else dims[-1:]
        summed.append(right.mixed_over([-2 if len(right.dims) > 1 else -1]))
    seen = [[traced.fields[axis] for traced in summed] for axis in range(len(known[0].fields))]
    fields = (
        None if None in some else reduce(ReceptiveField.merge, (f for f in some if f is not None)) for some in seen
    )
    return TracedTensor(tuple(dims), tuple(fields))
