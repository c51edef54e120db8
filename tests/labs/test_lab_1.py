"""Lab 1: its checks pass on right answers and say what is wrong with others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sources import WrongAnswer, lab

from cnnlab.labs import check, checking

LAB = lab("1")
PREFERENCE = torch.tensor([0.2, 2.0, -1.0, 1.5])  # of four filters for horizontal strokes

WRONG = [  # exercise, of the solution, what is there instead, what the hint says
    ("1.1", "return images.mean(dim=(0, 2, 3)), images.std(dim=(0, 2, 3))",
     "return images.mean(), images.std()", "one number for all"),
    ("1.1", "images.mean(dim=(0, 2, 3)),", "images.mean(dim=(2, 3)),", "of each image"),
    ("1.1", "images.mean(dim=(0, 2, 3)),", "images.mean(dim=0),", "dim=(0, 2, 3)"),
    ("1.1", "images.mean(dim=(0, 2, 3)),", "images.mean().expand(3),", "for each channel alone"),
    ("1.1", "images.std(dim", "images.var(dim", "this is the variance"),
    ("1.1", "images.std(dim=(0, 2, 3))", "images.std(dim=(2, 3)).mean(0)", "inside of each image"),
    ("1.1", "images - mean.view(1, -1, 1, 1)", "images", "the mean is not subtracted"),
    ("1.1", "/ std.view", "* std.view", "do not multiply"),
    ("1.1", " / std.view(1, -1, 1, 1)", "", "not divided"),
    ("1.1", "    return (images", "    mean, std = channel_statistics(images)\n    return (images", "that are given"),
    ("1.1", "images - mean.view(1, -1, 1, 1)",
     "images.sub_(mean.view(1, -1, 1, 1))", "are changed"),
    ("1.2", " / size**2", "", "divide by size²"),
    ("1.2", "size**2", "size", "size² pixels"),
    ("1.2", "torch.ones(size, size) / size**2", "torch.ones(1, size) / size", "must have shape"),
    ("1.2", "kernel[None, None])[0, 0]\n\n\ndef",
     "kernel[None, None], padding=size // 2)[0, 0]\n\n\ndef", "as large as"),
    ("1.2", " > threshold", "", "this is the strength"),
    ("1.2", "> threshold", "< threshold", "swapped"),
    ("1.2", "right**2 + down**2", "right**2", "changes to the right"),
    ("1.2", "right**2 + down**2", "down**2", "changes downwards"),
    ("1.2", ".sqrt()", "", "a root"),
    ("1.2", "(right**2 + down**2).sqrt()", "(right.abs() + down.abs())", "slanted"),
    ("1.2", "(right**2 + down**2).sqrt()", "(right + down)", "cancel"),
    ("1.2", "[-2, 0, 2]", "[-1, 0, 1]", "counts twice"),
    ("1.3", "x[:, rows][:, :, columns]", "x[:, :height, :width]", "upper left"),
    ("1.3", "return x", "return F.interpolate(x[None], (height, width), mode='bilinear', align_corners=True)[0]\n    x",
     "align_corners"),
    ("1.3", "x[:, rows][:, :, columns]", "x[:, rows][:, :, columns].transpose(1, 2)", "swapped"),
    ("1.3", "x.shape[2] // width", "x.shape[1] // height", "each axis has its own"),
    ("1.3", "rows = ", "rows = x.shape[1] - 1 - ", "upside down"),
    ("1.3", "x[:, rows][:, :, columns]", "x[:, rows][:, :, columns] / 2", "row i of the result"),
    ("1.4", ".clamp(0, 1)", "", "clamp(0, 1)"),
    ("1.4", "(weights * x).sum(dim=0, keepdim=True)", "x.mean(dim=0, keepdim=True)", "plain mean"),
    ("1.4", "(grey + factor * (x - grey))", "(factor * x)", "the brightness"),
    ("1.4", "(grey + factor * (x - grey))", "(x + factor * (grey - x))", "other way round"),
    ("1.4", "(grey + factor * (x - grey))", "(factor * (x - grey))", "add the grey again"),
    ("1.4", "(grey + factor * (x - grey))", "grey", "one channel"),
    ("1.4", "(grey + factor * (x - grey))", "x", "as before"),
    ("1.5", "2 * padding + 1", "2 * padding", "leaves out its upper end"),
    ("1.5", "torch.rand(()) < 0.5", "False", "never mirrored"),
    ("1.5", "torch.rand(()) < 0.5", "True", "always mirrored"),
    ("1.5", "< 0.5", "< 0.1", "half should be"),
    ("1.5", "crop.flip(2)", "crop.flip(1)", "upside down"),
    ("1.5", "    crop =", "    top = left = 1\n    crop =", "same place"),
    ("1.5", "    crop =", "    top = 1\n    crop =", "one axis"),
    ("1.5", "    crop =", "    top = left\n    crop =", "always equal"),
    ("1.5", "F.pad(x, (padding, padding, padding, padding))",
     "F.pad(x[None], (padding, padding, padding, padding), mode='reflect')[0]", "fill it with 0"),
    ("1.5", "crop = padded[:, top : top + height, left : left + width]", "crop = padded", "as the padded image"),
    ("1.6", '"digits": [', '"digits": ["mirror", ', "still a 2"),
    ("1.6", '"digits": [', '"digits": ["half turn", ', "becomes a 9"),
    ("1.6", '"photographs": ["mirror", ', '"photographs": [', "still a cat"),
    ("1.6", '"photographs": [', '"photographs": ["crop to one corner", ', "without the object"),
    ("1.6", '"digits": [', '"digits": ["swirl", ', "none of the changes"),
    ("1.6", '"digits": ["shift by a pixel", ', '"digits": [', "is missing"),
    ("1.7", "(i, j) for", "(j, i) for", "swapped"),
    ("1.7", "return [",
     "return [(i, i) for i in range(len(a)) if torch.equal(a[i], b[i])]\n    [", "at the same place"),
    ("1.7", "image.numpy().tobytes()", "int(image.sum())", "at other places"),
    ("1.7", "image.numpy().tobytes()", "(image // 2).numpy().tobytes()", "in one pixel"),
    ("1.7", "image.numpy().tobytes()", "image[0].numpy().tobytes()", "first channel"),
    ("1.7", ".append(j)", "[:] = [j]", "several copies"),
    ("1.7", "(i, j) for", "i for", "a list of pairs"),
    ("1.8", "dilation * (kernel - 1) + 1", "kernel", "the dilation is forgotten"),
    ("1.8", "// stride + 1", "/ stride + 1", "the floor is missing"),
    ("1.8", " + bias)", ")", "the bias is missing"),
    ("1.8", " + bias)", " + 1)", "without a bias"),
    ("1.8", "outputs * (inputs * kernel**2 + bias)", "outputs * inputs * kernel**2 + bias", "not a single one"),
    ("1.8", "kernel**2", "kernel", "K² weights"),
    ("1.8", "inputs * kernel**2", "kernel**2", "multiply by the inputs"),
    ("1.8", "field, step = 1, 1", "field, step = 0, 1", "begin at 1"),
    ("1.8", "        step *= stride\n", "", "the strides are forgotten"),
    ("1.8", "field += (kernel - 1) * step\n        step *= stride",
     "step *= stride\n        field += (kernel - 1) * step",
     "add first"),
    ("1.8", "(kernel - 1) * step", "kernel * step", "not K"),
    ("1.8", "step *= stride", "step = stride", "multiply"),
    ("1.9", "math.log(", "-math.log(", "the sign"),
    ("1.9", "math.log(num_classes)", "1 / num_classes", "the probability"),
    ("1.9", "math.log(", "math.log2(", "base 2"),
    ("1.9", "math.log(", "math.log10(", "base 10"),
    ("1.10", ", ddof=1", "", "n - 1"),
    ("1.10", "np.std(", "np.var(", "the variance"),
    ("1.10", "float(np.std(values, ddof=1))", "float(np.std(values, ddof=1)) / len(values) ** 0.5", "standard error"),
    ("1.10", "float(np.mean(values))", "float(np.sum(values))", "the sum"),
    ("1.10", "mean_sd(table[rate])[0]", "max(table[rate])", "best single training"),
    ("1.10", "return max(", "return min(", "the lowest accuracy"),
    ("1.10", "return max(table, key=lambda rate: mean_sd(table[rate])[0])",
     "return max(mean_sd(one)[0] for one in table.values())", "return the rate"),
    ("1.11", " and train[-1] < train[lowest]", "", "both rise"),
    ("1.11", "1.1 * val", "1.01 * val", "jumps by 3 %"),
    ("1.11", "0.5 * math.log(num_classes)", "1.15", "with 3 classes"),
    ("1.11", 'return "overfits"', 'return "overfit"', "return"),
    ("1.11", "val[-1] > 1.1 * val[lowest]", "False", "validation rises while training falls"),
    ("1.12", "return (middle - half) / scale, (middle + half) / scale",
     "half = z * math.sqrt(p * (1 - p) / count)\n    return p - half, p + half", "no width"),
    ("1.12", "return (middle - half) / scale, (middle + half) / scale",
     "return (middle + half) / scale, (middle - half) / scale", "swapped"),
    ("1.12", "scale = 1 + z**2 / count", "scale = 1", "divide by"),
    ("1.12", " + z**2 / (4 * count**2)", "", "the root lacks"),
    ("1.12", "middle = p + z**2 / (2 * count)", "middle = p", "the middle lacks"),
    ("1.12", "p, z = right / count, 1.96", "p, z = right / count, 1.645", "it is 0."),
    ("1.12", "scale = 1 + z**2 / count", "scale = (1 + z**2 / count) / 100", "percent"),
    ("1.12", "half = z * math", "half = math", "z is missing"),
    ("1.13", "logits.softmax(dim=1)", "logits", "these are logits"),
    ("1.13", "topk(k, dim=1)", "topk(k, dim=1, largest=False)", "least likely"),
    ("1.13", "(classes[place], value)", "(place, value)", "classes[place]"),
    ("1.13", "(classes[place], value)", "(classes[place], 100 * value)", "percent"),
    ("1.13", "logits.softmax(dim=1).topk(k, dim=1)", "logits.softmax(dim=1).topk(1, dim=1)", "k pairs"),
    ("1.13", "logits.softmax(dim=1).topk(k, dim=1)", "logits.topk(k, dim=1)\n    values = values.softmax(1)",
     "over the k classes alone"),
    ("1.14", "moved[..., pixels:] = images[..., : images.shape[-1] - pixels]",
     "moved[..., pixels:] = images[..., :-pixels]", "size"),
    ("1.14", "return moved", "return images.roll(pixels, 3)", "comes in again"),
    ("1.14", "moved[..., pixels:] = images[..., : images.shape[-1] - pixels]",
     "moved[..., : images.shape[-1] - pixels] = images[..., pixels:]", "to the left"),
    ("1.14", "moved[..., pixels:] = images[..., : images.shape[-1] - pixels]",
     "moved[:, :, pixels:] = images[:, :, : images.shape[2] - pixels]", "move down"),
    ("1.14", "return moved", "return moved[..., pixels:]", "the width must stay"),
    ("1.14", "torch.zeros_like(images)", "images", "changed"),
    ("1.14", "    model.eval()\n", "", "training mode"),
    ("1.14", "right / count", "right", "this is a count"),
    ("1.14", "right / count", "100 * right / count", "percent"),
    ("1.14", "model(shift(images, pixels))", "model(images)", "not shifted"),
    ("1.15", "int(preference.argmax())", "2", "prefers the vertical stroke"),
    ("1.15", "int(preference.argmax())", "0", "hardly tells the strokes apart"),
    ("1.15", "int(preference.argmax())", "4", "numbered from 0 to 3"),
    ("1.15", "int(preference.argmax())", "preference", "must be a number"),
]  # fmt: skip

RIGHT = {  # another right answer to each
    "1.1": """
def channel_statistics(images):
    flat = images.transpose(0, 1).flatten(1)
    return flat.mean(1), flat.std(1, correction=0)
def normalise(images, mean, std): return images / std[:, None, None] - (mean / std)[:, None, None]""",
    "1.2": """
def blur(x, size): return x.unfold(0, size, 1).unfold(1, size, 1).mean((2, 3))
def edges(x, threshold):
    across = x[:, 2:] - x[:, :-2]
    along = x[2:] - x[:-2]
    gx = across[:-2] + 2 * across[1:-1] + across[2:]
    gy = along[:, :-2] + 2 * along[:, 1:-1] + along[:, 2:]
    return torch.hypot(gx, gy).gt(threshold).float()""",
    "1.3": "def resize(x, height, width): return F.interpolate(x[None], (height, width), mode='bilinear')[0]",
    "1.4": """
def saturate(x, factor):
    r, g, b = x
    grey = (0.299 * r + 0.587 * g + 0.114 * b).expand(3, -1, -1)
    return torch.lerp(grey, x, factor).clip(0, 1)""",
    "1.5": """
def augment(x, padding):
    if np.random.rand() < 0.5:
        x = x.flip(-1)
    top, left = np.random.randint(0, 2 * padding + 1, 2)
    return F.pad(x, [padding] * 4)[..., top : top + x.shape[1], left : left + x.shape[2]].clone()""",
    "1.6": """
KEEPS = {"photographs": ("a bit brighter", "half turn", "mirror", "shift by a pixel"),
         "digits": {"a bit brighter", "shift by a pixel"}}""",
    "1.7": """
def equal_images(a, b): return ((a[:, None] == b[None]).flatten(2).all(2)).nonzero()""",
    "1.8": """
def output_size(size, kernel, stride=1, padding=0, dilation=1):
    return len(range(-padding, size + padding - dilation * (kernel - 1), stride))
def conv_parameters(inputs, outputs, kernel, bias=True):
    return sum(p.numel() for p in nn.Conv2d(inputs, outputs, kernel, bias=bias).parameters())
def receptive_field(layers):
    size = 1
    for kernel, stride in reversed(layers): size = (size - 1) * stride + kernel
    return size""",
    "1.9": "def expected_loss(num_classes): return F.cross_entropy(torch.zeros(1, num_classes), torch.tensor([0]))",
    "1.10": """
def mean_sd(values): return torch.tensor(values).double().mean(), torch.tensor(values).double().std()
def choose_rate(table): return sorted((sum(v), r) for r, v in table.items())[-1][1]""",
    "1.11": """
def judge(history, num_classes):
    train, val = history["train_loss"], history["val_loss"]
    if train[-1] > np.log(num_classes) / 2: return "underfits"
    return "overfits" if val[-1] > 1.1 * min(val) else "fits" """,
    "1.12": """
def wilson(right, count):
    z2, wrong = 1.96**2, count - right
    half = 1.96 / (count + z2) * (right * wrong / count + z2 / 4) ** 0.5
    middle = (right + z2 / 2) / (count + z2)
    return [middle - half, middle + half]""",
    "1.13": """
def top_k(logits, classes, k):
    p = F.softmax(logits, 1)
    return [[[classes[i], p[n, i]] for i in p[n].argsort(descending=True)[:k]] for n in range(len(p))]""",
    "1.14": """
def shift(images, pixels): return F.pad(images, (pixels, 0, 0, 0))[..., : images.shape[3]]
@torch.no_grad()
def shifted_accuracy(model, loader, pixels):
    model.eval()
    return torch.cat([model(shift(x, pixels)).argmax(1) == y for x, y in loader]).float().mean()""",
    "1.15": "mine = 3",
}


@pytest.fixture(scope="module")
def solved() -> dict[str, Any]:
    return LAB.solved(preference=PREFERENCE)


@pytest.fixture(autouse=True)
def _fresh_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "_passed", set())


@pytest.mark.parametrize("number", LAB.checked)
def test_a_check_passes_on_the_teachers_answer(number: str, solved: dict[str, Any]) -> None:
    for _ in range(3):  # on inputs that are new each time
        found = check(number, eval(LAB.checked[number], solved))
        assert found.passed, found.hint


@pytest.mark.parametrize("number", RIGHT)
def test_a_check_passes_on_another_right_answer(number: str, solved: dict[str, Any]) -> None:
    found = LAB.try_answer(number, RIGHT[number], solved)
    assert found.passed, found.hint


@pytest.mark.parametrize("number", LAB.skeletons)
def test_an_untouched_cell_is_not_answered(number: str, solved: dict[str, Any]) -> None:
    LAB.try_untouched(number, solved)


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_wrong_answer_gets_its_hint(wrong: WrongAnswer, solved: dict[str, Any]) -> None:
    LAB.try_wrong(wrong, solved)


def test_every_check_has_at_least_three_wrong_answers_and_another_right_one() -> None:
    for number in LAB.checked:
        assert sum(row[0] == number for row in WRONG) >= 3, number
        assert number in RIGHT


def test_the_best_filter_passes_where_all_prefer_vertical_strokes() -> None:
    assert check("1.15", (1, torch.tensor([-3.0, -1.0]))).passed
    assert not check("1.15", (0, torch.tensor([-3.0, -1.0]))).passed


@pytest.mark.slow
def test_the_teachers_edition_runs_from_top_to_bottom(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the digits, with fewer images, epochs and rates than a reader has."""
    monkeypatch.delenv("CNNLAB_DATA", raising=False)
    monkeypatch.delenv("CNNLAB_LABS", raising=False)
    less = {
        'LIMIT = None if SET == "digits"': 'LIMIT = 300 if SET == "digits"',
        '(4 if SET == "digits" else 3)': "1",
        "(0.001, 0.03, 0.3, 1.0)": "(0.001, 0.3)",
        "40 if FULL else 15": "2",
        "source=digits, epochs=6": "source=digits, epochs=1",
    }
    assert "Lab 1: 15 of 15" in LAB.execute_solved(tmp_path, less)
