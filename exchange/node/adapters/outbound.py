"""Outbound connections: straight, or through an HTTP proxy by CONNECT (RFC 9110, 9.3.6).

Where a peer says that it is reached is the peer's own word, so a node goes there only on the public
internet or in networks that its settings name: else whoever has an agreement with it could have it
knock at addresses inside its walls, and read from the failures what is there.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from typing import Final

from exchange.links.adapters.connection import Connection, cut, keep_alive
from exchange.links.endpoint import Endpoint, Proxy
from exchange.links.errors import ProxyRefused, Unreachable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

EVERYWHERE: Final[tuple[Network, ...]] = (
    ipaddress.IPv4Network("0.0.0.0/0"),
    ipaddress.IPv6Network("::/0"),
)
_MAX_HEAD_BYTES: Final = 8192
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
# Not public, whatever the library says: what they lead to is the local network's business.
_LOCAL: Final = (
    ipaddress.IPv6Network("::/96"),  # IPv4-compatible, RFC 4291 2.5.5.1
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # NAT64 of one's own, RFC 8215
    ipaddress.IPv6Network("fec0::/10"),  # site-local, RFC 3879
)
_NOT_ALLOWED: Final = (
    "is neither on the public internet nor in a network of the setting peer_networks"
)


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


async def connect_to_peer(
    endpoint: Endpoint, proxy: Proxy | None, networks: Sequence[Network]
) -> Connection:
    """As `connect`, for an address that a peer named. networks: where it may be besides the public
    internet. A name is resolved once and what was found is dialled, for a second answer could be
    another one; through a proxy names are the proxy's to judge. Raises Unreachable as well where
    the address may not be dialled, and no packet leaves.
    """
    if proxy is not None:
        literal = _address(endpoint.host)
        if literal is not None and not may_dial(endpoint.host, networks):
            raise Unreachable(f"{endpoint} {_NOT_ALLOWED}")
        return await connect(endpoint, proxy)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM
        )
    except OSError as error:
        raise Unreachable(f"{endpoint} is not found: {error}") from error
    hosts = list(dict.fromkeys(str(address[0]) for *_, address in found))
    last = Unreachable(f"{endpoint} {_NOT_ALLOWED}")
    for host in hosts:
        if may_dial(host, networks):
            try:
                return await connect(Endpoint(host, endpoint.port), None)
            except Unreachable as error:
                last = error
    raise last


def may_dial(host: str, networks: Sequence[Network]) -> bool:
    """Whether an address, not a name, is public or in one of these networks."""
    address = _address(host)
    if address is None:
        return False
    if isinstance(address, ipaddress.IPv6Address):  # ways to write, or to reach, an IPv4 address
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        address = inner or address
    if _is_in(address, networks):
        return True
    return address.is_global and not address.is_multicast and not _is_in(address, _LOCAL)


def _is_in(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, networks: Sequence[Network]
) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


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
