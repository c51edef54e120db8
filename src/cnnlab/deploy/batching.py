"""Pictures of many requests through the network together."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

import torch
from torch import Tensor

LARGEST = 64  # pictures in one batch
WAITING = 256  # pictures that may wait


class QueueFull(Exception):
    """More pictures wait than may."""


class MicroBatcher:
    """One thread that computes: while it is busy with a batch the next one gathers, so nothing ever waits for company.

    Args:
        compute: (B, C, H, W) → (B, K), rows in order.
        largest: pictures in one batch; 1 computes each alone.
        waiting: pictures that may wait; beyond it `submit` raises QueueFull.
        seen: told the size of each batch.
    """

    def __init__(
        self,
        compute: Callable[[Tensor], Tensor],
        largest: int = LARGEST,
        waiting: int = WAITING,
        seen: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._compute, self._largest, self._seen = compute, largest, seen
        self._queue: queue.Queue[tuple[Tensor, Future[Tensor]] | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    def submit(self, image: Tensor) -> Future[Tensor]:
        """One picture (C, H, W) → its row (K,), some time later. Raises QueueFull."""
        answer: Future[Tensor] = Future()
        try:
            self._queue.put_nowait((image, answer))
        except queue.Full:
            raise QueueFull from None
        return answer

    @property
    def waiting(self) -> int:
        return self._queue.qsize()

    def close(self) -> None:
        """Compute what waits, then end."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        open_ = True
        while open_:
            jobs, open_ = self._gather()
            jobs = [job for job in jobs if job[1].set_running_or_notify_cancel()]
            if not jobs:
                continue
            self._seen(len(jobs))
            try:
                rows = self._compute(torch.stack([image for image, _ in jobs]))
            except Exception as error:  # whoever asked is told; the thread goes on
                for _, answer in jobs:
                    answer.set_exception(error)
                continue
            for (_, answer), row in zip(jobs, rows, strict=True):
                answer.set_result(row)

    def _gather(self) -> tuple[list[tuple[Tensor, Future[Tensor]]], bool]:
        """The next batch, and whether more may come."""
        jobs = []
        item = self._queue.get()
        while item is not None:
            jobs.append(item)
            if len(jobs) == self._largest:
                break
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
        return jobs, item is not None
