"""Two notes of one log: do they contradict each other, and who signed what they say?

A log that shows two histories has signed both. Two heads of one size with two roots are evidence
by themselves; of two sizes, the tiles of the larger show what the smaller must have been. The
report is self-contained: whoever holds the log's public key can follow it without asking us.
"""

from __future__ import annotations

from ledger.errors import ConsistencyRefused, LedgerError, SourceUnreachable, TileMissing
from ledger.tree import consistency_path, cover, range_hash
from ledger.verify.checkpoint import Checkpoint, open_checkpoint
from ledger.verify.merkle import EMPTY_ROOT, verify_consistency
from ledger.verify.note import Note, verify
from ledger.verify.policy import Policy
from ledger.verify.report import Check, Phrase, Report, phrase
from ledger.verify.text import encode_base64
from ledger.verify.tiles import SignedTree, TileSource, open_tree

NOT_PROVED = ("not_proved.why", "not_proved.other_heads")
NAMES = ("A", "B")


def audit_equivocation(
    first: bytes, second: bytes, policy: Policy, source: TileSource | None
) -> Report:
    """Whether both notes can be of one history.

    source: tiles of the larger head, where the sizes differ; without them nothing can be said of
    two sizes. `about["contradict"]` is true, false or None for *not shown*; where tiles show it,
    `about["expected_root"]` and `about["proof"]` are the root that the smaller head should have,
    and the consistency proof from there to the larger.
    """
    checks: list[Check] = []
    heads: list[Checkpoint] = []
    about: dict[str, object] = {"contradict": None}
    for name, data in zip(NAMES, (first, second), strict=True):
        check, head = _open(name, data, policy)
        checks.append(check)
        if head is not None:
            heads.append(head)
            about[f"note_{name.lower()}"] = data.decode("utf-8")
    if len(heads) == 2:
        checks.append(_compare(heads[0], heads[1], source, about))
    verdict = {True: "fork", False: "one", None: "unknown"}[_contradict(about)]
    return Report(phrase(f"title.equivocation.{verdict}"), about, checks, NOT_PROVED)


def _contradict(about: dict[str, object]) -> bool | None:
    found = about["contradict"]
    return found if isinstance(found, bool) else None


def _open(name: str, data: bytes, policy: Policy) -> tuple[Check, Checkpoint | None]:
    """A note accuses nobody unless a key that the auditor trusts signed it."""
    subject = f"note {name}"
    try:
        note = Note.parse(data)
        head = open_checkpoint(note, policy.log_keys)
        signers = verify(note, [key for key in policy.log_keys if key.name == head.origin])
        cosigners = policy.cosigned_by(note)
    except LedgerError as error:
        return Check("note.signed", False, subject, phrase("reason", reason=error)), None
    said = phrase(
        "note.says",
        origin=head.origin,
        size=head.size,
        root=encode_base64(head.root),
        signers=", ".join(f"{key.name}+{key.key_id.hex()}" for key in signers),
        cosigners=", ".join(sorted(cosigners)) or "-",
    )
    return Check("note.signed", True, subject, said), head


def _compare(
    a: Checkpoint, b: Checkpoint, source: TileSource | None, about: dict[str, object]
) -> Check:
    def found(contradict: bool | None, note: Phrase) -> Check:
        about["contradict"] = contradict
        passed = None if contradict is None else not contradict
        return Check("notes.agree", passed, "notes A and B", note)

    if a.origin != b.origin:
        return found(False, phrase("notes.other_logs"))
    old, new = sorted((a, b), key=lambda head: head.size)
    if old.size == new.size:
        key = "notes.same" if old.root == new.root else "notes.fork"
        return found(old.root != new.root, phrase(key, size=old.size))
    if old.size == 0:
        if old.root == EMPTY_ROOT:
            return found(False, phrase("notes.empty"))
        return found(True, phrase("notes.not_empty"))
    if source is None:
        return found(None, phrase("notes.no_tiles", old=old.size, new=new.size))
    try:
        tree = open_tree(source, new)
        expected, proof = _prefix(tree, old.size)
    except (TileMissing, SourceUnreachable) as error:
        return found(None, phrase("reason", reason=error))
    except LedgerError as error:
        # Tiles that the larger head did not sign say nothing of the smaller one.
        return found(None, phrase("notes.other_tiles", reason=error))
    about["expected_root"] = encode_base64(expected)
    about["proof"] = [encode_base64(value) for value in proof]
    try:
        verify_consistency(old.size, old.root, new.size, new.root, proof)
    except ConsistencyRefused:
        return found(True, phrase("notes.rewritten", old=old.size, new=new.size))
    return found(False, phrase("notes.extends", old=old.size, new=new.size))


def _prefix(tree: SignedTree, size: int) -> tuple[bytes, tuple[bytes, ...]]:
    """The root that the first `size` entries have, and the proof that leads from there."""

    def value(part: tuple[int, int]) -> bytes:
        return range_hash(part, {node: tree.node(node) for node in cover(part)})

    return value((0, size)), tuple(value(part) for part in consistency_path(size, tree.size))
