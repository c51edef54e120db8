"""A network as a drawing: boxes from the image to the head, as high as their maps, as thick as their channels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from math import log2, sqrt
from pathlib import Path

from torch import nn

from cnnlab.errors import ConfigError
from cnnlab.files import given_output, write_whole
from cnnlab.models.summary import Summary, summarise
from cnnlab.models.table import shape_text, short_count
from cnnlab.report.marks import across, circle, path, pixels, polygon, rectangle, standing_svg, text
from cnnlab.report.network_parts import Arc, Block, Part, Parts, parts_of

WIDEST = 1000.0  # pixels of a row
TIGHT = 0.62  # thickness and gaps of a network that would be wider, such as a U-Net, whose skips do not let it wrap
TALLEST = 118.0  # pixels of the largest map
MARGIN = 14.0
SKEW = 0.5  # pixels up for each pixel to the right, along the width of a map
GAP = 18.0  # between blocks, behind the side of the first
JOIN = 8.0  # radius
LETTER = 6.2  # pixels of a letter of a label
KINDS = {  # colour and words of the legend
    "image": ("#6f9e6b", "image"),
    "conv": ("#e3a83f", "convolution (kernel above)"),
    "pool": ("#cc5f4d", "pooling"),
    "up": ("#4a90c2", "upsampling"),
    "linear": ("#8f74bd", "linear"),
    "other": ("#8d949b", "other layer"),
}
SYMBOLS = {"add": "+", "sub": "−", "mul": "×", "div": "÷", "cat": "C"}
MEANINGS = {"add": "sum", "sub": "difference", "mul": "product", "div": "quotient", "cat": "concatenation"}


@dataclass(frozen=True)
class Drawing:
    """A drawing of a network. A notebook shows it.

    Attributes:
        svg: a whole SVG file as text, which needs nothing else.
        title: what it shows, in a few words.
    """

    svg: str = field(repr=False)
    title: str

    def save(self, path: str | Path) -> Path:
        """Write the SVG file, whole or not at all, and return its path; folders on the way are made.

        Raises:
            ConfigError: what `svg_file` says of the path, or it cannot be written.
        """
        file = svg_file(path)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, self.svg)
        except OSError as error:
            raise ConfigError(f"cannot write {file} ({error.strerror}); give another file for the drawing.") from None
        return file

    def _repr_html_(self) -> str:
        return self.svg


def svg_file(path: str | Path) -> Path:
    """The file that a drawing is to go to.

    Raises:
        ConfigError: an empty path or one that no system could have, a folder, or a name of another kind of file.
    """
    file = given_output(path, "--svg")
    if file.is_dir():
        raise ConfigError(f"{file} is a folder, and the drawing is one file; give {file / 'network.svg'}.")
    if file.suffix.lower() != ".svg" and not (file.exists() and not file.is_file()):  # a device or a pipe
        raise ConfigError(f"{file}: the drawing is SVG; give {file.with_suffix('.svg')}.")
    return file


def draw_network(model: nn.Module, shape: tuple[int, int, int]) -> Drawing:
    """Draw a network as textbooks do: each layer a box, residual and skip connections as arcs above, repeats folded.

    Heights follow the square root of a map's size, thickness the logarithm of its channels; sizes are those of
    `summarise`. Normalisation, activations and dropout are in the box of the layer before them (point at it).

    Args:
        model: any module that takes (B, C, H, W); neither its weights nor its mode change.
        shape: (C, H, W) of one image.

    Raises:
        ModelError: the image does not fit the model, or the model looks at numbers as it runs.
    """
    summary = summarise(model, shape)
    parts = parts_of(model, summary)
    answer = shape_text(parts.parts[-1].block.shape)
    count = f"{summary.parameters:,} parameters, {short_count(summary.multiply_adds)} multiply-adds"
    title = f"{type(model).__name__}: {shape_text(summary.input)} → {answer}"
    rows = _Canvas(parts, 1.0).rows(WIDEST)
    if max(row.width for row in rows) > WIDEST:
        rows = _Canvas(parts, TIGHT).rows(1.2 * WIDEST)
    return Drawing(_page(rows, parts, title, count, summary), title)


# ---- sizes


@dataclass(frozen=True)
class _Box:
    width: float  # to the right, for the channels
    height: float
    depth: float  # to the right and up, for the width of the map

    @property
    def above(self) -> float:
        """Of the axis, in pixels."""
        return self.height / 2 + self.depth * SKEW


def _box(part: Part, largest: int, scale: float) -> _Box:
    block = part.block
    if block.kind == "join":
        return _Box(2 * JOIN, 2 * JOIN, 0)
    if len(block.shape) < 2:
        return _Box(10, 18 + 7 * log2(max(1, *block.shape, 1)), 4)
    tokens = len(block.shape) == 2
    channels, sides = (block.shape[1], block.shape[:1]) if tokens else (block.shape[0], block.shape[-2:])
    height, width = (TALLEST * sqrt(side / largest) for side in (sides[0], sides[-1]))
    thickness = 5.0 if block.kind == "image" else scale * (4 + 2.7 * log2(max(1, channels)))
    return _Box(thickness, max(6.0, height), max(3.0, (0 if tokens else width) * 0.2 * scale))


# ---- rows


@dataclass
class _Placed:
    part: Part
    box: _Box
    x: float
    number: int

    @property
    def right(self) -> float:
        return self.x + self.box.width


class _Canvas:
    """Places parts from left to right; `row` is what has been placed, relative to its axis."""

    def __init__(self, parts: Parts, scale: float) -> None:
        self.scale = scale
        hidden = {i for r in parts.repeats for i in range(r.start + r.length, r.stop)}
        # The last part of a folded group stands for that of its last repetition.
        self.stands_for = {r.stop - 1: r.start + r.length - 1 for r in parts.repeats}
        self.numbers = [i for i in range(len(parts.parts)) if i not in hidden]
        self.parts = parts
        self.groups = {r.start: r for r in parts.repeats}
        self.ends = {r.start + r.length - 1: r for r in parts.repeats}
        sides = [side for part in parts.parts if len(part.block.shape) > 2 for side in part.block.shape[1:]]
        self.largest = max(sides, default=1)
        self.boxes = {i: _box(parts.parts[i], self.largest, scale) for i in self.numbers}
        self.sources = {self.source(arc) for i in self.numbers for arc in parts.parts[i].arcs}

    def source(self, arc: Arc) -> int:
        return self.stands_for.get(arc.source, arc.source)

    def rows(self, widest: float) -> list[_Row]:
        """As few rows as there can be of at most `widest` pixels; wider ones only where no row may end."""
        ends = [stop for stop in range(1, len(self.numbers) + 1) if self._may_end(stop)]
        rows: list[_Row] = []
        begin = 0
        while begin < len(self.numbers):
            possible = [_Row(self, self.numbers[begin:end]) for end in ends if end > begin]
            fitting = [row for row in possible if row.width <= widest]
            rows.append(fitting[-1] if fitting else possible[0])
            begin += len(rows[-1].placed)
        return rows

    def _may_end(self, stop: int) -> bool:
        """Whether a row may end before the drawn part `stop`: no arc, no group and no run of equal sizes crosses it.

        An arc may begin at the very end: it then begins with the next row.
        """
        if stop == len(self.numbers):
            return True
        last, following = self.numbers[stop - 1], self.numbers[stop]
        crossed = any(self.source(arc) < last for i in self.numbers[stop:] for arc in self.parts.parts[i].arcs)
        grouped = any(r.start < following < r.start + r.length for r in self.parts.repeats)
        return not (crossed or grouped or self.same_run(last, following))

    def same_run(self, last: int, number: int) -> bool:
        """Whether two neighbours share their label."""
        a, b = self.parts.parts[last].block, self.parts.parts[number].block
        apart = last in self.ends or number in self.groups or a.kind == "image" or (a.kind == "join" != b.kind)
        return a.shape == b.shape and not apart

    def gap(self, last: int, number: int) -> float:
        a, b = self.parts.parts[last], self.parts.parts[number]
        behind = self.boxes[last].depth
        if last in self.ends or number in self.groups:
            return behind + 32
        if last in self.sources:
            return behind + 22 * self.scale
        if self.same_run(last, number) and a.block.kind == b.block.kind:
            return 4
        return behind + GAP * self.scale


class _Row:
    """The marks of one row; the axis is at y = 0, `top` above and `bottom` below it."""

    def __init__(self, canvas: _Canvas, numbers: list[int]) -> None:
        self.canvas = canvas
        self.placed: list[_Placed] = []
        self.by_number: dict[int, _Placed] = {}
        self.tops: list[tuple[float, float, float]] = []  # from x to x, nothing above this y is drawn
        self.runs = self._place(numbers)
        self.top = self.bottom = 0.0
        self.width = max(placed.right + placed.box.depth for placed in self.placed) + MARGIN + 8
        self.width = max(self.width, *(middle + half for _, middle, half in self.runs))

    # -- places

    def _place(self, numbers: list[int]) -> list[tuple[list[_Placed], float, float]]:
        """Fills `placed`; returns the runs that share a label, each with its middle and half of the label's width."""
        runs: list[list[int]] = []
        for number in numbers:
            if runs and self.canvas.same_run(runs[-1][-1], number):
                runs[-1].append(number)
            else:
                runs.append([number])
        x, labels = MARGIN, []
        free = 8.0  # where the next label may begin
        last: int | None = None
        for run in runs:
            words = shape_text(self.canvas.parts.parts[run[0]].block.shape)
            label = max(len(line) for line in _lines(words)) * LETTER
            start = len(self.placed)
            for number in run:
                part, box = self.canvas.parts.parts[number], self.canvas.boxes[number]
                if last is not None:
                    x += self.canvas.gap(last, number)
                elif number > 0:  # the arrow from the row above, where an arc may begin
                    x += 16
                for arc in part.arcs:
                    source = self.by_number.get(self.canvas.source(arc))
                    begin = _behind(source, self.canvas.scale) if source else MARGIN
                    x = max(x, begin + _branch_width(arc) + 20)
                spare = max(0.0, LETTER * len(part.block.kernel) - box.width) / 2
                self._add(_Placed(part, box, x + spare, number))
                x += box.width + 2 * spare
                last = number
            of_blocks = [p for p in self.placed[start:] if p.part.block.kind != "join"] or self.placed[start:]
            middle = (of_blocks[0].x + of_blocks[-1].right) / 2
            shift = max(0.0, free - (middle - label / 2))
            for placed in self.placed[start:]:
                placed.x += shift
            x, middle = x + shift, middle + shift
            free = middle + label / 2 + 8
            labels.append((self.placed[start:], middle, label / 2))
        return labels

    def _add(self, placed: _Placed) -> None:
        self.placed.append(placed)
        self.by_number[placed.number] = placed

    # -- marks

    def marks(self, first: bool, last: bool) -> list[str]:
        """All marks, from the back to the front, and `top` and `bottom` are set."""
        lines, boxes, words = [], [], []
        for before, after in zip(self.placed, self.placed[1:], strict=False):
            lines.append(_arrow(before.right, after.x))
        if not first:
            lines.append(_arrow(4, self.placed[0].x))
        if not last:
            lines.append(_arrow(self.placed[-1].right, self.placed[-1].right + self.placed[-1].box.depth + 18))
        for placed in self.placed:
            boxes += _part_marks(placed)
            kernel = placed.part.block.kernel
            y = -placed.box.height / 2 - placed.box.depth * SKEW - 4
            if kernel:
                words.append(text("small", placed.x + (placed.box.width + placed.box.depth) / 2, y, kernel, "middle"))
            self._occupy(placed.x, placed.right + placed.box.depth, y - (9 if kernel else 0))
        for run, middle, _ in self.runs:
            y = max(placed.box.height / 2 for placed in run) + 13
            for line in _lines(shape_text(run[0].part.block.shape)):
                words.append(text("size", middle, y, line, "middle"))
                y += 11
            self.bottom = max(self.bottom, y)
        arcs = self._arcs()
        groups = self._groups()
        self.top = min(top for _, _, top in self.tops) - 4
        return [*groups, *lines, *boxes, *words, *arcs]

    def _occupy(self, left: float, right: float, top: float) -> None:
        self.tops.append((left, right, top))

    def _free(self, left: float, right: float) -> float:
        return min(top for a, b, top in self.tops if a < right and b > left)

    def _arcs(self) -> list[str]:
        """Short ones lie below long ones. Those into one part that hold no block share their line across."""
        found: list[tuple[float, float, _Placed, list[Arc]]] = []
        for placed in self.placed:
            right = placed.x + (JOIN if placed.part.join else -5)
            plain = [arc for arc in placed.part.arcs if not arc.branch]
            lines = [*([arc] for arc in placed.part.arcs if arc.branch), *([plain] if plain else [])]
            found += [(min(self._port(self.canvas.source(a)) for a in arcs), right, placed, arcs) for arcs in lines]
        found.sort(key=lambda each: each[1] - each[0])
        marks = []
        for left, right, placed, arcs in found:
            branched = any(arc.branch for arc in arcs)
            y = self._free(left, right) - (16 if branched else 10)
            for arc in arcs:
                port = self._port(self.canvas.source(arc))
                marks += _arc_marks(port, right, y, -JOIN if placed.part.join else 0, arc)
            self._occupy(left - 2, right + 2, y - (30 if branched else 3))
        return marks

    def _port(self, source: int) -> float:
        """Where arcs begin behind a part; behind the last of the row above, where this row begins."""
        if source not in self.by_number:
            return self.placed[0].x - 12
        placed = self.by_number[source]
        index = self.placed.index(placed) + 1
        grouped = index < len(self.placed) and self.placed[index].number in self.canvas.groups
        if source in self.canvas.ends and not grouped:  # outside of the frame
            return placed.right + 17
        return self.placed[index].x - 10 if grouped else _behind(placed, self.canvas.scale)

    def _groups(self) -> list[str]:
        marks = []
        for placed in self.placed:
            repeat = self.canvas.groups.get(placed.number)
            if repeat is None:
                continue
            members = [p for p in self.placed if placed.number <= p.number < placed.number + repeat.length]
            left, right = placed.x - 17, members[-1].right + members[-1].box.depth + 8
            top = self._free(left + 9, right - 9) - 8
            bottom = max(p.box.height / 2 for p in members) + 30
            marks.append(rectangle("repeat", left, top, right - left, bottom - top, radius=7))
            marks.append(text("times", right, top - 4, f"×{repeat.times}", "end"))
            self._occupy(left, right, top - 18)
            self.bottom = max(self.bottom, bottom)
        return marks


def _behind(placed: _Placed, scale: float) -> float:
    return placed.right + placed.box.depth + 7 * scale


def _lines(size: str) -> list[str]:
    """ "16×32×32" → "16×", "32×32", so that labels are narrow."""
    if size.count("×") != 2:
        return [size]
    channels, _, sides = size.partition("×")
    return [f"{channels}×", sides]


def _arrow(left: float, right: float) -> str:
    line = across("line", left, right, 0)
    return line + polygon("head", [(right, 0), (right - 5, -3), (right - 5, 3)]) if right - left > 9 else line


def _part_marks(placed: _Placed) -> list[str]:
    block, box = placed.part.block, placed.box
    if block.kind == "join":
        symbol = SYMBOLS.get(placed.part.join, "∘")
        middle = placed.x + JOIN
        return [circle("join", middle, 0, JOIN, block.text), text("symbol", middle, 4, symbol, "middle")]
    x, y, right = placed.x, -box.height / 2, placed.right
    d, up = box.depth, box.depth * SKEW
    side = [(right, y), (right + d, y - up), (right + d, y - up + box.height), (right, y + box.height)]
    return [
        polygon(f"{block.kind} lid", [(x, y), (x + d, y - up), (right + d, y - up), (right, y)]),
        polygon(f"{block.kind} side", side),
        rectangle(block.kind, x, y, box.width, box.height, block.text),
    ]


def _branch_words(block: Block) -> tuple[str, str]:
    return block.kernel, shape_text(block.shape)


def _branch_width(arc: Arc) -> float:
    return sum(_tag_width(block) for block in arc.branch)


def _tag_width(block: Block) -> float:
    return max(20.0, max(map(len, _branch_words(block))) * LETTER + 6)


def _arc_marks(left: float, right: float, y: float, end: float, arc: Arc) -> list[str]:
    """From the axis at `left` up to y, across, and down to `end` at `right`; the branch's blocks lie on it."""
    r = min(7.0, (right - left) / 2)
    steps = f"M{pixels(left)} 0V{pixels(y + r)}q0 {pixels(-r)} {pixels(r)} {pixels(-r)}H{pixels(right - r)}"
    steps += f"q{pixels(r)} 0 {pixels(r)} {pixels(r)}V{pixels(end)}"
    marks = [path("arc", steps), polygon("head", [(right, end), (right - 3, end - 5), (right + 3, end - 5)])]
    marks.append(circle("head", left, 0, 2))
    x = (left + right - _branch_width(arc)) / 2
    for block in arc.branch:
        width = _tag_width(block)
        middle = x + width / 2
        if block.kind == "join":
            marks.append(circle("join", middle, y, 6, block.text))
        else:
            marks.append(rectangle(block.kind, middle - 6, y - 6, 12, 12, block.text, radius=2))
        kernel, size = _branch_words(block)
        marks.append(text("small", middle, y - 9, size, "middle"))
        if kernel:
            marks.append(text("small", middle, y - 18, kernel, "middle"))
        x += width
    return marks


# ---- the page


def _page(rows: list[_Row], parts: Parts, title: str, count: str, summary: Summary) -> str:
    marks, y = [], MARGIN
    for number, row in enumerate(rows):
        drawn = row.marks(first=number == 0, last=number == len(rows) - 1)
        y -= row.top
        marks.append(f'<g transform="translate(0 {pixels(y)})">{"".join(drawn)}</g>')
        y += row.bottom + MARGIN
    notes = [f"{title}, {count}."]
    if parts.aside:
        names = ", ".join(summary.layers[i].name for i in parts.aside[:6]) + (", …" if len(parts.aside) > 6 else "")
        notes.append(f"Not drawn, as the output does not need them: {names}.")
    width = max(*(row.width for row in rows), *(len(note) * LETTER + 2 * MARGIN for note in notes), 320.0)
    legend, y = _legend(parts, width, y + 6)
    marks += legend
    for note in notes:
        y += 15
        marks.append(text("note", MARGIN, y, note))
    identifier = f"network-{hashlib.sha256(''.join(marks).encode()).hexdigest()[:8]}"
    words = f"{title}, {count}. " + "; ".join(_words(parts))
    return standing_svg(marks, width, y + MARGIN, identifier, title, words, "cnnlab-network", _style())


def _words(parts: Parts) -> list[str]:
    words = []
    repeats = {repeat.start: repeat for repeat in parts.repeats}
    skipped = 0
    for number, part in enumerate(parts.parts):
        if number < skipped:
            continue
        if number in repeats:
            repeat = repeats[number]
            words.append(f"{repeat.times} times the next {repeat.length}")
        words.append(f"{part.block.text}{''.join(f' with {b.text}' for arc in part.arcs for b in arc.branch)}")
        for repeat in parts.repeats:
            if number == repeat.start + repeat.length - 1:
                skipped = repeat.stop
    return words


def _legend(parts: Parts, width: float, y: float) -> tuple[list[str], float]:
    blocks = [b for p in parts.parts for b in (p.block, *(b for arc in p.arcs for b in arc.branch))]
    used = [kind for kind in KINDS if any(block.kind == kind for block in blocks)]
    joins = list(dict.fromkeys(part.join for part in parts.parts if part.join))
    entries = [(rectangle(kind, 0, -9, 11, 11, radius=2), KINDS[kind][1]) for kind in used]
    for join in joins:
        mark = circle("join", 5.5, -3.5, 6) + text("symbol", 5.5, 0.5, SYMBOLS.get(join, "∘"), "middle")
        entries.append((mark, MEANINGS.get(join, join)))
    marks, x = [], MARGIN
    y += 10
    for mark, words in entries:
        step = 16 + len(words) * LETTER + 14
        if x + step > width and x > MARGIN:
            x, y = MARGIN, y + 17
        marks.append(f'<g transform="translate({pixels(x)} {pixels(y)})">{mark}{text("note", 16, 0, words)}</g>')
        x += step
    return marks, y + 3


def _style() -> str:
    """Boxes have one colour on light and dark; lines and words take that of the page, or of the system."""
    rules = [
        ".cnnlab-network:root{color:#1f2328}",
        "@media(prefers-color-scheme:dark){.cnnlab-network:root{color:#e6edf3}}",
        ".cnnlab-network text{fill:currentColor;font:10px system-ui,sans-serif}",
        ".cnnlab-network .small{font-size:9px}",
        ".cnnlab-network .times{font-size:13px;font-weight:600}",
        ".cnnlab-network .symbol{font-size:12px;font-weight:600}",
        ".cnnlab-network rect,.cnnlab-network polygon{stroke:#0006;stroke-width:.6;stroke-linejoin:round}",
        ".cnnlab-network .line,.cnnlab-network .arc{stroke:currentColor;stroke-width:1.1;fill:none}",
        ".cnnlab-network .head{fill:currentColor;stroke:none}",
        ".cnnlab-network .join{fill:none;stroke:currentColor;stroke-width:1.1}",
        ".cnnlab-network .repeat{fill:currentColor;fill-opacity:.05;stroke:currentColor;stroke-dasharray:4 3}",
    ]
    for kind, (colour, _) in KINDS.items():
        rules.append(f".cnnlab-network .{kind}{{fill:{colour}}}")
        rules.append(f".cnnlab-network .{kind}.lid{{fill:{_mixed(colour, 255, 0.35)}}}")
        rules.append(f".cnnlab-network .{kind}.side{{fill:{_mixed(colour, 0, 0.2)}}}")
    return "".join(rules)


def _mixed(colour: str, other: int, share: float) -> str:
    """A colour with a share of white (255) or black (0)."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part * (1 - share) + other * share):02x}" for part in parts)
