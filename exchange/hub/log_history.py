"""At start: what the operator's folder says of the log's keys, policy and anchor, and whom its
settings name as regulators, is said in the log too."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from crypto.digest import Digest, digest
from crypto.identifiers import PartyId
from crypto.statement import Statement
from exchange.evidence import REGULATORS_NAMED, read_regulators, regulators_named
from exchange.hub import chains
from exchange.hub.model import Operator
from exchange.hub.ports import HubTransaction
from ledger import evidence
from ledger.errors import KeysRefused
from ledger.ports import Place
from ledger.verify.history import (
    ADOPTED,
    ANCHOR_CHANGES,
    KEY_CHANGES,
    KINDS,
    SignedLogKeys,
)
from ledger.verify.succession import SUCCEEDED, Predecessor


def declare(
    keys: Sequence[SignedLogKeys], policy: bytes, tx: HubTransaction, operator: Operator
) -> None:
    """Log the keys documents and the policy that the log does not hold yet. Safe to repeat.

    keys: all documents of the log, in order; the last one's keys sign. A change of the folder
    takes effect with the restart that logs it: every head after that is signed with its keys.
    Raises KeysRefused if they do not continue those that the log holds.
    """
    tx.lock_chain(operator.party)  # of two hubs that start at once the second finds all said
    origin = keys[-1].document.origin
    said = statements(origin, tx)
    _declare_keys(keys, [s for s in said if s.type in KEY_CHANGES], tx, operator)
    adopted = [s.outputs[0] for s in said if s.type == ADOPTED]
    name = digest(policy)
    if not adopted or adopted[-1] != name:
        act = evidence.policy_adopted(origin, policy, adopted[-1] if adopted else None)
        chains.act(act, tx=tx, operator=operator, documents={name: policy})


def follow(origin: str, predecessor: Predecessor, tx: HubTransaction, operator: Operator) -> None:
    """Say, first of all, that the log takes the place of another. Safe to repeat.

    Raises EntryRefused.
    """
    tx.lock_chain(operator.party)
    if not tx.taken_in([origin], kinds=[SUCCEEDED]):
        chains.act(evidence.log_succeeded(origin, predecessor), tx=tx, operator=operator)


def anchored(origin: str, place: Place | None, tx: HubTransaction, operator: Operator) -> None:
    """Say in which contract the log is anchored from here on, or that it is in none any more.

    Safe to repeat: said when it changes, and never of a log that was not anchored yet.
    """
    tx.lock_chain(operator.party)
    said = [s for s in statements(origin, tx) if s.type in ANCHOR_CHANGES]
    if place is None and not said:
        return
    act = (
        evidence.anchoring_ended(origin)
        if place is None
        else evidence.anchor_adopted(origin, place)
    )
    if said and (said[-1].type, said[-1].body) == (act.type, act.body or {}):
        return
    chains.act(act, tx=tx, operator=operator)


def supervised(regulators: Collection[PartyId], tx: HubTransaction, operator: Operator) -> None:
    """Say whom the settings let read every job and deal from here on. Safe to repeat: said when it
    changes, and never where there was nobody yet."""
    tx.lock_chain(operator.party)
    said = chains.said(operator.party, [REGULATORS_NAMED], tx)
    if regulators != (read_regulators(said[-1]) if said else frozenset()):
        chains.act(regulators_named(operator.party, regulators), tx=tx, operator=operator)


def statements(origin: str, tx: HubTransaction) -> list[Statement]:
    """The operator's statements about the log itself, in order."""
    return chains.said(origin, KINDS, tx)


def document(name: Digest, tx: HubTransaction) -> bytes | None:
    """A policy file or keys document of this log, by digest.

    Only those: documents of deals are in the same store, under digests that are no secret.
    """
    latest = tx.log.latest()
    if latest is None:
        return None
    said = statements(latest.checkpoint.origin, tx)
    return tx.document(name) if any(name in s.outputs for s in said) else None


def _declare_keys(
    keys: Sequence[SignedLogKeys],
    said: Sequence[Statement],
    tx: HubTransaction,
    operator: Operator,
) -> None:
    logged = [s.outputs[0] for s in said]
    if [signed.digest for signed in keys[: len(logged)]] != logged:
        raise KeysRefused("the log declares other keys than the folder holds; restore the folder")
    before = keys[len(logged) - 1] if logged else None
    for signed in keys[len(logged) :]:
        act = evidence.log_keys_declared(signed, before)
        documents = {signed.digest: signed.envelope.to_bytes()}
        chains.act(act, tx=tx, operator=operator, documents=documents)
        before = signed
