"""The audit of the exchange's whole log: `ledger.verify.log`, with everybody's keys and acts.

Party documents say whose key signs what; they come from a folder, or from whoever serves them by
digest, and are worth what the identity keys that signed them are. What statements amount to is
replayed in `exchange.audit.public`; what stands in plans, agreements and openings is not public,
and is said to be not opened: `audit deal` reads it from a bundle.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from crypto.digest import Digest
from crypto.envelope import MAX_ENVELOPE_BYTES
from crypto.errors import CryptoError
from crypto.identifiers import PartyId
from crypto.keys import PublicKey
from exchange.audit.chains import KEY_CHANGES
from exchange.audit.public import Job, PublicReplay
from exchange.audit.roots import Roots
from ledger.errors import SourceUnreachable, TileMissing, TileRefused
from ledger.verify.chain import Times
from ledger.verify.log import Entry, Tally, Timing, audit_log, report_log
from ledger.verify.policy import Policy
from ledger.verify.report import Report, phrase
from ledger.verify.tiles import HttpSource
from registry.errors import DocumentRefused, RegistryError
from registry.evidence import REGISTERED
from registry.party import SignedParty, read_party, require_successor, require_trusted

NOT_PROVED: Final = (
    "not_proved.inputs",
    "not_proved.honest",
    "not_proved.collusion",
    "not_proved.outside",
    "not_proved.other_heads",
)
MAX_LATE: Final = (
    10_000  # late statements that are remembered, to see whether anybody relied on one
)


class Documents(Protocol):
    """Where party documents are read. Nothing that comes from one is trusted."""

    def read(self, name: Digest) -> bytes | None:
        """A document's bytes; None if there is none. Raises SourceUnreachable."""
        ...


DOCUMENTS: Final = "documents"  # the folder of them in a full copy of a log, and in a bundle


def document_file(folder: Path, name: Digest) -> Path:
    """Where a folder holds a document: the 64 hexadecimal digits of its digest."""
    return folder / name.raw.hex()


class FolderDocuments:
    """Files named by their digests, as in a bundle's `documents/`, or in a full copy's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: Digest) -> bytes | None:
        try:
            with document_file(self._folder, name).open("rb") as file:
                return file.read(MAX_ENVELOPE_BYTES + 1)
        except FileNotFoundError:
            if self._folder.is_dir():
                return None
            # A disk that is not mounted must not pass for documents that nobody serves.
            raise SourceUnreachable(f"there is no folder {self._folder}") from None


class HttpDocuments:
    """A hub's `/v1/documents`, or any server that answers `<address>/sha256:<digest>`."""

    def __init__(self, url: str) -> None:
        self._source = HttpSource(url)

    def read(self, name: Digest) -> bytes | None:
        try:
            return self._source.fetch(str(name), MAX_ENVELOPE_BYTES)
        except (TileMissing, TileRefused):  # or more bytes than a document can have
            return None


def read_named(name: Digest, data: bytes | None) -> SignedParty | None:
    """The party document of this name, as its identity key signed it. None for all other bytes:
    the log names the digest of what is signed alone, so they are nobody's word, and no more than
    what a server sends that errs or spoils a signature."""
    try:
        party = None if data is None else read_party(data)
    except (CryptoError, RegistryError):
        return None
    return party if party is not None and party.digest == name else None


def open_documents(place: str) -> Documents:
    if place.startswith(("http://", "https://")):
        return HttpDocuments(place)
    return FolderDocuments(Path(place))


def documents_beside(log: str) -> str | None:
    """The documents of a full copy, as `exchange audit mirror --documents` keeps them."""
    folder = Path(log) / DOCUMENTS
    return str(folder) if folder.is_dir() else None


def audit_whole_log(
    place: str,
    policy: Policy,
    roots: Roots,
    documents: Documents,
    *,
    workers: int | None = None,
) -> Report:
    """Everything that a whole log shows to somebody who holds nobody's documents but parties'.

    place: the log's address or folder. Raises SourceUnreachable, FormatRefused.
    """
    tally = Tally()
    everybody = Everybody(documents, roots, tally)
    about, tally = audit_log(place, policy, tally=tally, reader=everybody, workers=workers)
    return report_log(about, tally, NOT_PROVED)


class Everybody:
    """A Reader (ledger.verify.log): knows whose key it is, and what follows from what.

    Memory: each party's newest document, and up to MAX_LATE late statements.
    """

    def __init__(self, documents: Documents, roots: Roots, tally: Tally) -> None:
        self._documents = documents
        self._roots = roots
        self._tally = tally
        self._newest: dict[PartyId, SignedParty] = {}  # the newest that is at hand
        # Parties with a later document that is not: which key is theirs nobody can tell, and one
        # that was revoked must not be theirs again.
        self._gaps: set[PartyId] = set()
        self._believed: set[PartyId] = set()
        self._announced: SignedParty | None = None
        self._new_keys: list[tuple[PartyId, PublicKey]] = []
        self._late: OrderedDict[bytes, Entry] = OrderedDict()
        self._forgotten = False
        self._replay = PublicReplay(tally)

    def key(self, entry: Entry) -> PublicKey | None:
        self._announced = None
        if entry.place == 0 and entry.type != REGISTERED:
            # So begins no hub's log; and with nobody to be its operator, nobody would be judged.
            why = phrase("public.no_operator")
            self._tally.fails("party.document", entry.name, why, index=0)
        if entry.type in KEY_CHANGES:
            # Announced under the key that it brings, so that a lost key can be replaced.
            self._announced = self._announcement(entry)
            return None if self._announced is None else self._announced.document.signing
        known = None if entry.actor in self._gaps else self._newest.get(entry.actor)
        return None if known is None else known.document.signing

    def new_keys(self) -> Sequence[tuple[PartyId, PublicKey]]:
        found, self._new_keys = self._new_keys, []
        return found

    def unheard(self, entry: Entry) -> None:
        self._replay.unheard(entry)

    @property
    def operator(self) -> PartyId | None:
        return self._replay.operator

    def job(self, subject: str) -> Job | None:
        """A job whose price is held, and neither paid nor given back yet."""
        return self._replay.job(subject)

    @property
    def seen(self) -> datetime | None:
        """When a quorum last saw the log, at the earliest."""
        return self._replay.seen

    @property
    def followed(self) -> datetime | None:
        """The same of the heads before the newest that it saw, which nobody can renew."""
        return self._replay.followed

    def owed_since(self, job: Job, finish_by: datetime | None) -> datetime | None:
        return self._replay.owed_since(job, finish_by)

    def heard(self, entry: Entry, timing: Timing, witnessed: int) -> None:
        if self._announced is not None:
            self._key_change(entry, self._announced)
        elif timing is Timing.LATE:
            self._came_late(entry)
        # Anybody may name a late statement; only who took it in as having an effect is at fault.
        by_operator = entry.actor == self._replay.operator
        for name in entry.after if self._late and by_operator else ():
            if (late := self._late.get(name)) is not None:
                why = phrase("time.relied_on", time=late.time, index=entry.place)
                self._tally.fails("entry.time", late.name, why, index=late.place)
        self._replay.heard(entry, timing, witnessed)

    def witnessed(self, size: int, times: Times) -> None:
        self._replay.witnessed(size, times)

    def finish(self) -> None:
        self._replay.finish()
        if self._forgotten:
            note = phrase("time.many_late", count=f"{MAX_LATE:,}")
            self._tally.unopened("entry.time", "log", note)
        if self._replay.operator is None:
            self._tally.unopened("job.public", "log", phrase("public.not_judged"))
        self._tally.unopened("documents.private", "log", phrase("public.documents"))

    def _announcement(self, entry: Entry) -> SignedParty | None:
        """The document that may be its party's next. The hub takes in no other."""
        new = self._read(entry)
        if new is None:
            self._gaps.add(entry.actor)
            if entry.place == 0 or entry.actor == self._replay.operator:
                # It serves them itself: else by hiding one it would be judged no more.
                why = phrase("party.not_served")
                self._tally.fails("party.document", entry.name, why, index=entry.place)
            return None
        try:
            if new.document.party != entry.actor:
                raise DocumentRefused("party", "is another party's")
            known_to_follow = self._require_follows(new, self._newest.get(entry.actor))
        except DocumentRefused as error:
            why = phrase("reason", reason=error)
            self._tally.fails("party.document", entry.name, why, index=entry.place)
            return None
        if not known_to_follow:
            self._tally.unopened("party.document", entry.name, phrase("party.gap"))
            return None
        return new

    def _require_follows(self, new: SignedParty, known: SignedParty | None) -> bool:
        """Whether `new` is shown to be the next document; False where one in between is missing.
        Raises DocumentRefused if it is not."""
        number = new.document.seq
        if new.document.party not in self._gaps:
            if known is not None:
                require_successor(new, known)
            elif number != 0:
                raise DocumentRefused("seq", "of a first document must be 0")
            return True
        if known is None:
            return number > 0
        if new.document.identity != known.document.identity:
            raise DocumentRefused("identity", "differs from the party's registered identity key")
        if number <= known.document.seq:
            raise DocumentRefused("seq", f"does not follow document {known.document.seq}")
        return number > known.document.seq + 1

    def _key_change(self, entry: Entry, announced: SignedParty) -> None:
        """A party document counts whenever it comes: the identity key vouches for it."""
        if (entry.type == REGISTERED) != (announced.document.seq == 0):
            # Logged without effect: whoever sends it must not be able to accuse the hub.
            self._tally.unopened("party.document", entry.name, phrase("party.no_effect"))
            return
        known = self._newest.get(entry.actor)
        self._tally.passes("party.document")
        self._newest[entry.actor] = announced
        self._gaps.discard(entry.actor)
        self._new_keys.append((entry.actor, announced.document.signing))
        self._trust(entry, announced, known)
        if entry.place == 0:
            # The hub's first act is to log its operator's own document, before it takes in any.
            self._replay.operator = entry.actor

    def _trust(self, entry: Entry, new: SignedParty, known: SignedParty | None) -> None:
        before = [known] if known is not None and entry.actor in self._believed else []
        try:
            require_trusted(
                new,
                fingerprints=self._roots.fingerprints,
                registrars=self._roots.registrars,
                believed=before,
            )
        except (RegistryError, CryptoError) as error:
            self._believed.discard(entry.actor)
            why = phrase("reason", reason=error)
            self._tally.unopened("party.trusted", entry.name, why)
            return
        self._believed.add(entry.actor)
        self._tally.passes("party.trusted")

    def _came_late(self, entry: Entry) -> None:
        """The hub logs what arrives late without effect; its own acts cannot arrive late."""
        if entry.actor == self._replay.operator:
            why = phrase("time.old", time=entry.time)
            self._tally.fails("entry.time", entry.name, why, index=entry.place)
            return
        self._tally.unopened("entry.time", entry.name, phrase("time.late"))
        self._late[entry.digest] = entry._replace(data=b"")
        if len(self._late) > MAX_LATE:
            self._late.popitem(last=False)
            self._forgotten = True

    def _read(self, entry: Entry) -> SignedParty | None:
        if len(entry.outputs) != 1:
            return None
        name = Digest(entry.outputs[0])
        return read_named(name, self._documents.read(name))
