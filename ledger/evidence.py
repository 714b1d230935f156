"""The operator's own acts with the log, as statements in it: its keys, policies, where it is
anchored, paired heads, and which log it follows.

All are public, and must be there when everything else of the operator is gone: the entry holds
the text itself, not only its digest.
"""

from __future__ import annotations

from typing import Final

from crypto.digest import Digest, digest
from crypto.statement import Act
from ledger.errors import EntryRefused
from ledger.ports import Place
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.history import (
    ADOPTED,
    ANCHORED,
    ANCHORING_ENDED,
    SM3_SUFFIX,
    SignedLogKeys,
    require_authority,
)
from ledger.verify.note import Note
from ledger.verify.policy import Policy
from ledger.verify.sm3 import PAIRED
from ledger.verify.succession import SUCCEEDED, Predecessor
from ledger.verify.text import encode_base64

MAX_POLICY_TEXT_BYTES: Final = 40_000  # in an entry of 65,535 bytes, as base64 in an envelope


def log_keys_declared(new: SignedLogKeys, old: SignedLogKeys | None) -> Act:
    """The keys in force from here on. inputs: the document before; outputs: this one.

    Raises KeysRefused unless `new` may follow `old`.
    """
    return Act(
        type=require_authority(new, old),
        subject=new.document.origin,
        inputs=() if old is None else (old.digest,),
        outputs=(new.digest,),
        body={"document": new.envelope.to_bytes().decode("utf-8")},
    )


def log_succeeded(origin: str, predecessor: Predecessor) -> Act:
    """This log follows another that cannot be continued.

    Everybody can read from it where to look for what came before, who of the old log agreed, and
    that nothing of it is said to be undone. The caller has checked the head and the authority.
    Raises EntryRefused for a log that would follow itself.
    """
    if predecessor.head.origin == origin:
        raise EntryRefused(
            f"{origin} cannot follow itself: two logs of one name would be a fork. Give the "
            "successor another origin"
        )
    return Act(
        type=SUCCEEDED,
        subject=origin,
        inputs=(digest(predecessor.last.to_bytes()),),
        body=predecessor.body,
    )


def heads_paired(sha256: Checkpoint, sm3_note: Note) -> Act:
    """The roots of both trees of the log at one size. Raises EntryRefused for heads of others."""
    head = Checkpoint.parse(sm3_note.text)
    if (head.origin, head.size) != (sha256.origin + SM3_SUFFIX, sha256.size):
        raise EntryRefused(f"{head.origin} at {head.size} is no pair of size {sha256.size}")
    return Act(
        type=PAIRED,
        subject=sha256.origin,
        body={
            "size": str(sha256.size),
            "sha256_root": encode_base64(sha256.root),
            "sm3_note": sm3_note.to_bytes().decode("utf-8"),
        },
    )


def policy_adopted(origin: str, policy: bytes, previous: Digest | None) -> Act:
    """The policy file in force from here on. previous: digest of the one that it replaces.

    Raises FormatRefused if it is not a policy, EntryRefused if no entry can hold it.
    """
    Policy.parse(policy)
    try:
        text = policy.decode("utf-8")
    except UnicodeDecodeError:
        raise EntryRefused("the policy is not UTF-8, and cannot be archived in the log") from None
    if len(policy) > MAX_POLICY_TEXT_BYTES:
        raise EntryRefused(
            f"the policy has {len(policy)} bytes; the log archives at most {MAX_POLICY_TEXT_BYTES}"
        )
    return Act(
        type=ADOPTED,
        subject=origin,
        inputs=() if previous is None else (previous,),
        outputs=(digest(policy),),
        body={"policy": text},
    )


def anchor_adopted(origin: str, place: Place) -> Act:
    """The contract that holds the log's heads from here on, instead of the one named before."""
    body = {"chain_id": str(place.chain_id), "contract": place.contract}
    return Act(type=ANCHORED, subject=origin, body=body)


def anchoring_ended(origin: str) -> Act:
    """No contract gets heads of this log any more, until one is named again."""
    return Act(type=ANCHORING_ENDED, subject=origin)
