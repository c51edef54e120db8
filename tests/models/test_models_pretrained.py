"""torchvision's classifiers behind the contract: the same logits, and where weights come from. No network."""

from __future__ import annotations

import hashlib
import io
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models as tv

from cnnlab.errors import ModelError
from cnnlab.models import pretrained
from cnnlab.models.pretrained import HalfScaled, Pretrained, fetch_tensors
from cnnlab.models.registry import create_model, find_model, model_spec

SMALL = "squeezenet1_1"  # 5 MB, and no running statistics
CACHED = "squeezenet1_1-b8a52dc0.pth"


def build(architecture: str, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return create_model("pretrained", architecture=architecture, **{"weights": None} | arguments)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """An empty cache of torch.hub; its folder of files."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)


@pytest.fixture
def published(cache: Path) -> dict[str, torch.Tensor]:
    """Weights in the cache as if they had been downloaded."""
    torch.manual_seed(1)
    tensors = tv.get_model(SMALL, weights=None).state_dict()
    cache.mkdir(parents=True)
    torch.save(tensors, cache / CACHED)
    return tensors


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every download fails at once; the urls that were asked for."""
    asked = []

    def refuse(request: Any, *_: Any, **__: Any) -> None:
        asked.append(request.full_url)
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    return asked


# ---- the same network


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        ("resnet18", 64),
        ("alexnet", 64),
        ("densenet121", 40),
        ("mobilenet_v2", 40),
        ("mobilenet_v3_small", 40),
        ("efficientnet_b0", 40),
        ("convnext_tiny", 40),
        ("shufflenet_v2_x0_5", 40),
        ("regnet_x_400mf", 40),
        ("mnasnet0_5", 40),
        ("squeezenet1_1", 40),
        ("googlenet", 64),
        ("swin_t", 48),
        ("vit_b_32", 224),
        pytest.param("vgg11_bn", 64, marks=pytest.mark.slow),
        pytest.param("inception_v3", 96, marks=pytest.mark.slow),
        pytest.param("swin_v2_t", 48, marks=pytest.mark.slow),
        pytest.param("maxvit_t", 224, marks=pytest.mark.slow),
    ],
)
def test_logits_and_names_are_those_of_the_library(architecture: str, size: int) -> None:
    ours = build(architecture, num_classes=7)
    if architecture == "maxvit_t":
        ours.head.bias = None  # the library's last layer has none
    images = torch.randn(3, 3, size, size)
    for layer in ours.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # one pass sets the running statistics, so that logits are of a usual size
    with torch.no_grad():
        ours.train()(images)
    without = {"aux_logits": False, "init_weights": False}
    options = without if architecture in ("googlenet", "inception_v3") else {}
    theirs = tv.get_model(architecture, weights=None, num_classes=7, **options)
    tensors = theirs.state_dict()
    for key in tensors:
        tensors[key] = ours.state_dict()[ours.rename_foreign(key)]
    theirs.load_state_dict(tensors)
    with torch.no_grad():
        expected = theirs.eval()(images)
        assert expected.std() > 1e-3
        torch.testing.assert_close(ours.eval()(images), expected)


EVERY_FAMILY = ["resnet18", "alexnet", "densenet121", "convnext_tiny", "regnet_x_400mf", "squeezenet1_1", "googlenet"]


@pytest.mark.parametrize("architecture", [*EVERY_FAMILY, "mobilenet_v3_small", "shufflenet_v2_x0_5", "swin_t"])
def test_every_family_keeps_the_contract(architecture: str) -> None:
    model, images = build(architecture, num_classes=5).eval(), torch.randn(2, 3, 64, 64)
    info = model.feature_info
    with torch.no_grad():
        features = model.forward_features(images)
        assert torch.equal(model(images), model.forward_head(features))
        model.reset_classifier(3)
        assert model(images).shape == (2, 3)
    assert features.shape[1] == info.channels
    assert 64 / info.stride / 2 <= features.shape[2] <= -(-64 // info.stride)
    held = [
        k for stage in (*model.stages, "head") for k, _ in model.get_submodule(stage).named_parameters(prefix=stage)
    ]
    assert held == [key for key, _ in model.named_parameters()]


@pytest.mark.parametrize(
    ("architecture", "channels", "stride"),
    [("resnet18", 512, 32), ("squeezenet1_1", 512, 16), ("alexnet", 256, 32), ("mobilenet_v2", 1280, 32)],
)
def test_feature_info_is_measured(architecture: str, channels: int, stride: int) -> None:
    info = build(architecture).feature_info
    assert (info.module, info.channels, info.stride) == ("features", channels, stride)


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = build("shufflenet_v2_x0_5")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.feature_info  # noqa: B018
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_transformer_without_a_map_says_so_and_still_classifies() -> None:
    model = build("vit_b_32", num_classes=4).eval()
    for call in (lambda: model.feature_info, lambda: model.forward_features(None), lambda: model.forward_head(None)):
        with pytest.raises(ModelError, match="no spatial features"):
            call()
    assert model.stages == ("body",)
    with pytest.raises(ModelError, match=r"vit_b_32 takes images of 224×224 pixels only, got 64×96.*image_size=224"):
        model(torch.zeros(1, 3, 64, 96))


def test_a_transformer_takes_images_of_the_size_that_its_weights_were_trained_on() -> None:
    with torch.device("meta"):
        model = Pretrained("vit_b_16", weights="IMAGENET1K_SWAG_E2E_V1", load_weights=False)
    assert model.image_size == 384
    assert model(torch.empty(1, 3, 384, 384, device="meta")).shape == (1, 1000)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_random_weights_take_any_number_of_channels(channels: int) -> None:
    model = build("resnet18", in_channels=channels, num_classes=2).eval()
    assert model.features.conv1.weight.shape == (64, channels, 7, 7)
    assert model(torch.randn(2, channels, 32, 32)).shape == (2, 2)


# ---- published weights


def test_with_weights_it_is_the_library_s_classifier_of_a_thousand_classes(published: dict[str, torch.Tensor]) -> None:
    model = build(SMALL, weights="DEFAULT").eval()
    theirs = tv.get_model(SMALL, weights=None).eval()
    theirs.load_state_dict(published)
    images = torch.randn(2, 3, 40, 40)
    assert torch.equal(model(images), theirs(images))
    assert model_spec(model)[1]["weights"] == "DEFAULT"


def test_another_number_of_classes_gets_a_fresh_last_layer(published: dict[str, torch.Tensor]) -> None:
    model = build(SMALL, weights="IMAGENET1K_V1", num_classes=7)
    assert torch.equal(model.features[0].weight, published["features.0.weight"])
    assert model.head.weight.shape == (7, 512, 1, 1)
    assert not model.head.bias.any()


def test_one_channel_gives_what_a_grey_image_gave_in_colour(published: dict[str, torch.Tensor]) -> None:
    colour, grey = build(SMALL, weights="DEFAULT").eval(), build(SMALL, weights="DEFAULT", in_channels=1).eval()
    images = torch.randn(2, 1, 40, 40)
    with torch.no_grad():
        torch.testing.assert_close(grey(images), colour(images.expand(-1, 3, -1, -1)))


def test_more_channels_get_the_three_kernels_in_turn_at_the_same_strength(published: dict[str, torch.Tensor]) -> None:
    model, kernels = build(SMALL, weights="DEFAULT", in_channels=4), published["features.0.weight"]
    for channel, colour in enumerate((0, 1, 2, 0)):
        assert torch.equal(model.features[0].weight[:, channel], kernels[:, colour] * 0.75)
    assert torch.equal(model.features[0].bias, published["features.0.bias"])


def test_two_nets_get_images_rescaled_with_their_weights_as_in_the_library() -> None:
    """The library's own rule: only with weights, which were trained so; and only where there are three channels."""
    model = build("googlenet", weights="DEFAULT", load_weights=False, num_classes=7).eval()
    theirs = tv.get_model(
        "googlenet", weights=None, num_classes=7, aux_logits=False, init_weights=False, transform_input=True
    ).eval()
    theirs.load_state_dict({key: model.state_dict()[model.rename_foreign(key)] for key in theirs.state_dict()})
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images), theirs(images))
    for other in (build("googlenet"), build("googlenet", weights="DEFAULT", load_weights=False, in_channels=1)):
        assert not any(isinstance(layer, HalfScaled) for layer in other.modules())


def test_a_run_folder_rebuilds_it_without_fetching_anything(
    published: dict[str, torch.Tensor], cache: Path, no_network: list[str]
) -> None:
    for arguments in ({}, {"num_classes": 7}, {"in_channels": 1}):
        model = build(SMALL, weights="DEFAULT", **arguments).eval()
        name, spec = model_spec(model)
        (cache / CACHED).rename(cache / "away")
        other = create_model(name, **spec | find_model(name).rebuild_arguments).eval()
        (cache / "away").rename(cache / CACHED)
        other.load_state_dict(model.state_dict())
        images = torch.randn(1, spec["in_channels"], 40, 40)
        assert torch.equal(model(images), other(images))
    assert not no_network


def test_without_network_and_cache_one_line_says_what_why_and_the_fix(cache: Path, no_network: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        build(SMALL, weights="DEFAULT")
    words = str(caught.value)
    assert len(words.splitlines()) == 1
    for part in (
        SMALL,
        str(cache),
        no_network[0],
        "Name or service not known",
        "network",
        CACHED,
        "model.weights=null",
    ):
        assert part in words
    assert list(cache.iterdir()) == []


class Broken(io.BytesIO):
    """An answer that ends in a broken connection after its bytes."""

    def info(self) -> Any:
        return SimpleNamespace(get_all=lambda name: None)

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if not data:
            raise ConnectionResetError("Connection reset by peer")
        return data


def test_a_download_that_breaks_off_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "urlopen", lambda request: Broken(b"x" * 1000))
    with pytest.raises(ModelError, match="Connection reset by peer"):
        fetch_tensors(SMALL)
    assert list(cache.iterdir()) == []


def publish(folder: Path, tensors: Any, monkeypatch: pytest.MonkeyPatch, digest: str | None = None) -> Path:
    """Let torchvision's record point to a file here."""
    folder.mkdir(exist_ok=True)
    torch.save(tensors, folder / "whole")
    digest = digest or hashlib.sha256((folder / "whole").read_bytes()).hexdigest()[:8]
    file = (folder / "whole").rename(folder / f"net-{digest}.pth")
    monkeypatch.setattr(pretrained, "find_weights", lambda *_: SimpleNamespace(url=file.as_uri(), meta={}))
    return file


def test_a_whole_download_is_kept_for_the_next_time(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = publish(tmp_path / "site", {"a.weight": torch.ones(2)}, monkeypatch)
    assert fetch_tensors("any")["a.weight"].tolist() == [1, 1]
    assert [entry.name for entry in cache.iterdir()] == [file.name]
    file.unlink()
    assert fetch_tensors("any")["a.weight"].tolist() == [1, 1]


def test_a_download_with_another_hash_is_refused_and_not_kept(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "site", {}, monkeypatch, digest="0123abcd")
    with pytest.raises(ModelError, match="hash"):
        fetch_tensors("any")
    assert list(cache.iterdir()) == []


def test_layers_of_the_first_densenets_are_renamed(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = "features.denseblock1.denselayer2.norm.1.running_mean"
    publish(tmp_path / "site", {old: torch.ones(2), "features.norm5.weight": torch.ones(2)}, monkeypatch)
    new = "features.denseblock1.denselayer2.norm1.running_mean"
    assert set(fetch_tensors("any")) == {new, "features.norm5.weight"}
    assert new in tv.densenet121(weights=None).state_dict()


@pytest.mark.parametrize("architecture", ["mnasnet0_5", "googlenet"])
def test_files_with_a_version_or_with_auxiliary_classifiers_load(architecture: str, cache: Path) -> None:
    options = {"init_weights": False} if architecture == "googlenet" else {}
    published = tv.get_model(architecture, weights=None, **options).state_dict()
    auxiliary = [key for key in published if key.startswith("aux")]
    assert bool(auxiliary) == (architecture == "googlenet")
    cache.mkdir(parents=True)
    torch.save(published, cache / Path(pretrained.find_weights(architecture, "DEFAULT").url).name)
    model = build(architecture, weights="DEFAULT")
    own = model.state_dict()
    assert len(own) == len(published) - len(auxiliary)
    assert all(torch.equal(own[model.rename_foreign(k)], v) for k, v in published.items() if k not in auxiliary)


def test_a_file_with_anything_else_in_it_is_refused() -> None:
    net = nn.Linear(2, 1)
    with pytest.raises(RuntimeError, match="other"):
        pretrained.load(net, net.state_dict() | {"other.weight": torch.ones(1)})


class Trap:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("code of the file was run",))


@pytest.mark.parametrize("content", ["garbage", "half", "empty", "code"])
def test_a_damaged_file_in_the_cache_is_named_and_its_code_never_run(
    content: str, published: dict[str, torch.Tensor], cache: Path
) -> None:
    file = cache / CACHED
    whole = file.read_bytes()
    if content == "code":
        torch.save({"features.0.weight": Trap()}, file)
    else:
        file.write_bytes({"garbage": b"garbage", "half": whole[: len(whole) // 2], "empty": b""}[content])
    with pytest.raises(ModelError, match="is damaged") as caught:
        build(SMALL, weights="DEFAULT")
    assert str(file) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


# ---- names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"architecture": "resnet_18"}, "no architecture 'resnet_18'.*'resnet18'"),
        ({"architecture": "ResNet18"}, "no architecture 'ResNet18'.*'resnet18'"),
        ({"architecture": ""}, "no architecture ''"),
        ({"weights": "IMAGENET1K_V3"}, "no weights 'IMAGENET1K_V3' for resnet18.*'IMAGENET1K_V1'"),
        ({"weights": "default"}, "no weights 'default'.*'DEFAULT'"),
        ({"weights": 1}, "weights"),
        ({"in_channels": 0}, "in_channels"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_what_makes_no_network_is_refused_without_a_download(
    arguments: dict[str, Any], words: str, cache: Path, no_network: list[str]
) -> None:
    with pytest.raises(ModelError, match=words):
        create_model("pretrained", **arguments)
    assert not no_network
    assert not cache.exists()


def test_weights_of_an_unknown_architecture_are_refused() -> None:
    with pytest.raises(ModelError, match="no architecture 'resnet19'"):
        fetch_tensors("resnet19")
