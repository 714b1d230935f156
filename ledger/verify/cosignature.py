"""Cosignatures: a witness says when it saw a checkpoint extend all that it saw before.

Source: C2SP tlog-cosignature. Ed25519 (`cosignature/v1`) is what every tool reads; the cosigner's
name is not in what is signed, so a witness must not use one such key under two names. ML-DSA-44
(`subtree/v1`) stays good when quantum computers come, and names the cosigner.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from crypto.keys import Signer
from ledger.errors import FormatRefused
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.note import (
    COSIGNATURE_TYPES,
    MAX_COSIGNER_BYTES,
    ML_DSA_COSIGNATURE,
    Note,
    Signature,
    VerifierKey,
    check_signature,
    cosigner_key,
    signatures_by,
)

SUBTREE_LABEL: Final = b"subtree/v1\n\x00"
_TIME_BYTES: Final = 8
_SIGNATURE_BYTES: Final = {"ed25519": 64, "ml-dsa-44": 2420}
MAX_TIME: Final = 253_370_764_799  # end of the year 9998: a tolerance later is still a datetime


def cosign(text: str, name: str, signer: Signer, *, now: datetime) -> Signature:
    """Cosign a checkpoint's text. The caller has verified its consistency and stored it.

    signer: of either suite, which decides the kind of line.
    """
    key = cosigner_key(name, signer)
    time = int(now.timestamp())
    value = struct.pack(">Q", time) + signer.sign(_message(key, text, time))
    return Signature(name, key.key_id, value)


def cosigned_message(text: str, time: int) -> bytes:
    """What Ed25519 signs. time: POSIX seconds."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def cosigned_subtree(name: str, time: int, checkpoint: Checkpoint) -> bytes:
    """What ML-DSA-44 signs, RFC 8446 section 3: texts after one byte of length, numbers as u64.

    The subtree is the whole tree, from 0 to the size. name: the cosigner's. Raises FormatRefused.
    """
    cosigner, origin = name.encode("utf-8"), checkpoint.origin.encode("utf-8")
    if not 1 <= len(cosigner) <= MAX_COSIGNER_BYTES:
        raise FormatRefused("cosigner name", f"must have 1 to {MAX_COSIGNER_BYTES} bytes")
    return b"".join(
        (
            SUBTREE_LABEL,
            bytes([len(cosigner)]) + cosigner,
            struct.pack(">Q", time),
            bytes([len(origin)]) + origin,
            struct.pack(">QQ", 0, checkpoint.size),
            checkpoint.root,
        )
    )


def verify_cosignatures(note: Note, keys: Iterable[VerifierKey]) -> dict[VerifierKey, datetime]:
    """When each of the witnesses in `keys` cosigned the note; those that did not are absent.

    Raises SignatureRefused if a line names one of them and does not verify.
    """
    wanted = [key for key in keys if key.key_type in COSIGNATURE_TYPES]
    found = signatures_by(note, wanted)
    return {key: _verify(key, signature, note.text) for key, signature in found.items()}


def _verify(key: VerifierKey, signature: Signature, text: str) -> datetime:
    if len(signature.value) != _TIME_BYTES + _SIGNATURE_BYTES[key.key.suite]:
        raise FormatRefused("signature line", f"of {key.name} is not a cosignature")
    (time,) = struct.unpack(">Q", signature.value[:_TIME_BYTES])
    if time == 0:  # may be left out of a subtree's signature, never of a witness's
        raise FormatRefused("signature line", f"of {key.name} states no time")
    if time > MAX_TIME:
        raise FormatRefused("signature line", f"of {key.name} has a time after the year 9998")
    check_signature(key, signature.value[_TIME_BYTES:], _message(key, text, time))
    return datetime.fromtimestamp(time, UTC)


def _message(key: VerifierKey, text: str, time: int) -> bytes:
    if key.key_type == ML_DSA_COSIGNATURE:
        return cosigned_subtree(key.name, time, Checkpoint.parse(text))
    return cosigned_message(text, time)
