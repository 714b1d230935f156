"""Reading a log from a web server that is broken, slow, or does not mean well."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ledger.errors import FormatRefused, SourceUnreachable, TileMissing, TileRefused
from ledger.verify.tiles import HttpSource

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.connections = 0
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                outer.connections += 1

            def do_GET(self) -> None:
                outer.asked.append(self.path)
                outer.answers[self.path](self)

            def log_message(self, format: str, *args: object) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"


def answer(status: int, data: bytes = b"", **headers: str) -> Answer:
    def send(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    return send


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join(5)


@pytest.fixture
def source(server: Server) -> Iterator[HttpSource]:
    with closing(HttpSource(f"{server.url}/v1/log/", timeout_s=2)) as made:
        yield made


TILE = "tile/0/000"
PATH = "/v1/log/tile/0/000"


def test_files_are_read_over_one_connection(server: Server, source: HttpSource) -> None:
    server.answers = {PATH: answer(200, b"x" * 8192), "/v1/log/checkpoint": answer(200, b"note")}
    assert source.read(TILE) == b"x" * 8192
    assert source.read("checkpoint") == b"note"
    assert server.connections == 1


def test_what_is_not_there_is_missing(server: Server, source: HttpSource) -> None:
    for status in (404, 410):
        server.answers[PATH] = answer(status, b"no")
        with pytest.raises(TileMissing, match=TILE):
            source.read(TILE)


def test_a_redirect_is_not_followed(server: Server, source: HttpSource) -> None:
    server.answers[PATH] = answer(302, Location=f"{server.url}/elsewhere")
    with pytest.raises(SourceUnreachable, match="302"):
        source.read(TILE)
    assert server.asked == [PATH]


def test_a_server_in_trouble_is_to_be_asked_later(server: Server, source: HttpSource) -> None:
    server.answers[PATH] = answer(503, b"later")
    with pytest.raises(SourceUnreachable, match="503"):
        source.read(TILE)


def test_an_endless_answer_is_not_read(server: Server, source: HttpSource) -> None:
    server.answers = {PATH: answer(200, b"x" * 9000), "/v1/log/checkpoint": answer(200, b"note")}
    with pytest.raises(TileRefused, match="larger than 8192"):
        source.read(TILE)
    assert source.read("checkpoint") == b"note"  # and not the rest of the last answer


@pytest.mark.parametrize("part", ["headers", "endless interim answers", "body", "chunks"])
def test_an_answer_that_drips_is_not_waited_for(server: Server, part: str) -> None:
    """Each byte comes long before a socket's own limit; the whole never does."""
    begin, drop = {
        "headers": (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        "endless interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 8192\r\n\r\n", b"x"),
        "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    }[part]
    given_up = threading.Event()

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        request.wfile.write(begin)
        for _ in range(200):
            if given_up.wait(0.05):
                return
            try:
                request.wfile.write(drop)
            except OSError:
                return

    server.answers = {PATH: drip, "/v1/log/checkpoint": answer(200, b"note")}
    with closing(HttpSource(f"{server.url}/v1/log", timeout_s=0.3)) as source:
        with pytest.raises(SourceUnreachable, match=r"took too long|timed out"):
            source.read(TILE)  # and not what is said of one that broke off, when it ended
        given_up.set()
        assert source.read("checkpoint") == b"note"


def test_an_answer_that_breaks_off_is_no_answer(server: Server, source: HttpSource) -> None:
    def broken(request: BaseHTTPRequestHandler) -> None:
        answer(200, b"x" * 100, Content_Length="8192")(request)
        request.close_connection = True

    server.answers[PATH] = broken
    with pytest.raises(SourceUnreachable):
        source.read(TILE)


def test_a_connection_that_the_server_had_ended_is_opened_again(
    server: Server, source: HttpSource
) -> None:
    def last(request: BaseHTTPRequestHandler) -> None:
        answer(200, b"note")(request)
        request.close_connection = True  # without having said so

    server.answers = {"/v1/log/checkpoint": last}
    assert [source.read("checkpoint") for _ in range(3)] == [b"note"] * 3
    assert server.connections == 3


def test_a_server_that_is_not_there_is_unreachable() -> None:
    gone = Server()
    gone.http.server_close()
    source = HttpSource(gone.url, timeout_s=1)
    with closing(source), pytest.raises(SourceUnreachable, match="gave no answer"):
        source.read("checkpoint")


@pytest.mark.parametrize(
    "url",
    ["ftp://log.example", "file:///etc", "log.example", "http://", "http://[::1", "http://h/?q=1"],
)
def test_an_address_that_is_not_a_web_servers_is_refused(url: str) -> None:
    with pytest.raises(FormatRefused):
        HttpSource(url)


def test_only_the_files_of_a_log_are_asked_for(server: Server, source: HttpSource) -> None:
    for path in ("", "../admin", "tile/0/000?x=1", "tile/0/0 00", "checkpoint\r\nX: y"):
        with pytest.raises(FormatRefused):
            source.read(path)
    assert server.asked == []
