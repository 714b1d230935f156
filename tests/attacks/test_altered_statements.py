"""A party whose statements differ in one field from what they should say accuses nobody else.

Whatever its hub makes of such a statement (it refuses it, logs it without effect, or takes it as
it is), the operator and the other parties go on by their rules, and no audit may find a fault with
what *they* said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from crypto.digest import Digest, digest
from crypto.errors import CryptoError
from crypto.identifiers import PartyId
from crypto.statement import Act
from exchange.audit.voices import VOICES
from exchange.audit.whole import audit_whole_log
from exchange.errors import ExchangeError
from exchange.node import outbox
from exchange.node.model import Identity
from exchange.query.explanation import Language
from ledger.verify.report import Check, Report, phrase
from tests.integration.test_audit_deal import audit
from tests.integration.test_audit_log import Exchange
from tests.world import Deal, World, a_deal, a_world

pytestmark = pytest.mark.slow

OTHER = digest(b"nothing that anybody said")
ALTERATIONS: Final[Mapping[str, Callable[[Act], Act]]] = {
    "no inputs": lambda act: replace(act, inputs=()),
    "inputs twice": lambda act: replace(act, inputs=act.inputs * 2),
    "an input more": lambda act: replace(act, inputs=(*act.inputs, OTHER)),
    "an input before": lambda act: replace(act, inputs=(OTHER, *act.inputs)),
    "no outputs": lambda act: replace(act, outputs=()),
    "an output more": lambda act: replace(act, outputs=(*act.outputs, OTHER)),
    "names nothing": lambda act: replace(act, after=()),
    "names all twice": lambda act: replace(act, after=act.after * 2),
    "names one more": lambda act: replace(act, after=(*act.after, OTHER)),
    "another policy": lambda act: replace(act, policy_digest=OTHER),
    "no body": lambda act: replace(act, body={}),
}
OF_JOBS: Final = [
    ("clinic", "job.admitted"),
    ("clinic", "job.started"),
    ("clinic", "job.sealed"),
    ("clinic", "job.refused"),
    ("research", "job.submitted"),
    ("research", "job.cancelled"),
]
OF_NEGOTIATIONS: Final = [
    ("clinic", "negotiation.agreed"),
    ("clinic", "negotiation.finalized"),
    ("research", "negotiation.requested"),
    ("research", "negotiation.verified"),
]


class Alterer:
    """Changes what one party's node says of one type. `done`: whether it had anything to change."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str, alteration: str) -> None:
        self._kind = kind
        self._alter = ALTERATIONS[alteration]
        self._say = outbox.say
        self.party: PartyId | None = None
        self.done = False
        monkeypatch.setattr(outbox, "say", self.say)

    def say(
        self, act: Act, documents: Sequence[bytes], *, identity: Identity, **more: Any
    ) -> Digest:
        if identity.party == self.party and act.type == self._kind:
            altered = self._alter(act)
            self.done |= altered != act
            act = altered
        return self._say(act, documents, identity=identity, **more)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> World:
    return a_world(tmp_path_factory.mktemp("begun"))


@pytest.fixture(scope="module")
def agreed(tmp_path_factory: pytest.TempPathFactory) -> Deal:
    return a_deal(a_world(tmp_path_factory.mktemp("agreed")))


@pytest.fixture
def worlds() -> Iterator[list[World]]:
    made: list[World] = []
    yield made
    for world in made:
        world.close()


@pytest.mark.parametrize("alteration", ALTERATIONS)
@pytest.mark.parametrize(("name", "kind"), OF_JOBS)
def test_what_is_altered_about_a_job_accuses_nobody_else(
    agreed: Deal,
    worlds: list[World],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    kind: str,
    alteration: str,
) -> None:
    deal = agreed.copied_to(tmp_path / "world")
    world = deal.world
    worlds.append(world)
    alterer = Alterer(monkeypatch, kind, alteration)
    alterer.party = world.members[name].id
    with refused():
        if kind in ("job.refused", "job.cancelled"):
            job = deal.submit()
            world.settle()
            act = world.members[name].desk
            act.cancel(job) if kind == "job.cancelled" else act.refuse(job, "no")
        else:
            deal.approve_standing()
            deal.submit()
    settle(world)
    if not alterer.done:
        pytest.skip("there is nothing to alter so")
    require_nobody_accused(world, deal, tmp_path / "log", alterer.party)


@pytest.mark.parametrize("alteration", ALTERATIONS)
@pytest.mark.parametrize(("name", "kind"), OF_NEGOTIATIONS)
def test_what_is_altered_about_a_negotiation_accuses_nobody_else(
    begun: World,
    worlds: list[World],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    kind: str,
    alteration: str,
) -> None:
    world = begun.copied_to(tmp_path / "world")
    worlds.append(world)
    alterer = Alterer(monkeypatch, kind, alteration)
    alterer.party = world.members[name].id
    deal = None
    with refused():
        deal = a_deal(world)
        deal.approve_standing()
        deal.submit()
    settle(world)
    if not alterer.done:
        pytest.skip("there is nothing to alter so")
    require_nobody_accused(world, deal, tmp_path / "log", alterer.party)


def refused() -> suppress:
    """By the party's own node, its desk or the other's: then nothing more is said."""
    return suppress(ExchangeError, CryptoError)


def settle(world: World) -> None:
    with refused():
        world.settle()
    while world.hub_step():  # what the others said is ordered all the same
        pass


def require_nobody_accused(world: World, deal: Deal | None, folder: Path, party: PartyId) -> None:
    found = Exchange(world, folder)
    found.publish()
    said_by = [statement.actor for statement in found.statements()]
    whole = audit_whole_log(str(found.folder), world.policy, found.roots, found.documents)
    key = found.keys[party].public.key_id
    assert accused(whole, said_by, party, key) == []
    if deal is not None:
        assert accused(audit(world, deal), said_by, party, key) == []


def accused(report: Report, said_by: Sequence[PartyId], party: PartyId, key: str) -> list[str]:
    """The failures that name no entry of this party's, nor the party or its key."""
    found = []
    for check in report.failed:
        words = f"{check.subject}: {check.words(VOICES[Language.ENGLISH])}"
        if not names(words, said_by, party, key):
            found.append(f"{check.id} {words}")
    return found


def names(words: str, said_by: Sequence[PartyId], party: PartyId, key: str) -> bool:
    """Whether words say that it was this party: by its name, its key, or an entry of its own."""
    entries = re.findall(r"\b(?:entry|index) ([0-9]+)\b", words)
    return party in words or key in words or any(said_by[int(n)] == party for n in entries)


def test_an_accusation_would_be_seen() -> None:
    clinic, operator = PartyId("pty_" + "1" * 32), PartyId("pty_" + "2" * 32)
    checks = [
        Check("job.public", False, "entry 1 job.admitted"),
        Check("job.public", False, "entry 0 job.released"),
        Check("agreement.accepted", False, "agr_1", phrase("reason", reason=f"by {clinic}")),
        Check("agreement.accepted", False, "agr_2"),
        Check("job.public", None, "entry 0 funds.held"),
    ]
    report = Report(phrase("title.deal", deal="dea_1"), {}, checks, (), [])
    found = accused(report, [operator, clinic], clinic, "0123456789abcdef")
    assert [line.split(":")[0] for line in found] == [
        "job.public entry 0 job.released",
        "agreement.accepted agr_2",
    ]
