"""Every error of this package is a LedgerError; each leaf is something a caller does differently.

LedgerError
├── FormatRefused        fix the bytes: the message names the place
├── SignatureRefused     stop: a key we know did not sign this
├── SignatureUnchecked   use a machine that knows the key's suite, or a policy without the key
├── KeysRefused          stop: the log's keys changed without the authority to change them
├── NotSigned            no key that is trusted here signed it; get the right verifier key
├── OtherLog             the checkpoint is of another log than the one asked about
├── InclusionRefused     the entry is not shown to be in the log; tell the regulator
├── ConsistencyRefused   one tree does not extend the other: tell the regulator
├── QuorumMissing        too few witnesses have cosigned yet; try later
├── EntryRefused         an entry the log cannot carry
├── NotLogged            the log has never been given this entry
├── NotCovered           the entry or size lies beyond what has been signed; try later
├── LogDiverged          stop signing: what is stored is not what was signed last
├── FolderRefused        name another folder: this one holds something else than a copy
├── TileMissing          a file that the copy or server lacks; fetch it elsewhere
├── TileRefused          stop: a file that is not what was signed; the message names it
├── SourceUnreachable    the folder or server of a log could not be read; try later
├── LogBehind            stop signing: others hold a later head; restore from a full copy
├── LogInUse             stop the hub that orders the log, and repeat
├── NotCompared          wait, signing nothing: too few have said yet which head they hold
├── WitnessUnreachable   try later; if it lasts, compare keys and addresses with its operator
├── WitnessAt            repeat the request from the size the witness states
├── WitnessDisagrees     stop publishing: a witness holds a head that ours does not extend
├── ChainUnreachable     try later; if it lasts, ask the chain's node why
├── ChainRefused         the chain will not take what was sent: fund, grant, or set a higher fee
├── WrongChain           fix the settings: another chain, no contract there, or one handed over
├── ChainBehind          the chain lacks an anchor that was final: compare with another node of it
├── ChainDisagrees       stop signing: the chain holds a head that ours does not extend
├── MemoryDamaged        stop the witness: what it remembers was altered; restore it, or retire it
└── AnchorMoved          look again: another process moved the same anchor, or it cannot move so
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class LedgerError(Exception):
    """Base of all errors raised by `ledger`."""


class FormatRefused(LedgerError):
    """Bytes that do not follow their format. `where` names the place."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


class SignatureRefused(LedgerError):
    """A line that names a key we know and does not verify under it."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the signature line of {name} does not verify; the note is forged or damaged"
        )
        self.name = name


class SignatureUnchecked(LedgerError):
    """A line of a key we know, of a suite that this machine cannot compute with."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"the signature line of {name} cannot be checked: {problem}")
        self.name = name


class KeysRefused(LedgerError):
    """A document of the log's keys that is not one, or may not follow the one before."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"keys of the log: {problem}")
        self.problem = problem


class NotSigned(LedgerError):
    """No signature by any of the keys that are trusted here."""

    def __init__(self, wanted: str) -> None:
        super().__init__(f"the note carries no signature by {wanted}")
        self.wanted = wanted


class OtherLog(LedgerError):
    """A checkpoint whose origin is not a log that is trusted here."""

    def __init__(self, origin: str) -> None:
        super().__init__(f"the checkpoint is of the log {origin!r}, which is not trusted here")
        self.origin = origin


class InclusionRefused(LedgerError):
    """A proof that does not show the entry in the tree."""


class ConsistencyRefused(LedgerError):
    """A proof that does not show one tree to extend the other."""


class QuorumMissing(LedgerError):
    """Fewer witnesses have cosigned than the policy asks for."""

    def __init__(self, quorum: str, cosigned: tuple[str, ...]) -> None:
        who = ", ".join(cosigned) or "nobody"
        super().__init__(f"the policy asks for {quorum}; {who} has cosigned")
        self.quorum = quorum
        self.cosigned = cosigned


class EntryRefused(LedgerError):
    """An entry that the log cannot carry."""


class NotLogged(LedgerError):
    """The log has never been given this entry."""

    def __init__(self, digest: object) -> None:
        super().__init__(f"the log has no entry {digest}")
        self.digest = digest


class NotCovered(LedgerError):
    """An entry or a size beyond what the log has signed so far."""


class LogDiverged(LedgerError):
    """What is stored does not reproduce, or would not extend, what was signed last."""


class FolderRefused(LedgerError):
    """A folder to copy a log into that is neither empty nor a copy of one."""

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(
            f"{folder} is not a copy of a log: {problem}. Nothing was written; name a folder that "
            "is empty, or not there yet"
        )
        self.folder = folder


class TileMissing(LedgerError):
    """A file of a log that is not where it was looked for."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} is missing; take it from a full copy")
        self.path = path


class TileRefused(LedgerError):
    """A file of a log that is out of its format, or not what the log signed."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class SourceUnreachable(LedgerError):
    """The folder or the server that a log is read from gave no usable answer."""


class LogBehind(LedgerError):
    """A later head of this log exists than the database holds: the database is an old copy."""

    def __init__(self, where: str, *, held: int, stored: int) -> None:
        super().__init__(
            f"{where} holds a head of size {held} of this log, and this database ends at size "
            f"{stored}: it is an old copy, and signing from it would fork the log. Put the newest "
            "database back; without one, bring the ledger forward from a full copy that reaches "
            f"size {held}; if no copy does, open a successor log that names the last head"
        )
        self.where = where
        self.held = held
        self.stored = stored


class LogInUse(LedgerError):
    """Another process gives indices at this moment."""

    def __init__(self) -> None:
        super().__init__("a hub is ordering this log now: stop every hub process, and repeat")


class NotCompared(LedgerError):
    """Those who have not answered could know of a later head. silent: why, by name."""

    def __init__(self, silent: Mapping[str, LedgerError], missing: tuple[str, ...]) -> None:
        who = "; ".join(str(error) for error in silent.values()) or ", ".join(missing)
        super().__init__(
            "whether this database is the newest state of the log is not known yet, and nothing "
            f"is signed before: {who}"
        )
        self.silent = silent
        self.missing = missing


class WitnessUnreachable(LedgerError):
    """No answer, one outside the protocol, or one that says nothing about the head it holds."""


class WitnessAt(LedgerError):
    """The witness's last head has another size than the request assumed. size: what it states."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the witness last cosigned size {size}; send the proof from there")
        self.size = size


class WitnessDisagrees(LedgerError):
    """The witness holds a head that ours does not extend: a fork, or a restored backup here."""


class MemoryDamaged(LedgerError):
    """What a witness remembers is not what it cosigned: it cosigns nothing more."""

    def __init__(self, origin: str, problem: str) -> None:
        super().__init__(
            f"the stored head of {origin!r} was altered: {problem}. Stop this witness; restore "
            "its database if a copy of its last state exists, else retire its key"
        )
        self.origin = origin


class ChainUnreachable(LedgerError):
    """No answer from the chain's node, or one outside the protocol."""


class ChainRefused(LedgerError):
    """The node or the contract refused a transaction, and would refuse it again."""


class WrongChain(LedgerError):
    """Not the chain, or not the contract, that the settings name; or one to leave."""


class ChainBehind(LedgerError):
    """The chain does not show an anchor that was final: a node that lags, or a chain begun anew."""


class ChainDisagrees(LedgerError):
    """The chain holds a head that ours does not extend: a fork, or a restored backup here."""


class AnchorMoved(LedgerError):
    """An anchor that is not where the caller saw it, or that no event takes from there."""
