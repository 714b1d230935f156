"""Anchoring: heads that a quorum has cosigned are also put where no operator can take them back.

Each head goes through an outbox, whose states are the table LIFECYCLE. `keep_anchored` is one
round of it: it reads the chain, compares it with our log, follows what is under way, and sends at
most one transaction. It can be stopped at any point and repeated from the start, because

- a transaction's hash is stored before the transaction is sent, so that it is looked for after a
  crash whether or not it left;
- the next transaction is signed for the next unused number (nonce) of the account, or for the
  same one again, so that of all that were signed for it at most one is mined;
- the contract takes a size once, and only with a proof that it extends the last: what is sent
  twice, by us or by a second operator, has no second effect.

No transaction of the database is open while the chain is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from crypto.ports import Clock
from ledger import log
from ledger.errors import (
    AnchorMoved,
    ChainBehind,
    ChainDisagrees,
    ChainRefused,
    LedgerError,
    WrongChain,
)
from ledger.ports import (
    Anchor,
    AnchorBackend,
    AnchorDatabase,
    AnchorState,
    AnchorStore,
    Block,
    ChainHead,
    Fee,
    LogStore,
    Place,
    Transaction,
)
from ledger.tree import cover, range_hash
from ledger.verify.checkpoint import Checkpoint

GWEI: Final = 10**9
# What a node must be offered more to let one waiting transaction replace another: geth and anvil
# ask for 10 %, others for 12.5 %.
BUMP_PERCENT: Final = 13
# How often a transaction that the node forgot goes again before it has to wait like others.
MAX_RESENT: Final = 3
ENTRIES_AT_ONCE: Final = 1_000  # that are in memory while they are looked at


class AnchorEvent(StrEnum):
    SEND = "send"  # a transaction was signed and is about to leave
    ADOPT = "adopt"  # somebody else's transaction anchored the same head
    MINE = "mine"  # one of its transactions is in a block
    LOSE = "lose"  # it is in no block any more: a reorganisation
    RETURN = "return"  # none of its transactions can have effect any more
    SETTLE = "settle"  # its block is final
    SUPERSEDE = "supersede"  # the chain has a larger head: this one cannot be anchored any more


LIFECYCLE: Final[Mapping[tuple[AnchorState, AnchorEvent], AnchorState]] = {
    (AnchorState.READY, AnchorEvent.SEND): AnchorState.SENT,
    (AnchorState.READY, AnchorEvent.ADOPT): AnchorState.SENT,
    (AnchorState.READY, AnchorEvent.SUPERSEDE): AnchorState.SUPERSEDED,
    (AnchorState.SENT, AnchorEvent.SEND): AnchorState.SENT,  # again, or for a higher fee
    (AnchorState.SENT, AnchorEvent.MINE): AnchorState.MINED,
    (AnchorState.SENT, AnchorEvent.RETURN): AnchorState.READY,  # reverted, or its nonce is used up
    (AnchorState.MINED, AnchorEvent.MINE): AnchorState.MINED,  # in another block than before
    (AnchorState.MINED, AnchorEvent.LOSE): AnchorState.SENT,
    (AnchorState.MINED, AnchorEvent.SETTLE): AnchorState.FINAL,
}


@dataclass(frozen=True)
class AnchorRules:
    """When to anchor, and what it may cost.

    every_s, every_entries: whichever comes first, and only when the witnessed tree has grown; and
                once a day has ended (UTC) that was not anchored to its end
    at_once_s:  what must be anchored at once (see Hurry) is, but no sooner after the head before:
                however many of them there are, they cost a transaction in so many seconds
    patience_s: how long a transaction may wait before it is sent again for a higher fee; and a
                head before it is signed under a second number of the account, twice as long before
                a third, and so on: what a node can cost that lies about the numbers
    max_fee_wei: of a unit of gas; a transaction that would need more waits
    """

    every_s: float = 600.0
    every_entries: int = 10_000
    at_once_s: float = 60.0
    patience_s: float = 120.0
    max_fee_wei: int = 500 * GWEI


class Hurry:
    """Whether entries wait that must be anchored at once. Looks at each entry once.

    at_once: which ones, by their bytes; the ledger itself has no idea what they say
    """

    def __init__(self, at_once: Callable[[bytes], bool]) -> None:
        self._at_once = at_once
        self._seen = 0
        self._last = -1

    def among(self, store: LogStore, start: int, end: int) -> bool:
        """Whether one of the entries [start, end) is of that kind."""
        for first in range(max(start, self._seen), end, ENTRIES_AT_ONCE):
            for one in store.entries(first, min(first + ENTRIES_AT_ONCE, end)):
                if self._at_once(one.entry):
                    self._last = one.index
        self._seen = max(self._seen, end)
        return start <= self._last < end


@dataclass(frozen=True)
class Round:
    """What one round did. moved: anchors in a new state, block or attempt, as they are now.

    waiting: why the one that is ready or sent did not leave; None if nothing was wrong.
    """

    chain: ChainHead
    moved: tuple[Anchor, ...]
    waiting: LedgerError | None = None


@dataclass(frozen=True)
class Anchoring:
    """Whether heads are being anchored, for whoever looks. problem: why not, at the moment."""

    place: Place
    problem: str | None = None


@dataclass(frozen=True)
class ChainHolder:
    """HeadHolder: what the chain remembers of the log, for `ledger.newest`."""

    origin: str
    backend: AnchorBackend

    @property
    def name(self) -> str:
        place = self.backend.place
        return f"the contract {place.contract} of chain {place.chain_id}"

    def head(self) -> Checkpoint | None:
        found = self.backend.head()
        return Checkpoint(self.origin, found.size, found.root) if found.size else None


def advance(
    anchor: Anchor,
    event: AnchorEvent,
    *,
    at: datetime,
    add: Transaction | None = None,
    transaction: bytes | None = None,
    block: Block | None = None,
) -> Anchor:
    """The anchor after an event. Raises AnchorMoved."""
    try:
        state = LIFECYCLE[anchor.state, event]
    except KeyError:
        raise AnchorMoved(f"an anchor that is {anchor.state} cannot {event}") from None
    known = anchor.transactions
    if add is not None and all(one.hash != add.hash for one in known):
        known = (*known, add)
    return replace(
        anchor,
        state=state,
        changed_at=at,
        attempt=anchor.attempt + 1,
        transactions=known,
        transaction=transaction,
        block=block,
    )


def keep_anchored(
    database: AnchorDatabase,
    backend: AnchorBackend,
    rules: AnchorRules,
    *,
    clock: Clock,
    hurry: Hurry | None = None,
) -> Round:
    """One round: follow what is under way, and send what is due.

    hurry: None where no entry has to be anchored at once
    Raises ChainDisagrees if the chain's head is not one of our log, and then changes nothing;
    ChainBehind if an anchor that was final is not there; WrongChain, ChainUnreachable.
    A transaction that the chain will not take is reported and tried again in the next round.
    """
    chain = backend.head()
    with database.transaction() as store:
        require_ours(store, chain, backend.place)
        under_way = store.open(backend.place)
    final = backend.finality()  # before the receipts: what they then say of such a block is final
    moved = [
        after
        for anchor in under_way
        for after in _followed(anchor, database, backend, chain, final, clock)
    ]
    if chain.successor is not None:
        raise WrongChain(
            f"this log was handed over to the contract {chain.successor}; set it as `contract`"
        )
    with database.transaction() as store:
        prepared = prepare(store, chain, backend.place, rules, hurry, now=clock.now())
        under_way = store.open(backend.place)
    moved += [] if prepared is None else [prepared]
    sent, waiting = _sent(under_way, database, backend, chain, rules, clock)
    return Round(chain, (*moved, *sent), waiting)


def require_ours(store: AnchorStore, chain: ChainHead, place: Place) -> None:
    """The chain's head of our log must be a head of our log, and none that was final be gone.

    Raises ChainDisagrees, ChainBehind.
    """
    latest = store.log.latest()
    signed = 0 if latest is None else latest.size
    if chain.size > signed:
        raise ChainDisagrees(
            f"the chain holds a head of size {chain.size} of this log, which has {signed} "
            "entries: this database is an old copy; stop, and recover the missing entries"
        )
    if chain.size > 0 and _root(store, chain.size) != chain.root:
        raise ChainDisagrees(
            f"the chain holds another root of size {chain.size} ({chain.root.hex()}): "
            "the log has forked"
        )
    final = store.latest_final(place)
    if final is not None and chain.size < final.size:
        raise ChainBehind(
            f"size {final.size} was final on chain {place.chain_id}, and the node shows "
            f"{chain.size}: it lags, or its chain was begun anew. Ask another node; on a "
            "simulated chain that was begun anew, deploy the contract again"
        )


def prepare(
    store: AnchorStore,
    chain: ChainHead,
    place: Place,
    rules: AnchorRules,
    hurry: Hurry | None,
    *,
    now: datetime,
) -> Anchor | None:
    """Put the newest head with a quorum into the outbox, if that is due and no other waits."""
    if any(one.state in (AnchorState.READY, AnchorState.SENT) for one in store.open(place)):
        return None
    head, last = store.log.latest_witnessed(), store.latest(place)
    anchored = max(chain.size, 0 if last is None else last.size)
    if head is None or head.size <= anchored:
        return None
    if last is not None and not (
        now - last.ready_at >= timedelta(seconds=rules.every_s)
        or head.size - anchored >= rules.every_entries
        or now.date() > last.ready_at.date()  # a day has ended
        or (
            hurry is not None
            and now - last.ready_at >= timedelta(seconds=rules.at_once_s)
            and hurry.among(store.log, anchored, head.size)
        )
    ):
        return None
    root = head.checkpoint.root
    anchor = Anchor(place, head.size, root, AnchorState.READY, now, now, chain.simulated)
    return anchor if store.add(anchor) else None


def _followed(
    anchor: Anchor,
    database: AnchorDatabase,
    backend: AnchorBackend,
    chain: ChainHead,
    final: int,
    clock: Clock,
) -> list[Anchor]:
    """What the chain says of one anchor's transactions, recorded. The anchor's new forms."""
    done = [anchor]

    def move(
        event: AnchorEvent,
        add: Transaction | None = None,
        transaction: bytes | None = None,
        block: Block | None = None,
    ) -> None:
        after = advance(
            done[-1], event, at=clock.now(), add=add, transaction=transaction, block=block
        )
        _replace(database, done[-1], after)
        done.append(after)

    if anchor.state is AnchorState.READY and anchor.size <= chain.size:
        # Of equal size it has an equal root, as `require_ours` has seen: somebody was faster.
        found = _others(anchor, backend, chain)
        if found is None and anchor.size == chain.size and anchor.transactions:
            return []  # perhaps our own: behind one address, one node may lag behind another
        if found is None:
            move(AnchorEvent.SUPERSEDE)
            return done[1:]
        move(AnchorEvent.ADOPT, Transaction(found, clock.now()))
    if done[-1].state is AnchorState.READY:
        return done[1:]
    waits = False
    for sent in reversed(done[-1].transactions):
        receipt = backend.receipt(sent.hash)
        if receipt is None or receipt.reverted:
            continue
        if receipt.block is None or chain.size < anchor.size:
            # Mined since `chain` was read; or a node that lies about it, and what is final once
            # can never be taken back.
            waits = True
            continue
        if (done[-1].block, done[-1].transaction) != (receipt.block, sent.hash):
            move(AnchorEvent.MINE, transaction=sent.hash, block=receipt.block)
        if receipt.block.number <= final:
            move(AnchorEvent.SETTLE, transaction=sent.hash, block=receipt.block)
        return done[1:]
    if done[-1].state is AnchorState.MINED:
        move(AnchorEvent.LOSE)
    # `chain` was read before the receipts: a number that was used up then, these did not use.
    spent = all(one.nonce is None or one.nonce < chain.nonce for one in done[-1].transactions)
    if (spent and not waits) or anchor.size <= chain.size:
        move(AnchorEvent.RETURN)
    return done[1:]


def _others(anchor: Anchor, backend: AnchorBackend, chain: ChainHead) -> bytes | None:
    """The transaction of another sender that made this head the chain's newest."""
    if anchor.size < chain.size:
        return None
    for event in backend.events(chain.block, chain.block):
        if (event.size, event.root) == (anchor.size, anchor.root):
            return event.transaction
    return None


def _sent(
    under_way: Sequence[Anchor],
    database: AnchorDatabase,
    backend: AnchorBackend,
    chain: ChainHead,
    rules: AnchorRules,
    clock: Clock,
) -> tuple[list[Anchor], LedgerError | None]:
    """Send the smallest head that waits, if it may leave now: its new form, and what went wrong."""
    waiting = [a for a in under_way if a.state in (AnchorState.READY, AnchorState.SENT)]
    # One at a time: a second would carry a proof from a head that is not on the chain yet.
    anchor = next((a for a in waiting if a.state is AnchorState.SENT), None)
    anchor = anchor or next(iter(waiting), None)
    if anchor is None or anchor.size <= chain.size:
        return [], None
    fee, now = chain.fee, clock.now()
    own = [one for one in anchor.transactions if one.nonce == chain.nonce]
    if own and own[-1].fee is not None and anchor.state is AnchorState.SENT:
        alike = [one for one in own if one.fee == own[-1].fee]
        patient = now - alike[0].sent_at < timedelta(seconds=rules.patience_s)
        if patient and any(backend.receipt(one.hash) is not None for one in own):
            return [], None
        # One more has another hash if the node states other gas, and would be looked for as well.
        if patient and len(alike) > MAX_RESENT:
            return [], None
        # What the node has forgotten goes again as it was; what waits too long offers more.
        fee = own[-1].fee if patient else _more(own[-1].fee, fee)
    soonest = _next_number_at(anchor, rules)
    if not own and soonest is not None and now < soonest:
        return [], ChainRefused(
            f"the node says that number {chain.nonce} of the account comes next, and the anchor of "
            f"size {anchor.size} was signed under others: it waits until {soonest:%FT%TZ}. If no "
            "other program uses the key, the node is mistaken or lies; ask another one"
        )
    if fee.max_wei > rules.max_fee_wei:
        return [], ChainRefused(
            f"a unit of gas would cost {fee.max_wei} wei, and the settings allow "
            f"{rules.max_fee_wei}: the anchor of size {anchor.size} waits"
        )
    with database.transaction() as store:
        proof = log.consistency(store.log, chain.size, anchor.size)
    done: list[Anchor] = []

    def keep(transaction: bytes) -> None:
        sent = Transaction(transaction, now, chain.nonce, fee)
        done.append(advance(anchor, AnchorEvent.SEND, at=now, add=sent))
        _replace(database, anchor, done[-1])

    try:
        backend.anchor(anchor.size, anchor.root, proof, nonce=chain.nonce, fee=fee, keep=keep)
    except LedgerError as error:  # sent or not, it may have been kept, and is looked for
        return done, error
    return done, None


def _next_number_at(anchor: Anchor, rules: AnchorRules) -> datetime | None:
    """From when on the head may be signed under one more number; None before the first.

    Of one number only one transaction is ever mined, of several numbers each: whoever states
    another one in every round would spend all that the account has.
    """
    since: dict[int, datetime] = {}
    for one in anchor.transactions:
        if one.nonce is not None:
            since.setdefault(one.nonce, one.sent_at)
    if not since:
        return None
    wait = timedelta(seconds=rules.patience_s) * (1 << len(since) - 1)
    return max(since.values()) + wait


def _replace(database: AnchorDatabase, before: Anchor, after: Anchor) -> None:
    """Raises AnchorMoved if another process was faster: then nothing that follows may happen."""
    with database.transaction() as store:
        if not store.replace(before, after):
            raise AnchorMoved(f"another process has moved the anchor of size {before.size}")


def _more(before: Fee, now: Fee) -> Fee:
    """Enough to replace a transaction that offered `before`, and no less than is usual now."""
    tip = None
    if now.tip_wei is not None:
        tip = max(now.tip_wei, _bumped(before.tip_wei or 0))
    return Fee(max(now.max_wei, _bumped(before.max_wei), tip or 0), tip)


def _bumped(wei: int) -> int:
    return wei + wei * BUMP_PERCENT // 100 + 1


def _root(store: AnchorStore, size: int) -> bytes:
    return range_hash((0, size), store.log.nodes(cover((0, size))))
