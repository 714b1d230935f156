"""Whom a node believes when parties rotate their keys and only a registrar was ever pinned."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from api.database import bring_up_to_date, open_engine, read_only
from api.folder import PartyFolder
from crypto.digest import Digest
from crypto.identifiers import PartyId
from crypto.keys import SigningKey
from crypto.ports import SystemRandomness
from exchange.errors import HubUnreachable
from exchange.node import trust
from exchange.node.adapters.sql import SqlNodeStore
from exchange.node.model import Identity
from registry.errors import NotFound, NotTrusted
from registry.party import Role, SignedParty, endorse, sign_party
from tests.world import START, TestClock


@dataclass
class Registry:
    """The hub as far as it hands out party documents; `newest` is what it says is current."""

    documents: dict[Digest, SignedParty] = field(default_factory=dict)
    newest: SignedParty | None = None
    down: bool = False

    def add(self, party: SignedParty) -> None:
        self.documents[party.digest] = party
        self.newest = party

    def party(self, party: PartyId) -> bytes:
        if self.newest is None:
            raise NotFound(party)
        return self.newest.envelope.to_bytes()

    def document(self, digest: Digest) -> bytes:
        if self.down:
            raise HubUnreachable("down")
        if digest not in self.documents:
            raise NotFound(str(digest))
        return self.documents[digest].envelope.to_bytes()


@dataclass
class Scene:
    """A node that pinned a registrar, and a laboratory that the registrar vouched for once."""

    store: SqlNodeStore
    identity: Identity
    hub: Registry
    lab: PartyFolder

    def believed(self) -> SignedParty:
        hub: Any = self.hub
        with self.store.transaction() as tx:
            party = self.lab.party.document.party
            return trust.refresh(party, tx=tx, hub=hub, identity=self.identity)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    registrar = SigningKey.generate()
    own = PartyFolder.create(tmp_path / "own", "Company", [Role.CONSUMER], now=START)
    lab = PartyFolder.create(tmp_path / "lab", "Lab", [Role.HOLDER], now=START)
    lab.keep(endorse(lab.party, registrar))
    engine = open_engine(f"sqlite:///{tmp_path}/node.db")
    bring_up_to_date(engine, "node")
    identity = Identity(
        party=own.party.document.party,
        document=own.party.digest,
        signing=own.signing,
        sealing=own.sealing_keys,
        agreement=own.agreement_keys,
        operator=own.party.document.party,
        link_address="",
        registrars=(registrar.public,),
        clock=TestClock(),
        randomness=SystemRandomness(),
    )
    hub = Registry()
    hub.add(lab.party)
    return Scene(SqlNodeStore(engine, read_only(engine)), identity, hub, lab)


@pytest.mark.parametrize("met_before", [True, False])
def test_a_party_that_rotated_is_believed_on_what_its_registrar_said_before(
    scene: Scene, met_before: bool
) -> None:
    if met_before:
        scene.believed()
    for days in (1, 2):
        scene.hub.add(scene.lab.rotate(now=START + timedelta(days=days)))
    assert scene.believed() == scene.lab.party


@pytest.mark.parametrize("met_before", [True, False])
@pytest.mark.parametrize(
    "change", [{"name": "National Laboratory"}, {"roles": (Role.HOLDER, Role.REGULATOR)}]
)
def test_a_registrar_did_not_vouch_for_another_name_or_role(
    scene: Scene, met_before: bool, change: dict[str, Any]
) -> None:
    if met_before:
        scene.believed()
    rotated = scene.lab.rotate(now=START)
    scene.hub.add(sign_party(replace(rotated.document, **change), scene.lab.identity))
    with pytest.raises(NotTrusted):
        scene.believed()


def test_the_hub_cannot_stand_in_for_an_earlier_document(scene: Scene, tmp_path: Path) -> None:
    """It serves a document of its own making as the one that was endorsed."""
    endorsed = scene.lab.party
    rotated = scene.lab.rotate(now=START)
    stranger = PartyFolder.create(tmp_path / "stranger", "Lab", [Role.HOLDER], now=START)
    scene.hub.add(rotated)
    scene.hub.documents[endorsed.digest] = stranger.party
    with pytest.raises(NotTrusted):
        scene.believed()
    del scene.hub.documents[endorsed.digest]
    with pytest.raises(NotTrusted):
        scene.believed()


def test_a_stranger_that_names_a_believed_document_as_its_own_is_not_believed(
    scene: Scene, tmp_path: Path
) -> None:
    stranger = PartyFolder.create(tmp_path / "stranger", "Lab", [Role.HOLDER], now=START)
    forged = sign_party(
        replace(stranger.party.document, seq=1, previous=scene.lab.party.digest),
        stranger.identity,
    )
    scene.hub.newest = forged
    with pytest.raises(NotTrusted):
        scene.believed()
    with scene.store.transaction() as tx, pytest.raises(NotTrusted):
        hub: Any = scene.hub
        trust.refresh(forged.document.party, tx=tx, hub=hub, identity=scene.identity)


def test_a_hub_that_is_away_decides_nothing(scene: Scene) -> None:
    scene.hub.add(scene.lab.rotate(now=START))
    scene.hub.down = True
    with pytest.raises(HubUnreachable):
        scene.believed()
