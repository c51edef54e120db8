"""Every model of `cnnlab model --list` in a small setting, and classes of a user's own with what those leave out."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.models.registry import create_model

CLASSES = 5
SMALL: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {  # name: arguments, shape of an image
    "alexnet": ({"width": 2, "hidden": [8], "image_size": 64}, (3, 64, 64)),
    "convnet": ({"width": 4, "image_size": 32, "blur_pool": True}, (3, 32, 32)),
    "lenet": ({"image_size": 28, "in_channels": 1}, (1, 28, 28)),
    "mlp": ({"hidden": [9, 7], "image_size": 8, "in_channels": 1}, (1, 8, 8)),
    "pretrained": ({"architecture": "squeezenet1_1", "weights": None}, (3, 24, 24)),
    "resnet": ({"depth": 8, "width": 4}, (3, 16, 16)),
    "resnet18": ({"width": 4, "image_size": 32}, (3, 32, 32)),
    "resnet50": ({"width": 2, "image_size": 32}, (3, 32, 32)),
    "speednet": ({"widths": [4, 8, 8]}, (3, 32, 32)),
    "unet": ({"depth": 2, "width": 4, "upsample": "bilinear"}, (3, 15, 18)),
    "vgg": ({"width": 4, "image_size": 16, "activation": "gelu"}, (3, 16, 16)),
    "vgg11": ({"width": 2, "hidden": [8, 8], "image_size": 32}, (3, 32, 32)),
}
SAME_LAYERS = {"resnet34": "resnet18", "vgg13": "vgg11", "vgg16": "vgg11", "vgg19": "vgg11"}  # only more of them


class Own(nn.Module):
    """Grouped, dilated, strided and transposed convolutions, all norms, joins, and functions of `forward` itself."""

    def __init__(self, in_channels: int = 3, num_classes: int = CLASSES) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.first = nn.Conv2d(in_channels, 8, (3, 5), stride=(2, 1), padding=(1, 3), dilation=(2, 1))
        self.even = nn.Conv2d(8, 8, 4, padding="same", groups=4)
        self.norms = nn.Sequential(
            nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True), nn.PReLU(8), nn.BatchNorm2d(8)
        )
        self.layer_norm = nn.LayerNorm(8)
        self.up = nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=2)
        self.ceil = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
        self.mean = nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False)
        self.head = nn.Linear(12, num_classes)
        self.scale = nn.Parameter(torch.linspace(0.5, 2, 8)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.first(x))
        x = self.norms(self.even(x)) * self.scale - 0.25
        x = self.layer_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        a, b = x.chunk(2, 1)
        x = torch.cat([a.sigmoid() * b, F.softplus(b).clamp(max=1.5)], 1)
        x = self.up(F.pad(x, (1, 0, 2, -1)))
        x = torch.cat([self.ceil(x), self.mean(x)], 1)
        x = F.interpolate(x, scale_factor=1.5, mode="nearest") + 1
        weights = x.flatten(2).softmax(-1)
        return self.head((weights * x.flatten(2)).sum(-1))


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A model of random weights whose statistics are not those it begins with, and (2, C, H, W) images."""
    torch.manual_seed(1)
    arguments, shape = SMALL.get(name, ({}, (3, 16, 20)))
    model = Own() if name == "own" else create_model(name, num_classes=CLASSES, **arguments)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval(), torch.randn(2, *shape)
