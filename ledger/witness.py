"""A witness: it cosigns a log's checkpoint only if that extends every one it cosigned before.

Source: C2SP tlog-witness. With a quorum of witnesses, a log cannot show one history to one party
and another to the next: no witness would sign both. What the witness remembers is therefore its
whole worth: it is stored before the answer leaves, and compared and replaced in one step, since
of two requests that are checked at once the later to be stored could roll the log back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from crypto.keys import Signer
from ledger.errors import (
    ConsistencyRefused,
    FormatRefused,
    MemoryDamaged,
    NotSigned,
    OtherLog,
    SignatureRefused,
    SignatureUnchecked,
)
from ledger.ports import WitnessHead, WitnessStore
from ledger.verify.checkpoint import Checkpoint, open_checkpoint
from ledger.verify.cosignature import cosign, verify_cosignatures
from ledger.verify.merkle import EMPTY_ROOT, MAX_PROOF_HASHES, verify_consistency
from ledger.verify.note import Note, VerifierKey, cosigner_key, signatures_by
from ledger.verify.text import decode_decimal, decode_hash, decode_utf8, encode_base64

MAX_REQUEST_BYTES: Final = 1 << 18
TEXT: Final = "text/plain; charset=utf-8"
SIZE: Final = "text/x.tlog.size"


@dataclass(frozen=True)
class AddCheckpoint:
    """The request: the size the log believes the witness has, the proof from there, the note."""

    old_size: int
    proof: tuple[bytes, ...]
    note: bytes

    def to_bytes(self) -> bytes:
        lines = [f"old {self.old_size}", *(encode_base64(value) for value in self.proof), "", ""]
        return "\n".join(lines).encode("ascii") + self.note

    @classmethod
    def parse(cls, body: bytes) -> AddCheckpoint:
        """Raises FormatRefused. The note is not read here."""
        if len(body) > MAX_REQUEST_BYTES:
            raise FormatRefused("request", f"is larger than {MAX_REQUEST_BYTES} bytes")
        head, separator, note = body.partition(b"\n\n")
        if not separator:
            raise FormatRefused("request", "has no empty line before its checkpoint")
        first, *proof = decode_utf8(head, where="request").split("\n")
        if not first.startswith("old "):
            raise FormatRefused("request", "does not begin with an old size line")
        if len(proof) > MAX_PROOF_HASHES:
            raise FormatRefused("proof", f"has more than {MAX_PROOF_HASHES} hashes")
        old_size = decode_decimal(first[len("old ") :], where="old size")
        return cls(old_size, tuple(decode_hash(line, where="proof") for line in proof), note)


@dataclass(frozen=True)
class Response:
    """An HTTP answer."""

    status: int
    content_type: str
    body: bytes


def add_checkpoint(
    body: bytes,
    *,
    store: WitnessStore,
    name: str,
    signers: Sequence[Signer],
    trusted_logs: Sequence[VerifierKey],
    now: datetime,
) -> Response:
    """Answer one request. The caller commits the store's transaction before it sends a 200.

    signers:      the witness's keys, each of which cosigns, a line for each
    trusted_logs: keys of every log this witness serves; several keys may have one origin
    Raises MemoryDamaged if what it remembers is not what it cosigned.
    """
    try:
        request = AddCheckpoint.parse(body)
        note = Note.parse(request.note)
        checkpoint = open_checkpoint(note, trusted_logs)
    except FormatRefused as error:
        return _refusal(400, str(error))
    except OtherLog as error:
        return _refusal(404, str(error))
    except (NotSigned, SignatureRefused, SignatureUnchecked) as error:
        return _refusal(403, str(error))
    if request.old_size > checkpoint.size:
        return _refusal(400, "the old size is larger than the checkpoint's")
    old = store.head(checkpoint.origin)
    if old is None:
        store.heads()  # a head that was filed under a wrong name would be forgotten otherwise
    else:
        require_ours(old, [cosigner_key(name, signer) for signer in signers])
    if request.old_size != _size(old):
        return _conflict(old)
    try:
        _require_consistency(old, checkpoint, request.proof)
    except ConsistencyRefused as error:
        return _refusal(422, str(error))
    lines = [cosign(note.text, name, signer, now=now) for signer in signers]
    ours = [key for key in trusted_logs if key.name == checkpoint.origin]
    # Whatever else the request carried was verified by nobody here, and is not kept.
    kept = Note(note.text, (*signatures_by(note, ours).values(), *lines))
    if not store.advance(old, WitnessHead(checkpoint, kept.to_bytes(), now)):
        return _conflict(store.head(checkpoint.origin))
    return Response(200, TEXT, "".join(line.line for line in lines).encode("utf-8"))


def require_ours(head: WitnessHead, keys: Sequence[VerifierKey]) -> None:
    """Raises MemoryDamaged unless the stored head carries this witness's own cosignature.

    Without it, one flipped bit would have an honest log refused as a fork.
    """
    origin = head.checkpoint.origin
    try:
        found = verify_cosignatures(Note.parse(head.note), keys)
    except (FormatRefused, SignatureRefused, SignatureUnchecked) as error:
        raise MemoryDamaged(origin, str(error)) from error
    if not found:
        raise MemoryDamaged(origin, "it does not carry this witness's cosignature")


def _require_consistency(old: WitnessHead | None, new: Checkpoint, proof: Sequence[bytes]) -> None:
    """Raises ConsistencyRefused; another root of the same size is one case of it."""
    if new.size == 0 and new.root != EMPTY_ROOT:
        raise ConsistencyRefused("an empty tree has the root SHA-256 of nothing")
    if old is not None and old.checkpoint.size > 0:
        verify_consistency(old.checkpoint.size, old.checkpoint.root, new.size, new.root, proof)
    elif proof:
        raise ConsistencyRefused("from size 0 there is nothing to prove, and a proof was given")


def _size(head: WitnessHead | None) -> int:
    return 0 if head is None else head.checkpoint.size


def _conflict(head: WitnessHead | None) -> Response:
    return Response(409, SIZE, f"{_size(head)}\n".encode("ascii"))


def _refusal(status: int, why: str) -> Response:
    return Response(status, TEXT, f"{why}\n".encode())
