"""Where a node dials: a peer's word does not lead it inside its own walls."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from ipaddress import ip_network

import pytest

from api.settings import NodeSettings, SettingsRefused
from exchange.links.endpoint import Endpoint, Proxy
from exchange.links.errors import Unreachable
from exchange.node.adapters.outbound import EVERYWHERE, Network, connect_to_peer, may_dial

INSIDE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",  # where clouds keep their machines' credentials
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fd00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::1",
    "::10.0.0.1",
    "::169.254.169.254",
    "fec0::1",
    "feff::1",
    "64:ff9b:1::a00:1",
]


@pytest.mark.parametrize("host", INSIDE)
def test_an_address_inside_is_dialled_only_where_a_setting_names_its_network(host: str) -> None:
    assert not may_dial(host, ())
    assert not may_dial(host, [ip_network("203.0.113.0/24"), ip_network("2001:db8::/32")])
    assert may_dial(host, EVERYWHERE)


@pytest.mark.parametrize("host", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_a_public_address_is_dialled(host: str) -> None:
    assert may_dial(host, ())


def test_a_named_network_opens_itself_and_nothing_beside_it() -> None:
    networks = [ip_network("10.8.0.0/16")]
    assert may_dial("10.8.3.4", networks)
    assert may_dial("::ffff:10.8.3.4", networks)
    assert not may_dial("10.9.0.1", networks)


def test_a_name_is_not_an_address() -> None:
    assert not may_dial("localhost", EVERYWHERE)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        yield server


def dial(
    server: socket.socket, host: str, networks: Sequence[Network], proxy: Proxy | None = None
) -> None:
    async def go() -> None:
        port = server.getsockname()[1]
        _, writer = await connect_to_peer(Endpoint(host, port), proxy, networks)
        writer.close()

    asyncio.run(go())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_packet_leaves_for_an_address_that_may_not_be_dialled(
    listener: socket.socket, host: str
) -> None:
    with pytest.raises(Unreachable, match="peer_networks"):
        dial(listener, host, ())
    with pytest.raises(TimeoutError):
        listener.accept()
    dial(listener, host, [ip_network("127.0.0.0/8")])
    listener.accept()[0].close()


def test_a_proxy_is_not_asked_for_an_address_inside_either(listener: socket.socket) -> None:
    proxy = Proxy(Endpoint("127.0.0.1", listener.getsockname()[1]))
    with pytest.raises(Unreachable, match="peer_networks"):
        dial(listener, "10.0.0.1", (), proxy)
    with pytest.raises(TimeoutError):
        listener.accept()


@pytest.mark.parametrize("text", ["10.8.0.0", "10.8.0.1/16", "lab.example", "10.8.0.0/33"])
def test_a_network_is_written_in_one_way(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "FOLDER": "x",
        "HUB_URL": "https://hub.test",
        "OPERATOR": "pty_" + "1" * 32,
        "POLICY_FILE": "policy",
        "PEER_NETWORKS": f'["{text}"]',
    }.items():
        monkeypatch.setenv(f"UNSEEN_NODE_{name}", value)
    if text == "10.8.0.0":  # a network of one address
        assert NodeSettings.load(None).peer_networks == (text,)
        return
    with pytest.raises(SettingsRefused, match="peer_networks"):
        NodeSettings.load(None)
