"""Lab 4: its checks pass on right answers and say what is wrong with others."""
# ruff: noqa: E501

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from sources import WrongAnswer, lab

from cnnlab.labs import check, checking

LAB = lab("4")

WRONG = [  # exercise, of the solution, what is there instead, what the hint says
    ("4.1", ' and f.name != "BACKGROUND_Google"', "", "leave it out"),
    ("4.1", "f.is_dir() and ", "", "is a file"),
    ("4.1", "sorted(f.name", "list(f.name", ""),
    ("4.1", '.convert("RGB")', "", "convert to RGB"),
    ("4.1", "self.classes.index(self.files[i].parent.name)", "self.files[i].parent.name", "must be a number"),
    ("4.1", "image if self.transform is None else self.transform(image)", "image", "transform is not used"),
    ("4.1", "len(self.files)", "len(self.classes)", "number of images"),
    ("4.2", "min(width / image.width, height / image.height)", "max(width / image.width, height / image.height)", ""),
    ("4.2", "(width, height))\n    page.paste", "(height, width))\n    page.paste", "swapped"),
    ("4.2", "image.resize((new_width, new_height)), ((width - new_width) // 2, (height - new_height) // 2)", "image.resize((width, height)), (0, 0)", "squashed or cropped"),
    ("4.2", "((width - new_width) // 2, (height - new_height) // 2)", "(0, 0)", "in the middle"),
    ("4.2", "page.paste(", "page.copy(*", ""),
    ("4.3", "b * (a * k * k + 1)", "b * a * k * k", "biases of the convolutions"),
    ("4.3", "b * (a + 1) for", "b * a for", "biases of the linear"),
    ("4.3", "(last(height), last(width))", "(last(width), last(height))", "swapped"),
    ("4.3", "(3, 2, 0), (5, 1, 2), (3, 2, 0), (3, 2, 0)", "(5, 1, 2)", "three pools"),
    ("4.3", "widths = (256 * 6 * 6,", "widths = (256 * last(height) * last(width),", "whatever the size"),
    ("4.4", "# @package _global_\n", "", "the first line"),
    ("4.4", "  - override /optimizer: adamw\n", "", "optimizer should be adamw"),
    ("4.4", "depth: 14", "depth: 15", ""),
    ("4.4", "label_smoothing: 0.1", "smoothing: 0.1", "does not compose"),
    ("4.4", "optimizer: {lr: 0.003}\n", "", "optimizer.lr should be 0.003"),
    ("4.4", "epochs: 5, ", "", "trainer.epochs should be 5"),
    ("4.5", "0.01", "0.003", "wherever it stands"),
    ("4.5", "20", "32", "the last holds"),
    ("4.5", '"sgd"', '"adamw"', "a group that is given"),
    ("4.5", "9, 20", "5, 20", "beats what the experiment says"),
    ("4.6", "width=16, in_channels", "width=32, in_channels", "the budget is"),
    ("4.6", "features.mean((2, 3))", "features.mean((2, 3)).softmax(1)[:, :3]", "Error"),
    ("4.6", "Block(*step)", "Block(*step[:2], 1)", "at most an eighth"),
    ("4.6", "self.num_classes = num_classes", "self.num_classes = 10", "set self.num_classes"),
    ("4.6", "cnnlab.Classifier", "nn.Module", "inherits from cnnlab.Classifier"),
    ("4.7", "2 * sum(", "sum(", "one side"),
    ("4.7", "min(1.0, 2 *", "max(0.0, 2 *", "at most 1"),
    ("4.7", "range(min(b, c) + 1)", "range(min(b, c))", "min(b, c) + 1"),
    ("4.7", "x and not y for", "x for", ""),
    ("4.8", "float(np.mean(2 * right / np.maximum(both, 1)))", "float(right.sum() / matrix.sum())", "accuracy"),
    ("4.8", "np.maximum(both, 1)", "both", "divides by 0"),
    ("4.8", "float(np.mean(2 * right / np.maximum(both, 1)))", "float(np.mean(right / np.maximum(matrix.sum(1), 1)))", "mean recall"),
    ("4.8", "float(np.mean(2 * right / np.maximum(both, 1)))", "float(np.mean(right / np.maximum(matrix.sum(0), 1)))", "mean precision"),
    ("4.9", "generator=generator", "", "generator is not used"),
    ("4.9", "one[:, torch.randperm(one.shape[1], generator=generator)]", "one", "nothing is shuffled"),
    ("4.9", "one[:, torch.randperm(one.shape[1], generator=generator)]", "one.flatten()[torch.randperm(one.numel(), generator=generator)].view_as(one)", "one channel to another"),
    ("4.9", "one[:, torch.randperm(one.shape[1], generator=generator)]", "torch.stack([c[torch.randperm(len(c), generator=generator)] for c in one])", "of its own"),
    ("4.9", "[one[:, torch.randperm(one.shape[1], generator=generator)] for one in flat]", "list(flat[:, :, torch.randperm(flat.shape[2], generator=generator)])", "draw one for each image"),
]  # fmt: skip

RIGHT = {  # another right answer to each
    "4.1": """
class Caltech101(Dataset):
    def __init__(self, root, transform=None):
        self.classes = [n for n in sorted(os.listdir(root)) if os.path.isdir(os.path.join(root, n)) and "BACKGROUND" not in n]
        self.pairs = [(os.path.join(root, n, f), k) for k, n in enumerate(self.classes) for f in sorted(os.listdir(os.path.join(root, n)))]
        self.transform = transform or (lambda image: image)
    def _load_image(self, i):
        with Image.open(self.pairs[i][0]) as image: return image.convert("RGB")
    def _load_label(self, i): return self.pairs[i][1]
    def __len__(self): return len(self.pairs)
    def __getitem__(self, i): return self.transform(self._load_image(i)), torch.tensor(self._load_label(i))""",
    "4.2": """
def letterbox(image, height, width):
    from PIL import ImageOps
    return ImageOps.pad(image, (width, height))""",
    "4.3": """
def alexnet_sizes(height, width, classes):
    import torchvision
    with torch.device("meta"):
        net = torchvision.models.alexnet(num_classes=classes)
        size = net.features(torch.zeros(1, 3, height, width)).shape[2:]
    count = lambda part: sum(p.numel() for p in part.parameters())
    return tuple(size), count(net.features), count(net.classifier)""",
    "4.4": 'EXPERIMENT = "# @package _global_\\ndefaults:\\n  - override /optimizer: adamw\\n  - override /model: resnet\\n\\nmodel:\\n  width: 8\\n  depth: 14\\noptimizer:\\n  lr: 0.003\\ntrainer:\\n  batch_size: 16\\n  label_smoothing: 0.1\\n  epochs: 5\\n"',
    "4.5": 'HOLDS = (9, 20, "sgd", 1e-2)',
    "4.6": """
class MyNet(cnnlab.Classifier):
    def __init__(self, width=24, in_channels=3, num_classes=10):
        super().__init__()
        self.num_classes = num_classes
        layers, a = [], in_channels
        for b in (width, 2 * width, 4 * width, 4 * width):
            layers += [nn.Conv2d(a, b, 3, 2, 1), nn.GELU()]
            a = b
        self.body, self.out = nn.Sequential(*layers), nn.Conv2d(a, num_classes, 1)
    def forward_features(self, x): return self.body(x)
    def forward_head(self, features): return self.out(features).amax((2, 3))""",
    "4.7": """
def mcnemar(first, second):
    from scipy.stats import binomtest
    b, c = ((np.array(x) & ~np.array(y)).sum() for x, y in ((first, second), (second, first)))
    return binomtest(int(b), int(b + c)).pvalue if b + c else 1.0""",
    "4.8": """
def macro_f1(matrix):
    scores = []
    for k in range(len(matrix)):
        tp = matrix[k][k]; fp = sum(row[k] for row in matrix) - tp; fn = sum(matrix[k]) - tp
        scores.append(2 * tp / (2 * tp + fp + fn) if tp else 0)
    return sum(scores) / len(scores)""",
    "4.9": """
def shuffle_places(features, generator):
    b, c, h, w = features.shape
    order = torch.stack([torch.randperm(h * w, generator=generator) for _ in range(b)])
    return features.flatten(2).gather(2, order[:, None].expand(b, c, h * w)).reshape(b, c, h, w)""",
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
    """On drawn shapes, with fewer images and epochs than a reader has."""
    monkeypatch.delenv("CNNLAB_DATA", raising=False)
    monkeypatch.delenv("CNNLAB_LABS", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    less = {"25 if FULL else 10": "1", "draw_shapes(PHOTOS, 70)": "draw_shapes(PHOTOS, 24)"}
    assert "Lab 4: 9 of 9" in LAB.execute_solved(tmp_path, less)
