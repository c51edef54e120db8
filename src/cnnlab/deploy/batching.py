"""Images of many requests through the network together."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

LARGEST = 64  # images in one batch
WAITING = 256  # images that may wait

Array = np.ndarray[Any, Any]


class QueueFull(Exception):
    """More images wait than may."""


class MicroBatcher:
    """One thread that computes: while it is busy with a batch the next one gathers, so no image waits for others.

    Args:
        compute: images, as many as `largest` → an array whose first axis has a row for each, in order.
        largest: images in one batch; 1 computes each alone.
        waiting: images that may wait; beyond it `ask` raises QueueFull.
        seen: told the size of each batch.
    """

    def __init__(
        self,
        compute: Callable[[list[Array]], Array],
        largest: int = LARGEST,
        waiting: int = WAITING,
        seen: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._compute, self._largest, self._seen = compute, largest, seen
        self._queue: queue.Queue[tuple[Array, asyncio.Future[Array]] | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    def ask(self, image: Array) -> asyncio.Future[Array]:
        """An image → its row, some time later. All that ask are of one event loop. Raises QueueFull."""
        answer: asyncio.Future[Array] = asyncio.get_running_loop().create_future()
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
            jobs = [job for job in jobs if not job[1].cancelled()]
            if not jobs:
                continue
            self._seen(len(jobs))
            outcome: Array | Exception
            try:
                outcome = self._compute([image for image, _ in jobs])
            except Exception as error:  # whoever asked is told; the thread goes on
                outcome = error
            answers = [answer for _, answer in jobs]
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
                # All at once: waking the loop for every answer would make it fight with us for the interpreter.
                answers[0].get_loop().call_soon_threadsafe(_settle, answers, outcome)

    def _gather(self) -> tuple[list[tuple[Array, asyncio.Future[Array]]], bool]:
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


def _settle(answers: list[asyncio.Future[Array]], outcome: Array | Exception) -> None:
    for number, answer in enumerate(answers):
        if answer.done():  # given up meanwhile
            continue
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome[number])
