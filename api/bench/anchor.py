"""Heads anchored by the real outbox on a real node: what one costs, and how soon it is final.

A log on SQLite grows by so many entries per anchor. anvil, a process of its own, mines each
transaction as it comes, and a block is final at once; what a public chain adds to that is its own
block time and rule of finality. The contract checks each consistency proof, so gas grows with the
number of its hashes.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Final

import httpx2

from api.bench.harness import Measured, PeakMemory, Run
from api.bench.join import WrongAnswer
from api.database import bring_up_to_date, open_engine
from api.demo.processes import start_all
from crypto.keys import SigningKey
from crypto.ports import SystemClock
from ledger import log
from ledger.adapters.anchor_sql import SqlAnchorDatabase
from ledger.adapters.evm import EvmAnchor, JsonRpc, create_key, deploy_anchor
from ledger.adapters.sql import SqlLogDatabase
from ledger.anchor import AnchorRules, keep_anchored
from ledger.ports import Anchor, AnchorState, Place
from ledger.verify.note import LOG_SIGNATURE, VerifierKey
from ledger.verify.policy import Policy

ORIGIN: Final = "bench.example/log"
PATIENCE_S: Final = 60.0
ENTRY_BYTES: Final = 400
RULES: Final = AnchorRules(every_s=timedelta(days=1).total_seconds(), every_entries=1)


def anchor(runs: int, entries: int) -> Measured:
    """runs: anchors after the first, each of so many entries more. seconds: from the head that
    has its quorum to the anchor that is final. Raises SettingsRefused where there is no anvil."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="unseen-bench-")))
        key = create_key(folder / "anchor.key")
        dev = ["chain", "dev", "--anvil", "--fund", key.address]
        chain = start_all({"chain": (dev, folder / "chain.log")})["chain"]
        stack.callback(chain.stop)
        peak = stack.enter_context(PeakMemory({"chain": chain.pid, "outbox": os.getpid()}))
        rpc = JsonRpc(chain.ready["url"], stack.enter_context(httpx2.Client(trust_env=False)))
        made = deploy_anchor(rpc, key, ORIGIN, key.address, patience_s=PATIENCE_S)
        backend = EvmAnchor(rpc, Place(made.chain_id, made.address), ORIGIN, key, 1)
        engine = open_engine(f"sqlite:///{folder / 'hub.db'}")
        stack.callback(engine.dispose)
        bring_up_to_date(engine, "hub")
        signer, clock = SigningKey.generate(), SystemClock()
        policy = Policy.parse(
            f"log {VerifierKey(ORIGIN, LOG_SIGNATURE, signer.public)}\nquorum none\n".encode()
        )
        database, outbox = SqlLogDatabase(engine), SqlAnchorDatabase(engine)

        def grow() -> None:
            with database.transaction() as store:
                log.append_many(store, [os.urandom(ENTRY_BYTES) for _ in range(entries)])
            grown = True
            while grown:
                with database.transaction() as store:
                    head = log.integrate(store, origin=ORIGIN, signer=signer, now=clock.now())
                grown = head is not None
            log.publish(database, [], policy, clock=clock)

        def settle() -> Anchor:
            deadline = time.monotonic() + PATIENCE_S
            while time.monotonic() < deadline:
                for moved in keep_anchored(outbox, backend, RULES, clock=clock).moved:
                    if moved.state is AnchorState.FINAL:
                        return moved
            raise WrongAnswer(f"no anchor was final after {PATIENCE_S:.0f} s")

        done: list[Run] = []
        sizes: list[int] = []
        first_gas = 0
        for number in range(runs + 1):
            grow()
            begun = time.perf_counter()
            anchored = settle()
            seconds = time.perf_counter() - begun
            receipt = backend.receipt(anchored.transaction or b"")
            if receipt is None or receipt.reverted or backend.head().root != anchored.root:
                raise WrongAnswer(f"the contract does not hold the head of size {anchored.size}")
            sizes.append(anchored.size)
            if number == 0:
                first_gas = receipt.gas_used
                continue
            gas = float(receipt.gas_used)
            figures = {"gas_per_anchor": gas, "gas_per_event": gas / entries}
            done.append(Run(seconds, figures))
        peaks = peak.peaks_mb
    parameters = {
        "runs": runs,
        "entries": entries,
        "largest": sizes[-1],
        "client": chain.ready["client"],
        "deployment_gas": made.gas_used,
        "first_gas": first_gas,
    }
    return Measured(parameters, tuple(done), peaks)
