"""The client of the load benchmarks: a process of its own that sends prepared requests.

The requests are made and signed beforehand and go out over plain sockets, so that what the client
costs beside the server, on the same cores, is little and the same for whoever is measured.

    python -m api.bench.load < order.json > report.json
"""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

HOST: Final = "127.0.0.1"
ANSWER_S: Final = 60.0
LOAD_S: Final = 300.0
_CHUNK: Final = 1 << 16


class LoadRefused(Exception):
    """An answer that was not the one that the benchmark is about: its figures would mislead."""


@dataclass(frozen=True)
class Load:
    """What one load took. seconds: from the first request to the last answer, all connections.
    received_bytes: of the answers, with their headers."""

    seconds: float
    latencies_s: tuple[float, ...]
    received_bytes: int


def http_request(
    method: str, target: str, port: int, headers: Sequence[tuple[str, str]] = (), body: bytes = b""
) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {HOST}:{port}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def drive(port: int, requests: Sequence[Sequence[bytes]], *, holds: bytes) -> Load:
    """Send each list over a connection of its own, one request after the other's answer.

    holds: what every answer's body must hold. Raises LoadRefused if one does not, or is not 2xx.
    """
    order = {
        "port": port,
        "holds": holds.decode(),
        "requests": [[base64.b64encode(r).decode() for r in line] for line in requests],
    }
    done = subprocess.run(
        [sys.executable, "-m", "api.bench.load"],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        timeout=LOAD_S,
    )
    if done.returncode != 0:
        raise LoadRefused(done.stderr.strip()[-2000:])
    found: dict[str, Any] = json.loads(done.stdout)
    return Load(found["seconds"], tuple(found["latencies_s"]), found["received_bytes"])


class _Line(threading.Thread):
    """One connection."""

    def __init__(self, port: int, requests: Sequence[bytes], holds: bytes) -> None:
        super().__init__(daemon=True)
        self._requests = requests
        self._holds = holds
        self._socket = socket.create_connection((HOST, port), ANSWER_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.begin = threading.Event()
        self.spans: list[tuple[float, float]] = []
        self.received_bytes = 0
        self.refusal: str | None = None

    def run(self) -> None:
        self.begin.wait()
        for request in self._requests:
            sent = time.perf_counter()
            try:
                self._socket.sendall(request)
                head, body = self._answer()
            except OSError as error:
                self.refusal = f"no answer: {error}"
                return
            self.spans.append((sent, time.perf_counter()))
            if not head.startswith(b"HTTP/1.1 2") or self._holds not in body:
                self.refusal = (head + b"\n\n" + body[:800]).decode("utf-8", "replace")
                return

    def _answer(self) -> tuple[bytes, bytes]:
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        head, body = data[:end], data[end + 4 :]
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        while len(body) < length:
            body += self._more()
        return head, body

    def _more(self) -> bytes:
        found = self._socket.recv(_CHUNK)
        if not found:
            raise ConnectionError("the connection was closed")
        self.received_bytes += len(found)
        return found


def _run(order: dict[str, Any]) -> dict[str, Any]:
    holds = order["holds"].encode()
    lines = [
        _Line(order["port"], [base64.b64decode(r) for r in line], holds)
        for line in order["requests"]
    ]
    for line in lines:
        line.start()
    for line in lines:
        line.begin.set()
    for line in lines:
        line.join()
    for line in lines:
        if line.refusal is not None:
            raise LoadRefused(line.refusal)
    spans = [span for line in lines for span in line.spans]
    seconds = max(end for _, end in spans) - min(sent for sent, _ in spans)
    return {
        "seconds": seconds,
        "latencies_s": [end - sent for sent, end in spans],
        "received_bytes": sum(line.received_bytes for line in lines),
    }


if __name__ == "__main__":
    try:
        sys.stdout.write(json.dumps(_run(json.load(sys.stdin))))
    except (LoadRefused, OSError) as error:
        sys.exit(str(error))
