"""Change every file that a stranger can hand over, and give it to the command that reads it.

    uv run --group dev python benchmarks/hostile.py [COUNT] [KIND ...]  COUNT changed files of each kind: 200
    uv run --group dev python benchmarks/hostile.py --again KIND NUMBER  one of them once more

Held: the command answers, or it ends with exit code 2 and one line. Not held: any other exception, a crash, more than
LONGEST seconds or MOST bytes, anything written outside the folder, a process or a connection begun, a control
character or a secret of the environment printed, markup of the file's in a report. Every input is drawn from its kind
and its number. The compiler is off.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

LONGEST, MOST = 20.0, 1 << 30  # seconds and further resident bytes for one input
SECRET = "hunter2-of-the-environment"
MARKUP = "<script>alert(1)</script>"
UNCHANGED = -1
CANARY = "run-by-a-file"  # what a payload would make

VICTIM = f"name: {SECRET}\n"  # what lies beside the folder, and is neither shown nor changed

Draw = np.random.Generator
Tree = Any


# ---- changes of bytes


def change_bytes(content: bytes, draw: Draw) -> bytes:
    """One to four changes of the kinds that break parsers."""
    for _ in range(int(draw.integers(1, 5))):
        at = int(draw.integers(0, len(content) + 1))
        size = int(draw.choice([1, 2, 4, 8, 64, 1000]))
        match int(draw.integers(0, 8)):
            case 0:
                content = content[:at]
            case 1:
                content = content[:at] + bytes(draw.integers(0, 256, size, dtype=np.uint8)) + content[at + size :]
            case 2:
                content = content[:at] + content[at + size :]
            case 3:
                content = content[:at] + content[at : at + size] * int(draw.integers(2, 20)) + content[at:]
            case 4:  # a length that lies
                large = int(draw.choice([0xFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x7FFF_FFFF_FFFF_FFFF]))
                content = content[:at] + struct.pack("<Q", large) + content[at + 8 :]
            case 5:
                content = content[:at] + b"\0" * size + content[at + size :]
            case 6 if content:
                at %= len(content)
                content = content[:at] + bytes([content[at] ^ (1 << int(draw.integers(0, 8)))]) + content[at + 1 :]
            case _:  # the tail that a lost write leaves
                content = content[:at] + b"\0" * (len(content) - at)
    return content


# ---- changes of values

VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2**31, 2**63, -(10**30), 0.5, 1e308, float("nan"), float("inf"), "", " ", "0", "nan",
    "x" * 100_000,
    "../../../../etc/passwd", "/etc/passwd", "\0", "\x1b]0;title\x07\x1b[2J", MARKUP, "os:system", "subprocess:Popen",
    "${oc.env:SECRET}", "${a}", "${oc.env:SECRET", "\u202eevil\u2066", "é" * 50, [], {}, [[]], [None] * 1000, [1e400],
    {"": {"": ""}},
]  # fmt: skip


def deep(levels: int) -> Tree:
    tree: Tree = []
    for _ in range(levels):
        tree = [tree]
    return tree


def places(tree: Tree, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is a value: the keys that lead to it. Of a long list, the ends."""
    yield at
    children: Any = ()
    if isinstance(tree, dict):
        children = tree.items()
    elif isinstance(tree, list):
        children = [(i, tree[i]) for i in {0, 1, len(tree) - 1} if 0 <= i < len(tree)]
    for key, child in children:
        yield from places(child, (*at, key))


def change_tree(tree: Tree, draw: Draw) -> Tree:
    """One to three values exchanged, left out, doubled or put beside what is there."""
    tree = json.loads(json.dumps(tree))
    for _ in range(int(draw.integers(1, 4))):
        all_ = list(places(tree))
        place = all_[int(draw.integers(0, len(all_)))]
        value = VALUES[int(draw.integers(0, len(VALUES)))] if draw.random() < 0.95 else deep(400)
        if not place:
            tree = value if draw.random() < 0.2 else tree
            continue
        holder = tree
        for key in place[:-1]:
            holder = holder[key]
        key = place[-1]
        old = holder[key]
        match int(draw.integers(0, 6)):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[str(value)[:50]] = old
            case 2 if isinstance(old, int | float) and not isinstance(old, bool):
                holder[key] = old * float(draw.choice([-1, 0, 2, 1e3, 1e9]))
                holder[key] = int(holder[key]) if isinstance(old, int) else holder[key]
            case 3 if isinstance(old, list):
                holder[key] = old * int(draw.choice([2, 100])) if len(old) < 1000 else old[: len(old) // 2]
            case 4 if isinstance(old, str):
                holder[key] = str(value)[:1000] + old
            case _:
                holder[key] = value
    return tree


def as_json(content: bytes, draw: Draw) -> bytes:
    if draw.random() < 0.3:
        return change_bytes(content, draw)
    return json.dumps(change_tree(json.loads(content), draw)).encode()


def as_lines(content: bytes, draw: Draw) -> bytes:
    if draw.random() < 0.3:
        return change_bytes(content, draw)
    rows = [json.loads(line) for line in content.splitlines()]
    changed = change_tree(rows, draw)
    return "".join(json.dumps(row) + "\n" for row in (changed if isinstance(changed, list) else [changed])).encode()


def as_yaml(content: bytes, draw: Draw) -> bytes:
    if draw.random() < 0.3:
        return change_bytes(content, draw)
    tree = change_tree(yaml.safe_load(content), draw)
    try:
        return yaml.safe_dump(tree, allow_unicode=True).encode()
    except RecursionError:
        return json.dumps(tree).encode()  # which is YAML, too


def as_weights(content: bytes, draw: Draw) -> bytes:
    """safetensors: eight bytes of length, a JSON header, the numbers; cnnlab's card is a string in the header."""
    if draw.random() < 0.3:
        return change_bytes(content, draw)
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    if draw.random() < 0.7:
        card = change_tree(json.loads(header["__metadata__"]["cnnlab"]), draw)
        header["__metadata__"]["cnnlab"] = json.dumps(card)
    else:
        header = change_tree(header, draw)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def as_archive(content: bytes, draw: Draw) -> bytes:
    """A zip (state.pt, index.npz, model.pt2): the file as it is, or one of its members, changed."""
    if draw.random() < 0.4:
        return change_bytes(content, draw)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        chosen = names[int(draw.integers(0, len(names)))]
        for name in names:
            member = old.read(name)
            if name == chosen and draw.random() < 0.1:
                name = "../" * 5 + name
            elif name == chosen:
                member = change_bytes(member, draw)
            new.writestr(name, member)
    return out.getvalue()


def of_size(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (width, height), 99).save(stream, "PNG")
    return stream.getvalue()


def another_size(content: bytes, draw: Draw) -> bytes:
    """A whole image; half of them are squares, whose sides fit the network's exactly but for rounding."""
    width, height = (int(side) for side in draw.integers(1, 1000, 2))
    return of_size(width, width if draw.random() < 0.5 else height)


# ---- attacks by hand


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {CANARY}",)


def state_attacks() -> list[bytes]:
    import torch

    attacks = [pickle.dumps(Payload()), pickle.dumps({"model": Payload()})]
    for content in (Payload(), {"model": {}, "epoch": Payload()}):
        stream = io.BytesIO()
        torch.save(content, stream)
        attacks.append(stream.getvalue())
    return attacks


def yaml_attacks(content: bytes) -> list[bytes]:
    run = f"!!python/object/apply:os.system ['touch {CANARY}']"
    head = b"seed: ${oc.env:SECRET}\n"
    lines = content.decode().splitlines()
    return [
        run.encode(),
        content + f"\nevil: {run}\n".encode(),
        head + content,
        content.replace(b"name:", b"name: ${oc.env:SECRET} #", 1),
        "\n".join("  name: os:system" if "name: resnet" in line else line for line in lines).encode(),
        b"&a [*a, *a]",
        b"a0: &a0 [x]\n"
        + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 12)),
        b"[" * 100_000,
        b"",
    ]


def study_attacks(content: bytes) -> list[bytes]:
    """And overrides whose values lie elsewhere: a refusal must not print what they would have become."""
    keys = ("data.fit", "data.root", "trainer.loss", "model.width", "run.dir", "init.map")
    words = [f"[data=digits, 'model=resnet', '{key}=${{oc.env:SECRET}}']" for key in keys]
    words += ["[data=digits, ~model.depth=8]", "[data=digits, +seed=3]", "[data=digits, data.root=]"]
    study = yaml.safe_load(content)
    drawn_in = [yaml.safe_dump(study | {"overrides": yaml.safe_load(one)}).encode() for one in words]
    return drawn_in + yaml_attacks(content)


def weight_attacks(content: bytes) -> list[bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    header, numbers = json.loads(content[8 : 8 + length]), content[8 + length :]

    def with_card(change: Callable[[dict[str, Any]], None]) -> bytes:
        card = json.loads(header["__metadata__"]["cnnlab"])
        change(card)
        text = json.dumps(header | {"__metadata__": {"cnnlab": json.dumps(card)}}).encode()
        return struct.pack("<Q", len(text)) + text + numbers

    def arguments(**values: Any) -> Callable[[dict[str, Any]], None]:
        return lambda card: card["model"]["arguments"].update(values)

    def with_numbers(value: float) -> bytes:
        """Whole, and with the digest of what it holds; one weight is `value`."""
        from safetensors.torch import load

        from cnnlab.runs.folder import RunFolder
        from cnnlab.runs.weights import save_weights

        tensors = load(content)
        last = next(name for name in reversed(tensors) if tensors[name].is_floating_point())
        tensors[last].view(-1)[0] = value
        with tempfile.TemporaryDirectory() as place:
            folder = RunFolder(Path(place))
            save_weights(folder, tensors, json.loads(header["__metadata__"]["cnnlab"]))
            return folder.weights.read_bytes()

    return [
        struct.pack("<Q", 2**63 - 1) + content[8:],
        struct.pack("<Q", 100_000_000) + b"{" * 1000,
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        with_card(lambda card: card["model"].update(name="os:system")),
        with_card(lambda card: card["model"].update(name=f"{__name__}:Payload")),
        *(with_card(arguments(**{key: value})) for key in ("width", "depth") for value in (10**5, 10**9, 2**62)),
        with_card(arguments(num_classes=10**9)),
        with_card(lambda card: card.update(classes=["\x1b[31mred\x07"] * len(card["classes"]))),
        with_card(lambda card: card.update(classes=[MARKUP] * len(card["classes"]))),
        with_card(lambda card: card["preprocess"]["layout"].update(height=2048, width=2048)),
        with_card(lambda card: card["preprocess"]["layout"].update(height=10**9, width=10**9)),
        *(with_numbers(value) for value in (float("nan"), float("inf"), 3e38)),
    ]


def onnx_attacks(content: bytes) -> list[bytes]:
    """Numbers that lie in a file elsewhere."""
    import onnx

    model = onnx.load_from_string(content)
    attacks = []
    for place in ("/etc/passwd", "../../../../../../etc/passwd", CANARY):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        tensor = changed.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", place), ("offset", "0"), ("length", "64")):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        attacks.append(changed.SerializeToString())
    return attacks


def as_state(content: bytes, draw: Draw) -> bytes:
    """A training state of the right form: one to three of its values exchanged, left out, or of another shape."""
    import torch

    state = torch.load(io.BytesIO(content), weights_only=True)
    for _ in range(int(draw.integers(1, 4))):
        holder, key = state, list(state)[int(draw.integers(0, len(state)))]
        while isinstance(holder[key], dict | list) and holder[key] and draw.random() < 0.85:
            holder = holder[key]
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            key = keys[int(draw.integers(0, len(keys)))]
        old = holder[key]
        value: Any = VALUES[int(draw.integers(0, len(VALUES)))]
        if isinstance(old, torch.Tensor) and draw.random() < 0.7:
            choices: list[Any] = [
                old[:0],
                old.reshape(-1),
                old.double(),
                old.to("meta"),
                old * float("nan"),
                old.bool(),
            ]
            choices += [old.to_sparse(), torch.zeros(1).expand(10**6, 10**6), torch.zeros(1).expand(old.shape)]
            value = choices[int(draw.integers(0, len(choices)))]
        elif isinstance(old, int | float) and not isinstance(old, bool) and draw.random() < 0.7:
            numbers = [
                -5,
                -1,
                0,
                1,
                1.5,
                old + 1,
                old - 1,
                -old,
                old * 1000,
                10**30,
                float("nan"),
                float("inf"),
                str(old),
            ]
            value = numbers[int(draw.integers(0, len(numbers)))]
        if draw.random() < 0.15:
            del holder[key]
        else:
            holder[key] = value
        if not state:
            break
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def as_graph(content: bytes, draw: Draw) -> bytes:
    """A well-formed ONNX graph: a step more, another operator, other sizes, names, ends or facts."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_from_string(content)
    graph = model.graph

    def pick(items: Any) -> Any:
        return items[int(draw.integers(0, len(items)))]

    for _ in range(int(draw.integers(1, 4))):
        side = int(draw.choice([-1, 0, 1, 3, 9, 4096, 100_000, 2**40]))
        match int(draw.integers(0, 12)):
            case 0:
                value = pick([*graph.input, *graph.output])
                dims = value.type.tensor_type.shape.dim
                if dims:
                    pick(dims).dim_value = side
            case 1:
                pick([*graph.input, *graph.output]).type.tensor_type.elem_type = int(draw.integers(0, 20))
            case 2:
                pick([*graph.input, *graph.output]).name = pick(["", "logits", "images", "other", "\x1b[2J"])
            case 3:
                graph.output.append(helper.make_tensor_value_info(pick(graph.node).output[0], TensorProto.FLOAT, None))
            case 4:
                pick(graph.node).op_type = pick(sorted(schema.name for schema in onnx.defs.get_all_schemas()))
            case 5:
                dims = pick(graph.initializer).dims
                if dims:
                    dims[int(draw.integers(0, len(dims)))] = side
            case 6:
                node = pick(graph.node)
                whole = [attribute for attribute in node.attribute if attribute.ints]
                if whole:
                    ints = pick(whole).ints
                    ints[int(draw.integers(0, len(ints)))] = side
            case 7:  # something large between the last step and the logits
                sides = helper.make_tensor("sides", TensorProto.INT64, [2], [abs(side) % 2**30, 50_000])
                graph.initializer.append(sides)
                operator = pick(["ConstantOfShape", "Expand", "Tile", "Reshape"])
                graph.node.append(helper.make_node(operator, [*(["logits"] * (operator[0] != "C")), "sides"], ["big"]))
                graph.node.append(helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0))
                graph.node.append(helper.make_node("Add", ["logits", "sum"], ["more"]))
                graph.output[0].name = "more"
            case 8:
                graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
                inner = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["x"], ["y"])]
                of = [helper.make_tensor_value_info("i", TensorProto.INT64, [])]
                of += [helper.make_tensor_value_info("go", TensorProto.BOOL, [])]
                of += [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
                out = [helper.make_tensor_value_info("on", TensorProto.BOOL, [])]
                out += [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
                body = helper.make_graph(inner, "body", of, out)
                graph.node.append(helper.make_node("Loop", ["", "yes", "logits"], ["round"], body=body))
                graph.output[0].name = "round"
            case 9:
                for entry in model.metadata_props:
                    entry.value = json.dumps(change_tree(json.loads(entry.value), draw)) if entry.value else ""
            case 10:
                nodes = list(graph.node)
                del graph.node[int(draw.integers(0, len(nodes)))]
            case _:
                node = pick(graph.node)
                if node.input:
                    node.input[int(draw.integers(0, len(node.input)))] = pick(graph.node).output[0]
        if not graph.node:
            break
    return bytes(model.SerializeToString())


def state_of_form_attacks(content: bytes) -> list[bytes]:
    """Counters that no training comes to."""
    import torch

    attacks = []
    values: list[tuple[str, Any]] = [("epoch", -5), ("batch", -3), ("step", -1), ("epoch", 1.5), ("batch", 10**9)]
    values += [("step", 2**62), ("epoch", 10**30), ("epoch", "1"), ("epoch", None)]
    for name, value in values:
        state = torch.load(io.BytesIO(content), weights_only=True)
        state["counters"][name] = value
        stream = io.BytesIO()
        torch.save(state, stream)
        attacks.append(stream.getvalue())
    return attacks


def plant(folder: Path, victim: Path, draw: Draw) -> None:
    """One to three links that lead out of a folder, or pipes, in places where something is read or written."""
    for _ in range(int(draw.integers(1, 4))):
        name = WRITTEN[int(draw.integers(0, len(WRITTEN)))]
        place = folder / name
        if any(part.is_symlink() or (part.exists() and not part.is_dir()) for part in place.parents):
            continue
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        target = [victim, victim.parent, victim.parent / "new"][int(draw.integers(0, 3))]
        match int(draw.integers(0, 4)):
            case 0:
                place.symlink_to(target)
            case 1:
                place.symlink_to(os.path.relpath(target, place.parent))
            case 2:
                os.mkfifo(place)
            case _:
                place.hardlink_to(victim)


WRITTEN = [
    *("explain", "explain/image-cam.png", "explain/image-gradcam.png", "localize", "localize/image.png"),
    *("localize/image.json", "best", "best/model.safetensors", "best/model.json", "last", "last/state.pt"),
    *("tensorboard", "wandb", "wandb.json", ".lock", ".remote.lock", ".upload", "config.yaml", "environment.json"),
    *("split.json", "init.json", "metrics.jsonl", "test.json", "predictions.csv", "report.html", "more/deep/down"),
]


def image_attacks() -> list[bytes]:
    """Small files of many pixels, files that are two things, and names of formats that nobody asked for."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    def png(width: int, height: int, data: bytes) -> bytes:
        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")

    black = zlib.compress(bytes(1 << 20))
    bombs = [png(side, side, black) for side in (9_000, 50_000, 2**31 - 1)]
    comment = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    comment += chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000))) + chunk(b"IEND", b"")
    texts = [
        b"",
        b"\0",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7\n",
        b"%!PS\n(x) run",
        b"GIF89a",
        b"\xff\xd8\xff",
    ]
    return [*bombs, comment, large_16_bit(), *texts, pickle.dumps(Payload()), b"PK\3\4" + bytes(100)]


def large_16_bit() -> bytes:
    """A whole PNG of 100 KB: 49 million grey pixels of 16 bits."""
    side, packer = 7000, zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + 2 * side)) for _ in range(side)) + packer.flush()
    content = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0)
    for kind, body in ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")):
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return content


def size_attacks() -> list[bytes]:
    """Sizes for which 28·(side/28) is more than the side, and the thinnest."""
    sizes = [(29, 29), (58, 61), (232, 116), (225, 900), (1, 1), (1, 60_000), (60_000, 1), (7001, 7001)]
    return [of_size(*size) for size in sizes]


def images() -> Iterator[tuple[str, bytes]]:
    """A small image in every format that is read, and the odd modes."""
    numbers = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (24, 32, 4), dtype=np.uint8)
    colour = Image.fromarray(numbers[:, :, :3])
    modes = {"RGB": colour, "L": colour.convert("L"), "P": colour.quantize(16), "RGBA": Image.fromarray(numbers)}
    modes |= {"CMYK": colour.convert("CMYK"), "I;16": Image.fromarray(numbers[:, :, 0].astype(np.uint16) * 256)}
    exif = Image.Exif()
    exif[0x0112] = 6
    for format_, kinds in {
        "JPEG": ("RGB", "L", "CMYK"), "PNG": ("RGB", "L", "P", "RGBA", "I;16"), "GIF": ("P",), "WEBP": ("RGB", "RGBA"),
        "BMP": ("RGB", "P"), "TIFF": ("RGB", "CMYK", "I;16"), "PPM": ("RGB", "L"),
    }.items():  # fmt: skip
        for kind in kinds:
            stream = io.BytesIO()
            more = {"exif": exif} if format_ in ("JPEG", "WEBP") else {}
            modes[kind].save(stream, format_, **more)  # type: ignore[arg-type]
            yield f"{kind}.{format_.lower()}".replace(";", ""), stream.getvalue()
    stream = io.BytesIO()
    modes["P"].save(stream, "GIF", save_all=True, append_images=[modes["P"].rotate(90)] * 3)
    yield "animated.gif", stream.getvalue()


# ---- what is read by what


@dataclass(frozen=True)
class Kind:
    """A file below the folder `folder` of the prepared ones, how to change it, and the command that reads it."""

    folder: str
    file: str
    change: Callable[[bytes, Draw], bytes]
    words: tuple[str, ...]
    attacks: Callable[[bytes], list[bytes]] = lambda content: []
    links: bool = False  # links and pipes are put into the folder instead


KINDS = {
    "best/model.safetensors": Kind(
        "run", "best/model.safetensors", as_weights, ("predict", "run", "image.png"), weight_attacks
    ),
    "best/model.safetensors, explained": Kind(
        "run", "best/model.safetensors", as_weights, ("explain", "run", "image.png", "--out", "out"), weight_attacks
    ),
    "config.yaml": Kind("run", "config.yaml", as_yaml, ("test", "run"), yaml_attacks),
    "config.yaml, resumed": Kind("stopped", "config.yaml", as_yaml, ("resume", "stopped"), yaml_attacks),
    "split.json": Kind("stopped", "split.json", as_json, ("resume", "stopped")),
    "environment.json": Kind("stopped", "environment.json", as_json, ("resume", "stopped")),
    "metrics.jsonl": Kind("run", "metrics.jsonl", as_lines, ("compare", "run", "again", "--out", "out.svg")),
    "metrics.jsonl, resumed": Kind("stopped", "metrics.jsonl", as_lines, ("resume", "stopped")),
    "test.json": Kind("run", "test.json", as_json, ("compare", "run", "again", "--out", "out.svg")),
    "best/model.json": Kind("run", "best/model.json", as_json, ("compare", "run", "again", "--out", "out.svg")),
    "best/objects.json": Kind("run", "best/objects.json", as_json, ("localize", "run", "image.png")),
    **{
        f"links, {words[0]}": Kind(words[1], "config.yaml", change_bytes, words, links=True)
        for words in (
            ("explain", "run", "image.png"),
            ("localize", "run", "image.png"),
            ("test", "run"),
            ("resume", "stopped"),
        )
    },
    "last/state.pt, of the right form": Kind(
        "stopped", "last/state.pt", as_state, ("resume", "stopped"), state_of_form_attacks
    ),
    "export, of the right form": Kind("export", "model.onnx", as_graph, ("predict", "export", "image.png")),
    "last/state.pt": Kind("stopped", "last/state.pt", as_archive, ("resume", "stopped"), lambda _: state_attacks()),
    "store, index": Kind("cache", "store/*/index.npz", as_archive, ("test", "folder")),
    "store, pixels": Kind("cache", "store/*/pixels.u8", change_bytes, ("test", "folder")),
    "export, model.onnx": Kind("export", "model.onnx", change_bytes, ("predict", "export", "image.png"), onnx_attacks),
    "study file": Kind("study", "mine.yaml", as_yaml, ("study", "study/mine.yaml", "--dry-run"), study_attacks),
    **{
        f"image, {name}": Kind("image", name, change_bytes, ("predict", "run", f"image/{name}")) for name, _ in images()
    },
    "image, by hand": Kind(
        "image", "RGB.png", change_bytes, ("predict", "run", "image/RGB.png"), lambda _: image_attacks()
    ),
    "image, of any size": Kind(
        "image", "RGB.png", another_size, ("predict", "folder", "image/RGB.png"), lambda _: size_attacks()
    ),
}


def prepare(work: Path) -> None:
    """The whole files: a finished run, one that was stopped, one on a folder of images, its store, an export."""
    from cnnlab.cli import main as cnnlab

    environment = os.environ | {"CNNLAB_CACHE": str(work / "cache")}

    def command(*words: str) -> None:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.chdir(work):
            code = cnnlab(list(words))
        if code != 0:
            raise RuntimeError(said.getvalue())

    settings = [
        "model=resnet",
        "model.depth=8",
        "model.width=4",
        "trainer.batch_size=25",
        "logger=none",
        "trainer.threads=1",
    ]
    small = ["data.limit=100", "trainer.checkpoint_minutes=0"]
    os.environ["CNNLAB_CACHE"] = environment["CNNLAB_CACHE"]
    command("train", *settings, "data.limit=100", "trainer.epochs=2", "run.dir=run")
    words = [sys.executable, "-m", "cnnlab", "train", *settings, *small, "trainer.epochs=60", "run.dir=stopped"]
    with subprocess.Popen(
        words, cwd=work, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while not (work / "stopped" / "metrics.jsonl").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
    epochs = len((work / "stopped" / "metrics.jsonl").read_text().splitlines())
    config = (work / "stopped" / "config.yaml").read_text()
    assert epochs < 59 and "epochs: 60" in config
    (work / "stopped" / "config.yaml").write_text(config.replace("epochs: 60", f"epochs: {epochs + 1}"))
    numbers = np.random.Generator(np.random.PCG64(1))
    for split in ("train", "test"):
        for label in ("dark", "light"):
            folder = work / "images" / split / label
            folder.mkdir(parents=True)
            for i in range(12):
                low = 0 if label == "dark" else 128
                pixels = numbers.integers(low, low + 128, (10, 10), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    command(
        "train",
        *settings,
        "data=folder",
        "data.root=images",
        "data.image_size=28",
        "trainer.epochs=1",
        "run.dir=folder",
    )
    command("export", "run", "--out", "export")
    shutil.copytree(work / "run", work / "again")
    for run in ("run", "stopped", "folder", "again"):
        for name in ("report.html", "predictions.csv"):
            (work / run / name).unlink(missing_ok=True)
    (work / "study").mkdir()
    axes = {"model.depth": [8, 14], "model.residual": {"with": True, "without": False}}
    study = {"title": "Mine", "about": "Words.", "overrides": ["data=digits", "model=resnet"], "axes": axes, "seeds": 2}
    study |= {"label": "{model.depth}", "columns": ["test_accuracy"], "table": ["model.depth", "model.residual"]}
    (work / "study" / "mine.yaml").write_text(yaml.safe_dump(study))
    (work / "image").mkdir()
    for name, content in images():
        (work / "image" / name).write_bytes(content)
    shutil.copy(work / "image" / "L.png", work / "image.png")


# ---- one input


def input_of(kind: Kind, name: str, number: int, content: bytes) -> bytes:
    """The attacks by hand come first."""
    attacks = kind.attacks(content)
    if number < len(attacks):
        return attacks[number]
    return kind.change(content, np.random.Generator(np.random.PCG64([zlib.crc32(name.encode()), number])))


def spoil(kind: Kind, name: str, number: int, place: Path, victim: Path) -> None:
    """Put input `number` in its place."""
    if kind.links:
        draw = np.random.Generator(np.random.PCG64([zlib.crc32(name.encode()), number]))
        plant(place / kind.folder, victim, draw)
        return
    for file in (place / kind.folder).glob(kind.file):
        file.write_bytes(input_of(kind, name, number, file.read_bytes()))


def unharmed(victim: Path) -> bool:
    """Whether what lies beside the folder is as it was."""
    return list(victim.parent.iterdir()) == [victim] and victim.read_text() == VICTIM


def wrongs(code: object, said: str, complaint: str, place: Path) -> str:
    """What did not hold; "" if all did."""
    if isinstance(code, BaseException):
        where = traceback.extract_tb(code.__traceback__)[-1]
        return f"{type(code).__name__}: {str(code)[:100]} ({Path(where.filename).name}:{where.lineno})"
    lines = complaint.splitlines()
    if code == 2 and len(lines) != 1:
        return f"{len(lines)} lines of complaint: {complaint[:200]!r}"
    if code not in (0, 2):
        return f"exit code {code}: {complaint[:200]!r}"
    if any((ord(c) < 32 and c not in "\n\t\r") or 127 <= ord(c) < 160 for c in said + complaint):
        return f"control characters are printed: {(complaint or said)[:200]!r}"
    if SECRET in said + complaint:
        return "a variable of the environment is printed"
    if (place / CANARY).exists():
        return "a payload was run"
    for file in place.rglob("*"):
        if file.suffix in (".html", ".svg", ".json", ".yaml", ".csv") and file.is_file() and not file.is_symlink():
            if file.stat().st_nlink > 1:  # the victim's own second name
                continue
            text = file.read_text(errors="replace")
            if MARKUP in text and file.suffix in (".html", ".svg"):
                return f"markup is written into {file.name} as it came"
            if SECRET in text:
                return f"a variable of the environment is written into {file.name}"
    return ""


def watch(events: list[str], place: list[Path]) -> None:
    """Note every process or connection that begins, and every file that is opened for writing elsewhere."""
    begun = {
        "os.system",
        "subprocess.Popen",
        "os.exec",
        "os.posix_spawn",
        "os.spawn",
        "os.fork",
        "pty.spawn",
        "socket.connect",
    }

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in begun:
            events.append(f"{event} {str(arguments)[:100]}")
        elif event == "open" and isinstance(arguments[0], str) and isinstance(arguments[2], int):
            file = os.path.abspath(arguments[0])
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if writes and not file.startswith((str(place[0]), os.devnull)):
                events.append(f"{file} written")

    sys.dont_write_bytecode = True
    sys.addaudithook(hook)


def work_through(names: list[str], next_: int, count: int, work: Path) -> None:
    """In a process of its own: a line of JSON before each input and after it. The first kind begins at `next_`."""
    from cnnlab.cli import main as cnnlab

    events: list[str] = []
    place, watching = [work], False
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print past Python
    os.environ["SECRET"] = SECRET
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # a compiler writes where it likes; a file may ask for one
    jobs = [(name, number) for name in names for number in range(UNCHANGED, count)]
    whole: set[tuple[str, ...]] = set()  # commands that have answered for the files as they are
    for name, number in [job for job in jobs if job[0] != names[0] or job[1] == UNCHANGED or job[1] >= next_]:
        kind = KINDS[name]
        if number == UNCHANGED and kind.words in whole:
            continue
        whole.add(kind.words)
        place[0] = Path(tempfile.mkdtemp(prefix="input-", dir=work))
        for folder in ("run", "again", "stopped", "folder", "export", "study", "cache", "image", "images"):
            if folder in (kind.folder, "images") or folder in kind.words:
                shutil.copytree(work / folder, place[0] / folder)
        shutil.copy(work / "image.png", place[0])
        shutil.rmtree(work / "victims", ignore_errors=True)
        (work / "victims").mkdir()
        victim = work / "victims" / "victim"
        victim.write_text(VICTIM)
        os.environ["CNNLAB_CACHE"] = str(place[0] / "cache" if kind.folder == "cache" else work / "cache")
        os.chdir(place[0])
        if number != UNCHANGED:
            if not watching:
                watch(events, place)  # what the libraries do when they are first asked for is done
                watching = True
            spoil(kind, name, number, place[0], victim)
            print(json.dumps({"kind": name, "number": number}), file=answers)
        events.clear()
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        out, error = io.StringIO(), io.StringIO()
        code: object
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
                code = cnnlab(list(kind.words))
        except BaseException as caught:  # that is what is looked for
            code = caught
        took = time.monotonic() - began
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        wrong = wrongs(code, out.getvalue(), error.getvalue(), place[0])
        if number == UNCHANGED:
            if code != 0 or wrong:
                raise RuntimeError(f"the whole file of {name!r} does not hold: {wrong} {error.getvalue()}")
        else:
            wrong = wrong or ("" if unharmed(victim) else "a file elsewhere is changed")
            wrong = wrong or (f"{more / 1e9:.1f} GB more" if more > MOST else "") or "".join(events[:1])
            row = {"kind": name, "done": number, "code": code if code in (0, 2) else -1, "wrong": wrong, "took": took}
            print(json.dumps(row), file=answers)
        os.chdir(work)
        shutil.rmtree(place[0])


@dataclass
class Tally:
    refused: int = 0
    answered: int = 0
    broken: int = 0
    slowest: float = 0.0

    def row(self, name: str) -> str:
        total = self.refused + self.answered + self.broken
        return f"| {name} | {total} | {self.refused} | {self.answered} | {self.broken} | {self.slowest:.1f} |"


def campaign(names: list[str], count: int, work: Path) -> list[str]:
    """All inputs of all kinds, a row of the table for each kind; gives what did not hold. A process that dies or hangs
    is replaced, and its input counts as broken."""
    tallies = {name: Tally() for name in names}
    broken: list[str] = []
    left, next_ = list(names), 0

    def did_not_hold(name: str, number: int, why: str) -> None:
        tallies[name].broken += 1
        broken.append(f"{name} {number}: {why}")
        print(broken[-1], file=sys.stderr, flush=True)

    while left:
        words = [sys.executable, __file__, "--work", json.dumps(left), str(next_), str(count), str(work)]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            running: tuple[str, int] | None = None
            text, piece = b"", b" "
            while piece:
                ready, _, _ = select.select([process.stdout], [], [], LONGEST if running else 60.0)
                piece = process.stdout.read() if ready else b""
                *lines, text = (text + piece).split(b"\n")
                for row in map(json.loads, lines):
                    name = row["kind"]
                    while left[0] != name:
                        print(tallies[left.pop(0)].row(names[len(names) - len(left) - 1]), flush=True)
                    if "number" in row:
                        running = name, row["number"]
                        continue
                    running, next_ = None, row["done"] + 1
                    tallies[name].slowest = max(tallies[name].slowest, row["took"])
                    if row["wrong"]:
                        did_not_hold(name, row["done"], row["wrong"])
                    else:
                        tallies[name].refused += row["code"] == 2
                        tallies[name].answered += row["code"] == 0
            hung = not ready
            process.kill()
        if running:
            did_not_hold(*running, "no answer in time" if hung else f"the process ended ({process.returncode})")
            next_ = running[1] + 1
        elif len(left) > 1 or next_ < count:
            raise RuntimeError(f"the inputs for {left[0]!r} could not be tried")
        if next_ >= count:
            print(tallies[left[0]].row(left[0]), flush=True)
            del left[0]
            next_ = 0
    return broken


def again(name: str, number: int) -> None:
    """One input, with all that the command says."""
    with tempfile.TemporaryDirectory(prefix="cnnlab-hostile-") as folder:
        work = Path(folder)
        prepare(work)
        kind = KINDS[name]
        (work / "victims").mkdir()
        (work / "victims" / "victim").write_text(VICTIM)
        spoil(kind, name, number, work, work / "victims" / "victim")
        for file in [] if kind.links else (work / kind.folder).glob(kind.file):
            print(f"{file.name}: {file.read_bytes()[:2000]!r}\n{' '.join(kind.words)}")
        environment = os.environ | {"CNNLAB_CACHE": str(work / "cache"), "SECRET": SECRET}
        subprocess.run([sys.executable, "-m", "cnnlab", *kind.words], cwd=work, env=environment, check=False)


def main() -> int:
    words = sys.argv[1:]
    if words[:1] == ["--work"]:
        work_through(json.loads(words[1]), int(words[2]), int(words[3]), Path(words[4]))
        return 0
    if words[:1] == ["--again"]:
        again(words[1], int(words[2]))
        return 0
    count = int(words.pop(0)) if words and words[0].isdigit() else 200
    names = [name for name in KINDS if not words or any(name.startswith(word) for word in words)]
    with tempfile.TemporaryDirectory(prefix="cnnlab-hostile-") as folder:
        prepare(Path(folder))
        print("| file | inputs | refused in one line | answered | broken | slowest, s |\n|---|---|---|---|---|---|")
        broken = campaign(names, count, Path(folder))
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
