"""The account book's promises, on a fake and on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count

import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from api.database import open_engine, read_only
from crypto.record import Amount
from pricing.account import Account, AccountId, AccountKind, custody_account, escrow_account
from pricing.adapters.sql import SqlBookStore
from pricing.book import balance, deposit, hold, journal, open_account, prove, refund, release
from pricing.errors import (
    AccountNotFound,
    BookBroken,
    HoldResolved,
    InsufficientFunds,
    MoneyRefused,
    PricingError,
    TransferConflict,
    TransferNotFound,
)
from pricing.money import Money
from pricing.ports import BookStore
from pricing.transfer import Phase, Transfer, TransferId

NOW = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
BANK = custody_account("bank", "CNY")
BUYER = AccountId(AccountKind.PARTY, "buyer", "CNY")
CLINIC = AccountId(AccountKind.PARTY, "clinic", "CNY")
LABORATORY = AccountId(AccountKind.PARTY, "laboratory", "CNY")
PARTIES = (BUYER, CLINIC, LABORATORY)
ESCROW = escrow_account("job-1", "CNY")

# `with open_book() as store:` is one transaction: committed at the end, undone by an exception.
OpenBook = Callable[[], AbstractContextManager[BookStore]]


def cny(minor: int) -> Money:
    return Money("CNY", Amount(minor))


def key(name: str) -> TransferId:
    return TransferId.parse(name)


@dataclass
class MemoryBookStore:
    """The fake: a book in two dictionaries."""

    books: dict[AccountId, Account] = field(default_factory=dict)
    transfers: list[Transfer] = field(default_factory=list)

    def open(self, account: AccountId) -> None:
        self.books.setdefault(account, Account(account))

    def account(self, account: AccountId) -> Account:
        if account not in self.books:
            raise AccountNotFound(account)
        return self.books[account]

    def lock(self, accounts: Collection[AccountId]) -> Mapping[AccountId, Account]:
        return {account: self.account(account) for account in accounts}

    def chain(self, chain: TransferId) -> tuple[Transfer, ...]:
        return tuple(t for t in self.transfers if t.chain == chain)

    def resolutions(self, hold: TransferId) -> tuple[Transfer, ...]:
        return tuple(t for t in self.transfers if t.resolves == hold)

    def save(self, accounts: Collection[Account], transfers: Sequence[Transfer]) -> None:
        self.books |= {account.id: account for account in accounts}
        self.transfers += transfers

    def accounts(self) -> Iterator[Account]:
        yield from self.books.values()

    def journal(self, *, after: int, limit: int) -> Sequence[tuple[int, Transfer]]:
        return list(enumerate(self.transfers, start=1))[after : after + limit]

    def statement(
        self, account: AccountId, *, after: int, limit: int
    ) -> Sequence[tuple[int, Transfer]]:
        named = [(p, t) for p, t in enumerate(self.transfers, 1) if account in (t.debit, t.credit)]
        return [(place, transfer) for place, transfer in named if place > after][:limit]


def memory_book() -> OpenBook:
    kept = MemoryBookStore()
    one_at_a_time = threading.Lock()

    @contextmanager
    def transaction() -> Iterator[BookStore]:
        with one_at_a_time:
            working = MemoryBookStore(dict(kept.books), list(kept.transfers))
            yield working
            kept.books, kept.transfers = working.books, working.transfers

    return transaction


def sql_book(url: str, create_tables: Callable[..., None]) -> OpenBook:
    engine = open_engine(url)
    create_tables(engine, "pricing_")

    @contextmanager
    def transaction() -> Iterator[BookStore]:
        with Session(engine) as session, session.begin():
            yield SqlBookStore(session)

    return transaction


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def open_book(
    request: pytest.FixtureRequest,
    new_database: Callable[[str], str],
    create_tables: Callable[..., None],
) -> OpenBook:
    kind: str = request.param
    book = memory_book() if kind == "memory" else sql_book(new_database(kind), create_tables)
    with book() as store:
        pay_in(store)
    return book


def pay_in(store: BookStore) -> None:
    """Everybody's accounts, and a thousand on the buyer's."""
    for account in (BANK, ESCROW, *PARTIES):
        open_account(store, account)
    deposit(
        store,
        key("paid-in"),
        custody=BANK,
        account=BUYER,
        money=cny(1000),
        reference="bank slip 7",
        at=NOW,
    )


def hold_for_job(
    store: BookStore, name: str, minor: int, *, reference: str = "job-1"
) -> tuple[Transfer, ...]:
    return hold(
        store, key(name), payer=BUYER, escrow=ESCROW, money=cny(minor), reference=reference, at=NOW
    )


def pay(
    store: BookStore, name: str, hold_name: str, *splits: tuple[AccountId, int]
) -> tuple[Transfer, ...]:
    return release(
        store,
        key(name),
        key(hold_name),
        [(account, Amount(minor)) for account, minor in splits],
        at=NOW,
    )


def amounts(store: BookStore, account: AccountId) -> tuple[int, int, int]:
    found = balance(store, account)
    return (found.available.amount_minor, found.held.amount_minor, found.incoming.amount_minor)


def test_held_money_is_the_payers_and_cannot_be_spent(open_book: OpenBook) -> None:
    with open_book() as store:
        hold_for_job(store, "h", 600)
        assert amounts(store, BUYER) == (400, 600, 0)
        assert amounts(store, ESCROW) == (0, 0, 600)
    with open_book() as store, pytest.raises(InsufficientFunds) as refused:
        hold_for_job(store, "h2", 401)
    assert (refused.value.asked, refused.value.available) == (401, 400)


def test_a_release_pays_every_holder_and_empties_the_escrow(open_book: OpenBook) -> None:
    with open_book() as store:
        hold_for_job(store, "h", 600)
        pay(store, "r", "h", (CLINIC, 350), (LABORATORY, 250))
    with open_book() as store:
        assert amounts(store, BUYER) == (400, 0, 0)
        assert amounts(store, CLINIC) == (350, 0, 0)
        assert amounts(store, LABORATORY) == (250, 0, 0)
        assert amounts(store, ESCROW) == (0, 0, 0)
        assert amounts(store, BANK) == (-1000, 0, 0)


def test_what_a_partial_release_leaves_returns_to_the_payer(open_book: OpenBook) -> None:
    with open_book() as store:
        hold_for_job(store, "h", 600)
        pay(store, "r", "h", (CLINIC, 10))
        assert amounts(store, BUYER) == (990, 0, 0)


def test_a_refund_gives_the_whole_hold_back(open_book: OpenBook) -> None:
    with open_book() as store:
        hold_for_job(store, "h", 600)
        refund(store, key("v"), key("h"), at=NOW)
        assert amounts(store, BUYER) == (1000, 0, 0)
        assert amounts(store, ESCROW) == (0, 0, 0)


def test_a_free_job_is_held_and_released_like_any_other(open_book: OpenBook) -> None:
    with open_book() as store:
        hold_for_job(store, "h", 0)
        pay(store, "r", "h", (CLINIC, 0), (LABORATORY, 0))
    with open_book() as store, pytest.raises(HoldResolved):
        refund(store, key("v"), key("h"), at=NOW)


def test_a_release_above_the_hold_is_refused(open_book: OpenBook) -> None:
    with open_book() as store:
        hold_for_job(store, "h", 600)
    with open_book() as store, pytest.raises(MoneyRefused):
        pay(store, "r", "h", (CLINIC, 350), (LABORATORY, 251))
    with open_book() as store, pytest.raises(MoneyRefused):
        pay(store, "r", "h", (CLINIC, 700), (LABORATORY, -100))
    with open_book() as store:
        assert amounts(store, BUYER) == (400, 600, 0)


def test_a_hold_is_resolved_once(open_book: OpenBook) -> None:
    with open_book() as store:
        hold_for_job(store, "h", 600)
        pay(store, "r", "h", (CLINIC, 600))
    with open_book() as store, pytest.raises(HoldResolved) as again:
        pay(store, "r2", "h", (CLINIC, 600))
    assert again.value.resolution == "r"
    with open_book() as store, pytest.raises(HoldResolved):
        refund(store, key("v"), key("h"), at=NOW)
    with open_book() as store:
        assert amounts(store, CLINIC) == (600, 0, 0)


def test_only_a_hold_can_be_released(open_book: OpenBook) -> None:
    with open_book() as store, pytest.raises(TransferNotFound):
        pay(store, "r", "never-held", (CLINIC, 1))
    with open_book() as store, pytest.raises(TransferNotFound):
        refund(store, key("v"), key("paid-in"), at=NOW)


def test_repeating_an_operation_moves_nothing_and_tells_the_same(open_book: OpenBook) -> None:
    later = NOW + timedelta(hours=1)
    with open_book() as store:
        first = hold_for_job(store, "h", 600)
        paid = pay(store, "r", "h", (CLINIC, 350), (LABORATORY, 250))
    with open_book() as store:
        again = hold(
            store,
            key("h"),
            payer=BUYER,
            escrow=ESCROW,
            money=cny(600),
            reference="job-1",
            at=later,
        )
        assert again == first
        assert pay(store, "r", "h", (CLINIC, 350), (LABORATORY, 250)) == paid
        assert amounts(store, CLINIC) == (350, 0, 0)
        assert len(store.journal(after=0, limit=100)) == 5


def test_an_id_used_for_something_else_is_refused(open_book: OpenBook) -> None:
    with open_book() as store:
        hold_for_job(store, "h", 600)
        pay(store, "r", "h", (CLINIC, 350), (LABORATORY, 250))
    changed: list[Callable[[BookStore], object]] = [
        lambda store: hold_for_job(store, "h", 599),
        lambda store: hold_for_job(store, "h", 600, reference="job-2"),
        lambda store: hold_for_job(store, "paid-in", 600),
        lambda store: pay(store, "r", "h", (CLINIC, 351), (LABORATORY, 249)),
        lambda store: pay(store, "r", "h", (LABORATORY, 250), (CLINIC, 350)),
        lambda store: pay(store, "r", "h", (CLINIC, 350)),
        lambda store: refund(store, key("r"), key("h"), at=NOW),
    ]
    for operation in changed:
        with open_book() as store, pytest.raises(TransferConflict):
            operation(store)


def test_a_crash_before_the_commit_leaves_nothing(open_book: OpenBook) -> None:
    with open_book() as store:
        hold_for_job(store, "h", 600)
    with pytest.raises(KeyboardInterrupt), open_book() as store:
        pay(store, "r", "h", (CLINIC, 350), (LABORATORY, 250))
        raise KeyboardInterrupt
    with open_book() as store:
        assert amounts(store, BUYER) == (400, 600, 0)
        assert store.chain(key("r")) == ()
        pay(store, "r", "h", (CLINIC, 350), (LABORATORY, 250))
        prove(store)


def test_a_chain_that_fails_at_its_end_moves_nothing_at_all(open_book: OpenBook) -> None:
    unopened = AccountId(AccountKind.PARTY, "nobody", "CNY")
    with open_book() as store:
        hold_for_job(store, "h", 600)
        with pytest.raises(AccountNotFound):
            pay(store, "r", "h", (CLINIC, 350), (unopened, 250))
        assert amounts(store, CLINIC) == (0, 0, 0)
        assert amounts(store, BUYER) == (400, 600, 0)


def test_currencies_do_not_mix(open_book: OpenBook) -> None:
    play = AccountId(AccountKind.PARTY, "clinic", "TEST")
    with open_book() as store:
        open_account(store, play)
        hold_for_job(store, "h", 600)
    with open_book() as store, pytest.raises(MoneyRefused):
        pay(store, "r", "h", (play, 600))
    with open_book() as store, pytest.raises(MoneyRefused):
        hold(
            store,
            key("h2"),
            payer=BUYER,
            escrow=ESCROW,
            money=Money("TEST", Amount(1)),
            reference="",
            at=NOW,
        )


def test_money_comes_in_through_custody_and_waits_in_escrow_only(open_book: OpenBook) -> None:
    with open_book() as store, pytest.raises(MoneyRefused, match="custody"):
        deposit(
            store,
            key("d"),
            custody=CLINIC,
            account=BUYER,
            money=cny(1),
            reference="",
            at=NOW,
        )
    with open_book() as store, pytest.raises(MoneyRefused, match="escrow"):
        hold(store, key("h"), payer=BUYER, escrow=CLINIC, money=cny(1), reference="", at=NOW)


def test_opening_an_account_twice_keeps_its_money(open_book: OpenBook) -> None:
    with open_book() as store:
        open_account(store, BUYER)
        assert amounts(store, BUYER) == (1000, 0, 0)


def test_an_account_has_a_journal_in_pages(open_book: OpenBook) -> None:
    with open_book() as store:
        for number in range(5):
            hold_for_job(store, f"h{number}", 10)
        first = journal(store, BUYER, limit=4)
        rest = journal(store, BUYER, after=first[-1][0], limit=4)
        assert [t.chain for _, t in [*first, *rest]] == ["paid-in", "h0", "h1", "h2", "h3", "h4"]
        assert journal(store, CLINIC) == []
        stored = first[0][1]
        assert (stored.reference, stored.at) == ("bank slip 7", NOW)


def test_the_proof_counts_what_is_there(open_book: OpenBook) -> None:
    with open_book() as store:
        hold_for_job(store, "h", 600)
        pay(store, "r", "h", (CLINIC, 350), (LABORATORY, 250))
        proof = prove(store)
    assert (proof.accounts, proof.transfers) == (5, 5)
    assert proof.custody == {"CNY": 1000}


def test_of_many_releases_of_one_hold_exactly_one_succeeds(open_book: OpenBook) -> None:
    with open_book() as store:
        hold_for_job(store, "h", 600)
    together = threading.Barrier(4)

    def settle(number: int) -> str:
        together.wait()
        try:
            with open_book() as store:
                if number % 2:
                    pay(store, f"r{number}", "h", (CLINIC, 350), (LABORATORY, 250))
                else:
                    refund(store, key(f"r{number}"), key("h"), at=NOW)
        except HoldResolved:
            return "late"
        return "paid" if number % 2 else "refunded"

    with ThreadPoolExecutor(4) as pool:
        outcomes = sorted(pool.map(settle, range(4)))
    assert outcomes in (["late", "late", "late", "paid"], ["late", "late", "late", "refunded"])
    with open_book() as store:
        clinic, _, _ = amounts(store, CLINIC)
        assert clinic == (350 if "paid" in outcomes else 0)
        prove(store)


def test_one_operation_sent_by_many_at_once_happens_once(open_book: OpenBook) -> None:
    together = threading.Barrier(4)

    def submit(_: int) -> tuple[Transfer, ...]:
        together.wait()
        with open_book() as store:
            return hold_for_job(store, "h", 600)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(submit, range(4)))) == 1
    with open_book() as store:
        assert amounts(store, BUYER) == (400, 600, 0)


def test_sixty_four_concurrent_holds_never_overdraw(open_book: OpenBook) -> None:
    with open_book() as store:
        for number in range(4):
            open_account(store, escrow_account(f"other-{number}", "CNY"))

    def attempt(number: int) -> bool:
        try:
            with open_book() as store:
                hold(
                    store,
                    key(f"h{number}"),
                    payer=BUYER,
                    escrow=escrow_account(f"other-{number % 4}", "CNY"),
                    money=cny(30),
                    reference="",
                    at=NOW,
                )
        except InsufficientFunds:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        accepted = sum(pool.map(attempt, range(64)))
    assert accepted == 1000 // 30
    with open_book() as store:
        assert amounts(store, BUYER) == (1000 - 30 * accepted, 30 * accepted, 0)
        prove(store)


def test_payments_in_opposite_directions_do_not_wait_for_each_other(open_book: OpenBook) -> None:
    with open_book() as store:
        for name, account in (("c", CLINIC), ("l", LABORATORY)):
            deposit(
                store,
                key(f"in-{name}"),
                custody=BANK,
                account=account,
                money=cny(1000),
                reference="",
                at=NOW,
            )

    def trade(number: int) -> None:
        payer, payee = (CLINIC, LABORATORY) if number % 2 else (LABORATORY, CLINIC)
        with open_book() as store:
            hold(
                store,
                key(f"h{number}"),
                payer=payer,
                escrow=ESCROW,
                money=cny(7),
                reference="",
                at=NOW,
            )
        with open_book() as store:
            pay(store, f"r{number}", f"h{number}", (payee, 7))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(trade, range(24)))
    with open_book() as store:
        assert amounts(store, CLINIC) == amounts(store, LABORATORY) == (1000, 0, 0)
        prove(store)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE pricing_account SET posted = posted + 1 WHERE id = 'party:clinic:CNY'",
        "UPDATE pricing_account SET posted = posted - 1 WHERE id = 'custody:bank:CNY'",
        "UPDATE pricing_transfer SET amount = amount - 1 WHERE phase = 'post'",
        "UPDATE pricing_transfer SET amount = 2000 WHERE chain = 'h'",
        "UPDATE pricing_transfer SET credit = 'party:laboratory:CNY' WHERE chain = 'paid-in'",
        "DELETE FROM pricing_transfer WHERE chain = 'r'",
        "UPDATE pricing_account SET incoming = incoming + 1 WHERE id = 'escrow:job-1:CNY'",
    ],
)
def test_the_proof_finds_every_injected_break(
    damage: str, new_database: Callable[[str], str], create_tables: Callable[..., None]
) -> None:
    url = new_database("sqlite")
    book = sql_book(url, create_tables)
    with book() as store:
        pay_in(store)
        hold_for_job(store, "h", 600)
        pay(store, "r", "h", (CLINIC, 600))
        prove(store)
    engine = open_engine(url)
    with engine.begin() as connection:
        assert connection.execute(text(damage)).rowcount
    with Session(read_only(engine)) as session, pytest.raises(BookBroken):
        prove(SqlBookStore(session))


@pytest.mark.parametrize(
    "forgery",
    [
        "UPDATE pricing_account SET posted = -1 WHERE id = 'party:clinic:CNY'",
        "UPDATE pricing_account SET outgoing = 1001 WHERE id = 'party:buyer:CNY'",
        "UPDATE pricing_account SET incoming = -1 WHERE id = 'party:buyer:CNY'",
        "INSERT INTO pricing_transfer (chain, step, phase, debit, credit, amount, reserved, "
        "reference, at) SELECT chain, step, phase, debit, credit, amount, reserved, reference, at "
        "FROM pricing_transfer WHERE chain = 'h'",
        "INSERT INTO pricing_transfer (chain, step, phase, debit, credit, amount, resolves, "
        "reserved, reference, at) SELECT 'r2', step, phase, debit, credit, amount, resolves, "
        "reserved, reference, at FROM pricing_transfer WHERE chain = 'r' AND step = 0",
        "UPDATE pricing_transfer SET amount = reserved + 1 WHERE phase = 'post'",
        "UPDATE pricing_transfer SET credit = 'party:nobody:CNY' WHERE chain = 'h'",
    ],
)
def test_the_database_itself_refuses_what_the_book_would(
    forgery: str, database_url: str, create_tables: Callable[..., None]
) -> None:
    book = sql_book(database_url, create_tables)
    with book() as store:
        pay_in(store)
        hold_for_job(store, "h", 600)
        pay(store, "r", "h", (CLINIC, 600))
    with pytest.raises(IntegrityError), open_engine(database_url).begin() as connection:
        connection.execute(text(forgery))


class Trading(RuleBasedStateMachine):
    """Random trade on the fake and on SQL together: they agree, and the book adds up always."""

    def __init__(self, book: OpenBook) -> None:
        super().__init__()
        self.fake = memory_book()
        self.real = book
        self.numbers = count()
        self.holds: list[tuple[str, AccountId]] = []
        self.said: list[Callable[[BookStore], object]] = []
        for account in (BANK, ESCROW, *PARTIES):
            self.do(partial(open_account, account=account))

    def do(self, operation: Callable[[BookStore], object]) -> None:
        outcomes = []
        for book in (self.fake, self.real):
            try:
                with book() as store:
                    outcomes.append(repr(operation(store)))
            except PricingError as error:
                outcomes.append(repr(error))
        assert outcomes[0] == outcomes[1]

    @rule(account=st.sampled_from(PARTIES), minor=st.integers(0, 500))
    def pay_in(self, account: AccountId, minor: int) -> None:
        name = key(f"d{next(self.numbers)}")
        self.remember(
            lambda store: deposit(
                store,
                name,
                custody=BANK,
                account=account,
                money=cny(minor),
                reference="",
                at=NOW,
            )
        )

    @rule(payer=st.sampled_from(PARTIES), minor=st.integers(0, 300))
    def hold(self, payer: AccountId, minor: int) -> None:
        name = f"h{next(self.numbers)}"
        self.holds.append((name, payer))
        self.remember(
            lambda store: hold(
                store,
                key(name),
                payer=payer,
                escrow=ESCROW,
                money=cny(minor),
                reference="",
                at=NOW,
            )
        )

    @rule(
        data=st.data(),
        splits=st.lists(
            st.tuples(st.sampled_from(PARTIES), st.integers(-1, 200)), min_size=0, max_size=4
        ),
    )
    def release(self, data: st.DataObject, splits: list[tuple[AccountId, int]]) -> None:
        assume(self.holds)
        hold_name, _ = data.draw(st.sampled_from(self.holds))
        name = f"r{next(self.numbers)}"
        self.remember(lambda store: pay(store, name, hold_name, *splits))

    @rule(data=st.data())
    def refund(self, data: st.DataObject) -> None:
        assume(self.holds)
        hold_name, _ = data.draw(st.sampled_from(self.holds))
        name = key(f"v{next(self.numbers)}")
        self.remember(lambda store: refund(store, name, key(hold_name), at=NOW))

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        assume(self.said)
        self.do(data.draw(st.sampled_from(self.said)))

    def remember(self, operation: Callable[[BookStore], object]) -> None:
        self.said.append(operation)
        self.do(operation)

    @invariant()
    def the_books_add_up_and_agree(self) -> None:
        self.do(prove)
        self.do(lambda store: sorted(map(repr, store.accounts())))
        with self.real() as store:
            found = list(store.accounts())
            transfers = [transfer for _, transfer in store.journal(after=0, limit=10_000)]
        assert sum(account.posted for account in found) == 0
        assert all(account.available >= 0 for account in found if account.id != BANK)
        resolved = {transfer.resolves for transfer in transfers}
        waiting = [t for t in transfers if t.phase is Phase.PENDING and t.chain not in resolved]
        for account in found:
            assert account.outgoing == sum(t.amount for t in waiting if t.debit == account.id)
            assert account.incoming == sum(t.amount for t in waiting if t.credit == account.id)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_random_trade_keeps_the_book_right_after_every_step(
    kind: str, new_database: Callable[[str], str], create_tables: Callable[..., None]
) -> None:
    url = new_database(kind)
    book = sql_book(url, create_tables)
    engine = open_engine(url)

    class FromEmpty(Trading):
        def __init__(self) -> None:
            # One database for all runs, emptied for each.
            with engine.begin() as connection:
                connection.execute(text("DELETE FROM pricing_transfer"))
                connection.execute(text("DELETE FROM pricing_account"))
            super().__init__(book)

    run_state_machine_as_test(
        FromEmpty,
        settings=settings(
            max_examples=15,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
