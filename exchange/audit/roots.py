"""Roots: whose identity the auditor believes, brought along and never taken from a bundle.

A text file, one root per line:

    # the clinic's identity key, read out over the telephone
    fingerprint 1f3a-…                64 hexadecimal digits in groups of four
    registrar ed25519:…               whoever this key vouches for is who their document says
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from crypto.errors import CryptoError
from crypto.keys import PublicKey
from exchange.audit.errors import RootsRefused

MAX_ROOTS_BYTES: Final = 1 << 18
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{4}(-[0-9a-f]{4}){15}")


@dataclass(frozen=True)
class Roots:
    """fingerprints: of identity keys confirmed out of band. registrars: Ed25519 keys."""

    fingerprints: frozenset[str]
    registrars: tuple[PublicKey, ...]

    @classmethod
    def parse(cls, data: bytes) -> Roots:
        """Read a roots file. Raises RootsRefused, naming the line."""
        if len(data) > MAX_ROOTS_BYTES:
            raise RootsRefused(1, f"the file is larger than {MAX_ROOTS_BYTES} bytes")
        try:
            lines = data.decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            number = data[: error.start].count(b"\n") + 1
            raise RootsRefused(number, "is not UTF-8") from None
        if lines.pop() != "":
            raise RootsRefused(len(lines) + 1, "does not end with a newline")
        fingerprints: list[str] = []
        registrars: list[PublicKey] = []
        for number, line in enumerate(lines, start=1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            match words:
                case ["fingerprint", text]:
                    if not _FINGERPRINT.fullmatch(text):
                        raise RootsRefused(number, "is not 64 hex digits in groups of four")
                    if text in fingerprints:
                        raise RootsRefused(number, "names a fingerprint that is named already")
                    fingerprints.append(text)
                case ["registrar", text]:
                    key = _registrar(text, number)
                    if key in registrars:
                        raise RootsRefused(number, "names a registrar that is named already")
                    registrars.append(key)
                case _:
                    raise RootsRefused(number, "is not a fingerprint, a registrar or a comment")
        if not fingerprints and not registrars:
            raise RootsRefused(len(lines) or 1, "the file names nobody to trust")
        return cls(frozenset(fingerprints), tuple(registrars))


def _registrar(text: str, number: int) -> PublicKey:
    try:
        key = PublicKey.parse(text)
    except CryptoError as error:
        raise RootsRefused(number, str(error)) from None
    if key.suite != "ed25519":
        raise RootsRefused(number, f"is an {key.suite} key and cannot sign")
    return key
