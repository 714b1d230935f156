"""What a hub can do that lies in everything it passes on, and what the nodes say to it.

A hub that lies can delay work. It can't make a node compute what its owner did not sign, can't
read a result, can't rewrite history unnoticed. Where the hub alone is too weak to try, it is given
a colluding participant, whose keys it may then use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from api.folder import PartyFolder
from crypto import envelope as dsse
from crypto import record
from crypto.canonical import decode, encode
from crypto.digest import Digest, digest
from crypto.envelope import Envelope
from crypto.errors import BadSignature, Malformed, UnknownKey
from crypto.identifiers import DealId, JobId, PartyId
from crypto.keys import ExchangeKey, SigningKey
from crypto.noise import Distribution
from crypto.ports import SystemRandomness
from crypto.record import Amount
from crypto.statement import Act, ChainHead, read_statement, sign_statement
from crypto.tls import make_identity
from exchange import evidence
from exchange.errors import EvidenceMissing, PlanRefused, RestoredBackup, UnknownSubject
from exchange.jobs import JobState
from exchange.node import inbox, jobs, receiving
from exchange.node.model import Alarm, Decision, Incoming, NodeJob
from exchange.node.watch import PATIENCE
from exchange.query import plan as plans
from exchange.query.explanation import learns
from exchange.query.plan import Argument, Gate, GroupBy, Noise, Plan, Receiver, Statistic
from exchange.query.released import Output, Released
from exchange.submission import read_submission
from registry.errors import DocumentRefused, NotTrusted
from registry.expression import ColumnValue, Comparator, Compare, Number, Text
from registry.party import PAYLOAD_TYPE, PartyDocument, Role, party_id
from registry.rule import Function
from tests.world import (
    LAB_ROWS,
    START,
    Deal,
    Member,
    World,
    a_deal,
    a_world,
    lab_columns,
    list_rows,
    terms_for,
)


@dataclass
class Prepared:
    """Made once; every test works on its own copy."""

    deal: Deal
    listed: World


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    path = tmp_path_factory.mktemp("prepared")
    world = a_world(path / "world")
    world.join("mallory", Role.CONSUMER)
    world.introduce()
    listed = world.copied_to(path / "listed")
    deal = a_deal(world)
    deal.approve_standing()
    world.settle()
    return Prepared(deal, listed)


@pytest.fixture
def deal(prepared: Prepared, tmp_path: Path) -> Deal:
    """A finalised deal; both holders admit without asking a person."""
    return prepared.deal.copied_to(tmp_path)


@pytest.fixture(scope="module")
def shared(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Deal:
    """For refusals, which leave nothing behind that another test could meet."""
    return prepared.deal.copied_to(tmp_path_factory.mktemp("shared"))


# What a liar has at hand


def said(world: World, name: str, act: Act, documents: Sequence[bytes] = ()) -> Incoming:
    """A statement that the named party did sign: it colludes with the hub."""
    folder = world.operator_folder if name == "operator" else world.members[name].folder
    return signed_with(folder.signing, world, folder.party.document.party, act, documents)


def signed_with(
    key: SigningKey, world: World, actor: PartyId, act: Act, documents: Sequence[bytes] = ()
) -> Incoming:
    """A statement in the name of `actor`, signed with `key`."""
    signed = sign_statement(
        act,
        actor=actor,
        head=ChainHead(1000, digest(b"before")),
        signer=key,
        now=world.clock.now(),
        randomness=SystemRandomness(),
    )
    return Incoming(0, signed.entry, tuple(documents))


def type_of(entry: bytes) -> str:
    return read_statement(entry).statement.type


def submitted(plan: Plan, envelope: Envelope) -> Act:
    return evidence.submitted(
        plan.job, plan.deal, plan=envelope.payload_digest, relies_on=plan.relies_on
    )


def held(world: World, plan: Plan, plan_digest: Digest, submission: Digest) -> Act:
    return Act(
        type="funds.held",
        subject=plan.job,
        after=(submission,),
        inputs=(plan_digest,),
        body={"operation": f"hold/{plan.job}"},
    )


def tell(member: Member, *messages: Incoming) -> None:
    """Put messages before a node, in the order and with the numbers of an honest inbox."""
    with member.node.store.reading() as tx:
        place = int(tx.remark("inbox") or 0)
    for number, message in enumerate(messages, start=place + 1):
        node = member.node
        inbox.hear(replace(message, number=number), node.store, node.hub, node.identity)


def offer(
    deal: Deal, plan: Plan, *, by: str = "research", key: SigningKey | None = None
) -> NodeJob:
    """Show the clinic a plan as if the hub had accepted it and held its price; its decision."""
    world, clinic = deal.world, deal.world.members["clinic"]
    signer = key or world.members[by].folder.signing
    envelope = plans.sign_plan(plan, signer)
    submission = said(world, by, submitted(plan, envelope), [envelope.to_bytes()])
    after = read_statement(submission.entry).digest
    hold = said(world, "operator", held(world, plan, envelope.payload_digest, after))
    tell(clinic, submission, hold)
    decide(clinic)
    job = job_of(clinic, plan.job)
    assert job is not None, alarms(clinic)
    return job


def decide(member: Member) -> None:
    node = member.node
    jobs.decide(node.store, node.hub, node.identity, node.ephemeral)


def job_of(member: Member, number: JobId) -> NodeJob | None:
    with member.node.store.reading() as tx:
        return tx.job(number)


def alarms(member: Member) -> Sequence[Alarm]:
    with member.node.store.reading() as tx:
        return tx.alarms()


def the_alarm(member: Member) -> Alarm:
    (alarm,) = alarms(member)
    return alarm


def a_plan(deal: Deal, **changes: object) -> Plan:
    """What an honest consumer's node would compile, then changed by a dishonest one."""
    desk = deal.world.members["research"].desk
    plan = replace(desk.compile(deal.deal, deal.question()), **changes)  # type: ignore[arg-type]
    return plan


def with_side(plan: Plan, index: int, **changes: object) -> Plan:
    sides = list(plan.sides)
    sides[index] = replace(sides[index], **changes)  # type: ignore[arg-type]
    return replace(plan, sides=tuple(sides))


def honest_words(plan: Plan) -> Plan:
    return replace(plan, learns=learns(plan))


def require_untouched(deal: Deal) -> None:
    """No row was read and no engine was started anywhere."""
    world = deal.world
    for _ in range(3):  # whatever the nodes would still do by themselves
        for member in world.members.values():
            member.node.work()
    assert world.opened == []


def require_refused(deal: Deal, job: NodeJob, clause: str) -> None:
    """The clinic said no, said why, and said so in a statement of its own."""
    assert (job.decision, job.state) == (Decision.REFUSED, JobState.REFUSED), job.reason
    with deal.world.members["clinic"].node.store.reading() as tx:
        number = tx.head().next_seq - 1
        entry = tx.entry(number)
        assert entry is not None
        statement = read_statement(entry).statement
        (output,) = statement.outputs
        reason = evidence.reason_in(statement, {output: tx.document(output)})
    assert (statement.type, statement.subject) == ("job.refused", job.id)
    assert reason is not None
    assert reason.constraint == clause, reason
    assert reason.problem == job.reason[: evidence.MAX_REASON]
    assert statement.body == {}  # the log is public
    require_untouched(deal)


# Plans


def test_the_plan_that_everything_below_changes_would_have_been_admitted(deal: Deal) -> None:
    assert offer(deal, a_plan(deal)).decision is Decision.ADMITTED


def test_a_plan_changed_on_its_way_in_any_field_is_not_the_plan_the_consumer_named(
    deal: Deal,
) -> None:
    world = deal.world
    clinic, research = world.members["clinic"], world.members["research"]
    number = deal.submit()
    research.node.work()
    with world.store.reading() as tx:
        messages = tx.deliveries(clinic.id, after=0, limit=100)
    (genuine,) = (m for m in messages if type_of(m.entry) == "job.submitted")
    envelope = Envelope.from_bytes(genuine.documents[0])
    value = decode(envelope.payload)
    assert isinstance(value, dict)
    for field in value:
        payload = encode({**value, field: [value[field]]})
        changed = replace(envelope, payload=payload).to_bytes()
        tell(clinic, Incoming(0, genuine.entry, (changed,)))
        *_, alarm = alarms(clinic)
        assert alarm.kind == "Malformed"
        assert "is not named by the statement" in alarm.words
        assert job_of(clinic, number) is None
    assert len(alarms(clinic)) == len(value) >= len(Plan.__dataclass_fields__) - 1  # no helper
    require_untouched(deal)


def test_a_plan_that_the_hub_signs_in_the_consumers_place_is_refused(deal: Deal) -> None:
    job = offer(deal, a_plan(deal), key=deal.world.operator_folder.signing)
    require_refused(deal, job, "signature")


def test_a_plan_whose_signature_was_moved_from_another_plan_is_refused(deal: Deal) -> None:
    world = deal.world
    clinic, research = world.members["clinic"], world.members["research"]
    genuine = plans.sign_plan(a_plan(deal), research.folder.signing)
    plan = a_plan(deal)
    forged = replace(plans.sign_plan(plan, research.folder.signing), signatures=genuine.signatures)
    submission = said(world, "research", submitted(plan, forged), [forged.to_bytes()])
    after = read_statement(submission.entry).digest
    hold = said(world, "operator", held(world, plan, forged.payload_digest, after))
    tell(clinic, submission, hold)
    decide(clinic)
    job = job_of(clinic, plan.job)
    assert job is not None
    require_refused(deal, job, "signature")


def test_a_submission_that_the_hub_invents_is_not_the_consumers(deal: Deal) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    plan = a_plan(deal)
    envelope = plans.sign_plan(plan, world.operator_folder.signing)
    forged = signed_with(
        world.operator_folder.signing,
        world,
        plan.consumer,
        submitted(plan, envelope),
        [envelope.to_bytes()],
    )
    tell(clinic, forged)
    assert the_alarm(clinic).kind == UnknownKey.__name__
    assert job_of(clinic, plan.job) is None
    require_untouched(deal)


def test_a_submission_changed_after_its_signature_is_refused(deal: Deal) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    plan = a_plan(deal)
    envelope = plans.sign_plan(plan, world.members["research"].folder.signing)
    genuine = said(world, "research", submitted(plan, envelope), [envelope.to_bytes()])
    statement = Envelope.from_bytes(genuine.entry)
    later = replace(read_statement(genuine.entry).statement, time=world.clock.now())
    forged = replace(statement, payload=record.to_bytes(later)).to_bytes()
    tell(clinic, replace(genuine, entry=forged))
    assert the_alarm(clinic).kind == BadSignature.__name__
    assert job_of(clinic, plan.job) is None
    require_untouched(deal)


Change = Callable[[Deal, Plan], Plan]

COUNT = Statistic(Function.COUNT, (), distinct=False)
PROGRESSION_ABOVE = Compare(Comparator.GREATER, ColumnValue("progression"), Number(1500, 1))
IS_P001 = Compare(Comparator.EQUAL, ColumnValue("person"), Text("p001"))
NOISE = Noise(
    Distribution.LAPLACE, Fraction(1, 1000), Fraction(1, 10**9), None, (), Fraction(1, 10**9)
)


def with_query(plan: Plan, **changes: object) -> Plan:
    return replace(plan, work=replace(plan.query, **changes))  # type: ignore[arg-type]


def with_mean_of(plan: Plan, column: str) -> Plan:
    mean = Statistic(Function.MEAN, (Argument(0, ColumnValue(column)),), distinct=False)
    return with_query(plan, statistics=(COUNT, mean))


BEYOND_THE_AGREEMENT: dict[str, tuple[str, Change]] = {
    "another purpose": ("terms.purposes", lambda d, p: replace(p, purpose="marketing")),
    "smaller groups": ("terms.min_group", lambda d, p: with_query(p, gate=Gate(4))),
    "noise that the join does not add": (
        "plan",
        lambda d, p: with_query(p, noise=NOISE),
    ),
    "an unknown column": (
        "product.columns",
        lambda d, p: with_mean_of(p, "income"),
    ),
    "grouping by a measure": (
        "rule.uses.progression",
        lambda d, p: with_side(p, 0, group_by=(GroupBy("progression", cuts=(5,)),)),
    ),
    "selecting by a measure": (
        "rule.uses.progression",
        lambda d, p: with_side(p, 0, where=PROGRESSION_ABOVE),
    ),
    "summing a group": (
        "rule.uses.sex",
        lambda d, p: with_mean_of(p, "sex"),
    ),
    "grouping by the join key": (
        "rule.uses.person",
        lambda d, p: with_side(p, 0, group_by=(GroupBy("person", categories=("p001", "p002")),)),
    ),
    "selecting one person": (
        "rule.uses.person",
        lambda d, p: with_side(p, 0, where=IS_P001),
    ),
    "categories that are not public": (
        "product.columns",
        lambda d, p: with_side(p, 0, group_by=(GroupBy("sex", categories=("f", "p001")),)),
    ),
    "a lower price": (
        "terms.price_minor",
        lambda d, p: with_side(p, 0, price_minor=Amount(1)),
    ),
    "another currency": ("terms.currency", lambda d, p: replace(p, currency="CNY")),
    "another receiver": (
        "agreement.consumer",
        lambda d, p: replace(p, receivers=(_receiver(d, "mallory"),)),
    ),
    "the receiver's keys of another": (
        "agreement.consumer",
        lambda d, p: replace(
            p, receivers=(replace(p.receivers[0], document=_receiver(d, "mallory").document),)
        ),
    ),
    "another deal": (
        "agreement.deal",
        lambda d, p: replace(p, deal=DealId.new(START, SystemRandomness())),
    ),
    "the other holder's agreement": (
        "agreement",
        lambda d, p: with_side(p, 0, agreement=p.sides[1].agreement),
    ),
    "an agreement that nobody signed": (
        "agreement",
        lambda d, p: with_side(p, 0, agreement=digest(b"invented")),
    ),
    "another operator": (
        "operator",
        lambda d, p: replace(p, operator=d.world.members["mallory"].id),
    ),
    "a run of a day": ("run_seconds", lambda d, p: replace(p, run_seconds=86_400)),
    "a time limit that has passed": (
        "run_by",
        lambda d, p: replace(
            p, created_at=START - timedelta(days=1), run_by=START - timedelta(hours=23)
        ),
    ),
}


def _receiver(deal: Deal, name: str) -> Receiver:
    member = deal.world.members[name]
    return Receiver(member.id, member.folder.party.digest)


@pytest.mark.parametrize("what", BEYOND_THE_AGREEMENT)
def test_a_plan_beyond_the_agreement_is_refused_with_the_clause(shared: Deal, what: str) -> None:
    clause, change = BEYOND_THE_AGREEMENT[what]
    plan = honest_words(change(shared, a_plan(shared)))
    require_refused(shared, offer(shared, plan), clause)


def test_a_plan_that_lies_about_what_somebody_learns_is_refused(deal: Deal) -> None:
    plan = a_plan(deal)
    lie = replace(plan, learns={**plan.learns, plan.consumer: "Nothing."})
    require_refused(deal, offer(deal, lie), "learns")


def test_a_plan_that_leaves_out_what_somebody_learns_is_refused(deal: Deal) -> None:
    plan = a_plan(deal)
    words = {who: said for who, said in plan.learns.items() if who != plan.operator}
    lie = replace(plan, learns=words)
    require_refused(deal, offer(deal, lie), "learns")


def test_another_consumer_cannot_use_an_agreement_that_is_not_its_own(deal: Deal) -> None:
    mallory = deal.world.members["mallory"]
    document = mallory.folder.party.digest
    plan = a_plan(deal, consumer=mallory.id, consumer_document=document)
    plan = honest_words(replace(plan, receivers=(Receiver(mallory.id, document),)))
    require_refused(deal, offer(deal, plan, by="mallory"), "agreement.consumer")


def test_another_consumer_cannot_send_the_consumers_plan(deal: Deal) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    plan = a_plan(deal)
    envelope = plans.sign_plan(plan, world.members["research"].folder.signing)
    tell(clinic, said(world, "mallory", submitted(plan, envelope), [envelope.to_bytes()]))
    assert "the plan is not the sender's" in the_alarm(clinic).words
    assert job_of(clinic, plan.job) is None
    require_untouched(deal)


def test_a_product_that_was_not_agreed_to_be_combined_is_refused(deal: Deal) -> None:
    world = deal.world
    other = list_rows(world, "lab", LAB_ROWS, ("person", "s5"), 1000, lab_columns())
    world.settle()
    lab = world.members["lab"].folder.party.digest
    agreed = terms_for(world, other, deal.clinic_product)
    plan = with_side(a_plan(deal), 1, product=agreed.product, holder_document=lab)
    require_refused(deal, offer(deal, honest_words(plan)), "terms.combine_with")


def test_another_version_of_the_own_product_is_refused(deal: Deal) -> None:
    world = deal.world
    other = list_rows(world, "clinic", [], ("person", "s5"), 1000, lab_columns())
    world.settle()
    product = terms_for(world, other, deal.lab_product).product
    people = (Output("people", Released(0, 0)),)
    counted = with_query(a_plan(deal), statistics=(COUNT,), outputs=people)
    plan = with_side(counted, 0, product=product, group_by=())
    require_refused(deal, offer(deal, honest_words(plan)), "terms.product")


def test_a_product_shown_as_a_holders_that_another_listed_is_refused(deal: Deal) -> None:
    plan = a_plan(deal)
    plan = with_side(plan, 1, product=plan.sides[0].product, group_by=())
    job = offer(deal, honest_words(plan))
    require_refused(deal, job, NotTrusted.__name__)
    assert "is the document of" in job.reason


@pytest.mark.parametrize(
    ("days", "words"), [(31, "has expired"), (30, "has expired"), (-1, "is not yet in force")]
)
def test_an_agreement_counts_only_while_it_is_in_force(deal: Deal, days: int, words: str) -> None:
    world = deal.world
    world.clock.at = START + timedelta(days=days)
    plan = a_plan(deal)
    job = offer(deal, plan)
    require_refused(deal, job, "validity")
    assert words in job.reason


def test_a_job_cannot_be_admitted_for_a_time_after_the_agreement(deal: Deal) -> None:
    plan = a_plan(deal, run_by=START + timedelta(days=31))
    job = offer(deal, plan)
    require_refused(deal, job, "validity")


def test_a_node_starts_nothing_after_the_plans_time_limit_whatever_the_hub_says(
    deal: Deal,
) -> None:
    world = deal.world
    clinic, lab, research = (world.members[n] for n in ("clinic", "lab", "research"))
    number = deal.submit()
    for member in (research, clinic, lab):
        member.node.hear(wait_s=0)
        member.node.work()
    world.clock.pass_(timedelta(minutes=16))  # the clinic now hears of the other's admission
    clinic.node.hear(wait_s=0)
    clinic.node.work()
    job = job_of(clinic, number)
    assert job is not None
    assert job.state is JobState.ADMITTED
    require_untouched(deal)


def test_a_plan_submitted_again_is_passed_by_with_an_alarm(deal: Deal) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    deal.submit()
    world.settle()
    opened = list(world.opened)
    with world.store.reading() as tx:
        messages = tx.deliveries(clinic.id, after=0, limit=100)
    (again,) = (m for m in messages if type_of(m.entry) == "job.submitted")
    tell(clinic, Incoming(0, again.entry, again.documents))
    assert the_alarm(clinic).kind == PlanRefused.__name__
    assert "was submitted before" in the_alarm(clinic).words
    world.settle()
    assert world.opened == opened


def test_the_same_plan_under_another_jobs_name_is_refused(deal: Deal) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    plan = a_plan(deal)
    envelope = plans.sign_plan(plan, world.members["research"].folder.signing)
    act = replace(submitted(plan, envelope), subject=JobId.new(START, SystemRandomness()))
    tell(clinic, said(world, "research", act, [envelope.to_bytes()]))
    assert "for another job" in the_alarm(clinic).words
    require_untouched(deal)


def test_the_hub_itself_refuses_a_plan_submitted_twice(deal: Deal) -> None:
    world, research = deal.world, deal.world.members["research"]
    plan = a_plan(deal)
    research.desk.submit(plan)
    with pytest.raises(PlanRefused, match="was submitted before"):
        research.desk.submit(plan)
    research.node.work()
    envelope = plans.sign_plan(plan, research.folder.signing)
    with research.node.store.reading() as tx:
        head = tx.head()
    again = sign_statement(
        submitted(plan, envelope),
        actor=research.id,
        head=head,
        signer=research.folder.signing,
        now=world.clock.now(),
        randomness=SystemRandomness(),
    )
    answer = world.service.submit(research.id, read_submission(again.entry, [envelope.to_bytes()]))
    assert not answer.applied
    assert "submit is not possible" in answer.reason


def test_a_hub_that_forgets_its_count_of_runs_does_not_make_a_node_forget(deal: Deal) -> None:
    world = deal.world
    clinic = world.members["clinic"]
    plan = a_plan(deal)
    agreement = plan.sides[0].agreement
    with clinic.node.store.transaction() as tx:
        counted = tx.agreement(agreement)
        assert counted is not None
        tx.save_agreement(replace(counted, runs_used=counted.agreement.terms.runs))
    with world.store.reading() as hub:
        assert hub.lock_agreement(agreement).runs_used == 0
    job = offer(deal, plan)
    require_refused(deal, job, "runs")
    assert "all 5 runs" in job.reason


# Money and admissions


def test_without_money_held_nothing_is_decided_and_a_person_cannot_admit_either(
    deal: Deal,
) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    plan = a_plan(deal)
    envelope = plans.sign_plan(plan, world.members["research"].folder.signing)
    tell(clinic, said(world, "research", submitted(plan, envelope), [envelope.to_bytes()]))
    decide(clinic)
    job = job_of(clinic, plan.job)
    assert job is not None
    assert job.decision is Decision.PENDING
    with pytest.raises(PlanRefused, match="held"):
        clinic.desk.approve(plan.job)
    require_untouched(deal)


@pytest.mark.parametrize("forger", ["research", "mallory", "lab"])
def test_nobody_but_the_operator_can_say_that_money_is_held(deal: Deal, forger: str) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    plan = a_plan(deal)
    envelope = plans.sign_plan(plan, world.members["research"].folder.signing)
    submission = said(world, "research", submitted(plan, envelope), [envelope.to_bytes()])
    hold = held(world, plan, envelope.payload_digest, read_statement(submission.entry).digest)
    tell(clinic, submission, said(world, forger, hold))
    assert "is not the operator" in the_alarm(clinic).words
    decide(clinic)
    job = job_of(clinic, plan.job)
    assert job is not None
    assert (job.held, job.decision) == (None, Decision.PENDING)
    require_untouched(deal)


@pytest.mark.parametrize("wrong", ["submission", "plan"])
def test_money_held_for_something_else_does_not_count(deal: Deal, wrong: str) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    plan = a_plan(deal)
    envelope = plans.sign_plan(plan, world.members["research"].folder.signing)
    submission = said(world, "research", submitted(plan, envelope), [envelope.to_bytes()])
    after, named = read_statement(submission.entry).digest, envelope.payload_digest
    other = digest(b"another")
    hold = held(
        world, plan, other if wrong == "plan" else named, other if wrong == "submission" else after
    )
    tell(clinic, submission, said(world, "operator", hold))
    assert the_alarm(clinic).kind == PlanRefused.__name__
    job = job_of(clinic, plan.job)
    assert job is not None
    assert job.held is None
    require_untouched(deal)


def an_admission(plan: Plan, envelope: Envelope) -> Act:
    return evidence.admitted(
        plan.job,
        plan=envelope.payload_digest,
        agreement=plan.sides[1].agreement,
        after=[],
        ephemeral=ExchangeKey.generate().public,
        link="",
    )


@pytest.mark.parametrize(
    ("forger", "kind", "words"),
    [
        ("operator in the holder's name", UnknownKey.__name__, "no trusted key"),
        ("research", "NotYours", "has no part"),
        ("operator", "NotYours", "has no part"),
    ],
)
def test_an_admission_that_the_other_holder_never_gave_starts_nothing(
    deal: Deal, forger: str, kind: str, words: str
) -> None:
    world = deal.world
    clinic, lab = world.members["clinic"], world.members["lab"]
    plan = a_plan(deal)
    assert offer(deal, plan).decision is Decision.ADMITTED
    envelope = plans.sign_plan(plan, world.members["research"].folder.signing)
    act = an_admission(plan, envelope)
    if forger == "operator in the holder's name":
        forged = signed_with(world.operator_folder.signing, world, lab.id, act)
    else:
        forged = said(world, forger, act)
    tell(clinic, forged)
    assert (the_alarm(clinic).kind, words in the_alarm(clinic).words) == (kind, True)
    job = job_of(clinic, plan.job)
    assert job is not None
    assert job.state is JobState.REQUESTED
    require_untouched(deal)


def test_an_admission_of_another_plan_starts_nothing(deal: Deal) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    plan, other = a_plan(deal), a_plan(deal)
    offer(deal, plan)
    envelope = plans.sign_plan(other, world.members["research"].folder.signing)
    act = replace(an_admission(other, envelope), subject=plan.job)
    tell(clinic, said(world, "lab", act))
    assert "speaks of another plan" in the_alarm(clinic).words
    require_untouched(deal)


@pytest.mark.parametrize("ending", ["job.refused", "job.failed", "job.cancelled", "job.expired"])
def test_a_job_is_not_ended_by_somebody_who_cannot_end_it(deal: Deal, ending: str) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    plan = a_plan(deal)
    before = offer(deal, plan)
    act = Act(type=ending, subject=plan.job, inputs=(before.plan,), body={"problem": "no"})
    tell(clinic, said(world, "mallory", act))
    assert "cannot end" in the_alarm(clinic).words
    assert job_of(clinic, plan.job) == before


# Keys


def a_changed_document(world: World, folder: PartyFolder, kind: str, path: Path) -> PartyDocument:
    document = folder.party.document
    if kind == "tls_certificate":
        path.mkdir()
        changed: Any = make_identity(path / "tls.pem", document.party, now=START).certificate
    elif kind in ("sealing", "agreement"):
        changed = ExchangeKey.generate().public
    else:
        changed = SigningKey.generate().public
    return replace(document, **{kind: changed})


KEYS = ["signing", "sealing", "agreement", "tls_certificate"]


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("how", ["the owner's old signature", "the hub's own signature"])
def test_a_swapped_key_in_a_party_document_is_noticed_by_the_first_who_needs_it(
    prepared: Prepared, tmp_path: Path, kind: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = prepared.listed.copied_to(tmp_path / "world")
    clinic, research = world.members["clinic"], world.members["research"]
    product = list_rows(world, "clinic", [], ("person", "s5"), 1, lab_columns())
    world.settle()
    folder = research.folder
    payload = record.to_bytes(a_changed_document(world, folder, kind, tmp_path / "keys"))
    if how == "the owner's old signature":
        forged, kinds = replace(folder.party.envelope, payload=payload), BadSignature
    else:
        forged = dsse.sign(PAYLOAD_TYPE, payload, world.operator_folder.identity)
        kinds = UnknownKey  # type: ignore[assignment]
    monkeypatch.setattr(clinic.hub, "party", lambda party: forged.to_bytes())
    deal = DealId.new(START, SystemRandomness())
    begun = research.negotiations.request(deal, clinic.id, terms_for(world, product, product))
    research.node.work()
    clinic.node.hear(wait_s=0)
    assert the_alarm(clinic).kind == kinds.__name__
    with clinic.node.store.reading() as tx:
        assert tx.negotiation(begun.id) is None


def test_a_swapped_identity_key_no_longer_fits_the_partys_name(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = prepared.listed.copied_to(tmp_path)
    clinic, research = world.members["clinic"], world.members["research"]
    own = SigningKey.generate()
    genuine = decode(research.folder.party.envelope.payload)
    assert isinstance(genuine, dict)
    forged = dsse.sign(PAYLOAD_TYPE, encode({**genuine, "identity": str(own.public)}), own)
    monkeypatch.setattr(clinic.hub, "party", lambda party: forged.to_bytes())
    tell(clinic, said(world, "research", Act(type="job.submitted", subject="x")))
    assert "is not the identifier of the identity key" in the_alarm(clinic).words


@pytest.mark.parametrize("name", ["the party's own", "the impostor's"])
def test_a_party_that_the_hub_invents_is_believed_by_nobody(
    prepared: Prepared, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = prepared.listed.copied_to(tmp_path / "world")
    clinic, research = world.members["clinic"], world.members["research"]
    impostor = PartyFolder.create(tmp_path / "impostor", "Research", [Role.CONSUMER], now=START)
    monkeypatch.setattr(clinic.hub, "party", lambda party: impostor.party.envelope.to_bytes())
    own = name == "the party's own"
    actor = research.id if own else impostor.party.document.party
    assert actor == party_id((research.folder if own else impostor).identity.public)
    tell(
        clinic,
        signed_with(impostor.signing, world, actor, Act(type="job.submitted", subject="x")),
    )
    alarm = the_alarm(clinic)
    assert alarm.kind == NotTrusted.__name__
    expected = "the hub answered with the document of" if own else "compare its fingerprint"
    assert expected in alarm.words


def test_a_document_that_the_plan_names_cannot_be_answered_with_another(
    deal: Deal, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    other = world.members["mallory"].folder.party
    monkeypatch.setattr(clinic.hub, "document", lambda digest: other.envelope.to_bytes())
    plan = with_side(a_plan(deal), 1, holder_document=digest(b"unknown so far"))
    job = offer(deal, honest_words(plan))
    require_refused(deal, job, NotTrusted.__name__)
    assert "another document than" in job.reason


def test_keys_of_another_party_cannot_stand_for_the_holders(deal: Deal) -> None:
    mallory = deal.world.members["mallory"].folder.party.digest
    plan = with_side(a_plan(deal), 1, holder_document=mallory)
    job = offer(deal, honest_words(plan))
    require_refused(deal, job, NotTrusted.__name__)
    assert "is the document of" in job.reason


# Products and results


def test_a_product_described_otherwise_than_agreed_is_refused_by_both_sides(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = prepared.listed.copied_to(tmp_path)
    clinic, research = world.members["clinic"], world.members["research"]
    product = list_rows(world, "clinic", [], ("person", "s5"), 1, lab_columns())
    world.settle()
    cheaper = replace(product, price_minor=Amount(0))
    forged = dsse.sign(
        "application/vnd.unseen.product.v1+json",
        record.to_bytes(cheaper),
        clinic.folder.signing,
    )
    monkeypatch.setattr(research.hub, "document", lambda digest: forged.to_bytes())
    deal = DealId.new(START, SystemRandomness())
    with pytest.raises(DocumentRefused, match="another document"):
        research.negotiations.request(deal, clinic.id, terms_for(world, product, product))


def test_the_other_holders_product_cannot_be_shown_otherwise_at_admission(
    deal: Deal, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    forged = dsse.sign(
        "application/vnd.unseen.product.v1+json",
        record.to_bytes(replace(deal.lab_product, cap=2)),
        world.members["lab"].folder.signing,
    )
    honest = clinic.hub.document
    lab_digest = a_plan(deal).sides[1].product

    def lie(name: Digest) -> bytes:
        return forged.to_bytes() if name == lab_digest else honest(name)

    monkeypatch.setattr(clinic.hub, "document", lie)
    job = offer(deal, a_plan(deal))
    require_refused(deal, job, DocumentRefused.__name__)


def test_a_node_outlives_a_hub_that_denies_a_document(
    deal: Deal, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic = deal.world.members["clinic"]

    def deny(name: Digest) -> bytes:
        raise UnknownSubject(str(name))

    monkeypatch.setattr(clinic.hub, "document", deny)
    job = offer(deal, a_plan(deal))
    require_refused(deal, job, UnknownSubject.__name__)


Spoil = Callable[[Deal, JobId, bytes], bytes]


def _denied(deal: Deal, number: JobId, sealed: bytes) -> bytes:
    raise UnknownSubject("a released part")


PARTS: dict[str, Spoil] = {
    "truncated": lambda d, j, sealed: sealed[:-1],
    "flipped": lambda d, j, sealed: sealed[:-1] + bytes([sealed[-1] ^ 1]),
    "swapped for the other holder's": lambda d, j, sealed: _other_part(d, j, sealed),
    "invented": lambda d, j, sealed: b"nothing",
    "denied": _denied,
}


def _other_part(deal: Deal, number: JobId, sealed: bytes) -> bytes:
    with deal.world.store.reading() as tx:
        parts = [tx.document(name) for name in tx.job(number).results.values()]
    (other,) = (part for part in parts if part != sealed)
    return other


@pytest.mark.parametrize("how", PARTS)
def test_a_sealed_part_that_is_not_what_its_holder_signed_for_raises_an_alarm(
    deal: Deal, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, research = deal.world, deal.world.members["research"]
    number = deal.submit()
    honest = research.hub.part
    monkeypatch.setattr(
        research.hub, "part", lambda job, name: PARTS[how](deal, job, honest(job, name))
    )
    world.settle()
    alarm = the_alarm(research)
    assert alarm.kind == "ResultRefused"
    assert number in alarm.words
    with pytest.raises(UnknownSubject):
        receiving.answer(number, research.node.store)
    assert last_type(research) == "alarm.raised"
    with research.node.store.reading() as tx:
        entry = tx.entry(tx.head().next_seq - 1)
    assert entry is not None
    said = read_statement(entry).statement
    assert said.body == {"kind": "ResultRefused"}  # what is wrong may tell of the result
    with world.store.reading() as tx:
        reason = evidence.reason_in(said, {name: tx.document(name) for name in said.outputs})
    assert reason is not None
    assert reason.problem in alarm.words


def test_a_part_sealed_for_another_job_does_not_open(
    deal: Deal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder colludes: its receipt for the second job names what it sealed for the first."""
    world = deal.world
    research, lab = world.members["research"], world.members["lab"]
    first = deal.submit()
    world.settle()
    with world.store.reading() as tx:
        earlier = tx.document(tx.job(first).results[lab.id])
    second = deal.submit()
    honest = research.hub.part

    def swap_receipt(message: Incoming) -> Sequence[Incoming]:
        statement = read_statement(message.entry).statement
        if statement.type != "job.sealed" or statement.actor != lab.id:
            return [message]
        act = Act(
            type="job.sealed",
            subject=second,
            inputs=statement.inputs,
            outputs=(digest(earlier),),
        )
        return [replace(said(world, "lab", act), number=message.number)]

    def part(job: JobId, name: Digest) -> bytes:
        return earlier if name == digest(earlier) else honest(job, name)

    research.hub.deceive = swap_receipt
    monkeypatch.setattr(research.hub, "part", part)
    world.settle()
    assert the_alarm(research).kind == "ResultRefused"
    with pytest.raises(UnknownSubject):
        receiving.answer(second, research.node.store)


def test_a_second_receipt_of_one_holder_raises_an_alarm(deal: Deal) -> None:
    world = deal.world
    research, lab = world.members["research"], world.members["lab"]
    number = deal.submit()
    world.settle()
    job = job_of(research, number)
    assert job is not None
    act = Act(type="job.sealed", subject=number, inputs=(job.plan,), outputs=(digest(b"x"),))
    tell(research, said(world, "lab", act))
    assert "has sealed its part before" in the_alarm(research).words
    assert job_of(research, number) == job
    assert lab.id in job.receipts


# Dropped, reordered and repeated


def test_a_dropped_message_is_noticed_by_the_next_and_the_job_is_refunded(deal: Deal) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    number = deal.submit()
    clinic.hub.deceive = lambda message: (
        [] if type_of(message.entry) == "job.submitted" else [message]
    )
    world.settle()
    kinds = [alarm.kind for alarm in alarms(clinic)]
    assert kinds == ["MessagesMissing", "UnknownSubject", "UnknownSubject"], alarms(clinic)
    world.clock.pass_(timedelta(minutes=16))
    world.settle()
    with world.store.reading() as tx:
        assert tx.job(number).state is JobState.EXPIRED
    assert world.available("research") == 10_000
    assert "clinic" not in world.opened


def test_messages_told_in_another_order_start_nothing(
    deal: Deal, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = deal.world
    clinic, research = world.members["clinic"], world.members["research"]
    number = deal.submit()
    research.node.work()
    honest = clinic.hub.inbox

    def backwards(*, after: int, wait_s: float) -> Sequence[Incoming]:
        messages = list(honest(after=after, wait_s=wait_s))
        return [
            replace(told, number=place.number)
            for told, place in zip(reversed(messages), messages, strict=True)
        ]

    monkeypatch.setattr(clinic.hub, "inbox", backwards)
    clinic.node.hear(wait_s=0)
    assert the_alarm(clinic).kind == "UnknownSubject"  # money for a job it has not heard of
    clinic.node.work()
    job = job_of(clinic, number)
    assert job is not None
    assert job.decision is Decision.PENDING
    require_untouched(deal)


@pytest.mark.parametrize("kind", ["funds.held", "job.admitted", "job.started", "job.sealed"])
def test_a_repeated_message_changes_nothing(deal: Deal, kind: str) -> None:
    world, lab = deal.world, deal.world.members["lab"]
    number = deal.submit()
    world.settle()
    before, opened = job_of(lab, number), list(world.opened)
    with world.store.reading() as tx:
        messages = tx.deliveries(lab.id, after=0, limit=100)
    (again,) = (m for m in messages if type_of(m.entry) == kind)
    tell(lab, Incoming(0, again.entry, again.documents))
    world.settle()
    assert job_of(lab, number) == before
    assert world.opened == opened


def test_a_message_of_bytes_that_are_no_statement_does_not_stop_a_node(deal: Deal) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    tell(clinic, Incoming(0, b"rubbish", ()), Incoming(0, b"{}", ()))
    assert [alarm.kind for alarm in alarms(clinic)] == ["Malformed", "Malformed"]
    number = deal.submit()
    with clinic.node.store.transaction() as tx:
        tx.set_remark("inbox", str(int(tx.remark("inbox") or 0) - 2))  # the honest numbers
    world.settle()
    job = job_of(clinic, number)
    assert job is not None
    assert job.state is JobState.RELEASED


# The ledger


def last_type(member: Member) -> str:
    with member.node.store.reading() as tx:
        entry = tx.entry(tx.head().next_seq - 1)
    assert entry is not None
    return type_of(entry)


def test_a_statement_that_never_comes_under_a_head_raises_an_alarm_after_a_while(
    deal: Deal, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    clinic.node.look()
    deal.submit()
    world.settle()
    monkeypatch.setattr(clinic.hub, "receipt", lambda statement: None)
    clinic.node.look()
    assert alarms(clinic) == []  # it may still come
    world.clock.pass_(PATIENCE)
    clinic.node.look()
    kinds = {alarm.kind for alarm in alarms(clinic)}
    assert kinds == {"StatementMissing"}
    assert any("job.admitted" in alarm.words for alarm in alarms(clinic))
    assert last_type(clinic) == "alarm.raised"


def test_a_hub_that_takes_a_statement_and_drops_it_is_found_out_at_the_next_look(
    deal: Deal, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, research = deal.world, deal.world.members["research"]
    deal.submit()

    class Taken:
        applied, reason = True, ""

    monkeypatch.setattr(research.hub, "submit", lambda entry, documents: Taken())
    research.node.work()
    research.node.look()
    assert "and now knows" in the_alarm(research).words
    assert the_alarm(research).kind == "StatementMissing"
    with pytest.raises(EvidenceMissing, match="lost records"):
        research.node.begin()
    with world.store.reading() as tx:
        assert list(tx.unsettled_jobs()) == []


def a_fork(deal: Deal, path: Path) -> World:
    """The same log, with the same key, that went on otherwise."""
    twin = deal.world.copied_to(path)
    twin.fund("mallory", 5)
    twin.settle()
    return twin


def a_longer_log(deal: Deal) -> None:
    deal.submit()
    deal.world.settle()


def test_a_log_that_forks_is_noticed(
    deal: Deal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic = deal.world.members["clinic"]
    twin = a_fork(deal, tmp_path / "twin")
    a_longer_log(deal)
    clinic.node.look()
    assert alarms(clinic) == []
    twin_deal = Deal(twin, deal.deal, deal.clinic_product, deal.lab_product)
    a_longer_log(twin_deal)
    a_longer_log(twin_deal)
    monkeypatch.setattr(clinic.hub, "checkpoint", twin.service.checkpoint)
    monkeypatch.setattr(clinic.hub, "consistency", twin.service.consistency)
    clinic.node.look()
    assert the_alarm(clinic).kind == "LogForked"
    assert last_type(clinic) == "alarm.raised"


def test_a_log_that_is_rewritten_at_the_same_size_is_noticed(
    deal: Deal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    twin = a_fork(deal, tmp_path / "twin")
    world.fund("mallory", 6)
    world.settle()
    clinic.node.look()
    with twin.store.reading() as theirs, world.store.reading() as ours:
        forked, seen = theirs.log.latest(), ours.log.latest()
        assert forked is not None
        assert seen is not None
        assert forked.size == seen.size
    monkeypatch.setattr(clinic.hub, "checkpoint", twin.service.checkpoint)
    monkeypatch.setattr(clinic.hub, "consistency", twin.service.consistency)
    clinic.node.look()
    assert the_alarm(clinic).kind == "LogForked"


def test_a_log_that_shrinks_is_noticed(deal: Deal, monkeypatch: pytest.MonkeyPatch) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    before = world.service.checkpoint()
    a_longer_log(deal)
    clinic.node.look()
    monkeypatch.setattr(clinic.hub, "checkpoint", lambda: before)
    clinic.node.look()
    assert the_alarm(clinic).kind == "LogForked"
    assert "shrank" in the_alarm(clinic).words


@pytest.mark.parametrize("text", ["", "nothing", "unseen.test/log\n5\nAAAA\n\n"])
def test_a_head_that_the_log_did_not_sign_is_not_followed(
    deal: Deal, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic = deal.world.members["clinic"]
    monkeypatch.setattr(clinic.hub, "checkpoint", lambda: text)
    clinic.node.look()
    kinds = {alarm.kind for alarm in alarms(clinic)}
    # Without a head there is nothing to follow, and so nothing that a proof could belong to.
    assert kinds == ({"ProofRefused"} if text == "" else {"LogForked", "ProofRefused"})


def test_a_proof_of_another_entry_is_refused(deal: Deal, monkeypatch: pytest.MonkeyPatch) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    with world.members["lab"].node.store.reading() as tx:
        entry = tx.entry(0)
    assert entry is not None
    other = world.service.receipt(digest(entry))
    monkeypatch.setattr(clinic.hub, "receipt", lambda statement: other)
    assert clinic.node.look() == 0
    assert {alarm.kind for alarm in alarms(clinic)} == {"ProofRefused"}


def test_a_proof_of_bytes_that_are_no_proof_is_refused(
    deal: Deal, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic = deal.world.members["clinic"]
    monkeypatch.setattr(clinic.hub, "receipt", lambda statement: "c2sp.org/tlog-proof@v1\n")
    assert clinic.node.look() == 0
    assert {alarm.kind for alarm in alarms(clinic)} == {"ProofRefused"}


def test_a_proof_from_a_side_history_that_is_shown_to_this_node_alone_is_refused(
    deal: Deal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub drops a statement from the log that everybody sees, and keeps a second one, signed
    with the same key, from which it proves the statement to its author."""
    world, clinic = deal.world, deal.world.members["clinic"]
    clinic.node.look()
    twin = a_fork(deal, tmp_path / "twin")
    list_rows(world, "clinic", [], ("person", "s5"), 1, lab_columns())
    with clinic.node.store.reading() as tx:
        (waiting,) = tx.unsent(5)
    twin.service.submit(clinic.id, read_submission(waiting.entry, waiting.documents))
    twin.settle()
    world.settle()
    proof = twin.service.receipt(digest(waiting.entry))
    assert proof is not None
    monkeypatch.setattr(clinic.hub, "receipt", lambda statement: proof)
    assert clinic.node.look() == 0
    assert the_alarm(clinic).kind == "ProofRefused"


# The own chain


def test_a_node_restored_from_an_old_backup_refuses_to_work(deal: Deal, tmp_path: Path) -> None:
    world = deal.world
    backup = world.copied_to(tmp_path / "backup")
    deal.submit()
    world.settle()
    clinic = backup.members["clinic"]
    clinic.hub.service = world.service  # the hub of today, the records of yesterday
    with pytest.raises(RestoredBackup, match="restored from an old backup"):
        clinic.node.begin()


def test_a_node_is_told_of_a_statement_it_never_made(
    deal: Deal, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic = deal.world.members["clinic"]
    theirs = clinic.hub.chain()
    monkeypatch.setattr(clinic.hub, "chain", lambda: ChainHead(theirs.next_seq, digest(b"another")))
    with pytest.raises(EvidenceMissing, match="is not the one it signed"):
        clinic.node.begin()


def test_a_hub_restored_from_an_old_backup_is_found_out(deal: Deal, tmp_path: Path) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    old = world.copied_to(tmp_path / "old")
    deal.submit()
    world.settle()
    clinic.node.look()
    clinic.hub.service = old.service
    clinic.node.look()
    kinds = {alarm.kind for alarm in alarms(clinic)}
    assert kinds == {"StatementMissing", "LogForked"}
    with pytest.raises(EvidenceMissing, match="lost records"):
        clinic.node.begin()


# Clocks


def a_statement_of(deal: Deal, age: timedelta) -> tuple[Member, bytes]:
    """The regulator's next statement, dated `age` ago."""
    world, regulator = deal.world, deal.world.members["regulator"]
    with regulator.node.store.reading() as tx:
        head = tx.head()
    signed = sign_statement(
        evidence.alarmed(regulator.id, kind="Test", words="of the time"),
        actor=regulator.id,
        head=head,
        signer=regulator.folder.signing,
        now=world.clock.now() - age,
        randomness=SystemRandomness(),
    )
    return regulator, signed.entry


@pytest.mark.parametrize("minutes", [-9, 0, 9])
def test_a_statement_dated_near_its_arrival_takes_effect(deal: Deal, minutes: int) -> None:
    regulator, entry = a_statement_of(deal, timedelta(minutes=minutes))
    assert regulator.hub.submit(entry, []).applied


def test_a_statement_from_the_future_is_not_taken_in(deal: Deal) -> None:
    regulator, entry = a_statement_of(deal, timedelta(minutes=-11))
    before = regulator.hub.chain()
    with pytest.raises(Malformed, match=r"time: is .* after the hub's clock"):
        regulator.hub.submit(entry, [])
    assert regulator.hub.chain() == before
    deal.world.clock.pass_(timedelta(minutes=2))
    assert regulator.hub.submit(entry, []).applied  # its time has come


def test_a_back_dated_statement_is_logged_without_effect(deal: Deal) -> None:
    regulator, entry = a_statement_of(deal, timedelta(minutes=11))
    before = regulator.hub.chain()
    answer = regulator.hub.submit(entry, [])
    assert not answer.applied
    assert "too late to take effect" in answer.reason
    assert regulator.hub.chain().next_seq == before.next_seq + 1


def test_a_job_submitted_too_late_is_refused_at_its_consumer_and_the_chain_goes_on(
    deal: Deal,
) -> None:
    world, research = deal.world, deal.world.members["research"]
    research.hub.down = True
    late = deal.submit()
    world.clock.pass_(timedelta(minutes=11))
    research.hub.down = False
    fresh = deal.submit()
    world.settle()
    refused, done = job_of(research, late), job_of(research, fresh)
    assert refused is not None
    assert done is not None
    assert refused.state is JobState.REFUSED
    assert "too late to take effect" in refused.reason
    assert done.state is JobState.RELEASED
    assert world.available("research") == 8000
