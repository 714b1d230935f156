"""A development chain as a process of its own: the simulated one, or anvil.

The hub and its auditors speak JSON-RPC to it over loopback, as they would to a node of a real
chain.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

import httpx2
import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.http.events import Stopping
from api.http.server import Running, bind, serve_on, url_of
from api.settings import SettingsRefused
from api.wiring.logs import configure_logs
from ledger.adapters.evm import FUNDS_WEI, JsonRpc
from ledger.adapters.simulated_chain import CLIENT, MAX_REQUEST_BYTES, SimulatedChain

LOOPBACK: Final = "127.0.0.1"
END_S: Final = 10.0
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h

log: Final = structlog.get_logger("chain")

Announce = Callable[[Mapping[str, Any]], None]


def run_simulated(port: int, fund: Sequence[str], *, announce: Announce) -> None:
    """A chain in this process's memory, until SIGTERM or SIGINT; then it is gone.

    port: 0 takes a free one. fund: accounts that get money of this chain.
    announce: called once, when requests are answered. Raises OSError when the port is taken.
    """
    configure_logs()
    bound = bind(LOOPBACK, port)
    chain = SimulatedChain()
    for address in fund:
        chain.fund(address)
    one_at_a_time = threading.Lock()

    def answer(body: bytes) -> bytes:
        with one_at_a_time:
            return chain.answer(body)

    async def rpc(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_REQUEST_BYTES:
                return Response(status_code=413)
        return Response(await run_in_threadpool(answer, body), media_type="application/json")

    app = Starlette(routes=[Route("/", rpc, methods=["POST"])])
    app.state.stopping = Stopping()
    app.state.start_error = None
    said = {
        "ready": True,
        "url": url_of(bound, tls=False),
        "chain_id": chain.chain_id,
        "client": CLIENT,
        "simulated": True,
        "durable": False,
    }

    def ready(_running: Running) -> None:
        log.info("chain.ready", **said)
        announce(said)

    serve_on(bound, app, on_ready=ready)


def run_anvil(port: int, state: Path | None, fund: Sequence[str], *, announce: Announce) -> None:
    """anvil, found on PATH, until SIGTERM or SIGINT; it ends with this process, however that ends.

    state: where it keeps its chain from one start to the next; None: nowhere.
    Raises SettingsRefused where there is no anvil, or it does not start.
    """
    configure_logs()
    program = shutil.which("anvil")
    if program is None:
        raise SettingsRefused("anvil", "is not on PATH; `npm install @foundry-rs/anvil` gives it")
    options = ["--host", LOOPBACK, "--port", str(port)]
    if state is not None:
        options += ["--state", str(state.resolve())]
    node = subprocess.Popen(
        [program, *options], stdout=subprocess.PIPE, text=True, preexec_fn=_end_with_parent
    )

    def stop(_number: int, _frame: FrameType | None) -> None:
        node.send_signal(signal.SIGINT)  # on which it writes its state

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        url = _listening(node)
        with httpx2.Client(trust_env=False) as client:
            rpc = JsonRpc(url, client)
            for address in fund:
                rpc.ask("anvil_setBalance", address, hex(FUNDS_WEI))
            said = {
                "ready": True,
                "url": url,
                "chain_id": rpc.quantity("eth_chainId"),
                "client": str(rpc.ask("web3_clientVersion")),
                "simulated": True,
                "durable": state is not None,
            }
        log.info("chain.ready", **said)
        announce(said)
        node.wait()
    finally:
        if node.poll() is None:
            node.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(END_S)
        if node.poll() is None:
            node.kill()
            node.wait()


def _listening(node: subprocess.Popen[str]) -> str:
    """Where it says that it listens. It goes on writing there; a thread reads that away."""
    told: list[str] = []
    if node.stdout is not None:
        for line in node.stdout:
            if line.startswith("Listening on "):
                threading.Thread(target=node.stdout.read, daemon=True).start()
                return f"http://{line.split()[-1]}"
            told.append(line)
    why = "".join(told[-5:]).strip()
    raise SettingsRefused("anvil", f"did not start (code {node.wait()}): {why}")


def _end_with_parent() -> None:
    """In the child, before it is anvil: killed as this process may be, it would stay for good."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
