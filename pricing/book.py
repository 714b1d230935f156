"""The account book: every movement of money, once, and never more out than in.

Double entry: a transfer debits one account and credits another, so the book sums to zero in
each currency, always. A price is held (set aside, pending), then released to the payees or
refunded; each operation is one linked chain of transfers, stored whole or not at all, under an
id that the caller chose: repeating it changes nothing, using it for something else is refused.
The semantics are those of TigerBeetle (linked, two-phase transfers; balance limits).

Each function works inside the caller's transaction. It locks the accounts first, in one order,
and decides on what it then reads; a crash before the caller commits leaves nothing of it. A
transaction that calls several of them locks several times: let it hold and release money for one
purpose, so that two such transactions cannot wait for each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from crypto.record import Amount
from pricing.account import Account, AccountId, AccountKind
from pricing.errors import (
    BookBroken,
    HoldResolved,
    InsufficientFunds,
    MoneyRefused,
    TransferConflict,
    TransferNotFound,
)
from pricing.money import Money
from pricing.ports import BookStore
from pricing.transfer import Phase, Transfer, TransferId, apply

_PAGE: Final = 1000


@dataclass(frozen=True)
class Balance:
    """available: can be spent now. held: set aside by pending transfers. incoming: pending towards
    the account; for an escrow account, what waits in it."""

    available: Money
    held: Money
    incoming: Money


@dataclass(frozen=True)
class Proof:
    """What `prove` found: the book adds up. custody: per currency, what lies outside."""

    accounts: int
    transfers: int
    custody: Mapping[str, Amount]


def open_account(store: BookStore, account: AccountId) -> None:
    """Idempotent."""
    store.open(account)


def deposit(
    store: BookStore,
    id: TransferId,
    *,
    custody: AccountId,
    account: AccountId,
    money: Money,
    reference: str,
    at: datetime,
) -> tuple[Transfer, ...]:
    """Credit `account` with money that arrived outside. Raises MoneyRefused, TransferConflict."""
    if custody.kind is not AccountKind.CUSTODY:
        raise MoneyRefused(f"{custody} is not a custody account; money comes in through one")
    transfer = _transfer(id, 0, Phase.SINGLE, custody, account, money.amount_minor, reference, at)
    _require_currency(account, money)
    return _store_chain(store, [transfer])


def hold(
    store: BookStore,
    id: TransferId,
    *,
    payer: AccountId,
    escrow: AccountId,
    money: Money,
    reference: str,
    at: datetime,
) -> tuple[Transfer, ...]:
    """Set the price aside: the payer cannot spend it, nobody else has it.

    Raises InsufficientFunds, MoneyRefused, TransferConflict, AccountNotFound.
    """
    if escrow.kind is not AccountKind.ESCROW:
        raise MoneyRefused(f"{escrow} is not an escrow account")
    _require_currency(payer, money)
    transfer = _transfer(id, 0, Phase.PENDING, payer, escrow, money.amount_minor, reference, at)
    return _store_chain(store, [transfer])


def release(
    store: BookStore,
    id: TransferId,
    hold_id: TransferId,
    splits: Sequence[tuple[AccountId, Amount]],
    *,
    at: datetime,
) -> tuple[Transfer, ...]:
    """Pay the hold out: into escrow and from there to the payees, in one chain.

    What the splits leave of the hold returns to the payer. Raises HoldResolved if the hold was
    released or refunded under another id, MoneyRefused if the splits exceed it.
    """
    held = _held(store, hold_id)
    if not splits:
        raise MoneyRefused("a release names at least one payee; to pay nobody, refund")
    paid = Amount(sum(amount for _, amount in splits))
    chain = [
        Transfer(
            chain=id,
            step=0,
            phase=Phase.POST,
            debit=held.debit,
            credit=held.credit,
            amount=paid,
            resolves=hold_id,
            reserved=held.amount,
            reference=held.reference,
            at=at,
        )
    ]
    for step, (payee, amount) in enumerate(splits, start=1):
        chain.append(
            _transfer(id, step, Phase.SINGLE, held.credit, payee, amount, held.reference, at)
        )
    return _store_chain(store, chain)


def refund(
    store: BookStore, id: TransferId, hold_id: TransferId, *, at: datetime
) -> tuple[Transfer, ...]:
    """Give the whole hold back to the payer. Raises HoldResolved, TransferConflict."""
    held = _held(store, hold_id)
    transfer = Transfer(
        chain=id,
        step=0,
        phase=Phase.VOID,
        debit=held.debit,
        credit=held.credit,
        amount=Amount(0),
        resolves=hold_id,
        reserved=held.amount,
        reference=held.reference,
        at=at,
    )
    return _store_chain(store, [transfer])


def balance(store: BookStore, account: AccountId) -> Balance:
    """Raises AccountNotFound."""
    found = store.account(account)
    return Balance(
        available=Money(account.currency, found.available),
        held=Money(account.currency, found.outgoing),
        incoming=Money(account.currency, found.incoming),
    )


def journal(
    store: BookStore, account: AccountId, *, after: int = 0, limit: int = 100
) -> Sequence[tuple[int, Transfer]]:
    """An account's transfers in order, each with its place; `after` continues a page."""
    return store.statement(account, after=after, limit=limit)


def prove(store: BookStore) -> Proof:
    """Recompute every balance from the journal and compare it with what is stored.

    Call it in a transaction that sees one snapshot. Raises BookBroken, naming the account or
    currency, unless in each currency all accounts sum to zero, pending debits equal pending
    credits, each balance is what the journal makes it, and no floor is broken.
    """
    replayed: dict[AccountId, Account] = {}
    transfers = 0
    last = 0
    while page := store.journal(after=last, limit=_PAGE):
        for _, transfer in page:
            for account in (transfer.debit, transfer.credit):
                replayed.setdefault(account, Account(account))
            try:
                replayed |= apply(transfer, replayed)
            except InsufficientFunds as error:
                raise BookBroken(
                    f"transfer {transfer.chain} could not have been: {error}"
                ) from error
        transfers += len(page)
        last, _ = page[-1]
    posted: defaultdict[str, int] = defaultdict(int)
    pending: defaultdict[str, int] = defaultdict(int)
    custody: defaultdict[str, int] = defaultdict(int)
    accounts = 0
    for stored in store.accounts():
        accounts += 1
        if stored != replayed.pop(stored.id, Account(stored.id)):
            raise BookBroken(f"account {stored.id} is not what its transfers make it")
        if stored.has_floor and (stored.available < 0 or stored.outgoing < 0):
            raise BookBroken(f"account {stored.id} is below zero")
        posted[stored.id.currency] += stored.posted
        pending[stored.id.currency] += stored.incoming - stored.outgoing
        if stored.id.kind is AccountKind.CUSTODY:
            custody[stored.id.currency] -= stored.posted
    if replayed:
        raise BookBroken(f"account {next(iter(replayed))} has transfers and does not exist")
    for totals in (posted, pending):
        for currency, total in totals.items():
            if total:
                raise BookBroken(f"the accounts in {currency} sum to {total}, not to zero")
    return Proof(accounts, transfers, {c: Amount(total) for c, total in custody.items()})


def _store_chain(store: BookStore, chain: Sequence[Transfer]) -> tuple[Transfer, ...]:
    """Store the chain, or return it as it was stored under the same id before."""
    named = {account for t in chain for account in (t.debit, t.credit)}
    # Locked before the id is looked up: two callers with one id meet here, and the second
    # finds what the first stored.
    accounts = dict(store.lock(named))
    stored = store.chain(chain[0].chain)
    if stored:
        if len(stored) != len(chain) or not all(map(Transfer.same_content, stored, chain)):
            raise TransferConflict(chain[0].chain)
        return stored
    for transfer in chain:
        if transfer.resolves is not None:
            for resolution in store.resolutions(transfer.resolves):
                raise HoldResolved(transfer.resolves, resolution.chain)
        accounts |= apply(transfer, accounts)
    store.save(accounts.values(), chain)
    return tuple(chain)


def _held(store: BookStore, hold_id: TransferId) -> Transfer:
    for transfer in store.chain(hold_id):
        if transfer.phase is Phase.PENDING:
            return transfer
    raise TransferNotFound(hold_id)


def _require_currency(account: AccountId, money: Money) -> None:
    if account.currency != money.currency:
        raise MoneyRefused(f"{account} does not hold {money.currency}")


def _transfer(
    id: TransferId,
    step: int,
    phase: Phase,
    debit: AccountId,
    credit: AccountId,
    amount: Amount,
    reference: str,
    at: datetime,
) -> Transfer:
    return Transfer(
        chain=id,
        step=step,
        phase=phase,
        debit=debit,
        credit=credit,
        amount=amount,
        resolves=None,
        reserved=Amount(0),
        reference=reference,
        at=at,
    )
