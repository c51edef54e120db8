"""What a tensor sees of the picture, and how that changes when its dimensions are moved, cut, joined or summed.

A dimension is written as a product of atoms, because layers reshape: (B, H, W, C) becomes (B·H·W, C) for a linear layer
and comes back. Only batches of one picture are followed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import prod

from cnnlab.geometry import ReceptiveField
from cnnlab.models.operations import Step, slice_step


@dataclass(frozen=True)
class Atom:
    """A factor of a tensor's dimension: so many positions, along an axis of the picture or (None) along none."""

    size: int
    axis: int | None = None


Atoms = tuple[Atom, ...]


def plain(size: int) -> Atoms:
    """A dimension along no axis."""
    return (Atom(size),) if size > 1 else ()


@dataclass(frozen=True)
class Sight:
    """What a tensor sees.

    Attributes:
        dims: each dimension as a product of atoms: one of H positions, or H·W, or channels·H·W after a flatten.
        fields: the receptive field along each axis of the picture; None is the whole picture.
    """

    dims: tuple[Atoms, ...]
    fields: tuple[ReceptiveField | None, ...]

    @classmethod
    def of_picture(cls, shape: Sequence[int]) -> Sight:
        """(1, C, H, W), or another number of axes after the channels: each pixel sees itself."""
        axes = tuple((Atom(size, axis),) for axis, size in enumerate(shape[2:]))
        return cls((plain(shape[0]), plain(shape[1]), *axes), (ReceptiveField(),) * len(axes))

    def has(self, axis: int) -> bool:
        """Are there positions along this axis?"""
        return any(atom.axis == axis for dim in self.dims for atom in dim)

    def axis_of(self, dim: int) -> int | None:
        """The axis that a dimension runs along; None if along none, or along several things at once."""
        return self.dims[dim][0].axis if len(self.dims[dim]) == 1 else None

    @property
    def is_map(self) -> bool:
        """Are there still positions along every axis?"""
        return len(self.dims) > 2 and all(self.has(axis) for axis in range(len(self.fields)))

    @property
    def positions(self) -> int:
        return prod(atom.size for dim in self.dims for atom in dim if atom.axis is not None)

    def with_field(self, axis: int, field: ReceptiveField | None) -> Sight:
        return replace(self, fields=(*self.fields[:axis], field, *self.fields[axis + 1 :]))

    def with_dim(self, dim: int, atoms: Atoms) -> Sight:
        dim %= len(self.dims)
        return replace(self, dims=(*self.dims[:dim], atoms, *self.dims[dim + 1 :]))

    def without(self, dim: int) -> Sight:
        dim %= len(self.dims)
        return replace(self, dims=(*self.dims[:dim], *self.dims[dim + 1 :]))

    def everywhere(self, dims: Iterable[int]) -> Sight:
        """Each position along `dims` has seen all the others."""
        sight = self
        for axis in {atom.axis for dim in dims for atom in self.dims[dim] if atom.size > 1} - {None}:
            sight = sight.with_field(axis, None)  # type: ignore[arg-type]
        return sight

    def reduced(self, dims: Sequence[int], keepdim: bool) -> Sight:
        """Summed over `dims`; a sum over a single position sees no more than that position."""
        alone = {dim: tuple(atom for atom in self.dims[dim] if atom.size == 1) for dim in dims}
        pairs = [(i, alone.get(i, atoms)) for i, atoms in enumerate(self.dims) if keepdim or i not in alone]
        return replace(self.everywhere(dims), dims=tuple(atoms for _, atoms in pairs))

    def permuted(self, order: Sequence[int]) -> Sight:
        return replace(self, dims=tuple(self.dims[dim] for dim in order))

    def stepped(self, dim: int, step: Step) -> Sight:
        """After a kernel has been moved along a dimension, or positions were taken from it."""
        sight = self._unfolded(dim)
        axis, field = sight.axis_of(dim), None
        if axis is not None:
            field = sight.fields[axis]
            return sight.with_field(axis, field and step.field(field)).with_dim(dim, (Atom(step.size, axis),))
        if step.field(ReceptiveField()) == ReceptiveField() and prod(atom.size for atom in self.dims[dim]) == step.size:
            return sight
        # Neighbours in a sequence of rows, say, are no neighbours in the picture.
        return sight.everywhere([dim]).with_dim(dim, plain(step.size))

    def sliced(self, dim: int, size: int, start: int | None, stop: int | None, step: int = 1) -> tuple[Sight, str]:
        """Positions start, start + step, … before stop, and their number in writing if `dim` runs along an axis."""
        taken = slice_step(size, start or 0, size if stop is None else stop, step)
        sight = self._unfolded(dim)
        if sight.axis_of(dim) is not None:
            return sight.stepped(dim, taken), taken.arithmetic
        return (sight if taken.size == size else sight.with_dim(dim, plain(taken.size))), ""

    def _unfolded(self, dim: int) -> Sight:
        """Positions that were folded out of channels (depth to space) become positions of a larger map."""
        first, *inner = self.dims[dim] or (Atom(1),)
        if first.axis is None or not inner or any(atom.axis is not None for atom in inner):
            return self
        factor = prod(atom.size for atom in inner)
        field = self.fields[first.axis]
        sight = self.with_field(first.axis, field and field.through(lambda q: (q // factor,), factor, 1))
        return sight.with_dim(dim, (Atom(first.size * factor, first.axis),))

    def viewed(self, shape: Sequence[int]) -> Sight:
        """The same positions in other dimensions. Cutting one in two leaves the axis with the outer, coarser part."""
        sight = self
        queue = deque(atom for dim in self.dims for atom in dim)
        dims: list[Atoms] = []
        for rest in shape:
            atoms: list[Atom] = []
            if rest == 1 and queue and queue[0].size == 1:
                atoms.append(queue.popleft())
            while rest > 1:
                atom = queue.popleft()
                if rest % atom.size == 0:
                    rest //= atom.size
                    atoms += [atom] if atom.size > 1 else []
                elif atom.size % rest == 0:
                    inner = atom.size // rest
                    queue.appendleft(Atom(inner))
                    if atom.axis is not None:
                        field = sight.fields[atom.axis]
                        sight = sight.with_field(atom.axis, field and field.after_conv(inner, inner))
                    atoms.append(Atom(rest, atom.axis))
                    rest = 1
                else:  # positions are mixed with something else in a way that no atoms can say
                    return replace(self.everywhere(range(len(self.dims))), dims=tuple(plain(size) for size in shape))
            dims.append(tuple(atoms))
        return replace(sight, dims=tuple(dims))

    def broadcast(self, shape: Sequence[int]) -> Sight:
        """With the dimensions of `shape`, aligned at the right; what is the same for all of them has no positions."""
        sight = replace(self, dims=(((),) * (len(shape) - len(self.dims)) + self.dims)[-len(shape) :] if shape else ())
        for i, size in enumerate(shape):
            before = prod(atom.size for atom in sight.dims[i])
            if before == size:
                continue
            axis = sight.axis_of(i)
            if before > 1 and size == 1:
                sight = sight.everywhere([i])
            elif before > 1 and axis is not None:  # an operation unknown here that resizes
                field = sight.fields[axis]
                sight = sight.with_field(axis, field and field.after_resize(before, size, "nearest"))
                sight = sight.with_dim(i, (Atom(size, axis),))
                continue
            sight = sight.with_dim(i, ())
        return sight


def merge(sights: Sequence[Sight], shape: Sequence[int]) -> Sight:
    """Element by element, with broadcasting: positions see what each of the tensors that have positions sees."""
    sights = [sight.broadcast(shape) for sight in sights]
    dims = tuple(
        next((s.dims[i] for s in sights if any(atom.axis is not None for atom in s.dims[i])), plain(size))
        for i, size in enumerate(shape)
    )
    return Sight(dims, merge_fields(sights))


def merge_fields(sights: Sequence[Sight]) -> tuple[ReceptiveField | None, ...]:
    """For each axis all that is seen by those with positions along it, if there are any; else by all."""
    fields: list[ReceptiveField | None] = []
    for axis in range(len(sights[0].fields)):
        seen = [sight.fields[axis] for sight in sights if sight.has(axis)] or [sight.fields[axis] for sight in sights]
        known = [field for field in seen if field is not None]
        fields.append(reduce(ReceptiveField.merge, known) if len(known) == len(seen) else None)
    return tuple(fields)


def concatenate(sights: Sequence[Sight], dim: int, size: int) -> Sight:
    """Joined along `dim` to `size`: along channels, positions see what each sees; along an axis, each its own."""
    axis = sights[0].axis_of(dim)
    joined = Sight(sights[0].dims, merge_fields(sights))
    if axis is None:
        return joined.with_dim(dim, plain(size))
    return joined.with_field(axis, reduce(larger, (s.fields[axis] for s in sights))).with_dim(dim, (Atom(size, axis),))


def larger(one: ReceptiveField | None, other: ReceptiveField | None) -> ReceptiveField | None:
    if one is None or other is None:
        return None
    return max(one, other, key=lambda field: field.size)


def multiply(left: Sight | None, right: Sight | None, shape: Sequence[int]) -> Sight | None:
    """A product of matrices, batched or not: rows of the left, columns of the right, the sum over what is between."""
    known = [sight for sight in (left, right) if sight is not None]
    if not known:
        return None
    dims = [plain(size) for size in shape]
    if len(shape) == 3:
        dims[0] = known[0].dims[0]
    summed = []
    if left is not None:
        dims[-2:-1] = left.dims[-2:-1] if len(shape) > 1 else []
        summed.append(left.everywhere([-1]))
    if right is not None:
        dims[-1:] = right.dims[-1:] if len(right.dims) > 1 else dims[-1:]
        summed.append(right.everywhere([-2 if len(right.dims) > 1 else -1]))
    seen = [[sight.fields[axis] for sight in summed] for axis in range(len(known[0].fields))]
    fields = (
        None if None in some else reduce(ReceptiveField.merge, (f for f in some if f is not None)) for some in seen
    )
    return Sight(tuple(dims), tuple(fields))
