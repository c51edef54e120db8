"""Lab 3, checks of plain and residual networks: their blocks, their parameters, what flows through them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.labs.answers import NotAnswered, Wrong, attempt, call, close, number, pair, short, tensor, whole
from cnnlab.models.registry import create_model


def check_mlp(answer: Any, draw: torch.Generator) -> None:
    """`MLP(side, hidden, num_classes)`: images (B, 1, side, side) → logits (B, num_classes)."""
    side, classes, batch = whole(draw, 5, 8), whole(draw, 8, 12), 6
    hidden = [whole(draw, 7, 11), whole(draw, 12, 15), whole(draw, 16, 20)]
    model = _module(call(answer, side, list(hidden), classes), "MLP(side, hidden, num_classes)")
    images = 10 * torch.randn(batch, 1, side, side, generator=draw)
    logits = tensor(_forward(model, images), (batch, classes), "the output of forward")
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    sizes = [(layer.in_features, layer.out_features) for layer in layers]
    right = list(zip([side * side, *hidden], [*hidden, classes], strict=True))
    if sizes != right:
        if not sizes:
            raise Wrong("PyTorch sees no linear layer: keep them in nn.Sequential or nn.ModuleList, not in a list.")
        raise Wrong(f"the linear layers should be {right} for hidden={hidden}, they are {sizes}.")
    if not model.training:
        raise Wrong("the model should be in training mode when it is made.")
    x = images.flatten(1)
    for layer in layers[:-1]:
        x = F.relu(layer(x))
    expected = layers[-1](x).detach()
    linear = images.flatten(1)
    for layer in layers:
        linear = layer(linear)
    mistakes = {
        "there is no ReLU between the layers: without one, many linear layers are one.": linear.detach(),
        "a ReLU comes after the last layer; return the logits as they are.": expected.relu(),
        "forward ends with softmax; cross_entropy applies it itself, so return the logits.": expected.softmax(1),
    }
    _same(logits, expected, mistakes, "the output is not that of linear layers with a ReLU after each but the last.")


def check_shortcut_a(answer: Any, draw: torch.Generator) -> None:
    """`ShortcutA(inputs, outputs, stride)`: every stride-th pixel, zeros for the new channels."""
    inputs, outputs = whole(draw, 2, 4), whole(draw, 6, 9)
    module = _module(call(answer, inputs, outputs, 2), "ShortcutA(inputs, outputs, stride)")
    x = torch.randn(2, inputs, 7, 6, generator=draw)
    got = _forward(module, x)
    if any(True for _ in module.parameters()):
        raise Wrong("shortcut A has no parameters: it takes pixels and adds zeros.")
    picked = x[:, :, ::2, ::2]
    got = tensor(got, (2, outputs, 4, 3), "the output for stride 2, 7×6 pixels")
    kept = torch.tensor([bool(channel.abs().max() > 0) for channel in got.transpose(0, 1)])
    if int(kept.sum()) > inputs:
        raise Wrong("the new channels must be zeros.")
    if int(kept.sum()) < inputs:
        raise Wrong("the channels that were there must all be kept.")
    if not close(got[:, kept], picked):
        if close(got[:, kept], F.avg_pool2d(x, 2, ceil_mode=True)):
            raise Wrong("take every second pixel, not the mean of four: x[:, :, ::2, ::2].")
        if close(got[:, kept], x[:, :, 1::2, 1::2]):
            raise Wrong("begin with the first pixel, x[:, :, ::2, ::2]: that is the middle of the strided kernel.")
        raise Wrong("the kept channels are not every second pixel of the input, in their order.")
    same = _module(call(answer, inputs, inputs, 1), "ShortcutA(inputs, inputs, 1)")
    if not close(tensor(_forward(same, x), tuple(x.shape), "the output for stride 1"), x):
        raise Wrong("with stride 1 and as many outputs as inputs it must be the identity.")


def check_block(answer: Any, draw: torch.Generator) -> None:
    """`Block(inputs, outputs, stride, residual, batch_norm)`: ReLU(F(x) + shortcut(x))."""
    inputs, outputs = 3, whole(draw, 5, 7)
    x = torch.randn(4, inputs, 8, 8, generator=draw)
    for stride, residual, batch_norm in ((1, True, True), (2, True, True), (1, False, True), (2, True, False)):
        out = inputs if stride == 1 else outputs
        said = f"Block({inputs}, {out}, {stride}, residual={residual}, batch_norm={batch_norm})"
        block = _module(call(answer, inputs, out, stride, residual=residual, batch_norm=batch_norm), said)
        got = tensor(_forward(block, x), (4, out, 8 // stride, 8 // stride), f"the output of {said}")
        convolutions = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)]
        if [layer.kernel_size for layer in convolutions] != [(3, 3), (3, 3)]:
            raise Wrong(f"the block has two 3×3 convolutions; {said} has {len(convolutions)} of any size.")
        if any(layer.bias is not None for layer in convolutions):
            raise Wrong("the convolutions have no bias: bias=False.")
        norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in block.modules())
        if norms != 2 * batch_norm:
            raise Wrong(f"{said} should have {2 * batch_norm} batch norms, it has {norms}.")
        _compare_block(got, convolutions, x, stride, residual, batch_norm, said)


def _compare_block(
    got: Tensor, convolutions: list[nn.Conv2d], x: Tensor, stride: int, residual: bool, batch_norm: bool, said: str
) -> None:
    """Raise Wrong with the hint of what the block computes instead."""
    norm: Callable[[Tensor], Tensor] = _normalise if batch_norm else (lambda y: y)
    with torch.no_grad():
        inner = norm(convolutions[0](x))
        f = norm(convolutions[1](inner.relu()))
        picked = x[:, :, ::stride, ::stride]
        more = (0, 0, 0, 0, 0, f.shape[1] - x.shape[1])
        shortcut = F.pad(picked, more) if residual else torch.zeros_like(f)
        both = f + shortcut
        mistakes = {
            "the last ReLU must come after the addition: ReLU(F(x) + x).": f.relu() + shortcut,
            "the last ReLU is missing: ReLU(F(x) + x).": both,
            "the ReLU between the two convolutions is missing.": (norm(convolutions[1](inner)) + shortcut).relu(),
            "the shortcut adds the output of the first convolution; it must add the block's input.": (
                f + inner.relu()
            ).relu(),
            "the shortcut is missing with residual=True." if residual else "": f.relu(),
        }
        if not residual and x.shape == f.shape:
            mistakes["with residual=False nothing is added."] = (f + x).relu()
        right = both.relu()
        if residual and x.shape[1] < f.shape[1] and not close(got, right, 1e-3):
            # zeros may also stand before the channels, or on both sides
            extra = f.shape[1] - x.shape[1]
            for before in range(1, extra + 1):
                padded = F.pad(picked, (0, 0, 0, 0, before, extra - before))
                if close(got, (f + padded).relu(), 1e-3):
                    return
    mistakes = {hint: value for hint, value in mistakes.items() if hint and not close(value, right, 1e-3)}
    _same(got, right, mistakes, f"the output of {said} is not ReLU(F(x){' + shortcut(x)' if residual else ''}).")


def check_network(answer: Any, draw: torch.Generator) -> None:
    """`make_network(depth, width, residual, batch_norm, in_channels, num_classes)`: 6n+2 layers with weights."""
    width, classes, colours = whole(draw, 3, 5), whole(draw, 4, 7), whole(draw, 2, 3)
    x = torch.randn(2, colours, 12, 12, generator=draw)
    for depth, residual, batch_norm in ((8, True, True), (14, False, True), (20, True, False)):
        options = {"residual": residual, "batch_norm": batch_norm, "in_channels": colours, "num_classes": classes}
        model = _module(call(answer, depth, width, **options), "make_network(depth, …)")
        logits = tensor(_forward(model, x), (2, classes), "the output")
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        if len(layers) != depth:
            hint = "each of the three stages has (depth - 2) / 6 blocks of two convolutions."
            raise Wrong(f"depth {depth} should have {depth} layers with weights, it has {len(layers)}: {hint}")
        wide = [layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d)]
        n = (depth - 2) // 6
        right = [width] * (1 + 2 * n) + [2 * width] * 2 * n + [4 * width] * 2 * n
        if wide != right:
            raise Wrong(f"the channels should be {right} for depth {depth}, width {width}; they are {wide}.")
        strides = [layer.stride[0] for layer in layers if isinstance(layer, nn.Conv2d)]
        if strides.count(2) != 2:
            raise Wrong(
                f"the first convolution of stages two and three has stride 2, all others 1; there are "
                f"{strides.count(2)} with stride 2."
            )
        norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
        if norms != batch_norm * (depth - 1):
            raise Wrong(f"there should be {batch_norm * (depth - 1)} batch norms for batch_norm={batch_norm}: {norms}.")
        library = create_model(
            "resnet", depth=depth, width=width, residual=residual, in_channels=colours, num_classes=classes
        )
        mine, theirs = (sum(p.numel() for p in one.parameters()) for one in (model, library))
        if batch_norm and mine != theirs:
            raise Wrong(f"it has {mine:,} parameters, the network of the paper {theirs:,}: are there biases too many?")
        if close(logits.exp().sum(1), torch.ones(2)):
            raise Wrong("it ends with log_softmax; return the logits.")


def check_added_parameters(answer: Any, draw: torch.Generator) -> None:
    """`added_parameters(width, n)`: what shortcut B has more than A, and C more than B."""
    for _ in range(3):
        w, n = whole(draw, 3, 20), whole(draw, 2, 6)

        def projection(a: int, b: int, scales: int = 2) -> int:
            return a * b + scales * b

        def counts(w: int = w, n: int = n, scales: int = 2) -> tuple[int, int]:
            b = projection(w, 2 * w, scales) + projection(2 * w, 4 * w, scales)
            same = [projection(k * w, k * w, scales) for k in (1, 2, 4)]
            return b, n * same[0] + (n - 1) * (same[1] + same[2])

        right = counts()
        got = pair(call(answer, w, n), "B - A and C - B")
        mine = tuple(number(value, name) for value, name in zip(got, ("B - A", "C - B"), strict=True))
        if mine == right:
            continue
        if mine == counts(scales=0):
            raise Wrong("the batch norm behind each 1×1 convolution has two parameters per channel more.")
        if mine == counts(scales=1):
            raise Wrong("batch norm has a scale and a shift for each channel: 2b parameters.")
        if mine == (right[0], right[0] + right[1]):
            raise Wrong("the second number is C - B, not C - A.")
        if mine[0] != right[0]:
            raise Wrong(
                f"B - A for width {w}: a 1×1 convolution at the beginning of stages two and three alone, from w to 2w "
                f"and from 2w to 4w; that makes {right[0]:,}, you have {mine[0]:,.0f}."
            )
        raise Wrong(
            f"B - A is right. C has a 1×1 convolution in every block, n in stage one, and n - 1 more than B in each of "
            f"the others: {right[1]:,} for width {w}, n = {n}; you have {mine[1]:,.0f}."
        )


def check_record(answer: Any, draw: torch.Generator) -> None:
    """`record(model, images, labels)`: RMS of each convolution's output, and of the loss's gradient there."""
    model, images, labels = _small(draw)
    outputs: list[Tensor] = []
    x = images
    for layer in model:
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            x.retain_grad()
            outputs.append(x)
    F.cross_entropy(x, labels).backward()  # type: ignore[no-untyped-call]
    right = [[_rms(y) for y in outputs], [_rms(_grad(y)) for y in outputs]]
    of_weights = torch.tensor([_rms(_grad(layer.weight)) for layer in model if isinstance(layer, nn.Conv2d)])
    model.zero_grad()
    got = pair(call(answer, model, images, labels), "the two lists of numbers")
    for name, mine, theirs, tensors in zip(
        ("output", "gradient"), got, right, (outputs, [_grad(y) for y in outputs]), strict=True
    ):
        if not isinstance(mine, list | tuple) or len(mine) != len(theirs):
            have = len(mine) if isinstance(mine, list | tuple) else short(mine)
            raise Wrong(f"one number for each of the {len(theirs)} convolutions is asked for ({name}), got {have}.")
        values = torch.tensor([number(value, f"the RMS of the {name}") for value in mine])
        expected = torch.tensor(theirs)
        mistakes = {
            f"the {name}s are in the reverse order.": expected.flip(0),
            f"this is the norm of the {name}; the RMS divides by the number of elements first.": torch.stack(
                [y.detach().norm() for y in tensors]
            ),
            f"this is the mean square of the {name}; the root is missing.": expected.square(),
            f"this is the standard deviation of the {name}: do not subtract the mean.": torch.stack(
                [y.detach().std() for y in tensors]
            ),
            f"this is the mean of the {name}'s size; take the square, the mean, the root.": torch.stack(
                [y.detach().abs().mean() for y in tensors]
            ),
        }
        if name == "gradient":
            hint = "this is the gradient of the weights; the gradient with respect to the output is asked for."
            mistakes[hint] = of_weights
        _same(values, expected, mistakes, f"the RMS of the {name}s is not right.", 1e-3 * float(expected.max()))
    if any(layer._forward_hooks for layer in model.modules()):
        raise Wrong("the hooks are still there: call remove() on each, or the next forward pass is recorded too.")


def check_inner_products(answer: Any, draw: torch.Generator) -> None:
    """`inner_products(model, images, labels)`: the sum of weight times gradient, for each convolution."""
    model, images, labels = _small(draw)
    F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
    layers = [layer for layer in model if isinstance(layer, nn.Conv2d)]
    weights = [layer.weight.detach().clone() for layer in layers]
    gradients = [_grad(layer.weight).clone() for layer in layers]
    # the gradients stay: an answer that does not clear them adds its own
    got = call(answer, model, images, labels)
    if not isinstance(got, list | tuple) or len(got) != len(layers):
        raise Wrong(f"one number for each of the {len(layers)} convolutions is asked for, got {short(got)}.")
    values = torch.tensor([number(value) for value in got])
    pairs = list(zip(weights, gradients, strict=True))
    right = torch.stack([(w * g).sum() for w, g in pairs])
    mistakes = {
        "old gradients are added: call model.zero_grad() before backward().": 2 * right,
        "this is the mean; the sum over all elements is asked for.": torch.stack([(w * g).mean() for w, g in pairs]),
        "this is the product of the norms; multiply element by element, then sum.": torch.stack(
            [w.norm() * g.norm() for w, g in pairs]
        ),
        "the sizes are summed: the sign of each product counts.": torch.stack([(w * g).abs().sum() for w, g in pairs]),
        "these are the norms of the gradients.": torch.stack([g.norm() for g in gradients]),
        "the sign is wrong.": -right,
    }
    _same(values, right, mistakes, "this is not the sum of weight times gradient.", 1e-4 * float(right.abs().max()))


def check_compare_depths(answer: Any, draw: torch.Generator) -> None:
    """`compare_depths(shallow, deep)`: "deeper is better", "overfitting" or "degradation"."""
    names = ("deeper is better", "overfitting", "degradation")
    cases = {
        "deep has a lower training loss and a lower validation accuracy": ((0.5, 0.9), (0.3, 0.8), names[1]),
        "deep has a higher training loss and a lower validation accuracy": ((0.5, 0.9), (0.7, 0.8), names[2]),
        "deep has a lower training loss and a higher validation accuracy": ((0.5, 0.8), (0.3, 0.9), names[0]),
        "deep has a higher training loss, but a higher validation accuracy": ((0.3, 0.8), (0.5, 0.9), names[0]),
    }
    shift = torch.rand((), generator=draw).item() / 20
    for said, (shallow, deep, right) in cases.items():
        rows = [{"train_loss": loss + shift, "val_accuracy": accuracy - shift} for loss, accuracy in (shallow, deep)]
        got = call(answer, *rows)
        if got not in names:
            raise Wrong(f"return one of {', '.join(map(repr, names))}; got {short(got)}.")
        if got != right:
            raise Wrong(f"{said}: that is {right!r}, not {got!r}.")


def check_without_shortcuts(answer: Any, draw: torch.Generator) -> None:
    """`without_shortcuts(model)`: a copy of cnnlab's residual network whose blocks compute ReLU(F(x))."""
    model: Any = create_model("resnet", depth=14, width=4, in_channels=1).eval()
    x = torch.randn(2, 1, 10, 10, generator=draw)
    blocks: list[Any] = [block for block in model.modules() if hasattr(block, "shortcut")]
    before = [block.shortcut for block in blocks]
    with torch.no_grad():
        whole_answer = model(x)
        got = _module(call(answer, model), "without_shortcuts(model)")
        if got is model or any(a is not block.shortcut for a, block in zip(before, blocks, strict=True)):
            raise Wrong("the network that was given has changed: work on copy.deepcopy(model).")
        plain = create_model("resnet", depth=14, width=4, in_channels=1, residual=False).eval()
        plain.load_state_dict(model.state_dict())
        right = plain(x)
        mistakes = {"the shortcuts are still added.": whole_answer}
        for block in blocks[1:]:
            block.shortcut = None
        mistakes["the first block still adds its shortcut."] = model(x)
        for block, shortcut in zip(blocks, before, strict=True):
            block.shortcut = shortcut if isinstance(shortcut, nn.Identity) else None
        mistakes["the identities are still added: they are shortcuts too."] = model(x)
        for block, shortcut in zip(blocks, before, strict=True):
            block.shortcut = None if isinstance(shortcut, nn.Identity) else shortcut
        mistakes["shortcuts that change the shape are still added."] = model(x)
        values = tensor(_forward(got.eval(), x), (2, 10), "the output of the copy")
    _same(values, right, mistakes, "the copy does not compute y = ReLU(F(x)) with the same weights.", 1e-3)


def _module(made: Any, said: str) -> nn.Module:
    if not isinstance(made, nn.Module):
        raise Wrong(f"{said} must be an nn.Module, got {short(made)}.")
    return made


def _forward(model: nn.Module, x: Tensor) -> Any:
    with attempt():
        try:
            y = model(x)
        except NotImplementedError:
            raise Wrong("the method forward is missing: it says what happens to x.") from None
    if y is None or y is ...:
        raise NotAnswered
    return y


def _small(draw: torch.Generator) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Three convolutions, images and labels of four classes."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(6, 5, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 4),
    )
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw)
    images, labels = torch.randn(6, 1, 8, 8, generator=draw), torch.arange(6) % 4
    return model, images, labels


def _normalise(y: Tensor) -> Tensor:
    """Batch norm with new parameters."""
    return F.batch_norm(y, None, None, training=True)


def _rms(y: Tensor) -> float:
    return math.sqrt(y.detach().square().mean().item())


def _grad(y: Tensor) -> Tensor:
    assert y.grad is not None
    return y.grad


def _same(got: Tensor, right: Tensor, mistakes: dict[str, Tensor], otherwise: str, tolerance: float = 1e-3) -> None:
    """Raise Wrong where `got` is not `right`: with the hint whose values it has, or `otherwise`."""
    if got.shape == right.shape and bool((got - right).abs().max() <= tolerance):
        return
    for hint, value in mistakes.items():
        if got.shape == value.shape and bool((got - value.detach()).abs().max() <= tolerance):
            raise Wrong(hint)
    raise Wrong(otherwise)
