"""Small messages among the processes of one machine, many times per step.

A collective of gloo hands every message to threads, and waking these takes longer than the message: 80 to 300 µs, forty
times per step for the statistics of ResNet-20. Here the process that computes also sends and receives, and it asks
again at once for a while before it sleeps.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

LARGEST = 64 * 1024  # bytes of a message that a socket takes in whole, so that all can send before they receive
PATIENCE = 0.0005  # seconds to ask again and again before sleeping


class Exchange:
    """A socket between each two processes. Every process must call `gather` in the same order with the same sizes."""

    def __init__(self, rank: int, size: int, place: Path, wait_for_all: Callable[[], object]) -> None:
        """Connect all processes, which call this together, through a folder that they all see."""
        self.rank, self.size = rank, size
        self.peers: dict[int, socket.socket] = {}
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(str(place / str(rank)))
            door.listen(size)
            wait_for_all()  # every door is open
            for other in range(rank):
                peer = self._new_peer(other, socket.socket(socket.AF_UNIX))
                peer.connect(str(place / str(other)))
                peer.sendall(rank.to_bytes(4, "little"))
            for _ in range(rank + 1, size):
                peer, _ = door.accept()
                self._new_peer(int.from_bytes(peer.recv(4, socket.MSG_WAITALL), "little"), peer)
        wait_for_all()  # nobody looks for a door any more

    def _new_peer(self, rank: int, peer: socket.socket) -> socket.socket:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * LARGEST)
        self.peers[rank] = peer
        return peer

    def gather(self, values: Tensor) -> Tensor:
        """(n,) numbers on the processor, at most LARGEST bytes → (size, n), a row per process.

        Raises:
            ConnectionError: another process is gone.
        """
        rows = torch.empty(self.size, len(values), dtype=values.dtype)
        rows[self.rank] = values
        message = memoryview(rows.numpy().data).cast("B")
        length = len(message) // self.size
        mine = message[self.rank * length : (self.rank + 1) * length]
        for peer in self.peers.values():
            peer.sendall(mine)
        for rank, peer in self.peers.items():
            _receive(peer, message[rank * length : (rank + 1) * length])
        return rows

    def close(self) -> None:
        for peer in self.peers.values():
            peer.close()
        self.peers.clear()


def _receive(peer: socket.socket, room: memoryview) -> None:
    """Fill `room` with what comes."""
    patient_until = 0.0
    while len(room):
        try:
            count = peer.recv_into(room, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            now = time.monotonic()
            patient_until = patient_until or now + PATIENCE
            if now < patient_until:
                continue
            count = peer.recv_into(room)
        if count == 0:
            raise ConnectionResetError("another process of this run is gone")
        room = room[count:]
