"""What goes wrong on an accelerator alone, each on a pretended one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnlab
from cnnlab.config import AugmentConfig, Config, resolve
from cnnlab.data.augment import Augmentation
from cnnlab.data.decode import Layout
from cnnlab.data.preprocess import Preprocess
from cnnlab.data.render import axes_of, render, take
from cnnlab.deterministic import FORMS, average_pool, cross_entropy, max_pool
from cnnlab.device import exact_float32
from cnnlab.errors import NonFiniteLoss, OutOfMemory
from cnnlab.experiment import Run, run_experiment
from cnnlab.explain.head import as_convolutions
from cnnlab.models.registry import MODELS
from cnnlab.runs.folder import RunFolder
from cnnlab.runs.state import load_state
from cnnlab.training.distributed import joined
from cnnlab.training.memory import ran_out_of_memory
from cnnlab.training.muon import Muon
from cnnlab.training.precision import give_back_freed_memory
from pretend_device import NAME, WHY_NOT, Device, pretended
from small_sets import write_pets

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

SMALL = ["data=digits", "data.limit=40", "trainer.batch_size=12", "trainer.precision=fp32", "logger=none"]
SMALL += ["augment=none", "trainer.epochs=1"]


@pytest.fixture
def device() -> Iterator[Device]:
    with pretended() as made:
        yield made


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words of a run on them."""
    root = write_pets(tmp_path_factory.mktemp("pets"), 16)
    words = ["data=oxford_pets", f"data.root={root}", "data.image_size=32", "data.val_fraction=0.3", "data.limit=null"]
    return [*words, "model.width=4", "model.depth=2", "trainer.batch_size=4"]


def config(folder: Path, *words: str) -> Config:
    return resolve([*SMALL, *words, f"run.dir={folder}"]).config


def train(folder: Path, *words: str) -> Run:
    return run_experiment(config(folder, *words), test=False)


def train_watched(folder: Path, *words: str, epochs: int = 1) -> Run:
    data = cnnlab.load_data("digits", limit=40, batch_size=12, augment="none", device="auto")
    fixed = ["logger=none", "trainer.ema=null", "optimizer=sgd", "optimizer.lr=0.05"]
    overrides = [*fixed, *(words if any("precision" in word for word in words) else ["trainer.precision=fp32", *words])]
    return cnnlab.fit(cnnlab.create_model("watched"), data, epochs=epochs, dir=folder, overrides=overrides)


class Watched(nn.Module):
    """A small network; `watch` is told of each pass over images of the device, and may change what it gives."""

    watch: Any = None

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.body = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.body(x)).relu().mean((2, 3)))
        watch = Watched.watch if x.device.type == NAME else None
        return logits if watch is None else watch(self, logits)


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "watched", Watched)
    monkeypatch.setattr(Watched, "watch", None)


# ---- the pretended device itself


def test_it_computes_and_says_who_made_it_wait(device: Device) -> None:
    x = torch.arange(4.0, device=NAME)
    device.clear()
    assert (x * 2).sum().item() == 12
    assert sorted(device.launches) == ["aten::_local_scalar_dense", "aten::mul", "aten::sum"]
    assert list(device.synchronisations) == ["item outside of cnnlab"]
    device.clear()
    _ = x.view(2, 2)[0]
    assert not device.launches.total() and not device.synchronisations.total()


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + torch.ones(4),
        lambda x: torch.stack([x[0], torch.tensor(1.0)]),
        lambda x: torch.ones(()).add_(x[0]),
        lambda x: torch.rand(3, device=NAME, generator=torch.Generator()),
        lambda x: F.linear(x, torch.ones(2, 4)),
    ],
)
def test_mixing_devices_raises(mix: Any, device: Device) -> None:
    with pytest.raises(RuntimeError, match=r"cpu|generator|device"):
        mix(torch.ones(4, device=NAME))


def test_a_scalar_and_an_index_of_the_processor_may_be_mixed_in(device: Device) -> None:
    x = torch.arange(4.0, device=NAME)
    assert (x * torch.tensor(2.0)).sum().item() == 12
    device.clear()
    assert x[torch.tensor([1, 2])].shape == (2,)
    assert list(device.synchronisations) == ["copy of an index to the device outside of cnnlab"]


def test_afterwards_torch_has_no_accelerator() -> None:
    with pretended():
        assert torch.accelerator.is_available()
    assert not torch.accelerator.is_available()


# ---- optimizers


def test_muon_steps_on_after_a_state_was_loaded(device: Device) -> None:
    """torch leaves the count of steps where the file was read to, and its fused step wants it beside the parameter."""

    def optimizer() -> Muon:
        parameters = [nn.Parameter(torch.ones(4, device=NAME)), nn.Parameter(torch.ones(3, 4, device=NAME))]
        made = Muon([{"params": parameters[:1], "orthogonal": False}, {"params": parameters[1:]}])
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        return made

    first, second = optimizer(), optimizer()
    first.step()
    state = first.state_dict()
    read = {n: {key: value.cpu() for key, value in of.items()} for n, of in state["state"].items()}
    second.load_state_dict(state | {"state": read})
    second.step()
    assert second.state[second.param_groups[0]["params"][0]]["step"].item() == 2


# ---- precision


def test_float32_is_exact_but_in_training(device: Device, tmp_path: Path) -> None:
    seen: dict[bool, set[tuple[bool, bool]]] = {True: set(), False: set()}

    def watch(model: Watched, logits: Tensor) -> Tensor:
        backends: Any = torch.backends
        precisions = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
        seen[model.training].add(precisions)
        return logits

    Watched.watch = watch
    run = train_watched(tmp_path / "run")
    cnnlab.evaluate(run.dir)
    cnnlab.Predictor.from_run(run.dir).predict(np.zeros((8, 8), np.uint8))
    assert seen == {True: {(True, True)}, False: {(False, False)}}


def test_threads_that_overlap_keep_float32_exact_until_the_last_one_leaves() -> None:
    backends: Any = torch.backends
    before = backends.cudnn.allow_tf32
    one, other = exact_float32(), exact_float32()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert backends.cudnn.allow_tf32 is False and torch.get_float32_matmul_precision() == "highest"
    with backends.cudnn.flags(enabled=True):  # a user's model may use the older names within
        pass
    other.__exit__(None, None, None)
    assert backends.cudnn.allow_tf32 == before


# ---- finite


def test_a_state_that_is_not_finite_is_not_saved(device: Device, tmp_path: Path) -> None:
    """On an accelerator no step looks at the loss; the save, here after each step, does."""
    passes = iter(range(1, 9))

    def watch(model: Watched, logits: Tensor) -> Tensor:
        return logits * float("nan") if model.training and next(passes) == 2 else logits

    Watched.watch = watch
    with pytest.raises(NonFiniteLoss, match="at step 2"):
        train_watched(tmp_path / "run", "trainer.checkpoint_minutes=0")
    state = load_state(RunFolder(tmp_path / "run").state)
    assert state["counters"]["step"] == 1
    assert all(value.isfinite().all() for value in state["model"].values())


@pytest.mark.parametrize("of_the_loss", [True, False])
def test_an_overflow_that_the_scaler_skips_does_not_end_a_run(
    of_the_loss: bool, device: Device, tmp_path: Path
) -> None:
    passes = iter(range(1, 99))

    def watch(model: Watched, logits: Tensor) -> Tensor:
        if model.training and next(passes) == 2:
            if of_the_loss:
                return logits * float("inf")
            logits.register_hook(lambda gradient: gradient * float("inf"))
        return logits

    Watched.watch = watch
    run = train_watched(tmp_path / "run", "trainer.precision=fp16", "trainer.checkpoint_minutes=0", epochs=2)
    assert len(run.history) == 2
    assert 1 < run.history[0]["train_loss"] < 4  # of the batches that did not overflow


def test_a_run_whose_every_loss_overflows_ends(device: Device, tmp_path: Path) -> None:
    Watched.watch = lambda model, logits: logits * float("inf") if model.training else logits
    with pytest.raises(NonFiniteLoss, match="the loss"):
        train_watched(tmp_path / "run", "trainer.precision=fp16")


# ---- the same pixels


@pytest.mark.parametrize("masked", [True, False])
def test_a_random_resized_crop_is_the_same_wherever_the_pixels_lie(masked: bool, device: Device) -> None:
    numbers = np.random.Generator(np.random.PCG64(0))
    pixels = torch.from_numpy(numbers.integers(0, 256, (6, 40, 60, 4), dtype=np.uint8))
    pixels[..., 3] %= 5
    boxes = torch.tensor([[0.1, 0.2, 0.71, 0.5], [0, 0, 1, 1], [0.33, 0.4, 0.2, 0.6], [0.9, 0.9, 0.1, 0.05]])
    draws = {"box": boxes, "flip": torch.tensor([True, False, False, True])}
    rows = torch.tensor([4, 0, 2, 5])
    preprocess = Preprocess(Layout(32, 24, "RGB"), (0.0,) * 3, (1 / 255,) * 3)
    augmentation = Augmentation(AugmentConfig(crop="resized"), 32, 24)
    found = []
    for place in (torch.device("cpu"), torch.device(NAME)):
        axes, none = axes_of(rows, draws, augmentation, (40, 60), place.type == NAME, masked)
        parts = take(pixels.to(place), {name: axis.to(place) for name, axis in axes.items()}, augmentation)
        found.append(render(parts | none, augmentation, preprocess, masked))
    difference = (found[0][0] - found[1][0].cpu()).abs()
    assert difference.max() < 1.001 and difference.mean() < 0.03  # grey levels
    if masked:
        assert torch.equal(found[0][1], found[1][1].cpu())  # type: ignore[union-attr, arg-type]


# ---- explanations


def test_the_convolutional_form_of_a_head_lies_where_the_head_does(device: Device) -> None:
    head = [nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5, affine=False), nn.ReLU(), nn.Linear(5, 3)]
    made = as_convolutions(list(nn.Sequential(*head).to(NAME).eval()), 2, 2)
    assert made(torch.rand(1, 3, 4, 4, device=NAME)).shape == (1, 3, 3, 3)


# ---- no float64, as on Apple's GPUs


@pytest.mark.parametrize("words", [["model=vgg"], ["data=multi_digits", "model=vgg"], ["pets", "trainer.dice=1"]])
def test_nothing_needs_float64_on_the_device(words: list[str], pets: list[str], tmp_path: Path) -> None:
    words = [*pets, *words[1:]] if words[0] == "pets" else [*words, "model.width=4"]
    with pretended(float64=False):
        with pytest.raises(TypeError, match="float64"):
            torch.zeros(3, dtype=torch.float64, device=NAME)
        run = train(tmp_path / "run", *words, "augment=strong", "augment.mixup=0")
        assert cnnlab.evaluate(run.dir)["n"] > 0


# ---- deterministic


@pytest.mark.parametrize(
    "words",
    [
        ["model=speednet", "model.widths=[4,4]"],
        ["model=alexnet", "model.width=4", "model.hidden=[8]"],
        ["model=vgg", "model.width=4", "adapt.method=dann", "adapt.data=digits"],
        ["pets"],
    ],
)
def test_deterministic_training_uses_no_kernel_that_adds_in_any_order(
    words: list[str], pets: list[str], device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    words = pets if words == ["pets"] else words
    try:
        run = train(tmp_path / "run", *words, "trainer.deterministic=true")
        assert np.isfinite(run.history[-1]["train_loss"])
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 6), (3, 4), (7, 9)])
def test_the_deterministic_pooling_is_adaptive_pooling(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, 4, 6)
    torch.testing.assert_close(average_pool(x, size), F.adaptive_avg_pool2d(x, size))
    torch.testing.assert_close(max_pool(x, size), F.adaptive_max_pool2d(x, size))
    assert set(FORMS) == {F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.cross_entropy}


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_the_deterministic_cross_entropy_is_that_of_torch(reduction: str) -> None:
    logits, targets, weight = torch.rand(2, 3, 4, 5), torch.randint(3, (2, 4, 5)), torch.tensor([1.0, 2, 3])
    how = {"weight": weight, "label_smoothing": 0.1, "reduction": reduction}
    torch.testing.assert_close(cross_entropy(logits, targets, **how), F.cross_entropy(logits, targets, **how))


# ---- the compiler


@pytest.mark.parametrize("fails_at", [1, 3])
def test_where_the_compiler_fails_at_any_step_training_goes_on_without_it(
    fails_at: int, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a later one, as a resumed run has it, or one whose images grow."""
    calls = []

    def compile_(model: nn.Module, **how: Any) -> Any:
        def forward(images: Tensor) -> Tensor:
            calls.append(how)
            if len(calls) >= fails_at:
                raise ValueError("no compiler here")
            return model(images)  # type: ignore[no-any-return]

        return forward

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr("cnnlab.training.trainer.choose_compile", lambda *_: True)
    train(tmp_path / "run", "model=mlp", "model.hidden=[4]", "trainer.epochs=2")
    assert calls == [{"dynamic": False}] * fails_at


# ---- memory


def test_too_little_memory_to_validate_is_one_line(device: Device, tmp_path: Path) -> None:
    def watch(model: Watched, logits: Tensor) -> Tensor:
        if model.training:
            return logits
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    Watched.watch = watch
    with pytest.raises(OutOfMemory, match="not enough memory to validate"):
        train_watched(tmp_path / "run")


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "MPS backend out of memory",
    ],
)
def test_libraries_that_are_refused_memory_are_understood(words: str) -> None:
    assert ran_out_of_memory(RuntimeError(words))
    assert not ran_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


def test_memory_is_given_back_also_where_the_backend_has_no_allocator_that_can(device: Device) -> None:
    with pytest.raises(RuntimeError):
        torch.accelerator.empty_cache()
    give_back_freed_memory()


def test_a_worker_of_a_study_frees_the_gpu_and_names_none_in_the_config(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnlab.study.worker import Reporter, RunRequest, execute_request

    class Channel:
        def send(self, message: Any) -> None:
            pass

    emptied, chosen = [], []
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: emptied.append(True))
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    folder = tmp_path / "run"
    request = RunRequest(config(folder, "model=mlp", "model.hidden=[4]").to_dict(), folder, 1, trial=True)
    assert execute_request(request, Reporter(Channel()), "cuda:1").status == "done"
    assert emptied and chosen == ["cuda:1"]
    assert "cuda" not in (folder / "config.yaml").read_text()


def test_the_launcher_of_several_processes_leaves_the_gpus_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnlab import processes

    asked = []

    def build(config: Config, device: torch.device, *_: Any, **__: Any) -> Any:
        asked.append(device)
        raise OutOfMemory("enough seen")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(processes, "device_of", lambda *_: torch.device("cuda", 0))
    monkeypatch.setattr(processes, "build_data", build)
    with pytest.raises(OutOfMemory):
        processes.train_together(config(tmp_path / "run", "trainer.devices=2"), lambda *_: None, [])
    assert asked == [torch.device("cpu")]


def test_processes_on_gpus_say_which_is_theirs_and_do_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    from cnnlab.training import distributed

    class Enough(Exception):
        pass

    given = {}

    def init(backend: str, **how: Any) -> None:
        given.update(how)
        raise Enough

    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(distributed, "device_of", lambda *_: torch.device("cuda", 1))
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.distributed, "init_process_group", init)
    with pytest.raises(Enough), joined("auto"):
        pass
    assert given["device_id"] == torch.device("cuda", 1)
    assert given["timeout"].total_seconds() <= 600
