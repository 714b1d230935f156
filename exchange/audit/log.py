"""The log's part: which heads the policy accepts, which entries are under them, and when.

Everything here is the work of the log's operator, who signs heads, and of the witnesses, who
cosign only what extends all that they saw before. Nothing here reads a statement's content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from crypto.digest import digest
from crypto.errors import CryptoError
from crypto.record import encode_time
from crypto.statement import SignedStatement, Statement, read_statement
from exchange.audit.bundle import Bundle
from ledger.errors import LedgerError
from ledger.verify.chain import Times
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.merkle import leaf_hash, verify_consistency, verify_inclusion
from ledger.verify.note import Note
from ledger.verify.policy import Policy
from ledger.verify.proof import Proof
from ledger.verify.receipt import quorum_times
from ledger.verify.report import Check, phrase


@dataclass(frozen=True)
class Head:
    """A head of the bundle. accepted: by the policy. times: when its quorum saw it, by the
    witnesses' clocks; None where no witness of the policy stated one."""

    checkpoint: Checkpoint
    accepted: bool
    times: Times | None


@dataclass(frozen=True)
class Said:
    """A statement in the log. index: the place of its entry."""

    index: int
    signed: SignedStatement

    @property
    def statement(self) -> Statement:
        return self.signed.statement

    @property
    def subject(self) -> str:
        """How a check names it."""
        return entry_subject(self.index, self.statement.type)


def entry_subject(index: int, kind: str = "") -> str:
    return f"entry {index} {kind}".rstrip()


def check_manifest(bundle: Bundle) -> list[Check]:
    """That the manifest tells the truth about its entries. Signed by nobody: whoever altered an
    entry can list it anew, and is then caught by its proof."""
    checks = []
    for listed in bundle.manifest.entries:
        found = digest(bundle.entries[listed.index])
        same = found == listed.digest
        note = None if same else phrase("digest.differs", found=found)
        checks.append(Check("bundle.entries", same, entry_subject(listed.index), note))
    if bundle.manifest.left_out:
        note = phrase("bundle.left_out", count=f"{bundle.manifest.left_out:,}")
        checks.append(Check("bundle.left_out", None, "bundle", note))
    return checks


def check_heads(bundle: Bundle, policy: Policy) -> tuple[list[Check], list[Head]]:
    """That every head is signed by a log the policy trusts and cosigned by its quorum. The heads
    come back by size; the last is the bundle's checkpoint, unless that cannot be read at all."""
    checks: list[Check] = []
    heads: list[Head] = []
    last, check = _head(bundle.checkpoint, policy, "checkpoint")
    if last is not None and last.accepted:
        seen = "-" if last.times is None else encode_time(last.times.last)
        told = phrase("head.as_of", size=f"{last.checkpoint.size:,}", time=seen)
        check = replace(check, note=told)
    checks.append(check)
    for size, note in sorted(bundle.heads.items()):
        subject = f"head {size}"
        head, check = _head(note, policy, subject)
        if head is None:
            checks.append(check)
        elif head.checkpoint.size != size:
            wrong = phrase("head.size", filed=size, stated=head.checkpoint.size)
            checks.append(Check("log.head", False, subject, wrong))
        elif last is not None and (
            size >= last.checkpoint.size or head.checkpoint.origin != last.checkpoint.origin
        ):
            checks.append(Check("log.head", False, subject, phrase("head.beyond")))
        else:
            checks.append(check)
            heads.append(head)
    if last is not None:
        heads.append(last)
    return checks, heads


def check_consistency(bundle: Bundle, heads: Sequence[Head]) -> list[Check]:
    """That each head extends the one before it, so that all of them are of one history. Follows
    from hashes alone; witnesses have checked the same, and here nobody needs to believe them."""
    checks = []
    wanted = {}
    for old, new in pairwise(head.checkpoint for head in heads):
        wanted[old.size, new.size] = (old, new)
    for (old_size, new_size), (old, new) in wanted.items():
        subject = f"heads {old_size} to {new_size}"
        proof = bundle.consistency.get((old_size, new_size))
        if proof is None:
            checks.append(Check("log.consistent", False, subject, phrase("head.no_proof")))
            continue
        try:
            verify_consistency(old_size, old.root, new_size, new.root, proof)
            checks.append(Check("log.consistent", True, subject))
        except LedgerError as error:
            note = phrase("reason", reason=error)
            checks.append(Check("log.consistent", False, subject, note))
    for pair in sorted(bundle.consistency):
        if pair not in wanted:
            subject = f"heads {pair[0]} to {pair[1]}"
            checks.append(Check("log.consistent", False, subject, phrase("head.stray_proof")))
    return checks


def check_entries(bundle: Bundle, heads: Sequence[Head]) -> tuple[list[Check], list[Said]]:
    """That every entry is a statement and is in the log, at its index, under the checkpoint.

    Returns the statements that are, in the order of the log: nothing else counts as evidence.
    """
    checks: list[Check] = []
    said: list[Said] = []
    for index in sorted(bundle.entries):
        entry = bundle.entries[index]
        try:
            signed = read_statement(entry)
        except CryptoError as error:
            note = phrase("reason", reason=error)
            checks.append(Check("entry.readable", False, entry_subject(index), note))
            continue
        statement = Said(index, signed)
        checks.append(Check("entry.readable", True, statement.subject))
        logged = _logged(bundle, statement, heads[-1] if heads else None)
        checks.append(logged)
        if logged.passed is not False:
            said.append(statement)
    return checks, said


def _head(note: bytes, policy: Policy, subject: str) -> tuple[Head | None, Check]:
    try:
        checkpoint = Checkpoint.parse(Note.parse(note).text)
    except LedgerError as error:
        return None, Check("log.head", False, subject, phrase("reason", reason=error))
    try:
        checked = policy.check(note)
    except LedgerError as error:
        refused = Check("log.head", False, subject, phrase("reason", reason=error))
        return Head(checkpoint, False, None), refused
    return Head(checkpoint, True, quorum_times(checked, policy)), Check("log.head", True, subject)


def _logged(bundle: Bundle, said: Said, head: Head | None) -> Check:
    def no(key: str, **facts: object) -> Check:
        return Check("entry.logged", False, said.subject, phrase(key, **facts))

    try:
        proof = Proof.parse(bundle.proofs[said.index])
        if proof.index != said.index:
            return no("proof.index", index=proof.index)
        if head is None or proof.checkpoint != bundle.checkpoint:
            return no("proof.other_head")
        verify_inclusion(
            leaf_hash(said.signed.entry),
            proof.index,
            head.checkpoint.size,
            proof.hashes,
            head.checkpoint.root,
        )
    except LedgerError as error:
        return no("reason", reason=error)
    if not head.accepted:
        return Check("entry.logged", None, said.subject, phrase("head.not_accepted"))
    return Check("entry.logged", True, said.subject)
