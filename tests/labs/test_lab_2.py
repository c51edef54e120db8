"""Lab 2: its checks pass on right answers and say what is wrong with others."""
# ruff: noqa: E501

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from sources import WrongAnswer, lab

from cnnlab.labs import check, checking

LAB = lab("2")

WRONG = [  # exercise, of the solution, what is there instead, what the hint says
    ("2.1", "inputs if i == 0 else outputs", "inputs", "Error"),
    ("2.1", "activation()", "activation", "not a Module subclass"),
    ("2.1", "activation()", "nn.ReLU()", "nn.SiLU, one for each"),
    ("2.1", "padding=kernel // 2", "padding=1", "must have shape"),
    ("2.1", "if batch_norm:", "if True:", "batch norms"),
    ("2.1", "if pool:", "if True:", "must have shape"),
    ("2.1", "bias=not batch_norm", "bias=True", "no bias"),
    ("2.1", "    if pool:\n        layers.append(nn.MaxPool2d(2))", "    if pool:\n        layers.insert(0, nn.MaxPool2d(2))", "the pool last"),
    ("2.1", "range(convs)", "range(2)", "convolutions, it has"),
    ("2.2", "outputs, 3, padding=1),  # the", "outputs, padding=1),  # the", "needs a kernel size"),
    ("2.2", "BatchNorm2d(outputs),  # of", "BatchNorm2d(inputs),  # of", "as many channels"),
    ("2.2", "activation(),  # an", "activation,  # an", "the activation is a class"),
    ("2.2", "Conv2d(outputs, outputs, 3", "Conv2d(inputs, outputs, 3", "it should be (8, 8)"),
    ("2.2", "            activation(),  # there was none\n", "", "Nothing stops such a network"),
    ("2.2", "self.block(16, 32)", "self.block(8, 32)", "it should be (16, 32)"),
    ("2.2", "self.block(16, 32)", "self.block(16, 32, activ=nn.SiLU)", "is called activation"),
    ("2.2", "AdaptiveAvgPool2d(1)", "AdaptiveAvgPool2d(out_size=1)", "output_size"),
    ("2.2", ".flatten(1)", "", "Error"),
    ("2.3", "F.relu(y + self.shortcut(x))", "F.relu(y) + self.shortcut(x)", "after the addition"),
    ("2.3", "F.relu(y + self.shortcut(x))", "y + self.shortcut(x)", "last ReLU is missing"),
    ("2.3", "F.relu(y + self.shortcut(x))", "F.relu(y)", "not added"),
    ("2.3", "y = F.relu(self.norm1(self.conv1(x)))", "y = self.norm1(self.conv1(x))", "between the two"),
    ("2.3", "nn.Sequential(projection, nn.BatchNorm2d(outputs))", "projection", "batch norms"),
    ("2.3", "if stride != 1 or inputs != outputs:", "if stride != 1:", "Error"),
    ("2.3", "outputs, 3, padding=1, bias=False)", "outputs, 3, padding=1)", "no bias"),
    ("2.3", "outputs, 1, stride, bias=False)", "outputs, 1, bias=False)", "Error"),
    ("2.4", "(size - 1) * stride", "size * stride", "I-1 steps"),
    ("2.4", "- 2 * padding", "- padding", "both sides"),
    ("2.4", "- 2 * padding", "+ 2 * padding", "smaller"),
    ("2.4", "dilation * (kernel - 1) + 1", "kernel", "dilation is missing"),
    ("2.4", " + output_padding", "", "output padding is missing"),
    ("2.4", "return (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1 + output_padding",
     "return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1", "not of a transposed one"),
    ("2.5", "+= copies", "= copies", "+="),
    ("2.5", '"c,cokl->okl", x[:, i, j], weight', '"c,cokl->okl", x[:, i, j], weight.flip(2, 3)', "flipped"),
    ("2.5", '"c,cokl->okl", x[:, i, j], weight', '"c,cokl->okl", x[:1, i, j], weight[:1]', "first input channel"),
    ("2.5", "return y", "return y / len(x)", "mean over the input channels"),
    ("2.5", "(height - 1) * stride + size", "height * stride", "Error"),
    ("2.6", "(Dataset)", "", "inherit"),
    ("2.6", "[self.seed, i]", "self.seed", "same photograph"),
    ("2.6", "default_rng([self.seed, i])", "default_rng()", "another one each time"),
    ("2.6", ".permute(2, 0, 1) / 255", ".permute(2, 0, 1)", "from 0 to 1"),
    ("2.6", ".permute(2, 0, 1) / 255", " / 255", "must have shape"),
    ("2.6", "255.0 * (torch.as_tensor(self.digits[i]) > 127)[..., None]", "torch.as_tensor(self.digits[i]).float()[..., None]",
     "stencil"),
    ("2.6", "(part - stencil).abs()", "torch.maximum(part, stencil)", "not white"),
    ("2.6", "(part - stencil).abs()", "(part - stencil).clamp(min=0)", "not black"),
    ("2.6", "int(self.labels[i])", "int(self.labels[0])", "the label of image"),
    ("2.6", "len(self.digits)", "10", "should be the number of digits"),
    ("2.7", "torch.cat([skip, up], dim=1)", "torch.cat([torch.zeros_like(skip), up], dim=1)", "concatenate"),
    ("2.7", "    if up.shape[2:] != skip.shape[2:]:\n        up = F.interpolate(up, skip.shape[2:])\n", "", "a side is odd"),
    ("2.7", "return self.head(x)", "return self.head(x).sigmoid()", "logits"),
    ("2.7", "return torch.cat([skip, up], dim=1)", "return skip + up", "Error"),
    ("2.7", "self.up1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)", "self.up1 = nn.Upsample(scale_factor=2)", "Error"),
    ("2.8", "return (predicted & truth).sum().item() / union if union else 1.0", "return (predicted == truth).float().mean()", "pixel accuracy"),
    ("2.8", "return (predicted & truth)", "return 2 * (predicted & truth)", "should be"),
    ("2.8", "/ union if union else 1.0", "/ truth.sum().item()", "recall"),
    ("2.8", " if union else 1.0", "", "ZeroDivisionError"),
    ("2.8", "(predicted | truth).sum().item()", "predicted.sum().item()", "precision"),
    ("2.9", ' if not name.startswith("head.")', "", "leave out"),
    ("2.9", 'startswith("head.")', 'startswith("head")', "is not that of the trained network"),
    ("2.9", "strict=False", "strict=True", "strict=False"),
    ("2.9", "if freeze and name in kept", "if freeze", "the head is frozen"),
    ("2.9", "if freeze and name in kept", "if name in kept", "everything learns"),
    ("2.9", "if freeze and name in kept", "if False", "must not learn"),
    ("2.10", "model = copy.deepcopy(model)", "pass", "has changed"),
    ("2.10", "            layer.momentum = None\n", "", "momentum = None"),
    ("2.10", "    model.train()\n", "", "training mode"),
    ("2.10", "            layer.reset_running_stats()\n", "", "reset"),
    ("2.10", "return model.eval()", "return model", "evaluation mode"),
    ("2.10", "layer.momentum = None", "layer.momentum = 1.0", "one batch alone"),
    ("2.11", ".softmax(1)[:, target]", "[:, target]", "logits"),
    ("2.11", ".softmax(1)[:, target]", ".softmax(1).amax(1)", "largest probability"),
    ("2.11", "batch[j, :, i", "batch[j, 0, i", "only the first channel"),
    ("2.11", "j : j + side] = 0", "j : j + side] = 1", "covered with 1"),
    ("2.11", "length - side + 1", "length - side", "must have shape"),
    ("2.11", "image.repeat(columns, 1, 1, 1)", "image.expand(columns, -1, -1, -1)", "has changed"),
]  # fmt: skip

RIGHT = {  # another right answer to each
    "2.1": """
class vgg_block(nn.Sequential):
    def __init__(self, convs, inputs, outputs, activation=nn.ReLU, batch_norm=True, pool=True, kernel=3):
        super().__init__()
        for i in range(convs):
            self.append(nn.Conv2d(inputs, outputs, kernel, padding="same", bias=not batch_norm))
            if batch_norm: self.append(nn.BatchNorm2d(outputs))
            self.append(activation())
            inputs = outputs
        if pool: self.append(nn.MaxPool2d(2, 2))""",
    "2.2": """
class Repaired(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        layers, a = [], 3
        for b in (8, 8, 16, 16, 32, 32):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.SiLU()]
            if a == b: layers.append(nn.MaxPool2d(2))
            a = b
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(output_size=1), nn.Flatten(), nn.Linear(32, num_classes))
    def forward(self, x): return self.layers(x)""",
    "2.3": """
class ResidualBlock(nn.Module):
    def __init__(self, a, b, stride=1):
        super().__init__()
        conv = lambda i, o, k, s: nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, bias=False), nn.BatchNorm2d(o))
        self.f = nn.Sequential(conv(a, b, 3, stride), nn.ReLU(), conv(b, b, 3, 1))
        self.p = conv(a, b, 1, stride) if (a, 1) != (b, stride) else None
    def forward(self, x): return (self.f(x) + (x if self.p is None else self.p(x))).relu()""",
    "2.4": """
def transposed_size(size, kernel, stride=1, padding=0, dilation=1, output_padding=0):
    return nn.ConvTranspose2d(1, 1, kernel, stride, padding, output_padding, dilation=dilation)(torch.zeros(1, 1, size, size)).shape[2]""",
    "2.5": """
def conv_transpose(x, weight, stride):
    c, h, w = x.shape
    spread = torch.zeros(c, (h - 1) * stride + 1, (w - 1) * stride + 1)
    spread[:, ::stride, ::stride] = x
    k = weight.shape[2]
    return F.conv2d(F.pad(spread, (k - 1,) * 4)[None], weight.flip(2, 3).transpose(0, 1))[0]""",
    "2.6": """
class MNISTM(Dataset):
    def __init__(self, digits, labels, photographs, seed=0):
        random = np.random.default_rng(seed)
        self.parts = []
        for _ in digits:
            p = photographs[random.integers(len(photographs))]
            y, x = random.integers(p.shape[0] - 27), random.integers(p.shape[1] - 27)
            self.parts.append(p[y:y + 28, x:x + 28].transpose(2, 0, 1))
        self.digits, self.labels = digits.numpy(), labels.tolist()
    def __len__(self): return len(self.labels)
    def __getitem__(self, i):
        image = np.where(self.digits[i] > 127, 255 - self.parts[i], self.parts[i])
        return torch.from_numpy(image.astype(np.float32) / 255), torch.tensor(self.labels[i])""",
    "2.7": """
class UNet(nn.Module):
    def __init__(self, in_channels=3, width=8):
        super().__init__()
        def two(a, b): return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.Conv2d(b, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())
        self.down = nn.ModuleList([two(in_channels, width), two(width, 2 * width), two(2 * width, 4 * width)])
        self.ups = nn.ModuleList([nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ConvTranspose2d(2 * width, width, 2, 2)])
        self.merge = nn.ModuleList([two(4 * width, 2 * width), two(2 * width, width)])
        self.head = nn.Conv2d(width, 1, 1)
    def forward(self, x):
        skips = []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        for skip, up, merge in zip(skips[1::-1], self.ups, self.merge):
            x = up(x)
            x = F.pad(x, (0, skip.shape[3] - x.shape[3], 0, skip.shape[2] - x.shape[2]))
            x = merge(torch.cat([x, skip], 1))
        return self.head(x)""",
    "2.8": """
def mask_iou(a, b):
    a, b = a.flatten().tolist(), b.flatten().tolist()
    either = sum(x or y for x, y in zip(a, b))
    return sum(x and y for x, y in zip(a, b)) / either if either else torch.tensor(1)""",
    "2.9": """
def transfer(model, weights, freeze=False):
    mine = model.state_dict()
    for name in mine:
        if not name.startswith("head."): mine[name].copy_(weights[name])
    if freeze:
        for name, child in model.named_children():
            if name != "head": child.requires_grad_(False)
    return model""",
    "2.10": """
@torch.no_grad()
def adapt_batch_norm(model, images):
    new = copy.deepcopy(model).train()
    norms = [m for m in new.modules() if isinstance(m, nn.BatchNorm2d)]
    for m in norms: m.momentum = None; m.reset_running_stats()
    for i in range(0, len(images), 50): new(images[i:i + 50])
    return new.train(False)""",
    "2.11": """
def occlusion_map(model, image, target, side):
    c, h, w = image.shape
    result = []
    for i in range(h - side + 1):
        row = []
        for j in range(w - side + 1):
            mask = torch.ones(h, w); mask[i:i + side, j:j + side] = 0
            row.append(model((image * mask)[None]).softmax(1)[0, target].detach())
        result.append(torch.stack(row))
    return torch.stack(result)""",
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


@pytest.mark.parametrize("number", [number for number in LAB.skeletons if number != "2.2"])
def test_an_untouched_cell_is_not_answered(number: str, solved: dict[str, Any]) -> None:
    LAB.try_untouched(number, solved)


def test_the_broken_network_gets_the_first_of_its_mistakes_named(solved: dict[str, Any]) -> None:
    found = LAB.try_answer("2.2", LAB.skeletons["2.2"], solved)
    assert not found.passed
    assert found.hint.startswith("nn.Conv2d needs a kernel size.")


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_wrong_answer_gets_its_hint(wrong: WrongAnswer, solved: dict[str, Any]) -> None:
    LAB.try_wrong(wrong, solved)


def test_every_check_has_at_least_three_wrong_answers() -> None:
    for number in LAB.checked:
        assert sum(row[0] == number for row in WRONG) >= 3, number


@pytest.mark.slow
def test_the_teachers_edition_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the digits, with fewer images and epochs than a reader has."""
    monkeypatch.delenv("CNNLAB_DATA", raising=False)
    monkeypatch.delenv("CNNLAB_LABS", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    less = {
        "3000 if FULL else 500": "400",
        "EPOCHS = 6 if FULL else 4": "EPOCHS = 1",
        "(0, 1, 2) if FULL else (0, 1)": "(0, 1)",
        "BUDGETS = (15, 60)": "BUDGETS = (3, 5)",
        "6 if FULL else 4)": "1)",
    }
    assert "Lab 2: 11 of 11" in LAB.execute_solved(tmp_path, less)
