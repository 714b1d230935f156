"""What hub and node rely on their stores for, on both databases."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

from api.database import bring_up_to_date, open_engine, read_only
from crypto import record
from crypto.digest import Digest, digest
from crypto.identifiers import JobId, NegotiationId, PartyId
from crypto.keys import ExchangeKey, SigningKey
from crypto.statement import Act, ChainHead, SignedStatement, sign_statement
from exchange.approval import StandingApproval
from exchange.errors import IllegalTransition, UnknownSubject
from exchange.hub.adapters.sql import SqlHubStore
from exchange.hub.model import HubAgreement, HubJob, Outcome
from exchange.jobs import JobState
from exchange.node.adapters.sql import SqlNodeStore, SqlNodeTransaction
from exchange.node.model import (
    Alarm,
    Decision,
    EgressRecord,
    NodeAgreement,
    NodeApproval,
    NodeJob,
)
from exchange.terms.agreement import Agreement
from exchange.terms.negotiation import Negotiation, State
from ledger import log
from registry.party import PartyDocument, Role, SignedParty, party_id, sign_party
from registry.source import FileFormat, FileSource
from tests.queries import CLINIC, CONSUMER, DEAL, LAB, NOW, RANDOM, STRANGER, a_product, grounds

PRODUCT = a_product(CLINIC)
AGREEMENT: Agreement = grounds(PRODUCT, a_product(LAB))[0].agreement
NAME = digest(record.to_bytes(AGREEMENT))
KEY = SigningKey.generate()


@pytest.fixture
def hub(engine: Engine) -> SqlHubStore:
    bring_up_to_date(engine, "hub")
    return SqlHubStore(engine, read_only(engine))


@pytest.fixture
def node(engine: Engine) -> SqlNodeStore:
    bring_up_to_date(engine, "node")
    return SqlNodeStore(engine, read_only(engine))


def a_statement(
    kind: str = "job.started", subject: str = "job", head: ChainHead | None = None
) -> SignedStatement:
    return sign_statement(
        Act(type=kind, subject=subject),
        actor=CLINIC,
        head=head or ChainHead(),
        signer=KEY,
        now=NOW,
        randomness=RANDOM,
    )


def a_job(state: JobState = JobState.REQUESTED, **changes: object) -> HubJob:
    job = HubJob(
        id=JobId.new(NOW, RANDOM),
        deal=DEAL,
        consumer=CONSUMER,
        parties=(CLINIC, LAB),
        consumer_computes=False,
        plan=digest(b"plan"),
        state=state,
        submitted=digest(b"submitted"),
        held=None,
        admitted={CLINIC: digest(b"admitted")},
        started={},
        sealed={},
        results={},
        released=None,
        settled=False,
        run_by=NOW + timedelta(minutes=15),
        finish_by=NOW + timedelta(minutes=20),
        reason="",
        updated_at=NOW,
    )
    return replace(job, **changes)  # type: ignore[arg-type]


def a_negotiation(**changes: object) -> Negotiation:
    negotiation = Negotiation(
        NegotiationId.new(NOW, RANDOM),
        DEAL,
        CONSUMER,
        CLINIC,
        PRODUCT.id,
        State.REQUESTED,
        digest(b"proposal"),
    )
    return replace(negotiation, **changes)  # type: ignore[arg-type]


def at_once(act: Callable[[int], object], times: int) -> None:
    """Each call on a thread of its own, all let go together. Raises what any of them raised."""
    ready = threading.Barrier(times)

    def run(n: int) -> object:
        ready.wait()
        return act(n)

    with ThreadPoolExecutor(times) as pool:
        for done in [pool.submit(run, n) for n in range(times)]:
            done.result(60)


# The hub's store


def test_an_actors_chain_begins_at_nothing_and_is_kept(hub: SqlHubStore) -> None:
    with hub.transaction() as tx:
        assert tx.chain(CLINIC) == tx.lock_chain(CLINIC) == ChainHead()
        tx.save_chain(CLINIC, ChainHead(1, digest(b"first")))
    with hub.reading() as tx:
        assert tx.chain(CLINIC) == ChainHead(1, digest(b"first"))
        assert tx.chain(LAB) == ChainHead()


def test_a_chain_that_several_move_at_once_loses_no_step(hub: SqlHubStore) -> None:
    def move(_: int) -> None:
        for _ in range(5):
            with hub.transaction() as tx:
                head = tx.lock_chain(CLINIC)
                tx.save_chain(CLINIC, ChainHead(head.next_seq + 1, digest(b"x")))

    at_once(move, 4)
    with hub.reading() as tx:
        assert tx.chain(CLINIC).next_seq == 20


def test_what_became_of_a_statement_is_kept_and_found_by_subject(hub: SqlHubStore) -> None:
    first, second = a_statement(), a_statement("job.sealed")
    other = a_statement(subject="another")
    with hub.transaction() as tx:
        assert tx.outcome(first.digest) is None
        for signed in (second, first, other):
            tx.save_outcome(Outcome(signed.digest, True, ""), of=signed.statement)
        tx.save_outcome(Outcome(first.digest, False, "too late"), of=first.statement)
    with hub.reading() as tx:
        assert tx.outcome(first.digest) == Outcome(first.digest, False, "too late")
        assert tx.outcome(second.digest) == Outcome(second.digest, True, "")
        named = {"kind": second.statement.type, "subject": "job"}
        assert tx.was_taken_in(second.digest, **named)
        assert not tx.was_taken_in(second.digest, **named | {"kind": "job.started"})
        assert not tx.was_taken_in(second.digest, **named | {"subject": "another"})
        assert not tx.was_taken_in(first.digest, **named | {"kind": "job.started"})
        assert not tx.was_taken_in(digest(b"nothing"), **named)
        assert tx.first_said("job", by=CLINIC, kind="job.sealed") == second.digest
        assert tx.first_said("job", by=CLINIC, kind="job.started") == first.digest
        assert tx.first_said("job", by=LAB, kind="job.sealed") is None
        assert tx.first_said("another", by=CLINIC, kind="job.sealed") is None
        kinds = ["job.started", "job.sealed"]
        assert tx.taken_in(["job"], kinds=kinds) == [second.digest]
        assert tx.taken_in(["job"], kinds=["job.started"]) == []
        assert tx.taken_in(["job", "another"], kinds=kinds) == [second.digest, other.digest]
        assert tx.taken_in([], kinds=kinds) == []


def test_statements_that_changed_something_are_told_from_those_that_did_not(
    hub: SqlHubStore,
) -> None:
    """Well said, but never of an effect, or of one the first time only: what anybody may repeat."""
    kinds: dict[str, Collection[str]] = {"never": ["alarm.raised"], "once": ["job.opened"]}
    said = {}
    with hub.transaction() as tx:
        for place, (kind, applied, subject, actor) in enumerate(
            (
                ("job.started", True, "job", CLINIC),
                ("job.opened", False, "job", LAB),
                ("job.opened", True, "job", CLINIC),
                ("job.opened", True, "job", CLINIC),
                ("job.opened", True, "another", CLINIC),
                ("alarm.raised", True, "job", LAB),
                ("job.failed", False, "job", CLINIC),
                ("job.failed", False, "elsewhere", CLINIC),
                ("job.failed", False, "job", CLINIC),
            )
        ):
            signed = a_statement(kind, subject=subject)
            said[place] = signed.digest
            of = replace(signed.statement, actor=actor)
            tx.save_outcome(Outcome(signed.digest, applied, ""), of=of)
    with hub.reading() as tx:
        about = ["job", "another"]
        assert tx.effective(about, **kinds) == [said[0], said[2], said[4]]
        assert tx.effective([], **kinds) == []
        assert tx.idle(about, **kinds) == {(CLINIC, "job"): 3, (LAB, "job"): 2}

        def first(since: Digest | None, limit: int) -> list[Digest]:
            found = tx.first_idle(CLINIC, "job", **kinds, since=since, limit=limit)
            assert [one.place for one in found] == sorted(one.place for one in found)
            assert {(one.actor, one.subject) for one in found} <= {(CLINIC, "job")}
            return [one.statement for one in found]

        assert first(None, 2) == [said[3], said[6]]
        assert first(said[3], 2) == [said[6], said[8]]
        assert first(said[8], 2) == []


def test_a_document_stays_as_it_came_until_somebody_has_verified_it(hub: SqlHubStore) -> None:
    name = digest(b"name")
    with hub.transaction() as tx:
        with pytest.raises(UnknownSubject):
            tx.document(name)
        tx.add_document(name, b"first")
        tx.add_document(name, b"with other signatures")
        assert tx.document(name) == b"first"
        tx.confirm_document(name, b"verified")
    with hub.reading() as tx:
        assert tx.document(name) == b"verified"


def test_openings_are_kept_by_statement_and_reader(hub: SqlHubStore) -> None:
    with hub.transaction() as tx:
        tx.add_opening(digest(b"one"), LAB, b"for the laboratory")
        tx.add_opening(digest(b"one"), CLINIC, b"for the clinic")
        tx.add_opening(digest(b"two"), CLINIC, b"another")
    with hub.reading() as tx:
        assert tx.openings(digest(b"one")) == [
            (CLINIC, b"for the clinic"),
            (LAB, b"for the laboratory"),
        ]
        assert tx.openings(digest(b"three")) == []


def test_a_negotiation_is_found_by_both_parties_and_its_deal(hub: SqlHubStore) -> None:
    negotiation = a_negotiation()
    with hub.transaction() as tx:
        assert tx.lock_negotiation(negotiation.id) is None
        tx.save_negotiation(negotiation)
        after = replace(negotiation, state=State.AGREED, agreement=NAME)
        tx.save_negotiation(after)
    with hub.transaction() as tx:
        assert tx.lock_negotiation(negotiation.id) == after
    with hub.reading() as tx:
        for party in (CONSUMER, CLINIC):
            assert tx.negotiations_of(party) == [after]
        assert tx.negotiations_of(LAB) == []
        assert tx.negotiations_of_deal(DEAL) == [after]
        assert tx.consumer_of(DEAL) == CONSUMER
        assert tx.consumer_of(type(DEAL).new(NOW, RANDOM)) is None


def test_who_looks_for_what_is_being_made_waits_until_it_is_there(
    new_database: Callable[[str], str],
) -> None:
    """Else a statement about a job could take its place in the log between the job's submission and
    what the hub said of it, with no effect here and one for whoever reads the log."""
    engine = open_engine(new_database("postgresql"))
    bring_up_to_date(engine, "hub")
    hub = SqlHubStore(engine, read_only(engine))
    job, negotiation = a_job(), a_negotiation()
    found: list[object] = []

    def look() -> None:
        with hub.transaction() as tx:
            found.append(tx.lock_negotiation(negotiation.id))
            found.append(tx.lock_job(job.id))

    other = threading.Thread(target=look)
    waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    with hub.transaction() as tx, engine.connect() as outside:
        assert tx.lock_negotiation(negotiation.id) is None
        with pytest.raises(UnknownSubject):
            tx.lock_job(job.id)
        tx.save_negotiation(negotiation)
        tx.add_job(job)
        other.start()
        while other.is_alive() and not outside.execute(waits).scalar_one():
            time.sleep(0.01)
        assert found == []
    other.join()
    assert found == [negotiation, job]
    engine.dispose()


def test_an_agreement_keeps_its_counts_exactly(hub: SqlHubStore) -> None:
    with hub.transaction() as tx:
        with pytest.raises(UnknownSubject):
            tx.lock_agreement(NAME)
        tx.add_agreement(HubAgreement(NAME, AGREEMENT, 0, Fraction(0)))
    with hub.transaction() as tx:
        held = tx.lock_agreement(NAME)
        assert held == HubAgreement(NAME, AGREEMENT, 0, Fraction(0))
        tx.save_agreement(replace(held, runs_used=2, epsilon_used=Fraction(1, 3)))
    with hub.reading() as tx:
        assert tx.agreements_of(DEAL) == [HubAgreement(NAME, AGREEMENT, 2, Fraction(1, 3))]


def test_runs_reserved_at_once_are_never_more_than_agreed(hub: SqlHubStore) -> None:
    with hub.transaction() as tx:
        tx.add_agreement(HubAgreement(NAME, AGREEMENT, 0, Fraction(0)))
    taken: list[int] = []

    def reserve(n: int) -> None:
        with hub.transaction() as tx:
            held = tx.lock_agreement(NAME)
            if held.runs_used < AGREEMENT.terms.runs:
                tx.save_agreement(replace(held, runs_used=held.runs_used + 1))
                taken.append(n)

    at_once(reserve, 8)
    assert len(taken) == AGREEMENT.terms.runs == 3
    with hub.reading() as tx:
        assert tx.agreements_of(DEAL)[0].runs_used == 3


def test_a_job_is_read_back_as_it_was_written_by_everybody_in_it(hub: SqlHubStore) -> None:
    job = a_job(held=digest(b"held"), reason="为什么")
    with hub.transaction() as tx:
        tx.add_job(job)
    with hub.transaction() as tx:
        assert tx.job(job.id) == tx.lock_job(job.id) == job
        for party in (CONSUMER, CLINIC, LAB):
            assert tx.jobs_of(party) == [job]
        assert tx.jobs_of(STRANGER) == []
        assert tx.jobs_of_deal(DEAL) == [job]
        with pytest.raises(UnknownSubject):
            tx.job(JobId.new(NOW, RANDOM))
        with pytest.raises(UnknownSubject):
            tx.lock_job(JobId.new(NOW, RANDOM))


def test_a_job_is_submitted_once(hub: SqlHubStore) -> None:
    job = a_job()
    with hub.transaction() as tx:
        tx.add_job(job)
    with hub.transaction() as tx, pytest.raises(IllegalTransition):
        tx.add_job(replace(job, consumer=STRANGER))
    with hub.reading() as tx:
        assert tx.job(job.id) == job


def test_a_job_is_saved_only_from_the_state_it_was_seen_in(hub: SqlHubStore) -> None:
    job = a_job()
    with hub.transaction() as tx:
        tx.add_job(job)
        tx.save_job(replace(job, state=JobState.ADMITTED), was=JobState.REQUESTED)
    with hub.transaction() as tx, pytest.raises(IllegalTransition):
        tx.save_job(replace(job, state=JobState.CANCELLED), was=JobState.REQUESTED)
    with hub.reading() as tx:
        assert tx.job(job.id).state is JobState.ADMITTED


def test_of_two_who_end_a_job_at_once_one_is_told_that_it_is_too_late(hub: SqlHubStore) -> None:
    job = a_job()
    with hub.transaction() as tx:
        tx.add_job(job)
    late: list[int] = []

    def end(n: int) -> None:
        state = (JobState.CANCELLED, JobState.EXPIRED)[n % 2]
        try:
            with hub.transaction() as tx:
                tx.save_job(replace(job, state=state), was=JobState.REQUESTED)
        except IllegalTransition:
            late.append(n)

    at_once(end, 4)
    assert len(late) == 3


def test_jobs_with_money_in_escrow_are_found_until_they_are_settled(hub: SqlHubStore) -> None:
    waiting, done = a_job(), a_job(settled=True)
    with hub.transaction() as tx:
        for job in (waiting, done):
            tx.add_job(job)
        assert [job.id for job in tx.unsettled_jobs()] == [waiting.id]
        tx.save_job(replace(waiting, state=JobState.REFUSED, settled=True), was=JobState.REQUESTED)
        assert list(tx.unsettled_jobs()) == []


def test_messages_are_numbered_without_gaps_for_each_party(hub: SqlHubStore) -> None:
    with hub.transaction() as tx:
        for n in range(3):
            tx.deliver(CLINIC, b"entry %d" % n, (b"a", b"b"))
        tx.deliver(LAB, b"other", ())
    with hub.reading() as tx:
        found = tx.deliveries(CLINIC, after=0, limit=10)
        assert [(one.number, one.entry, one.documents) for one in found] == [
            (n + 1, b"entry %d" % n, (b"a", b"b")) for n in range(3)
        ]
        assert [one.number for one in tx.deliveries(CLINIC, after=1, limit=1)] == [2]
        assert tx.deliveries(CLINIC, after=3, limit=10) == []
        assert tx.newest_deliveries([CLINIC, LAB, CONSUMER]) == {CLINIC: 3, LAB: 1}


def test_messages_delivered_at_once_leave_no_gap_and_what_is_undone_leaves_none(
    hub: SqlHubStore,
) -> None:
    class Undone(Exception):
        pass

    def deliver(n: int) -> None:
        for k in range(5):
            try:
                with hub.transaction() as tx:
                    tx.deliver(CLINIC, b"%d" % n, ())
                    if k == 2:
                        raise Undone
            except Undone:
                continue

    at_once(deliver, 4)
    with hub.reading() as tx:
        numbers = [one.number for one in tx.deliveries(CLINIC, after=0, limit=100)]
    assert numbers == list(range(1, 17))


def test_notes_of_a_job_come_in_order(hub: SqlHubStore) -> None:
    job = a_job()
    with hub.transaction() as tx:
        tx.add_job(job)
        assert tx.last_note(job.id) is None
        for stage in ("reserved", "admitted"):
            tx.note(job.id, stage, CLINIC, "detail", NOW)
    with hub.reading() as tx:
        first, second = tx.notes(job.id, after=0)
        assert (first.stage, second.stage, second.at) == ("reserved", "admitted", NOW)
        assert tx.notes(job.id, after=first.number) == [second]
        assert tx.last_note(job.id) == second


def test_a_savepoint_undoes_what_is_in_it_and_nothing_else(hub: SqlHubStore) -> None:
    class Undone(Exception):
        pass

    job = a_job()
    with hub.transaction() as tx:
        tx.deliver(LAB, b"before", ())
        with pytest.raises(Undone), tx.savepoint():
            tx.add_job(job)
            tx.deliver(LAB, b"inside", ())
            tx.save_chain(LAB, ChainHead(7, digest(b"x")))
            raise Undone
        tx.deliver(LAB, b"after", ())
    with hub.reading() as tx:
        assert [one.entry for one in tx.deliveries(LAB, after=0, limit=9)] == [b"before", b"after"]
        assert [one.number for one in tx.deliveries(LAB, after=0, limit=9)] == [1, 2]
        assert tx.chain(LAB) == ChainHead()
        with pytest.raises(UnknownSubject):
            tx.job(job.id)


def test_a_transaction_that_fails_leaves_nothing_in_any_package(hub: SqlHubStore) -> None:
    class Undone(Exception):
        pass

    party = a_party()
    with pytest.raises(Undone), hub.transaction() as tx:
        tx.parties.add(party)
        tx.add_document(digest(b"x"), b"x")
        log.append(tx.log, b"entry")
        raise Undone
    with hub.reading() as tx:
        assert tx.log.pending(10) == []
        with pytest.raises(UnknownSubject):
            tx.document(digest(b"x"))


def test_a_reading_transaction_writes_nothing(hub: SqlHubStore) -> None:
    with pytest.raises(DBAPIError), hub.reading() as tx:
        tx.add_document(digest(b"x"), b"x")


# A node's store


def a_party(identity: SigningKey = KEY, after: SignedParty | None = None) -> SignedParty:
    return sign_party(
        PartyDocument(
            v=1,
            party=party_id(identity.public),
            name="Clinic",
            roles=(Role.HOLDER,),
            seq=0 if after is None else after.document.seq + 1,
            previous=None if after is None else after.digest,
            identity=identity.public,
            signing=SigningKey.generate().public,
            sealing=ExchangeKey.generate().public,
            agreement=ExchangeKey.generate().public,
            tls_certificate=b"certificate",
            valid_from=NOW,
        ),
        identity,
    )


def a_node_job(**changes: object) -> NodeJob:
    job = NodeJob(
        id=JobId.new(NOW, RANDOM),
        deal=DEAL,
        consumer=CONSUMER,
        plan=digest(b"plan"),
        submitted=digest(b"submitted"),
        state=JobState.REQUESTED,
        decision=Decision.PENDING,
        held=None,
        admissions={},
        ephemerals={},
        addresses={},
        receipts={},
        parts={},
        reason="",
        run_by=NOW + timedelta(minutes=15),
        updated_at=NOW,
    )
    return replace(job, **changes)  # type: ignore[arg-type]


def say(store: SqlNodeStore, kind: str = "job.started", subject: str = "job") -> SignedStatement:
    with store.transaction() as tx:
        signed = a_statement(kind, subject, tx.head())
        tx.queue(signed, (b"document",))
        return signed


def test_what_a_node_says_waits_in_order_until_the_hub_has_answered(node: SqlNodeStore) -> None:
    first, second = say(node), say(node, "job.sealed")
    with node.transaction() as tx:
        assert tx.head() == ChainHead(2, second.digest)
        assert [(one.number, one.entry, one.documents) for one in tx.unsent(10)] == [
            (0, first.entry, (b"document",)),
            (1, second.entry, (b"document",)),
        ]
        assert (tx.taken_in(), tx.sent(first.digest)) == (0, None)
        tx.mark_sent(0, applied=False, reason="too late", at=NOW)
    with node.transaction() as tx:
        assert [one.number for one in tx.unsent(10)] == [1]
        assert tx.taken_in() == 1
        sent = tx.sent(first.digest)
        assert sent is not None
        assert (sent.kind, sent.subject, sent.applied) == ("job.started", "job", False)
        assert (sent.reason, sent.sent_at, sent.proven) == ("too late", NOW, False)
        assert [one.digest for one in tx.not_applied(10)] == [first.digest]
        assert [one.digest for one in tx.unproven(10)] == [first.digest]
        tx.mark_proven(first.digest)
        assert tx.unproven(10) == []
    with node.reading() as tx:
        backlog = tx.backlog()
        assert (backlog.unsent, backlog.unproven) == (1, 0)


def test_a_nodes_own_statements_are_found_by_number_name_and_subject(node: SqlNodeStore) -> None:
    first, second = say(node), say(node)
    with node.reading() as tx:
        assert (tx.entry(0), tx.entry(1), tx.entry(2)) == (first.entry, second.entry, None)
        assert tx.said_at(first.digest) == NOW
        assert tx.last_said("job.started", "job") == second.digest
        assert tx.last_said("job.sealed", "job") is None
        with pytest.raises(UnknownSubject):
            tx.said_at(digest(b"nobody's"))
    with node.transaction() as tx, pytest.raises(UnknownSubject):
        tx.mark_proven(digest(b"nobody's"))
    with node.transaction() as tx, pytest.raises(UnknownSubject):
        tx.mark_sent(7, applied=True, reason="", at=NOW)


def test_statements_said_at_once_make_one_chain(node: SqlNodeStore) -> None:
    at_once(lambda _: [say(node) for _ in range(4)], 4)
    with node.reading() as tx:
        entries = [one.entry for one in tx.unsent(100)]
        head = tx.head()
    assert (len(entries), head.next_seq) == (16, 16)
    assert len({digest(entry) for entry in entries}) == 16


def test_an_act_and_its_statement_are_kept_or_lost_together(node: SqlNodeStore) -> None:
    class Killed(Exception):
        pass

    job = a_node_job()
    with pytest.raises(Killed), node.transaction() as tx:
        tx.save_job(job)
        tx.save_secret(job.id, b"secret")
        tx.queue(a_statement(head=tx.head()), ())
        raise Killed
    with node.reading() as tx:
        assert (tx.job(job.id), tx.secret(job.id), tx.head()) == (None, None, ChainHead())
        assert tx.unsent(10) == []


def test_remarks_are_replaced(node: SqlNodeStore) -> None:
    with node.transaction() as tx:
        assert tx.remark("inbox") is None
        tx.set_remark("inbox", "1")
        tx.set_remark("inbox", "2")
    with node.reading() as tx:
        assert tx.remark("inbox") == "2"


def test_a_partys_documents_are_all_kept_and_the_newest_is_current(node: SqlNodeStore) -> None:
    first = a_party()
    second = a_party(after=first)
    with node.transaction() as tx:
        tx.add_party(second)
        tx.add_party(first)
        tx.trust(first.document.party, first.document.identity.fingerprint, NOW)
        tx.trust(first.document.party, first.document.identity.fingerprint, NOW)
    with node.reading() as tx:
        assert tx.party(first.digest) == first
        assert tx.current_party(first.document.party) == second
        assert tx.current_party(STRANGER) is None
        assert tx.party(digest(b"another")) is None
        assert tx.trusted_fingerprints() == [first.document.identity.fingerprint]


def test_a_nodes_document_stays_as_it_came_until_it_was_verified(node: SqlNodeStore) -> None:
    name = digest(b"name")
    with node.transaction() as tx:
        with pytest.raises(UnknownSubject):
            tx.document(name)
        tx.add_document(name, b"first")
        tx.add_document(name, b"second")
        assert tx.document(name) == b"first"
        tx.confirm_document(name, b"verified")
        assert tx.document(name) == b"verified"


def test_negotiations_agreements_and_jobs_are_read_back_as_written(node: SqlNodeStore) -> None:
    negotiation = a_negotiation(state=State.AGREED, agreement=NAME)
    agreement = NodeAgreement(NAME, AGREEMENT, 1, Fraction(2, 7))
    key = ExchangeKey.generate().public
    job = a_node_job(
        held=digest(b"held"),
        admissions={CLINIC: digest(b"a")},
        ephemerals={CLINIC: key},
        addresses={CLINIC: "node.test:1"},
        reason="原因",
    )
    with node.transaction() as tx:
        tx.save_negotiation(a_negotiation(id=negotiation.id))
        tx.save_negotiation(negotiation)
        tx.save_agreement(replace(agreement, runs_used=0))
        tx.save_agreement(agreement)
        tx.save_job(a_node_job(id=job.id))
        tx.save_job(job)
    with node.reading() as tx:
        assert tx.negotiation(negotiation.id) == negotiation
        assert tx.negotiations() == [negotiation]
        assert tx.agreement(NAME) == agreement
        assert tx.agreements() == [agreement]
        assert tx.job(job.id) == job
        assert tx.jobs() == [job]
        assert tx.agreement(digest(b"another")) is None
        assert tx.job(JobId.new(NOW, RANDOM)) is None


def test_runs_counted_at_once_are_all_counted(node: SqlNodeStore) -> None:
    with node.transaction() as tx:
        tx.save_agreement(NodeAgreement(NAME, AGREEMENT, 0, Fraction(0)))

    def count(_: int) -> None:
        for _ in range(3):
            with node.transaction() as tx:
                held = tx.agreement(NAME)
                assert held is not None
                tx.save_agreement(replace(held, runs_used=held.runs_used + 1))

    at_once(count, 4)
    with node.reading() as tx:
        held = tx.agreement(NAME)
    assert held is not None
    assert held.runs_used == 12


def test_a_secret_is_kept_for_its_job_and_forgotten(node: SqlNodeStore) -> None:
    job = JobId.new(NOW, RANDOM)
    with node.transaction() as tx:
        tx.save_secret(job, b"secret")
    with node.transaction() as tx:
        assert tx.secret(job) == b"secret"
        tx.forget_secret(job)
        tx.forget_secret(job)
    with node.reading() as tx:
        assert tx.secret(job) is None


@pytest.mark.parametrize("meanwhile", ["nothing", "a reader", "a crash"])
def test_no_file_holds_a_secret_that_was_forgotten(tmp_path: Path, meanwhile: str) -> None:
    database = open_engine(f"sqlite:///{tmp_path}/node.db")
    bring_up_to_date(database, "node")
    node = SqlNodeStore(database, read_only(database))
    job, secret = JobId.new(NOW, RANDOM), os.urandom(32)

    def found() -> bool:
        return any(secret in path.read_bytes() for path in tmp_path.iterdir())

    with node.transaction() as tx:
        tx.save_secret(job, secret)
    assert found()
    with contextlib.ExitStack() as reader:
        if meanwhile == "a reader":
            reader.enter_context(node.reading()).jobs()
        if meanwhile == "a crash":
            with Session(database) as session, session.begin():
                SqlNodeTransaction(session).forget_secret(job)
            node = SqlNodeStore(database, read_only(database))
        else:
            with node.transaction() as tx:
                tx.forget_secret(job)
        assert found() == (meanwhile != "nothing")
    with node.transaction() as tx:
        assert tx.secret(job) is None
    assert not found()


def test_sources_standing_approvals_and_egress_are_read_back(node: SqlNodeStore) -> None:
    source = FileSource("/data/rows.csv", FileFormat.CSV)
    approval = StandingApproval(PRODUCT.id, (CONSUMER,), ("research",), 5, 2, NOW)
    first, second = (NodeApproval(digest(said), approval) for said in (b"1", b"2"))
    job = JobId.new(NOW, RANDOM)
    left = [EgressRecord(job, LAB, f"stream {n}", n, digest(b"%d" % n)) for n in range(3)]
    with node.transaction() as tx:
        tx.save_source(PRODUCT.id, "old", FileSource("/data/old.csv", FileFormat.CSV))
        tx.save_source(PRODUCT.id, "rows", source)
        tx.add_standing(first)
        tx.add_standing(second)
        tx.add_egress(left[:2])
        tx.add_egress(left[2:])
    with node.transaction() as tx:
        assert tx.source(PRODUCT.id) == source
        assert tx.sources() == {PRODUCT.id: ("rows", source)}
        assert tx.standing() == [first, second]
        assert tx.egress(job) == left
        tx.remove_standing(first.said)
        tx.remove_standing(first.said)
        assert tx.standing() == [second]


def test_an_alarm_is_raised_once_for_the_same_words(node: SqlNodeStore) -> None:
    def alarm(words: str, at: datetime) -> Alarm:
        return Alarm("LogForked", words, at)

    with node.transaction() as tx:
        assert tx.add_alarm(alarm("second", NOW + timedelta(seconds=1)))
        assert tx.add_alarm(alarm("first", NOW))
        assert not tx.add_alarm(alarm("first", NOW + timedelta(seconds=9)))
    with node.reading() as tx:
        assert [found.words for found in tx.alarms()] == ["first", "second"]
        assert tx.alarms()[0].at == NOW


def test_a_nodes_savepoint_undoes_what_is_in_it_and_nothing_else(node: SqlNodeStore) -> None:
    class Undone(Exception):
        pass

    with node.transaction() as tx:
        tx.set_remark("before", "kept")
        with pytest.raises(Undone), tx.savepoint():
            tx.set_remark("inside", "lost")
            tx.queue(a_statement(head=tx.head()), ())
            raise Undone
        tx.set_remark("after", "kept")
    with node.reading() as tx:
        assert [tx.remark(name) for name in ("before", "inside", "after")] == ["kept", None, "kept"]
        assert tx.head() == ChainHead()


def test_a_nodes_reading_transaction_writes_nothing(node: SqlNodeStore) -> None:
    with pytest.raises(DBAPIError), node.reading() as tx:
        tx.set_remark("name", "value")


@pytest.fixture
def reopened(database_url: str) -> Iterator[Callable[[], SqlNodeStore]]:
    engines: list[Engine] = []

    def reopen() -> SqlNodeStore:
        engines.append(open_engine(database_url))
        bring_up_to_date(engines[-1], "node")
        return SqlNodeStore(engines[-1], read_only(engines[-1]))

    yield reopen
    for engine in engines:
        engine.dispose()


def test_what_was_committed_is_there_when_the_database_is_opened_again(
    reopened: Callable[[], SqlNodeStore],
) -> None:
    signed = say(reopened())
    with reopened().reading() as tx:
        assert tx.head() == ChainHead(1, signed.digest)
        assert [Digest.parse(str(digest(one.entry))) for one in tx.unsent(5)] == [signed.digest]
        assert tx.current_party(PartyId(f"pty_{'f' * 32}")) is None
