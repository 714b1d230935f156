"""Policies: which logs are trusted, and how many of which witnesses must have cosigned.

Source: C2SP tlog-policy. A policy file is what an auditor brings along; nothing in a bundle can
change it. Keys of kinds that cannot be verified here are refused, rather than never counted.

A witness with two keys is two `witness` lines, for a line names one key. Tied together in a group
they count once: `any` where one of the two cosignatures suffices, `all` where both are wanted.

    witness regulator-ed <vkey of type 0x04>
    witness regulator-ml <vkey of type 0x06>
    group regulator any regulator-ed regulator-ml
    group quorum 2 regulator association auditor

What counts one witness twice is refused here; other readers of the file would count it so.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from ledger.errors import FormatRefused, QuorumMissing
from ledger.verify.checkpoint import Checkpoint, open_checkpoint
from ledger.verify.cosignature import verify_cosignatures
from ledger.verify.note import COSIGNATURE_TYPES, LOG_TYPES, Note, VerifierKey

NO_QUORUM: Final = "none"
MAX_POLICY_BYTES: Final = 1 << 18
_BLANK: Final = re.compile(r"[ \t]+")
_THRESHOLD: Final = re.compile(r"[1-9][0-9]{0,3}")


@dataclass(frozen=True)
class PolicyLog:
    key: VerifierKey
    url: str | None


@dataclass(frozen=True)
class PolicyWitness:
    """name: what quorums call it; the name it signs under is in the key."""

    name: str
    key: VerifierKey
    url: str | None


@dataclass(frozen=True)
class PolicyGroup:
    """Counts as having cosigned when at least `threshold` of `members` have."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True)
class CheckedCheckpoint:
    """A checkpoint that satisfied a policy. cosigned: when, by the policy's witness names."""

    checkpoint: Checkpoint
    cosigned: Mapping[str, datetime]


@dataclass(frozen=True)
class Policy:
    logs: tuple[PolicyLog, ...]
    witnesses: tuple[PolicyWitness, ...]
    groups: tuple[PolicyGroup, ...]
    quorum: str

    @classmethod
    def parse(cls, data: bytes) -> Policy:
        """Read a policy file. Raises FormatRefused, naming the line."""
        if len(data) > MAX_POLICY_BYTES:
            raise FormatRefused("policy", f"is larger than {MAX_POLICY_BYTES} bytes")
        if any((byte < 0x20 and byte not in (0x09, 0x0A)) or byte == 0x7F for byte in data):
            raise FormatRefused("policy", "holds a control character other than tab and newline")
        # Names are opaque octets: two spellings that look alike stay two names.
        lines = data.decode("utf-8", "surrogateescape").split("\n")
        if lines.pop() != "":
            raise FormatRefused("policy", "does not end with a newline")
        reader = _Reader()
        for number, line in enumerate(lines, start=1):
            words = _BLANK.split(line.strip(" \t"))
            if words[0] and not words[0].startswith("#"):
                reader.read(f"policy line {number}", words)
        if reader.quorum is None:
            raise FormatRefused("policy", "has no quorum line")
        _require_counted_once(reader.witnesses, reader.groups, reader.quorum)
        return cls(tuple(reader.logs), tuple(reader.witnesses), tuple(reader.groups), reader.quorum)

    @property
    def log_keys(self) -> tuple[VerifierKey, ...]:
        return tuple(log.key for log in self.logs)

    def met_by(self, cosigned: Collection[str]) -> bool:
        """Whether cosignatures of the witnesses with these policy names make the quorum."""
        if self.quorum == NO_QUORUM:
            return True
        met = {witness.name for witness in self.witnesses} & set(cosigned)
        for group in self.groups:  # members come before the groups that name them
            if sum(member in met for member in group.members) >= group.threshold:
                met.add(group.name)
        return self.quorum in met

    def cosigned_by(self, note: Note) -> dict[str, datetime]:
        """When each of the policy's witnesses cosigned. Raises SignatureRefused."""
        times = verify_cosignatures(note, [witness.key for witness in self.witnesses])
        return {w.name: times[w.key] for w in self.witnesses if w.key in times}

    def check(self, note: bytes) -> CheckedCheckpoint:
        """The checkpoint in `note`, once a trusted log signed it and the quorum cosigned it.

        Raises FormatRefused, OtherLog, NotSigned, SignatureRefused, QuorumMissing.
        """
        parsed = Note.parse(note)
        checkpoint = open_checkpoint(parsed, self.log_keys)
        cosigned = self.cosigned_by(parsed)
        if not self.met_by(cosigned):
            raise QuorumMissing(self.quorum, tuple(cosigned))
        return CheckedCheckpoint(checkpoint, cosigned)


@dataclass
class _Reader:
    """What has been read so far; names must be defined before they are used."""

    logs: list[PolicyLog] = field(default_factory=list)
    witnesses: list[PolicyWitness] = field(default_factory=list)
    groups: list[PolicyGroup] = field(default_factory=list)
    quorum: str | None = None
    defined: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)

    def read(self, where: str, words: list[str]) -> None:
        match words:
            case ["log", vkey, *url] if len(url) <= 1:
                key = _key(vkey, LOG_TYPES, "log", where)
                if any(log.key.key == key.key for log in self.logs):
                    raise FormatRefused(where, "names a log key that an earlier line names")
                self.logs.append(PolicyLog(key, url[0] if url else None))
            case ["witness", name, vkey, *url] if len(url) <= 1:
                key = _key(vkey, COSIGNATURE_TYPES, "witness", where)
                if any(witness.key.key == key.key for witness in self.witnesses):
                    raise FormatRefused(where, "names a witness key that an earlier line names")
                self.define(name, where)
                self.witnesses.append(PolicyWitness(name, key, url[0] if url else None))
            case ["group", name, threshold, *members] if members:
                self.read_group(name, threshold, members, where)
            case ["quorum", name]:
                if self.quorum is not None:
                    raise FormatRefused(where, "is a second quorum line")
                if name != NO_QUORUM and name not in self.defined:
                    raise FormatRefused(where, f"names {name}, which no earlier line defines")
                self.quorum = name
            case _:
                raise FormatRefused(where, "is not a log, witness, group or quorum line")

    def read_group(self, name: str, threshold: str, members: list[str], where: str) -> None:
        for member in members:
            if member not in self.defined:
                raise FormatRefused(where, f"names {member}, which no earlier line defines")
            if member in self.used:
                raise FormatRefused(where, f"names {member}, which is a member already")
            self.used.add(member)
        if threshold == "all":
            needed = len(members)
        elif threshold == "any":
            needed = 1
        elif _THRESHOLD.fullmatch(threshold) and int(threshold) <= len(members):
            needed = int(threshold)
        else:
            raise FormatRefused(where, f"must ask for all, any, or 1 to {len(members)} members")
        self.define(name, where)
        self.groups.append(PolicyGroup(name, needed, tuple(members)))

    def define(self, name: str, where: str) -> None:
        if name == NO_QUORUM or name in self.defined:
            raise FormatRefused(where, f"defines {name}, which is defined already")
        self.defined.add(name)


def _require_counted_once(
    witnesses: Sequence[PolicyWitness], groups: Sequence[PolicyGroup], quorum: str
) -> None:
    """That nobody counts twice by having two keys. Whose a key is, the name it signs under says.

    Keys of one signer that count at all must be tied in one group, in which one of them is
    enough, or which has no other members.
    """
    member_of = {member: group for group in groups for member in group.members}
    keys_of: dict[str, set[str]] = {}
    for witness in witnesses:
        if witness.name in member_of or witness.name == quorum:
            keys_of.setdefault(witness.key.name, set()).add(witness.name)
    for signer, names in keys_of.items():
        tied = {member_of[name] for name in names if name in member_of}
        if len(names) == 1:
            continue
        group = tied.pop()
        alone = set(group.members) <= names
        if tied or not names <= set(group.members) or not (group.threshold == 1 or alone):
            raise FormatRefused(
                "policy",
                f"counts {signer} more than once, as {' and '.join(sorted(names))}; put them into "
                "a group of their own",
            )


def _key(vkey: str, types: frozenset[int], whose: str, where: str) -> VerifierKey:
    try:
        key = VerifierKey.parse(vkey)
    except FormatRefused as error:
        raise FormatRefused(where, f"{error.where} {error.problem}") from None
    if key.key_type not in types:
        raise FormatRefused(where, f"holds a key of type 0x{key.key_type:02x}, not a {whose}'s")
    return key
