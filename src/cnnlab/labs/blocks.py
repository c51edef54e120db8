"""Lab 2, checks of blocks: VGG, a repaired network, residual, transposed convolution, U-Net."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.labs.answers import NotAnswered, Wrong, attempt, call, close, compare, number, short, tensor, whole

ACTIVATIONS = (nn.ReLU, nn.SiLU, nn.GELU, nn.Tanh)


def check_vgg_block(answer: Any, draw: torch.Generator) -> None:
    """`vgg_block(convs, inputs, outputs, activation, batch_norm, pool, kernel)` → nn.Sequential."""
    inputs, outputs = whole(draw, 2, 4), whole(draw, 5, 8)
    x = torch.randn(2, inputs, 12, 8, generator=draw)
    for convs, activation, batch_norm, pool, kernel in (
        (2, nn.ReLU, True, True, 3),
        (3, nn.SiLU, True, False, 3),
        (1, nn.Tanh, False, True, 5),
    ):
        options = {"activation": activation, "batch_norm": batch_norm, "pool": pool, "kernel": kernel}
        said = f"vgg_block({convs}, …, activation=nn.{activation.__name__}, {batch_norm=}, {pool=}, {kernel=})"
        block = module(call(answer, convs, inputs, outputs, **options), said)
        with attempt():
            got = block(x)
        size = (2, outputs, 6, 4) if pool else (2, outputs, 12, 8)
        convolutions = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)]
        if len(convolutions) != convs:
            raise Wrong(f"{said} should have {convs} convolutions, it has {len(convolutions)}.")
        if any(layer.kernel_size != (kernel, kernel) for layer in convolutions):
            raise Wrong(f"the convolutions of {said} should have a {kernel}×{kernel} kernel.")
        tensor(got, size, f"the output of {said}")
        norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in block.modules())
        if norms != convs * batch_norm:
            raise Wrong(f"{said} should have {convs * batch_norm} batch norms, it has {norms}.")
        active = sum(isinstance(layer, activation) for layer in block.modules())
        if active != convs:
            others = [kind.__name__ for kind in ACTIVATIONS if any(isinstance(one, kind) for one in block.modules())]
            have = f"it has {active}" + (f" (and {', '.join(others)})" if others and not active else "")
            raise Wrong(f"{said} should have {convs} nn.{activation.__name__}, one for each convolution; {have}.")
        if len({id(layer) for layer in block.children() if isinstance(layer, activation)}) not in (convs, 0):
            raise Wrong("each convolution gets an activation object of its own: call activation() each time.")
        if any((layer.bias is None) != batch_norm for layer in convolutions):
            raise Wrong("a convolution before batch norm needs no bias, one without batch norm does.")
        order = [type(layer) for layer in block.modules() if not list(layer.children())]
        step = [nn.Conv2d, *([nn.BatchNorm2d] if batch_norm else []), activation]
        if order != [*step * convs, *([nn.MaxPool2d] if pool else [])]:
            names = ", ".join(kind.__name__ for kind in order)
            raise Wrong(f"the order is convolution, batch norm, activation, and the pool last; it is {names}.")


def check_repaired(answer: Any, draw: torch.Generator) -> None:
    """`Repaired(num_classes)`: three blocks of two convolutions with 8, 16, 32 channels, average, linear layer."""
    classes = whole(draw, 4, 9)
    advice = {
        "missing 1 required positional argument: 'kernel_size'": "nn.Conv2d needs a kernel size.",
        "is not a Module subclass": "the activation is a class; put an object of it into the block: activation().",
        "unexpected keyword argument 'activ'": "the argument of block is called activation.",
        "unexpected keyword argument 'out_size'": "the argument of nn.AdaptiveAvgPool2d is called output_size.",
    }
    try:
        model = module(call(answer, classes), "Repaired(num_classes)")
    except Wrong as wrong:
        known = [hint for words, hint in advice.items() if words in str(wrong)]
        raise Wrong(f"{known[0]} PyTorch says: {wrong}" if known else str(wrong)) from None
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    shapes = [(layer.in_channels, layer.out_channels) for layer in convolutions]
    right = [(3, 8), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32)]
    if shapes != right:
        wrong_one = next((pair for pair in zip(shapes, right, strict=False) if pair[0] != pair[1]), (shapes, right))
        raise Wrong(f"a convolution is {wrong_one[0]} (inputs, outputs), it should be {wrong_one[1]}.")
    wide = [layer.num_features for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    if wide != [8, 8, 16, 16, 32, 32]:
        raise Wrong(f"a batch norm has as many channels as its convolution gives; yours have {wide}.")
    if any(layer.kernel_size != (3, 3) or layer.padding not in ((1, 1), "same") for layer in convolutions):
        raise Wrong("the convolutions have a 3×3 kernel and padding 1.")
    images = torch.randn(3, 3, 32, 24, generator=draw)
    calls: list[str] = []
    kinds = (nn.SiLU, nn.ReLU, nn.GELU, nn.LeakyReLU, nn.Tanh, nn.ELU)
    hooks = [
        layer.register_forward_hook(lambda layer, *_: calls.append("activation"))
        for layer in model.modules()
        if isinstance(layer, kinds)
    ]
    with attempt():
        logits = model(images)
    for hook in hooks:
        hook.remove()
    if isinstance(logits, Tensor) and logits.dim() == 4:
        raise Wrong("the pooled map (B, 32, 1, 1) must be flattened before the linear layer: flatten(1).")
    tensor(logits, (3, classes), "the output for images of 32×24")
    if calls.count("activation") < 6:
        raise Wrong(
            f"an activation belongs after each of the six convolutions; {calls.count('activation')} are called. "
            "Nothing stops such a network, it is only worse."
        )


def check_residual_block(answer: Any, draw: torch.Generator) -> None:
    """`ResidualBlock(inputs, outputs, stride)`: ReLU(F(x) + shortcut(x)), with a projection where the shape changes."""
    inputs = whole(draw, 3, 4)
    x = torch.randn(4, inputs, 8, 8, generator=draw)
    for outputs, stride, projects in ((inputs, 1, False), (2 * inputs, 2, True), (inputs + 1, 1, True)):
        said = f"ResidualBlock({inputs}, {outputs}, {stride})"
        block = module(call(answer, inputs, outputs, stride), said)
        with attempt():
            got = block(x)
        if got is None:
            raise NotAnswered
        got = tensor(got, (4, outputs, 8 // stride, 8 // stride), f"the output of {said}")
        layers = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)]
        large = [layer for layer in layers if layer.kernel_size == (3, 3)]
        small = [layer for layer in layers if layer.kernel_size == (1, 1)]
        if len(large) != 2 or len(small) != projects:
            raise Wrong(
                f"{said} should have two 3×3 convolutions and {int(projects)} of 1×1, it has {len(large)} and "
                f"{len(small)}."
            )
        if any(layer.bias is not None for layer in layers):
            raise Wrong("the convolutions have no bias: bias=False.")
        norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in block.modules())
        if norms != 2 + projects:
            raise Wrong(f"{said} should have {2 + projects} batch norms, it has {norms}: one after each convolution.")
        with torch.no_grad():
            first = _norm(large[0](x))
            f = _norm(large[1](first.relu()))
            shortcut = _norm(small[0](x)) if projects else x
            right = (f + shortcut).relu()
            mistakes = {
                "the last ReLU must come after the addition.": f.relu() + shortcut,
                "the last ReLU is missing.": f + shortcut,
                "the shortcut is not added.": f.relu(),
                "the ReLU between the two convolutions is missing.": (_norm(large[1](first)) + shortcut).relu(),
            }
            if projects:
                mistakes["the projection has no batch norm."] = (f + small[0](x)).relu()
        compare(got, right, mistakes, f"the output of {said} is not ReLU(F(x) + shortcut(x)).", 1e-3)


def check_transposed_size(answer: Any, draw: torch.Generator) -> None:
    """`transposed_size(size, kernel, stride, padding, dilation, output_padding)` → a whole number."""
    cases, right, got = [], [], []
    for _ in range(40):
        size, kernel, stride = whole(draw, 4, 20), whole(draw, 2, 6), whole(draw, 1, 4)
        case = size, kernel, stride, whole(draw, 0, 1), whole(draw, 1, 2), whole(draw, 0, stride - 1)
        layer = nn.ConvTranspose2d(1, 1, kernel, stride, case[3], case[5], dilation=case[4])
        cases.append(case)
        right.append(layer(torch.zeros(1, 1, size, size)).shape[-1])
        got.append(number(call(answer, *case)))
    if got == right:
        return
    mistakes: dict[str, Callable[..., int]] = {  # what would give all that was got
        "between the first and the last copy lie I-1 steps, not I.": lambda i, k, s, p, d, o: _spread(
            i + 1, k, s, p, d, o
        ),
        "the padding is cut off on both sides: 2P.": lambda i, k, s, p, d, o: _spread(i, k, s, p, d, o) + p,
        "the padding makes the output smaller here: - 2P.": lambda i, k, s, p, d, o: _spread(i, k, s, -p, d, o),
        "the padding is missing: 2P is cut off.": lambda i, k, s, p, d, o: _spread(i, k, s, 0, d, o),
        "the dilation is missing: the kernel spans D(K-1)+1.": lambda i, k, s, p, d, o: _spread(i, k, s, p, 1, o),
        "the output padding is missing.": lambda i, k, s, p, d, o: _spread(i, k, s, p, d, 0),
        "this is the size of a convolution, not of a transposed one.": lambda i, k, s, p, d, o: (
            (i + 2 * p - d * (k - 1) - 1) // s + 1
        ),
    }
    for hint, formula in mistakes.items():
        if got == [formula(*case) for case in cases]:
            raise Wrong(hint)
    place = next(place for place in range(len(cases)) if got[place] != right[place])
    names = ("I={}, K={}, S={}, P={}, D={}, output padding {}").format(*cases[place])
    raise Wrong(f"{names} gives {right[place]}, you have {got[place]:g}.")


def _spread(size: int, kernel: int, stride: int, padding: int, dilation: int, extra: int) -> int:
    return (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1 + extra


def check_conv_transpose(answer: Any, draw: torch.Generator) -> None:
    """`conv_transpose(x, weight, stride)`: (C, H, W), (C, O, K, K) → (O, (H-1)·S+K, (W-1)·S+K)."""
    for stride, kernel in ((2, 3), (1, 2), (3, 2)):
        channels, outputs = whole(draw, 2, 3), whole(draw, 4, 5)
        x = torch.randn(channels, 3, 4, generator=draw)
        weight = torch.randn(channels, outputs, kernel, kernel, generator=draw)
        right = F.conv_transpose2d(x[None], weight, stride=stride)[0]
        got = call(answer, x.clone(), weight.clone(), stride)
        if isinstance(got, Tensor) and tuple(got.shape) == (channels, *right.shape[1:]) and channels != outputs:
            raise Wrong("weight is (C, O, K, K): the input channels come first, the output channels second.")
        got = tensor(got, tuple(right.shape))
        last = torch.zeros_like(right)
        for i in range(3):
            for j in range(4):
                place = (slice(None), slice(i * stride, i * stride + kernel), slice(j * stride, j * stride + kernel))
                last[place] = torch.einsum("c,cokl->okl", x[:, i, j], weight)
        mistakes = {
            "copies that overlap are added, not overwritten: use +=.": last,
            "the kernel is flipped: each copy is the kernel as it is.": F.conv_transpose2d(
                x[None], weight.flip(2, 3), stride=stride
            )[0],
            "the kernel's rows and columns are swapped.": F.conv_transpose2d(
                x[None], weight.transpose(2, 3), stride=stride
            )[0],
            "only the first input channel is used; sum over all.": F.conv_transpose2d(
                x[None, :1], weight[:1], stride=stride
            )[0],
            "this is the mean over the input channels; it takes their sum.": right / channels,
        }
        mistakes = {hint: value for hint, value in mistakes.items() if not close(value, right)}
        compare(got, right, mistakes, f"the values are not those of F.conv_transpose2d (K={kernel}, S={stride}).")


def check_unet(answer: Any, draw: torch.Generator) -> None:
    """`UNet(in_channels, width)`: (B, in_channels, H, W) → (B, 1, H, W), with skip connections, for any size."""
    channels, width = whole(draw, 1, 3), whole(draw, 3, 5)
    model = module(call(answer, channels, width), "UNet(in_channels, width)")
    for height, breadth in ((28, 28), (27, 22), (17, 30)):
        x = torch.randn(2, channels, height, breadth, generator=draw)
        try:
            with attempt():
                y = model.eval()(x)
        except Wrong as wrong:
            if (height, breadth) != (28, 28):
                raise Wrong(
                    f"it fails for {height}×{breadth}: where a side is odd, bring the way up to the size of the skip. "
                    f"PyTorch says: {wrong}"
                ) from None
            raise
        if y is None:
            raise NotAnswered
        y = tensor(y, (2, 1, height, breadth), f"the output for {height}×{breadth}")
    lowest = []
    for _ in range(6):
        for parameter in model.parameters():
            parameter.data = torch.randn(parameter.shape, generator=draw)
        with torch.no_grad(), attempt():
            lowest.append(model(torch.randn(4, channels, 28, 28, generator=draw)).min())
    if min(lowest) >= 0:
        raise Wrong("the last layer gives logits: no sigmoid, no ReLU after it.")
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    if 4 * width not in {layer.out_channels for layer in convolutions}:
        raise Wrong(f"at a quarter of the size there are 4·width = {4 * width} channels; no convolution gives them.")
    ups = [layer for layer in model.modules() if isinstance(layer, nn.ConvTranspose2d)]
    if len(ups) != 2:
        raise Wrong(f"two transposed convolutions lead back up, one per level; there are {len(ups)}.")
    x = torch.randn(1, channels, 28, 28, generator=draw)
    hooks = [up.register_forward_hook(lambda layer, inputs, output: torch.zeros_like(output)) for up in ups]
    with torch.no_grad(), attempt():
        blind, other = model(x), model(x + torch.randn(x.shape, generator=draw))
    for hook in hooks:
        hook.remove()
    if close(blind, other, 1e-6):
        raise Wrong("with the way up cut, the answer no longer depends on the image: concatenate the encoder's maps.")
    wide = {layer.in_channels for layer in convolutions}
    if not {2 * width, 4 * width} <= wide:
        raise Wrong("after torch.cat a convolution takes twice the channels: 4·width at half size, 2·width at full.")
    takes_both = [layer for layer in convolutions if layer.in_channels == 4 * width and layer.out_channels == 2 * width]
    if not takes_both:
        raise Wrong("at half the size the decoder takes the skip and the way up, 2·width channels each.")


def module(made: Any, said: str) -> nn.Module:
    """What the student's function or class gave, if it is a network. Raises Wrong."""
    if not isinstance(made, nn.Module):
        raise Wrong(f"{said} must be an nn.Module, got {short(made)}.")
    if not isinstance(made, nn.Sequential) and type(made).forward is nn.Module.forward:
        raise Wrong("the method forward is missing: it says what happens to x.")
    return made


def _norm(y: Tensor) -> Tensor:
    """Batch norm with new parameters, in training mode."""
    return F.batch_norm(y, None, None, training=True)
