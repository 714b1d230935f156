"""Before it signs after a start, a log asks everybody who remembers a head of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine

from api.database import open_engine
from ledger.adapters.sql import SqlLogDatabase
from ledger.errors import (
    LedgerError,
    LogBehind,
    LogDiverged,
    NotCompared,
    WitnessAt,
    WitnessDisagrees,
    WitnessUnreachable,
)
from ledger.log import publish
from ledger.newest import require_newest
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.merkle import EMPTY_ROOT
from ledger.verify.note import Note, Signature
from tests.ports.test_ledger_log import LOG, ORIGIN, Clock, LocalWitness, grow, policy


@dataclass
class Holder:
    name: str
    held: Checkpoint | LedgerError | None

    def head(self) -> Checkpoint | None:
        if isinstance(self.held, LedgerError):
            raise self.held
        return self.held


class Makes:
    """Logs and witnesses of this test's own, each in a database file."""

    def __init__(self, path: Path, create: Callable[..., None]) -> None:
        self.path, self.create, self.clock = path, create, Clock()
        self.opened: list[Engine] = []

    def close(self) -> None:
        for engine in self.opened:
            engine.dispose()

    def _open(self, name: str, prefix: str) -> Engine:
        engine = open_engine(f"sqlite:///{self.path / name}.db")
        self.create(engine, prefix)
        self.opened.append(engine)
        return engine

    def log(self, name: str = "log", *, size: int = 0, step: int | None = None) -> SqlLogDatabase:
        database = SqlLogDatabase(self._open(name, "ledger_"))
        for start in range(0, size, step or size or 1):
            grow(database, start, min(size, start + (step or size)))
        return database

    def witness(self, name: str = "w") -> LocalWitness:
        return LocalWitness(self._open(name, "witness_"), f"witness.example/{name}", self.clock)


@pytest.fixture
def makes(tmp_path: Path, create_tables: Callable[..., None]) -> Iterator[Makes]:
    made = Makes(tmp_path, create_tables)
    yield made
    made.close()


def ask(
    database: SqlLogDatabase,
    *witnesses: LocalWitness,
    threshold: str = "all",
    holders: Sequence[Holder] = (),
    counted: Sequence[LocalWitness] | None = None,
) -> None:
    require_newest(
        database,
        origin=ORIGIN,
        signer=LOG,
        witnesses=witnesses,
        policy=policy(*(witnesses if counted is None else counted), threshold=threshold),
        holders=holders,
    )


def cosign(database: SqlLogDatabase, *witnesses: LocalWitness) -> None:
    result = publish(database, witnesses, policy(*witnesses), clock=witnesses[0].clock)
    assert result is not None and result.witnessed


def fork(makes: Makes, size: int) -> SqlLogDatabase:
    """A log of the same name and size with other entries."""
    database = makes.log("fork")
    grow(database, 1000, 1000 + size)
    return database


@pytest.mark.parametrize(("size", "seen"), [(0, 0), (5, 0), (5, 3), (5, 5)])
def test_who_holds_no_more_than_the_database_lets_it_sign(
    makes: Makes, size: int, seen: int
) -> None:
    database, witness = makes.log(size=size), makes.witness()
    if seen:
        cosign(makes.log("earlier", size=seen), witness)
    ask(database, witness)


def test_a_database_that_others_are_ahead_of_is_an_old_copy(makes: Makes) -> None:
    witness = makes.witness()
    cosign(makes.log(size=8), witness)
    with pytest.raises(LogBehind, match=r"example/w holds .* size 8 .* ends at size 5") as caught:
        ask(makes.log("backup", size=5), witness)
    assert "full copy that reaches size 8" in str(caught.value)
    assert "successor log" in str(caught.value)


def test_a_database_that_was_lost_is_not_begun_again(makes: Makes) -> None:
    witness = makes.witness()
    cosign(makes.log(size=3), witness)
    with pytest.raises(LogBehind, match="size 3"):
        ask(makes.log("empty"), witness)


@pytest.mark.parametrize(("ours", "theirs"), [(5, 5), (8, 5), (8, 4)])
def test_another_history_is_recognised_whatever_its_size(
    makes: Makes, ours: int, theirs: int
) -> None:
    witness = makes.witness()
    cosign(fork(makes, theirs), witness)
    with pytest.raises(WitnessDisagrees):
        ask(makes.log(size=ours), witness)


def test_one_witness_that_is_ahead_outweighs_all_that_are_not(makes: Makes) -> None:
    first, ahead, silent = makes.witness("a"), makes.witness("b"), makes.witness("c")
    cosign(makes.log(size=6), ahead)
    silent.down = True
    with pytest.raises(LogBehind):
        ask(makes.log("backup", size=5), silent, first, ahead, threshold="1")


@pytest.mark.parametrize(
    ("threshold", "silent", "waits"),
    [("2", 1, False), ("2", 2, True), ("1", 1, True), ("all", 2, False), ("all", 3, True)],
)
def test_witnesses_are_waited_for_while_the_silent_ones_could_have_made_a_quorum(
    makes: Makes, threshold: str, silent: int, waits: bool
) -> None:
    witnesses = [makes.witness(name) for name in "abc"]
    database = makes.log(size=2)
    for witness in witnesses[:silent]:
        witness.down = True
    if waits:
        with pytest.raises(NotCompared, match="did not answer"):
            ask(database, *witnesses, threshold=threshold)
    else:
        ask(database, *witnesses, threshold=threshold)


def test_a_witness_that_the_policy_counts_and_nobody_asks_is_silent(makes: Makes) -> None:
    asked, forgotten = makes.witness("a"), makes.witness("b")
    with pytest.raises(NotCompared, match="w1"):
        ask(makes.log(size=2), asked, counted=[asked, forgotten], threshold="any")


def test_where_nobody_is_counted_nobody_is_waited_for(makes: Makes) -> None:
    witness = makes.witness()
    witness.down = True
    ask(makes.log(size=2), witness, counted=[])


def test_where_nobody_is_counted_a_witness_that_is_ahead_is_still_heard(makes: Makes) -> None:
    witness = makes.witness()
    cosign(makes.log(size=3), witness)
    with pytest.raises(LogBehind):
        ask(makes.log("backup", size=2), witness, counted=[])


def test_an_answer_without_the_witness_s_own_signature_is_no_answer(makes: Makes) -> None:
    witness, stranger = makes.witness(), makes.witness("stranger")
    witness.add_checkpoint = stranger.add_checkpoint  # type: ignore[method-assign]
    with pytest.raises(NotCompared, match="without its cosignature"):
        ask(makes.log(size=2), witness)


def test_a_witness_that_is_slow_does_not_keep_the_others_from_being_asked(makes: Makes) -> None:
    slow, quick = makes.witness("slow"), makes.witness("quick")
    cosign(makes.log(size=6), quick)
    really, other_asked = slow.add_checkpoint, threading.Event()

    def waiting(old_size: int, proof: Sequence[bytes], note: Note) -> Sequence[Signature]:
        if not other_asked.wait(5):
            raise WitnessUnreachable("nobody else was asked meanwhile")
        return really(old_size, proof, note)

    def asked(old_size: int, proof: Sequence[bytes], note: Note) -> Sequence[Signature]:
        other_asked.set()
        raise WitnessAt(6)

    slow.add_checkpoint = waiting  # type: ignore[method-assign]
    quick.add_checkpoint = asked  # type: ignore[method-assign]
    with pytest.raises(LogBehind, match="example/quick"):
        ask(makes.log("backup", size=5), slow, quick)
    assert slow.asked == [5, 0]  # and has answered


def test_asking_signs_nothing_of_the_log_and_moves_no_witness_back(makes: Makes) -> None:
    witness, database = makes.witness(), makes.log(size=4, step=2)
    cosign(database, witness)
    ask(database, witness)
    assert witness.asked[-1] == 4
    ask(makes.log("full", size=7), witness)
    with pytest.raises(LogBehind, match="size 7"):
        ask(database, witness)


def test_a_head_holder_is_heard_too(makes: Makes) -> None:
    head = grow(makes.log("whole"), 0, 6)
    early = grow(makes.log("early"), 0, 3)
    other = Checkpoint(ORIGIN, 3, EMPTY_ROOT)
    database = makes.log(size=5)
    for held in (None, early):
        ask(database, holders=[Holder("the published checkpoint", held)])
    with pytest.raises(LogBehind, match="the published checkpoint holds a head of size 6"):
        ask(database, holders=[Holder("the published checkpoint", head)])
    with pytest.raises(LogDiverged, match="the contract holds another root of size 3"):
        ask(database, holders=[Holder("the contract", other)])


def test_a_silent_head_holder_is_waited_for_where_no_witness_counts(makes: Makes) -> None:
    witness, database = makes.witness(), makes.log(size=2)
    silent = Holder("the contract", WitnessUnreachable("the chain did not answer"))
    with pytest.raises(NotCompared, match="the chain did not answer"):
        ask(database, holders=[silent])
    ask(database, witness, holders=[silent])


def test_a_witness_that_another_process_of_ours_has_just_led_on_is_not_ahead(
    makes: Makes,
) -> None:
    database, witness = makes.log(size=2), makes.witness()
    really = witness.add_checkpoint

    def grown_meanwhile(old_size: int, proof: Sequence[bytes], note: Note) -> Sequence[Signature]:
        if not witness.asked:
            grow(database, 2, 4)
            witness.asked.append(old_size)
            raise WitnessAt(4)
        return really(old_size, proof, note)

    witness.add_checkpoint = grown_meanwhile  # type: ignore[method-assign]
    ask(database, witness)
