"""The gradient of the last step: as one number, and layer by layer."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from cnnlab.tracking.base import Gradient


def gradient_norm(model: nn.Module) -> Tensor:
    """Euclidean norm of the gradient of all parameters together, a scalar on their device."""
    return nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


def layer_gradients(model: nn.Module) -> dict[str, Gradient]:
    """Norm and histogram of the gradient of each layer's parameters together."""
    values: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            values.setdefault(name.rpartition(".")[0] or name, []).append(parameter.grad.float().flatten().cpu())
    summaries = {}
    for layer, parts in values.items():
        flat = torch.cat(parts)
        finite = flat[flat.isfinite()].double().numpy()  # in float32 the bins of a narrow range are one number
        low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
        margin = 0.0 if low < high else max(0.5, abs(low))
        counts, edges = np.histogram(finite, bins=64, range=(low - margin, high + margin))
        summaries[layer] = Gradient(flat.norm().item(), counts.tolist(), edges.tolist())
    return summaries
