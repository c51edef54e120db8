"""Lab 0, checks of the network: the module, the loop, and what is measured afterwards."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cnnlab.labs.answers import NotAnswered, Wrong, attempt, call, close, compare, number, pair, short, tensor, whole


def check_cnn(answer: Any, draw: torch.Generator) -> None:
    """`CNN(num_classes)`: an nn.Module from (B, 1, H, W) to logits (B, num_classes)."""
    if isinstance(answer, nn.Module):
        raise Wrong("give the class, CNN, not an object of it: the check makes one itself.")
    classes, batch = whole(draw, 5, 9), 3
    try:
        model = call(answer, classes)
    except Wrong as wrong:
        if "before Module.__init__()" in str(wrong):
            raise Wrong("call super().__init__() first in your __init__: it sets up the list of layers.") from None
        raise
    if not isinstance(model, nn.Module):
        raise Wrong(f"the class must inherit from nn.Module; {short(model)} does not.")
    if "forward" not in {name for kind in type(model).__mro__[:-1] if kind is not nn.Module for name in vars(kind)}:
        raise Wrong("the method forward is missing: it says what happens to x.")
    images = torch.rand(batch, 1, 28, 28, generator=draw)
    hidden = [name for name, value in vars(model).items() if _holds_layers(value)]
    if hidden:
        raise Wrong(f"the layers in the list `{hidden[0]}` are unknown to PyTorch: use nn.ModuleList or nn.Sequential.")
    if sum(isinstance(module, nn.Conv2d) for module in model.modules()) < 2:
        if not list(model.children()):
            _forward(model, images)  # of an untouched cell: None
        raise Wrong("use at least two nn.Conv2d, kept as attributes in __init__ so that their weights are learned.")
    with _watched_convolutions(model) as linear:
        logits = _forward(model.eval(), images)
    logits = tensor(logits, (batch, classes), "the output of forward")
    total = logits.sum(1)
    if close(total, torch.ones(batch)) and logits.min() >= 0:
        raise Wrong("forward ends with softmax; cross_entropy applies it itself, so return the logits.")
    if close(logits.exp().sum(1), torch.ones(batch)):
        raise Wrong("forward ends with log_softmax; cross_entropy applies it itself, so return the logits.")
    if logits.min() >= 0 and (logits == 0).any():
        raise Wrong("an activation comes after the last layer, so no logit is negative; return the logits as they are.")
    with attempt(), torch.no_grad():
        if not close(tensor(model(images[:1]), (1, classes)), logits[:1], 1e-3):
            raise Wrong("the answer to an image depends on the others in the batch; flatten from dim 1 on.")
    if linear:
        raise Wrong("two convolutions without an activation between them are one: use what F.relu(…) returns.")
    model.train()
    with attempt():
        model(images).square().sum().backward()  # type: ignore[no-untyped-call]
    unused = [name for name, one in model.named_parameters() if one.grad is None]
    if unused:
        raise Wrong(f"`{unused[0].rpartition('.')[0]}` is never used in forward, so its weights never learn.")
    for shape in ((8, 8), (28, 28)):
        with torch.no_grad():
            logits = _forward(model.eval(), torch.rand(2, 1, *shape, generator=draw))
            tensor(logits, (2, classes), f"the output for {shape} pixels")


@contextmanager
def _watched_convolutions(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Inside it, each convolution that takes what one before gave, pooled at most, joins the list."""
    given: list[Tensor] = []
    linear: list[nn.Module] = []

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        for one in given:
            pooled = [F.max_pool2d(one, 2), F.avg_pool2d(one, 2)] if min(one.shape[2:]) > 1 else []
            if any(close(inputs[0], candidate) for candidate in (one, *pooled)):
                linear.append(layer)
        given.append(output)

    hooks = [layer.register_forward_hook(hook) for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    try:
        yield linear
    finally:
        for one in hooks:
            one.remove()


def _forward(model: nn.Module, images: Tensor) -> Any:
    """What forward returns; what goes wrong with sizes is said in our words."""
    try:
        with attempt():
            logits = model(images)
    except Wrong as wrong:
        size = "×".join(map(str, images.shape[2:]))
        if "mat1 and mat2 shapes" in str(wrong):
            raise Wrong(
                f"the last layer does not fit images of {size} pixels. Take the largest value over all places "
                "before it, x.amax(dim=(2, 3)): one number per channel, whatever the size."
            ) from None
        if "too small" in str(wrong) or "greater than actual input size" in str(wrong):
            raise Wrong(f"the maps of images of {size} pixels shrink to nothing: use padding, or pool less.") from None
        raise
    if logits is None:
        raise NotAnswered
    return logits


def _holds_layers(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(one, nn.Module) for one in value)


class _Watched(nn.Module):
    """A linear network that notes in which mode it is called, with gradients or not, and how many images it saw."""

    def __init__(self, draw: torch.Generator, inputs: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(classes, inputs, generator=draw))
        self.calls: list[tuple[bool, bool, int]] = []  # training, gradients, images

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((self.training, torch.is_grad_enabled(), len(x)))
        return F.linear(x.flatten(1), self.weight)


def _loader(draw: torch.Generator, count: int = 10, size: int = 4) -> DataLoader[Any]:
    """Batches in a fixed order; the last is smaller."""
    images = torch.randn(count, 1, 2, 2, generator=draw)
    return DataLoader(TensorDataset(images, torch.randperm(count, generator=draw) % 3), batch_size=size)


LR = 0.5


def _epoch(model: nn.Module, loader: DataLoader[Any], *, zero: bool = True, first: bool = False) -> list[float]:
    """One epoch of SGD → the loss of each batch. `zero`, `first`: with mistakes."""
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=LR), []
    for images, labels in loader:
        loss = F.cross_entropy(model(images), labels)
        if zero:
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        if first:
            break
    return losses


def _late(model: nn.Module, loader: DataLoader[Any]) -> None:
    """One epoch in which the step comes before the gradient it should use."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for images, labels in loader:
        loss = F.cross_entropy(model(images), labels)
        optimizer.step()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]


def check_train_epoch(answer: Any, draw: torch.Generator) -> None:
    """`train_epoch(model, loader, loss_function, optimizer)` → the mean loss over the images of the epoch."""
    loader, model = _loader(draw), _Watched(draw)
    start = model.weight.detach().clone()

    def fresh() -> _Watched:
        other = _Watched(torch.Generator())
        other.load_state_dict({"weight": start})
        return other

    expected, no_zero, one_batch, late = fresh(), fresh(), fresh(), fresh()
    losses = _epoch(expected, loader)
    _epoch(no_zero, loader, zero=False)
    _epoch(one_batch, loader, first=True)
    _late(late, loader)
    model.eval()  # as evaluate leaves it
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    got = call(answer, model, loader, F.cross_entropy, optimizer)
    weights = model.weight.detach()
    if not model.calls:
        raise Wrong("the model is never called: loss_function(model(images), labels).")
    if close(weights, start, 1e-6):
        missing = "loss.backward()" if model.weight.grad is None else "optimizer.step()"
        raise Wrong(f"the weights are as before: {missing} is missing (or the gradients were cleared before the step).")
    mistakes = {
        "the gradients add up from batch to batch: optimizer.zero_grad() is missing.": no_zero.weight.detach(),
        "only the first batch is trained on: is `return` inside of the loop?": one_batch.weight.detach(),
        "the step comes before backward, so it uses the gradient of the batch before.": late.weight.detach(),
    }
    compare(weights, expected.weight.detach(), mistakes, "after the epoch the weights are not what SGD gives.")
    if not all(training for training, _, _ in model.calls):
        raise Wrong("the model is in evaluation mode: call model.train() at the start, for dropout and batch norm.")
    if isinstance(got, Tensor) and got.requires_grad:
        raise Wrong("the loss that is returned keeps the whole graph in memory: add up loss.item(), a plain number.")
    sizes = [count for _, _, count in model.calls]
    _compare_mean_loss(number(got, "the loss"), losses, sizes)


def _compare_mean_loss(got: float, losses: list[float], sizes: list[int]) -> None:
    total = sum(loss * size for loss, size in zip(losses, sizes, strict=True))
    values = {
        "the loss that is returned is that of the last batch; return the mean over the epoch.": losses[-1],
        "the loss that is returned is that of the first batch; return the mean over the epoch.": losses[0],
        "the losses of the batches are added; divide by their number, weighted by size.": sum(losses),
        "the sum over all images is returned; divide by their number.": total,
        "this is the mean over batches; the last one is smaller, so weight each loss by len(labels).": sum(losses)
        / len(losses),
        "the sum of the batches' means is divided by the images; multiply each by len(labels) first.": sum(losses)
        / sum(sizes),
    }
    mistakes = {hint: torch.tensor(value) for hint, value in values.items()}
    compare(torch.tensor(got), torch.tensor(total / sum(sizes)), mistakes, "the mean loss per image is wrong.", 1e-5)


def check_evaluate(answer: Any, draw: torch.Generator) -> None:
    """`evaluate(model, loader, loss_function)` → (mean loss, accuracy) over the images, weights untouched."""
    loader, model = _loader(draw), _Watched(draw)
    start = model.weight.detach().clone()
    with torch.no_grad():  # 7 of 10 are right: 2 of 4, 4 of 4, 1 of 2
        images = torch.cat([images for images, _ in loader])
        labels = (model(images).argmax(1) + torch.eye(10, dtype=torch.int64)[[0, 1, 9]].sum(0)) % 3
        loader = DataLoader(TensorDataset(images, labels), batch_size=4)
        batches = [(model(images), labels) for images, labels in loader]
    losses = [F.cross_entropy(logits, labels).item() for logits, labels in batches]
    right = [int((logits.argmax(1) == labels).sum()) for logits, labels in batches]
    sizes = [len(labels) for _, labels in batches]
    model.calls.clear()
    model.train()  # as train_epoch leaves it
    loss, accuracy = pair(call(answer, model, loader, F.cross_entropy), "the loss and the accuracy")
    if not torch.equal(model.weight.detach(), start):
        raise Wrong("the weights changed: evaluation only measures, without backward and step.")
    if not model.calls:
        raise Wrong("the model is never called: loss_function(model(images), labels).")
    if any(training for training, _, _ in model.calls):
        raise Wrong("the model is still in training mode: call model.eval() first, for dropout and batch norm.")
    if any(gradients for _, gradients, _ in model.calls):
        raise Wrong("gradients are computed for nothing: put the loop into `with torch.no_grad():`.")
    _compare_mean_loss(number(loss, "the loss"), losses, sizes)
    share, value = sum(right) / sum(sizes), number(accuracy, "the accuracy")
    mistakes = {
        "the accuracy is in percent; return a share from 0 to 1.": 100 * share,
        "the accuracy is a count; divide by the number of images.": float(sum(right)),
        "the accuracy is the share of mistakes; count where argmax equals the label.": 1 - share,
        "the accuracy is the mean over batches; the last one is smaller, so count over all images.": sum(
            one / size for one, size in zip(right, sizes, strict=True)
        )
        / len(sizes),
        "the accuracy is that of the last batch; count over all.": right[-1] / sizes[-1],
    }
    shown = {hint: torch.tensor(one) for hint, one in mistakes.items()}
    compare(torch.tensor(value), torch.tensor(share), shown, "the accuracy is wrong; predict argmax(dim=1).", 1e-6)


def check_overfit(answer: Any, draw: torch.Generator) -> None:
    """`overfit(model, images, labels)` → the loss of each step, on one batch until it is known by heart."""
    images = torch.rand(8, 1, 8, 8, generator=draw)
    labels = torch.randperm(8, generator=draw) % 4
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    before = [one.detach().clone() for one in model.parameters()]
    losses = call(answer, model, images.clone(), labels.clone())
    if not isinstance(losses, list | tuple) or len(losses) < 2:
        raise Wrong(f"return a list with the loss of each step, got {short(losses)}.")
    values = [number(loss, "each loss") for loss in losses]
    if all(torch.equal(one, old) for one, old in zip(model.parameters(), before, strict=True)):
        raise Wrong("the weights are as before: is the optimizer made from model.parameters(), and is step() called?")
    if not math.isfinite(values[-1]):
        raise Wrong("the loss became infinite or NaN: take a smaller learning rate.")
    with torch.no_grad():
        logits = model.eval()(images)
    loss, accuracy = F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()
    if loss >= values[0]:
        raise Wrong(f"the loss rises, {values[0]:.2f} → {loss:.2f}: check zero_grad, the sign, and the learning rate.")
    if accuracy < 1 or loss > 0.1:
        raise Wrong(f"not by heart: loss {loss:.2f}, accuracy {accuracy:.0%}. Take more steps, or Adam at 0.01.")
    if abs(values[-1] - loss) > 0.1:
        raise Wrong(f"the last loss of the list is {values[-1]:.2f}, the model's {loss:.2f}: append it in each step.")


def check_history(answer: Any, _: torch.Generator) -> None:
    """`history`: {"train_loss": [...], "val_loss": [...], "val_accuracy": [...]}, a value per epoch."""
    keys = ("train_loss", "val_loss", "val_accuracy")
    if not isinstance(answer, Mapping) or not set(keys) <= set(answer):
        raise Wrong(f"give a dict with the keys {', '.join(keys)}; got {short(answer)}.")
    lists = {key: answer[key] for key in keys}
    if not all(isinstance(values, list | tuple) for values in lists.values()):
        raise Wrong("each of the three must be a list with one value per epoch.")
    if not any(lists.values()):
        raise NotAnswered
    lengths = {len(values) for values in lists.values()}
    if len(lengths) > 1 or lengths.pop() < 3:
        counts = ", ".join(f"{key} {len(values)}" for key, values in lists.items())
        raise Wrong(f"each list needs one value per epoch, at least 3; got {counts}.")
    train, val, accuracy = ([number(value, f"each {key}") for value in values] for key, values in lists.items())
    if not all(map(math.isfinite, train + val + accuracy)):
        raise Wrong("a value is infinite or NaN: take a smaller learning rate.")
    if train == val:
        raise Wrong("val_loss equals train_loss: evaluate on the validation loader.")
    if not all(0 <= value <= 1 for value in accuracy):
        raise Wrong("val_accuracy must be a share from 0 to 1.")
    if len(set(train)) == 1 or len(set(val)) == 1:
        raise Wrong("the loss is the same in each epoch: does the optimizer hold the parameters of this model?")
    if train[-1] > 0.7 * train[0]:
        raise Wrong(
            f"the training loss hardly falls, {train[0]:.2f} → {train[-1]:.2f}: try another rate, or more epochs."
        )
    if val[-1] >= val[0]:
        raise Wrong(f"the validation loss does not fall, {val[0]:.2f} → {val[-1]:.2f}: is it that of the same model?")


class _Small(nn.Module):
    """A network with dropout, so that its mode shows."""

    def __init__(self, draw: torch.Generator | None = None) -> None:
        super().__init__()
        self.body, self.drop, self.head = nn.Conv2d(1, 3, 3), nn.Dropout(), nn.Linear(3, 2)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=draw)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.body(x).amax((2, 3))))


def check_save_and_load(answer: Any, draw: torch.Generator) -> None:
    """`(save, load)`: save(model, path) writes its weights, load(model, path) → the model with them."""
    save, load = pair(answer, "give both functions, (save, load)")
    images = torch.rand(4, 1, 6, 6, generator=draw)
    with tempfile.TemporaryDirectory() as folder:
        path, model = Path(folder) / "weights.pt", _Small(draw)
        if not callable(save) or not callable(load):
            raise Wrong("give both functions by name: (save, load).")
        with attempt():
            save(model, path)
        if not path.exists():
            raise NotAnswered if not list(Path(folder).iterdir()) else Wrong("save(model, path) must write to `path`.")
        try:
            content = torch.load(path, weights_only=True)
        except Exception:
            raise Wrong("the file holds the whole object, not its weights; save model.state_dict().") from None
        if not isinstance(content, Mapping):
            raise Wrong(f"the file must hold model.state_dict(), it holds {short(content)}.")
        other = _Small(draw)
        untouched = {name: value.clone() for name, value in other.state_dict().items()}
        loaded = call(load, other, path)
    if not isinstance(loaded, nn.Module):
        raise Wrong(f"load must return the model, got {short(loaded)}; load_state_dict itself returns no model.")
    state = loaded.state_dict()
    if all(torch.equal(state[name], value) for name, value in untouched.items()):
        raise Wrong("the model still has its own weights: load_state_dict(torch.load(path)) is missing.")
    if not all(torch.equal(state.get(name, torch.empty(0)), value) for name, value in model.state_dict().items()):
        raise Wrong("some weights are not those that were saved.")
    if loaded.training:
        raise Wrong("the loaded model is in training mode, where dropout is on: call model.eval().")
    with torch.no_grad():
        if not torch.equal(loaded(images), model.eval()(images)):
            raise Wrong("the loaded model gives other answers than the saved one.")


def check_confusion_matrix(answer: Any, draw: torch.Generator) -> None:
    """`confusion_matrix(model, loader, num_classes)` → (K, K) counts, a row per true class, a column per prediction."""
    count, classes = 40, 3
    truth = torch.randint(0, classes, (count,), generator=draw)
    truth[:6] = torch.tensor([0, 0, 0, 1, 1, 2])
    predicted = torch.where(torch.rand(count, generator=draw) < 0.6, truth, (truth + 1) % classes)
    predicted[:6] = torch.tensor([0, 1, 1, 1, 2, 2])
    loader: DataLoader[Any] = DataLoader(
        TensorDataset(F.one_hot(predicted, 4).float().view(-1, 1, 2, 2), truth), batch_size=16
    )
    model = _Watched(draw)
    model.weight.data = torch.eye(classes, 4)  # its logits are the image
    right = torch.zeros(classes, classes)
    for row, column in zip(truth.tolist(), predicted.tolist(), strict=True):
        right[row, column] += 1
    last = torch.zeros(classes, classes)
    for row, column in zip(truth[32:].tolist(), predicted[32:].tolist(), strict=True):
        last[row, column] += 1
    got = tensor(torch.as_tensor(call(answer, model, loader, classes)), (classes, classes), "the matrix")
    mistakes = {
        "rows and columns are swapped: a row is a true class, a column a prediction.": right.T,
        "these are shares of each row; count.": right / right.sum(1, keepdim=True),
        "these are shares of all; count.": right / count,
        "only the last batch is counted.": last,
        "each pair counts once at most: += with index tensors adds no repeats. Loop, or bincount.": right.clamp(max=1),
        "only the diagonal is filled; count mistakes too.": right.diag().diag(),
    }
    compare(got, right, mistakes, "the counts are not those of the predictions, argmax(dim=1), and the labels.")
    if any(training for training, _, _ in model.calls):
        raise Wrong("the model is in training mode: call model.eval() first, for dropout and batch norm.")
