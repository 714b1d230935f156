"""Runs an application: uvicorn on a socket that we bound ourselves.

Bound by us, so that port 0 works and the chosen port is known before anybody is told.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from starlette.applications import Starlette

from api.http.errors import ServerNotStarted

GRACE_S: Final = 10
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: the certificate chain and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Running:
    """A server that answers. url: where. stop: begins a graceful stop and returns at once."""

    url: str
    port: int
    stop: Callable[[], None]


def bind(host: str, port: int) -> socket.socket:
    """A listening address of ours, before there is an application. Raises OSError.

    port: 0 takes a free one; read it from `getsockname()`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol by name: asyncio turns Nagle's algorithm off only where it sees TCP, and an
    # answer in two parts would wait for the reader's delayed acknowledgement, 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def url_of(bound: socket.socket, *, tls: bool) -> str:
    """The base URL at which a bound socket will answer."""
    host, port = bound.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{name}:{port}"


def serve(
    app: Starlette,
    host: str,
    port: int,
    *,
    tls: TlsFiles | None = None,
    on_ready: Callable[[Running], None] | None = None,
) -> None:
    """Answer requests until SIGTERM, SIGINT or `Running.stop`; prints nothing.

    Stopping: no new connections, event streams end, requests get ten seconds to finish, then the
    application's lifespan ends. A second signal does not wait. Outside the main thread, signals
    are left alone. Raises OSError when the address is taken, ServerNotStarted when the
    application's start-up code raises.
    """
    serve_on(bind(host, port), app, tls=tls, on_ready=on_ready)


def serve_on(
    bound: socket.socket,
    app: Starlette,
    *,
    tls: TlsFiles | None = None,
    on_ready: Callable[[Running], None] | None = None,
) -> None:
    """`serve` on a socket from `bind`; closes it at the end."""
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_config=None,
        # Its tracebacks may quote bodies; what matters is in our own log.
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here believes X-Forwarded-*
        ws="none",
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
        ssl_context_factory=_tls_context if tls else None,
    )
    server = _Server(config, url_of(bound, tls=tls is not None), bound, on_ready)
    alone = threading.current_thread() is threading.main_thread()
    try:
        with out_of_garbage_collection() if alone else contextlib.nullcontext():
            server.run(sockets=[bound])
    finally:
        bound.close()
    if not server.started:
        raise ServerNotStarted("the application did not start") from app.state.start_error


@contextlib.contextmanager
def out_of_garbage_collection() -> Iterator[None]:
    """Meanwhile, what is there now is not looked through for garbage.

    A server's modules, routes and mappings stay as long as it does. To look through them takes a
    tenth of a second, again and again, in which no request goes on.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()  # or what extension modules hold counts as lost at exit


@contextlib.contextmanager
def serving(app: Starlette, *, tls: TlsFiles | None = None) -> Iterator[Running]:
    """The application on a free loopback port, in a thread of this process."""
    ready: threading.Event = threading.Event()
    found: list[Running] = []
    failed: list[Exception] = []

    def note(running: Running) -> None:
        found.append(running)
        ready.set()

    def run() -> None:
        try:
            serve(app, "127.0.0.1", 0, tls=tls, on_ready=note)
        except (OSError, ServerNotStarted) as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="server", daemon=True)
    thread.start()
    ready.wait()
    if failed:
        raise failed[0]
    try:
        yield found[0]
    finally:
        found[0].stop()
        thread.join()


class _Server(uvicorn.Server):
    """uvicorn's server: says when it answers, ends streams first, leaves the exit code alone."""

    def __init__(
        self,
        config: uvicorn.Config,
        url: str,
        bound: socket.socket,
        on_ready: Callable[[Running], None] | None,
    ) -> None:
        super().__init__(config)
        self._url = url
        self._port = int(bound.getsockname()[1])
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started and self._on_ready is not None:
            self._on_ready(Running(self._url, self._port, self._stop))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Before uvicorn waits for connections: an event stream would hold it up.
        self.config.app.state.stopping.set()  # type: ignore[union-attr]
        await super().shutdown(sockets=sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn raises the signal again afterwards, which kills the process before its caller
        # can close the database and choose an exit code.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True

    def _stop(self) -> None:
        self.should_exit = True


def _tls_context(config: uvicorn.Config, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    context = default()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
