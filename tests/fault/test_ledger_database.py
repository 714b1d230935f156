"""The hub dies around each statement and commit of the log's transactions, on both databases.

One log lives through all the deaths, each followed by a restart: what one leaves behind, the next
finds. The same for the heads of its SM3 tree, each of which the log pairs with its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from sqlmodel import Session

from api.database import open_engine
from crypto.adapters.sm2 import Sm2Key
from crypto.errors import CryptoError
from crypto.statement import Statement, read_statement
from exchange.hub import background
from ledger.adapters.sm3_sql import SqlSm3Database
from ledger.adapters.sql import SqlLogDatabase
from ledger.adapters.witness_sql import SqlWitnessStore
from ledger.check import check_log, check_sm3
from ledger.log import append, entries, integrate, publish
from ledger.newest import require_newest
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.history import SM3_SUFFIX
from ledger.verify.merkle import leaf_hash, root
from ledger.verify.note import log_key
from ledger.verify.sm3 import PAIRED, Sm3Tree, check_paired, read_paired
from tests.fault.crash import Doom, Moment, SimulatedCrash
from tests.ports.test_ledger_log import LOG, LOG_KEY, ORIGIN, START, Clock, LocalWitness, policy
from tests.world import World


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


@pytest.mark.parametrize("moment", Moment)
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_a_hub_that_dies_around_each_write_of_an_sm3_head_leaves_it_with_its_pair_or_neither(
    new_database: Callable[[str], str], tmp_path: Path, kind: str, moment: Moment
) -> None:
    signer = Sm2Key.generate()
    world = World(tmp_path, hub_url=new_database(kind))
    of_log = world.policy.log_keys
    keys = [*of_log, log_key(of_log[0].name + SM3_SUFFIX, signer)]

    def restart() -> None:
        world.engines["hub"].dispose()
        world.open_hub()
        world.keeping = replace(world.keeping, sm3=signer)

    def follow() -> bool:
        return background.follow_sm3(world.store, world.operator, world.keeping)

    def require_pairs() -> int:
        """How many heads the SM3 tree has: the log holds a pair of each, and no other."""
        world.hub_step()
        engine, database = world.engines["hub"], world.keeping.database
        assert list(check_log(database, log_keys=of_log, witnesses=[])) == []
        assert list(check_sm3(database, SqlSm3Database(engine), keys=keys[1:])) == []
        with world.store.reading() as tx:
            latest = tx.log.latest()
            assert latest is not None
            logged = [one.entry for one in tx.log.entries(0, latest.size)]
            sizes = list(tx.sm3.sizes(0, 1_000))
        said = list(statements(logged))
        assert [one.actor_seq for one in said] == list(range(len(said)))
        pairs = [read_paired(one) for one in said if one.type == PAIRED]
        assert [pair.size for pair in pairs] == sizes
        tree = Sm3Tree()
        for pair in pairs:
            tree.add(logged[tree.size : pair.size])
            sha256_root = root([leaf_hash(one) for one in logged[: pair.size]])
            check_paired(pair, tree, sha256_root, keys)
        return len(pairs)

    for n in count(1):
        restart()
        with world.store.transaction() as tx:
            append(tx.log, f"news {n}".encode())
        world.hub_step()
        doom = Doom(moment, n)
        doom.hang_over(world.engines["hub"])
        with suppress(SimulatedCrash):
            follow()
        restart()
        made = moment is Moment.COMMITTED or not doom.dead
        assert require_pairs() == n - 1 + made
        assert follow() is not made
        assert require_pairs() == n
        if not doom.dead:
            break
    assert n > (3 if moment is Moment.WRITE else 1)
    world.close()


def statements(entries: list[bytes]) -> Iterator[Statement]:
    for entry in entries:
        with suppress(CryptoError):
            yield read_statement(entry).statement
