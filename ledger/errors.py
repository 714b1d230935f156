"""Every error of this package is a LedgerError; each leaf is something a caller does differently.

LedgerError
├── FormatRefused        fix the bytes: the message names the place
├── SignatureRefused     stop: a key we know did not sign this
├── NotSigned            no key that is trusted here signed it; get the right verifier key
├── OtherLog             the checkpoint is of another log than the one asked about
├── InclusionRefused     the entry is not shown to be in the log; tell the regulator
├── ConsistencyRefused   one tree does not extend the other: tell the regulator
├── QuorumMissing        too few witnesses have cosigned yet; try later
├── EntryRefused         an entry the log cannot carry
├── NotLogged            the log has never been given this entry
├── NotCovered           the entry or size lies beyond what has been signed; try later
├── LogDiverged          stop signing: what is stored is not what was signed last
├── WitnessUnreachable   try later; if it lasts, compare keys and addresses with its operator
├── WitnessAt            repeat the request from the size the witness states
└── WitnessDisagrees     stop publishing: a witness holds a head that ours does not extend
"""

from __future__ import annotations


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


class WitnessUnreachable(LedgerError):
    """No answer, one outside the protocol, or one that says nothing about the head it holds."""


class WitnessAt(LedgerError):
    """The witness's last head has another size than the request assumed. size: what it states."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the witness last cosigned size {size}; send the proof from there")
        self.size = size


class WitnessDisagrees(LedgerError):
    """The witness holds a head that ours does not extend: a fork, or a restored backup here."""
