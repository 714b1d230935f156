"""Which log another one follows, and whether the old log's own keys agree to that.

A log that cannot be continued is followed by one of another name, which says so in one of its
first entries (`log.succeeded`) with the last head of the old one. Anybody can found a log and put
a stranger's checkpoint into it. So the old log's key, or its recovery key, signs a document that
names both logs, that head and the new log's first key. Without one, a succession is *claimed*.

What no signature here shows: that the old log had no later head. Whoever holds one compares it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from crypto import canonical, record
from crypto import envelope as dsse
from crypto.digest import Digest
from crypto.envelope import Envelope
from crypto.errors import BadSignature, CryptoError, UnknownKey
from crypto.keys import PublicKey, Signer
from ledger.errors import FormatRefused, KeysRefused
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.history import KEYS_TYPE, SignedLogKeys, read_log_keys
from ledger.verify.note import LOG_SIGNATURE, Note, VerifierKey
from ledger.verify.policy import Policy

SUCCEEDED: Final = "log.succeeded"
SUCCESSION_TYPE: Final = "application/vnd.unseen.log-succession.v1+json"
_MEMBERS: Final = ("checkpoint", "authority", "keys")


class Standing(Enum):
    """By whose word one log follows another."""

    CLAIMED = "claimed"  # nobody of the old log signed it
    LOG_KEY = "log_key"  # the old log's key did
    RECOVERY_KEY = "recovery_key"  # the recovery key did, which the old log's key vouches for


@dataclass(frozen=True)
class Succession:
    """What a key of the old log signs. origin, size and root: of its last head.

    successor, key: the new log's name, and the verifier key that it opens with
    """

    v: int
    origin: str
    size: int
    root: Digest
    successor: str
    key: str

    def __post_init__(self) -> None:
        if self.v != 1:
            raise KeysRefused(f"succession of version {self.v}; this program reads 1")


@dataclass(frozen=True)
class Predecessor:
    """What a log says of the one before it.

    last:      the old log's last head that is known
    authority: a signed Succession; None where nobody could sign it
    keys:      the old log's keys document that names its recovery key, where that one signed
    """

    last: Note
    authority: Envelope | None = None
    keys: SignedLogKeys | None = None

    @property
    def head(self) -> Checkpoint:
        return Checkpoint.parse(self.last.text)

    @property
    def body(self) -> dict[str, str]:
        """As a statement holds it: everything must be there when the old log's operator is gone."""
        found = {"checkpoint": self.last.to_bytes()}
        if self.authority is not None:
            found["authority"] = self.authority.to_bytes()
        if self.keys is not None:
            found["keys"] = self.keys.envelope.to_bytes()
        return {name: data.decode("utf-8") for name, data in found.items()}

    @classmethod
    def read(cls, body: Mapping[str, object], *, where: str) -> Predecessor:
        """Checks no signature. Raises FormatRefused, KeysRefused."""
        found = {}
        for name, text in body.items():
            if name not in _MEMBERS or not isinstance(text, str):
                raise FormatRefused(where, "holds more than a checkpoint and who authorised it")
            found[name] = text.encode("utf-8", "surrogatepass")
        if "checkpoint" not in found:
            raise FormatRefused(where, "holds no checkpoint")
        last = Note.parse(found["checkpoint"])
        Checkpoint.parse(last.text)
        try:
            authority = Envelope.from_bytes(found["authority"]) if "authority" in found else None
        except CryptoError as error:
            raise FormatRefused(where, str(error)) from None
        return cls(last, authority, read_log_keys(found["keys"]) if "keys" in found else None)

    def to_bytes(self) -> bytes:
        return canonical.encode(self.body)

    @classmethod
    def from_bytes(cls, data: bytes) -> Predecessor:
        """Read back what `to_bytes` wrote. Raises FormatRefused, KeysRefused."""
        try:
            value = canonical.decode(data)
        except CryptoError as error:
            raise FormatRefused("predecessor", str(error)) from None
        if not isinstance(value, dict):
            raise FormatRefused("predecessor", "is not an object")
        return cls.read(value, where="predecessor")


def authorise(
    last: Note, successor: VerifierKey, signer: Signer, keys: SignedLogKeys | None = None
) -> Predecessor:
    """A key of the old log agrees that the log of `successor` follows after the head `last`.

    signer: the old log's key, or its recovery key: then `keys` is the document that names it.
    """
    head = Checkpoint.parse(last.text)
    document = Succession(
        1, head.origin, head.size, Digest(head.root), successor.name, str(successor)
    )
    return Predecessor(last, dsse.sign(SUCCESSION_TYPE, record.to_bytes(document), signer), keys)


def check_succession(
    predecessor: Predecessor, old: Policy, successor: str, keys: Collection[str]
) -> Standing:
    """By whose word the log `successor` follows another, once that one's head is shown genuine.

    old: the old log's policy, which comes from outside. keys: verifier keys that the new log
    declared. Raises what Policy.check raises for the head; FormatRefused, and KeysRefused for an
    authority that is of another succession or that none of the old log's keys gave.
    """
    head = old.check(predecessor.last.to_bytes()).checkpoint
    if predecessor.authority is None:
        return Standing.CLAIMED
    try:
        document = record.from_bytes(Succession, predecessor.authority.payload)
    except CryptoError as error:
        raise FormatRefused("succession", str(error)) from None
    if (document.origin, document.size, document.root.raw) != (head.origin, head.size, head.root):
        raise KeysRefused("what was signed names another last head than the log does")
    if document.successor != successor or document.key not in keys:
        raise KeysRefused("what was signed authorises another log, or a key that is not this one's")
    of_log = [
        log.key.key
        for log in old.logs
        if log.key.name == head.origin and log.key.key_type == LOG_SIGNATURE
    ]
    if _signed(predecessor.authority, SUCCESSION_TYPE, of_log):
        return Standing.LOG_KEY
    vouched = predecessor.keys
    if (
        vouched is not None
        and vouched.document.origin == head.origin
        and _signed(vouched.envelope, KEYS_TYPE, of_log)
        and _signed(predecessor.authority, SUCCESSION_TYPE, [vouched.document.recovery])
    ):
        return Standing.RECOVERY_KEY
    raise KeysRefused(f"no key that is known of {head.origin} signed that this log follows it")


def _signed(envelope: Envelope, kind: str, keys: Collection[PublicKey]) -> bool:
    """Whether one of them did. Raises KeysRefused for a forged line of one that is known."""
    for key in keys:
        try:
            dsse.verify(envelope, kind, key)
        except UnknownKey:
            continue
        except BadSignature as error:
            raise KeysRefused(str(error)) from None
        return True
    return False
