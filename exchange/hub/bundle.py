"""The deal bundle: everything the hub has logged about one deal, for people who need not trust it.

What belongs in it follows from identifiers: every statement about the deal's negotiations and
jobs that had an effect, and what shows who its actors are. Of what its parties said without effect
the first are in it, of what others said nothing: anybody may speak of a deal as often as it likes,
and must not make it one that nobody can read. Sealed results are no evidence and stay.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Final

from crypto import record
from crypto.digest import Digest
from crypto.envelope import Envelope
from crypto.identifiers import DealId, PartyId, ProductId
from crypto.statement import SignedStatement, read_statement
from exchange.audit import bundle as bundles
from exchange.audit.bundle import MAX_IDLE, MAX_IDLE_BYTES, Bundle
from exchange.errors import BundleNotReady, UnknownSubject
from exchange.evidence import (
    ALARM,
    BUNDLE_EXPORTED,
    HELPING_BEGUN,
    HELPING_ENDED,
    REGULATORS_NAMED,
    STANDING_APPROVED,
    STANDING_WITHDRAWN,
    reason_in,
)
from exchange.hub.model import Filed, HubJob
from exchange.hub.ports import HubTransaction
from exchange.query import plan as plans
from exchange.terms.agreement import Proposal, Terms, read_agreement
from ledger import log
from ledger.ports import StoredCheckpoint
from ledger.verify.proof import Proof
from registry.errors import NotFound
from registry.evidence import LISTED, REGISTERED, UPDATED

_PROPOSING: Final = ("negotiation.requested", "negotiation.offered")
_AGREEING: Final = ("negotiation.agreed", "negotiation.verified")
_SUBMITTED: Final = "job.submitted"
_NEVER: Final = (ALARM,)  # however well said, they change nothing; nor does opening again
_ONCE: Final = ("job.opened",)
_UNASKED: Final = (STANDING_APPROVED, STANDING_WITHDRAWN, HELPING_BEGUN, HELPING_ENDED)
_EXPLAINING: Final = (
    "job.rejected",
    "job.refused",
    "job.failed",
    "negotiation.terminated",
    ALARM,
)


@dataclass(frozen=True)
class Exported:
    """data: the zip. statements: those about the deal's negotiations and jobs."""

    data: bytes
    statements: Collection[Digest]


def export(deal: DealId, tx: HubTransaction) -> Exported:
    """The bundle of a deal, as of now. Raises UnknownSubject, and BundleNotReady while anything
    that had an effect waits for a head: an audit must never miss it in silence. Who was given the
    bundle just now may be missing: whoever asks again must not wait for what asking said."""
    talks = tx.negotiations_of_deal(deal)
    if not talks:
        raise UnknownSubject(f"deal {deal}")
    consumers = {negotiation.consumer for negotiation in talks}
    jobs = [job for job in tx.jobs_of_deal(deal) if job.consumer in consumers]
    found = _Collected()
    head = tx.log.latest_witnessed() or tx.log.latest()
    size = 0 if head is None else head.size
    subjects = [*(negotiation.id for negotiation in talks), *(job.id for job in jobs)]
    counted = tx.effective(subjects, never=_NEVER, once=_ONCE)
    _add(counted, found, tx)
    _add_documents(counted, found, tx)
    parties = {*found.parties, *(said.statement.actor for said in found.statements.values())}
    parties |= {party for n in talks for party in (n.consumer, n.holder)}
    others = tx.idle(subjects, never=_NEVER, once=_ONCE)
    idle = _first_words([about for about in others if about[0] in parties], jobs, size, tx)
    _add(idle, found, tx)
    _add_documents(idle, found, tx)
    statements = tuple(found.statements)
    _add_exports(deal, found, size, tx)
    parties |= {said.statement.actor for said in found.statements.values()}
    announced = tx.statements_about(sorted(parties), kinds=(REGISTERED, UPDATED))
    _add(announced, found, tx)
    products = _add_listings(found, tx)
    _add_unasked([*products, *sorted(parties)], found, tx)
    for name in (*announced, *found.listings):
        for output in found.statements[name].statement.outputs:
            found.documents[output] = _document(output, tx)
    left_out = sum(others.values()) - len(idle)
    return Exported(bundles.write(_bundle(deal, found, head, left_out, tx)), statements)


class _Collected:
    """What has been found so far.

    statements: by digest. documents: by digest. parties: whom documents name. products: digests
    of the versions that documents name. listings: statements that listed them.
    """

    def __init__(self) -> None:
        self.statements: dict[Digest, SignedStatement] = {}
        self.index: dict[Digest, int] = {}
        self.documents: dict[Digest, bytes] = {}
        self.parties: set[PartyId] = set()
        self.products: set[Digest] = set()
        self.listings: list[Digest] = []


def _add(names: Iterable[Digest], found: _Collected, tx: HubTransaction) -> None:
    for name in names:
        index = tx.log.index_of(name)
        if index is None:
            raise BundleNotReady(f"{name} is not in the ordered log yet; ask again in a moment")
        (logged,) = tx.log.entries(index, index + 1)
        found.statements[name] = read_statement(logged.entry)
        found.index[name] = index


def _first_words(
    said: Collection[tuple[PartyId, str]], jobs: Sequence[HubJob], size: int, tx: HubTransaction
) -> list[Digest]:
    """Of what parties said without effect, below the head of this size: the first MAX_IDLE of each
    about each job since its price was held, as whoever follows the public log may count them, and
    of each about all else together, for negotiations and jobs that come to nothing cost nothing.

    said: who said any, about what. However many there are, no more than these are read."""
    held = {str(job.id): job.held for job in jobs if job.held is not None}
    first: dict[int, Filed] = {}
    for actor, subject in said:
        for since in dict.fromkeys((None, held.get(subject))):
            words = tx.first_idle(
                actor, subject, never=_NEVER, once=_ONCE, since=since, limit=MAX_IDLE
            )
            first |= {one.place: one for one in words}
    places = {subject: tx.log.index_of(name) for subject, name in held.items()}
    counted: dict[tuple[PartyId, str], tuple[int, int]] = {}
    found = []
    for _, one in sorted(first.items()):
        index = tx.log.index_of(one.statement)
        if index is None or index >= size:
            continue
        since_held = (place := places.get(one.subject)) is not None and index > place
        about = (one.actor, one.subject if since_held else "")
        count, length = counted.get(about, (0, 0))
        if count < MAX_IDLE and length < MAX_IDLE_BYTES:
            (logged,) = tx.log.entries(index, index + 1)
            count, length = count + 1, length + len(logged.entry)
            counted[about] = count, length
            if length <= MAX_IDLE_BYTES:
                found.append(one.statement)
    return found


def _add_documents(names: Iterable[Digest], found: _Collected, tx: HubTransaction) -> None:
    """What statements brought. Only those that had an effect: anybody may name the digest of
    somebody else's document in a statement that comes to nothing, and must not be given it so."""
    for name in names:
        statement = found.statements[name].statement
        outcome = tx.outcome(name)
        if outcome is None or not outcome.applied:
            continue
        if statement.type in _PROPOSING:
            for output in statement.outputs:
                data = found.documents[output] = tx.document(output)
                _note_terms(record.from_bytes(Proposal, data).terms, found)
        elif statement.type in _AGREEING:
            for output in statement.outputs:
                data = found.documents[output] = tx.document(output)
                _note_terms(read_agreement(Envelope.from_bytes(data)).terms, found)
        elif statement.type in _EXPLAINING:
            # Only a reason about this very subject: whoever declines may name any digest.
            for output in statement.outputs:
                with suppress(UnknownSubject):
                    document = {output: tx.document(output)}
                    if reason_in(statement, document) is not None:
                        found.documents |= document
        elif statement.type == _SUBMITTED:
            for output in statement.outputs:
                data = found.documents[output] = tx.document(output)
                plan = plans.read_plan(Envelope.from_bytes(data))
                found.parties |= {plan.operator, *plan.engine_parties}
                found.products |= {side.product for side in plan.sides}


def _note_terms(terms: Terms, found: _Collected) -> None:
    found.products.add(terms.product)
    if terms.regulator is not None:
        found.parties.add(terms.regulator)
    if terms.helper is not None:
        found.parties.add(terms.helper)


def _add_unasked(subjects: Sequence[str], found: _Collected, tx: HubTransaction) -> None:
    """What is admitted without asking, by the products that it is about or the party that helps."""
    names = tx.statements_about(subjects, kinds=_UNASKED)
    _add((n for n in names if (said := tx.outcome(n)) is not None and said.applied), found, tx)


def _add_listings(found: _Collected, tx: HubTransaction) -> Sequence[ProductId]:
    """Of every version that documents name. Returns the products."""
    listed: dict[ProductId, None] = {}
    for name in sorted(found.products):
        try:
            listed[tx.products.by_digest(name).id] = None
        except NotFound:
            continue  # a rejected plan may name a product that there is not
    before = set(found.statements)
    names = tx.statements_about(list(listed), kinds=(LISTED,))
    found.products |= _changing_totals(names, tx)
    _add(names, found, tx)
    for name in names:
        outputs = found.statements[name].statement.outputs
        if name not in before and not set(outputs) <= found.products:
            del found.statements[name], found.index[name]  # another version of the product
        else:
            found.listings.append(name)
    return list(listed)


def _add_exports(deal: DealId, found: _Collected, size: int, tx: HubTransaction) -> None:
    """Who was given this deal's evidence before, and whom the operator named who may be."""
    exports = tx.statements_about([deal], kinds=(BUNDLE_EXPORTED,))
    for name in exports:
        index = tx.log.index_of(name)
        if index is not None and index < size:
            _add([name], found, tx)
            operator = found.statements[name].statement.actor
            _add(
                (
                    named
                    for named in tx.statements_about([operator], kinds=(REGULATORS_NAMED,))
                    if (place := tx.log.index_of(named)) is not None and place < index
                ),
                found,
                tx,
            )


def _changing_totals(names: Sequence[Digest], tx: HubTransaction) -> set[Digest]:
    """The versions that changed what a product's privacy account may spend: what its holder
    admitted can be judged by no other."""
    changing: set[Digest] = set()
    totals: dict[str, tuple[Fraction, Fraction] | None] = {}
    for name in names:
        outcome = tx.outcome(name)
        index = tx.log.index_of(name)
        if outcome is None or not outcome.applied or index is None:
            continue
        (logged,) = tx.log.entries(index, index + 1)
        (output,) = read_statement(logged.entry).statement.outputs
        product = tx.products.by_digest(output)
        rule = product.rule.privacy
        found = None if rule is None else (rule.epsilon_total, rule.delta_total)
        if product.id in totals and totals[product.id] != found:
            changing.add(output)
        totals[product.id] = found
    return changing


def _document(name: Digest, tx: HubTransaction) -> bytes:
    """A party document, with all signatures it has collected, or a product, or as it was sent."""
    try:
        return tx.parties.by_digest(name).envelope.to_bytes()
    except NotFound:
        pass
    try:
        return tx.products.envelope(name)
    except NotFound:
        return tx.document(name)


def _bundle(
    deal: DealId,
    found: _Collected,
    head: StoredCheckpoint | None,
    left_out: int,
    tx: HubTransaction,
) -> Bundle:
    indices = sorted(found.index.values())
    if head is None or indices[-1] >= head.size:
        raise BundleNotReady(
            f"entry {indices[-1]} is not under a witnessed head yet; ask again in a moment"
        )
    note = head.note.to_bytes()
    entries = {found.index[name]: said.entry for name, said in found.statements.items()}
    bounds = _bounds(indices, [h for h in tx.log.witnessed() if h.size < head.size])
    openings = {
        (name, reader): sealed for name in found.statements for reader, sealed in tx.openings(name)
    }
    heads = {bound.size: bound.note.to_bytes() for bound in bounds}
    return Bundle(
        manifest=bundles.list_content(
            deal,
            entries=entries,
            documents=found.documents,
            openings=openings,
            heads=heads,
            left_out=left_out,
        ),
        checkpoint=note,
        entries=entries,
        proofs={
            index: Proof(index, hashes, note).text.encode()
            for index, hashes in log.inclusions(tx.log, indices, head.size).items()
        },
        documents=found.documents,
        openings=openings,
        heads=heads,
        consistency=_consistency([*heads, head.size], tx),
    )


def _bounds(
    indices: Sequence[int], witnessed: Sequence[StoredCheckpoint]
) -> list[StoredCheckpoint]:
    """The witnessed heads next to each entry, below and above. witnessed: by size."""
    sizes = [head.size for head in witnessed]
    wanted: set[int] = set()
    for index in indices:
        place = bisect_right(sizes, index)  # heads before it do not hold the entry yet
        wanted |= {p for p in (place - 1, place) if 0 <= p < len(sizes)}
    return [witnessed[place] for place in sorted(wanted)]


def _consistency(
    sizes: Sequence[int], tx: HubTransaction
) -> Mapping[tuple[int, int], tuple[bytes, ...]]:
    return {(old, new): log.consistency(tx.log, old, new) for old, new in pairwise(sizes)}
