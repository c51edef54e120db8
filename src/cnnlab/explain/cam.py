"""Class activation maps: which places of the last feature map speak for a class.

    cam       Zhou et al. 2016, eq. 2: the features weighted as the last layer weights their averages
    gradcam   Selvaraju et al. 2017, eqs. 1 and 2: weighted by the mean gradient of the logit
    layercam  Jiang et al. 2021, eqs. 5 and 6: weighted place by place by the positive gradient; sharp in earlier layers

Negative evidence is cut off (ReLU) in all three, so for a head of a global average and one linear layer cam
and gradcam are the same but for a factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.errors import ModelError
from cnnlab.explain.head import averages_everywhere, head_layers
from cnnlab.explain.hooks import evaluation_mode, replace_output
from cnnlab.finite import check_answers
from cnnlab.models.base import Classifier

METHODS = ("cam", "gradcam", "layercam")
Target = int | Sequence[int] | Tensor | None


def gradcam(model: nn.Module, images: Tensor, target: Target = None, layer: str | None = None) -> Tensor:
    """Grad-CAM; see `activation_maps`."""
    return activation_maps(model, images, "gradcam", target, layer)


def layercam(model: nn.Module, images: Tensor, target: Target = None, layer: str | None = None) -> Tensor:
    """Layer-CAM; see `activation_maps`."""
    return activation_maps(model, images, "layercam", target, layer)


def cam(model: nn.Module, images: Tensor, target: Target = None) -> Tensor:
    """CAM, for a head of a global average and one linear layer; see `activation_maps`."""
    return activation_maps(model, images, "cam", target)


def activation_maps(
    model: nn.Module, images: Tensor, method: str = "auto", target: Target = None, layer: str | None = None
) -> Tensor:
    """Where the model sees a class, as large as the images.

    Args:
        images: (B, C, H, W) preprocessed images.
        method: cam, gradcam, layercam, or auto: cam where the head allows it, else gradcam.
        target: number of the class, one for all images or (B,) of them; None: the class that the model answers.
        layer: dotted name of the layer whose map is weighted; None: the model's last feature map.

    Returns:
        (B, H, W) float32 in [0, 1], bilinearly enlarged; the largest value of each map is 1, or it is 0 throughout
        where there is no evidence for the class.

    Raises:
        ModelError: a model without a feature map, a class or layer that does not exist, or cam for another head.
    """
    maps = F.interpolate(raw_maps(model, images, method, target, layer)[:, None], images.shape[2:], mode="bilinear")
    largest = maps.amax(dim=(2, 3), keepdim=True)
    return (maps / torch.where(largest > 0, largest, 1.0))[:, 0]


def raw_maps(
    model: nn.Module, images: Tensor, method: str = "auto", target: Target = None, layer: str | None = None
) -> Tensor:
    """(B, h, w) maps as the equations give them, at the size of the layer; arguments as for `activation_maps`."""
    if images.ndim != 4:
        raise ModelError(f"images must be (B, C, H, W), got shape {tuple(images.shape)}.")
    method = chosen_method(model, method, layer)
    if method not in METHODS:
        raise ModelError(f"method must be {', '.join(METHODS)} or auto, got {method!r}.")
    if method == "cam":
        if layer is not None:
            raise ModelError("cam weights the last feature map; for another layer use gradcam or layercam.")
        layers = head_layers(model)
        if not averages_everywhere(layers):
            raise ModelError(
                f"cam needs a head of a global average and one linear layer, and {type(model).__name__} has another;"
                " use gradcam."
            )
        weights = cast(Tensor, layers[-1].weight).detach()
    name = last_layer(model) if layer is None else layer
    with evaluation_mode(model), torch.enable_grad(), replace_output(model, name) as outputs:
        logits = check_answers(model(images.detach().clone()))
        if not outputs:
            raise ModelError(f"layer {name!r} is not used in the forward pass.")
        features, classes = outputs[-1], targets_of(logits, target)
        if method == "cam":
            return _weighted(features.detach(), weights[classes])
        score = logits.gather(1, classes[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, features)
    features = features.detach()
    if method == "layercam":
        return (gradient.relu() * features).sum(1).relu().float()
    return _weighted(features, gradient.mean(dim=(2, 3)))


def _weighted(features: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("bf,bfhw->bhw", weights, features).relu().float()


def chosen_method(model: nn.Module, method: str, layer: str | None) -> str:
    """What is meant by a method, which may be auto, and a layer."""
    if method != "auto":
        return method
    return method_of(model) if layer is None else "gradcam"


def method_of(model: nn.Module) -> str:
    """What "auto" stands for: cam where the head is a global average and one linear layer, else gradcam."""
    try:
        return "cam" if averages_everywhere(head_layers(model)) else "gradcam"
    except ModelError:
        last_layer(model)
        return "gradcam"


def last_layer(model: nn.Module) -> str:
    """Name of the module that gives the model's last feature map. Raises ModelError where there is none."""
    if not isinstance(model, Classifier):
        raise ModelError(
            f"{type(model).__name__} is no cnnlab.Classifier and does not name its last feature map; give a layer."
        )
    return model.feature_info.module


def targets_of(logits: Tensor, target: Target) -> Tensor:
    """(B,) numbers of classes. Raises ModelError for one that does not exist."""
    if logits.ndim != 2:
        raise ModelError("this model classifies every pixel; activation maps are for classes of whole images.")
    if target is None:
        return logits.argmax(1)
    count, classes = logits.shape
    try:
        numbers = torch.as_tensor(target, device=logits.device)
    except (TypeError, ValueError, RuntimeError):
        raise ModelError(f"target must be a whole number, or one for each image, got {target!r}.") from None
    if numbers.is_floating_point() or numbers.dtype == torch.bool or numbers.ndim > 1:
        raise ModelError(f"target must be a whole number, or one for each image, got {target!r}.")
    if numbers.ndim == 1 and len(numbers) != count:
        raise ModelError(f"target has {len(numbers)} classes for {count} images.")
    numbers = numbers.long().expand(count)
    for number in numbers.tolist():
        if not 0 <= number < classes:
            raise ModelError(f"target {number} does not exist: the model has {classes} classes, 0 to {classes - 1}.")
    return numbers
