"""A log as static files, written the slow way, by whoever holds its keys: honest or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from crypto.digest import digest
from crypto.identifiers import PartyId
from crypto.keys import SigningKey
from crypto.ports import SystemRandomness
from crypto.statement import Act, ChainHead, sign_statement
from ledger.verify.checkpoint import Checkpoint, sign_checkpoint
from ledger.verify.cosignature import cosign
from ledger.verify.heads import HEADS_PER_PAGE, page_bytes
from ledger.verify.merkle import leaf_hash, root
from ledger.verify.note import COSIGNATURE, LOG_SIGNATURE, Note, VerifierKey
from ledger.verify.policy import Policy
from ledger.verify.tile_names import ENTRIES, tiles_between
from ledger.verify.tiles import bundle_bytes, subtree_root

ORIGIN = "log.test/audited"
WITNESS = "witness.test/w1"


@dataclass
class WrittenLog:
    """key: the log's. witness: whose cosignature makes the policy's quorum."""

    folder: Path
    key: SigningKey = field(default_factory=SigningKey.generate)
    witness: SigningKey = field(default_factory=SigningKey.generate)

    @property
    def policy_text(self) -> str:
        return (
            f"log {VerifierKey(ORIGIN, LOG_SIGNATURE, self.key.public)}\n"
            f"witness w1 {VerifierKey(WITNESS, COSIGNATURE, self.witness.public)}\n"
            "quorum w1\n"
        )

    @property
    def policy(self) -> Policy:
        return Policy.parse(self.policy_text.encode())

    def note(self, entries: Sequence[bytes], at: datetime | None) -> Note:
        """The head over exactly these entries, cosigned `at` a time, or by nobody."""
        head = Checkpoint(ORIGIN, len(entries), root([leaf_hash(e) for e in entries]))
        return self.sign(head, at)

    def sign(self, head: Checkpoint, at: datetime | None) -> Note:
        note = sign_checkpoint(head, self.key)
        if at is None:
            return note
        return note.with_signatures([cosign(note.text, WITNESS, self.witness, now=at)])

    def write(
        self, entries: Sequence[bytes], heads: Mapping[int, datetime], at: datetime | None
    ) -> None:
        """heads: when each earlier size was cosigned. at: when the whole was."""
        levels = [[leaf_hash(entry) for entry in entries]]
        while len(levels[-1]) >= 256:
            below = levels[-1]
            full = range(0, len(below) - len(below) % 256, 256)
            levels.append([subtree_root(b"".join(below[i : i + 256])) for i in full])
        for tile in tiles_between(0, len(entries)):
            if tile.level == ENTRIES:
                data = bundle_bytes(entries[tile.start : tile.start + tile.width])
            else:
                data = b"".join(levels[tile.level][tile.start : tile.start + tile.width])
            self.put(tile.path, data)
        notes = [self.note(entries[:size], heads[size]) for size in sorted(heads)]
        self.put_heads(notes)
        self.put("checkpoint", self.note(entries, at).to_bytes())

    def put_heads(self, notes: Sequence[Note]) -> None:
        for page, start in enumerate(range(0, len(notes), HEADS_PER_PAGE)):
            some = notes[start : start + HEADS_PER_PAGE]
            self.put(f"heads/{page}", page_bytes([note.to_bytes() for note in some]))

    def put(self, path: str, data: bytes) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


@dataclass
class Actor:
    """A party that signs statements, one after the other, at whatever time it likes."""

    name: str
    key: SigningKey = field(default_factory=SigningKey.generate)
    head: ChainHead = field(default_factory=ChainHead)

    @property
    def id(self) -> PartyId:
        return PartyId(f"pty_{digest(self.name.encode()).raw.hex()[:32]}")

    def says(self, act: Act, at: datetime) -> bytes:
        signed = sign_statement(
            act,
            actor=self.id,
            head=self.head,
            signer=self.key,
            now=at,
            randomness=SystemRandomness(),
        )
        self.head = signed.head
        return signed.entry
