"""The hub dies around each statement and commit of the log's transactions, on both databases.

One log lives through all the deaths, each followed by a restart: what one leaves behind, the next
finds.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from sqlmodel import Session

from api.database import open_engine
from ledger.adapters.sql import SqlLogDatabase
from ledger.adapters.witness_sql import SqlWitnessStore
from ledger.check import check_log
from ledger.log import append, entries, integrate, publish
from ledger.newest import require_newest
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.merkle import leaf_hash, root
from tests.fault.crash import Doom, Moment, SimulatedCrash
from tests.ports.test_ledger_log import LOG, LOG_KEY, ORIGIN, START, Clock, LocalWitness, policy


@pytest.mark.parametrize(
    "moment",
    [
        Moment.COMMITTED,
        pytest.param(Moment.COMMIT, marks=pytest.mark.slow),
        pytest.param(Moment.WRITE, marks=pytest.mark.slow),
    ],
)
def test_a_log_that_dies_around_each_write_goes_on_where_it_was(
    database_url: str, tmp_path: Path, create_tables: Callable[..., None], moment: Moment
) -> None:
    memory = open_engine(f"sqlite:///{tmp_path}/witness.db")
    create_tables(memory, "witness_")
    witness = LocalWitness(memory, "witness.example/w", Clock())
    first = open_engine(database_url)
    create_tables(first, "ledger_")
    first.dispose()
    taken: list[bytes] = []
    shown: list[Checkpoint] = []
    for n in count(1):
        doom = Doom(moment, n)
        for life in (doom, Doom(moment, 0)):  # the one that dies, and the one that goes on
            engine = open_engine(database_url)
            life.hang_over(engine)
            database = SqlLogDatabase(engine)
            with suppress(SimulatedCrash):
                live(database, witness, n, taken, shown)
            engine.dispose()
        if not doom.dead:
            break
    assert n > 6
    engine = open_engine(database_url)
    database = SqlLogDatabase(engine)
    assert list(check_log(database, log_keys=[LOG_KEY], witnesses=witness.keys)) == []
    with database.transaction() as store:
        size = shown[-1].size
        logged = [one.entry for one in entries(store, 0, size)]
        assert list(store.pending(1)) == []
    assert sorted(set(taken)) == sorted(logged)
    leaves = [leaf_hash(one) for one in logged]
    assert all(root(leaves[: head.size]) == head.root for head in shown)
    with Session(memory) as session, session.begin():
        held = SqlWitnessStore(session).head(ORIGIN)
    assert held is not None and held.checkpoint == shown[-1]
    engine.dispose()
    memory.dispose()


def live(
    database: SqlLogDatabase,
    witness: LocalWitness,
    n: int,
    taken: list[bytes],
    shown: list[Checkpoint],
) -> None:
    """One start of the hub: compare, take three entries, sign, have it cosigned."""
    require_newest(
        database,
        origin=ORIGIN,
        signer=LOG,
        witnesses=[witness],
        policy=policy(witness),
        holders=[],
    )
    for number in range(3):
        entry = f"{n}/{number}".encode()
        with database.transaction() as store:
            append(store, entry)
        taken.append(entry)
    with database.transaction() as store:
        head = integrate(store, origin=ORIGIN, signer=LOG, now=START)
    if head is not None:
        shown.append(head)
    publish(database, [witness], policy(witness), clock=witness.clock)
