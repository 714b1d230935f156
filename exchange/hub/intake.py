"""Taking in signed acts: who said it, does it follow, what does it change, who must hear of it.

One submission is one transaction. A crash before the commit leaves nothing, and the sender, who
keeps the act in its outbox, sends it again; a crash after it leaves everything, and the sender's
repetition finds the stored outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Final

from crypto.errors import BadSignature, CryptoError, Malformed, UnknownKey
from crypto.identifiers import JobId, NegotiationId, PartyId
from crypto.keys import PublicKey
from crypto.statement import ChainHead, SignedStatement, Statement, verify_statement
from exchange.errors import ChainBroken, ExchangeError, NotYours
from exchange.evidence import reason_in
from exchange.hub import chains, coordination, negotiations, registration
from exchange.hub.model import Operator, Outcome
from exchange.hub.ports import HubStore, HubTransaction
from exchange.submission import Submission
from pricing.errors import PricingError
from registry.errors import NotFound, RegistryError
from registry.party import SignedParty, read_party

# A statement's time must be near its arrival, or the ledger could not show when it was made. One
# from the future waits at its sender until its time has come. One from the past, back-dated or
# kept by a node that could not reach the hub, is logged without effect: refusing it would break
# its actor's chain for good, for it never becomes younger and every later statement names it.
CLOCK_TOLERANCE: Final = timedelta(minutes=10)
# Vouched for by the identity key, ordered by their own numbers, and needed to read what follows.
KEY_CHANGES: Final = ("party.registered", "party.updated")
# What a node admits unasked it says for what comes after it in the log: being late gains nothing,
# and of no effect it would make every later admission that rests on it look groundless.
UNASKED: Final = ("standing.approved", "standing.withdrawn", "helping.begun", "helping.ended")

Handler = Callable[[Submission, HubTransaction, Operator], None]

HANDLERS: Final[Mapping[str, Handler]] = {
    "party.registered": registration.party,
    "party.updated": registration.party,
    "product.listed": registration.product,
    **{f"negotiation.{event.value}": negotiations.step for event in negotiations.Event},
    "job.submitted": coordination.submit,
    "job.admitted": coordination.admit,
    "job.refused": coordination.refuse,
    "job.started": coordination.start,
    "job.sealed": coordination.seal,
    "job.failed": coordination.fail,
    "job.cancelled": coordination.cancel,
    "job.opened": coordination.opened,
    "alarm.raised": registration.alarm,
    "standing.approved": registration.standing,
    "standing.withdrawn": registration.standing,
    "helping.begun": registration.helping,
    "helping.ended": registration.helping,
}


def receive(
    submission: Submission, *, caller: PartyId, store: HubStore, operator: Operator
) -> Outcome:
    """Apply one act. Safe to repeat.

    Raises when the statement itself cannot be accepted: NotYours, UnknownKey, BadSignature,
    DocumentRefused, ChainBroken, Malformed. An act that is well said but has no effect any more (a
    job already cancelled) is logged and answered with the reason.
    """
    signed = submission.signed
    if signed.statement.actor != caller:
        raise NotYours(f"{caller} sent a statement of {signed.statement.actor}")
    handler = HANDLERS.get(signed.statement.type)
    if handler is None:
        raise Malformed("type", f"{signed.statement.type} is not an act that a participant reports")
    with store.transaction() as tx:
        head = tx.lock_chain(caller)
        if (known := tx.outcome(signed.digest)) is not None:
            return known
        verify_statement(signed, signing_key(submission, tx))
        _require_follows(signed, head)
        if signed.statement.type == "job.admitted":
            # The log would show an admission that counts; its words are not looked at there.
            coordination.require_reachable(signed.statement)
        age = operator.clock.now() - signed.statement.time
        if age < -CLOCK_TOLERANCE:
            raise Malformed("time", f"is {-age} after the hub's clock; set this machine's clock")
        _lock_subject(signed.statement, tx)
        chains.append(signed, tx)  # first, so that what the hub does about it comes after it
        applied = Outcome(signed.digest, True, "")
        tx.save_outcome(applied, of=signed.statement)
        outcome = _apply(handler, submission, age, tx, operator)
        if outcome != applied:
            tx.save_outcome(outcome, of=signed.statement)
        return outcome


def _lock_subject(statement: Statement, tx: HubTransaction) -> None:
    """Wait for whoever is changing the same job or negotiation before taking a place in the log:
    an audit replays the log, so its order must be that in which acts had their effect."""
    with suppress(CryptoError, ExchangeError):  # the handler says what is wrong with the subject
        if statement.type.startswith("job."):
            tx.lock_job(JobId.parse(statement.subject, where="subject"))
        elif statement.type.startswith("negotiation."):
            tx.lock_negotiation(NegotiationId.parse(statement.subject, where="subject"))


def _apply(
    handler: Handler,
    submission: Submission,
    age: timedelta,
    tx: HubTransaction,
    operator: Operator,
) -> Outcome:
    name = submission.signed.digest
    if age > CLOCK_TOLERANCE and submission.signed.statement.type not in (*KEY_CHANGES, *UNASKED):
        if submission.signed.statement.type == "job.sealed":
            with suppress(ExchangeError, CryptoError), tx.savepoint():
                coordination.keep_late_openings(submission, tx)
        words = f"time: the statement says it was made {age} ago, which is too late to take effect"
        return Outcome(name, False, words)
    try:
        with tx.savepoint():
            handler(submission, tx, operator)
            _keep_reason(submission, tx)
    except (ExchangeError, RegistryError, PricingError, CryptoError) as error:
        return Outcome(name, False, str(error))
    return Outcome(name, True, "")


def _keep_reason(submission: Submission, tx: HubTransaction) -> None:
    """Why somebody did it, for whoever may read the deal. What else is needed of its documents,
    each handler keeps, and the rest nobody: or a stranger could fill this disk, at 4 MB for each
    statement, with what is read by nobody."""
    for name, data in submission.documents.items():
        if reason_in(submission.signed.statement, {name: data}) is not None:
            tx.add_document(name, data)
            break


def _require_follows(signed: SignedStatement, head: ChainHead) -> None:
    statement = signed.statement
    if statement.actor_seq != head.next_seq:
        problem = (
            "comes again with other bytes"
            if statement.actor_seq < head.next_seq
            else ("comes before the ones it follows")
        )
        raise ChainBroken(statement.actor, head.next_seq, statement.actor_seq, problem)
    if statement.actor_prev != head.last:
        raise ChainBroken(
            statement.actor, head.next_seq, statement.actor_seq, "names another predecessor"
        )


def signing_key(submission: Submission, tx: HubTransaction) -> PublicKey:
    """The key that must have signed a statement: the actor's current one, or, for a party
    document, the one that the document brings.

    A new document is vouched for by the identity key alone, so that a lost or stolen signing key
    can be replaced without using it. It must be the next one: else whoever stole a key that was
    replaced could bring its old document again, and speak in the actor's chain. And none is logged
    that does not count, or the log would name a document of the actor that is nobody's key.
    Raises UnknownKey, BadSignature, Malformed, DocumentRefused.
    """
    statement = submission.signed.statement
    known = _current(statement.actor, tx)
    if statement.type not in KEY_CHANGES:
        if known is None:
            raise UnknownKey(f"of {statement.actor}, which is not registered")
        return known.document.signing
    if len(statement.outputs) != 1:
        raise Malformed("outputs", "must name exactly the party document")
    brought = read_party(submission.document(statement.outputs[0]))
    if brought.document.party != statement.actor:
        raise BadSignature("the party document is another party's")
    registration.require_next(statement, brought, known)
    return brought.document.signing


def _current(party: PartyId, tx: HubTransaction) -> SignedParty | None:
    try:
        return tx.parties.current(party)
    except NotFound:
        return None
