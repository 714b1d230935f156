"""Watching the ledger: is everything this party said in it, once, in order, and does it only grow?

The hub adds order and time to statements and nothing else. If it drops one, this node finds no
proof of it; if it rewrites history, the new head does not extend the last one this node saw; if
this node itself was restored from an old backup, the ledger knows more of it than it does itself,
and it must not work, for its counts of runs and epsilon are old as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from crypto.statement import ChainHead, read_statement
from exchange import evidence
from exchange.errors import EvidenceMissing, HubUnreachable, RestoredBackup, UnknownSubject
from exchange.node import outbox
from exchange.node.model import Alarm, Identity, Sent
from exchange.node.ports import Hub, NodeStore
from ledger.errors import LedgerError
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.merkle import verify_consistency
from ledger.verify.policy import NO_QUORUM, CheckedCheckpoint, Policy
from ledger.verify.proof import Proof, verify_proof
from registry.errors import NotFound
from registry.party import read_party

# A statement the hub took in must be under a signed head after this long.
PATIENCE: Final = timedelta(seconds=60)
# A hub that answers everything but questions after proofs is away only in name.
PATIENCE_WITHOUT_HUB: Final = timedelta(minutes=10)
BATCH: Final = 64
_CHECKPOINT: Final = "checkpoint"


@dataclass(frozen=True)
class Watch:
    """policy: whose log, and which witnesses; heads are believed on the log's signature here,
    because a receipt says by itself whether a quorum has cosigned."""

    store: NodeStore
    hub: Hub
    identity: Identity
    policy: Policy

    def require_not_restored(self) -> None:
        """At start. Raises RestoredBackup, or EvidenceMissing if the hub knows another chain."""
        self._require_current_keys()
        theirs = self.hub.chain()
        with self.store.reading() as tx:
            own = tx.head()
        if theirs.next_seq > own.next_seq:
            raise RestoredBackup(
                f"the ledger holds {theirs.next_seq} statements of this party and this node knows "
                f"{own.next_seq}: it was restored from an old backup. Its counts of runs and "
                "epsilon are old too. Restore a newer backup, or rotate this party's identity"
            )
        with self.store.reading() as tx:
            _require_kept(tx.taken_in(), theirs)
        if theirs.next_seq == 0:
            return
        with self.store.reading() as tx:
            entry = tx.entry(theirs.next_seq - 1)
        if entry is None or read_statement(entry).digest != theirs.last:
            raise EvidenceMissing(
                f"the hub's statement {theirs.next_seq - 1} of this party is not the one it signed"
            )

    def _require_current_keys(self) -> None:
        """A backup from before a rotation holds keys that the hub takes nothing from any more."""
        try:
            theirs = read_party(self.hub.party(self.identity.party)).document
        except (UnknownSubject, NotFound):
            return  # not registered yet
        with self.store.reading() as tx:
            own = tx.party(self.identity.document)
        if own is not None and theirs.seq > own.document.seq:
            raise RestoredBackup(
                f"the ledger holds party document {theirs.seq} of this party and this folder has "
                f"{own.document.seq}: it was restored from a backup from before its keys were "
                "rotated. Restore a newer backup"
            )

    def look(self) -> int:
        """Check the newest head and the proofs of what was sent. Returns how many were proven.

        Raises HubUnreachable; when it has lasted for long, that is an alarm as well. What does
        not hold becomes an alarm, in the ledger and here.
        """
        try:
            return self._look()
        except HubUnreachable:
            self._note_withheld()
            raise

    def _look(self) -> int:
        with self.store.reading() as tx:
            taken_in = tx.taken_in()  # before asking: what is sent meanwhile is not missed
        try:
            _require_kept(taken_in, self.hub.chain())
        except EvidenceMissing as error:
            self._alarm("StatementMissing", str(error))
        self._follow()
        with self.store.reading() as tx:
            waiting = tx.unproven(BATCH)
        tied: set[bytes] = set()
        return sum(self._prove(sent, tied) for sent in waiting)

    def _note_withheld(self) -> None:
        with self.store.reading() as tx:
            waiting = tx.unproven(1)
        for sent in waiting:
            if self.identity.clock.now() - sent.sent_at > PATIENCE_WITHOUT_HUB:
                self._alarm(
                    "ProofWithheld",
                    f"{sent.kind} about {sent.subject} ({sent.digest}) was taken in at "
                    f"{sent.sent_at:%H:%M:%S} and the hub has answered no question after it since",
                )

    def _prove(self, sent: Sent, tied: set[bytes]) -> bool:
        """tied: heads known to lie in the history that this node follows."""
        text = self.hub.receipt(sent.digest)
        if text is None:
            if self.identity.clock.now() - sent.sent_at > PATIENCE:
                self._alarm(
                    "StatementMissing",
                    f"{sent.kind} about {sent.subject} ({sent.digest}) was taken in at "
                    f"{sent.sent_at:%H:%M:%S} and no signed head covers it",
                )
            return False
        try:
            proof = Proof.parse(text)
            head = verify_proof(proof, sent.entry, self._any_head).checkpoint
            if proof.checkpoint not in tied:
                self._require_same_history(head)
                tied.add(proof.checkpoint)
        except (LedgerError, EvidenceMissing) as error:
            self._alarm("ProofRefused", f"the hub's proof for {sent.digest}: {error}")
            return False
        with self.store.transaction() as tx:
            tx.mark_proven(sent.digest)
        return True

    def _follow(self) -> None:
        """The newest head must be signed by the log and extend the last one seen."""
        text = self.hub.checkpoint()
        if not text:
            return
        with self.store.reading() as tx:
            before = tx.remark(_CHECKPOINT)
        try:
            new = self._checked(text)
            if before is not None:
                old = self._checked(before).checkpoint
                size = new.checkpoint.size
                if size < old.size:
                    raise EvidenceMissing(f"the log shrank from {old.size} to {size} entries")
                hashes = self.hub.consistency(old.size, size)
                verify_consistency(old.size, old.root, size, new.checkpoint.root, hashes)
        except (LedgerError, EvidenceMissing) as error:
            self._alarm("LogForked", f"the newest head does not hold: {error}")
            return
        with self.store.transaction() as tx:
            tx.set_remark(_CHECKPOINT, text)

    def _require_same_history(self, head: Checkpoint) -> None:
        """A proof's head must be a past or later state of the log that `_follow` follows: else
        the log could keep one history for proofs and another for everybody to see."""
        with self.store.reading() as tx:
            followed = tx.remark(_CHECKPOINT)
        if followed is None:
            raise EvidenceMissing("the hub proves a statement and shows no head")
        seen = self._checked(followed).checkpoint
        old, new = (head, seen) if head.size <= seen.size else (seen, head)
        hashes = self.hub.consistency(old.size, new.size)
        verify_consistency(old.size, old.root, new.size, new.root, hashes)

    def _checked(self, text: str) -> CheckedCheckpoint:
        return self._any_head.check(text.encode())

    @property
    def _any_head(self) -> Policy:
        return replace(self.policy, quorum=NO_QUORUM)

    def _alarm(self, kind: str, words: str) -> None:
        with self.store.transaction() as tx:
            if tx.add_alarm(Alarm(kind, words, self.identity.clock.now())):
                act = evidence.alarmed(self.identity.party, kind=kind, words=words)
                outbox.say(act, [], tx=tx, identity=self.identity)


def _require_kept(taken_in: int, theirs: ChainHead) -> None:
    """Raises EvidenceMissing if the hub knows fewer statements of this party than the `taken_in`
    that it has answered for: it was restored from an old backup, or it leaves them out."""
    if theirs.next_seq < taken_in:
        raise EvidenceMissing(
            f"the hub took in {taken_in} statements of this party and now knows {theirs.next_seq}: "
            "it lost records, or leaves them out. Keep this node's records and tell the operator "
            "and the regulator"
        )
