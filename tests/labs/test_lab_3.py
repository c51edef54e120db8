"""Lab 3: its checks pass on right answers and say what is wrong with others."""

# ruff: noqa: E501
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from sources import WrongAnswer, lab

from cnnlab.labs import check, checking

LAB = lab("3")

WRONG = [  # exercise, of the solution, what is there instead, what the hint says
    ("3.1", "nn.ReLU()", "nn.Identity()", "no ReLU"),
    ("3.1", "nn.Linear(sizes[-1], num_classes))", "nn.Linear(sizes[-1], num_classes), nn.ReLU())", "after the last layer"),
    ("3.1", "nn.Linear(sizes[-1], num_classes))", "nn.Linear(sizes[-1], num_classes), nn.Softmax(1))", "softmax"),
    ("3.1", "[side * side, *hidden]", "[side * side, *hidden[:-1]]", "the linear layers should be"),
    ("3.1", "return self.layers(x)", "return self.layers(x[:, :, :, 0])", "Error"),
    ("3.2", "(0, 0, 0, 0, 0, self.more)", "(0, 0, 0, 0, 0, 0)", "must have shape"),
    ("3.2", "x[:, :, :: self.stride, :: self.stride]", "F.avg_pool2d(x, self.stride, ceil_mode=True)", "not the mean"),
    ("3.2", "x[:, :, :: self.stride, :: self.stride]", "x[:, :, 1 :: self.stride, :: self.stride]", "must have shape"),
    ("3.2", "outputs - inputs", "outputs - inputs\n        self.w = nn.Linear(1, 1)", "no parameters"),
    ("3.2", "return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))",
     "x = x[:, :, :: self.stride, :: self.stride]\n        return torch.cat([x, x, x, x, x], 1)[:, : x.shape[1] + self.more]",
     "must be zeros"),
    ("3.3", "return F.relu(y if self.shortcut is None else y + self.shortcut(x))",
     "return F.relu(y) if self.shortcut is None else F.relu(y) + self.shortcut(x)", "after the addition"),
    ("3.3", "return F.relu(y if self.shortcut is None else y + self.shortcut(x))",
     "return y if self.shortcut is None else y + self.shortcut(x)", "the last ReLU is missing"),
    ("3.3", "F.relu(self.norm1(self.conv1(x)))", "self.norm1(self.conv1(x))", "between the two convolutions"),
    ("3.3", "if residual else None", "if False else None", "the shortcut is missing"),
    ("3.3", "outputs, 3, padding=1, bias=False)", "outputs, 3, padding=1)", "no bias"),
    ("3.3", "self.norm2 = nn.BatchNorm2d(outputs) if batch_norm else nn.Identity()",
     "self.norm2 = nn.BatchNorm2d(outputs)", "batch norms"),
    ("3.3", "stride) if residual", "1) if residual", "Error"),
    ("3.4", "(depth - 2) // 6", "(depth - 2) // 3", "layers with weights"),
    ("3.4", "stride if number == 0 else 1", "stride", "stride 2"),
    ("3.4", "(4 * width, 2))", "(3 * width, 2))", "the channels should be"),
    ("3.4", "stride if number == 0 else 1, residual, batch_norm", "1, residual, batch_norm", "there are 0"),
    ("3.4", "padding=1, bias=False)]", "padding=1)]", "parameters"),
    ("3.5", "a * b + 2 * b", "a * b", "batch norm behind"),
    ("3.5", "a * b + 2 * b", "a * b + b", "a scale and a shift"),
    ("3.5", "return b, c", "return b, b + c", "not C - A"),
    ("3.5", "c = n *", "c = (n - 1) *", "B - A is right"),
    ("3.5", "b = projection(w, 2 * w) +", "b = projection(w, w) +", "stages two and three alone"),
    ("3.6", "x.square().mean().sqrt()", "x.square().sum().sqrt()", "norm of the output"),
    ("3.6", "x.square().mean().sqrt()", "x.square().mean()", "the root is missing"),
    ("3.6", "x.square().mean().sqrt()", "x.std()", "subtract the mean"),
    ("3.6", "x.square().mean().sqrt()", "x.abs().mean()", "size"),
    ("3.6", "        hook.remove()", "        pass", "hooks are still there"),
    ("3.6", "rms(y.grad) for y in outputs", "rms(y.grad) for y in outputs[::-1]", "reverse"),
    ("3.6", "rms(y.grad) for y in outputs", "rms(m.weight.grad) for m in model.modules() if isinstance(m, nn.Conv2d)",
     "gradient of the weights"),
    ("3.7", "    model.zero_grad()\n", "", "zero_grad"),
    ("3.7", ".sum().item()", ".mean().item()", "the mean"),
    ("3.7", "(m.weight * m.weight.grad).sum()", "(m.weight.norm() * m.weight.grad.norm())", "product of the norms"),
    ("3.7", "(m.weight * m.weight.grad).sum()", "m.weight.grad.norm()", "norms of the gradients"),
    ("3.8", '>= shallow["val_accuracy"]', '< shallow["val_accuracy"]', "that is"),
    ("3.8", '"train_loss"] < shallow', '"train_loss"] > shallow', "that is"),
    ("3.8", '"overfitting" if', '"overfits" if', "return one of"),
    ("3.9", "model = copy.deepcopy(model)", "pass", "has changed"),
    ("3.9", "block.shortcut = None", "pass", "still added"),
    ("3.9", "block.shortcut = None", "block.shortcut = block.shortcut if isinstance(block.shortcut, nn.Identity) else None",
     "identities"),
    ("3.9", "    return model", "    return model.state_dict()", "nn.Module"),
    ("3.10", 'torch.einsum("k,khw->hw", weight[target], features)', "features.sum(0)", "count alike"),
    ("3.10", 'torch.einsum("k,khw->hw", weight[target], features)',
     'torch.einsum("k,khw->hw", weight[target], features).relu()', "cut off"),
    ("3.10", '"k,khw->hw"', '"k,khw->khw"', "still apart"),
    ("3.10", "weight[target]", "weight[0]", "first class"),
    ("3.11", "first.stride = (1, 1)", "pass", "as large as before"),
    ("3.11", "(2, 2), (2, 2)", "(2, 2), (1, 1)", "padding 2"),
    ("3.11", "for layer in others:", "for layer in []:", "half as far"),
    ("3.11", "for layer in others:", "for layer in [first, *others]:", "itself keeps dilation 1"),
    ("3.11", "stage = copy.deepcopy(stage)", "pass", "has changed"),
    ("3.12", "(true, answer), [])", "(answer, true), [])", "wrong way round"),
    ("3.12", "if true != answer:", "if True:", "in no group"),
    ("3.12", "-len(item[1])", "len(item[1])", "largest group"),
    ("3.12", "labels.tolist(), answers.tolist()", "labels, answers", "tensors"),
    ("3.13", "convolution.bias.copy_(linear.bias)", "pass", "bias"),
    ("3.13", "convolution.weight.copy_(linear.weight[:, :, None, None])", "pass", "the weights are not"),
    ("3.13", "linear.out_features, 1)", "linear.out_features, 3, padding=1)", "must be 1×1"),
    ("3.14", "max(xs) + 1, max(ys) + 1", "max(xs), max(ys)", "one past"),
    ("3.14", "min(xs), min(ys), max(xs) + 1, max(ys) + 1", "min(ys), min(xs), max(ys) + 1, max(xs) + 1", "swapped"),
    ("3.14", "(y, x + 1)}", "(y, x + 1), (y + 1, x + 1), (y - 1, x - 1), (y + 1, x - 1), (y - 1, x + 1)}", "corner"),
    ("3.14", "waiting += near", "pass", "ring"),
    ("3.14", "    return boxes", "    return [(min(a), min(b), max(c), max(d)) for a, b, c, d in [zip(*boxes)]]", "one box"),
    ("3.15", "sum(area) - wide * high", "sum(area)", "once"),
    ("3.15", "sum(area) - wide * high", "min(area)", "smaller box"),
    ("3.15", "max(0, min(a[2], b[2]) - max(a[0], b[0]))", "min(a[2], b[2]) - max(a[0], b[0])", "max(0"),
    ("3.15", " / (sum(area) - wide * high)", "", "area of the intersection"),
]  # fmt: skip

RIGHT = {  # another right answer to each
    "3.1": """
class MLP(nn.Module):
    def __init__(self, side, hidden, num_classes=10):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip([side**2, *hidden], [*hidden, num_classes]))
    def forward(self, x):
        x = x.view(len(x), -1)
        for layer in self.layers[:-1]:
            x = layer(x).clamp(min=0)
        return self.layers[-1](x)""",
    "3.2": """
class ShortcutA(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.stride, self.outputs = stride, outputs
    def forward(self, x):
        x = F.max_pool2d(x, 1, self.stride)
        y = x.new_zeros(len(x), self.outputs, *x.shape[2:])
        start = (self.outputs - x.shape[1]) // 2
        y[:, start : start + x.shape[1]] = x
        return y""",
    "3.3": """
class Block(nn.Module):
    def __init__(self, inputs, outputs, stride=1, residual=True, batch_norm=True):
        super().__init__()
        norm = nn.BatchNorm2d if batch_norm else nn.Identity
        self.f = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), norm(outputs), nn.ReLU(),
                               nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), norm(outputs))
        self.residual, self.stride, self.more = residual, stride, outputs - inputs
    def forward(self, x):
        y = self.f(x)
        if self.residual:
            short = x[..., :: self.stride, :: self.stride]
            y = y + F.pad(short, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return y.relu()""",
    "3.4": """
class make_network(nn.Module):
    def __init__(self, depth, width=8, residual=True, batch_norm=True, in_channels=1, num_classes=10):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width) if batch_norm else None
        self.blocks = nn.ModuleList()
        for k in range(3):
            for i in range((depth - 2) // 6):
                down = k > 0 and i == 0
                wide = width * 2**k
                self.blocks.append(Block(wide // 2 if down else wide, wide, 2 if down else 1, residual, batch_norm))
        self.head = nn.Linear(4 * width, num_classes)
    def forward(self, x):
        x = self.stem(x)
        x = F.relu(self.norm(x) if self.norm else x)
        for block in self.blocks: x = block(x)
        return self.head(x.mean((2, 3)))""",
    "3.5": "def added_parameters(w, n): return [10*w*w + 12*w, n*(w*w + 2*w) + (n - 1)*(20*w*w + 12*w)]",
    "3.6": """
def record(model, images, labels):
    convolutions, kept, handles = [m for m in model.modules() if isinstance(m, nn.Conv2d)], {}, []
    for m in convolutions:
        handles.append(m.register_forward_hook(lambda m, i, o: kept.__setitem__(m, o)))
    loss = nn.functional.cross_entropy(model(images), labels)
    for h in handles: h.remove()
    outputs = [kept[m] for m in convolutions]
    gradients = torch.autograd.grad(loss, outputs)
    return [[(y**2).mean()**0.5 for y in ys] for ys in (outputs, gradients)]""",
    "3.7": """
def inner_products(model, images, labels):
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    gradients = torch.autograd.grad(F.cross_entropy(model(images), labels), weights)
    return [float(w.flatten() @ g.flatten()) for w, g in zip(weights, gradients)]""",
    "3.8": """
def compare_depths(shallow, deep):
    if shallow["val_accuracy"] <= deep["val_accuracy"]: return "deeper is better"
    if deep["train_loss"] > shallow["train_loss"]: return "degradation"
    return "overfitting\"""",
    "3.9": """
def without_shortcuts(model):
    plain = cnnlab.create_model("resnet", depth=14, width=4, in_channels=1, residual=False)
    plain.load_state_dict(model.state_dict())
    return plain""",
    "3.10": "def class_activation_map(features, weight, c): return (weight[c].view(-1, 1, 1) * features).sum(dim=0)",
    "3.11": """
def finer(stage):
    layers = []
    for layer in stage:
        if isinstance(layer, nn.Conv2d):
            strided = layer.stride == (2, 2)
            one = nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1 if strided else 2, dilation=1 if strided else 2)
            one.load_state_dict(layer.state_dict())
            layer = one
        layers.append(layer)
    return nn.Sequential(*layers)""",
    "3.12": """
def group_mistakes(labels, answers):
    from collections import Counter
    pairs = Counter((int(a), int(b)) for a, b in zip(labels, answers) if a != b)
    return {pair: [i for i in range(len(labels)) if (int(labels[i]), int(answers[i])) == pair]
            for pair, _ in pairs.most_common()}""",
    "3.13": """
def to_convolution(linear):
    layer = nn.Conv2d(linear.in_features, linear.out_features, kernel_size=1)
    layer.weight = nn.Parameter(linear.weight.detach()[..., None, None])
    layer.bias = nn.Parameter(linear.bias.detach())
    return layer""",
    "3.14": """
def find_boxes(mask):
    import scipy.ndimage
    labels, _ = scipy.ndimage.label(mask)
    return [[x.start, y.start, x.stop, y.stop] for y, x in scipy.ndimage.find_objects(labels)]""",
    "3.15": """
def iou(a, b):
    import torchvision
    return torchvision.ops.box_iou(torch.tensor([a]).float(), torch.tensor([b]).float())""",
}


@pytest.fixture(scope="module")
def solved() -> dict[str, Any]:
    return LAB.solved()


@pytest.fixture(autouse=True)
def _fresh_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "_passed", set())


@pytest.mark.parametrize("number", LAB.checked)
def test_a_check_passes_on_the_teachers_answer(number: str, solved: dict[str, Any]) -> None:
    for _ in range(3):
        found = check(number, eval(LAB.checked[number], solved))
        assert found.passed, found.hint


@pytest.mark.parametrize("number", LAB.checked)
def test_a_check_passes_on_another_right_answer(number: str, solved: dict[str, Any]) -> None:
    found = LAB.try_answer(number, RIGHT[number], solved)
    assert found.passed, found.hint


@pytest.mark.parametrize("number", LAB.skeletons)
def test_an_untouched_cell_is_not_answered(number: str, solved: dict[str, Any]) -> None:
    LAB.try_untouched(number, solved)


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_wrong_answer_gets_its_hint(wrong: WrongAnswer, solved: dict[str, Any]) -> None:
    LAB.try_wrong(wrong, solved)


def test_every_check_has_at_least_three_wrong_answers() -> None:
    for number in LAB.checked:
        assert sum(row[0] == number for row in WRONG) >= 3, number


@pytest.mark.slow
def test_the_teachers_edition_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the digits, with fewer images, epochs and layers than a reader has."""
    monkeypatch.delenv("CNNLAB_DATA", raising=False)
    monkeypatch.delenv("CNNLAB_LABS", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    less = {
        "2400 if FULL else 800": "200",
        "8 if FULL else 4": "1",
        "else (8, 44)": "else (8, 14)",
        "DEPTHS = (8, 20, 44, 110)": "DEPTHS = (8, 20)",
        "None if FULL else 600": "300",
        "8 if FULL else 5": "4",
    }
    assert "Lab 3: 15 of 15" in LAB.execute_solved(tmp_path, less)
