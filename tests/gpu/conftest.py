"""The checks that need a CUDA GPU:

    pytest -n 0 -m gpu tests/gpu                            # skipped where there is none
    CNNLAB_GPU_TESTS=cpu pytest -n 0 -m gpu tests/gpu       # their code alone, on the processor
    CNNLAB_GPU_TESTS=pretend pytest -n 0 -m gpu tests/gpu   # and on the device of tests/pretend_device.py

Without `-m gpu` nothing of this folder is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at a process's first product, for deterministic runs
PLACE = os.environ.get("CNNLAB_GPU_TESTS", "cuda")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return None if config.option.markexpr == "gpu" else True


@pytest.fixture(scope="session")
def device() -> Iterator[object]:
    """The torch.device that is checked: cuda, or what CNNLAB_GPU_TESTS names."""
    import torch

    if PLACE == "pretend":
        import pretend_device

        if pretend_device.WHY_NOT:
            pytest.skip(pretend_device.WHY_NOT)
        with pretend_device.pretended():
            yield torch.device(pretend_device.NAME)
        return
    if PLACE == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA GPU here")
    yield torch.device(PLACE)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What a run sets for its whole process is taken back."""
    import torch

    yield
    torch.use_deterministic_algorithms(False)
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.empty_cache()


@pytest.fixture
def no_waiting(device: object) -> Callable[[], AbstractContextManager[None]]:
    """A context in which nothing may make the processor wait for the device."""
    import torch

    @contextmanager
    def watched() -> Iterator[None]:
        if PLACE == "cuda":
            torch.cuda.set_sync_debug_mode("error")
            yield
            torch.cuda.set_sync_debug_mode("default")
            return
        import pretend_device

        assert pretend_device._device is not None
        pretend_device._device.clear()
        yield
        assert pretend_device._device.synchronisations == {}

    if PLACE == "cpu":
        pytest.skip("nobody waits for the processor")
    return watched


@pytest.fixture
def little_memory(device: object) -> Callable[[int], AbstractContextManager[None]]:
    """`with little_memory(n)`: more than n images at once do not fit. On a GPU, n is taken as 64 MB of memory each."""
    import torch
    from torch import nn

    @contextmanager
    def limited(images: int) -> Iterator[None]:
        if PLACE == "cuda":
            torch.cuda.empty_cache()
            whole = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + images * 2**26) / whole)
            try:
                yield
            finally:
                torch.cuda.set_per_process_memory_fraction(1.0)
            return

        def refuse(module: nn.Module, arguments: tuple[object, ...]) -> None:
            batch = arguments[0]
            if isinstance(module, nn.Conv2d) and isinstance(batch, torch.Tensor) and len(batch) > images:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        handle = nn.modules.module.register_module_forward_pre_hook(refuse)
        try:
            yield
        finally:
            handle.remove()

    return limited
