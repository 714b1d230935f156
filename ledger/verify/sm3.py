"""The parallel tree for national rules: the log's entries again, hashed with SM3, signed with SM2.

Its origin is the log's with `/sm3` behind it. It has the shape of RFC 6962 with SM3 (GB/T 32905)
in place of SHA-256, so that it covers the same bytes in the same order and shares no assumption
with the other. The operator's statement `log_heads.paired` names the roots of both trees at one
size. As an entry it is a leaf of both: the SM3 head lies in the tree that witnesses cosign, the
SHA-256 head in the tree that SM2 signs, and one quorum covers both.

No proofs are served in this tree; who relies on it recomputes it from the entries, as an audit of
the whole log does anyway.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from crypto.statement import Statement
from ledger.errors import ConsistencyRefused, FormatRefused
from ledger.verify.checkpoint import Checkpoint, open_checkpoint
from ledger.verify.history import SM3_SUFFIX
from ledger.verify.merkle import HASH_BYTES
from ledger.verify.note import Note, VerifierKey
from ledger.verify.text import decode_decimal, decode_hash

PAIRED: Final = "log_heads.paired"


def _sm3() -> Callable[[bytes], bytes]:
    try:
        hashlib.new("sm3")
    except ValueError:  # Python's OpenSSL may be built without it; the library brings its own
        from cryptography.hazmat.primitives import hashes

        def by_library(data: bytes) -> bytes:
            state = hashes.Hash(hashes.SM3())
            state.update(data)
            return state.finalize()

        return by_library
    return lambda data: hashlib.new("sm3", data).digest()


sm3: Final = _sm3()


class Sm3Tree:
    """A tree that grows by entries and keeps the roots of its complete subtrees alone."""

    def __init__(self, size: int = 0, edge: bytes = b"") -> None:
        """edge: what `edge` gave at this size. Raises FormatRefused if it cannot be."""
        if len(edge) != HASH_BYTES * size.bit_count():
            raise FormatRefused("edge", f"does not fit a tree of size {size}")
        self._size = size
        self._edge = [edge[at : at + HASH_BYTES] for at in range(0, len(edge), HASH_BYTES)]

    @property
    def size(self) -> int:
        return self._size

    @property
    def edge(self) -> bytes:
        """The subtree roots, 32 bytes each, from the largest on the left to the smallest."""
        return b"".join(self._edge)

    @property
    def root(self) -> bytes:
        if not self._edge:
            return sm3(b"")
        value = self._edge[-1]
        for left in reversed(self._edge[:-1]):
            value = sm3(b"\x01" + left + value)
        return value

    def add(self, entries: Iterable[bytes]) -> None:
        for entry in entries:
            value, place = sm3(b"\x00" + entry), self._size
            while place & 1:
                value = sm3(b"\x01" + self._edge.pop() + value)
                place >>= 1
            self._edge.append(value)
            self._size += 1


@dataclass(frozen=True)
class PairedHeads:
    """What the operator says of both trees at one size. note: the SM3 head, signed with SM2."""

    size: int
    sha256_root: bytes
    note: Note


def read_paired(statement: Statement) -> PairedHeads:
    """Raises FormatRefused for a statement that does not hold what its type says."""
    body = statement.body
    if statement.type != PAIRED or set(body) != {"size", "sha256_root", "sm3_note"}:
        raise FormatRefused(statement.type, "is no pair of heads")
    size = decode_decimal(body["size"], where="size")
    root = decode_hash(body["sha256_root"], where="sha256_root")
    return PairedHeads(size, root, Note.parse(body["sm3_note"].encode("utf-8", "surrogatepass")))


def check_paired(
    paired: PairedHeads, tree: Sm3Tree, sha256_root: bytes, keys: Iterable[VerifierKey]
) -> Checkpoint:
    """The SM3 head, once it is shown to be of the same entries as the SHA-256 root.

    tree: recomputed from the log's entries, at this size. sha256_root: of the same entries, as the
    caller has verified it. keys: the log's SM2 keys, of ledger.verify.history.
    Raises ConsistencyRefused, and whatever open_checkpoint raises.
    """
    head = open_checkpoint(paired.note, keys)
    if not head.origin.endswith(SM3_SUFFIX):
        raise ConsistencyRefused(f"the head of {head.origin} is none of an SM3 tree")
    if not head.size == paired.size == tree.size:
        raise ConsistencyRefused(
            f"the pair is of size {paired.size}, its SM3 head of {head.size}, the entries given "
            f"are {tree.size}"
        )
    if head.root != tree.root:
        raise ConsistencyRefused(f"the SM3 head of size {head.size} is not of these entries")
    if paired.sha256_root != sha256_root:
        raise ConsistencyRefused(f"the pair names another SHA-256 root of size {paired.size}")
    return head
