"""The encrypted table of one product version: made once by the holder, kept by every consumer.

For each record, y = F(key) under the secret of this version and epoch (crypto.lookup.oprf). From y
come the row's id and the key that seals its record, so that whoever has not been given y for a key
can neither find nor open its row, and one y says nothing of another row. All records are padded to
one length and the table to the product's cap; the rows stand in the order of their ids, which is a
random order: what can be seen is the cap, the longest permitted record and the epoch.

    header   "UNSEEN-LOOKUP-1\\n", epoch u64, rows u64, label bytes u32, public key 32 bytes
    ids      rows x 16 bytes, strictly ascending
    sealed   rows x (2 + label bytes + 16): AES-256-GCM of length u16, record, zeros

Integers are big-endian. id and seal key are 16 and 32 bytes of HKDF-Expand-SHA512 (RFC 5869) of y.
The seal's nonce is zero, for its key seals one record; the whole header is its associated data.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.digest import Digest
from crypto.errors import Malformed
from crypto.joinkeys import MAX_KEY_BYTES
from crypto.lookup import oprf
from crypto.lookup.limits import MAX_LABEL_BYTES, MAX_ROWS
from crypto.lookup.ports import Element, Group
from crypto.lookup.spread import spread
from crypto.ports import Randomness

ID_BYTES: Final = 16

_MAGIC: Final = b"UNSEEN-LOOKUP-1\n"
_HEADER: Final = struct.Struct(">16sQQI32s")
_LENGTH: Final = struct.Struct(">H")
_TAG_BYTES: Final = 16
_NONCE: Final = bytes(12)
_KEY_INFO: Final = b"unseen/lookup/key/v1\x00"
_ROW_INFO: Final = b"unseen/lookup/row/v1"
_DUMMIES_AT_ONCE: Final = 2**14

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TableSecret:
    """What the holder answers with, for one table only. Never printed."""

    epoch: int
    keys: oprf.KeyPair = field(repr=False)


class Absence(Enum):
    """Why a key has no record. DAMAGED: the holder made a row for it that does not open."""

    NO_RECORD = "no record"
    DAMAGED = "damaged"


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """A table in its one encoding. Raises Malformed for anything else.

    image: shape (size,), uint8, read only; may be mapped from its file
    """

    image: Bytes

    def __post_init__(self) -> None:
        if self.image.dtype != np.uint8 or self.image.ndim != 1:
            raise Malformed("table", "is not bytes")
        magic, _, rows, label_bytes, _ = self._header
        if magic != _MAGIC:
            raise Malformed("table", "is not a lookup table of format 1")
        if not 1 <= rows <= MAX_ROWS:
            raise Malformed("rows", f"are not 1..{MAX_ROWS}")
        if not 1 <= label_bytes <= MAX_LABEL_BYTES:
            raise Malformed("label_bytes", f"are not 1..{MAX_LABEL_BYTES}")
        if len(self.image) != size_bytes(rows, label_bytes):
            raise Malformed("table", "has another size than its header says")
        high, low = self._halves
        above = (high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] > low[:-1]))
        if not above.all():
            raise Malformed("ids", "are not strictly ascending")

    @property
    def epoch(self) -> int:
        return int(self._header[1])

    @property
    def rows(self) -> int:
        """Dummies included."""
        return int(self._header[2])

    @property
    def label_bytes(self) -> int:
        return int(self._header[3])

    @property
    def public(self) -> bytes:
        """The holder's public key for this table, not yet checked to be one."""
        return bytes(self._header[4])

    @cached_property
    def digest(self) -> Digest:
        """Of the whole file: header, ids and sealed records."""
        return Digest(hashlib.sha256(self.image.data).digest())

    def save(self, path: Path) -> None:
        self.image.tofile(path)

    @classmethod
    def load(cls, path: Path) -> Table:
        """Maps the file, which must not change while the table is used. Raises Malformed."""
        if path.stat().st_size < _HEADER.size:
            raise Malformed("table", "is shorter than its header")
        return cls(np.memmap(path, dtype=np.uint8, mode="r"))

    def records(self, outputs: Sequence[bytes]) -> list[bytes | Absence]:
        """The record behind each output of the pseudorandom function, 64 bytes each."""
        materials = [_material(output) for output in outputs]
        high, low = self._halves
        wanted = np.frombuffer(b"".join(id for id, _ in materials), dtype=">u8")
        first = np.searchsorted(high, wanted[0::2].astype(np.uint64), side="left")
        after = np.searchsorted(high, wanted[0::2].astype(np.uint64), side="right")
        found: list[bytes | Absence] = []
        for place, (_, key) in enumerate(materials):
            # Two rows share half an id about once in 2**64 pairs; the other half tells.
            rows = np.arange(first[place], after[place])
            rows = rows[low[rows] == int(wanted[2 * place + 1])]
            found.append(self._open(int(rows[0]), key) if len(rows) else Absence.NO_RECORD)
        return found

    @cached_property
    def _header(self) -> tuple[bytes, int, int, int, bytes]:
        if len(self.image) < _HEADER.size:
            raise Malformed("table", "is shorter than its header")
        return _HEADER.unpack(self.image[: _HEADER.size].tobytes())

    @cached_property
    def _halves(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        ids = self.image[_HEADER.size :][: self.rows * ID_BYTES].view(">u8").reshape(-1, 2)
        return ids[:, 0].astype(np.uint64), ids[:, 1].astype(np.uint64)

    def _open(self, row: int, key: bytes) -> bytes | Absence:
        width = _sealed_bytes(self.label_bytes)
        start = _HEADER.size + self.rows * ID_BYTES + row * width
        header = self.image[: _HEADER.size].tobytes()
        try:
            plain = AESGCM(key).decrypt(_NONCE, self.image[start : start + width].tobytes(), header)
        except InvalidTag:
            return Absence.DAMAGED
        (size,) = _LENGTH.unpack(plain[: _LENGTH.size])
        record, padding = plain[_LENGTH.size :][:size], plain[_LENGTH.size :][size:]
        return Absence.DAMAGED if size > self.label_bytes or any(padding) else record


def size_bytes(rows: int, label_bytes: int) -> int:
    """Of a table, from what a plan says of it."""
    return _HEADER.size + rows * (ID_BYTES + _sealed_bytes(label_bytes))


def table_secret(group: Group, seed: bytes, *, epoch: int) -> TableSecret:
    """seed: 32 secret bytes, fresh for each product version. A new epoch of it makes a new key,
    under which no earlier answer opens anything."""
    return TableSecret(
        epoch, oprf.derive_key_pair(group, seed, _KEY_INFO + epoch.to_bytes(8, "big"))
    )


def make_table(
    keys: Sequence[bytes],
    records: Sequence[bytes],
    *,
    group: Group,
    secret: TableSecret,
    randomness: Randomness,
    cap: int,
    label_bytes: int,
) -> Table:
    """Encrypt one record for each key. About 40 microseconds a record on two cores.

    keys:    canonical and distinct: crypto.joinkeys drops NULL and refuses repeats
    records: as many, each at most `label_bytes` long
    cap:     rows of the table, the same for all versions of a product; the rest are dummies, so
             that its size does not follow the number of records
    Raises Malformed, naming rows by number, never by key.
    """
    if len(keys) != len(records):
        raise Malformed("records", f"are {len(records)} for {len(keys)} keys")
    if len(keys) > cap:
        raise Malformed("keys", f"are more than the product's cap of {cap}")
    require_keys(keys)
    for row, record in enumerate(records):
        if len(record) > label_bytes:
            raise Malformed(f"records[{row}]", f"is longer than {label_bytes} bytes")
    if not 1 <= cap <= MAX_ROWS:
        raise Malformed("cap", f"is not 1..{MAX_ROWS}")
    if not 1 <= label_bytes <= MAX_LABEL_BYTES:
        raise Malformed("label_bytes", f"is not 1..{MAX_LABEL_BYTES}")
    header = _HEADER.pack(_MAGIC, secret.epoch, cap, label_bytes, secret.keys.public)

    def sealed(part: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        rows = bytearray()
        for key, record in part:
            row_id, seal = _material(oprf.evaluate(group, secret.keys, key))
            plain = _LENGTH.pack(len(record)) + record.ljust(label_bytes, b"\x00")
            rows += row_id + AESGCM(seal).encrypt(_NONCE, plain, header)
        return [bytes(rows)]

    width = ID_BYTES + _sealed_bytes(label_bytes)
    parts = spread(sealed, list(zip(keys, records, strict=True))) if keys else []
    for made in range(len(keys), cap, _DUMMIES_AT_ONCE):
        parts.append(randomness.draw(min(_DUMMIES_AT_ONCE, cap - made) * width))
    rows = np.frombuffer(b"".join(parts), dtype=np.uint8).reshape(cap, width)
    ids = np.ascontiguousarray(rows[:, :ID_BYTES])
    # The order of pseudorandom ids says nothing of the keys' order, nor which rows are dummies.
    order = np.argsort(ids.view(f"S{ID_BYTES}").ravel(), kind="stable")
    image = np.concatenate(
        [
            np.frombuffer(header, dtype=np.uint8),
            ids[order].ravel(),
            rows[order, ID_BYTES:].ravel(),
        ]
    )
    return Table(image)


def public_key(group: Group, table: Table) -> Element:
    """Raises Malformed if the table carries none."""
    return oprf.decode_element(group, table.public)


def require_keys(keys: Sequence[bytes]) -> None:
    """Raises Malformed, by row, unless keys are distinct, not empty and of permitted length."""
    seen: dict[bytes, int] = {}
    for row, key in enumerate(keys):
        if not 1 <= len(key) <= MAX_KEY_BYTES:
            raise Malformed(f"keys[{row}]", f"is not 1..{MAX_KEY_BYTES} bytes")
        if (first := seen.setdefault(key, row)) != row:
            raise Malformed(f"keys[{row}]", f"is the same as keys[{first}]")


def _material(output: bytes) -> tuple[bytes, bytes]:
    """The row's id and the key of its seal: the first block of HKDF-Expand."""
    block = hmac.digest(output, _ROW_INFO + b"\x01", "sha512")
    return block[:ID_BYTES], block[ID_BYTES : ID_BYTES + 32]


def _sealed_bytes(label_bytes: int) -> int:
    return _LENGTH.size + label_bytes + _TAG_BYTES
