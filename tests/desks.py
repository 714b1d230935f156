"""Commands run against a whole exchange in one process: each member has a settings file, and
whenever a command waits, everybody's processes do one step."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from api.cli import desk
from api.cli.main import main
from api.client.hub import JobNote
from api.database import bring_up_to_date, open_engine, read_only
from api.folder import PartyFolder
from api.hub.bodies import JobNoteBody, ProductBody, ProductSummary
from api.settings import NodeSettings
from api.wiring import node as wiring
from api.wiring.node import Opened
from crypto.identifiers import DealId, JobId, ProductId
from crypto.ports import SystemRandomness
from exchange.node.adapters.sql import SqlNodeStore
from exchange.node.model import Identity
from tests.world import DirectHub, World


class DeskHub(DirectHub):
    """What `HubClient` offers beside the node's port, straight from the hub's service."""

    world: World

    def close(self) -> None:
        return

    def search(self, text: str = "") -> Iterator[ProductSummary]:
        self._reach()
        for product in self.service.catalogue(text, after=None, limit=100).products:
            yield ProductSummary.of(product)

    def product(self, product: ProductId) -> ProductBody:
        self._reach()
        return ProductBody.of(self.service.product(product))

    def job_events(self, job: JobId, *, after: int | None = None) -> Iterator[JobNote]:
        seen = 0
        while True:
            self._reach()
            found = self.service.notes(self.caller, job, after=seen)
            for note in found.notes:
                seen = note.number
                yield JobNote(note.number, JobNoteBody.of(note))
            if found.over:
                return
            self.world.round()

    def bundle(self, deal: DealId) -> bytes:
        self._reach()
        return self.service.bundle(self.caller, deal)


@dataclass
class Ran:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)


@dataclass
class Desks:
    """The members' desks. stopped: whether nobody's process does anything while commands wait."""

    world: World
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    stopped: bool = False

    def __post_init__(self) -> None:
        self.monkeypatch.setattr(wiring, "open_node", self._open)
        self.monkeypatch.setattr(desk, "pause", self._pause)
        for name in ("UNSEEN_SETTINGS", "UNSEEN_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
            self.monkeypatch.delenv(name, raising=False)
        for name in self.world.members:
            self.write_settings(name)

    def write_settings(self, name: str) -> None:
        folder = self.world.path / name
        (folder / "policy").write_text("")
        (folder / "settings.toml").write_text(
            'folder = "."\nhub_url = "http://hub.test"\npolicy_file = "policy"\n'
            f'operator = "{self.world.operator.party}"\n'
            f'registrars = ["{self.world.registrar.public}"]\n'
        )

    def settings(self, name: str) -> Path:
        return self.world.path / name / "settings.toml"

    def run(self, name: str, *words: object, answer: str = "") -> Ran:
        """`exchange …` at a member's desk. answer: what the person types."""
        return self.plain(*words, "--settings", self.settings(name), answer=answer)

    def plain(self, *words: object, answer: str = "") -> Ran:
        self.capsys.readouterr()
        self.monkeypatch.setattr(sys, "argv", ["exchange", *map(str, words)])
        self.monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        code = 0
        try:
            main()
        except SystemExit as error:
            code = int(error.code or 0)
        printed = self.capsys.readouterr()
        return Ran(code, printed.out, printed.err)

    def ok(self, name: str, *words: object) -> Any:
        """The JSON document of a command that must succeed."""
        ran = self.run(name, *words, "--json")
        assert ran.code == 0, ran.err
        return ran.json

    def reopen(self, name: str) -> None:
        """The member's node process, started again on what is in its folder."""
        folder = PartyFolder(self.world.path / name)
        self.world.members[name] = self.world.open_member(name, folder)

    def _pause(self) -> None:
        if not self.stopped:
            self.world.round()

    def _open(self, settings: NodeSettings) -> Opened:
        folder = PartyFolder(settings.folder)
        folder.finish_rotation()
        engine = open_engine(f"sqlite:///{settings.folder}/node.db")
        bring_up_to_date(engine, "node")
        store = SqlNodeStore(engine, read_only(engine))
        with store.transaction() as tx:
            tx.add_party(folder.party)
        document = folder.party.document
        identity = Identity(
            party=document.party,
            document=folder.party.digest,
            signing=folder.signing,
            sealing=folder.sealing_keys,
            agreement=folder.agreement_keys,
            operator=self.world.operator.party,
            link_address="",
            registrars=(self.world.registrar.public,),
            clock=self.world.clock,
            randomness=SystemRandomness(),
        )
        hub = DeskHub(self.world.service, document.party)
        hub.world = self.world
        hub.down = self._is_down(document.party)
        return Opened(settings, folder, engine, store, identity, hub)  # type: ignore[arg-type]

    def _is_down(self, party: str) -> bool:
        members: Sequence[Any] = list(self.world.members.values())
        return any(member.id == party and member.hub.down for member in members)
