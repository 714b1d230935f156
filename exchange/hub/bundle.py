"""The deal bundle: everything the log says about one deal, for people who need not trust the hub.

It is as of the newest head with a quorum: what was said since is for the next one, or a party that
goes on speaking would never let its deal be read. A log's order is that in which acts had their
effect, so what lies under a head is the deal as it was then; nothing is taken from how it stands
now but where to look.

What belongs in it follows from identifiers: every statement about the deal's negotiations and
jobs that had an effect, and what shows who its actors are. Of what its parties said without effect
the first are in it, of what others said nothing: anybody may speak of a deal as often as it likes,
and must not make it one that nobody can read. Sealed results are no evidence and stay.
"""

from __future__ import annotations

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
from exchange.audit.jobs import ANSWERS, ENDING, SUBMITTED
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
from pricing.evidence import HELD, REFUNDED
from registry.errors import NotFound
from registry.evidence import LISTED, REGISTERED, UPDATED

_PROPOSING: Final = ("negotiation.requested", "negotiation.offered")
_AGREEING: Final = ("negotiation.agreed", "negotiation.verified")
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
    """The bundle of a deal. Raises UnknownSubject, and BundleNotReady while nothing of the deal is
    under a head with a quorum."""
    head = tx.log.latest_witnessed()  # first, so that all it holds is there to be found
    talks = tx.negotiations_of_deal(deal)
    if not talks:
        raise UnknownSubject(f"deal {deal}")
    jobs = tx.jobs_of_deal(deal)
    subjects = [*(negotiation.id for negotiation in talks), *(job.id for job in jobs)]
    found = _as_of(head, tx.effective(subjects, never=_NEVER, once=_ONCE), tx)
    _add_documents(list(found.statements), found, tx)
    begun = {said.statement.subject for said in found.statements.values()}
    parties = {*found.parties, *(said.statement.actor for said in found.statements.values())}
    parties |= {party for n in talks if n.id in begun for party in (n.consumer, n.holder)}
    others = tx.idle(sorted(begun), never=_NEVER, once=_ONCE)
    said = [about for about in others if about[0] in parties]
    idle = _add(_first_words(said, jobs, found, tx), found, tx)
    _add_documents(_applied(idle, tx), found, tx)
    statements = tuple(found.statements)
    _add_exports(deal, found, tx)
    products = _add_listings(found, tx)
    _add(tx.taken_in([*products, *sorted(parties)], kinds=_UNASKED), found, tx)
    # Last, so that nobody's words are in it without the keys that show whose they are.
    parties |= {said.statement.actor for said in found.statements.values()}
    announced = _add(tx.taken_in(sorted(parties), kinds=(REGISTERED, UPDATED)), found, tx)
    for name in (*announced, *found.listings):
        for output in found.statements[name].statement.outputs:
            found.documents[output] = _document(output, tx)
    left_out = sum(others.values()) - len(idle)
    return Exported(bundles.write(_bundle(deal, found, left_out, tx)), statements)


class _Collected:
    """What has been found so far, all of it under this head.

    statements: by digest. documents: by digest. parties: whom documents name. products: digests
    of the versions that documents name. listings: statements that listed them.
    """

    def __init__(self, head: StoredCheckpoint) -> None:
        self.head = head
        self.statements: dict[Digest, SignedStatement] = {}
        self.index: dict[Digest, int] = {}
        self.documents: dict[Digest, bytes] = {}
        self.parties: set[PartyId] = set()
        self.products: set[Digest] = set()
        self.listings: list[Digest] = []


def _as_of(
    head: StoredCheckpoint | None, effective: Sequence[Digest], tx: HubTransaction
) -> _Collected:
    """What had an effect, under this head, or the newest before it that parts no act from what the
    hub said of it in the same transaction: where many entries wait to be ordered one may lie
    between the two, and an audit would miss the second."""
    while head is not None:
        found = _Collected(head)
        _add(effective, found, tx)
        said = [(name, one.statement) for name, one in found.statements.items()]
        answered = {n for _, one in said if one.type in (*ANSWERS, REFUNDED) for n in one.after}
        acts = [name for name, one in said if one.type in (SUBMITTED, *ENDING)]
        parted = [found.index[name] for name in acts if name not in answered]
        if not said:
            break
        if not parted:
            return found
        head = tx.log.witnessed_to(min(parted))
    raise BundleNotReady("nothing of the deal is under a witnessed head yet; ask again in a moment")


def _add(names: Sequence[Digest], found: _Collected, tx: HubTransaction) -> list[Digest]:
    """Those of them that lie under the head."""
    added = []
    for name, index in zip(names, tx.log.indices_of(names), strict=True):
        if index is not None and index < found.head.size:
            (logged,) = tx.log.entries(index, index + 1)
            found.statements[name] = read_statement(logged.entry)
            found.index[name] = index
            added.append(name)
    return added


def _applied(names: Iterable[Digest], tx: HubTransaction) -> list[Digest]:
    return [name for name in names if (said := tx.outcome(name)) is not None and said.applied]


def _first_words(
    said: Collection[tuple[PartyId, str]],
    jobs: Sequence[HubJob],
    found: _Collected,
    tx: HubTransaction,
) -> list[Digest]:
    """Of what parties said without effect, under the head: the first MAX_IDLE of each about each
    job since its price was held, as whoever follows the public log may count them, and of each
    about all else together, for negotiations and jobs that come to nothing cost nothing.

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
    chosen = []
    for _, one in sorted(first.items()):
        index = tx.log.index_of(one.statement)
        if index is None or index >= found.head.size:
            continue
        since_held = (place := places.get(one.subject)) is not None and index > place
        about = (one.actor, one.subject if since_held else "")
        count, length = counted.get(about, (0, 0))
        if count < MAX_IDLE and length < MAX_IDLE_BYTES:
            (logged,) = tx.log.entries(index, index + 1)
            count, length = count + 1, length + len(logged.entry)
            counted[about] = count, length
            if length <= MAX_IDLE_BYTES:
                chosen.append(one.statement)
    return chosen


def _add_documents(names: Iterable[Digest], found: _Collected, tx: HubTransaction) -> None:
    """What statements brought that were taken in: anybody may name the digest of somebody else's
    document in one that comes to nothing, and must not be given it so. And whom and what a plan
    names is of the deal only if its price was held: a rejected one may name anybody."""
    said = [one.statement for one in found.statements.values()]
    held = {name for one in said if one.type == HELD for name in one.after}
    for name in names:
        statement = found.statements[name].statement
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
        elif statement.type == SUBMITTED:
            for output in statement.outputs:
                data = found.documents[output] = tx.document(output)
                if name in held:
                    plan = plans.read_plan(Envelope.from_bytes(data))
                    found.parties |= {plan.operator, *plan.engine_parties}
                    found.products |= {side.product for side in plan.sides}


def _note_terms(terms: Terms, found: _Collected) -> None:
    found.products.add(terms.product)
    if terms.regulator is not None:
        found.parties.add(terms.regulator)
    if terms.helper is not None:
        found.parties.add(terms.helper)


def _add_listings(found: _Collected, tx: HubTransaction) -> Sequence[ProductId]:
    """Of every version that documents name. Returns the products."""
    products = sorted({tx.products.by_digest(name).id for name in found.products})
    names = _add(tx.taken_in(products, kinds=(LISTED,)), found, tx)
    found.products |= _changing_totals(names, found, tx)
    for name in names:
        if found.products.isdisjoint(found.statements[name].statement.outputs):
            del found.statements[name], found.index[name]  # another version of the product
        else:
            found.listings.append(name)
    return products


def _add_exports(deal: DealId, found: _Collected, tx: HubTransaction) -> None:
    """Who was given this deal's evidence before, and whom the operator named who may be."""
    exports = _add(tx.taken_in([deal], kinds=(BUNDLE_EXPORTED,)), found, tx)
    operators = {found.statements[name].statement.actor for name in exports}
    _add(tx.taken_in(sorted(operators), kinds=(REGULATORS_NAMED,)), found, tx)


def _changing_totals(names: Sequence[Digest], found: _Collected, tx: HubTransaction) -> set[Digest]:
    """The versions that changed what a product's privacy account may spend: what its holder
    admitted can be judged by no other."""
    changing: set[Digest] = set()
    totals: dict[str, tuple[Fraction, Fraction] | None] = {}
    for name in names:
        (output,) = found.statements[name].statement.outputs
        product = tx.products.by_digest(output)
        rule = product.rule.privacy
        total = None if rule is None else (rule.epsilon_total, rule.delta_total)
        if product.id in totals and totals[product.id] != total:
            changing.add(output)
        totals[product.id] = total
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


def _bundle(deal: DealId, found: _Collected, left_out: int, tx: HubTransaction) -> Bundle:
    indices = sorted(found.index.values())
    head = found.head
    note = head.note.to_bytes()
    entries = {found.index[name]: said.entry for name, said in found.statements.items()}
    bounds = _bounds(indices, head, tx)
    # An approval is sealed to the regulators of other deals too, and who they are is theirs alone.
    openings = {
        (name, reader): sealed
        for name in found.statements
        for reader, sealed in tx.openings(name)
        if reader in found.parties
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
    indices: Sequence[int], head: StoredCheckpoint, tx: HubTransaction
) -> list[StoredCheckpoint]:
    """The witnessed heads next to each entry, below and above, but for the bundle's own, and the
    one before that, of which alone it shows that the hub went on since it was seen. Only these are
    read: a log that has grown for a year has as many as seconds."""
    last = tx.log.witnessed_to(head.size - 1)
    found = {} if last is None else {last.size: last}
    above: StoredCheckpoint | None = None
    for index in indices:
        if above is not None and index < above.size:
            continue  # between the same two as the one before
        below, above = tx.log.witnessed_to(index), tx.log.witnessed_above(index)
        found |= {one.size: one for one in (below, above) if one and one.size < head.size}
    return [found[size] for size in sorted(found)]


def _consistency(
    sizes: Sequence[int], tx: HubTransaction
) -> Mapping[tuple[int, int], tuple[bytes, ...]]:
    return {(old, new): log.consistency(tx.log, old, new) for old, new in pairwise(sizes)}
