"""Tiny steps run in one thread; the process keeps its number."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from cnnlab.config import TrainerConfig
from cnnlab.models.registry import create_model
from cnnlab.training.precision import threads_for

PROCESSOR = torch.device("cpu")


@pytest.fixture(autouse=True)
def _two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def threads(config: TrainerConfig, side: int, width: int = 16) -> int:
    model = create_model("vgg", width=width, in_channels=3, num_classes=10, image_size=side)
    with threads_for(config, PROCESSOR, model, (3, side, side)):
        inside = torch.get_num_threads()
    assert torch.get_num_threads() == 2
    return inside


def test_a_tiny_step_takes_one_thread_and_a_large_one_all() -> None:
    assert threads(TrainerConfig(batch_size=8), 8) == 1
    assert threads(TrainerConfig(batch_size=128), 32) == 2


def test_a_number_that_is_given_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads(TrainerConfig(batch_size=8, threads=2), 8) == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads(TrainerConfig(batch_size=8), 8) == 2


def test_a_network_that_cannot_be_asked_takes_all() -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum().item() > 0 else -x

    with threads_for(TrainerConfig(batch_size=1), PROCESSOR, Odd(), (1, 2, 2)):
        assert torch.get_num_threads() == 2


def test_it_is_put_back_after_an_error() -> None:
    one = TrainerConfig(batch_size=1)
    with pytest.raises(KeyError), threads_for(one, PROCESSOR, torch.nn.Identity(), (1, 2, 2)):
        raise KeyError
    assert torch.get_num_threads() == 2
