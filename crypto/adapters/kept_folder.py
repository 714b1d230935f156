"""What an unbalanced intersection keeps, as files of mode 0600 in one folder of the node's own.

    server.json   at the server: the secret, and digests of what was masked with it
    client.bin     at the client: 12 bytes a masked key

A file appears under its name only when it is complete, and replaces the one before. That they are
there is a saving, never a condition: what is missing, damaged or of another time is made anew.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Final

import numpy as np

from crypto import record
from crypto.errors import Malformed
from crypto.joins.intersection import MASKED_BYTES
from crypto.joins.ports import MASK_SECRET_BYTES, KeptSecret, UInt8Array

SERVER_FILE: Final = "server.json"
CLIENT_FILE: Final = "client.bin"


class KeptFolder:
    """A `crypto.joins.ports.Kept`. What this run has read or made it holds itself: another run, or
    the node making room, may replace or remove the files at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._secret: KeptSecret | None = None
        self._items: UInt8Array | None = None

    def secret(self) -> KeptSecret | None:
        if self._secret is not None:
            return self._secret
        data = self._read(SERVER_FILE)
        if data is None:
            return None
        try:
            found = record.from_bytes(KeptSecret, data)
        except Malformed:
            return None
        if len(found.secret) != MASK_SECRET_BYTES:
            return None
        self._secret = found
        return found

    def items(self) -> UInt8Array | None:
        if self._items is not None:
            return self._items
        data = self._read(CLIENT_FILE)
        if not data or len(data) % MASKED_BYTES:
            return None
        self._items = np.frombuffer(data, dtype=np.uint8).reshape(-1, MASKED_BYTES)
        return self._items

    def keep_secret(self, secret: KeptSecret) -> None:
        self._secret = secret
        self._write(SERVER_FILE, record.to_bytes(secret))

    def keep_items(self, items: UInt8Array) -> None:
        self._items = items
        self._write(CLIENT_FILE, items.tobytes())

    def drop(self) -> None:
        self._secret = self._items = None
        for name in (SERVER_FILE, CLIENT_FILE):
            with contextlib.suppress(OSError):
                (self._path / name).unlink(missing_ok=True)

    def _read(self, name: str) -> bytes | None:
        try:
            return (self._path / name).read_bytes()
        except OSError:
            return None

    def _write(self, name: str, data: bytes) -> None:
        # A full disk costs the next job the saving, not this one its answer.
        with contextlib.suppress(OSError):
            where = self._path.resolve()  # a link in the run's folder; its target may be gone
            where.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = where / f"{name}.{secrets.token_hex(8)}.part"
            try:
                with os.fdopen(
                    os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
                ) as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(where / name)
            finally:
                part.unlink(missing_ok=True)
