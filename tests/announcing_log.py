"""A log on which parties announce themselves and speak, with the documents that it announces."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from api.folder import PartyFolder
from crypto.digest import Digest
from crypto.ports import SystemRandomness
from crypto.statement import Act, ChainHead, sign_statement
from exchange.audit.roots import Roots
from exchange.evidence import alarmed
from registry.evidence import party_registered, party_updated
from registry.party import Role
from tests.written_logs import WrittenLog

START = datetime(2026, 3, 4, tzinfo=UTC)


@dataclass
class AnnouncingLog:
    """log: as files, in `folder/log`. served: the documents, in `folder/served`."""

    folder: Path
    log: WrittenLog = field(init=False)
    parties: dict[str, PartyFolder] = field(default_factory=dict)
    entries: list[bytes] = field(default_factory=list)
    _heads: dict[str, ChainHead] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.log = WrittenLog(self.folder / "log")
        self.served.mkdir(parents=True)
        (self.folder / "policy").write_text(self.log.policy_text)

    @property
    def served(self) -> Path:
        return self.folder / "served"

    @property
    def roots(self) -> Roots:
        found = (party.party.document.identity.fingerprint for party in self.parties.values())
        return Roots(frozenset(found), ())

    def joins(self, name: str) -> Digest:
        """Returns the name of the document."""
        folder = PartyFolder.create(self.folder / name, name, [Role.HOLDER], now=START)
        self.parties[name], self._heads[name] = folder, ChainHead()
        return self._announces(name, party_registered(folder.party))

    def rotates(self, name: str) -> Digest:
        before = self.parties[name].party
        after = self.parties[name].rotate(now=START)
        self.parties[name] = PartyFolder(self.folder / name)
        return self._announces(name, party_updated(after, before))

    def speaks(self, name: str, times: int = 1) -> None:
        party = self.parties[name].party.document.party
        for _ in range(times):
            self.says(name, alarmed(party, kind="Test", words="look"))

    def says(self, name: str, act: Act) -> None:
        folder = self.parties[name]
        signed = sign_statement(
            act,
            actor=folder.party.document.party,
            head=self._heads[name],
            signer=folder.signing,
            now=START + timedelta(milliseconds=len(self.entries)),
            randomness=SystemRandomness(),
        )
        self._heads[name] = signed.head
        self.entries.append(signed.entry)

    def publish(self) -> None:
        self.log.write(self.entries, {}, START + timedelta(seconds=2))

    def _announces(self, name: str, act: Act) -> Digest:
        self.says(name, act)
        party = self.parties[name].party
        (self.served / party.digest.raw.hex()).write_bytes(party.envelope.to_bytes())
        return party.digest
