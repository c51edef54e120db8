"""Classifiers of torchvision behind our contract, with the weights that it publishes for them or without.

In all its families but one the modules up to the pooling run one after another: they become `features`. The pooling,
the fully connected layers and the last layer become `pool`, `hidden` and `head`. A vision transformer has no map of
features: it becomes `body` and `head`.
"""

from __future__ import annotations

import math
import pickle
import re
import socket
import sys
from collections import OrderedDict
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cnnlab.errors import ModelError, nearest
from cnnlab.models.base import Classifier, FeatureInfo, GlobalAveragePool, check_counts, new_head_like

if TYPE_CHECKING:
    from collections.abc import Iterator

AFTER_FEATURES = ("avgpool", "classifier", "fc", "head", "heads")  # the first of these ends the features
CONTAINERS = ("features", "layers", "blocks", "trunk_output")  # their members become members of our `features`
SILENCE = 30.0  # seconds without a byte after which a download has failed

Paths = list[tuple[str, nn.Module]]


class Pretrained(Classifier):
    """A classifier of torchvision. Its published weights expect images normalised with ImageNet's mean and deviation.

    Args:
        architecture: any classification model of torchvision, such as resnet18, efficientnet_b0 or vit_b_16.
        weights: "DEFAULT" (the best that torchvision publishes), their name such as "IMAGENET1K_V1", or None: random.
        load_weights: False builds the same network without fetching `weights`, where its tensors come from elsewhere.
        in_channels: channels of the image. If not 3, the first convolution is replaced. Of `weights`, one channel
            gets the sum of the kernels for red, green and blue, so that a grey image gives what it gave in colour;
            other numbers get the three in turn, scaled by 3/in_channels.
        num_classes: number of logits. The last layer of `weights` stays if it has as many classes (1,000); else it is
            fresh.

    Shapes: (B, in_channels, H, W) → features (B, F, h, w) → logits (B, num_classes); F and H/h: see `feature_info`.

    Raises:
        ModelError: an unknown name, or weights that are not in torch's cache and cannot be downloaded.
    """

    # What differs when a run folder rebuilds the model: the tensors are in its file, so nothing is fetched.
    rebuild_arguments: ClassVar[dict[str, Any]] = {"load_weights": False}

    def __init__(
        self,
        architecture: str = "resnet18",
        weights: str | None = "DEFAULT",
        load_weights: bool = True,
        in_channels: int = 3,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        check_counts(in_channels=in_channels, num_classes=num_classes)
        self.architecture = architecture
        self.in_channels = in_channels
        self.num_classes = num_classes
        net, self.image_size = build(architecture, weights)
        trained = weights is not None and load_weights
        if trained:
            load(net, fetch_tensors(architecture, weights or ""))
        if in_channels != 3:
            replace_first_convolution(net, in_channels, trained)

        features, rest = split(net)
        place = max(i for i, (_, module) in enumerate(rest) if isinstance(module, nn.Linear | nn.Conv2d))
        (last_path, last), after = rest[place], [module for _, module in rest[place + 1 :]]
        self.moved = {last_path: "head"}  # path in torchvision → path here
        self.after = nn.Sequential(*after, nn.Flatten()) if after else nn.Sequential()
        self.has_map = type(net).__name__ != "VisionTransformer"
        if not self.has_map:
            net.heads = nn.Sequential(OrderedDict((path.partition(".")[2], module) for path, module in rest[:place]))
            self.body = net
            self.stages = ("body",)
        else:
            if weights is not None and in_channels == 3 and hasattr(net, "transform_input"):
                features.insert(0, ("rescale", HalfScaled()))
            pool, hidden = pool_and_hidden(rest[:place], pooled_later=bool(after))
            self.features = self._adopt("features", features, named=True)
            self.pool = GlobalAveragePool() if pool is None else self._adopt("pool", pool)
            self.hidden = self._adopt("hidden", hidden)
            parts = [f"features.{name}" for name, _ in self.features.named_children()] + ["pool", "hidden"]
            self.stages = tuple(name for name in parts if any(True for _ in self.get_submodule(name).parameters()))
        assert isinstance(last, nn.Linear | nn.Conv2d)
        self.head = new_head_like(last, num_classes)
        if trained and num_classes == len(last.weight):  # type: ignore[arg-type]
            copy_layer(last, self.head)

    def _adopt(self, part: str, modules: Paths, named: bool = False) -> nn.Sequential:
        """A part of ours made of torchvision's modules; remember where each came from."""
        names = [path.rpartition(".")[2] if named else str(i) for i, (path, _) in enumerate(modules)]
        self.moved |= {path: f"{part}.{name}" for (path, _), name in zip(modules, names, strict=True)}
        return nn.Sequential(OrderedDict((name, module) for name, (_, module) in zip(names, modules, strict=True)))

    @property
    def feature_info(self) -> FeatureInfo:
        if not self.has_map:
            return super().feature_info
        # Measured on an image without numbers: torchvision does not say it.
        size = self.image_size or 512
        meta_tensors = {name: torch.empty_like(tensor, device="meta") for name, tensor in named_tensors(self.features)}
        image = torch.empty(2, self.in_channels, size, size, device="meta")
        with torch.no_grad():
            shape = functional_call(self.features, meta_tensors, (image,)).shape
        stride = 2 ** round(math.log2(size / shape[2]))  # rounded, for borders without padding take places away
        return FeatureInfo("features", shape[1], stride)

    def forward_features(self, x: Tensor) -> Tensor:
        if not self.has_map:
            return super().forward_features(x)
        self._check_size(x)
        return self.features(x)

    def forward_head(self, features: Tensor) -> Tensor:
        if not self.has_map:
            return super().forward_head(features)
        return self.after(self.head(self.hidden(self.pool(features))))

    def forward(self, x: Tensor) -> Tensor:
        if self.has_map:
            return super().forward(x)
        self._check_size(x)
        return self.head(self.body(x))

    def _check_size(self, x: Tensor) -> None:
        if self.image_size is not None and tuple(x.shape[2:]) != (self.image_size, self.image_size):
            raise ModelError(
                f"{self.architecture} takes images of {self.image_size}×{self.image_size} pixels only, got"
                f" {x.shape[2]}×{x.shape[3]}; set data.image_size={self.image_size} or choose another architecture."
            )

    def rename_foreign(self, name: str) -> str:
        """torchvision's modules keep their names inside; only the way to them is another."""
        for old, new in self.moved.items():
            if name.startswith(f"{old}."):
                return new + name[len(old) :]
        return name if self.has_map else f"body.{name}"


class HalfScaled(nn.Module):
    """(B, 3, H, W) normalised with ImageNet's mean and deviation → with 0.5 and 0.5, which two nets were trained on."""

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        self.register_buffer("scale", (deviation / 0.5).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", ((mean - 0.5) / 0.5).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


# ---- torchvision's networks, taken apart


def build(architecture: str, weights: str | None) -> tuple[nn.Module, int | None]:
    """A network of torchvision with random weights, and the side of its images where it takes one size only."""
    from torchvision import models

    record = find_weights(architecture, weights)
    size = None
    options: dict[str, Any] = {}
    if architecture in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True}
    elif architecture.startswith("maxvit"):
        size = 224
    elif architecture.startswith("vit"):
        size = options["image_size"] = record.meta["min_size"][0] if record else 224
    return models.get_model(architecture, weights=None, **options), size


def split(net: nn.Module) -> tuple[Paths, Paths]:
    """Modules by path, in the order in which they run: those that make the map of features, and those after them."""
    features: Paths = []
    rest: Paths = []
    part = features
    for name, child in net.named_children():
        if name in AFTER_FEATURES:
            part = rest
        if isinstance(child, nn.Sequential | nn.ModuleList) and (part is rest or name in CONTAINERS):
            part += [(f"{name}.{key}", module) for key, module in child.named_children()]
        else:
            part.append((name, child))
    if type(net).__name__ == "DenseNet":
        features.append(("relu", nn.ReLU(inplace=True)))  # only its forward knows of this one
    return features, rest


def pool_and_hidden(modules: Paths, pooled_later: bool) -> tuple[Paths | None, Paths]:
    """Cut what lies between features and head in two; None for a pooling that is a plain global average."""
    if pooled_later:
        return [], modules
    kinds = [type(module) for _, module in modules]
    if nn.AdaptiveAvgPool2d not in kinds:  # only the network's forward knows of it
        return None, modules
    end = kinds.index(nn.Flatten) if nn.Flatten in kinds else 0
    pool, hidden = modules[: end + 1], modules[end + 1 :]
    average = pool[0][1]
    if kinds[1 : end + 1] in ([], [nn.Flatten]) and average.output_size in (1, (1, 1)):
        return None, hidden
    return pool if end else [*pool, ("flatten", nn.Flatten())], hidden


def replace_first_convolution(net: nn.Module, in_channels: int, trained: bool) -> None:
    """Let the network see `in_channels` channels; `trained` says whether its kernels are worth keeping."""
    path, old = next((path, module) for path, module in net.named_modules() if isinstance(module, nn.Conv2d))
    new = nn.Conv2d(in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)  # type: ignore[arg-type]
    with torch.no_grad():
        if not trained:
            nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
        elif in_channels == 1:
            new.weight.copy_(old.weight.sum(dim=1, keepdim=True))
        else:
            colours = [channel % 3 for channel in range(in_channels)]
            new.weight.copy_(old.weight[:, colours] * (3 / in_channels))
        if new.bias is not None and old.bias is not None:
            new.bias.copy_(old.bias)
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, new)


@torch.no_grad()
def copy_layer(source: nn.Module, target: nn.Linear | nn.Conv2d) -> None:
    target.weight.copy_(source.weight)  # type: ignore[arg-type]
    if source.bias is not None and target.bias is not None:
        target.bias.copy_(source.bias)  # type: ignore[arg-type]


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


# ---- published weights


def find_weights(architecture: str, weights: str | None) -> Any:
    """torchvision's record of the weights (url, meta), None for None. Raises ModelError with the nearest name."""
    from torchvision import models

    known = models.list_models(module=models)
    if architecture not in known:
        raise ModelError(f"torchvision has no architecture {architecture!r}.{nearest(architecture, known)}")
    if weights is None:
        return None
    records = models.get_model_weights(architecture).__members__
    if weights not in records:
        raise ModelError(f"torchvision has no weights {weights!r} for {architecture}.{nearest(weights, records)}")
    return records[weights]


def fetch_tensors(
    architecture: str, weights: str = "DEFAULT", without: str = "start from random ones (model.weights=null)"
) -> dict[str, Tensor]:
    """Published weights by torchvision's names, from torch's cache or else the network.

    The file gets its name once it is whole and its hash is right. Nothing in it is executed.

    Args:
        without: how to go on without them, for the message.

    Raises:
        ModelError: an unknown name, no network, or a damaged file.
    """
    url = find_weights(architecture, weights).url
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not file.exists():
        digest = re.search(r"-([0-9a-f]{8,})\.", file.name)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with silence_ends_a_connection():
                torch.hub.download_url_to_file(url, str(file), digest and digest[1], progress=sys.stderr.isatty())
        except (OSError, HTTPException, RuntimeError) as error:
            reason = str(error).splitlines()[0].strip("<>") if str(error) else type(error).__name__
            raise ModelError(
                f"the weights of {architecture} are not in {file.parent} and cannot be downloaded from {url}"
                f" ({reason}). Connect to the network, put {file.name} there, or {without}."
            ) from None
    try:
        tensors: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{file} is damaged ({reason}); delete it and it will be downloaded again.") from None
    for name in list(tensors):  # files of the first DenseNets number their layers in another way
        tensors[re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", name)] = tensors.pop(name)
    return tensors


def load(net: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put published weights into torchvision's own network; what belonged to auxiliary classifiers is left out."""
    for name in [name for name in tensors if name.startswith(("aux1.", "aux2.", "AuxLogits."))]:
        del tensors[name]
    net.load_state_dict(tensors)


@contextmanager
def silence_ends_a_connection() -> Iterator[None]:
    """torch.hub waits forever where a network swallows what is sent."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
