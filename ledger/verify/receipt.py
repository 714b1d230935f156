"""The audit of a receipt: an entry, its `.tlog-proof` and a policy say who vouches for what.

*Acknowledged*: the log's operator signed a head that holds the entry, and can no longer deny it.
*Witnessed*: the policy's quorum cosigned that head, so nobody is shown another history. A policy
that asks for no witness makes no receipt a witnessed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from crypto.digest import digest
from crypto.record import encode_time
from ledger.errors import LedgerError, QuorumMissing
from ledger.verify.chain import Times
from ledger.verify.checkpoint import Checkpoint, open_checkpoint
from ledger.verify.merkle import leaf_hash, verify_inclusion
from ledger.verify.note import Note
from ledger.verify.policy import NO_QUORUM, CheckedCheckpoint, Policy
from ledger.verify.proof import Proof
from ledger.verify.report import Check, Report, phrase, try_to

NOT_PROVED = ("not_proved.signature", "not_proved.rest", "not_proved.truth")


def audit_receipt(entry: bytes, proof: bytes, policy: Policy) -> Report:
    """What the proof shows about `entry`. Raises nothing: bytes that are no proof are a failed
    check. `about["status"]` is witnessed, acknowledged or refused."""
    about: dict[str, object] = {
        "entry": str(digest(entry)),
        "status": "refused",
        "quorum": policy.quorum,
    }
    checks: list[Check] = []
    try:
        parsed = Proof.parse(proof)
        note = Note.parse(parsed.checkpoint)
        checkpoint = Checkpoint.parse(note.text)
        checks.append(Check("receipt.readable", True, "receipt"))
        subject = f"head {checkpoint.size} of {checkpoint.origin}"
        about |= {"log": checkpoint.origin, "size": checkpoint.size, "index": parsed.index}
    except LedgerError as error:
        note_ = phrase("reason", reason=error)
        checks.append(Check("receipt.readable", False, "receipt", note_))
        return _report(about, checks)
    signed = try_to("log.signed", subject, lambda: _signed(note, policy))
    logged = try_to(
        "entry.logged", f"entry {parsed.index}", lambda: _logged(entry, parsed, checkpoint)
    )
    checks += [signed, logged]
    if not signed.passed:
        return _report(about, checks)
    if logged.passed:
        about["status"] = "acknowledged"
    try:
        checked = policy.check(parsed.checkpoint)
    except QuorumMissing as error:
        who = ", ".join(error.cosigned) or "-"
        lacking = phrase("quorum.missing", quorum=error.quorum, who=who)
        checks.append(Check("log.witnessed", None, subject, lacking))
        return _report(about, checks)
    except LedgerError as error:
        checks.append(Check("log.witnessed", False, subject, phrase("reason", reason=error)))
        return _report(about, checks)
    about["cosigned"] = {name: encode_time(time) for name, time in _in_time(checked)}
    if policy.quorum == NO_QUORUM:
        checks.append(Check("log.witnessed", None, subject, phrase("quorum.none")))
        return _report(about, checks)
    who = ", ".join(f"{name} {encode_time(time)}" for name, time in _in_time(checked))
    checks.append(Check("log.witnessed", True, subject, phrase("quorum.met", who=who)))
    if logged.passed:
        about["status"] = "witnessed"
    return _report(about, checks)


def quorum_times(checked: CheckedCheckpoint, policy: Policy) -> Times | None:
    """Between which times the quorum cosigned. None where the policy asks for no witness and none
    stated a time, and without a quorum.

    Whoever is honest in a quorum is bounded by its last line, and by its first, whatever clocks
    the others have: so of all lines, the earliest that make a quorum bound from above, and the
    latest that make one from below.
    """
    lines = _in_time(checked)
    above, below = _complete(lines, policy), _complete(lines[::-1], policy)
    if above is None or below is None:
        return None
    return Times(min(below, above), max(below, above))  # fewer than half may be a quorum


def _complete(lines: Sequence[tuple[str, datetime]], policy: Policy) -> datetime | None:
    """The time at which these lines, one after the other, have made a quorum."""
    have: list[str] = []
    for name, time in lines:
        have.append(name)
        if policy.met_by(have):
            return time
    return None


def _in_time(checked: CheckedCheckpoint) -> list[tuple[str, datetime]]:
    return sorted(checked.cosigned.items(), key=lambda item: (item[1], item[0]))


def _signed(note: Note, policy: Policy) -> None:
    open_checkpoint(note, policy.log_keys)


def _logged(entry: bytes, proof: Proof, head: Checkpoint) -> None:
    verify_inclusion(leaf_hash(entry), proof.index, head.size, proof.hashes, head.root)


def _report(about: dict[str, object], checks: list[Check]) -> Report:
    title = phrase(f"title.receipt.{about['status']}")
    return Report(title, about, checks, NOT_PROVED)
