"""Nonces and answers: what every store promises, on each database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, func, select
from sqlmodel import Session

from api.database import open_engine
from api.http.adapters.sql import IdempotencyRow, NonceRow, SqlIdempotencyStore, SqlNonceStore
from api.http.errors import IdempotencyKeyReused, RequestInFlight
from api.http.idempotency import once
from api.http.ports import Answer, NonceStore, RequestKey
from api.http.signing import MemoryNonces
from crypto.digest import digest
from crypto.identifiers import PartyId

NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
LATER = NOON + timedelta(seconds=120)
CLINIC = PartyId("pty_" + "c" * 32)
LABORATORY = PartyId("pty_" + "1" * 32)
DONE = Answer(201, b'{"id":"job_1"}', "/v1/jobs/job_1")


class StoppedClock:
    def __init__(self) -> None:
        self.at = NOON

    def now(self) -> datetime:
        return self.at


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


@pytest.fixture
def tables(engine: Engine, create_tables: Callable[..., None]) -> Engine:
    create_tables(engine, "hub_nonce", "hub_idempotency")
    return engine


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def nonces(
    request: pytest.FixtureRequest,
    clock: StoppedClock,
    new_database: Callable[[str], str],
    create_tables: Callable[..., None],
) -> Iterator[NonceStore]:
    if request.param == "memory":
        yield MemoryNonces(clock)
        return
    engine = open_engine(new_database(request.param))
    create_tables(engine, "hub_nonce")
    yield SqlNonceStore(engine, clock)
    engine.dispose()


def a_key(
    key: str = "k-0000001", *, caller: PartyId = CLINIC, request: bytes = b"pay 1250"
) -> RequestKey:
    return RequestKey(caller, key, digest(request))


def test_a_nonce_is_new_once(nonces: NonceStore) -> None:
    assert nonces.remember("clinic/1", "n1", LATER)
    assert not nonces.remember("clinic/1", "n1", LATER)
    assert nonces.remember("clinic/1", "n2", LATER)
    assert nonces.remember("laboratory/1", "n1", LATER)


def test_of_many_at_once_exactly_one_is_first(nonces: NonceStore) -> None:
    with ThreadPoolExecutor(4) as pool:
        firsts = list(pool.map(lambda _: nonces.remember("clinic/1", "n", LATER), range(8)))
    assert sorted(firsts) == [False] * 7 + [True]


def test_a_nonce_is_known_to_the_other_processes(tables: Engine, clock: StoppedClock) -> None:
    assert SqlNonceStore(tables, clock).remember("clinic/1", "n", LATER)
    assert not SqlNonceStore(tables, clock).remember("clinic/1", "n", LATER)


def test_nonces_do_not_pile_up_and_none_is_dropped_early(
    tables: Engine, clock: StoppedClock
) -> None:
    store = SqlNonceStore(tables, clock)
    for number in range(3):
        store.remember("clinic/1", f"old{number}", LATER)
    clock.at = LATER
    assert not store.remember("clinic/1", "old0", LATER)
    clock.at = LATER + timedelta(seconds=62)
    assert store.remember("clinic/1", "new", clock.at + timedelta(seconds=120))
    with Session(tables) as session:
        assert session.scalar(select(func.count()).select_from(NonceRow)) == 1


def test_the_second_request_with_a_key_is_answered_and_not_done(tables: Engine) -> None:
    acts: list[str] = []

    def pay() -> Answer:
        acts.append("paid")
        return DONE

    answers = []
    for _ in range(2):
        with Session(tables) as session, session.begin():
            answers.append(once(SqlIdempotencyStore(session), a_key(), pay, now=NOON))
    assert answers == [DONE, DONE]
    assert acts == ["paid"]


def test_a_key_cannot_be_used_for_another_request(tables: Engine) -> None:
    with Session(tables) as session, session.begin():
        once(SqlIdempotencyStore(session), a_key(), lambda: DONE, now=NOON)
    with Session(tables) as session, session.begin():
        store = SqlIdempotencyStore(session)
        with pytest.raises(IdempotencyKeyReused, match="k-0000001"):
            once(store, a_key(request=b"pay 9250"), lambda: DONE, now=NOON)


def test_two_callers_may_use_the_same_key(tables: Engine) -> None:
    with Session(tables) as session, session.begin():
        store = SqlIdempotencyStore(session)
        once(store, a_key(), lambda: DONE, now=NOON)
        assert store.claim(a_key(caller=LABORATORY)) is None


def test_an_act_that_fails_leaves_its_key_free(tables: Engine) -> None:
    class NoMoney(Exception):
        pass

    def fail() -> Answer:
        raise NoMoney

    with pytest.raises(NoMoney), Session(tables) as session, session.begin():
        once(SqlIdempotencyStore(session), a_key(), fail, now=NOON)
    with Session(tables) as session, session.begin():
        assert once(SqlIdempotencyStore(session), a_key(), lambda: DONE, now=NOON) == DONE


def test_an_answer_goes_with_its_act_when_the_transaction_is_rolled_back(tables: Engine) -> None:
    with Session(tables) as session:
        once(SqlIdempotencyStore(session), a_key(), lambda: DONE, now=NOON)
        session.rollback()
    with Session(tables) as session, session.begin():
        assert SqlIdempotencyStore(session).claim(a_key()) is None


def test_duplicates_sent_at_once_act_once(tables: Engine) -> None:
    """Each is answered with the one act's answer, or told that it is in flight."""
    acts: list[int] = []
    start = threading.Barrier(4)

    def attempt(number: int) -> Answer | str:
        def pay() -> Answer:
            acts.append(number)
            return DONE

        start.wait()
        try:
            with Session(tables) as session, session.begin():
                return once(SqlIdempotencyStore(session), a_key(), pay, now=NOON)
        except RequestInFlight:
            return "in flight"

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(attempt, range(4)))
    assert len(acts) == 1
    assert DONE in outcomes
    assert all(outcome in (DONE, "in flight") for outcome in outcomes)
    with Session(tables) as session:
        assert session.scalar(select(func.count()).select_from(IdempotencyRow)) == 1


def test_on_postgresql_a_key_whose_request_is_being_answered_is_in_flight(
    new_database: Callable[[str], str], create_tables: Callable[..., None]
) -> None:
    """On SQLite the second would wait for the first instead: it has one writer."""
    engine = open_engine(new_database("postgresql"))
    create_tables(engine, "hub_idempotency")
    with Session(engine) as first, first.begin():
        assert SqlIdempotencyStore(first).claim(a_key()) is None
        with Session(engine) as second, second.begin():
            with pytest.raises(RequestInFlight):
                SqlIdempotencyStore(second).claim(a_key())
            assert SqlIdempotencyStore(second).claim(a_key("k-0000002")) is None
    with Session(engine) as third, third.begin():
        assert SqlIdempotencyStore(third).claim(a_key()) is None
    engine.dispose()
