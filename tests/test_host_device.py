"""Items that a thread makes ahead. What goes to a device and comes from one: tests/device/test_device_feeding.py."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from cnnlab.host_device import fetch, move, pack, prefetch, send, separate

CPU = torch.device("cpu")


def alive() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_all_items_come_in_order(ahead: int) -> None:
    assert list(prefetch(iter(range(20)), ahead)) == list(range(20))
    assert list(prefetch(iter([]), ahead)) == []
    assert not alive()


def test_no_more_are_made_than_are_asked_for_and_some_ahead() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            yield number

    ahead = prefetch(items(), 2)
    for asked in range(1, 4):
        next(ahead)
        limit = time.monotonic() + 5
        while len(made) < asked + 2 and time.monotonic() < limit:
            time.sleep(0.001)
        time.sleep(0.01)
        assert len(made) == asked + 2
    ahead.close()
    assert not alive()


def test_an_error_reaches_the_caller_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    ahead = prefetch(items(), 2)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="broken"):
        next(ahead)
    assert not alive()


def test_whoever_stops_early_ends_the_iterator_in_its_thread() -> None:
    ended: list[str] = []

    def items() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            ended.append(threading.current_thread().name)

    for _ in prefetch(items(), 2):
        break
    assert ended == ["prefetch"] and not alive()


def test_an_interrupt_ends_the_wait_and_the_thread() -> None:
    def items() -> Iterator[int]:
        yield 1
        threading.Timer(0.05, _thread.interrupt_main).start()
        time.sleep(0.3)
        yield 2

    with pytest.raises(KeyboardInterrupt):
        for _ in prefetch(items(), 2):
            pass
    assert not alive()


def test_a_parcel_holds_tensors_of_any_type_and_layout() -> None:
    tensors = {
        "filters": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "flags": torch.tensor([True, False, True]),
        "numbers": torch.arange(7),
        "one": torch.tensor(0.5, dtype=torch.float64),
        "none": torch.zeros(0, 3),
    }
    found = send(pack(tensors, CPU), CPU)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    assert move(tensors["numbers"], CPU) is tensors["numbers"]


def test_a_state_keeps_the_versions_of_its_layers() -> None:
    state = nn.BatchNorm1d(2).state_dict()
    assert separate(fetch({"model": state}))["model"]._metadata == state._metadata
