"""What the hub's relay and the nodes' links both do to a TCP connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Final

READ_BYTES: Final = 65_536
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, zero seconds

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def keep_alive(writer: asyncio.StreamWriter) -> None:
    """Have the system notice a peer that vanished, and keep address translators from forgetting."""
    connection: socket.socket = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):  # reset already; the next read will say so
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):  # Linux has all three, other systems some
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def cut(writer: asyncio.StreamWriter) -> None:
    """End a connection at once by a reset, so that a broken stream never looks finished."""
    connection: socket.socket = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):  # closed already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
