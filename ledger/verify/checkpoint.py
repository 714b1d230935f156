"""Checkpoints: a log's signed statement of how large its tree is and what its root is.

Source: C2SP tlog-checkpoint. Extension lines are refused: nobody could audit them, and some
cosignatures do not cover them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from crypto.keys import Signer
from ledger.errors import FormatRefused, OtherLog
from ledger.verify import note as notes
from ledger.verify.merkle import HASH_BYTES, MAX_SIZE
from ledger.verify.note import Note, VerifierKey
from ledger.verify.text import decode_decimal, decode_hash, encode_base64

MAX_ORIGIN_BYTES: Final = 255  # C2SP tlog-cosignature


@dataclass(frozen=True)
class Checkpoint:
    """origin: names the log. root: 32 bytes, over the first `size` entries."""

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        if not 1 <= len(self.origin.encode("utf-8")) <= MAX_ORIGIN_BYTES:
            raise FormatRefused("origin", f"must have 1 to {MAX_ORIGIN_BYTES} bytes")
        if any(ord(character) < 0x20 for character in self.origin):
            raise FormatRefused("origin", "holds a control character")
        if not 0 <= self.size <= MAX_SIZE:
            raise FormatRefused("size", "is not in the range of a log's size")
        if len(self.root) != HASH_BYTES:
            raise FormatRefused("root", f"has {len(self.root)} bytes, not {HASH_BYTES}")

    @property
    def text(self) -> str:
        """The three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{encode_base64(self.root)}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        lines = text.split("\n")
        if len(lines) != 4 or lines[3]:
            raise FormatRefused("checkpoint", "is not the three lines origin, size and root")
        return cls(
            lines[0],
            decode_decimal(lines[1], where="size"),
            decode_hash(lines[2], where="root"),
        )


def sign_checkpoint(checkpoint: Checkpoint, *signers: Signer) -> Note:
    """The log signs under its origin, with each of its keys: two while one follows the other, one
    more of another suite. The caller has compared it with what was signed last."""
    return notes.sign(checkpoint.text, checkpoint.origin, *signers)


def open_checkpoint(note: Note, log_keys: Iterable[VerifierKey]) -> Checkpoint:
    """The checkpoint in a note, once a key of the log it names is known to have signed it.

    log_keys: of all trusted logs; a log's key name is its origin, and keys of other logs do
    not count. Raises OtherLog, NotSigned, SignatureRefused, FormatRefused.
    """
    checkpoint = Checkpoint.parse(note.text)
    keys = [key for key in log_keys if key.name == checkpoint.origin]
    if not keys:
        raise OtherLog(checkpoint.origin)
    notes.verify(note, keys)
    return checkpoint
