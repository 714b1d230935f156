"""Receipts: a self-contained proof that an entry is in a log, checked with a policy alone.

Source: C2SP tlog-proof. The text holds everything but the entry and the trusted keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from ledger.errors import FormatRefused
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.merkle import (
    HASH_BYTES,
    MAX_PROOF_HASHES,
    MAX_SIZE,
    leaf_hash,
    verify_inclusion,
)
from ledger.verify.note import Note
from ledger.verify.policy import CheckedCheckpoint, Policy
from ledger.verify.text import (
    decode_base64,
    decode_decimal,
    decode_hash,
    decode_utf8,
    encode_base64,
)

HEADER: Final = "c2sp.org/tlog-proof@v1"
MAX_PROOF_BYTES: Final = 1 << 21
# The proofs of a batch have most of their hashes in common.
_line: Final = lru_cache(maxsize=4096)(encode_base64)


@dataclass(frozen=True)
class Proof:
    """index: of the entry, from 0. hashes: from the leaf's sibling up. checkpoint: a note.

    extra: whatever its writer added; nothing authenticates it, so nothing may rely on it.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.index <= MAX_SIZE:
            raise FormatRefused("index", "is not in the range of a log's size")
        if len(self.hashes) > MAX_PROOF_HASHES:
            raise FormatRefused("proof", f"has more than {MAX_PROOF_HASHES} hashes")
        if any(len(value) != HASH_BYTES for value in self.hashes):
            raise FormatRefused("proof", f"has a hash that is not {HASH_BYTES} bytes")
        if self.extra == b"":
            raise FormatRefused("extra", "is empty; leave the line out")
        Checkpoint.parse(Note.parse(self.checkpoint).text)

    @property
    def text(self) -> str:
        note = self.checkpoint.decode("utf-8")
        return proof_text(self.index, self.hashes, note, extra=self.extra)

    @classmethod
    def parse(cls, text: str | bytes) -> Proof:
        """Read a `.tlog-proof` file. Raises FormatRefused."""
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        if len(data) > MAX_PROOF_BYTES:
            raise FormatRefused("proof", f"is larger than {MAX_PROOF_BYTES} bytes")
        head, separator, checkpoint = decode_utf8(data, where="proof").partition("\n\n")
        if not separator:
            raise FormatRefused("proof", "has no empty line before its checkpoint")
        lines = head.split("\n")
        if lines.pop(0) != HEADER:
            raise FormatRefused("proof", f"does not begin with {HEADER}")
        extra = None
        if lines and lines[0].startswith("extra "):
            extra = decode_base64(lines.pop(0)[len("extra ") :], where="extra")
        if not lines or not lines[0].startswith("index "):
            raise FormatRefused("proof", "has no index line where one must be")
        index = decode_decimal(lines.pop(0)[len("index ") :], where="index")
        hashes = tuple(decode_hash(line, where="proof") for line in lines)
        return cls(index, hashes, checkpoint.encode("utf-8"), extra)


def proof_text(
    index: int, hashes: Sequence[bytes], checkpoint: str, *, extra: bytes | None = None
) -> str:
    """A `.tlog-proof` file. checkpoint: the text of a note that the caller knows to be one."""
    lines = [HEADER]
    if extra is not None:
        lines.append(f"extra {encode_base64(extra)}")
    lines.append(f"index {index}")
    lines.extend(map(_line, hashes))
    return "\n".join(lines) + "\n\n" + checkpoint


def verify_proof(proof: Proof, entry: bytes, policy: Policy) -> CheckedCheckpoint:
    """The checkpoint under which `entry` is shown to be logged, at `proof.index`.

    Raises whatever Policy.check raises, and InclusionRefused.
    """
    checked = policy.check(proof.checkpoint)
    verify_inclusion(
        leaf_hash(entry),
        proof.index,
        checked.checkpoint.size,
        proof.hashes,
        checked.checkpoint.root,
    )
    return checked
