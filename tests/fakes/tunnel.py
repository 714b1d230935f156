"""A bare tunnel between two engines of one machine, as a node's links make one, without TLS.

It takes a connection at once and holds it until the engine behind listens: engines that are
refused once do not try again for three seconds.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class Tunnel:
    """late_s: the first that comes back on each connection arrives so much later."""

    def __init__(self, *, late_s: float = 0) -> None:
        self._late_s = late_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.engine = f"127.0.0.1:{free_port()}"
        self.carried_bytes = 0
        self._open = True
        threading.Thread(target=self._take, daemon=True).start()

    def close(self) -> None:
        self._open = False
        self._listener.close()

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        host, _, port = self.engine.rpartition(":")
        while self._open:
            try:
                far = socket.create_connection((host, int(port)))
                break
            except OSError:
                time.sleep(0.02)
        else:
            near.close()
            return
        back = threading.Thread(target=self._pump_back, args=(far, near), daemon=True)
        back.start()
        self._pump(near, far)
        back.join()
        near.close()
        far.close()

    def _pump_back(self, far: socket.socket, near: socket.socket) -> None:
        time.sleep(self._late_s)
        self._pump(far, near)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**18):
                self.carried_bytes += len(data)
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
