"""A process group as small as can be: it finds its peers as torch's `env://` does, and reduces.

Like the real ones it waits for everybody in each call, and fails when a peer is gone.
"""

from __future__ import annotations

import os
import socket
import time
from types import TracebackType

TIMEOUT_S = 60.0


class Group:
    """The ranks of one trial; a context manager that connects them."""

    def __init__(self) -> None:
        self.rank = int(os.environ["RANK"])
        self.size = int(os.environ["WORLD_SIZE"])
        self._address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._peers: list[socket.socket] = []

    def __enter__(self) -> Group:
        if self.rank == 0:
            with socket.create_server(self._address, reuse_port=False) as server:
                server.settimeout(TIMEOUT_S)
                self._peers = [server.accept()[0] for _ in range(self.size - 1)]
        else:
            self._peers = [self._connect()]
        return self

    def _connect(self) -> socket.socket:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                return socket.create_connection(self._address)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        for peer in self._peers:
            peer.close()

    def all_reduce(self, value: float) -> float:
        """Return the sum of all ranks' values."""
        if self.rank > 0:
            self._send(self._peers[0], value)
            return self._receive(self._peers[0])
        total = value + sum(self._receive(peer) for peer in self._peers)
        for peer in self._peers:
            self._send(peer, total)
        return total

    def _send(self, peer: socket.socket, value: float) -> None:
        peer.sendall(value.hex().encode().ljust(32))

    def _receive(self, peer: socket.socket) -> float:
        data = peer.recv(32, socket.MSG_WAITALL)
        if len(data) < 32:
            raise ConnectionError(f"rank {self.rank} has lost a peer")
        return float.fromhex(data.decode().strip())
