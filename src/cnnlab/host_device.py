"""Between the processor and an accelerator: many tensors in one copy, and nothing waits for it on the way there.

A copy costs an accelerator some microseconds however short it is, and one from it makes the processor wait for all
that was asked of the accelerator before.
"""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Generator, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

ALIGNMENT = 16  # bytes, of each tensor in a parcel
CHUNK = 64 * 2**20  # bytes that are fetched at once: so much memory of the device a fetch takes, or the largest tensor
T = TypeVar("T")


class Parcel(NamedTuple):
    """Tensors of the processor one after the other, for one copy. `places`: where each lies, its type and shape."""

    content: Tensor  # (bytes,) uint8
    places: dict[str, tuple[slice, torch.dtype, torch.Size]]


def pack(tensors: Mapping[str, Tensor], device: torch.device) -> Parcel:
    """Copy tensors of the processor into one buffer, which lies in page-locked memory where the device is a GPU."""
    places, end = {}, 0
    for name, tensor in tensors.items():
        places[name] = slice(end, end + tensor.nbytes), tensor.dtype, tensor.shape
        end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    content = torch.empty(end, dtype=torch.uint8, pin_memory=_can_lock(device))
    for name, (place, dtype, shape) in places.items():
        content[place].view(dtype).view(shape).copy_(tensors[name])
    return Parcel(content, places)


def send(parcel: Parcel, device: torch.device) -> dict[str, Tensor]:
    """The tensors of a parcel on the device, where they are views of one buffer."""
    content = parcel.content.to(device, non_blocking=_in_order(device))
    return {name: content[place].view(dtype).view(shape) for name, (place, dtype, shape) in parcel.places.items()}


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """The same tensor on a device; from the processor to an accelerator without waiting."""
    if device.type == "cpu" or tensor.device.type != "cpu":
        return tensor.to(device)
    if tensor.is_pinned():
        return tensor.to(device, non_blocking=True)
    return send(pack({"": tensor}, device), device)[""]


def fetch(value: Any) -> Any:
    """Nested dictionaries and lists with every tensor on the processor: a copy that no later step changes.

    Tensors keep their layout in memory. The processor waits for the device once. Those that were fetched are views of
    few buffers in page-locked memory; `separate` gives each its own.
    """
    tensors = list(_device_tensors(value))
    chunks = list(_chunks(tensors))
    found: dict[int, Tensor] = {}
    for number, chunk in enumerate(chunks, 1):
        device = chunk[0].device
        ordered = [tensor.detach().permute(_memory_order(tensor)) for tensor in chunk]
        flat = torch.cat([tensor.reshape(-1) for tensor in ordered])
        host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=_can_lock(device))
        host.copy_(flat, non_blocking=number < len(chunks) and _in_order(device))  # the last waits for those before it
        parts = torch.split(host, [tensor.numel() for tensor in chunk])
        for tensor, order, part in zip(chunk, ordered, parts, strict=True):
            back = torch.tensor(_memory_order(tensor), dtype=torch.int64).argsort().tolist()
            found[id(tensor)] = part.view(order.shape).permute(back)
    return _replaced(value, found)


def separate(value: Any) -> Any:
    """What `fetch` gave, each tensor in memory of its own."""
    return _replaced(value, {})


def prefetch(items: Iterator[T], ahead: int) -> Generator[T, None, None]:
    """The same items, made by a thread up to `ahead` before they are asked for; its errors are raised here.

    Whoever stops early ends the thread, and with it the iterator.
    """
    made: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    room, stopped = threading.Semaphore(ahead), threading.Event()

    def work() -> None:
        error: BaseException | None = StopIteration()
        try:
            while room.acquire() and not stopped.is_set():
                made.put((next(items), None))
        except BaseException as raised:
            error = raised
        finally:
            if hasattr(items, "close"):
                items.close()
            made.put((None, error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            room.release()
            yield item
    finally:
        stopped.set()
        room.release()
        thread.join()


def _can_lock(device: torch.device) -> bool:
    return device.type == "cuda"


def _in_order(device: torch.device) -> bool:
    """Whether a copy may still be going on when the call returns. Metal's reads memory that may be given back then."""
    return device.type not in ("cpu", "mps")


def _device_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.device.type != "cpu":
            yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _device_tensors(inner)


def _replaced(value: Any, found: Mapping[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return found[id(value)] if id(value) in found else value.detach().clone()
    if isinstance(value, Mapping):
        same = copy.copy(value)  # of a state_dict with the versions of its layers
        same.update((key, _replaced(inner, found)) for key, inner in value.items())  # type: ignore[attr-defined]
        return same
    if isinstance(value, list | tuple):
        return type(value)(_replaced(inner, found) for inner in value)
    return value


def _chunks(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one device and type together, not more than CHUNK bytes unless a single one is larger."""
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    for alike in kinds.values():
        chunk: list[Tensor] = []
        for tensor in alike:
            if chunk and sum(other.nbytes for other in chunk) + tensor.nbytes > CHUNK:
                yield chunk
                chunk = []
            chunk.append(tensor)
        yield chunk


def _memory_order(tensor: Tensor) -> list[int]:
    """Its dimensions, those with the longest steps in memory first: 0, 2, 3, 1 where channels are last."""
    return sorted(range(tensor.ndim), key=lambda axis: -tensor.stride()[axis])
