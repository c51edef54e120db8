"""A GPU computes what the processor computes: images, networks in every precision, steps of training."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import cnnlab
from cnnlab.config import Config, resolve
from cnnlab.data.build import build_data
from cnnlab.device import exact_float32
from cnnlab.models.registry import model_arguments
from cnnlab.runs.folder import RunFolder
from cnnlab.torch_patches import restore_convolutions
from cnnlab.training.build import build_model
from cnnlab.training.muon import PaddedBatches
from cnnlab.training.precision import Precision, prepare_process
from cnnlab.training.trainer import Trainer
from small_sets import write_pets

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
MORE = 64  # times the processor's own rounding error: the forms of Winograd that cuDNN may choose in float32 lose some
# ten times more than plain sums, TF32 2¹³ times more in each product
HALF = 4  # the same for bfloat16, which every library rounds once per operation


def build_config(folder: Path, *words: str) -> Config:
    fixed = ["trainer.device=auto", "trainer.compile=false", "logger=none", f"run.dir={folder}"]
    return resolve(["data=digits", *fixed, *words]).config


# ---- images


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of 24 smooth colour images of 48×60 pixels in two classes."""
    root = tmp_path_factory.mktemp("photographs")
    draw = np.random.default_rng(0)
    for number in range(24):
        coarse = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        path = root / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        coarse.resize((60, 48), Image.Resampling.BICUBIC).save(path)
    return f"data.root={root}"


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"data.root={write_pets(tmp_path_factory.mktemp('pets'), 16)}"


RESIZED = ["augment.crop=resized", "augment.scale=[0.2,1]"]
PHOTOGRAPHS = ["data=folder", "data.image_size=40", "data.val_fraction=0.2", "data.test_fraction=0.2"]
PETS = ["data=oxford_pets", "data.image_size=32", "data.val_fraction=0.3", "data.limit=null", "trainer.batch_size=4"]
ROUNDING = 0.05  # grey levels: what float32 loses where a place between two pixels is computed
LEVELS = 2.001  # where an image is resized, across and then down, a level can each time be rounded the other way
AUGMENTED = {
    "none": (["augment=none"], 1e-3),
    "mirrored and shifted": (["augment=standard", "augment.crop=pad"], 1e-3),
    "shifted over zeros": (["augment=standard", "augment.crop=pad", "augment.padding_mode=zero"], 1e-3),
    "turned": (["augment=light", "augment.shear=5"], ROUNDING),
    "grown": (["augment=standard", "augment.crop=pad", "augment.start_size=0.5"], ROUNDING),
    "cut and resized": (["augment=standard", *RESIZED], LEVELS),
    "coloured": (
        ["augment=none", "augment.brightness=0.3", "augment.contrast=0.3", "augment.saturation=0.3"],
        ROUNDING,
    ),
    "holes": (["augment=none", "augment.erasing=1", "augment.cutout=0.3"], 1e-3),
    "mixed": (["augment=standard", "augment.crop=pad", "augment.mixup=0.5"], ROUNDING),
    "cut out and put in": (["augment=standard", "augment.crop=pad", "augment.cutmix=1"], ROUNDING),
    "all": (["augment=strong", *RESIZED, "augment.cutout=0.2"], 6.0),  # these levels, times what colour and contrast do
}


def first_batches(words: list[str], device: torch.device, folder: Path) -> tuple[list[Any], Tensor]:
    """Two batches of the second epoch, and what a standard deviation of each channel is in grey levels."""
    config = build_config(folder, "model=vgg", "model.width=4", "trainer.batch_size=6", *words)
    data = build_data(config, device)
    levels = torch.tensor(data.preprocess.std).view(-1, 1, 1) * 255
    batches = data.train.epoch(1, progress=0.3)
    return [next(batches), next(batches)], levels


@pytest.mark.parametrize("storage", ["auto", "mmap"])  # on the device, and read from the disk batch by batch
@pytest.mark.parametrize("name", AUGMENTED)
def test_the_loader_gives_the_images_that_it_gives_on_the_processor(
    name: str, storage: str, photographs: str, device: torch.device, tmp_path: Path
) -> None:
    words, most = AUGMENTED[name]
    words = [*PHOTOGRAPHS, photographs, *words, f"data.storage={storage}"]
    (here, levels), (there, _) = (first_batches(words, place, tmp_path) for place in (CPU, device))
    for one, other in zip(here, there, strict=True):
        assert other.images.device.type == device.type
        assert other.images.is_contiguous(memory_format=torch.channels_last)
        difference = (one.images - other.images.cpu()).abs() * levels
        assert difference.max() <= most and difference.mean() <= min(most, LEVELS) / 20
        for (targets, share), (others, other_share) in zip(one.parts, other.parts, strict=True):
            assert torch.equal(targets, others.cpu())
            assert share is None or torch.equal(torch.as_tensor(share), torch.as_tensor(other_share).cpu())


@pytest.mark.parametrize("words", [["augment=none"], ["augment=standard", *RESIZED], ["augment=light"]])
def test_masks_move_as_they_do_on_the_processor(
    words: list[str], pets: str, device: torch.device, tmp_path: Path
) -> None:
    """All but the pixels that lie between two places of the original."""
    words = [*PETS, pets, "model=unet", "model.width=4", "model.depth=2", *words]
    here, there = (first_batches(words, place, tmp_path)[0] for place in (CPU, device))
    for one, other in zip(here, there, strict=True):
        assert (one.targets != other.targets.cpu()).float().mean() <= (0.002 if words[-1] == "augment=light" else 0)


# ---- networks

FAMILIES: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [64, 32], "batch_norm": True},
    "lenet": {},
    "convnet": {"width": 8, "blur_pool": True},
    "alexnet": {"width": 8, "hidden": [32], "dropout": 0.0},
    "vgg": {"width": 8},
    "resnet": {"depth": 20, "width": 8},
    "resnet18": {"width": 16},
    "resnet34": {"width": 8},
    "resnet50": {"width": 8},
    "speednet": {"widths": [16, 32, 32]},
    "unet": {"width": 8, "depth": 3},
    **{f"vgg{depth}": {"width": 8, "hidden": [32], "dropout": 0.0, "batch_norm": True} for depth in (11, 13, 16, 19)},
}


def build(family: str) -> nn.Module:
    facts = {"in_channels": 3, "num_classes": 10, "image_size": [32, 32]}
    return cnnlab.create_model(family, **model_arguments(family, FAMILIES[family], **facts))


def logits_and_gradient(
    model: nn.Module, device: torch.device, precision: str, kind: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Of a forward and a backward pass, as long float64 vectors on the processor."""
    model = copy.deepcopy(model).to(kind).to(device).train()
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(16, 3, 32, 32, generator=draw).to(kind)
    images = images.to(device).contiguous(memory_format=torch.channels_last)
    with exact_float32():
        with Precision(precision, device).autocast():
            logits = model(images)
        targets = torch.randint(10, logits[:, 0].shape, generator=draw).to(device)
        wide = logits if kind == torch.float64 else logits.float()
        scale = 1024.0 if precision == "fp16" else 1.0  # as a GradScaler does, so that small gradients do not vanish
        (F.cross_entropy(wide, targets) * scale).backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad.cpu().double().flatten() / scale for p in model.parameters() if p.grad is not None]
    return logits.detach().cpu().double().flatten(), torch.cat(gradients)


def test_every_family_is_checked() -> None:
    assert set(FAMILIES) == set(cnnlab.list_models()) - {"pretrained"}


@pytest.mark.parametrize("family", FAMILIES)
def test_forward_and_backward_are_those_of_the_processor_in_every_precision(family: str, device: torch.device) -> None:
    """As near to float64 as the processor comes in the same precision, or nearly; fp16 nearer than bf16."""
    torch.manual_seed(0)
    model = build(family)
    exact = logits_and_gradient(model, CPU, "fp32", torch.float64)
    own = {precision: logits_and_gradient(model, CPU, precision) for precision in ("fp32", "bf16")}
    bounds = {"fp32": ("fp32", MORE), "bf16": ("bf16", HALF), "fp16": ("bf16", HALF / 2)}
    for precision, (like, times) in bounds.items():
        found = logits_and_gradient(model, device, precision)
        for what, one, other, truth in zip(("logits", "gradient"), found, own[like], exact, strict=True):
            allowed = times * max((other - truth).norm().item(), torch.finfo(torch.float32).eps * truth.norm().item())
            error = (one - truth).norm().item()
            assert error <= allowed, f"{what} in {precision}: {error:.2e}, allowed {allowed:.2e}"


# ---- steps

SMALL_RESNET = ["model=resnet", "model.depth=8", "model.width=8", "augment=none"]
SMALL_RESNET += ["trainer.batch_size=32", "trainer.ema=null"]


def weights_after(steps: int, device: torch.device, folder: Path, *words: str, exact: bool = False) -> Tensor:
    """All parameters, as one float64 vector on the processor; `exact` computes in float64."""
    config = build_config(folder, *SMALL_RESNET, *words)
    prepare_process(config.trainer)
    data = build_data(config, device)
    model = build_model(config, data)
    if exact:
        model = model.double()
        model.register_forward_pre_hook(lambda _, arguments: (arguments[0].double(),))
    trainer = Trainer(model, data, config, RunFolder(folder))
    restore_convolutions(trainer.model)
    with exact_float32():
        done = trainer.train_epoch()
        for _ in range(steps):
            next(done)
    return torch.cat([p.detach().cpu().double().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize(
    "words",
    [
        ["optimizer=SGD", "optimizer.lr=0.1"],
        [
            "optimizer=AdamW",
            "optimizer.lr=0.003",
            "optimizer.eps=0.001",
        ],  # else rounding turns the smallest steps round
    ],
)
def test_twenty_steps_in_float32_are_those_of_the_processor(
    words: list[str], device: torch.device, tmp_path: Path
) -> None:
    """To rounding: as far from float64 as the processor's float32 is, or nearly; bfloat16 would be seen."""
    words = [*words, "schedule=constant", "schedule.warmup=0"]
    exact = weights_after(20, CPU, tmp_path, *words, exact=True)
    allowed = MORE * (weights_after(20, CPU, tmp_path, *words, "trainer.precision=fp32") - exact).norm()
    moved = (exact - weights_after(0, CPU, tmp_path, *words)).norm()
    assert allowed < moved / 10  # or it would say nothing
    assert (weights_after(20, device, tmp_path, *words, "trainer.precision=fp32") - exact).norm() <= allowed
    if device.type in ("cuda", "cpu"):  # the pretended device casts nothing
        assert (weights_after(20, device, tmp_path, *words, "trainer.precision=bf16") - exact).norm() > allowed


def test_the_matrices_of_muon_are_orthogonal_there_too(device: torch.device) -> None:
    """It may round to TF32 or bfloat16; the singular values stay bounded, and the direction is that of the exact."""
    draw = torch.Generator().manual_seed(0)
    matrices = [
        torch.randn(rows, columns, generator=draw) for rows, columns in [(16, 27), (64, 576), (64, 64), (96, 8)]
    ]
    torch.set_float32_matmul_precision("high")  # as a run sets it
    batches = PaddedBatches([(len(m), m.shape[1]) for m in matrices], device)
    results = batches.orthogonalise(
        [m.to(device).reshape(-1) for m in matrices], 5, batches.take(torch.ones(len(matrices), device=device))
    )
    for matrix, result in zip(matrices, results, strict=True):
        found = result.view(matrix.shape)
        values = torch.linalg.svdvals(found.cpu().double())
        assert values.max() < 1.3
        left, _, right = torch.linalg.svd(matrix.double(), full_matrices=False)
        assert F.cosine_similarity(found.cpu().double().flatten(), (left @ right).flatten(), dim=0) > 0.95
