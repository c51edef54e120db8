"""What a drawing of a network shows: the parts of its main path, the arcs that join it, and what repeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from cnnlab.models.flow import Shape, Step
from cnnlab.models.summary import LayerRow, Summary
from cnnlab.models.table import shape_text

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
UPSAMPLING = ("Upsampl", "PixelShuffle", "conv_transpose", "upsample", "pixel_shuffle")
POOLING = ("Pool", "pool", "mean()", "amax()")
PRODUCTS = ("mm()", "bmm()", "addmm()", "baddbmm()")
FEWEST_ALONE = 4  # equal layers in a row that are drawn as one; of groups with a join two, of other groups three
LONGEST_GROUP = 40


@dataclass(frozen=True)
class Block:
    """A step as it is drawn.

    Attributes:
        kind: "image", "conv", "pool", "up", "linear", "other", or of a join "join".
        shape: of the output, without the batch.
        kernel: such as "3×3"; "global" for a pooling over all positions; empty where there is none.
        text: what it is in words.
        rows: numbers of the layers in it, in the summary; the folded ones are among them.
    """

    kind: str
    shape: Shape
    before: Shape
    kernel: str
    text: str
    rows: tuple[int, ...]

    def like(self, other: Block) -> bool:
        """Whether both do the same to maps of the same size."""
        return (self.kind, self.shape, self.before, self.kernel) == (
            other.kind,
            other.shape,
            other.before,
            other.kernel,
        )


@dataclass(frozen=True)
class Arc:
    """A way beside the main path, from the part `source` (its number) on, through the blocks of `branch`."""

    source: int
    branch: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Part:
    """A block of the main path; `arcs` end in it, and `join` says how: "add", "mul", "cat", ..., or empty."""

    block: Block
    join: str = ""
    arcs: tuple[Arc, ...] = ()


@dataclass(frozen=True)
class Repeat:
    """The parts start … start + length − 1 come `times` times, one after the other."""

    start: int
    length: int
    times: int

    @property
    def stop(self) -> int:
        """The first part behind all of them."""
        return self.start + self.length * self.times


@dataclass(frozen=True)
class Parts:
    """`parts` in order, the image first; `repeats` of them; `aside`: rows of layers that the output does not need."""

    parts: list[Part]
    repeats: list[Repeat] = field(default_factory=list)
    aside: tuple[int, ...] = ()


def parts_of(model: nn.Module, summary: Summary) -> Parts:
    """The main path is the longest; where a join keeps the size of one of its inputs, it goes through that one."""
    modules = dict(model.named_modules())
    blocks = [_block(step, summary, modules) for step in summary.steps]
    depths = _depths(summary.steps)
    path = [len(blocks) - 1 if summary.output is None else summary.output]
    while summary.steps[path[0]].inputs:
        path.insert(0, _main_input(summary.steps[path[0]], summary.steps, depths))
    place = {number: index for index, number in enumerate(path)}
    drawn = set(path)
    parts = []
    for number in path:
        step = summary.steps[number]
        main = _main_input(step, summary.steps, depths) if step.inputs else None
        arcs = []
        for other in step.inputs:
            if other != main:
                source, branch = _branch(other, summary.steps, place, drawn)
                drawn |= set(branch)
                arcs.append(Arc(place[source], tuple(blocks[i] for i in branch)))
        parts.append(Part(blocks[number], step.join if step.layer is None else "", tuple(arcs)))
    seen = {row for number in drawn for row in blocks[number].rows}
    aside = tuple(row for row in range(len(summary.layers)) if row not in seen)
    return Parts(parts, _repeats(parts), aside)


def _depths(steps: Sequence[Step]) -> list[int]:
    """How many steps the longest way from the image to each has."""
    depths: list[int] = []
    for step in steps:
        depths.append(1 + max((depths[i] for i in step.inputs), default=-1))
    return depths


def _main_input(step: Step, steps: Sequence[Step], depths: Sequence[int]) -> int:
    same = [i for i in step.inputs if steps[i].shape == step.shape and step.join != "cat"]
    return max(same or step.inputs, key=lambda i: depths[i])


def _branch(last: int, steps: Sequence[Step], place: dict[int, int], drawn: set[int]) -> tuple[int, list[int]]:
    """Where on the main path the way to the step `last` begins, and its steps that are not drawn yet."""
    branch: set[int] = set()
    sources: set[int] = set()
    waiting = [last]
    while waiting:
        number = waiting.pop()
        if number in place:
            sources.add(number)
        elif number not in branch:
            branch.add(number)
            waiting += steps[number].inputs
    return max(sources), sorted(branch - drawn)


# ---- a step as a block


def _block(step: Step, summary: Summary, modules: dict[str, nn.Module]) -> Block:
    before = summary.steps[step.inputs[0]].shape if step.inputs else ()
    folded = [summary.layers[i] for i in step.folded]
    behind = "".join(f", {row.kind if row.kind != 'function' else row.name}" for row in folded)
    if step.layer is None:
        kind = "join" if step.inputs else "image"
        words = f"{step.join or 'image'}: {shape_text(step.shape)}{behind}"
        return Block(kind, step.shape, before, "", words, tuple(step.folded))
    row = summary.layers[step.layer]
    module = modules.get(row.name)
    sizes = f"{shape_text(row.input)} → {shape_text(row.output)}"
    count = sum(layer.parameters for layer in (row, *folded))
    words = f"{row.name}: {row.kind}{behind}, {sizes}, {count:,} parameters"
    kernel = _kernel(row, module, step.shape)
    return Block(_kind(row, module), step.shape, before, kernel, words, (step.layer, *step.folded))


def _kind(row: LayerRow, module: nn.Module | None) -> str:
    name = row.name if row.kind == "function" else row.kind
    if isinstance(module, TRANSPOSED) or any(word in name for word in UPSAMPLING):
        return "up"
    if isinstance(module, CONVOLUTIONS) or "conv" in name.lower():
        return "conv"
    if any(word in name for word in POOLING):
        return "pool"
    if isinstance(module, nn.Linear) or "Linear" in name or name.endswith(PRODUCTS):
        return "linear"
    return "other"


def _kernel(row: LayerRow, module: nn.Module | None, shape: Shape) -> str:
    size = getattr(module, "kernel_size", None)
    if isinstance(size, int):
        size = (size,) * max(1, len(shape) - 1)
    if isinstance(size, tuple) and all(isinstance(side, int) for side in size):
        return "×".join(map(str, size))
    is_pool = _kind(row, module) == "pool"
    return "global" if is_pool and all(side == 1 for side in shape[1:]) else ""


# ---- what repeats


def _repeats(parts: Sequence[Part]) -> list[Repeat]:
    found, start = [], 0
    while start < len(parts):
        best = Repeat(start, 1, 1)
        for length in range(1, min(LONGEST_GROUP, (len(parts) - start) // 2) + 1):
            times = _times(parts, start, length)
            joins = any(part.arcs for part in parts[start : start + length])
            fewest = 2 if joins else FEWEST_ALONE if length == 1 else 3
            repeat = Repeat(start, length, times)
            if times >= fewest and length * times > best.length * best.times and _stands_alone(parts, repeat):
                best = repeat
        if best.times > 1:
            found.append(best)
        start = best.stop
    return found


def _times(parts: Sequence[Part], start: int, length: int) -> int:
    times = 1
    while (begin := start + times * length) + length <= len(parts) and all(
        _alike(parts, start + i, begin + i) for i in range(length)
    ):
        times += 1
    return times


def _alike(parts: Sequence[Part], one: int, other: int) -> bool:
    a, b = parts[one], parts[other]
    return (
        a.block.like(b.block)
        and a.join == b.join
        and len(a.arcs) == len(b.arcs)
        and all(
            one - x.source == other - y.source
            and len(x.branch) == len(y.branch)
            and all(p.like(q) for p, q in zip(x.branch, y.branch, strict=True))
            for x, y in zip(a.arcs, b.arcs, strict=True)
        )
    )


def _stands_alone(parts: Sequence[Part], repeat: Repeat) -> bool:
    """No arc ends in the group that comes from before its input, and none leaves it but from its last part."""
    first = repeat.start + repeat.length
    inside = all(arc.source >= repeat.start - 1 for part in parts[repeat.start : first] for arc in part.arcs)
    return inside and all(
        not repeat.start <= arc.source < repeat.stop - 1 for part in parts[repeat.stop :] for arc in part.arcs
    )
