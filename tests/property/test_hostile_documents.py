"""Whatever a document holds within its types: it is refused by name, or can be judged and told of.

Plans, terms, products and openings are written by whoever gains by them, and a hub that lies may
let any of them count. So every place of them is altered here, and an audit must come to its end:
with checks that fail, or with none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crypto import canonical, record
from crypto import envelope as dsse
from crypto.digest import Digest, commit
from crypto.envelope import Envelope
from crypto.errors import CryptoError, Malformed
from crypto.joins.layout import Order
from exchange.audit import picture, prov
from exchange.audit.deal import audit_deal
from exchange.audit.openings import Opener
from exchange.audit.voices import VOICES
from exchange.errors import ExchangeError
from exchange.openings import ReceiptOpenings
from exchange.privacy import cost_of
from exchange.query.explanation import Language, learns
from exchange.query.plan import Argument, CrossCondition, GroupBy, Plan
from exchange.query.rules import Ground, disclosures, owner_violations, violations
from pricing.evidence import COMMITMENT, Movement
from registry.errors import RegistryError
from registry.expression import Case, ColumnValue, Comparator, Compare, Number, Text, When
from registry.rule import Function
from tests.forgery import Draft, Forger
from tests.integration.test_audit_deal import export, roots_of
from tests.queries import an_agreement, the_terms
from tests.query_plans import BMI, BY_SEX, COUNT, PRODUCTS, S5, a_query_plan, statistic
from tests.unit.test_explanation import PLANS
from tests.world import World, a_deal, a_world

REFUSED: Final = (CryptoError, RegistryError, ExchangeError)
Place = tuple[str | int, ...]

# What a text stands for, as far as its spelling tells; and odd ones of each.
KINDS: Final[Mapping[str, tuple[re.Pattern[str], tuple[str, ...]]]] = {
    "time": (
        re.compile(r"\d{4}-.*Z"),
        ("1970-01-01T00:00:00.000Z", "9998-12-31T23:59:59.999Z", "9998-12-31T23:00:00.000Z"),
    ),
    "fraction": (
        re.compile(r"\d+/\d+"),
        ("0/1", "1/1", "100/1", "1/2000", "9" * 38 + "/1", "1/" + "9" * 38, "1/1" + "0" * 18),
    ),
    "amount": (re.compile(r"-?\d+"), ("0", "-1", "1", "9" * 38, "-" + "9" * 38)),
    "identifier": (re.compile(r"[a-z]{3}_[0-9a-f]{32}"), ("pty_" + "0" * 32, "prd_" + "f" * 32)),
    "digest": (re.compile(r"sha256:.*"), ("sha256:" + "0" * 64,)),
    "text": (
        re.compile(r".*", re.DOTALL),
        ("", "{0}", "{rows:>999999999}", "%s%n", "\x1b[2J\n", "\u202e\ufeff", "x" * 5000),
    ),
}
NUMBERS: Final = (0, 1, 2, 3, -1, -5, 7, 12, 13, 60, 1000, 86_400, 2**31, 2**53 - 1, 1 - 2**53)


def _kind(value: object) -> str:
    if isinstance(value, str):
        return next(kind for kind, (like, _) in KINDS.items() if like.fullmatch(value))
    return f"{type(value).__name__} {value.get('kind', '')}" if isinstance(value, dict) else ""


def _all_at_once() -> Plan:
    """Groups, conditions, and every function of the two columns."""
    over = [Function.SUM, Function.COVARIANCE, Function.CORRELATION, Function.REGRESSION]
    alone = [Function.MEAN, Function.VARIANCE, Function.MIN, Function.MAX]
    old = Compare(Comparator.LESS, ColumnValue("age"), Number(405, 1))
    cases = GroupBy("which", cases=(old,), labels=("old", "rest"))
    value = Case((When(old, BMI),), Number(25, 1))
    plan = a_query_plan(
        COUNT,
        *(statistic(f, Argument(0, BMI), Argument(1, S5)) for f in over),
        *(statistic(f, Argument(0, value)) for f in alone),
        groups=((BY_SEX, cases), ()),
        comparisons=(CrossCondition(BMI, Order.LESS, S5),),
    )
    first, second = plan.sides
    where = Compare(Comparator.EQUAL, ColumnValue("sex"), Text("f"))
    return replace(plan, sides=(replace(first, where=where), second))


EXAMPLES: Final[Mapping[str, Plan]] = {**PLANS, "all at once": _all_at_once()}
GROUNDS: Final = tuple(
    Ground(an_agreement(own, the_terms(own, other)), own)
    for own, other in (PRODUCTS, PRODUCTS[::-1])
)


def places(value: Any, before: Place = ()) -> Iterator[Place]:
    """Of everything inside a document, and of what holds it."""
    yield before
    members = dict(enumerate(value)) if isinstance(value, list) else value
    for name, member in members.items() if isinstance(members, dict) else ():
        yield from places(member, (*before, name))


def altered(value: Any, draw: Callable[..., Any]) -> Any:
    """With up to three places that hold something else of their kind: odd, or what stands
    elsewhere in it; or nothing, or twice."""
    value = {"": deepcopy(value)}
    for _ in range(draw(st.integers(1, 3))):
        there = {place: _at(value, place) for place in places(value) if place}
        place = draw(st.sampled_from([*there]))
        old, holder = there[place], _at(value, place[:-1])
        alike = [other for other in there.values() if _is_alike(old, other)]
        odd: tuple[object, ...] = ()
        if isinstance(old, str):
            odd = KINDS[_kind(old)][1]
        elif isinstance(old, bool):
            odd = (not old,)
        elif isinstance(old, int):
            odd = NUMBERS
        elif isinstance(old, list):
            odd = ([], old * 2, old[:1], old[::-1])
        if len(place) > 1 and not draw(st.integers(0, 9)):
            del holder[place[-1]]
        else:
            holder[place[-1]] = deepcopy(draw(st.sampled_from([*odd, *odd, *alike])))
    return value[""]


def _at(value: Any, place: Place) -> Any:
    for step in place:
        value = value[step]
    return value


def _is_alike(one: object, other: object) -> bool:
    return type(one) is type(other) and _kind(one) == _kind(other)


def written(value: Any) -> bytes:
    try:
        return canonical.encode(value)
    except Malformed:
        return b""


@given(st.data(), st.sampled_from([*sorted(EXAMPLES), *["all at once"] * 6]))
@settings(max_examples=150, deadline=None)
def test_a_plan_is_refused_by_name_or_can_be_told_of_and_judged(
    data: st.DataObject, kind: str
) -> None:
    value = altered(record.to_value(EXAMPLES[kind]), data.draw)
    try:
        plan = record.from_bytes(Plan, document := written(value))
    except REFUSED:
        return
    for language in Language:
        told = learns(plan, language)
        assert sum(map(len, told.values())) < 20_000 + 20 * len(document)
    cost_of(plan)
    assert plan.finish_by > plan.run_by
    for index in range(len(plan.sides)):
        list(disclosures(plan, index))
    owner_violations(plan, dict.fromkeys((*plan.sealers, plan.consumer)))
    try:
        violations(plan, GROUNDS[: len(plan.sides)])
    except REFUSED:
        return


# A deal of which any document is another


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, bytes]:
    world = a_world(tmp_path_factory.mktemp("hostile"))
    deal = a_deal(world)
    deal.approve_standing()
    deal.submit()
    world.settle()
    return world, export(world, deal)


def with_another_document(forger: Forger, name: Digest, draw: Callable[..., Any]) -> None:
    """Signed again by whoever signed it, and named by everybody who named it."""
    data = forger.documents[name]
    if not data.startswith(b'{"payload":'):
        other = written(altered(canonical.decode(data), draw))
    else:
        envelope = Envelope.from_bytes(data)
        keys = {key.public.key_id: key for key in forger.keys.values()}
        signers = [keys[key_id] for key_id, _ in envelope.signatures if key_id in keys]
        payload = written(altered(canonical.decode(envelope.payload), draw))
        if not signers or not payload:
            return
        signed = dsse.sign(envelope.payload_type, payload, signers[0])
        for key in signers[1:]:
            signed = signed.with_signature(key)
        other = signed.to_bytes()
    if other and other != data:
        forger.swap_document(name, other)


def with_another_opening(draft: Draft, draw: Callable[..., Any]) -> Draft:
    """One that is what its statement committed to."""
    assert draft.opening is not None
    said = draft.statement
    if said.type.startswith("funds."):
        opening = written(altered(canonical.decode(draft.opening), draw))
        try:
            commitment = commit(record.from_bytes(Movement, opening).salt, opening)
        except REFUSED:
            return draft
        commitments = {**said.commitments, COMMITMENT: commitment}
        return replace(draft, opening=opening, statement=replace(said, commitments=commitments))
    if said.type != "job.sealed":
        return draft
    opened = record.from_bytes(ReceiptOpenings, draft.opening)
    name = draw(st.sampled_from(["budget", "egress"]))
    old = opened.commitments[name]
    new = replace(old, value=written(altered(canonical.decode(old.value), draw)))
    opened = replace(opened, commitments={**opened.commitments, name: new})
    commitments = {**said.commitments, name: commit(new.salt, new.value)}
    return replace(
        draft,
        opening=record.to_bytes(opened),
        statement=replace(said, commitments=commitments),
    )


@pytest.mark.slow
@given(data=st.data())
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_a_deal_of_whatever_documents_is_audited_to_its_end(
    done: tuple[World, bytes], data: st.DataObject
) -> None:
    """By people who collude: the hub took them, and everybody went along."""
    world, bundle = done
    forger = Forger.of(world, bundle)
    for _ in range(data.draw(st.integers(1, 3))):
        if data.draw(st.integers(0, 3)):
            names = [*forger.documents]
            with_another_document(forger, data.draw(st.sampled_from(names)), data.draw)
        else:
            opened = [place for place, draft in enumerate(forger.drafts) if draft.opening]
            place = data.draw(st.sampled_from(opened))
            forger.drafts[place] = with_another_opening(forger.drafts[place], data.draw)
    try:
        bundle = forger.bundle()
    except REFUSED:
        return  # a plan in which nobody can name its agreements anew
    opener = Opener(forger.regulator, forger.regulator_key)
    report = audit_deal(bundle, forger.policy, roots_of(world), opener)
    graph = prov.graph_of(report)
    assert prov.to_json(graph)
    assert prov.to_provn(graph)
    for language in Language:
        assert report.to_text(VOICES[language])
        assert report.to_value(VOICES[language])
        assert picture.draw(graph, language)
