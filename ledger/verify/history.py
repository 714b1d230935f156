"""What a log says about itself in its own entries: the keys it is signed with, its policies, and
the contracts in which it is anchored.

All change over the years, and what was proved under the old ones must stay provable.

    keys      a document lists the keys in force; each names the digest of the one before. A new
              key signs the document that first lists it, and so does a key in force already, or
              the recovery key, which is kept offline and can replace keys that were stolen. While
              two keys are in force, every head carries a line of each.
    policies  the file is an entry's text. It governs the heads that hold this entry, until the
              next: a receipt that was complete under its own policy stays so after a witness died.
    anchors   each entry names the chain and the contract that hold this log's heads from there
              on, or says that none does any more. What the contract holds, the chain says.

None of this replaces the auditor's own policy, which comes from outside: history is believed
because it lies under a head that this policy accepts. See docs/decisions on log keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from crypto import envelope as dsse
from crypto import record
from crypto.digest import Digest, digest
from crypto.envelope import Envelope
from crypto.errors import BadSignature, CryptoError, UnknownKey
from crypto.keys import PublicKey, Signer
from crypto.statement import Statement
from ledger.errors import FormatRefused, KeysRefused, LedgerError, NotCovered, NotSigned
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.note import (
    LOG_SIGNATURE,
    SM2_SIGNATURE,
    Note,
    VerifierKey,
    check_signature,
    signatures_by,
)
from ledger.verify.policy import CheckedCheckpoint, Policy

KEYS_TYPE: Final = "application/vnd.unseen.log-keys.v1+json"
OPENED: Final = "log_keys.opened"
ROTATED: Final = "log_keys.rotated"
RECOVERED: Final = "log_keys.recovered"
ADOPTED: Final = "log_policy.adopted"
ANCHORED: Final = "log_anchor.adopted"
ANCHORING_ENDED: Final = "log_anchor.ended"
KEY_CHANGES: Final = (OPENED, ROTATED, RECOVERED)
ANCHOR_CHANGES: Final = (ANCHORED, ANCHORING_ENDED)
KINDS: Final = (*KEY_CHANGES, ADOPTED, *ANCHOR_CHANGES)
SM3_SUFFIX: Final = "/sm3"  # the origin of the parallel tree, after the log's own
MAX_KEYS: Final = 2
_CHAIN_ID: Final = re.compile(r"[1-9][0-9]{0,18}")
_CONTRACT: Final = re.compile(r"0x[0-9a-f]{40}")


@dataclass(frozen=True)
class LogKeys:
    """keys: the Ed25519 verifier keys in force, one, or two while one follows the other.

    recovery: alone may replace all keys, and itself
    sm2:      verifier keys of the SM2 lines, if there are any: of this log's heads, and of its
              parallel SM3 tree; the log's own keys vouch for them
    """

    v: int
    origin: str
    seq: int
    previous: Digest | None
    keys: tuple[str, ...]
    recovery: PublicKey
    sm2: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.v != 1:
            raise KeysRefused(f"version {self.v}; this program reads 1")
        if self.seq < 0 or (self.seq == 0) != (self.previous is None):
            raise KeysRefused("only the first document has none before it")
        if not 1 <= len(self.keys) <= MAX_KEYS or len(set(self.keys)) != len(self.keys):
            raise KeysRefused("one key, or two different ones, must be in force")
        for key in self.verifier_keys:
            if key.key_type != LOG_SIGNATURE or key.name != self.origin:
                raise KeysRefused(f"{key.words} is no Ed25519 key of {self.origin}")
            if key.key == self.recovery:
                raise KeysRefused("the recovery key must not sign heads")
        if self.recovery.suite != "ed25519":
            raise KeysRefused("the recovery key must be an ed25519 key")
        names = [key.name for key in self.sm2_keys]
        if any(key.key_type != SM2_SIGNATURE for key in self.sm2_keys) or (
            names != sorted(set(names)) or not set(names) <= {self.origin, self.sm3_origin}
        ):
            raise KeysRefused("SM2 keys are those of the log and of its SM3 tree, in this order")

    @property
    def verifier_keys(self) -> tuple[VerifierKey, ...]:
        return tuple(_key(text) for text in self.keys)

    @property
    def sm2_keys(self) -> tuple[VerifierKey, ...]:
        return tuple(_key(text) for text in self.sm2)

    @property
    def sm3_origin(self) -> str:
        return self.origin + SM3_SUFFIX


@dataclass(frozen=True)
class SignedLogKeys:
    """The keys with the envelope they came in."""

    document: LogKeys
    envelope: Envelope

    @property
    def digest(self) -> Digest:
        return self.envelope.payload_digest


def sign_log_keys(document: LogKeys, *signers: Signer) -> SignedLogKeys:
    """signers: all new keys, and whoever may change them; see require_authority."""
    first, *others = signers
    envelope = dsse.sign(KEYS_TYPE, record.to_bytes(document), first)
    for signer in others:
        envelope = envelope.with_signature(signer)
    return SignedLogKeys(document, envelope)


def read_log_keys(data: bytes) -> SignedLogKeys:
    """Parse a keys document. Checks no signature. Raises KeysRefused."""
    try:
        envelope = Envelope.from_bytes(data)
        return SignedLogKeys(record.from_bytes(LogKeys, envelope.payload), envelope)
    except CryptoError as error:
        raise KeysRefused(str(error)) from error


def require_authority(new: SignedLogKeys, old: SignedLogKeys | None) -> str:
    """The type of statement that announces `new` after `old`. Raises KeysRefused.

    The first is signed by its key and by the recovery key. Each later one is signed by every key
    that it adds, and either by a key in force, of which it then keeps at least one and leaves the
    recovery key alone, or by the recovery key.
    """
    if old is None:
        if new.document.seq != 0:
            raise KeysRefused("the first document of a log has the number 0")
        _require_signed(new, [*(key.key for key in new.document.verifier_keys)])
        _require_signed(new, [new.document.recovery])
        return OPENED
    before, after = old.document, new.document
    if (after.seq, after.previous, after.origin) != (before.seq + 1, old.digest, before.origin):
        raise KeysRefused(f"document {after.seq} does not follow document {before.seq}")
    known = {key.key for key in before.verifier_keys}
    _require_signed(new, [k.key for k in after.verifier_keys if k.key not in known])
    if before.recovery.key_id in dict(new.envelope.signatures):
        _require_signed(new, [before.recovery, after.recovery])
        return RECOVERED
    if after.recovery != before.recovery:
        raise KeysRefused("only the recovery key itself may replace the recovery key")
    kept = known & {key.key for key in after.verifier_keys}
    signed = {key_id for key_id, _ in new.envelope.signatures}
    speaking = [key for key in known if key.key_id in signed]
    if not speaking or not kept:
        raise KeysRefused("no key in force signed the change and stays, and no recovery key did")
    _require_signed(new, speaking)
    return ROTATED


@dataclass(frozen=True)
class KeysSince:
    """Keys in force for the heads that hold the entry at `index`."""

    index: int
    at: datetime
    signed: SignedLogKeys


@dataclass(frozen=True)
class PolicySince:
    """A policy in force for the heads that hold the entry at `index`. text: the file's bytes."""

    index: int
    at: datetime
    text: bytes
    policy: Policy

    @property
    def digest(self) -> Digest:
        return digest(self.text)


@dataclass(frozen=True)
class AnchorSince:
    """Where the log says that its heads are anchored, from the entry at `index` on.

    chain_id: EIP-155. contract: 0x and 40 lower-case digits. Both None: nowhere any more.
    """

    index: int
    at: datetime
    chain_id: int | None
    contract: str | None


@dataclass(frozen=True)
class LogHistory:
    """Everything that a log said about itself, in order."""

    keys: Sequence[KeysSince]
    policies: Sequence[PolicySince]
    anchors: Sequence[AnchorSince] = ()

    def keys_for(self, size: int) -> tuple[VerifierKey, ...]:
        """What signed, or had to sign, a head of this size. Raises NotCovered before the first."""
        found = [since for since in self.keys if since.index < size]
        if not found:
            raise NotCovered(f"the log had declared no keys at size {size}")
        document = found[-1].signed.document
        return (*document.verifier_keys, *document.sm2_keys)

    def policy_for(self, size: int) -> PolicySince:
        """The policy in force for a head of this size. Raises NotCovered before the first."""
        found = [since for since in self.policies if since.index < size]
        if not found:
            raise NotCovered(f"the log had adopted no policy at size {size}")
        return found[-1]

    def policy_at(self, time: datetime) -> PolicySince:
        """The policy in force at a time, by the operator's clock, which witnesses bound. Raises
        NotCovered before the first."""
        found = [since for since in self.policies if since.at <= time]
        if not found:
            raise NotCovered(f"the log had adopted no policy on {time}")
        return found[-1]

    def check(self, note: bytes) -> tuple[CheckedCheckpoint, PolicySince]:
        """A head under the policy in force for it, or a later one: one that got its quorum only
        after the policy had changed is complete under that one. Never under an earlier policy,
        which may trust a key that was stolen since.

        Raises what Policy.check raises for the policy in force, and NotCovered.
        """
        size = Checkpoint.parse(Note.parse(note).text).size
        in_force = self.policy_for(size)
        later = [since for since in self.policies if since.index > in_force.index]
        for since in (in_force, *later):
            try:
                return since.policy.check(note), since
            except LedgerError as error:
                if since is in_force:
                    first = error
        raise first


def read_history(said: Iterable[tuple[int, Statement]], *, origin: str) -> LogHistory:
    """The history of the log `origin`, from its operator's own statements with their indices, in
    order. The caller has checked that the operator signed them and that they are in the log.

    Raises KeysRefused where a change of keys lacks its authority: whoever signed heads from there
    on may be a thief. Raises FormatRefused for a statement that does not hold what its type says.
    """
    keys: list[KeysSince] = []
    policies: list[PolicySince] = []
    anchors: list[AnchorSince] = []
    for index, statement in said:
        if statement.subject != origin or statement.type not in KINDS:
            continue
        if statement.type == ADOPTED:
            policies.append(read_policy(index, statement))
        elif statement.type in ANCHOR_CHANGES:
            anchors.append(read_anchor(index, statement))
        else:
            keys.append(read_keys(index, statement, keys[-1] if keys else None))
    return LogHistory(tuple(keys), tuple(policies), tuple(anchors))


def read_keys(index: int, statement: Statement, before: KeysSince | None) -> KeysSince:
    """One change of the keys of the log that is the statement's subject. Raises as read_history."""
    signed = read_log_keys(_text(index, statement, "document"))
    if statement.outputs != (signed.digest,):
        raise FormatRefused(f"entry {index}", "names another digest than its document has")
    if signed.document.origin != statement.subject:
        raise KeysRefused(f"entry {index}: the keys are of {signed.document.origin}")
    try:
        kind = require_authority(signed, None if before is None else before.signed)
    except KeysRefused as error:
        raise KeysRefused(f"entry {index}: {error.problem}") from error
    if kind != statement.type:
        raise KeysRefused(f"entry {index}: is {statement.type}, and the document {kind}")
    return KeysSince(index, statement.time, signed)


def read_policy(index: int, statement: Statement) -> PolicySince:
    """One policy that was adopted. Raises FormatRefused."""
    text = _text(index, statement, "policy")
    if statement.outputs != (digest(text),):
        raise FormatRefused(f"entry {index}", "names another digest than its policy has")
    return PolicySince(index, statement.time, text, Policy.parse(text))


def read_anchor(index: int, statement: Statement) -> AnchorSince:
    """One change of the contract. Raises FormatRefused: of one place there is one spelling."""
    body = statement.body
    if statement.type == ANCHORING_ENDED:
        if body:
            raise FormatRefused(f"entry {index}", "names a place, and says that there is none")
        return AnchorSince(index, statement.time, None, None)
    chain_id, contract = body.get("chain_id", ""), body.get("contract", "")
    if len(body) != 2 or not _CHAIN_ID.fullmatch(chain_id) or not _CONTRACT.fullmatch(contract):
        raise FormatRefused(f"entry {index}", "does not hold a chain's number and a contract")
    return AnchorSince(index, statement.time, int(chain_id), contract)


def require_every_line(note: Note, keys: LogKeys) -> None:
    """That a head carries a line of each key that was in force for it.

    One line would do for a policy that lists several keys, and a key that was replaced, or that
    was stolen while the recovery key replaced it, still makes that one.
    Raises NotSigned, SignatureRefused, SignatureUnchecked, FormatRefused.
    """
    wanted = [*keys.verifier_keys, *(key for key in keys.sm2_keys if key.name == keys.origin)]
    found = signatures_by(note, wanted)
    missing = [key for key in wanted if key not in found]
    if missing:
        raise NotSigned(" nor by ".join(str(key) for key in missing))
    for key in wanted:
        check_signature(key, found[key].value, note.text.encode("utf-8"))


def _text(index: int, statement: Statement, member: str) -> bytes:
    try:
        return statement.body[member].encode("utf-8")
    except (KeyError, UnicodeEncodeError):
        raise FormatRefused(f"entry {index}", f"holds no {member}") from None


def _key(text: str) -> VerifierKey:
    try:
        return VerifierKey.parse(text)
    except FormatRefused as error:
        raise KeysRefused(str(error)) from None


def _require_signed(signed: SignedLogKeys, keys: Iterable[PublicKey]) -> None:
    for key in keys:
        try:
            dsse.verify(signed.envelope, KEYS_TYPE, key)
        except UnknownKey:
            raise KeysRefused(f"the key {key.key_id} has not signed the document") from None
        except BadSignature as error:
            raise KeysRefused(str(error)) from None
