"""The load benchmark's parts: its client against a bare server, and the rival's search."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from api.bench.harness import percentile
from api.bench.load import LoadRefused, drive, http_request
from api.bench.market import Cast
from api.bench.rival import ACTOR, bare_app, bare_engine, fill
from api.http.server import bind


@contextmanager
def answering(answer: bytes, *, parts: int = 1) -> Iterator[tuple[int, list[bytes]]]:
    """A server that gives this answer to every request, in so many pieces."""
    heard: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                heard.append(data)
                size = -(-len(answer) // parts)
                for start in range(0, len(answer), size):
                    connection.sendall(answer[start : start + size])

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], heard
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n" + b'{"items":[]}'


def test_every_request_is_sent_once_and_its_answer_read_to_the_end() -> None:
    with answering(OK, parts=3) as (port, heard):
        found = drive(port, [[http_request("GET", "/a", port)] * 3] * 2, holds=b'"items"')
    assert len(found.latencies_s) == 6
    assert len(heard) == 6
    assert found.received_bytes == 6 * len(OK)


@pytest.mark.parametrize(
    "answer",
    [
        OK.replace(b"200 OK", b"401 Unauthorized"),
        OK.replace(b'"items"', b'"error"'),
    ],
)
def test_an_answer_that_is_not_the_expected_one_gives_no_figures(answer: bytes) -> None:
    with (
        answering(answer) as (port, _),
        pytest.raises(LoadRefused, match=r"HTTP/1\.1"),
    ):
        drive(port, [[http_request("GET", "/a", port)]], holds=b'"items"')


def test_the_rival_finds_products_by_their_words_page_by_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.bench.market.PRODUCTS", 60)
    cast = Cast(tmp_path / "cast", 1)
    products = [listed.product for listed in cast.listings]
    url = f"sqlite:///{tmp_path / 'rival.db'}"
    fill(url, products)
    client = TestClient(bare_app(bare_engine(url)))
    wanted = sorted(
        product.id
        for product in products
        if "blood" in f"{product.name} {product.description}".lower()
    )
    found = client.get("/products", params={"text": "BLOOD"}).json()
    assert [item["id"] for item in found["items"]] == wanted[:20]
    first = client.get("/products").json()
    second = client.get("/products", params={"after": first["next_cursor"]}).json()
    listed = [item["id"] for item in (*first["items"], *second["items"])]
    assert listed == sorted(product.id for product in products)[:40]
    assert client.get(f"/heads/{ACTOR}").json()["next_seq"] == 1
    entry = {"entry": "AA", "documents": []}
    assert client.post("/entries", json=entry).json() == {"number": 1}


def test_a_bound_socket_names_tcp_so_that_its_answers_are_not_held_back() -> None:
    # asyncio sets TCP_NODELAY only on connections whose socket says that it is TCP.
    with bind("127.0.0.1", 0) as bound:
        assert bound.proto == socket.IPPROTO_TCP


def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.0
    assert percentile(map(float, range(1, 101)), 99) == 99.0
    assert percentile([7.0], 99) == 7.0
