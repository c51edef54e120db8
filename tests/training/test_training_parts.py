"""The small parts of the loop: average, seeds, device, precision, interruption, gradients."""

from __future__ import annotations

import itertools
import signal
import threading

import numpy as np
import pytest
import torch
from torch import nn

from cnnlab.device import choose_device
from cnnlab.errors import DeviceError
from cnnlab.models.mlp import MLP
from cnnlab.models.resnet import ResNet
from cnnlab.training.average import WeightAverage
from cnnlab.training.gradients import layer_gradients
from cnnlab.training.interrupt import InterruptGuard
from cnnlab.training.precision import Precision, choose_compile, choose_precision
from cnnlab.training.reproduce import mix, seed_step

CPU = torch.device("cpu")

# ---- average


def test_the_average_is_that_of_a_slow_loop_over_numbers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = WeightAverage(model, 0.9)
    slow = {key: value.double().numpy().copy() for key, value in model.state_dict().items()}
    for step in range(1, 30):
        model(torch.randn(5, 3))  # moves the running statistics and the counter of batches
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        average.move(average.share(step))
        decay = min(0.9, (1 + step) / (10 + step))
        for key, value in model.state_dict().items():
            slow[key] = (
                decay * slow[key] + (1 - decay) * value.double().numpy()
                if value.is_floating_point()
                else value.numpy().copy()
            )
    for key, value in average.model.state_dict().items():
        np.testing.assert_allclose(value.double().numpy(), slow[key], rtol=1e-5, atol=1e-6, err_msg=key)
    assert average.model.state_dict()["1.num_batches_tracked"] == 29


def test_the_average_starts_as_the_model_and_leaves_it_alone() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    average = WeightAverage(model, 0.999)
    assert torch.equal(average.model.weight, before)
    average.move(average.share(1))
    assert torch.equal(model.weight, before)
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert not average.model.training


def test_the_average_still_follows_after_its_state_is_loaded() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, 0.5)
    average.model.load_state_dict({"weight": torch.tensor([[4.0]])})
    model.weight.data.fill_(0)
    average.move(average.share(1000))
    assert average.model.weight.item() == 2


# ---- seeds


def test_seeds_of_steps_do_not_meet() -> None:
    values = {mix(seed, step) for seed in range(50) for step in range(-1, 200)}
    assert len(values) == 50 * 201
    assert all(0 <= value < 2**63 for value in values)
    assert 0 <= mix(10**30, 10**12) < 2**63


def test_a_step_draws_the_same_numbers_whatever_happened_before() -> None:
    seed_step(3, 7)
    first = torch.rand(5)
    torch.rand(100)
    seed_step(3, 7)
    assert torch.equal(torch.rand(5), first)
    seed_step(3, 8)
    assert not torch.equal(torch.rand(5), first)
    torch.manual_seed(mix(3, 7))
    assert torch.equal(torch.rand(5), first)


# ---- device and precision


def test_auto_is_a_device_that_is_there() -> None:
    torch.zeros(1, device=choose_device("auto"))
    assert choose_device("cpu") == CPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(DeviceError, match="auto"):
        choose_device(name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_gpu_beyond_the_last_is_refused() -> None:
    with pytest.raises(DeviceError, match="GPU"):
        choose_device("cuda:99")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is a Metal GPU here")
def test_a_metal_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(DeviceError, match="auto"):
        choose_device("mps")


def test_half_precision_needs_a_gpu() -> None:
    with pytest.raises(DeviceError, match="fp16"):
        choose_precision("fp16", CPU, MLP())


def test_auto_multiplies_in_bfloat16_only_where_the_processor_does() -> None:
    assert choose_precision("auto", CPU, MLP()) == "fp32"  # nothing to convolve
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert choose_precision("auto", CPU, ResNet(depth=8)) == ("bf16" if fast else "fp32")
    assert choose_precision("fp32", CPU, ResNet(depth=8)) == "fp32"
    assert choose_precision("bf16", CPU, MLP()) == "bf16"


@pytest.mark.parametrize(("name", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_has_the_precision_asked_for(name: str, kind: torch.dtype) -> None:
    layer = nn.Conv2d(1, 1, 1)
    with Precision(name, CPU).autocast():
        assert layer(torch.zeros(1, 1, 2, 2)).dtype == kind


def test_compilation_is_chosen_only_where_the_run_earns_it_back() -> None:
    model, shape = ResNet(depth=20), (3, 32, 32)
    gpu = torch.device("cuda")
    assert choose_compile(True, CPU, model, shape, 1) is True
    assert choose_compile(False, gpu, model, shape, 10**12) is False
    assert choose_compile("auto", gpu, model, shape, 1000) is False
    assert choose_compile("auto", gpu, model, shape, 10**9) is True
    assert choose_compile("auto", CPU, model, shape, 10**9) is False


# ---- interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_wish_and_the_second_a_command(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), InterruptGuard() as guard:
        assert not guard.requested
        signal.raise_signal(number)
        assert guard.requested
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with InterruptGuard():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_training_in_a_thread_needs_no_signals() -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with InterruptGuard() as guard:
                assert not guard.requested
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []


# ---- gradients


def test_the_norm_of_a_layer_is_that_of_all_its_parameters() -> None:
    model = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1, bias=False), nn.Linear(1, 1))
    model[0].weight.grad = torch.tensor([[3.0], [0.0]])
    model[0].bias.grad = torch.tensor([0.0, 4.0])
    model[1].weight.grad = torch.tensor([[-2.0, 0.0]])
    found = layer_gradients(model)
    assert {name: gradient.norm for name, gradient in found.items()} == {"0": 5.0, "1": 2.0}
    assert sum(found["0"].counts) == 4


@pytest.mark.parametrize("values", [(0.0, 1e-45), (1.0, 1.0000001), (1e17, 1e17), (-3e38, 3e38), (1e9, 1e9)])
def test_gradients_of_any_range_have_a_histogram(values: tuple[float, float]) -> None:
    model = nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([values])
    (gradient,) = layer_gradients(model).values()
    assert sum(gradient.counts) == 2
    assert all(one < two for one, two in itertools.pairwise(gradient.edges))


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 0.0, 1e-45])
def test_strange_gradients_are_told_and_stop_nothing(value: float) -> None:
    """With float16 the first steps overflow as a matter of course; the scaler skips them."""
    model = nn.Linear(2, 1)
    model.weight.grad = torch.tensor([[value, 1.0]])
    layer_gradients(model)
    model.weight.grad = torch.full((1, 2), value)
    layer_gradients(model)
