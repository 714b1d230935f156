"""Digests of what a job read: which rows it was computed from, provable later by their holder.

A digest is SHA-256 over one of these serialisations. Integers are little endian, text is UTF-8, a
header is a length u32 and canonical JSON, texts are n lengths u32 and then the n texts.

    rows of a local query                     records of a lookup
    "unseen/local-rows/v1" and a zero byte    "unseen/records/v1" and a zero byte
    header {"factors": f, "rows": n}          header {"columns": [name, ...], "rows": n}
    keys: texts, in order of their bytes      keys: texts, in order of their bytes
    group: n values i64                       each column in header order: texts
    each factor in the query's order:
      n values i64

Names and lengths come before what they describe, so two different inputs never serialise to the
same bytes. What was filtered, grouped and computed is in the plan, by its own digest. A digest of
few rows can be guessed: a holder publishes only a salted commitment to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from crypto import canonical
from crypto.digest import Digest

_ROWS: Final = b"unseen/local-rows/v1\x00"
_RECORDS: Final = b"unseen/records/v1\x00"


def rows_digest(
    keys: Sequence[str], group: npt.NDArray[np.int64], factors: npt.NDArray[np.int64]
) -> Digest:
    """keys: unique and sorted by their UTF-8 bytes. shape (n,). group: shape (n,).
    factors: shape (n, factors)."""
    count = factors.shape[1]
    sha = _begun(_ROWS, {"factors": count, "rows": len(keys)})
    _add_texts(sha, keys)
    _add_numbers(sha, group)
    for index in range(count):
        _add_numbers(sha, factors[:, index])
    return Digest(sha.digest())


def records_digest(
    keys: Sequence[str], columns: Sequence[str], records: Sequence[Sequence[str]]
) -> Digest:
    """keys: as above. columns: names. records: n, each with one text per column."""
    sha = _begun(_RECORDS, {"columns": list(columns), "rows": len(keys)})
    _add_texts(sha, keys)
    for index in range(len(columns)):
        _add_texts(sha, [record[index] for record in records])
    return Digest(sha.digest())


def _begun(label: bytes, header: dict[str, canonical.Value]) -> hashlib._Hash:
    encoded = canonical.encode(header)
    return hashlib.sha256(label + len(encoded).to_bytes(4, "little") + encoded)


def _add_numbers(sha: hashlib._Hash, numbers: npt.NDArray[np.int64]) -> None:
    sha.update(np.ascontiguousarray(numbers, dtype="<i8").tobytes())


def _add_texts(sha: hashlib._Hash, texts: Sequence[str]) -> None:
    encoded = [text.encode() for text in texts]
    sha.update(np.array([len(text) for text in encoded], dtype="<u4").tobytes())
    sha.update(b"".join(encoded))
