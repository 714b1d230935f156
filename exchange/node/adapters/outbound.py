"""Outbound connections: straight, or through an HTTP proxy by CONNECT (RFC 9110, 9.3.6)."""

from __future__ import annotations

import asyncio
from typing import Final

from exchange.links.adapters.connection import Connection, cut, keep_alive
from exchange.links.endpoint import Endpoint, Proxy
from exchange.links.errors import ProxyRefused, Unreachable

_MAX_HEAD_BYTES: Final = 8192


async def connect(endpoint: Endpoint, proxy: Proxy | None) -> Connection:
    """Raises Unreachable, or ProxyRefused with the proxy's status line. Sets no deadline."""
    first = proxy.endpoint if proxy else endpoint
    try:
        reader, writer = await asyncio.open_connection(first.host, first.port)
    except OSError as error:
        raise Unreachable(f"{first} does not answer: {error}") from error
    try:
        keep_alive(writer)
        if proxy:
            await _ask(proxy, endpoint, reader, writer)
    except BaseException:  # also when cancelled: nobody else knows of this socket yet
        cut(writer)
        raise
    return reader, writer


async def _ask(
    proxy: Proxy, endpoint: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    lines = [f"CONNECT {endpoint} HTTP/1.1", f"Host: {endpoint}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    writer.write("\r\n".join([*lines, "", ""]).encode("ascii"))
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError) as error:
        raise Unreachable(f"the proxy {proxy.endpoint} gave no answer") from error
    status, _, _ = head.partition(b"\r\n")
    words = status.split(b" ", 2)
    if len(head) > _MAX_HEAD_BYTES or not words[0].startswith(b"HTTP/1.") or len(words) < 2:
        raise ProxyRefused(f"{proxy.endpoint} does not answer like an HTTP proxy")
    shown = status[:80].decode("ascii", "replace")
    if words[1].startswith(b"5"):  # so a proxy says that the address does not answer it
        raise Unreachable(f"the proxy {proxy.endpoint} cannot reach {endpoint}: {shown}")
    if words[1] != b"200":
        raise ProxyRefused(f"the proxy {proxy.endpoint} refused a way to {endpoint}: {shown}")
