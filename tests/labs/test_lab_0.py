"""Lab 0: its checks pass on right answers and say what is wrong with others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sources import WrongAnswer, lab

import cnnlab
from cnnlab.errors import ConfigError
from cnnlab.labs import check, checking

LAB = lab("0")

HISTORY = {"train_loss": [2.3, 1.0, 0.5], "val_loss": [2.0, 1.1, 0.7], "val_accuracy": [0.3, 0.6, 0.8]}

WRONG = [  # exercise, of the solution, what is there instead, what the hint says
    ("0.1", "x[None] if x.ndim == 2 else x.permute(2, 0, 1)", "x", "add it in front"),
    ("0.1", "x.permute(2, 0, 1)", "x", "permute(2, 0, 1)"),
    ("0.1", "x.permute(2, 0, 1)", "x.reshape(x.shape[2], *x.shape[:2])", "scrambled"),
    ("0.1", "x.permute(2, 0, 1)", "x.permute(2, 1, 0)", "height and width are swapped"),
    ("0.1", "x[None] if", "x[..., None] if", "the channel must come first"),
    ("0.1", "x.float() / 255", "x.float()", "divide by 255"),
    ("0.1", "x.float() / 255", "x.float() / x.max()", "its own maximum"),
    ("0.1", "x.float() / 255", "x.double() / 255", "float32"),
    ("0.1", "x.float() / 255", "x // 255", "make them float"),
    ("0.1", "x.float() / 255", "(x.float() / 255).numpy()", "must be a torch.Tensor"),
    ("0.2", "weight[o])", "weight[o].flip(1, 2))", "flipped"),
    ("0.2", "weight[o])", "weight[o].transpose(1, 2))", "rows and columns"),
    ("0.2", " + bias[o]", "", "the bias is missing"),
    ("0.2", " + bias[o]", " + len(x) * bias[o]", "once for each input channel"),
    ("0.2", " + bias[o]", " + weight[o].numel() * bias[o]", "for every product"),
    ("0.2", "weight[o]).sum()", "weight[o]).sum() / len(x)", "mean over the input channels"),
    ("0.2", "weight[o]).sum()", "weight[o]).mean()", "mean over the window"),
    ("0.2", "window * weight[o]", "window[0] * weight[o, 0]", "only the first input channel"),
    ("0.2", "window * weight[o]", "window[-1] * weight[o, -1]", "only the last input channel"),
    ("0.2", "window * weight[o]", "window * weight[0]", "the first kernel"),
    ("0.2", "x.shape[1] - size + 1, x.shape[2] - size + 1", "x.shape[1] - size, x.shape[2] - size", "H-K+1"),
    ("0.2", "return y", "return F.conv2d(x[None], weight, bias, padding=1)[0]", "as large as the input"),
    ("0.2", "return y", "return x.no_such", "has no attribute 'no_such'"),
    ("0.3", "f(up) - f(down)", "f(down) - f(up)", "the sign is wrong"),
    ("0.3", "(2 * eps)", "eps", "divide by 2ε"),
    ("0.3", "f(up) - f(down)", "f(up) - f(x)", "half the gradient"),
    ("0.3", "(f(up) - f(down)) / (2 * eps)", "(f(up) - f(x)) / eps", "not exact enough"),
    ("0.3", "up, down = x.clone(), x.clone()", "up, down = x, x.clone()", "not the same afterwards"),
    ("0.3", "return gradient", "return gradient.sum()", "single number"),
    ("0.3", "up[place] += eps\n        down[place] -= eps", "up += eps\n        down -= eps", "one element at a time"),
    ("0.4", "return to_tensor(np.array(image))", "return image.copy()", "PIL image"),
    ("0.4", "return to_tensor(np.array(image))", "return torch.from_numpy(np.array(image))[None]", "run to 255"),
    ("0.4", "return to_tensor(np.array(image))", "return np.array(image)", "must return a tensor"),
    ("0.4", "self.classes.index(self.files[i].parent.name)", "self.files[i].parent.name", "wants a number"),
    ("0.4", "self.classes.index(self.files[i].parent.name)", "int(self.files[i].stem)", "the image lies in folder"),
    ("0.4", "self.files[i].parent.name)", "self.files[i].parent.name) + 1", "count from 0"),
    ("0.4", "self.load_image(i), self.load_label(i)",
     "self.load_label(i), self.load_image(i)", "the image comes first"),
    ("0.4", "self.load_image(i), self.load_label(i)", "self.load_image(i)", "two things"),
    ("0.4", "self.load_image(i), self.load_label(i)", "self.load_image(0), self.load_label(i)", "the same i"),
    ("0.4", "return len(self.files)", "return len(self.classes)", "number of classes"),
    ("0.4", "self.classes = sorted(folder.name for folder in root.iterdir())",
     "self.classes = ['cat', 'ant']", "alphabet"),
    ("0.4", "(Dataset)", "", "inherits"),
    ("0.5", ", shuffle=True", "", "shuffle=True"),
    ("0.5", "DataLoader(val, batch_size=batch_size)",
     "DataLoader(val, batch_size=batch_size, shuffle=True)", "val loader is"),
    ("0.5", "DataLoader(val,", "DataLoader(test_set,", "images of the test set"),
    ("0.5", "DataLoader(val,", "DataLoader(train,", "in train and in val"),
    ("0.5", "0.75", "0.25", "swapped"),
    ("0.5", "0.75", "0.8", "25 %"),
    ("0.5", ", generator=cut", "", "manual_seed"),
    ("0.5", "manual_seed(seed)", "manual_seed(0)", "use the seed"),
    ("0.5", "DataLoader(test_set, batch_size=batch_size)",
     "DataLoader(test_set, batch_size, drop_last=True)", "drop_last"),
    ("0.5", "DataLoader(train, batch_size=batch_size, shuffle=True)", "train", "must be a DataLoader"),
    ("0.5", "DataLoader(train, batch_size=batch_size,", "DataLoader(train,", "has 1"),
    (
        "0.5",
        "random_split(train_and_val, [count, len(train_and_val) - count], generator=cut)",
        "[torch.utils.data.Subset(train_and_val, r) for r in (range(count), range(count, len(train_and_val)))]",
        "sorted by class",
    ),
    ("0.6", "classes[label]", "int(label)", "classes[label] is its name"),
    ("0.6", "axis.imshow(image[0]", "axis.imshow(image[0].T", "swapped"),
    ("0.6", "axis.imshow(image[0]", "axis.imshow(images[0, 0]", "another one of the batch"),
    ("0.6", "axis.imshow(image[0]", "axis.imshow(image[0] * 0", "not that of the batch"),
    ("0.6", "axis.imshow(image[0]", "axis.imshow(image", "Invalid shape (1, 5, 7)"),
    ("0.6", "zip(axes.flat, images,", "zip(axes.flat, images[:1],", "shows 1"),
    ("0.6", "return figure", "return axes", "return the figure"),
    ("0.7", "//", "/", "the floor is missing"),
    ("0.7", "2 * padding", "padding", "both sides"),
    ("0.7", " + 2 * padding", "", "the padding is forgotten"),
    ("0.7", "dilation * (kernel - 1) + 1", "kernel", "the dilation is forgotten"),
    ("0.7", "dilation * (kernel - 1) + 1", "dilation * kernel", "not D·K"),
    ("0.7", "stride + 1", "stride", "one too few"),
    ("0.7", "// stride + 1", "// stride + 2", "one too many"),
    ("0.7", "- span) // stride + 1", "- span + 1) // stride", "before the division"),
    ("0.7", "// stride", "", "the stride is forgotten"),
    ("0.7", "return ", "return round(0.49) - ", "a layer of PyTorch gives 32, you -30"),
    ("0.8", "(batch, out_channels,", "(batch, shape[1],", "not those of the input"),
    ("0.8", "(batch, out_channels,", "(out_channels,", "the batch is missing"),
    ("0.8", "for size in (height, width)", "for size in (height, height)", "from the height"),
    ("0.8", "for size in (height, width)", "for size in (width, height)", "swapped"),
    ("0.8", "(size, kernel, stride, padding, dilation)", "(size, kernel, stride, padding)", "D="),
    ("0.9", "super().__init__()", "pass", "super().__init__()"),
    ("0.9", "(nn.Module)", "", "must inherit"),
    ("0.9", "return self.head(x.amax(dim=(2, 3)))", "return self.head(x.amax(dim=(2, 3))).softmax(1)", "softmax"),
    ("0.9", "return self.head(x.amax(dim=(2, 3)))",
     "return self.head(x.amax(dim=(2, 3))).log_softmax(1)", "log_softmax"),
    ("0.9", "return self.head(x.amax(dim=(2, 3)))",
     "return F.relu(self.head(x.amax(dim=(2, 3)))) - 0.0", "after the last"),
    ("0.9", "x = F.relu(self.conv3(x))", "F.relu(self.conv3(x))", "`conv3` is never used"),
    ("0.9", "F.relu(self.conv1(x))", "self.conv1(x)", "without an activation"),
    ("0.9", "F.relu(self.conv2(x))", "self.conv2(x)", "without an activation"),
    ("0.9", "x.amax(dim=(2, 3))", "x.amax(dim=(0, 2, 3)).expand(len(x), -1)", "depends on the others"),
    ("0.9", "F.relu(self.conv1(x))", "F.rleu(self.conv1(x))", "rleu"),
    ("0.9", "nn.Conv2d(16, 32, 3, padding=1)", "nn.Conv2d(8, 32, 3, padding=1)", "8 channels"),
    ("0.9", "self.head(x.amax(dim=(2, 3)))", "self.head(x.flatten(1))", "one number per channel"),
    ("0.9", "self.conv3 = nn.Conv2d(32, 32, 3, padding=1)", "self.more = [nn.Conv2d(32, 32, 3)]", "nn.ModuleList"),
    ("0.10", "return -", "return ", "the minus is missing"),
    ("0.10", ".mean()", ".sum()", "this is the sum"),
    ("0.10", ".mean()", "", "one number"),
    ("0.10", ".mean()", ".mean().item()", "calls backward() on it"),
    ("0.10", ".mean()", ".mean().detach()", "cut off"),
    ("0.10", "dim=1, keepdim=True).log()", "dim=0, keepdim=True).log()", "over the batch"),
    ("0.10", "z = logits - logits.amax(dim=1, keepdim=True)", "z = logits", "overflow"),
    ("0.10", "logits.amax(dim=1, keepdim=True)", "0\n    z = z.softmax(1)", "softmax is applied twice"),
    ("0.10", "-log_p[", "-log_p.exp()[", "minus its logarithm"),
    ("0.10", "return -", "return -1.442695 * ", "base 2"),
    ("0.11", "w - lr", "w + lr", "climbs"),
    ("0.11", "lr * g", "g", "rate is missing"),
    ("0.11", "w - lr * g", "lr * g", "the step alone"),
    ("0.11", "lr * g", "g / lr", "divided by the learning rate"),
    ("0.11", "w - lr * g", "w", "as before"),
    ("0.12", "mu * v + g", "mu * v + (1 - mu) * g", "1 - μ"),
    ("0.12", "mu * v + g", "g", "without momentum"),
    ("0.12", "w - lr * v", "w + lr * v", "climbs"),
    ("0.12", "return w - lr * v, v", "return v, w - lr * v", "the wrong order"),
    ("0.12", "return w - lr * v, v", "return w - lr * v", "return two things"),
    ("0.12", "mu * v + g", "v + g", "μ is missing"),
    ("0.12", "w - lr * v", "w - lr * (g + mu * v)", "Nesterov"),
    ("0.13", "m / (1 - beta1**t)", "m", "differ"),
    ("0.13", "(m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt()", "m / (v.sqrt()", "bias correction is missing"),
    ("0.13", "(v / (1 - beta2**t))", "v", "only m is corrected"),
    ("0.13", "g**2", "g", "g²"),
    ("0.13", "(v / (1 - beta2**t)).sqrt()", "(v / (1 - beta2**t))", "the root of v is missing"),
    ("0.13", ".sqrt() + eps)", " + eps).sqrt()", "inside of the root"),
    ("0.13", "    m = beta1", "    beta1, beta2 = beta2, beta1\n    m = beta1", "swapped"),
    ("0.13", "    m = beta1", "    t += 1\n    m = beta1", "t + 1"),
    ("0.13", "w - lr * step", "w + lr * step", "climbs"),
    ("0.14", "        optimizer.zero_grad()\n", "", "zero_grad() is missing"),
    ("0.14", "        optimizer.step()\n", "", "optimizer.step() is missing"),
    ("0.14", "        loss.backward()\n", "", "loss.backward() is missing"),
    ("0.14", "    model.train()\n", "", "model.train()"),
    ("0.14", "loss.item() * len", "loss * len", "graph"),
    ("0.14", "return total / count", "return loss.item()", "the last batch"),
    ("0.14", "return total / count", "return total", "the sum over all images"),
    ("0.14", "* len(labels)", "", "multiply each by len(labels)"),
    ("0.14", "* len(labels)\n        count += len(labels)", "\n        count += 1", "mean over batches"),
    ("0.14", "    return total", "        return total", "inside of the loop"),
    ("0.14", "optimizer.zero_grad()\n        loss.backward()\n        optimizer.step()",
     "optimizer.step()\n        optimizer.zero_grad()\n        loss.backward()", "before backward"),
    ("0.15", "    model.eval()\n", "", "model.eval()"),
    ("0.15", "torch.no_grad()", "torch.enable_grad()", "gradients are computed for nothing"),
    ("0.15", "right / count", "right", "is a count"),
    ("0.15", "right / count", "100 * right / count", "in percent"),
    ("0.15", "total / count, right", "total / len(loader), right", "the mean loss per image"),
    ("0.15", "return total / count, right / count", "return total / count", "two things"),
    ("0.15", "(logits.argmax(dim=1) == labels)", "(logits.argmax(dim=1) != labels)", "share of mistakes"),
    ("0.16", "range(300)", "range(3)", "not by heart"),
    ("0.16", "        optimizer.step()\n", "", "as before"),
    ("0.16", "loss.backward()", "(-loss).backward()", "the loss rises"),
    ("0.16", "return losses", "return losses[-1]", "a list"),
    ("0.16", "losses.append(loss.item())", "losses = [1.0, loss.item() + 1]", "append it in each step"),
    ("0.18", "torch.save(model.state_dict(), path)", "torch.save(model, path)", "save model.state_dict()"),
    ("0.18", "model.load_state_dict(torch.load(path, weights_only=True))", "torch.load(path)", "its own weights"),
    ("0.18", "return model.eval()", "return model", "model.eval()"),
    ("0.18", "return model.eval()", "return torch.load(path)", "must return the model"),
    ("0.18", "torch.save(model.state_dict(), path)", "torch.save(model.state_dict(), str(path) + 'h')", "to `path`"),
    ("0.19", "matrix[truth, guess]", "matrix[guess, truth]", "swapped"),
    ("0.19", "return matrix", "return matrix / matrix.sum(1, keepdim=True)", "shares of each row"),
    ("0.19", "return matrix", "return matrix / matrix.sum()", "shares of all"),
    ("0.19", "+= 1", "= 1", "adds no repeats"),
    ("0.19", "    model.eval()\n", "", "model.eval()"),
    ("0.19", "        for images, labels in loader:",
     "        for images, labels in [list(loader)[-1]]:", "last batch"),
]  # fmt: skip

RIGHT = {  # another right answer to each
    "0.1": "def to_tensor(array): return torchvision.transforms.functional.to_tensor(array)",
    "0.2": """
def convolve(x, weight, bias):
    windows = x.unfold(1, weight.shape[2], 1).unfold(2, weight.shape[3], 1)  # (C, H', W', K, K)
    return torch.einsum("chwuv,ocuv->ohw", windows, weight) + bias[:, None, None]""",
    "0.3": """
def numerical_gradient(f, x, eps=1e-5):
    steps = eps * torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape)
    return torch.stack([(f(x + one) - f(x - one)) / (2 * eps) for one in steps]).view(x.shape)""",
    "0.4": """
class DigitFolder(Dataset):
    def __init__(self, root):
        self.classes = sorted(os.listdir(root))
        self.all = [(p, k) for k, c in enumerate(self.classes) for p in (root / c).iterdir()]
    def load_image(self, i): return torchvision.transforms.functional.to_tensor(Image.open(self.all[i][0]))
    def load_label(self, i): return torch.tensor(self.all[i][1])
    def __len__(self): return len(self.all)
    def __getitem__(self, i): return [self.load_image(i), self.load_label(i)]""",
    "0.5": """
def make_loaders(train_and_val, test_set, batch_size, seed=0):
    order = np.random.default_rng(seed).permutation(len(train_and_val)).tolist()
    cut = len(order) // 4
    parts = [torch.utils.data.Subset(train_and_val, one) for one in (order[cut:], order[:cut])]
    sampler = torch.utils.data.RandomSampler(parts[0])
    return [DataLoader(parts[0], batch_size, sampler=sampler, drop_last=True), DataLoader(parts[1], 100),
            DataLoader(test_set, 100)]""",
    "0.6": """
def show_batch(images, labels, classes):
    figure = plt.figure()
    for i in range(len(images)):
        axis = figure.add_subplot(1, len(images), i + 1)
        axis.imshow(images[i].permute(1, 2, 0).expand(-1, -1, 3).numpy())
        axis.set_xlabel(f"{classes[labels[i]]} ({int(labels[i])})")
    return figure""",
    "0.7": """
def output_size(size, kernel, stride=1, padding=0, dilation=1):
    first, last = -padding, size + padding - dilation * (kernel - 1) - 1
    return len(range(first, last + 1, stride))""",
    "0.8": """
def output_shape(shape, out_channels, kernel, stride=1, padding=0, dilation=1):
    layer = nn.Conv2d(shape[1], out_channels, kernel, stride, padding, dilation)
    return layer(torch.zeros(shape)).shape""",
    "0.9": """
class CNN(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 5), nn.BatchNorm2d(8), nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1),
            nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, num_classes))
    def forward(self, x): return self.layers(x)""",
    "0.10": """
def cross_entropy(logits, labels):
    return (logits.logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]).mean()""",
    "0.11": "def sgd(w, g, lr): w -= g * lr; return w",
    "0.12": """
def momentum(w, g, v, lr, mu):  # the rate inside of the velocity: the same while the rate stays
    v = mu * v - lr * g
    return w + v, v""",
    "0.13": """
def adam(w, g, m, v, t, lr, beta1, beta2, eps):
    m.mul_(beta1).add_((1 - beta1) * g)
    v.mul_(beta2).add_((1 - beta2) * g * g)
    rate = lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
    return [w - rate * m / (v.sqrt() + eps * (1 - beta2**t) ** 0.5), m, v]""",
    "0.14": """
def train_epoch(model, loader, loss_function, optimizer):
    losses = []
    for images, labels in loader:
        model.train()
        optimizer.zero_grad()
        loss = loss_function(model(images), labels)
        loss.backward()
        optimizer.step()
        losses += [loss.detach()] * len(labels)
    return torch.stack(losses).mean()""",
    "0.15": """
@torch.inference_mode()
def evaluate(model, loader, loss_function):
    model.eval()
    logits, labels = (torch.cat(parts) for parts in zip(*[(model(x), y) for x, y in loader]))
    return loss_function(logits, labels), (logits.argmax(1) == labels).float().mean()""",
    "0.16": """
def overfit(model, images, labels):
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9), []
    for _ in range(200):
        losses.append(F.cross_entropy(model(images), labels))
        model.zero_grad()
        losses[-1].backward()
        optimizer.step()
    return losses""",
    "0.18": """
def save(model, path):
    with open(path, "wb") as file: torch.save(dict(model.state_dict()), file)
def load(model, path):
    model.eval()
    for name, value in torch.load(path).items(): model.state_dict()[name].copy_(value)
    return model""",
    "0.19": """
def confusion_matrix(model, loader, num_classes):
    model.eval()
    pairs = torch.cat([labels * num_classes + model(images).argmax(1) for images, labels in loader])
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes).numpy()""",
}


@pytest.fixture(scope="module")
def solved() -> dict[str, Any]:
    return LAB.solved(without=["0.17"], classes=["a"] * 10, EPOCHS=3, history=HISTORY)


@pytest.fixture(autouse=True)
def _fresh_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "_passed", set())


@pytest.mark.parametrize("number", LAB.checked)
def test_a_check_passes_on_the_teachers_answer(number: str, solved: dict[str, Any]) -> None:
    found = check(number, eval(LAB.checked[number], solved))
    assert found.passed, found.hint
    assert found.hint == ""


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


@pytest.mark.parametrize(
    ("history", "hint"),
    [
        (HISTORY | {"val_loss": HISTORY["train_loss"]}, "on the validation loader"),
        (HISTORY | {"val_loss": [1.0]}, "one value per epoch"),
        (HISTORY | {"train_loss": [2.3, 2.3, 2.3]}, "the same in each epoch"),
        (HISTORY | {"train_loss": [2.3, 2.2, 2.1]}, "hardly falls"),
        (HISTORY | {"val_loss": [2.0, 2.5, 3.0]}, "does not fall"),
        (HISTORY | {"val_accuracy": [30, 60, 80]}, "from 0 to 1"),
        (HISTORY | {"train_loss": [2.3, float("nan"), 1.0]}, "smaller learning rate"),
        ({"train_loss": [1.0]}, "the keys"),
    ],
)
def test_a_wrong_history_gets_its_hint(history: Any, hint: str) -> None:
    found = check("0.17", history)
    assert not found.passed
    assert hint in found.hint
    assert check("0.17", HISTORY | {"lr": [1, 2, 3]}).passed


def test_every_check_has_at_least_three_wrong_answers_and_another_right_one() -> None:
    for number in set(LAB.checked) - {"0.17"}:
        assert sum(row[0] == number for row in WRONG) >= 3, number
        assert number in RIGHT


# ---- what a check shows


def test_a_result_shows_the_hint_and_how_far_the_lab_is(solved: dict[str, Any]) -> None:
    assert str(check("0.7", solved["output_size"])) == "0.7 passed\nLab 0: 1 of 19"
    assert check("0.11", solved["sgd"]).progress == "Lab 0: 2 of 19"
    wrong = check("0.7", lambda size, *rest: size)
    assert repr(wrong).startswith("0.7 not yet: for I=9, K=3")
    assert repr(wrong).endswith("\nLab 0: 1 of 19")  # what no longer passes is no longer counted
    assert "<b" in wrong._repr_html_()
    assert "&lt;b&gt;" in check("0.7", lambda *_: "<b>")._repr_html_()


def test_the_example_of_the_docstring_is_what_it_says() -> None:
    lines = [line.strip() for line in (check.__doc__ or "").splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith(">>> def"))
    scope: dict[str, Any] = {"cnnlab": cnnlab}
    exec(f"{lines[start][4:]}\n{lines[start + 1][4:]}", scope)
    assert repr(eval(lines[start + 2][4:], scope)).splitlines() == lines[start + 3 : start + 5]


def test_an_error_of_the_answer_is_its_last_line_with_the_line_that_led_there(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def output_size(size, *rest):\n    return [size][1]\n", encoding="utf-8")
    scope: dict[str, Any] = {}
    exec(compile(file.read_text(encoding="utf-8"), file, "exec"), scope)
    found = check("0.7", scope["output_size"])
    assert found.hint == "IndexError: list index out of range (in your line `return [size][1]`)"


@pytest.mark.parametrize("number", ["0.20", "7", 0.7, ""])
def test_an_unknown_number_is_one_line_with_those_that_are_known(number: Any) -> None:
    with pytest.raises(ConfigError, match=r"^there is no exercise .*0\.1 to 0\.19"):
        check(number, None)


def test_a_check_leaves_the_seed_as_it_was(solved: dict[str, Any]) -> None:
    import torch

    before = torch.random.get_rng_state()
    check("0.9", solved["CNN"])
    check("0.5", solved["make_loaders"])
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
def test_the_teachers_edition_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the digits, with fewer images and epochs than a reader has."""
    monkeypatch.delenv("CNNLAB_DATA", raising=False)
    monkeypatch.delenv("CNNLAB_LABS", raising=False)
    less = {"else 2000": "else 400", "else 500": "else 100", "range(4)]": "range(1)]"}
    assert "Lab 0: 19 of 19" in LAB.execute_solved(tmp_path, less)
