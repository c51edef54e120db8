"""Does a map show what the model looks at? Take away, or put in, the pixels in its order, and watch the probability.

Deletion and insertion after Petsiuk et al. 2018 (RISE, section 4.3). A map that tells where the class is makes the
probability fall early when its strongest pixels go (small area under the curve), and rise early when they come (large).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.explain.hooks import evaluation_mode
from cnnlab.tasks.decision import SINGLE_LABEL, DecisionRule

BLUR = 0.1  # standard deviation of the blur that insertion begins with, in sides of the image
BATCH = 64


@torch.no_grad()
def deletion_insertion(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    steps: int = 16,
    rule: DecisionRule = SINGLE_LABEL,
) -> dict[str, Tensor]:
    """Areas under the curves of the target's probability over the share of pixels deleted or inserted.

    Args:
        images: (B, C, H, W) preprocessed; a deleted pixel becomes 0, the mean colour.
        maps: (B, H, W); pixels go from the largest value on, equal ones in random order.
        targets: (B,) classes.
        steps: parts in which all pixels go; the curve has one point more.
        rule: that of the model, which makes probabilities of its logits.

    Returns:
        "deletion" and "insertion": (B,) float32 in [0, 1], by the trapezoidal rule, on the processor.
    """
    count, _, height, width = images.shape
    if maps.shape != (count, height, width) or len(targets) != count or steps < 1:
        raise ValueError(f"maps {tuple(maps.shape)} and {len(targets)} targets do not fit images {tuple(images.shape)}")
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(height * width, generator=generator)
    shuffled = noise.argsort()
    order = maps.flatten(1).cpu()[:, shuffled].argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, shuffled[order], torch.arange(height * width).expand(count, -1))
    rank = rank.view(count, 1, height, width).to(images.device)
    blurred = blur(images, BLUR * min(height, width))
    curves: dict[str, list[Tensor]] = {"deletion": [], "insertion": []}
    with evaluation_mode(model):
        for step in range(steps + 1):
            gone = rank < step * height * width / steps
            for name, without, present in (
                ("deletion", images, torch.zeros_like(images)),
                ("insertion", blurred, images),
            ):
                logits = [model(part) for part in torch.split(torch.where(gone, present, without), BATCH)]
                probabilities = rule.probabilities(torch.cat(logits).float())
                curves[name].append(probabilities.gather(1, targets.to(images.device)[:, None])[:, 0].cpu())
    return {name: torch.trapezoid(torch.stack(points), dx=1 / steps, dim=0) for name, points in curves.items()}


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (B, C, H, W) with the border repeated; `sigma` in pixels."""
    reach = max(1, round(3 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=images.device) / max(sigma, 1e-3)) ** 2)
    weights = (weights / weights.sum()).to(images.dtype)
    channels = images.shape[1]
    for shape, border in (((1, 1, -1, 1), (0, 0, reach, reach)), ((1, 1, 1, -1), (reach, reach, 0, 0))):
        kernel = weights.view(shape).repeat(channels, 1, 1, 1)
        images = F.conv2d(F.pad(images, border, mode="replicate"), kernel, groups=channels)
    return images


def random_maps(count: int, height: int, width: int, seed: int, cells: int = 8) -> Tensor:
    """(count, height, width) in [0, 1]: random numbers on cells × cells places, enlarged as an activation map is.

    A map that is random from pixel to pixel would be no fair rival: it takes away every fine structure at once.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, cells, cells, generator=generator)
    return F.interpolate(coarse, (height, width), mode="bilinear")[:, 0]
