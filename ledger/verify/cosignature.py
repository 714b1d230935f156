"""Cosignatures: a witness says when it saw a checkpoint extend all that it saw before.

Source: C2SP tlog-cosignature, Ed25519, `cosignature/v1`. The cosigner's name is not in what is
signed, so a witness must not use one key under two names.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from crypto.keys import Signer
from ledger.errors import FormatRefused
from ledger.verify.note import (
    COSIGNATURE,
    Note,
    Signature,
    VerifierKey,
    check_signature,
    signatures_by,
)

_TIME_BYTES: Final = 8
_VALUE_BYTES: Final = _TIME_BYTES + 64
MAX_TIME: Final = 253_402_300_799  # end of the year 9999: the last that a datetime holds


def cosign(text: str, name: str, signer: Signer, *, now: datetime) -> Signature:
    """Cosign a checkpoint's text. The caller has verified its consistency and stored it."""
    key = VerifierKey(name, COSIGNATURE, signer.public)
    time = int(now.timestamp())
    value = struct.pack(">Q", time) + signer.sign(cosigned_message(text, time))
    return Signature(name, key.key_id, value)


def cosigned_message(text: str, time: int) -> bytes:
    """What is signed. time: POSIX seconds."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def verify_cosignatures(note: Note, keys: Iterable[VerifierKey]) -> dict[VerifierKey, datetime]:
    """When each of the witnesses in `keys` cosigned the note; those that did not are absent.

    Raises SignatureRefused if a line names one of them and does not verify.
    """
    wanted = [key for key in keys if key.key_type == COSIGNATURE]
    found = signatures_by(note, wanted)
    return {key: _verify(key, signature, note.text) for key, signature in found.items()}


def _verify(key: VerifierKey, signature: Signature, text: str) -> datetime:
    if len(signature.value) != _VALUE_BYTES:
        raise FormatRefused("signature line", f"of {key.name} is not a cosignature")
    (time,) = struct.unpack(">Q", signature.value[:_TIME_BYTES])
    if time > MAX_TIME:
        raise FormatRefused("signature line", f"of {key.name} has a time after the year 9999")
    check_signature(key, signature.value[_TIME_BYTES:], cosigned_message(text, time))
    return datetime.fromtimestamp(time, UTC)
