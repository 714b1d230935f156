"""Attacks by participants that keep to the formats: each is shown with what it must not achieve."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from crypto import record
from crypto.digest import Digest, digest, opens
from crypto.envelope import Envelope
from crypto.errors import EngineFault, Malformed
from crypto.identifiers import DealId, JobId, NegotiationId
from crypto.ports import SystemRandomness
from crypto.sealing import open_sealed
from crypto.statement import Act, Statement, read_statement, sign_statement
from exchange import evidence
from exchange.errors import ExchangeError, HistoryRefused, UnknownSubject
from exchange.jobs import JobState
from exchange.node import exactly, outbox, receiving, registering
from exchange.node.model import NodeJob
from exchange.node.runs import HISTORY, RUN_FAILED, Run, kept_snapshot
from exchange.openings import BytesOut, ReceiptOpenings, receipt_context
from exchange.query import plan as plans
from exchange.query.rules import Ground, side_violations
from exchange.submission import read_submission
from exchange.terms import agreement as agreements
from exchange.terms.agreement import Proposal
from exchange.terms.negotiation import Event
from registry.party import Role
from tests.fakes.engine import InProcessEngine
from tests.world import QUESTION, Deal, Member, World, a_deal, a_world, terms_for


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Deal:
    deal = a_deal(a_world(tmp_path_factory.mktemp("prepared")))
    deal.approve_standing()
    return deal


@pytest.fixture
def deal(prepared: Deal, tmp_path: Path) -> Deal:
    return prepared.copied_to(tmp_path)


def junk(envelope: Envelope) -> bytes:
    """The same payload, hence the same name, under signatures that nobody made."""
    signatures = tuple((f"{number:016x}", bytes(64)) for number in range(16))
    return Envelope(envelope.payload_type, envelope.payload, signatures).to_bytes()


def say(member: Member, act: Act, documents: Sequence[bytes] = ()) -> None:
    with member.node.store.transaction() as tx:
        outbox.say(act, documents, tx=tx, identity=member.node.identity)


def job_at(member: Member, number: JobId) -> NodeJob:
    with member.node.store.reading() as tx:
        found = tx.job(number)
    assert found is not None
    return found


def statements(world: World, number: JobId) -> list[Statement]:
    """What the log says about a job, in order."""
    with world.store.reading() as tx:
        logged = [read_statement(one.entry).statement for one in tx.log.entries(0, 1 << 20)]
    return [statement for statement in logged if statement.subject == number]


# Signatures around a payload


def test_a_consumer_cannot_take_the_signatures_off_an_agreement_at_the_hub(deal: Deal) -> None:
    world, research = deal.world, deal.world.members["research"]
    with research.node.store.reading() as tx:
        held = tx.agreements()[0]
        envelope = Envelope.from_bytes(tx.document(held.digest))
    act = replace(evidence.alarmed(research.id, kind="x", words="x"), inputs=(held.digest,))
    say(research, act, [junk(envelope)])
    world.settle()
    with world.store.reading() as tx:
        kept = Envelope.from_bytes(tx.document(held.digest))
        consumer = tx.parties.by_digest(held.agreement.consumer_document)
        holder = tx.parties.by_digest(held.agreement.holder_document)
    agreements.require_signed(kept, held.agreement, consumer=consumer, holder=holder)


def test_a_consumer_cannot_spoil_a_product_for_everybody_else(deal: Deal) -> None:
    world, research = deal.world, deal.world.members["research"]
    clinic = world.members["clinic"]
    name = registering.product_digest(deal.clinic_product)
    envelope = Envelope.from_bytes(world.service.document(name))
    number = NegotiationId.new(world.clock.now(), SystemRandomness())
    terms = terms_for(world, deal.clinic_product, deal.lab_product)
    proposal = Proposal(1, deal.deal, number, research.id, clinic.id, terms, bytes(32))
    act = evidence.negotiated(
        Event.REQUESTED,
        number,
        deal.deal,
        proposal=agreements.proposal_digest(proposal),
        document=agreements.proposal_digest(proposal),
    )
    documents = [record.to_bytes(proposal), junk(envelope)]
    say(research, replace(act, inputs=(name,)), documents)
    world.settle()
    with clinic.node.store.reading() as tx:
        assert tx.negotiation(number) is not None  # it was heard
    job = deal.submit()
    world.settle()
    assert job_at(research, job).state is JobState.RELEASED


# What a failure tells


def test_whether_anybody_fits_a_filter_does_not_show(deal: Deal) -> None:
    """A filter for one sex that nobody has after the other one is taken away."""
    world = deal.world
    nobody = QUESTION.replace("GROUP BY", "WHERE clinic.sex <> 'f' AND clinic.sex <> 'm' GROUP BY")
    job = deal.submit(sql=nobody)
    world.settle()
    research = world.members["research"]
    found = job_at(research, job)
    assert found.state is JobState.RELEASED, found.reason
    rows = receiving.answer(job, research.node.store).rows
    assert {row.figures[0].value for row in rows} == {None}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (EngineFault.MEMORY, "the engine run failed (memory)"),
        (EngineFault.INPUT, "the local part failed at this holder"),
    ],
)
def test_the_parties_read_which_kind_of_failure_it_was_and_the_owner_alone_reads_more(
    deal: Deal, fault: EngineFault, said: str
) -> None:
    clinic = deal.world.members["clinic"]
    workshop = clinic.node.workshop
    assert workshop is not None and isinstance(workshop.engine, InProcessEngine)
    workshop.engine.fail_next = fault
    job = deal.submit()
    deal.world.settle()
    problems = failures(deal.world, job)
    assert said in problems
    assert not any("as the test asked" in problem for problem in problems)
    assert "as the test asked" in job_at(clinic, job).reason


@pytest.mark.parametrize("problem", [HistoryRefused(5), UnknownSubject("p007")])
def test_the_public_log_does_not_say_why_a_run_failed(
    deal: Deal, problem: ExchangeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a history gate refused is one bit about rows; other errors are worded for owners."""

    def refused(*_: object) -> None:
        raise problem

    monkeypatch.setattr(exactly, "require_many", refused)
    job = deal.submit()
    deal.world.settle()
    failed = [s for s in statements(deal.world, job) if s.type == "job.failed"]
    assert [s.body for s in failed] == [{}] * len(failed) != []
    said = HISTORY if isinstance(problem, HistoryRefused) else RUN_FAILED
    assert set(failures(deal.world, job)) == {said}
    assert job_at(deal.world.members["research"], job).reason == said
    owners = {job_at(deal.world.members[name], job).reason for name in ("clinic", "lab")}
    assert str(problem) in owners


def failures(world: World, job: JobId) -> list[str]:
    """What the job's parties read in the documents beside the log: of what came once the job had
    ended the hub keeps none."""
    failed = [s for s in statements(world, job) if s.type == "job.failed"]
    found = []
    with world.store.reading() as tx:
        for statement in failed:
            with contextlib.suppress(UnknownSubject):
                documents = {n: tx.document(n) for n in statement.outputs}
                found.append(evidence.reason_of(statement, documents))
    return found


def test_a_balance_is_told_neither_to_the_log_nor_to_the_holders(tmp_path: Path) -> None:
    deal = a_deal(a_world(tmp_path), funded=1234)
    job = deal.submit()
    deal.world.settle()
    rejected = statements(deal.world, job)[-1]
    assert (rejected.type, rejected.body) == ("job.rejected", {})
    with deal.world.store.reading() as tx:
        (output,) = rejected.outputs
        reason = evidence.reason_in(rejected, {output: tx.document(output)})
        assert reason is not None
        assert reason.constraint == "InsufficientFunds"
        assert "1234" not in reason.problem
        assert "1234" not in tx.job(job).reason
        assert not any("1234" in note.detail for note in tx.notes(job, after=0))


def test_why_a_plan_is_rejected_tells_a_stranger_nothing_of_others_agreements(deal: Deal) -> None:
    """Their digests are public: naming one in a deal of its own, it could ask for each term."""
    world, clinic = deal.world, deal.world.members["clinic"].id
    stranger = world.join("stranger", Role.CONSUMER)
    world.introduce()
    own = DealId.new(world.clock.now(), SystemRandomness())
    stranger.negotiations.request(
        own, clinic, terms_for(world, deal.clinic_product, deal.lab_product)
    )
    world.settle()
    base = world.members["research"].desk.compile(deal.deal, deal.question())

    def told(**changes: object) -> str:
        plan = replace(
            base,
            **{
                "job": JobId.new(world.clock.now(), SystemRandomness()),
                "deal": own,
                "consumer": stranger.id,
                "consumer_document": stranger.folder.party.digest,
                "purpose": "spying",
                **changes,
            },
        )
        envelope = plans.sign_plan(plan, stranger.folder.signing)
        act = evidence.submitted(
            plan.job, own, plan=envelope.payload_digest, relies_on=plan.relies_on
        )
        # Past its node, which knows nothing of this job.
        signed = sign_statement(
            act,
            actor=stranger.id,
            head=world.service.chain(stranger.id),
            signer=stranger.folder.signing,
            now=world.clock.now(),
            randomness=SystemRandomness(),
        )
        submission = read_submission(signed.entry, [envelope.to_bytes()])
        assert world.service.submit(stranger.id, submission).applied
        with world.store.reading() as tx:
            job = tx.job(plan.job)
        assert (job.state, job.held) == (JobState.REFUSED, None)
        return job.reason

    others = {str(UnknownSubject(f"agreement {side.agreement}")) for side in base.sides}
    assert told() in others
    assert told(run_by=base.run_by + timedelta(days=29)) in others
    none = digest(b"none")
    made_up = tuple(replace(side, agreement=none) for side in base.sides)
    assert told(sides=made_up) == str(UnknownSubject(f"agreement {none}"))


def test_a_receipt_commits_to_the_bytes_that_left_and_does_not_say_them(deal: Deal) -> None:
    job = deal.submit()
    deal.world.settle()
    receipts = [s for s in statements(deal.world, job) if s.type == "job.sealed"]
    assert len(receipts) == 2
    for receipt in receipts:
        research = deal.world.members["research"].id
        assert [n for n in receipt.body if n.startswith("bytes_out.")] == [f"bytes_out.{research}"]
        assert set(receipt.commitments) == {"budget", "egress", "snapshot"}
    assert record.from_bytes(BytesOut, record.to_bytes(BytesOut({"pty": 1}))).engine == {"pty": 1}


def test_a_regulator_cannot_try_out_rows_on_the_opening_of_a_snapshot(deal: Deal) -> None:
    """A guess is checked by the digest of the guessed rows, were that what the opening holds."""
    job = deal.submit()
    deal.world.settle()
    regulator = deal.world.members["regulator"].folder
    clinic = deal.world.members["clinic"]
    (receipt,) = [
        s for s in statements(deal.world, job) if s.type == "job.sealed" and s.actor == clinic.id
    ]
    with clinic.node.store.reading() as tx:
        kept = kept_snapshot(job, tx)
        sealed = tx.document(receipt.outputs[1])
    context = receipt_context(job_at(clinic, job).plan, clinic.id)
    plain = open_sealed(sealed, regulator.sealing, context=context)
    opened = record.from_bytes(ReceiptOpenings, plain).commitments["snapshot"]
    assert opens(receipt.commitments["snapshot"], opened.salt, opened.value)
    assert opened.value not in (kept.snapshot.raw, digest(kept.snapshot.raw).raw)
    assert kept.secret not in plain
    # In a dispute the holder shows digest and secret; no other rows fit what it committed to.
    assert opened.value == kept.value
    assert replace(kept, snapshot=digest(b"other rows")).value != opened.value


# What a holder leaves out


@pytest.mark.parametrize("left_out", ["openings", "snapshot"])
def test_a_holder_is_not_paid_for_a_receipt_that_hides(
    deal: Deal, left_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Run._commitments

    def hiding(run: Run, *given: object) -> tuple[dict[str, Digest], bytes | None]:
        commitments, sealed = honest(run, *given)  # type: ignore[arg-type]
        commitments.pop(left_out, None)
        return commitments, None if left_out == "openings" else sealed

    monkeypatch.setattr(Run, "_commitments", hiding)
    job = deal.submit()
    deal.world.settle()
    deal.world.clock.pass_(timedelta(hours=1))
    deal.world.settle()
    assert job_at(deal.world.members["research"], job).state is not JobState.RELEASED
    assert deal.world.available("clinic") == deal.world.available("lab") == 0
    assert deal.world.available("research") == 10_000


def test_a_holder_that_gives_no_address_but_nonsense_is_not_admitted(deal: Deal) -> None:
    lab = deal.world.members["lab"]
    lab.node.identity = replace(lab.node.identity, link_address="not an address")
    job = deal.submit()
    with pytest.raises(Malformed, match="is not an address"):
        deal.world.settle()
    clinic = job_at(deal.world.members["clinic"], job)
    assert clinic.state is JobState.REQUESTED
    with deal.world.store.reading() as tx:
        assert lab.id not in tx.job(job).admitted


# What a plan may ask


def test_a_product_that_another_holder_lists_under_the_same_id_is_not_the_own_one(
    deal: Deal,
) -> None:
    desk = deal.world.members["research"].desk
    plan = desk.compile(deal.deal, deal.question())
    with deal.world.members["clinic"].node.store.reading() as tx:
        held = tx.agreement(plan.sides[0].agreement)
    assert held is not None
    ground = Ground(held.agreement, deal.clinic_product)
    assert not side_violations(plan, 0, ground, [deal.clinic_product, deal.lab_product])
    twin = replace(deal.lab_product, id=deal.clinic_product.id)
    (violation,) = side_violations(plan, 0, ground, [deal.clinic_product, twin])
    assert violation.clause == "terms.combine_with"


def test_the_agreed_partners_product_listed_by_somebody_else_is_refused(deal: Deal) -> None:
    """Whoever lists under the partner's product id would learn whose keys match."""
    desk = deal.world.members["research"].desk
    plan = desk.compile(deal.deal, deal.question())
    with deal.world.members["clinic"].node.store.reading() as tx:
        held = tx.agreement(plan.sides[0].agreement)
    assert held is not None
    stranger = deal.world.members["regulator"].id
    sides = (plan.sides[0], replace(plan.sides[1], holder=stranger))
    found = side_violations(
        replace(plan, sides=sides),
        0,
        Ground(held.agreement, deal.clinic_product),
        [deal.clinic_product, replace(deal.lab_product, holder=stranger)],
    )
    assert [violation.clause for violation in found] == ["terms.combine_with"]


def test_a_range_is_judged_by_all_own_rows_and_not_by_those_that_can_match(deal: Deal) -> None:
    """Else whether a sum of filtered rows could wrap would show as a failure."""
    desk = deal.world.members["research"].desk
    plan = desk.compile(deal.deal, deal.question())
    with deal.world.members["clinic"].node.store.reading() as tx:
        held = tx.agreement(plan.sides[0].agreement)
    assert held is not None
    wide = tuple(
        replace(column, high=2**45) if column.name == "progression" else column
        for column in deal.clinic_product.columns
    )
    for cap, clauses in ((1000, []), (10_000_000, ["plan"])):
        product = replace(deal.clinic_product, columns=wide, cap=cap)
        found = side_violations(
            plan, 0, Ground(held.agreement, product), [product, deal.lab_product]
        )
        assert [violation.clause for violation in found] == clauses


def test_a_plan_for_more_outputs_than_an_engine_has_is_no_plan(deal: Deal) -> None:
    desk = deal.world.members["research"].desk
    plan = desk.compile(deal.deal, deal.question())
    with pytest.raises(Malformed, match="statistics"):
        replace(plan.query, statistics=plan.query.statistics * 10_000)


def test_a_refusal_of_a_column_with_an_endless_name_can_still_be_said(deal: Deal) -> None:
    job, random = JobId.new(deal.world.clock.now(), SystemRandomness()), SystemRandomness()
    reason = evidence.reason_document(job, "rule.uses." + "x" * 100_000, "", random)
    act = evidence.refused(job, plan=digest(b"plan"), after=[], reason=reason)
    say(deal.world.members["clinic"], act)


# Whoever pauses


def test_a_paused_holder_does_not_start_what_it_admitted_before(deal: Deal) -> None:
    world = deal.world
    with world.members["lab"].node.store.transaction() as tx:
        for held in tx.standing():
            tx.remove_standing(held.said)
    job = deal.submit()
    world.settle()
    world.members["clinic"].desk.pause(True)
    world.members["lab"].desk.approve(job)
    for _ in range(6):
        world.round()  # the laboratory begins, and waits
    assert world.opened == ["lab"]
    world.clock.pass_(timedelta(hours=1))
    world.settle()
    assert world.available("research") == 10_000
