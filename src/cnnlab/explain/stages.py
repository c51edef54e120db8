"""What one image becomes on its way through the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cnnlab.explain.hooks import evaluation_mode, record_outputs


@torch.no_grad()
def stage_maps(model: nn.Module, image: Tensor) -> list[tuple[str, Tensor]]:
    """Feature maps after each stage of a model.

    Args:
        image: (C, H, W) preprocessed image.

    Returns:
        Names of the stages with their (F, h, w) maps, from the input on; stages without a map are left out. Empty for
        a model that names no stages.
    """
    names = [name for name in getattr(model, "stages", ()) if name]
    with evaluation_mode(model), record_outputs(model, names) as outputs:
        model(image[None])
    return [(name, output[0].float()) for name, output in outputs.items() if output.ndim == 4]
