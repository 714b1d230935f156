"""The hub's routes over a real server on loopback."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from api.client.transport import MessageSignature
from api.database import open_engine
from api.folder import PartyFolder
from api.http import protocol
from api.http.server import serving
from api.hub import openapi
from crypto import record, sealing
from crypto.digest import Digest, digest
from crypto.errors import BadSignature, Malformed, UnknownKey
from crypto.identifiers import DealId, PartyId
from crypto.keys import Signer, SigningKey
from crypto.ports import SystemRandomness
from crypto.record import Amount
from crypto.statement import ChainHead, read_statement
from exchange import openings
from exchange.audit.roots import Roots
from exchange.audit.whole import HttpDocuments, audit_whole_log
from exchange.errors import ChainBroken, HubUnreachable, NotYours, UnknownSubject
from exchange.evidence import alarmed
from exchange.hub import background
from exchange.jobs import JobState
from exchange.node.deposits import deposits
from ledger.copies import mirror
from ledger.errors import InclusionRefused, NotCovered
from ledger.verify.heads import parse_page
from ledger.verify.merkle import verify_consistency
from ledger.verify.note import Note
from ledger.verify.policy import NO_QUORUM
from ledger.verify.proof import Proof, verify_proof
from ledger.verify.tiles import FolderSource, HttpSource, open_tree
from pricing.errors import MoneyRefused
from pricing.evidence import Movement
from registry.errors import DocumentRefused, NotFound
from registry.evidence import party_registered, party_updated
from registry.party import Role
from tests.hub_server import HttpWorld, Speaker, WireHub, an_http_world, client, hub_app
from tests.world import TestClock, World, a_deal


@dataclass
class Hall:
    """A hub with a web server and nobody in it yet."""

    world: World
    app: FastAPI
    url: str
    path: Path
    stack: ExitStack

    @property
    def clock(self) -> TestClock:
        return self.world.clock

    def newcomer(self, name: str = "newcomer", role: Role = Role.HOLDER) -> Speaker:
        speaker = Speaker.new(self.path / name, self.url, self.clock, role)
        self.stack.callback(speaker.hub.close)
        return speaker

    def speaker(self, name: str = "speaker") -> Speaker:
        speaker = self.newcomer(name)
        speaker.register()
        return speaker

    def operator(self) -> WireHub:
        return self.client(self.world.operator.party, self.world.operator.signer)

    def client(self, party: PartyId | None, signer: Signer | None) -> WireHub:
        made = client(self.url, party, signer, self.clock)
        self.stack.callback(made.close)
        return made


@pytest.fixture
def hall(tmp_path: Path, database_url: str) -> Iterator[Hall]:
    world = World(tmp_path, hub_url=database_url)
    engine = open_engine(database_url)
    app = hub_app(world.service, engine, world.clock)
    with ExitStack() as stack:
        running = stack.enter_context(serving(app))
        yield Hall(world, app, running.url, tmp_path, stack)
    engine.dispose()


@pytest.fixture
def lite_hall(tmp_path: Path) -> Iterator[Hall]:
    """On SQLite only: for what does not depend on the database."""
    world = World(tmp_path)
    engine = open_engine(f"sqlite:///{tmp_path}/hub.db")
    app = hub_app(world.service, engine, world.clock)
    with ExitStack() as stack:
        running = stack.enter_context(serving(app))
        yield Hall(world, app, running.url, tmp_path, stack)
    engine.dispose()


@dataclass
class Finished:
    world: HttpWorld
    job: Any
    deal: Any


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """One deal that ran to its end over HTTP; tests only read from it."""
    with an_http_world(tmp_path_factory.mktemp("deal")) as world:
        deal = a_deal(world)
        deal.approve_standing()
        job = deal.submit()
        world.settle()
        yield Finished(world, job, deal)


def request(
    url: str,
    method: str,
    path: str,
    *,
    by: Speaker | None = None,
    headers: dict[str, str] | None = None,
    body: object = None,
) -> httpx2.Response:
    """One request as a stranger, or signed by a speaker."""
    auth = None
    if by is not None:
        auth = MessageSignature(by.id, by.folder.signing, by.clock, SystemRandomness())
    content = None if body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json"} if body is not None else {}
    with httpx2.Client(base_url=url, trust_env=False, auth=auth, timeout=30) as http:
        return http.request(method, path, headers={**sent, **(headers or {})}, content=content)


# A whole deal


def test_a_whole_deal_runs_over_http(finished: Finished) -> None:
    found = finished.world.members["research"].hub.job(finished.job)
    assert (found.state, found.settled, found.final) == (JobState.RELEASED, True, True)
    assert finished.world.available("clinic") == 1000


def test_nodes_find_their_statements_proven_by_the_proofs_they_fetch(finished: Finished) -> None:
    for member in finished.world.members.values():
        member.node.look()
        with member.node.store.reading() as tx:
            assert list(tx.alarms()) == []
            assert list(tx.unproven(100)) == []


# Who is calling


def test_every_signed_operation_refuses_an_unsigned_request(lite_hall: Hall) -> None:
    document = openapi.document()
    signed = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if not operation.get("security"):
                continue
            signed += 1
            filled = (
                path.replace("{job}", "job_" + "0" * 32)
                .replace("{deal}", "dea_" + "0" * 32)
                .replace("{digest}", "sha256:" + "0" * 64)
                .replace("{currency}", "CNY")
            )
            body = {"entry": "", "documents": []} if method == "post" else None
            answer = request(lite_hall.url, method.upper(), filled, body=body)
            assert (answer.status_code, answer.json()["code"]) == (401, "signature_missing"), path
    assert signed == 13


def test_what_everybody_may_read_needs_no_signature(finished: Finished) -> None:
    world = finished.world
    stranger = client(world.url, None, None, world.clock)
    party = world.members["clinic"].folder.party
    assert stranger.party(party.document.party) == party.envelope.to_bytes()
    assert stranger.document(party.digest) == party.envelope.to_bytes()
    assert [found.name for found in stranger.search("lab")] == ["lab data"]
    assert stranger.product(finished.deal.lab_product.id).key == "person"
    assert stranger.checkpoint().startswith("unseen.test/log\n")
    stranger.close()


def test_a_newcomer_is_checked_against_the_document_that_it_brings(hall: Hall) -> None:
    newcomer = hall.newcomer()
    assert newcomer.hub.chain() == ChainHead()
    said = newcomer.register()
    assert newcomer.hub.chain() == said.head
    assert newcomer.hub.inbox(after=0, wait_s=0) == []


def test_a_newcomer_is_a_stranger_everywhere_else(lite_hall: Hall) -> None:
    newcomer = lite_hall.newcomer()
    with pytest.raises(HubUnreachable, match="not the current signing key"):
        newcomer.hub.inbox(after=0, wait_s=0)
    with pytest.raises(HubUnreachable, match="not the current signing key"):
        newcomer.cry("I am not registered")


def test_nobody_registers_another_party_with_a_key_of_their_own(lite_hall: Hall) -> None:
    victim, thief = lite_hall.newcomer("victim"), lite_hall.newcomer("thief")
    entry = victim.signed(party_registered(victim.folder.party)).entry
    document = victim.folder.party.envelope.to_bytes()
    as_victim = lite_hall.client(victim.id, thief.folder.signing)
    with pytest.raises(HubUnreachable, match="not the current signing key"):
        as_victim.submit(entry, [document])
    own = thief.folder.party.envelope.to_bytes()
    named = replace(thief, head=ChainHead()).signed(party_registered(thief.folder.party)).entry
    with pytest.raises(HubUnreachable):
        as_victim.submit(named, [own])
    assert lite_hall.client(victim.id, victim.folder.signing).chain() == ChainHead()


def test_a_party_that_lost_its_signing_key_brings_the_next_one(hall: Hall) -> None:
    speaker = hall.speaker()
    before = speaker.folder.party
    after = speaker.folder.rotate(now=hall.clock.now())
    renewed = replace(speaker, hub=hall.client(speaker.id, speaker.folder.signing))
    renewed.say(party_updated(after, before), after.envelope.to_bytes())
    renewed.cry("still here")
    assert renewed.hub.chain().next_seq == 3
    with pytest.raises(HubUnreachable, match="not the current signing key"):
        speaker.hub.inbox(after=0, wait_s=0)


def test_a_key_that_was_replaced_cannot_speak_by_bringing_its_old_document(hall: Hall) -> None:
    """Else whoever stole a retired key could put rubbish into its party's chain."""
    speaker = hall.speaker()
    before, stolen = speaker.folder.party, speaker.folder.signing
    after = speaker.folder.rotate(now=hall.clock.now())
    renewed = replace(speaker, hub=hall.client(speaker.id, speaker.folder.signing))
    renewed.say(party_updated(after, before), after.envelope.to_bytes())
    thief = replace(
        renewed,
        folder=_WithKey(speaker.folder, stolen),  # type: ignore[arg-type]
        hub=hall.client(speaker.id, stolen),
    )
    for act in (party_registered(before), alarmed(speaker.id, kind="Test", words="rubbish")):
        with pytest.raises((DocumentRefused, HubUnreachable)):
            thief.say(act, before.envelope.to_bytes())
    assert renewed.hub.chain() == renewed.head


@dataclass
class _WithKey:
    """A folder that answers with another signing key."""

    folder: PartyFolder
    signing: SigningKey

    @property
    def party(self) -> Any:
        return self.folder.party


# Statements


def test_a_statement_of_another_party_is_refused(hall: Hall) -> None:
    one, other = hall.speaker("one"), hall.speaker("other")
    statement = other.signed(alarmed(other.id, kind="Test", words="mine"))
    with pytest.raises(NotYours):
        one.hub.submit(statement.entry, [])
    assert other.hub.chain() == other.head


def test_a_statement_that_another_key_signed_is_refused(lite_hall: Hall) -> None:
    speaker = lite_hall.speaker()
    forged = replace(speaker, folder=_WithKey(speaker.folder, SigningKey.generate()))  # type: ignore[arg-type]
    statement = forged.signed(alarmed(speaker.id, kind="Test", words="not mine"))
    with pytest.raises(UnknownKey):
        speaker.hub.submit(statement.entry, [])
    right = speaker.signed(alarmed(speaker.id, kind="Test", words="mine"))
    bent = bytearray(right.entry)
    at = right.entry.index(b'"sig":"') + 8
    bent[at] = ord("A") if bent[at] != ord("A") else ord("B")
    with pytest.raises(BadSignature):
        speaker.hub.submit(bytes(bent), [])
    assert speaker.hub.chain() == speaker.head


def test_a_repeated_statement_gets_its_answer_again_and_is_logged_once(hall: Hall) -> None:
    speaker = hall.speaker()
    statement = speaker.cry("once")
    first = speaker.hub.submit(statement.entry, [])
    again = speaker.hub.submit(statement.entry, [])
    assert first == again
    assert first.digest == statement.digest
    assert first.links["receipt"] == f"/v1/log/receipts/{statement.digest}"
    assert speaker.hub.chain() == statement.head


def test_a_statement_that_leaves_one_out_is_told_which_comes_next(hall: Hall) -> None:
    speaker = hall.speaker()
    skipped = speaker.signed(alarmed(speaker.id, kind="Test", words="left out"))
    ahead = replace(speaker, head=skipped.head).signed(alarmed(speaker.id, kind="T", words="next"))
    with pytest.raises(ChainBroken) as refused:
        speaker.hub.submit(ahead.entry, [])
    assert (refused.value.expected_seq, refused.value.found_seq) == (1, 2)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"entry": "e30", "documents": []}, ""),
        ({"entry": "not base64!", "documents": []}, "/entry"),
        ({"entry": "e30"}, "/documents"),
        ({"entry": "e30", "documents": [], "more": 1}, "/more"),
    ],
)
def test_bytes_that_are_no_statement_are_refused_by_field(
    lite_hall: Hall, body: dict[str, Any], where: str
) -> None:
    speaker = lite_hall.speaker()
    answer = request(lite_hall.url, "POST", "/v1/statements", by=speaker, body=body)
    assert answer.status_code == 422
    if where:
        assert answer.json()["errors"][0]["pointer"] == where


def test_a_document_that_the_statement_does_not_name_is_refused(lite_hall: Hall) -> None:
    speaker = lite_hall.speaker()
    statement = speaker.signed(alarmed(speaker.id, kind="Test", words="a stowaway"))
    with pytest.raises(Malformed, match="documents"):
        speaker.hub.submit(statement.entry, [b"rows of patients"])


def test_a_client_of_an_older_protocol_is_told_so(
    lite_hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "OLDEST_CLIENT", 2)
    with pytest.raises(HubUnreachable, match="version 1; this server needs 2 or later"):
        lite_hall.newcomer().register()


# The inbox


def test_one_who_waits_hears_at_once_what_is_delivered(lite_hall: Hall) -> None:
    """A wait of 25 seconds ends because of the delivery: its thread is joined long before."""
    speaker = lite_hall.speaker()
    deliver = _deposit(lite_hall, speaker)
    assert _heard(speaker, deliver) == "funds.deposited"


def test_one_who_waits_hears_what_another_process_of_the_hub_delivered(hall: Hall) -> None:
    speaker = hall.speaker()

    def deliver() -> None:  # not through this server: nothing rings its bell
        from pricing.money import Money

        world = hall.world
        money = Money("TEST", Amount(5))
        world.service.fund(world.operator.party, speaker.id, money, key="other-process")

    assert _heard(speaker, deliver) == "funds.deposited"


def _deposit(hall: Hall, speaker: Speaker) -> Callable[[], None]:
    return lambda: _ignore(
        hall.operator().deposit(speaker.id, "TEST", Amount(5), key="deposit-0001")
    )


def _ignore(_: object) -> None:
    return


def _heard(speaker: Speaker, deliver: Callable[[], None]) -> str:
    from crypto.statement import read_statement

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: speaker.hub.inbox(after=0, wait_s=25))
        time.sleep(0.3)
        assert not waiting.done()
        deliver()
        found = waiting.result(timeout=10)
    assert [message.number for message in found] == [1]
    return read_statement(found[0].entry).statement.type


def test_fifty_can_wait_while_others_are_served(lite_hall: Hall) -> None:
    """More than there are worker threads: nobody who waits holds one."""
    speaker = lite_hall.speaker()
    with ThreadPoolExecutor(50) as pool:
        waiting = [pool.submit(lambda: speaker.hub.inbox(after=9, wait_s=2)) for _ in range(50)]
        time.sleep(0.5)
        assert speaker.hub.chain() == speaker.head
        assert not all(one.done() for one in waiting)
        assert all(one.result(timeout=30) == [] for one in waiting)


def test_a_stopping_server_lets_those_who_wait_go(tmp_path: Path) -> None:
    world = World(tmp_path)
    engine = open_engine(f"sqlite:///{tmp_path}/hub.db")
    with ThreadPoolExecutor(1) as pool:
        with serving(hub_app(world.service, engine, world.clock)) as running:
            speaker = Speaker.new(tmp_path / "speaker", running.url, world.clock)
            speaker.register()
            waiting = pool.submit(lambda: speaker.hub.inbox(after=0, wait_s=25))
            time.sleep(0.3)
            assert not waiting.done()
        assert waiting.done()  # the server stopped within its grace
        assert waiting.result() == []


# Secrecy


def test_only_the_receiver_fetches_the_sealed_parts(finished: Finished) -> None:
    world = finished.world
    found = world.members["research"].hub.job(finished.job)
    for part in found.results.values():
        assert digest(world.members["research"].hub.part(finished.job, part)) == part
        for stranger in ("clinic", "lab", "regulator"):
            with pytest.raises(NotYours):
                world.members[stranger].hub.part(finished.job, part)


def test_plans_agreements_and_parts_are_not_public_documents(finished: Finished) -> None:
    world = finished.world
    research = world.members["research"]
    job = research.hub.job(finished.job)
    secret = [job.plan, *job.results.values()]
    for negotiation in research.hub.negotiations():
        assert negotiation.agreement is not None
        secret += [negotiation.agreement, negotiation.proposal]
    for name in secret:
        for member in world.members.values():
            with pytest.raises((NotFound, UnknownSubject)):
                member.hub.document(name)


def test_a_job_is_shown_to_its_parties_and_to_the_regulator_that_its_agreements_name(
    finished: Finished, tmp_path: Path
) -> None:
    world = finished.world
    for name in ("research", "clinic", "lab", "regulator"):
        assert world.members[name].hub.job(finished.job).id == finished.job
    for role in (Role.HOLDER, Role.REGULATOR):  # a role is what the party itself says
        stranger = Speaker.new(tmp_path / role.value, world.url, world.clock, role)
        stranger.register()
        with pytest.raises(NotYours):
            stranger.hub.job(finished.job)
        with pytest.raises(NotYours):
            list(stranger.hub.job_events(finished.job))
        with pytest.raises(NotYours):
            stranger.hub.bundle(finished.deal.deal)
        assert stranger.hub.jobs() == []
        assert stranger.hub.negotiations() == []
        stranger.hub.close()


def test_the_consumer_and_the_regulator_of_a_deal_get_its_bundle_and_no_holder_does(
    finished: Finished,
) -> None:
    world = finished.world
    for name in ("research", "regulator"):
        assert world.members[name].hub.bundle(finished.deal.deal)[:2] == b"PK"
    for name in ("clinic", "lab"):  # the other holder's price is in it
        with pytest.raises(NotYours):
            world.members[name].hub.bundle(finished.deal.deal)
    unknown = DealId.new(world.clock.now(), SystemRandomness())
    with pytest.raises(UnknownSubject):
        world.members["research"].hub.bundle(unknown)


def test_a_balance_is_its_owners_alone(finished: Finished) -> None:
    world = finished.world
    assert world.members["research"].hub.balance("TEST").available_minor == 8000
    assert world.members["lab"].hub.balance("TEST").available_minor == 1000


@dataclass(frozen=True)
class LyingAboutMoney:
    """The hub, with another opening: of other money, sealed to the right key for this statement."""

    hub: Any
    party: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.hub, name)

    def opening(self, statement: Digest) -> bytes:
        plain = sealing.open_sealed(
            self.hub.opening(statement), self.party.sealing, context=openings.context(statement)
        )
        movement = record.from_bytes(Movement, plain)
        legs = tuple(replace(leg, amount_minor=Amount(1)) for leg in movement.legs)
        return sealing.seal(
            record.to_bytes(replace(movement, legs=legs)),
            self.party.party.document.sealing,
            context=openings.context(statement),
        )


def test_a_party_opens_its_own_deposits_and_nobody_elses(finished: Finished) -> None:
    research, lab = (finished.world.members[name] for name in ("research", "lab"))
    (found,) = deposits(research.hub, research.node.store, research.node.identity)
    assert [leg.amount_minor for leg in found.movement.legs] == [10_000]
    lying = LyingAboutMoney(research.hub, research.folder)
    with pytest.raises(BadSignature):
        list(deposits(lying, research.node.store, research.node.identity))
    with pytest.raises(UnknownSubject):
        lab.hub.opening(found.statement)
    with pytest.raises(UnknownSubject):
        research.hub.opening(digest(b"no statement"))
    assert list(deposits(lab.hub, lab.node.store, lab.node.identity)) == []


# Watching a job


def test_a_watched_job_tells_its_whole_story_and_ends(finished: Finished) -> None:
    notes = list(finished.world.members["research"].hub.job_events(finished.job))
    stages = [found.note.stage for found in notes]
    assert stages[0] == "reserved"
    assert [s for s in stages if s in ("admitted", "sealed")] == ["admitted"] * 2 + ["sealed"] * 2
    assert "released" in stages and "settled" in stages
    numbers = [found.number for found in notes]
    assert numbers == sorted(set(numbers))


def test_a_watcher_resumes_after_the_last_note_that_it_saw(finished: Finished) -> None:
    hub = finished.world.members["research"].hub
    notes = list(hub.job_events(finished.job))
    for seen in (0, len(notes) // 2, len(notes) - 1):
        rest = list(hub.job_events(finished.job, after=notes[seen].number))
        assert rest == notes[seen + 1 :]


def test_a_job_that_has_not_changed_is_not_sent_again(finished: Finished) -> None:
    member = finished.world.members["research"]
    by = Speaker(member.folder, finished.world.clock, member.hub)  # type: ignore[arg-type]
    path = f"/v1/jobs/{finished.job}"
    first = request(finished.world.url, "GET", path, by=by)
    assert first.json()["stage"] in ("settled", "opened")
    again = request(
        finished.world.url, "GET", path, by=by, headers={"If-None-Match": first.headers["ETag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


def test_only_a_holder_of_the_job_reports_progress(finished: Finished) -> None:
    world = finished.world
    world.members["clinic"].hub.progress(finished.job, "tidying", "")
    for stranger in ("research", "regulator"):
        with pytest.raises(NotYours):
            world.members[stranger].hub.progress(finished.job, "tidying", "")


# The catalogue


def test_the_catalogue_is_read_page_by_page(finished: Finished) -> None:
    url = finished.world.url
    first = request(url, "GET", "/v1/products?limit=1")
    cursor = first.json()["next_cursor"]
    assert first.headers["Link"] == f'</v1/products?text=&after={cursor}&limit=1>; rel="next"'
    second = request(url, "GET", f"/v1/products?limit=1&after={cursor}")
    assert second.json()["next_cursor"] is None
    assert "Link" not in second.headers
    names = [page.json()["items"][0]["name"] for page in (first, second)]
    assert sorted(names) == ["clinic data", "lab data"]
    assert first.json()["items"][0]["price_minor"] == "1000"


def test_a_page_that_has_not_changed_is_not_sent_again(finished: Finished) -> None:
    url = finished.world.url
    tag = request(url, "GET", "/v1/products").headers["ETag"]
    known = {"If-None-Match": f'W/"other", {tag}'}
    assert request(url, "GET", "/v1/products", headers=known).status_code == 304
    other = request(url, "GET", "/v1/products?text=lab", headers=known)
    assert other.status_code == 200


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("after=%21%21", "after"),
        ("after=cHJk", "after"),
        ("limit=101", "limit"),
        ("limit=0", "limit"),
    ],
)
def test_a_wrong_parameter_is_named(lite_hall: Hall, query: str, parameter: str) -> None:
    answer = request(lite_hall.url, "GET", f"/v1/products?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == parameter


# Money


def test_a_deposit_is_booked_once_and_answered_alike_each_time(hall: Hall) -> None:
    speaker, operator = hall.speaker(), hall.operator()
    answers = [operator.deposit(speaker.id, "TEST", Amount(700), key="bank-0001") for _ in range(3)]
    assert answers[0] is not None
    assert answers == [answers[0]] * 3
    assert speaker.hub.balance("TEST").available_minor == 700


def test_one_key_books_one_deposit_only(hall: Hall) -> None:
    speaker, operator = hall.speaker(), hall.operator()
    operator.deposit(speaker.id, "TEST", Amount(700), key="bank-0001")
    with pytest.raises(Exception, match="was used for a different request"):
        operator.deposit(speaker.id, "TEST", Amount(701), key="bank-0001")
    assert speaker.hub.balance("TEST").available_minor == 700


def test_deposits_sent_at_once_with_one_key_book_once(hall: Hall) -> None:
    speaker, operator = hall.speaker(), hall.operator()

    def send(_: int) -> object:
        for _attempt in range(20):
            with suppress(HubUnreachable):  # another one is being answered: try later
                return operator.deposit(speaker.id, "TEST", Amount(700), key="bank-0001")
        raise AssertionError("the hub never answered")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))
    assert len(set(answers)) == 1
    assert speaker.hub.balance("TEST").available_minor == 700


def test_only_the_operator_books_deposits_and_a_refusal_frees_the_key(lite_hall: Hall) -> None:
    speaker = lite_hall.speaker()
    with pytest.raises(NotYours):
        speaker.hub.deposit(speaker.id, "TEST", Amount(700), key="bank-0001")
    operator = lite_hall.operator()
    with pytest.raises(MoneyRefused):
        operator.deposit(speaker.id, "TEST", Amount(-5), key="bank-0002")
    operator.deposit(speaker.id, "TEST", Amount(5), key="bank-0002")
    assert speaker.hub.balance("TEST").available_minor == 5


def test_a_deposit_without_a_key_is_refused(lite_hall: Hall) -> None:
    speaker = lite_hall.speaker()
    body = {"party": speaker.id, "currency": "TEST", "amount_minor": "5"}
    answer = request(lite_hall.url, "POST", "/v1/deposits", by=speaker, body=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_missing")


# The ledger


def test_a_statement_has_no_receipt_before_it_is_under_a_head_and_one_after(hall: Hall) -> None:
    speaker = hall.speaker()
    said = speaker.cry("prove it")
    assert speaker.hub.checkpoint() == ""
    assert speaker.hub.receipt(said.digest) is None
    world = hall.world
    background.order(world.store, world.operator, world.keeping)
    text = speaker.hub.receipt(said.digest)
    assert text is not None
    any_head = replace(world.policy, quorum=NO_QUORUM)
    verify_proof(Proof.parse(text), said.entry, any_head)
    old = any_head.check(speaker.hub.checkpoint().encode()).checkpoint
    speaker.cry("and more")
    background.order(world.store, world.operator, world.keeping)
    new = any_head.check(speaker.hub.checkpoint().encode()).checkpoint
    hashes = speaker.hub.consistency(old.size, new.size)
    verify_consistency(old.size, old.root, new.size, new.root, hashes)


def test_a_receipt_for_another_statement_does_not_prove_this_one(lite_hall: Hall) -> None:
    speaker, world = lite_hall.speaker(), lite_hall.world
    one, other = speaker.cry("one"), speaker.cry("other")
    background.order(world.store, world.operator, world.keeping)
    text = speaker.hub.receipt(other.digest)
    assert text is not None
    with pytest.raises(InclusionRefused):
        verify_proof(Proof.parse(text), one.entry, replace(world.policy, quorum=NO_QUORUM))


def test_the_log_is_copied_over_http_by_a_stranger(hall: Hall, tmp_path: Path) -> None:
    speaker, world = hall.speaker(), hall.world
    speaker.cry("one")
    background.order(world.store, world.operator, world.keeping)
    with closing(HttpSource(f"{hall.url}/v1/log/witnessed")) as source:
        with pytest.raises(NotCovered):  # signed, and no quorum yet
            mirror(tmp_path / "copy", source, world.policy)
        background.publish(world.operator, world.keeping)
        speaker.cry("signed and not witnessed")
        background.order(world.store, world.operator, world.keeping)
        copied = mirror(tmp_path / "copy", source, world.policy)
    tree = open_tree(FolderSource(tmp_path / "copy"), copied.checkpoint)
    logged = [data for _, data in tree.entries()]
    assert len(logged) == copied.checkpoint.size
    assert [read_statement(data).statement.type for data in logged][-1] == "alarm.raised"
    with closing(HttpSource(f"{hall.url}/v1/log")) as source:
        newest = replace(world.policy, quorum=NO_QUORUM).check(source.read("checkpoint"))
        assert newest.checkpoint.size == copied.checkpoint.size + 1
        assert len(list(open_tree(source, newest.checkpoint).entries())) == newest.checkpoint.size


def test_the_whole_log_is_audited_over_http_by_a_stranger(hall: Hall) -> None:
    speaker, world = hall.speaker(), hall.world
    for words in ("one", "two"):
        speaker.cry(words)
        background.order(world.store, world.operator, world.keeping)
        background.publish(world.operator, world.keeping)
    page = request(hall.url, "GET", "/v1/log/heads/0")
    assert [Note.parse(note).text for note in parse_page(page.content)]
    assert request(hall.url, "GET", "/v1/log/witnessed/heads/0").content == page.content
    assert request(hall.url, "GET", "/v1/log/heads/1").status_code == 404
    fingerprint = world.operator_folder.party.document.identity.fingerprint
    report = audit_whole_log(
        f"{hall.url}/v1/log",
        world.policy,
        Roots(frozenset({fingerprint}), ()),
        HttpDocuments(f"{hall.url}/v1/documents"),
    )
    assert report.failed == ()
    passed = {check.id for check in report.passed}
    assert {"log.tiles", "log.heads", "entry.signed", "party.document"} <= passed


def test_a_tile_may_be_kept_for_good_and_is_not_there_before_it_is_signed(lite_hall: Hall) -> None:
    speaker, world = lite_hall.speaker(), lite_hall.world
    assert request(lite_hall.url, "GET", "/v1/log/tile/0/000.p/1").status_code == 404
    background.order(world.store, world.operator, world.keeping)
    answer = request(lite_hall.url, "GET", "/v1/log/tile/0/000.p/1")
    assert (answer.status_code, len(answer.content)) == (200, 32)
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-type"] == "application/octet-stream"
    known = {"If-None-Match": answer.headers["etag"]}
    assert request(lite_hall.url, "GET", "/v1/log/tile/0/000.p/1", headers=known).status_code == 304
    speaker.cry("pending")
    for path in ("0/000", "0/000.p/255", "1/000.p/1", "entries/000", "7/000"):
        answer = request(lite_hall.url, "GET", f"/v1/log/tile/{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_covered"), path
    for path in ("0/000.p/0", "0/000.p/256", "00/000", "0/x000/000", "0/0", "64/000", "entries/"):
        answer = request(lite_hall.url, "GET", f"/v1/log/tile/{path}")
        assert (answer.status_code, answer.json()["code"]) == (422, "format_refused"), path


# Several processes


def test_two_processes_on_one_database_take_in_order_and_serve(
    tmp_path: Path, new_database: Callable[[str], str]
) -> None:
    """Parties speak to either; both order the log; nothing is lost or doubled."""
    url = new_database("postgresql")
    world = World(tmp_path, hub_url=url)
    engines = [open_engine(url), open_engine(url)]
    other = World.__new__(World)
    other.__dict__.update(world.__dict__)
    other.open_hub()
    with ExitStack() as stack:
        urls = [
            stack.enter_context(serving(hub_app(each.service, engine, world.clock))).url
            for each, engine in zip((world, other), engines, strict=True)
        ]
        stop = threading.Event()
        failures: list[BaseException] = []

        def order(each: World) -> None:
            while not stop.is_set():
                try:
                    background.order(each.store, each.operator, each.keeping)
                except BaseException as error:
                    failures.append(error)
                    return

        threads = [threading.Thread(target=order, args=(each,)) for each in (world, other)]
        for thread in threads:
            thread.start()

        def talk(number: int) -> list[Any]:
            speaker = Speaker.new(tmp_path / f"s{number}", urls[number % 2], world.clock)
            elsewhere = client(
                urls[(number + 1) % 2], speaker.id, speaker.folder.signing, world.clock
            )
            said = [speaker.register()]
            for turn in range(6):
                speaker.hub, elsewhere = elsewhere, speaker.hub
                said.append(speaker.cry(f"turn {turn}"))
            return said

        with ThreadPoolExecutor(4) as pool:
            everything = [one for said in pool.map(talk, range(4)) for one in said]
        stop.set()
        for thread in threads:
            thread.join()
        assert failures == []
        background.order(world.store, world.operator, world.keeping)
        reader = client(urls[1], None, None, world.clock)
        any_head = replace(world.policy, quorum=NO_QUORUM)
        places = set()
        for statement in everything:
            text = reader.receipt(statement.digest)
            assert text is not None
            proof = Proof.parse(text)
            verify_proof(proof, statement.entry, any_head)
            places.add(proof.index)
        assert len(places) == len(everything) == 28
    for engine in engines:
        engine.dispose()


# The document


def test_the_committed_openapi_document_is_the_applications() -> None:
    assert openapi.DOCUMENT.read_text("utf-8") == openapi.text(), (
        "python -m api.hub.openapi writes it anew"
    )


def test_every_body_has_an_example_that_its_own_schema_takes() -> None:
    from api.hub import bodies

    kinds = [kind for kind in vars(bodies).values() if isinstance(kind, type)]
    kinds = [kind for kind in kinds if issubclass(kind, bodies.Body) and kind is not bodies.Body]
    assert len(kinds) >= 18
    for kind in kinds:
        example = kind.model_config["json_schema_extra"]["example"]  # type: ignore[index,call-overload]
        text = json.dumps(example).replace(json.dumps("eyJwYXlsb2FkIjoi…")[1:-1], "eyJw")
        kind.model_validate_json(text)


def test_every_operation_is_named_tagged_and_says_what_it_is() -> None:
    names = set()
    for operations in openapi.document()["paths"].values():
        for operation in operations.values():
            assert operation["summary"] and operation["tags"]
            names.add(operation["operationId"])
    assert len(names) == 28
