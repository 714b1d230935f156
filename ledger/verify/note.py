"""Signed notes: a text, an empty line, and lines that say who signed it.

Source: C2SP signed-note. A line that names a key we do not know is ignored; one that names a key
we do know and does not verify condemns the whole note, since somebody tried. A key we know may
sign a note once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from crypto.errors import BadSignature, SuiteUnavailable
from crypto.keys import SUITES, PublicKey, Signer
from ledger.errors import FormatRefused, NotSigned, SignatureRefused, SignatureUnchecked
from ledger.verify.text import decode_base64, decode_utf8, encode_base64

LOG_SIGNATURE: Final = 0x01  # Ed25519 over the text
COSIGNATURE: Final = 0x04  # Ed25519 with a time, C2SP tlog-cosignature
ML_DSA_COSIGNATURE: Final = 0x06  # ML-DSA-44 with a time, C2SP tlog-cosignature
SM2_SIGNATURE: Final = 0xFF  # ours: SM2 with SM3 over the text, r || s


@dataclass(frozen=True)
class KeyType:
    """suite: of the keys. marker: the type as key ids and vkeys hold it, before the key."""

    words: str
    suite: str
    marker: bytes


# Under 0xff every specification makes its own types, told apart by the long identifier.
KEY_TYPES: Final[Mapping[int, KeyType]] = {
    LOG_SIGNATURE: KeyType("Ed25519 log signature", "ed25519", b"\x01"),
    COSIGNATURE: KeyType("Ed25519 cosignature", "ed25519", b"\x04"),
    ML_DSA_COSIGNATURE: KeyType("ML-DSA-44 cosignature", "ml-dsa-44", b"\x06"),
    SM2_SIGNATURE: KeyType("SM2 log signature", "sm2", b"\xffunseen/sm2-with-sm3/v1\x00"),
}
LOG_TYPES: Final = frozenset({LOG_SIGNATURE, SM2_SIGNATURE})
COSIGNATURE_TYPES: Final = frozenset({COSIGNATURE, ML_DSA_COSIGNATURE})
MAX_COSIGNER_BYTES: Final = 255  # the length of a name is one byte in what ML-DSA-44 signs
KEY_ID_BYTES: Final = 4
MAX_NOTE_BYTES: Final = 1 << 20
MAX_SIGNATURES: Final = 100  # the format asks for at least 16; Go's note package takes 100
_HEX_ID: Final = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class VerifierKey:
    """A public key with the name it signs under and the kind of signature it makes."""

    name: str
    key_type: int
    key: PublicKey

    def __post_init__(self) -> None:
        check_name(self.name, where="verifier key")
        if self.key_type not in KEY_TYPES:
            raise FormatRefused("verifier key", f"is of type 0x{self.key_type:02x}, not read here")
        if self.key.suite != KEY_TYPES[self.key_type].suite:
            words = KEY_TYPES[self.key_type].words
            raise FormatRefused("verifier key", f"is of suite {self.key.suite}: makes no {words}")
        if self.key_type == ML_DSA_COSIGNATURE and len(self.name.encode()) > MAX_COSIGNER_BYTES:
            raise FormatRefused("verifier key", f"has a name over {MAX_COSIGNER_BYTES} bytes")

    @property
    def key_id(self) -> bytes:
        """4 bytes that, with the name, pick the key for a line. Not a safe identifier alone."""
        data = self.name.encode() + b"\n" + self._material
        return hashlib.sha256(data).digest()[:KEY_ID_BYTES]

    @property
    def words(self) -> str:
        """For people: `witness.example, ML-DSA-44 cosignature`."""
        return f"{self.name}, {KEY_TYPES[self.key_type].words}"

    @property
    def _material(self) -> bytes:
        return KEY_TYPES[self.key_type].marker + self.key.raw

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{encode_base64(self._material)}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read a vkey, `<name>+<hex key id>+<base64>`. Raises FormatRefused."""
        parts = text.split("+", 2)  # base64 may hold a plus sign itself
        if len(parts) != 3:
            raise FormatRefused("verifier key", "is not <name>+<key id>+<base64>")
        name, key_id, encoded = parts
        data = decode_base64(encoded, where="verifier key")
        if not _HEX_ID.fullmatch(key_id) or not data:
            raise FormatRefused("verifier key", "is not <name>+<key id>+<base64>")
        if data[0] not in KEY_TYPES:
            raise FormatRefused("verifier key", f"is of type 0x{data[0]:02x}, not read here")
        kind = KEY_TYPES[data[0]]
        if not data.startswith(kind.marker):
            raise FormatRefused("verifier key", "is of type 0xff with another long identifier")
        raw, length = data[len(kind.marker) :], SUITES[kind.suite]
        if len(raw) != length:
            raise FormatRefused("verifier key", f"holds a key of {len(raw)} bytes, not {length}")
        key = cls(name, data[0], PublicKey(kind.suite, raw))
        if key.key_id.hex() != key_id:
            raise FormatRefused("verifier key", f"has the key id {key_id}, not {key.key_id.hex()}")
        return key


@dataclass(frozen=True)
class Signature:
    """One signature line. value: what the key made, without the key id."""

    name: str
    key_id: bytes
    value: bytes

    @property
    def line(self) -> str:
        """The line with its newline."""
        return f"— {self.name} {encode_base64(self.key_id + self.value)}\n"

    @classmethod
    def parse(cls, line: str) -> Signature:
        """Read a line without its newline."""
        head, _, rest = line.partition(" ")
        name, space, encoded = rest.partition(" ")
        if head != "—" or not space:
            raise FormatRefused("signature line", "is not an em dash, a name and base64")
        check_name(name, where="signature line")
        data = decode_base64(encoded, where="signature line")
        if len(data) <= KEY_ID_BYTES:
            raise FormatRefused("signature line", "holds no signature after the key id")
        return cls(name, data[:KEY_ID_BYTES], data[KEY_ID_BYTES:])


@dataclass(frozen=True)
class Note:
    """text: ends with a newline. Holds at least one signature once it is written."""

    text: str
    signatures: tuple[Signature, ...]

    def __post_init__(self) -> None:
        if not self.text.endswith("\n"):
            raise FormatRefused("note", "has a text that does not end with a newline")
        decode_utf8(self.text.encode("utf-8", "surrogatepass"), where="note")
        if not 1 <= len(self.signatures) <= MAX_SIGNATURES:
            raise FormatRefused("note", f"must have 1 to {MAX_SIGNATURES} signature lines")

    def to_bytes(self) -> bytes:
        return (self.text + "\n" + "".join(s.line for s in self.signatures)).encode("utf-8")

    @classmethod
    def parse(cls, data: bytes) -> Note:
        """Read a note; the last empty line ends its text. Raises FormatRefused."""
        if len(data) > MAX_NOTE_BYTES:
            raise FormatRefused("note", f"is larger than {MAX_NOTE_BYTES} bytes")
        whole = decode_utf8(data, where="note")
        body, separator, lines = whole.rpartition("\n\n")
        if not separator:
            raise FormatRefused("note", "has no empty line before its signatures")
        return cls(body + "\n", parse_lines(lines))

    def with_signatures(self, more: Iterable[Signature]) -> Note:
        return replace(self, signatures=(*self.signatures, *more))


def parse_lines(text: str) -> tuple[Signature, ...]:
    """Signature lines, each ended by a newline. Raises FormatRefused."""
    lines = text.split("\n")
    if lines.pop() != "":
        raise FormatRefused("signature line", "does not end with a newline")
    if len(lines) > MAX_SIGNATURES:
        raise FormatRefused("note", f"must have 1 to {MAX_SIGNATURES} signature lines")
    return tuple(Signature.parse(line) for line in lines)


def sign(text: str, name: str, *signers: Signer) -> Note:
    """A note signed as a log signs, one line per key. name: for a checkpoint, the log's origin."""
    lines = []
    for signer in signers:
        key = log_key(name, signer)
        lines.append(Signature(name, key.key_id, signer.sign(text.encode("utf-8"))))
    return Note(text, tuple(lines))


def log_key(name: str, signer: Signer) -> VerifierKey:
    """What verifies the lines that a log of this name signs. Raises FormatRefused."""
    return _key_of(name, signer, LOG_TYPES)


def cosigner_key(name: str, signer: Signer) -> VerifierKey:
    """What verifies the lines that a witness of this name cosigns. Raises FormatRefused."""
    return _key_of(name, signer, COSIGNATURE_TYPES)


def verify(note: Note, keys: Iterable[VerifierKey]) -> tuple[VerifierKey, ...]:
    """Which of `keys`, all log keys, have signed the note.

    Raises SignatureRefused if one of them is named and does not verify, NotSigned if none signed.
    """
    wanted = [key for key in keys if key.key_type in LOG_TYPES]
    found = signatures_by(note, wanted)
    for key, signature in found.items():
        check_signature(key, signature.value, note.text.encode("utf-8"))
    if not found:
        raise NotSigned(" or ".join(key.name for key in wanted) or "any log key")
    return tuple(found)


def signatures_by(note: Note, keys: Iterable[VerifierKey]) -> dict[VerifierKey, Signature]:
    """The line of each of `keys` that is named in the note, not yet verified."""
    known = {(key.name, key.key_id): key for key in keys}
    found: dict[VerifierKey, Signature] = {}
    for signature in note.signatures:
        key = known.get((signature.name, signature.key_id))
        if key is None:
            continue
        if key in found:
            raise FormatRefused("note", f"carries two signature lines of {key.name}")
        found[key] = signature
    return found


def check_signature(key: VerifierKey, value: bytes, message: bytes) -> None:
    """Raises SignatureRefused unless `value` is the key's raw signature over `message`, and
    SignatureUnchecked where this machine cannot tell."""
    try:
        key.key.verify(value, message)
    except BadSignature:
        raise SignatureRefused(key.name) from None
    except SuiteUnavailable as error:
        raise SignatureUnchecked(key.name, str(error)) from None


def check_name(name: str, *, where: str) -> None:
    if not name or "+" in name or any(c.isspace() or ord(c) < 0x20 for c in name):
        raise FormatRefused(where, "has a name that is empty or holds a space or a plus sign")
    # A policy's words, and the environment's, are octets; half a character has no key id.
    if any(0xD800 <= ord(c) <= 0xDFFF for c in name):
        raise FormatRefused(where, "has a name that is not UTF-8")


def _key_of(name: str, signer: Signer, types: frozenset[int]) -> VerifierKey:
    for key_type in types:
        if KEY_TYPES[key_type].suite == signer.public.suite:
            return VerifierKey(name, key_type, signer.public)
    raise FormatRefused("verifier key", f"is of suite {signer.public.suite}, which signs no notes")
