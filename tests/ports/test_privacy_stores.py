"""A product's privacy account in the stores of hub and node, on both databases: never overspent,
whoever is at it at the same time and whatever is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from api.database import bring_up_to_date, open_engine, read_only
from crypto.errors import Malformed
from crypto.identifiers import ProductId
from crypto.ports import SystemRandomness
from exchange.errors import BudgetExhausted
from exchange.hub.adapters.sql import SqlHubStore
from exchange.node.adapters.sql import SqlNodeStore
from exchange.privacy import NOTHING, PrivacyAccount, PrivacyCost, reserve
from tests.conftest import NewDatabase

NOW = datetime(2026, 11, 23, tzinfo=UTC)
FIRST, SECOND = sorted(ProductId.new(NOW, SystemRandomness()) for _ in range(2))
SUBMITTERS = 64
COST = PrivacyCost(Fraction(1, 7), Fraction(1, 11), Fraction(1, 1300), Fraction(1, 10**9))


@pytest.fixture
def hub(engine: Engine) -> SqlHubStore:
    bring_up_to_date(engine, "hub")
    return SqlHubStore(engine, read_only(engine))


@pytest.fixture
def node(engine: Engine) -> SqlNodeStore:
    bring_up_to_date(engine, "node")
    return SqlNodeStore(engine, read_only(engine))


def times(cost: PrivacyCost, count: int) -> PrivacyCost:
    total = NOTHING
    for _ in range(count):
        total = total + cost
    return total


def charge(
    hub: SqlHubStore, *products: ProductId, epsilon_total: Fraction = Fraction(10**6)
) -> None:
    """One reservation as the hub makes it: every product in order, or none."""
    with hub.transaction() as tx:
        for product in sorted(products):
            spent = tx.lock_privacy(product)
            account = PrivacyAccount(product, epsilon_total, Fraction(1, 2), spent)
            tx.save_privacy(product, reserve(account, COST).spent)


def spent_at(hub: SqlHubStore, product: ProductId) -> PrivacyCost:
    with hub.transaction() as tx:
        return tx.lock_privacy(product)


def at_once(act: Callable[[int], object], count: int = SUBMITTERS) -> None:
    """Each call on a thread of its own, all let go together. Raises what any of them raised."""
    ready = threading.Barrier(count)

    def run(n: int) -> object:
        ready.wait()
        return act(n)

    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(run, n) for n in range(count)]:
            done.result(60)


# One after the other


def test_an_account_begins_with_nothing_and_is_kept_exactly(hub: SqlHubStore) -> None:
    assert spent_at(hub, FIRST) == NOTHING
    charge(hub, FIRST)
    charge(hub, FIRST)
    assert spent_at(hub, FIRST) == times(COST, 2)
    assert spent_at(hub, SECOND) == NOTHING


def test_a_nodes_account_begins_with_nothing_and_is_kept_exactly(node: SqlNodeStore) -> None:
    with node.transaction() as tx:
        assert tx.privacy(FIRST) == NOTHING
        tx.save_privacy(FIRST, COST)
        tx.save_privacy(FIRST, COST + COST)
    with node.reading() as tx:
        assert tx.privacy(FIRST) == times(COST, 2)
        assert tx.privacy(SECOND) == NOTHING


def test_what_a_savepoint_undoes_is_not_charged(hub: SqlHubStore) -> None:
    charge(hub, FIRST)
    with hub.transaction() as tx:
        tx.lock_privacy(FIRST)
        with pytest.raises(BudgetExhausted), tx.savepoint():
            tx.save_privacy(FIRST, COST + COST)
            raise BudgetExhausted(SECOND, "epsilon", asked=Fraction(1), left=Fraction(0))
        assert tx.lock_privacy(FIRST) == COST
    assert spent_at(hub, FIRST) == COST


def test_a_row_made_within_an_undone_savepoint_is_made_again(hub: SqlHubStore) -> None:
    with hub.transaction() as tx:
        with pytest.raises(Malformed), tx.savepoint():
            tx.save_privacy(FIRST, COST)
            raise Malformed("x", "undo")
        assert tx.lock_privacy(FIRST) == NOTHING
        tx.save_privacy(FIRST, COST)
    assert spent_at(hub, FIRST) == COST


# At the same time


def test_64_submitters_at_once_cannot_overspend_a_product(hub: SqlHubStore) -> None:
    """COST is worth 1/7 + 1/11 here: 20 fit, 44 are refused, and nobody waits forever."""
    total = 20 * (COST.epsilon + COST.gaussian)
    refused: list[BudgetExhausted] = []

    def submit(_: int) -> None:
        try:
            charge(hub, FIRST, epsilon_total=total)
        except BudgetExhausted as error:
            refused.append(error)

    at_once(submit)
    spent = spent_at(hub, FIRST)
    assert spent == times(COST, SUBMITTERS - len(refused))
    account = PrivacyAccount(FIRST, total, Fraction(1, 2), spent)
    assert account.epsilon_left >= 0
    with pytest.raises(BudgetExhausted):
        reserve(account, COST)


def test_of_64_submitters_over_two_products_none_loses_a_step_or_waits_in_a_circle(
    hub: SqlHubStore,
) -> None:
    at_once(lambda n: charge(hub, *((FIRST, SECOND) if n % 2 else (SECOND, FIRST))))
    assert spent_at(hub, FIRST) == spent_at(hub, SECOND) == times(COST, SUBMITTERS)


def test_without_the_lock_the_same_submitters_do_lose_steps(new_database: NewDatabase) -> None:
    """The unprotected twin: it reads, and writes what it has read plus one cost."""
    url = new_database("postgresql")
    engine = open_engine(url)
    bring_up_to_date(engine, "hub")
    hub = SqlHubStore(engine, read_only(engine))
    charge(hub, FIRST)
    both_have_read = threading.Barrier(2)

    def charge_unlocked(_: int) -> None:
        with engine.begin() as connection:
            text = "SELECT epsilon FROM hub_privacy_account"
            before = Fraction(connection.exec_driver_sql(text).scalar_one())
            both_have_read.wait()
            after = before + COST.epsilon
            connection.exec_driver_sql(f"UPDATE hub_privacy_account SET epsilon = '{after}'")

    at_once(charge_unlocked, 2)
    assert spent_at(hub, FIRST).epsilon == 2 * COST.epsilon  # and not 3
    engine.dispose()


def test_two_desks_of_one_node_cannot_admit_the_same_epsilon_twice(node: SqlNodeStore) -> None:
    def admit(_: int) -> None:
        with node.transaction() as tx:
            account = PrivacyAccount(FIRST, COST.epsilon * 5, Fraction(1, 2), tx.privacy(FIRST))
            cost = replace(COST, gaussian=Fraction(0), rho=Fraction(0))
            try:
                tx.save_privacy(FIRST, reserve(account, cost).spent)
            except BudgetExhausted:
                return

    at_once(admit, 16)
    with node.reading() as tx:
        assert tx.privacy(FIRST).epsilon == COST.epsilon * 5


# Killed


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_a_hub_killed_between_its_writes_has_charged_both_products_or_none(
    hub: SqlHubStore, engine: Engine, n: int
) -> None:
    """As tests/fault/crash.py has it: dead before its n-th write, or before its commit."""
    charge(hub, FIRST, SECOND)
    count = 0

    class Killed(BaseException):
        pass

    def strike(*_: object) -> None:
        nonlocal count
        count += 1
        if count == n:
            raise Killed

    def before_write(_c: object, _cursor: object, text: str, *_: object) -> None:
        if text.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE")):
            strike()

    event.listen(engine, "before_cursor_execute", before_write)
    event.listen(engine, "commit", strike)
    third = ProductId.new(NOW, SystemRandomness())
    try:
        charge(hub, FIRST, SECOND, third)
        killed = False
    except Killed:
        killed = True
    event.remove(engine, "before_cursor_execute", before_write)
    event.remove(engine, "commit", strike)
    engine.dispose()
    assert killed
    assert spent_at(hub, FIRST) == spent_at(hub, SECOND) == COST
    assert spent_at(hub, third) == NOTHING


CHILD = """
import os, sys
from fractions import Fraction
from api.database import open_engine, read_only
from crypto.identifiers import ProductId
from exchange.hub.adapters.sql import SqlHubStore
from exchange.privacy import PrivacyCost

engine = open_engine(sys.argv[1])
hub = SqlHubStore(engine, read_only(engine))
cost = PrivacyCost(Fraction(1, 7), Fraction(1, 11), Fraction(1, 1300), Fraction(1, 10**9))
while True:
    with hub.transaction() as tx:
        for product in sys.argv[2:]:
            tx.save_privacy(ProductId(product), tx.lock_privacy(ProductId(product)) + cost)
    os.write(1, b".")  # said only after the commit
"""


@pytest.fixture
def submitter(database_url: str, engine: Engine) -> Iterator[subprocess.Popen[bytes]]:
    bring_up_to_date(engine, "hub")
    engine.dispose()
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, database_url, FIRST, SECOND],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    yield child
    child.kill()
    child.wait()


def test_a_process_killed_with_9_has_lost_no_charge_that_it_had_said(
    submitter: subprocess.Popen[bytes], hub: SqlHubStore
) -> None:
    assert submitter.stdout is not None
    said = len(submitter.stdout.read(25))
    submitter.send_signal(signal.SIGKILL)
    said += len(submitter.stdout.read())
    submitter.wait()
    first, second = spent_at(hub, FIRST), spent_at(hub, SECOND)
    assert first == second
    assert first in (times(COST, said), times(COST, said + 1))  # one may have died unsaid
