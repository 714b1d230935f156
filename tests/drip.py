"""A server that keeps every time limit of a socket and none of a request."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

PAUSE_S = 0.05


@contextlib.contextmanager
def dripping(in_headers: bool) -> Iterator[str]:
    """Answers one request with an honest chain id, a byte at a time; ended with the block."""
    body = b'{"jsonrpc":"2.0","id":1,"result":"0x1"}'
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    at_once, drops = (b"", head + body) if in_headers else (head, body)
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(at_once)
                    for drop in drops:
                        if ended.wait(PAUSE_S):
                            return
                        connection.sendall(bytes([drop]))

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        ended.set()
    thread.join(5)
