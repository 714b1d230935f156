"""What is admitted without asking leaves evidence: for all that there is an approval and which jobs
rest on it, for regulators what a holder's says; and an audit compares the two."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import pytest
from sqlalchemy import event

from api.folder import PartyFolder
from crypto import record, sealing
from crypto.digest import Digest, commit, digest, opens
from crypto.errors import CannotOpen
from crypto.identifiers import PartyId
from crypto.keys import ExchangeKey
from crypto.ports import SystemRandomness
from crypto.statement import Act, ChainHead, Statement, read_statement, sign_statement
from exchange import evidence, openings
from exchange.approval import StandingApproval
from exchange.audit.answers import DealReport
from exchange.audit.deal import audit_deal
from exchange.audit.openings import Opener
from exchange.audit.roots import Roots
from exchange.audit.voices import VOICES
from exchange.errors import UnknownSubject
from exchange.evidence import (
    HELPING_BEGUN,
    HELPING_ENDED,
    STANDING,
    STANDING_APPROVED,
    STANDING_WITHDRAWN,
)
from exchange.hub import bundle as hub_bundle
from exchange.hub.model import Outcome
from exchange.node import approving, jobs, outbox
from exchange.node.model import Identity, NodeApproval
from exchange.openings import Opening, SealedOpenings
from exchange.query.explanation import Language
from exchange.submission import read_submission
from registry.party import Role
from registry.rule import Join
from tests.world import START, Deal, World, a_controller, a_deal, a_world, an_approval, approve


@pytest.fixture
def deal(tmp_path: Path) -> Deal:
    return a_deal(a_world(tmp_path))


def clinics(deal: Deal, **limits: object) -> StandingApproval:
    return an_approval(deal.world, deal.clinic_product, **limits)


def approved(deal: Deal, approval: StandingApproval) -> Digest:
    said = approve(deal.world, "clinic", approval)
    deal.world.settle()
    return said


def logged(world: World, name: Digest) -> Statement:
    with world.store.reading() as tx:
        index = tx.log.index_of(name)
        assert index is not None
        (found,) = tx.log.entries(index, index + 1)
        outcome = tx.outcome(name)
        assert outcome is not None and outcome.applied
    return read_statement(found.entry).statement


def test_everybody_sees_that_there_is_one_and_the_agreements_regulator_what_it_says(
    deal: Deal,
) -> None:
    world, approval = deal.world, clinics(deal)
    said = approved(deal, approval)
    statement = logged(world, said)
    assert (statement.type, statement.subject) == (STANDING_APPROVED, approval.product)
    assert (statement.body, set(statement.commitments)) == ({}, {STANDING})
    regulator = world.members["regulator"]
    context = openings.standing_context(statement.commitments[STANDING])
    sealed = world.service.opening(regulator.id, said)
    plain = sealing.open_sealed(sealed, regulator.folder.sealing, context=context)
    opening = record.from_bytes(Opening, plain)
    assert record.from_bytes(StandingApproval, opening.value) == approval
    assert opens(statement.commitments[STANDING], opening.salt, opening.value)
    other = record.to_bytes(replace(approval, runs_per_day=1000))
    assert not opens(statement.commitments[STANDING], opening.salt, other)
    for name in ("research", "lab"):
        with pytest.raises(UnknownSubject):
            world.service.opening(world.members[name].id, said)
    lab = world.members["lab"]
    with pytest.raises(CannotOpen):
        sealing.open_sealed(sealed, lab.folder.sealing, context=context)


def test_one_that_is_taken_back_says_which(deal: Deal) -> None:
    world, approval = deal.world, clinics(deal)
    said = approved(deal, approval)
    clinic = world.members["clinic"].node
    with clinic.store.transaction() as tx:
        ended = approving.withdraw(approval, tx=tx, identity=clinic.identity)
        assert tx.standing() == []
    world.settle()
    statement = logged(world, ended)
    assert (statement.type, statement.after) == (STANDING_WITHDRAWN, (said,))
    with clinic.store.transaction() as tx, pytest.raises(UnknownSubject):
        approving.withdraw(approval, tx=tx, identity=clinic.identity)


def test_the_same_again_takes_the_place_of_the_first(deal: Deal) -> None:
    """So that the regulators of agreements made since are given its opening."""
    world, approval = deal.world, clinics(deal)
    first = approved(deal, approval)
    second = approved(deal, approval)
    with world.members["clinic"].node.store.reading() as tx:
        assert tx.standing() == [NodeApproval(second, approval)]
        ended = tx.last_said(STANDING_WITHDRAWN, approval.product)
    assert ended is not None and logged(world, ended).after == (first,)


def test_a_crash_leaves_neither_the_approval_nor_its_statement(deal: Deal) -> None:
    clinic = deal.world.members["clinic"].node
    with clinic.store.reading() as tx:
        before = tx.head()
    with pytest.raises(RuntimeError), clinic.store.transaction() as tx:
        approving.approve(clinics(deal), tx=tx, identity=clinic.identity)
        raise RuntimeError
    with clinic.store.reading() as tx:
        assert (tx.head(), tx.standing()) == (before, [])


def test_nobody_approves_anything_of_anothers_product(deal: Deal) -> None:
    world = deal.world
    lab = world.members["lab"]
    with lab.node.store.transaction() as tx, pytest.raises(UnknownSubject):
        approving.approve(clinics(deal), tx=tx, identity=lab.node.identity)
    # Past its own node, which would not say it.
    document = record.to_bytes(SealedOpenings(1, {world.members["regulator"].id: b"anything"}))
    act = evidence.standing_approved(
        deal.clinic_product.id, commitment=digest(b"any"), openings=digest(document)
    )
    said, outcome = past_its_node(world, "lab", act, document)
    assert not outcome.applied and "is a product of" in outcome.reason
    with pytest.raises(UnknownSubject):
        world.service.opening(world.members["regulator"].id, said)


def past_its_node(world: World, name: str, act: Act, *documents: bytes) -> tuple[Digest, Outcome]:
    """What the hub says to an act that a member's own software would not say."""
    member = world.members[name]
    signed = sign_statement(
        act,
        actor=member.id,
        head=world.service.chain(member.id),
        signer=member.folder.signing,
        now=world.clock.now(),
        randomness=SystemRandomness(),
    )
    return signed.digest, world.service.submit(member.id, read_submission(signed.entry, documents))


def test_the_hub_takes_in_no_approval_that_says_nothing_or_ends_none(deal: Deal) -> None:
    world, product = deal.world, deal.clinic_product.id
    clinic, lab = (world.members[name].id for name in ("clinic", "lab"))
    stands = approved(deal, clinics(deal))
    helps, taken_in = past_its_node(world, "clinic", evidence.helping_begun(clinic))
    assert taken_in.applied
    helped = evidence.helping_begun(clinic)
    for wrong in (
        replace(
            evidence.standing_approved(product, commitment=stands, openings=None), commitments={}
        ),
        evidence.standing_withdrawn(product, approved=helps),
        evidence.standing_withdrawn(product, approved=digest(b"nothing")),
        Act(STANDING_WITHDRAWN, product),
        Act(STANDING_WITHDRAWN, product, after=(stands,), body={"for": "good"}),
        Act(STANDING_WITHDRAWN, product, after=(stands, stands)),
        evidence.helping_begun(lab),
        replace(helped, body={"for": "good"}),
        replace(helped, outputs=(stands,)),
        replace(helped, commitments={STANDING: stands}),
        evidence.helping_ended(clinic, begun=stands),
        Act(HELPING_ENDED, clinic),
    ):
        _, outcome = past_its_node(world, "clinic", wrong)
        assert not outcome.applied, wrong
    _, outcome = past_its_node(world, "clinic", evidence.helping_ended(clinic, begun=helps))
    assert outcome.applied


def test_what_an_ending_names_costs_the_same_however_much_was_said_before(deal: Deal) -> None:
    """All others wait meanwhile: one that names hundreds must not have it all read for each."""
    clinic = deal.world.members["clinic"].id
    asked: list[object] = []
    engine = deal.world.store._engine

    def cost(ended: Act) -> tuple[bool, int]:
        asked.clear()
        event.listen(engine, "before_cursor_execute", note := lambda *a: asked.append(a[2]))
        _, outcome = past_its_node(deal.world, "clinic", ended)
        event.remove(engine, "before_cursor_execute", note)
        return outcome.applied, len(asked)

    def begin() -> Digest:
        return past_its_node(deal.world, "clinic", evidence.helping_begun(clinic))[0]

    taken_in, queries = cost(evidence.helping_ended(clinic, begun=begin()))
    assert taken_in
    names = tuple(begin() for _ in range(20))
    assert cost(evidence.helping_ended(clinic, begun=names[3])) == (True, queries)
    taken_in, queries_of_many = cost(Act(HELPING_ENDED, clinic, after=names))
    assert not taken_in and queries_of_many <= queries + 1  # what became of it is put right


def test_one_that_reaches_the_hub_late_is_taken_in_all_the_same(deal: Deal) -> None:
    """What comes after it in the log rests on it, and would look groundless without."""
    said = approve(deal.world, "clinic", clinics(deal))
    deal.world.clock.pass_(timedelta(hours=1))
    deal.world.settle()
    logged(deal.world, said)


# A helper's general approval


def test_a_helper_says_when_it_begins_to_help_unasked_and_when_it_ends(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    helper = world.join("helper", Role.HELPER)
    for willing in (True, True, False, False):
        helper.desk.help_unasked(willing)
    world.settle()
    with helper.node.store.reading() as tx:
        assert tx.head().next_seq == 3  # its document, and both of these once
        begun, ended = (tx.last_said(kind, helper.id) for kind in (HELPING_BEGUN, HELPING_ENDED))
    assert begun is not None and ended is not None
    said = logged(world, begun)
    assert (said.subject, said.body, said.commitments, said.outputs) == (helper.id, {}, {}, ())
    assert logged(world, ended).after == (begun,)


def test_a_party_that_is_not_announced_cannot_say_that_it_helps(tmp_path: Path) -> None:
    """Nobody would take it in, nor its document after it."""
    world = a_world(tmp_path)
    folder = PartyFolder.create(
        tmp_path / "helper", "Helper", (Role.HELPER,), now=START, controller=a_controller("helper")
    )
    helper = world.open_member("helper", folder)
    with pytest.raises(UnknownSubject, match="registration"):
        helper.desk.help_unasked(True)
    with helper.node.store.reading() as tx:
        assert tx.head() == ChainHead()


# What an audit makes of it


def audited(deal: Deal, opener: Opener | None = None) -> DealReport:
    world = deal.world
    with world.store.reading() as tx:
        data = hub_bundle.export(deal.deal, tx).data
    folders = [world.operator_folder, *(m.folder for m in world.members.values())]
    prints = frozenset(f.party.document.identity.fingerprint for f in folders)
    return audit_deal(data, world.policy, Roots(prints, ()), opener)


def standing(deal: Deal, opener: Opener | None = None) -> list[tuple[str, bool | None]]:
    """Nothing else fails."""
    report = audited(deal, opener)
    assert not [c for c in report.failed if not c.id.startswith("standing.")]
    return [(c.id, c.passed) for c in report.checks if c.id.startswith("standing.")]


def regulators(deal: Deal) -> Opener:
    regulator = deal.world.members["regulator"]
    return Opener(regulator.id, regulator.folder.sealing)


def given_by_hand(
    deal: Deal, approval: StandingApproval, *, opening: bytes | None = None
) -> Digest:
    """An approval of the clinic as a node says it that seals it to the regulator in any case.
    opening: instead of the true one."""
    node, reader = deal.world.members["clinic"].node, deal.world.members["regulator"].folder
    value = record.to_bytes(approval)
    commitment = commit(bytes(32), value)
    plain = record.to_bytes(Opening(bytes(32), value)) if opening is None else opening
    context = openings.standing_context(commitment)
    sealed = sealing.seal(plain, reader.party.document.sealing, context=context)
    document = record.to_bytes(SealedOpenings(1, {reader.party.document.party: sealed}))
    act = evidence.standing_approved(
        deal.clinic_product.id, commitment=commitment, openings=digest(document)
    )
    with node.store.transaction() as tx:
        said = outbox.say(act, [document], tx=tx, identity=node.identity)
        tx.add_standing(NodeApproval(said, approval))
    return said


def admit_by(monkeypatch: pytest.MonkeyPatch, deal: Deal, **names: Digest) -> None:
    """From here on these members' nodes admit whatever comes, and name this statement."""
    by_party = {deal.world.members[name].id: said for name, said in names.items()}

    def unasked(plan: object, view: object, tx: object, identity: Identity) -> Digest | None:
        return by_party.get(identity.party)

    monkeypatch.setattr(jobs, "_stands_approved", unasked)


def test_an_admission_names_what_let_it_be_admitted_unasked_and_the_regulator_compares_them(
    deal: Deal,
) -> None:
    world = deal.world
    said = approved(deal, clinics(deal))
    deal.submit()
    world.settle()
    lab = world.members["lab"]
    with lab.node.store.reading() as tx:
        (waiting,) = tx.jobs()
    lab.desk.approve(waiting.id)
    world.settle()
    clinic = world.members["clinic"].node
    with clinic.store.reading() as tx, lab.node.store.reading() as other:
        ((job,), (same,)) = tx.jobs(), other.jobs()
        by_clinic = job.admissions[clinic.identity.party]
        by_lab = same.admissions[lab.id]
    assert logged(world, by_clinic).after[2:] == (said,)
    assert logged(world, by_lab).after[2:] == ()  # a person's
    in_force = ("standing.in_force", True)
    closed = [("standing.opened", None), in_force, ("standing.within", None)]
    assert standing(deal) == closed
    assert standing(deal, replace(regulators(deal), key=ExchangeKey.generate())) == closed
    report = audited(deal, regulators(deal))
    assert standing(deal, regulators(deal)) == [
        ("standing.opened", True),
        in_force,
        ("standing.within", True),
    ]
    (within,) = [check for check in report.checks if check.id == "standing.within"]
    assert within.note is not None and within.note.facts["count"] == "1"


def test_a_helpers_admission_names_what_it_said_of_itself(tmp_path: Path) -> None:
    deal = a_deal(a_world(tmp_path), joins=(Join.HIDDEN, Join.REVEALED), epsilon=Fraction(1))
    helper = deal.world.members["helper"]
    deal.approve_standing()
    deal.submit(join=Join.REVEALED, helped=True)
    deal.world.settle()
    with helper.node.store.reading() as tx:
        (job,) = tx.jobs()
        begun = tx.last_said(HELPING_BEGUN, helper.id)
    assert logged(deal.world, job.admissions[helper.id]).after[2:] == (begun,)
    found = standing(deal, regulators(deal))
    assert found.count(("standing.in_force", True)) == 3
    assert found.count(("standing.within", True)) == 2  # its own has no limits
    assert all(passed for _, passed in found)


def test_a_helper_that_goes_on_after_it_said_that_it_ended_fails_the_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deal = a_deal(a_world(tmp_path), joins=(Join.HIDDEN, Join.REVEALED), epsilon=Fraction(1))
    helper = deal.world.members["helper"]
    with helper.node.store.reading() as tx:
        begun = approving.helps_under(tx)
    assert begun is not None
    helper.desk.help_unasked(False)
    stands = {
        "clinic": approve(deal.world, "clinic", clinics(deal)),
        "lab": approve(deal.world, "lab", an_approval(deal.world, deal.lab_product)),
    }
    admit_by(monkeypatch, deal, helper=begun, **stands)
    deal.submit(join=Join.REVEALED, helped=True)
    deal.world.settle()
    assert sorted(p for i, p in standing(deal) if i == "standing.in_force") == [False, True, True]


@pytest.mark.parametrize("whose", ["withdrawn", "another holder's", "of another kind", "another's"])
def test_an_admission_that_rests_on_no_approval_of_its_own_in_force_fails_the_audit(
    deal: Deal, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    stands = approved(deal, clinics(deal))
    labs = approve(world, "lab", an_approval(world, deal.lab_product))
    clinic.desk.help_unasked(True)
    with clinic.node.store.transaction() as tx:
        helps = approving.helps_under(tx)
        assert helps is not None
        if whose == "withdrawn":
            approving.withdraw(clinics(deal), tx=tx, identity=clinic.node.identity)
    world.settle()
    named = {
        "withdrawn": stands,
        "another holder's": labs,
        "of another kind": helps,
        "another's": deal_statement(deal),
    }[whose]
    admit_by(monkeypatch, deal, clinic=named, lab=labs)
    deal.submit()
    world.settle()
    found = standing(deal, regulators(deal))
    assert [p for i, p in found if i == "standing.in_force"] == [False, True]
    assert [p for i, p in found if i == "standing.within"] == [True]


def deal_statement(deal: Deal) -> Digest:
    """One about this deal that is no approval at all."""
    with deal.world.members["research"].node.store.reading() as tx:
        (first, _) = tx.negotiations()
        said = tx.last_said("negotiation.requested", first.id)
    assert said is not None
    return said


def test_an_admission_that_names_an_approval_that_nobody_made_fails_the_audit(
    deal: Deal, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = digest(b"nothing")
    admit_by(monkeypatch, deal, clinic=nothing, lab=nothing)
    deal.submit()
    deal.world.settle()
    failed = {check.id for check in audited(deal).failed}
    assert failed == {"entry.after", "standing.in_force"}


LIMITS: dict[str, dict[str, object]] = {
    "consumers": {"consumers": (PartyId("pty_" + "0" * 32),)},
    "purposes": {"purposes": ("other",)},
    "min_group": {"min_group": 6},
    "valid_until": {"valid_until": START},
    "runs_per_day": {"runs_per_day": 0},
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_job_outside_a_limit_of_the_approval_fails_the_audit_by_the_limits_name(
    deal: Deal, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    said = given_by_hand(deal, clinics(deal, **LIMITS[limit]))
    labs = approve(deal.world, "lab", an_approval(deal.world, deal.lab_product))
    admit_by(monkeypatch, deal, clinic=said, lab=labs)
    deal.submit()
    deal.world.settle()
    assert ("standing.within", False) not in standing(deal)
    report = audited(deal, regulators(deal))
    (failed,) = report.failed
    assert failed.id == "standing.within" and failed.note is not None
    assert failed.note.facts["limit"] == limit
    for language in Language:
        assert limit in report.to_text(VOICES[language])


def test_jobs_beyond_the_number_of_a_day_fail_the_audit_and_the_next_day_is_another(
    deal: Deal, monkeypatch: pytest.MonkeyPatch
) -> None:
    stands = approved(deal, clinics(deal, runs_per_day=1))
    labs = approve(deal.world, "lab", an_approval(deal.world, deal.lab_product))
    admit_by(monkeypatch, deal, clinic=stands, lab=labs)
    for wait in (timedelta(0), timedelta(hours=23), timedelta(hours=24)):
        deal.world.clock.pass_(wait)
        deal.submit()
        deal.world.settle()
    found = [
        check
        for check in audited(deal, regulators(deal)).checks
        if check.id == "standing.within"
        and check.note is not None
        and check.note.facts.get("allowed") == "1"
    ]
    assert [check.passed for check in found] == [True, False, True]


def test_what_an_honest_node_admits_by_the_day_passes_the_audit(deal: Deal) -> None:
    """At the very moment a day ends as well: both go by the time that the admission states."""
    approve(deal.world, "clinic", clinics(deal, runs_per_day=2))
    approve(deal.world, "lab", an_approval(deal.world, deal.lab_product))
    for wait in (timedelta(0), timedelta(hours=1), timedelta(hours=23), timedelta(hours=1)):
        deal.world.clock.pass_(wait)
        deal.submit()
        deal.world.settle()
    found = [passed for i, passed in standing(deal, regulators(deal)) if i == "standing.within"]
    assert found == [True] * 8


@pytest.mark.parametrize(("left", "admitted"), [(0, False), (1, True)])
def test_an_admission_states_the_moment_for_which_the_approvals_end_was_checked(
    deal: Deal, left: int, admitted: bool
) -> None:
    """However long signing takes: an audit compares what it states."""
    world, clinic = deal.world, deal.world.members["clinic"].node
    deal.submit()
    world.settle()
    approve(world, "clinic", clinics(deal, valid_until=world.clock.now() + timedelta(minutes=left)))

    def slowly() -> ExchangeKey:
        world.clock.pass_(timedelta(minutes=2))
        return ExchangeKey.generate()

    jobs.decide(clinic.store, clinic.hub, clinic.identity, slowly)
    world.settle()
    found = standing(deal, regulators(deal))
    assert (("standing.within", True) in found) is admitted


@pytest.mark.parametrize("forged", ["another value", "another product", "no opening"])
def test_an_opening_that_is_not_what_was_committed_to_fails_and_nothing_is_judged_by_it(
    deal: Deal, monkeypatch: pytest.MonkeyPatch, forged: str
) -> None:
    labs = an_approval(deal.world, deal.lab_product)
    wider = record.to_bytes(Opening(bytes(32), record.to_bytes(clinics(deal, min_group=2))))
    said = {
        "another value": lambda: given_by_hand(deal, clinics(deal), opening=wider),
        "another product": lambda: given_by_hand(deal, labs),
        "no opening": lambda: given_by_hand(deal, clinics(deal), opening=b"{}"),
    }[forged]()
    admit_by(monkeypatch, deal, clinic=said, lab=approve(deal.world, "lab", labs))
    deal.submit()
    deal.world.settle()
    found = standing(deal, regulators(deal))
    assert sorted(p for i, p in found if i == "standing.opened") == [False, True]
    assert [p for i, p in found if i == "standing.within"] == [None, True]
