"""The messages of the tasks of a Ray cluster on their way to the pool.

A module of its own: the process of the actor imports it without torch and without Ray's driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnlab.study.worker_pool import Message


class Inbox:
    """A Ray actor that holds the messages of the tasks until the pool takes them."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, Message]] = []

    def put(self, number: int, message: Message) -> None:
        self.messages.append((number, message))

    def take(self) -> list[tuple[int, Message]]:
        taken, self.messages = self.messages, []
        return taken


class InboxChannel:
    """Sends the messages of one task to the inbox."""

    def __init__(self, inbox: Any, number: int) -> None:
        self.inbox, self.number = inbox, number
        self.last: Any = None

    def send(self, message: Any, /) -> None:
        self.last = self.inbox.put.remote(self.number, message)

    def flush(self) -> None:
        """Wait until the last message, and with it every other, has arrived."""
        import ray

        if self.last is not None:
            ray.get(self.last)
