"""Lab 0, checks of formulas: convolution, its size, the gradient, the loss, the optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.labs.answers import Wrong, attempt, call, close, compare, number, pair, short, tensor, whole

STEPS = 5  # of an optimizer


def check_convolve(answer: Any, draw: torch.Generator) -> None:
    """`convolve(x, weight, bias)`: (C, H, W), (O, C, K, K), (O,) → (O, H-K+1, W-K+1)."""
    inputs, outputs, size = whole(draw, 2, 3), whole(draw, 2, 4), 3
    height, width = whole(draw, 5, 6), whole(draw, 7, 9)
    x = torch.randn(inputs, height, width, generator=draw)
    weight = torch.randn(outputs, inputs, size, size, generator=draw)
    bias = 1 + torch.rand(outputs, generator=draw)
    right = F.conv2d(x[None], weight, bias)[0]
    got = call(answer, x.clone(), weight.clone(), bias.clone())
    shape = tuple(got.shape) if isinstance(got, Tensor) else ()
    if shape == (outputs, height, width):
        raise Wrong(f"the output is as large as the input. Without padding a {size}×{size} kernel fits H-K+1 times.")
    if shape == (outputs, height - size, width - size):
        raise Wrong("the last row and column are missing: the kernel fits H-K+1 times, not H-K.")
    if shape == (outputs, inputs, *right.shape[1:]):
        raise Wrong("the input channels are still apart: one output channel is the sum over all input channels.")
    if shape == (outputs, *reversed(right.shape[1:])) and shape != tuple(right.shape):
        raise Wrong("height and width are swapped: the output is (O, H-K+1, W-K+1).")
    got = tensor(got, tuple(right.shape))
    b = bias[:, None, None]
    plain = right - b
    mistakes = {
        "the kernel is flipped. What deep learning calls a convolution does not flip it.": F.conv2d(
            x[None], weight.flip(2, 3), bias
        )[0],
        "the kernel's rows and columns are swapped.": F.conv2d(x[None], weight.transpose(2, 3), bias)[0],
        "the bias is missing.": plain,
        "the bias is added once for each input channel. Add it once for each output value.": plain + inputs * b,
        "the bias is added for every product. Add it once for each output value.": plain + inputs * size**2 * b,
        "this is the mean over the input channels; a convolution takes their sum.": plain / inputs + b,
        "this is the mean over the window; a convolution takes the sum.": plain / (inputs * size**2) + b,
        "only the first input channel is used; sum over all of them.": F.conv2d(x[None, :1], weight[:, :1], bias)[0],
        "only the last input channel is used: add to the sum, do not overwrite it.": F.conv2d(
            x[None, -1:], weight[:, -1:], bias
        )[0],
        "all output channels use the first kernel.": F.conv2d(x[None], weight[:1].expand_as(weight), bias)[0],
    }
    compare(got, right, mistakes, "the shape is right, the values are not those of torch.nn.functional.conv2d.")


def check_numerical_gradient(answer: Any, draw: torch.Generator) -> None:
    """`numerical_gradient(f, x)`: a function of a tensor to a number, a float64 tensor → df/dx of the same shape."""
    x = 1 + torch.rand(2, 3, generator=draw, dtype=torch.float64)
    weight = torch.randn(2, 3, generator=draw, dtype=torch.float64)

    def f(x: Tensor) -> Tensor:
        return (weight * x**3).sum()

    given = x.clone()
    got = call(answer, f, given)
    if not torch.equal(given, x):
        raise Wrong("x is not the same afterwards. Put each element back, or change a copy.")
    if isinstance(got, float | int) or (isinstance(got, Tensor) and got.ndim == 0):
        raise Wrong("the gradient has a value for each element of x, so the shape of x; this is a single number.")
    got = tensor(got, tuple(x.shape), "the gradient").double()
    right = 3 * weight * x**2
    mistakes = {
        "the sign is wrong: it is f(x + ε) minus f(x - ε).": -right,
        "twice the gradient: from x - ε to x + ε the step is 2ε, so divide by 2ε.": 2 * right,
        "half the gradient: from x to x + ε the step is ε, so divide by ε; or take both sides and 2ε.": right / 2,
        "the same value everywhere: move one element at a time, not all of x.": right.sum().expand_as(right),
    }
    compare(got, right, mistakes, "this is not the gradient of Σ w·x³, 3·w·x².", tolerance=1e-3)
    if not close(got, right, 1e-5):
        raise Wrong("not exact enough: with (f(x + ε) - f(x - ε)) / 2ε and ε = 1e-4 the error is of order ε².")


def _sizes(draw: torch.Generator) -> tuple[int, int, int, int, int]:
    return whole(draw, 16, 64), whole(draw, 2, 7), whole(draw, 1, 4), whole(draw, 0, 3), whole(draw, 1, 2)


def real_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """What a layer of PyTorch gives; on the meta device nothing is computed."""
    layer = nn.Conv1d(1, 1, kernel, stride, padding, dilation, device="meta")
    return layer(torch.empty(1, 1, size, device="meta")).shape[-1]


def check_output_size(answer: Any, draw: torch.Generator) -> None:
    """`output_size(size, kernel, stride, padding, dilation)` → a whole number, on 200 real layers."""
    cases = [(32, 3, 1, 1, 1), (9, 3, 1, 0, 2), *(_sizes(draw) for _ in range(200))]
    right = [real_size(*case) for case in cases]
    got = [number(call(answer, *case), "the size") for case in cases]
    if got == right:
        return

    def all_are(formula: Callable[[int, int, int, int, int], float]) -> bool:
        return all(abs(formula(*case) - one) < 1e-6 for case, one in zip(cases, got, strict=True))

    def formula(i: int, k: int, s: int, p: int, d: int) -> float:
        return (i + 2 * p - d * (k - 1) - 1) / s + 1

    mistakes: dict[str, Callable[[int, int, int, int, int], float]] = {
        "the floor is missing: there are no half positions. Divide with //.": formula,
        "the size is rounded; a position that does not fit whole does not count, so round down.": lambda *c: round(
            formula(*c)
        ),
        "the size is rounded up; a position that does not fit whole does not count, so round down.": lambda *c: (
            math.ceil(formula(*c))
        ),
        "the padding is added on both sides, so the input grows by 2P.": lambda i, k, s, p, d: (
            (i + p - d * (k - 1) - 1) // s + 1
        ),
        "the padding is forgotten.": lambda i, k, s, p, d: (i - d * (k - 1) - 1) // s + 1,
        "the dilation is forgotten: a kernel spans D(K-1)+1 pixels.": lambda i, k, s, p, d: (i + 2 * p - k) // s + 1,
        "with dilation a kernel spans D(K-1)+1 pixels, not D·K.": lambda i, k, s, p, d: (i + 2 * p - d * k) // s + 1,
        "one too few: the first position costs no step, so add 1 after the division.": lambda *c: formula(*c) // 1 - 1,
        "one too many: the first position is the 1 that is added after the division.": lambda *c: formula(*c) // 1 + 1,
        "the 1 is added before the division; the steps are divided by the stride, the first position is not.": (
            lambda i, k, s, p, d: (i + 2 * p - d * (k - 1)) // s
        ),
        "the stride is forgotten.": lambda i, k, s, p, d: formula(i, k, 1, p, d),
    }
    for hint, wrong in mistakes.items():
        if all_are(wrong):
            raise Wrong(hint)
    i, k, s, p, d = cases[(case := next(n for n, one in enumerate(got) if one != right[n]))]
    raise Wrong(f"for I={i}, K={k}, S={s}, P={p}, D={d} a layer of PyTorch gives {right[case]}, you {got[case]:g}.")


def check_output_shape(answer: Any, draw: torch.Generator) -> None:
    """`output_shape(shape, out_channels, kernel, stride=1, padding=0, dilation=1)`: (B, C, H, W) → (B, O, H', W')."""
    for _ in range(20):
        batch, channels, outputs = whole(draw, 2, 4), whole(draw, 5, 6), whole(draw, 7, 9)
        height, kernel, stride, padding, dilation = _sizes(draw)
        width = height + whole(draw, 8, 20)
        with attempt():
            shape = (batch, channels, height, width)
            got = call(answer, shape, outputs, kernel, stride=stride, padding=padding, dilation=dilation)
            got = tuple(got) if isinstance(got, tuple | list) else got
        high, wide = (real_size(side, kernel, stride, padding, dilation) for side in (height, width))
        right = (batch, outputs, high, wide)
        if got == right:
            continue
        hints = {
            (batch, channels, high, wide): "the output has out_channels channels, not those of the input.",
            (outputs, high, wide): "the batch is missing: four numbers go in and four come out.",
            (high, wide): "the batch and the channels are missing: the result is (B, out_channels, H', W').",
            (batch, outputs, high, high): "the width is computed from the height; images need not be square.",
            (batch, outputs, wide, wide): "the height is computed from the width; images need not be square.",
            (batch, outputs, wide, high): "height and width are swapped; a shape is (B, C, H, W).",
            (outputs, channels, high, wide): "the batch keeps its size; out_channels takes the place of the channels.",
        }
        shown = short(got)
        layer = f"{outputs} channels, K={kernel}, S={stride}, P={padding}, D={dilation}"
        otherwise = f"for {shape}, {layer} it is {right}, got {shown}."
        raise Wrong(hints.get(got, otherwise) if isinstance(got, tuple) else otherwise)


def check_cross_entropy(answer: Any, draw: torch.Generator) -> None:
    """`cross_entropy(logits, labels)`: (B, K), (B,) → the mean loss."""
    count, classes = 6, 4
    logits = 2 * torch.randn(count, classes, generator=draw)
    labels = torch.randperm(count, generator=draw) % classes
    right = F.cross_entropy(logits, labels)
    got = call(answer, logits.clone().requires_grad_(), labels.clone())
    if not isinstance(got, Tensor):
        raise Wrong(f"return a tensor of one number, got {short(got)}: the training loop calls backward() on it.")
    if not got.requires_grad:
        raise Wrong("the loss is cut off from the logits (.item(), .detach(), torch.tensor(…)?), so nothing can learn.")
    if got.numel() > 1:
        raise Wrong(f"the loss of a batch is one number, the mean; got shape {tuple(got.shape)}.")
    value = torch.tensor(number(got, "the loss"))
    picked = logits.softmax(1)[torch.arange(count), labels]
    twice = F.cross_entropy(logits.softmax(1), labels)
    shifted = logits - logits.amax(1, keepdim=True)
    below = shifted - shifted.logsumexp(0)
    mistakes = {
        "the minus is missing: a probability below 1 has a negative logarithm.": -right,
        "this is the sum; take the mean, so that the loss does not depend on the size of the batch.": right * count,
        "this is divided by the number of classes too; take the mean over the images alone.": right / classes,
        "softmax is applied twice: F.cross_entropy and log_softmax take logits as they are.": twice,
        "this is the mean probability of the true class; the loss is minus its logarithm.": picked.mean(),
        "this is minus the probability; the loss is minus its logarithm.": -picked.mean(),
        "this is the logarithm of base 2; the loss takes the natural one, torch.log.": right / math.log(2),
        "this is the logarithm of base 10; the loss takes the natural one, torch.log.": right / math.log(10),
        "softmax runs over the batch; it runs over the classes, dim=1.": F.nll_loss(logits.log_softmax(0), labels),
        "the sum of the exponentials runs over the batch; it runs over the classes, dim=1.": F.nll_loss(below, labels),
        "the logarithm of the mean is not the mean of the logarithms: take log first.": -picked.mean().log(),
        "the loss is that of the largest logit; it is that of the true class.": -logits.log_softmax(1).amax(1).mean(),
        "this is minus the true logit; divide by the sum of the exponentials (softmax) first.": -logits[
            torch.arange(count), labels
        ].mean(),
    }
    compare(value, right, mistakes, "this is not the value of torch.nn.functional.cross_entropy.")
    large = call(answer, 1000 * logits, labels.clone())
    if not torch.as_tensor(large).isfinite().all():
        raise Wrong("logits of 1000 overflow: exp(1000) is infinite. Subtract the largest logit first.")


def _path(step: Callable[[Tensor, Tensor, int], Tensor], start: Tensor, target: Tensor) -> Tensor:
    """The weights after each step on ½|w - target|², whose gradient is w - target. (STEPS, n)"""
    weights, path = start.clone(), []
    for t in range(1, STEPS + 1):
        weights = step(weights, weights - target, t)
        path.append(weights)
    return torch.stack(path)


def _torch_path(make: Callable[[list[Tensor]], torch.optim.Optimizer], start: Tensor, target: Tensor) -> Tensor:
    weights = start.clone().requires_grad_()
    optimizer, path = make([weights]), []
    for _ in range(STEPS):
        weights.grad = (weights - target).detach()
        optimizer.step()
        path.append(weights.detach().clone())
    return torch.stack(path)


def _problem(draw: torch.Generator) -> tuple[Tensor, Tensor, float]:
    return torch.randn(4, generator=draw), torch.randn(4, generator=draw) + 4, 0.1 + 0.1 * whole(draw, 0, 3)


def _next(value: Any, before: Tensor) -> Tensor:
    """The new weights, returned or changed in place."""
    return tensor(value, tuple(before.shape), "the new weights").clone()


def check_sgd(answer: Any, draw: torch.Generator) -> None:
    """`sgd(w, g, lr)` → the new weights, for several steps beside torch.optim.SGD."""
    start, target, lr = _problem(draw)
    right = _torch_path(lambda w: torch.optim.SGD(w, lr=lr), start, target)
    got = _path(lambda w, g, _: _next(call(answer, w.clone(), g.clone(), lr), w), start, target)
    mistakes = {
        "this climbs: the gradient points uphill, so subtract it.": _path(lambda w, g, _: w + lr * g, start, target),
        "the learning rate is missing.": _path(lambda w, g, _: w - g, start, target),
        "the step is divided by the learning rate; multiply.": _path(lambda w, g, _: w - g / lr, start, target),
        "this is the step alone; return w minus the step.": _path(lambda w, g, _: lr * g, start, target),
        "this is minus the step alone; return w minus the step.": _path(lambda w, g, _: -lr * g, start, target),
        "the weights are as before: return w - lr · g.": start.expand(STEPS, -1),
    }
    compare(got, right, mistakes, f"the weights differ from those of torch.optim.SGD within {STEPS} steps.")


def check_momentum(answer: Any, draw: torch.Generator) -> None:
    """`momentum(w, g, v, lr, mu)` → the new weights and the new velocity, which starts at 0."""
    start, target, lr = _problem(draw)
    mu = 0.9

    def path(step: Callable[[Tensor, Tensor, Tensor], tuple[Any, Any]]) -> Tensor:
        kept = torch.zeros_like(start)

        def one(w: Tensor, g: Tensor, _: int) -> Tensor:
            nonlocal kept
            new, velocity = step(w.clone(), g.clone(), kept.clone())
            kept = tensor(velocity, tuple(w.shape), "the new velocity").clone()
            return _next(new, w)

        return _path(one, start, target)

    right = _torch_path(lambda w: torch.optim.SGD(w, lr=lr, momentum=mu), start, target)
    got = path(lambda w, g, v: pair(call(answer, w, g, v, lr, mu), "the new weights and the new velocity"))
    plain = _torch_path(lambda w: torch.optim.SGD(w, lr=lr), start, target)
    nesterov = _torch_path(lambda w: torch.optim.SGD(w, lr=lr, momentum=mu, nesterov=True), start, target)
    mistakes = {
        "this climbs: subtract lr · v from the weights.": path(lambda w, g, v: (w + lr * (mu * v + g), mu * v + g)),
        "the velocity is not used, or never kept: this is SGD without momentum.": plain,
        "the gradient is weighted by 1 - μ; PyTorch adds it whole: v = μ·v + g.": path(
            lambda w, g, v: (w - lr * (mu * v + (1 - mu) * g), mu * v + (1 - mu) * g)
        ),
        "μ is missing: the old velocity fades by μ, v = μ·v + g.": path(lambda w, g, v: (w - lr * (v + g), v + g)),
        "the weights move by the old velocity; renew it first, then move.": path(
            lambda w, g, v: (w - lr * v, mu * v + g)
        ),
        "the learning rate is missing.": path(lambda w, g, v: (w - (mu * v + g), mu * v + g)),
        "this is Nesterov's momentum, which looks ahead; here plain momentum is asked for.": nesterov,
        "the gradient is subtracted from the velocity: v = μ·v + g, then w - lr · v.": path(
            lambda w, g, v: (w - lr * (mu * v - g), mu * v - g)
        ),
        "the two results are in the wrong order: first the weights, then the velocity.": path(
            lambda w, g, v: (mu * v + g, w - lr * (mu * v + g))
        ),
    }
    otherwise = f"the weights differ from those of torch.optim.SGD(momentum={mu}) within {STEPS} steps."
    compare(got, right, mistakes, otherwise)


def check_adam(answer: Any, draw: torch.Generator) -> None:
    """`adam(w, g, m, v, t, lr, beta1, beta2, eps)` → the new weights, m and v; t counts from 1."""
    start, target, lr = _problem(draw)
    start[0] = target[0] + 2e-3  # a small gradient, where the place of ε matters
    betas, eps = (0.9, 0.99), 1e-3
    State = tuple[Any, Any, Any]  # noqa: N806

    def path(step: Callable[[Tensor, Tensor, Tensor, Tensor, int], State]) -> Tensor:
        m, v = torch.zeros_like(start), torch.zeros_like(start)

        def one(w: Tensor, g: Tensor, t: int) -> Tensor:
            nonlocal m, v
            new, first, second = step(w.clone(), g.clone(), m.clone(), v.clone(), t)
            m = tensor(first, tuple(w.shape), "m").clone()
            v = tensor(second, tuple(w.shape), "v").clone()
            return _next(new, w)

        return _path(one, start, target)

    def theirs(w: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int) -> State:
        state = call(answer, w, g, m, v, t, lr, *betas, eps)
        if not isinstance(state, tuple | list) or len(state) != 3:
            raise Wrong(f"return three things: the new weights, m and v; got {short(state)}.")
        if isinstance(state[0], Tensor) and state[0].isnan().any():
            raise Wrong("the weights are NaN, the root of a negative number: v is the mean of the squares, so use g².")
        return state[0], state[1], state[2]

    def variant(
        *,
        correct: bool = True,
        square: bool = True,
        root: bool = True,
        inside: bool = False,
        swapped: bool = False,
        whole_gradient: bool = False,
        sign: float = -1,
        late: int = 0,
        only_first: bool = False,
    ) -> Callable[[Tensor, Tensor, Tensor, Tensor, int], State]:
        b1, b2 = reversed(betas) if swapped else betas

        def step(w: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int) -> State:
            m = b1 * m + (1 if whole_gradient else 1 - b1) * g
            v = b2 * v + (1 if whole_gradient else 1 - b2) * (g**2 if square else g)
            high, low = (m / (1 - b1 ** (t + late)), v / (1 - b2 ** (t + late))) if correct else (m, v)
            low = v if only_first else low
            below = (low + eps).abs().sqrt() if inside else (low.abs().sqrt() if root else low) + eps
            return w + sign * lr * high / below, m, v

        return step

    right = _torch_path(lambda w: torch.optim.Adam(w, lr=lr, betas=betas, eps=eps), start, target)
    got = path(theirs)
    mistakes = {
        "the bias correction is missing: divide m by 1 - β₁ᵗ and v by 1 - β₂ᵗ.": path(variant(correct=False)),
        "only m is corrected; v needs the same, divided by 1 - β₂ᵗ.": path(variant(only_first=True)),
        "the correction uses t + 1; t counts from 1 already.": path(variant(late=1)),
        "v is the mean of the squares: use g².": path(variant(square=False)),
        "the root of v is missing: divide by √v + ε.": path(variant(root=False)),
        "ε is inside of the root; add it after: √v + ε.": path(variant(inside=True)),
        "β₁ and β₂ are swapped: β₁ belongs to m, β₂ to v.": path(variant(swapped=True)),
        "the new gradient counts 1 - β: m = β₁·m + (1 - β₁)·g, v = β₂·v + (1 - β₂)·g².": path(
            variant(whole_gradient=True)
        ),
        "this climbs: subtract the step.": path(variant(sign=1)),
        "this is plain SGD: divide m by √v + ε.": _torch_path(lambda w: torch.optim.SGD(w, lr=lr), start, target),
    }
    compare(got, right, mistakes, f"the weights differ from those of torch.optim.Adam within {STEPS} steps.", 1e-3)
