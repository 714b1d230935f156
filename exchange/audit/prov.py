"""A deal as W3C PROV: entities, activities, organisations, and who made what out of what.

A derived view, never the record: each relation names the log entry that shows it, by index and by
leaf hash, and whoever doubts the view looks there. Digests are the names of entities, as they
stand in statements, so that other graphs may join this one.

Source: W3C PROV-DM and PROV-N (recommendations of 2013-04-30), and PROV-JSON (W3C member
submission of 2013-04-24). Arrows point from effect to cause.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from crypto.digest import Digest
from crypto.errors import Malformed
from crypto.identifiers import PartyId
from exchange.audit.answers import Answers, DealReport, Ran, Seen, Talk
from exchange.audit.money import legs_in_words
from ledger.verify.report import printable

PREFIXES: Final[Mapping[str, str]] = {
    "unseen": "https://unseen.example/prov#",
    "sha256": "https://unseen.example/sha256/",
}
_LOCAL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*", re.ASCII)
_RELATIONS: Final[Mapping[str, Sequence[str]]] = {
    # What PROV-DM calls the formal attributes of each relation, in PROV-N's order.
    "wasGeneratedBy": ("prov:entity", "prov:activity", "prov:time"),
    "used": ("prov:activity", "prov:entity", "prov:time"),
    "wasDerivedFrom": (
        "prov:generatedEntity",
        "prov:usedEntity",
        "prov:activity",
        "prov:generation",
        "prov:usage",
    ),
    "wasAttributedTo": ("prov:entity", "prov:agent"),
    "wasAssociatedWith": ("prov:activity", "prov:agent", "prov:plan"),
    "actedOnBehalfOf": ("prov:delegate", "prov:responsible", "prov:activity"),
}


@dataclass(frozen=True)
class Name:
    """A qualified name, `prefix:local`."""

    prefix: str
    local: str

    def __post_init__(self) -> None:
        if not _LOCAL.fullmatch(self.local):
            raise Malformed("name", "holds a character that PROV-N would have to escape")

    def __str__(self) -> str:
        return f"{self.prefix}:{self.local}"


Value = str | int | Name
Attributes = Mapping[str, Value]


@dataclass(frozen=True)
class Element:
    """An entity, an activity with its times, or an agent."""

    id: Name
    attributes: Attributes
    started: datetime | None = None
    ended: datetime | None = None

    def __post_init__(self) -> None:
        # Words of strangers stay one line of text: PROV-N needs no long strings, and XML has no
        # spelling at all for some of what steers a terminal.
        shown = {n: printable(v) if type(v) is str else v for n, v in self.attributes.items()}
        object.__setattr__(self, "attributes", shown)


@dataclass(frozen=True)
class Relation:
    """kind: a key of the table above. formal: from effect to cause. seen: the entry that shows it.
    plan: of an association."""

    kind: str
    effect: Name
    cause: Name
    seen: Seen
    third: Name | None = None

    @property
    def attributes(self) -> Attributes:
        return _place(self.seen)

    @property
    def formal(self) -> Mapping[str, str | None]:
        """By PROV-DM name; None for what is not stated."""
        names = _RELATIONS[self.kind]
        time = self.seen.time.isoformat() if "prov:time" in names else None
        third = time if self.third is None else str(self.third)
        values = [str(self.effect), str(self.cause), third]
        return dict(zip(names, [*values, None, None], strict=False))


@dataclass
class Graph:
    """entities, activities, agents: by name, in the order in which they were added."""

    entities: dict[Name, Element] = field(default_factory=dict)
    activities: dict[Name, Element] = field(default_factory=dict)
    agents: dict[Name, Element] = field(default_factory=dict)
    relations: dict[Relation, None] = field(default_factory=dict)

    def relate(
        self, kind: str, effect: Name, cause: Name, seen: Seen, third: Name | None = None
    ) -> None:
        relation = Relation(kind, effect, cause, seen, third)
        self.relations[relation] = None

    def of_kind(self, kind: str) -> Iterator[Relation]:
        return (relation for relation in self.relations if relation.kind == kind)


def graph_of(report: DealReport) -> Graph:
    """The deal of an audit's report, its verdict included."""
    answers, graph = report.answers, Graph()
    view = Name("unseen", answers.deal)
    graph.entities[view] = Element(
        view,
        {
            "prov:label": "a derived view, not the record: see the log entries it names",
            "prov:type": Name("unseen", "DerivedView"),
            "unseen:checksPassed": len(report.passed),
            "unseen:checksFailed": len(report.failed),
            "unseen:notOpened": len(report.not_opened),
        },
    )
    for talk in answers.talks:
        _add_talk(talk, answers, graph)
    for job in answers.ran:
        _add_job(job, answers, graph)
    _add_products(answers, graph)
    return graph


def to_json(graph: Graph) -> str:
    """PROV-JSON, ending in a newline."""
    document: dict[str, object] = {"prefix": dict(PREFIXES)}
    for kind, elements in _elements(graph):
        if elements:
            document[kind] = {
                str(one.id): {**_times(one), **_json_attributes(one.attributes)} for one in elements
            }
    number = 0
    for kind in _RELATIONS:
        found = {}
        for relation in graph.of_kind(kind):
            number += 1
            stated = {name: value for name, value in relation.formal.items() if value is not None}
            found[f"_:r{number}"] = {**stated, **_json_attributes(relation.attributes)}
        if found:
            document[kind] = found
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def to_provn(graph: Graph) -> str:
    """PROV-N, ending in a newline."""
    lines = ["document"]
    lines += [f"  prefix {prefix} <{iri}>" for prefix, iri in PREFIXES.items()]
    lines.append("  ")
    for kind, elements in _elements(graph):
        for one in elements:
            words = [str(one.id)]
            if kind == "activity":
                words += ["-" if t is None else t.isoformat() for t in (one.started, one.ended)]
            lines.append(f"  {kind}({', '.join([*words, _in_brackets(one.attributes)])})")
    for kind in _RELATIONS:
        for relation in graph.of_kind(kind):
            words = ["-" if value is None else value for value in relation.formal.values()]
            words.append(_in_brackets(relation.attributes))
            lines.append(f"  {kind}({', '.join(words)})")
    return "\n".join([*lines, "endDocument"]) + "\n"


def _add_talk(talk: Talk, answers: Answers, graph: Graph) -> None:
    name = Name("unseen", talk.id)
    attributes: dict[str, Value] = {
        "prov:label": talk.state.value,
        "prov:type": Name("unseen", "Negotiation"),
    }
    graph.activities[name] = Element(
        name, {**attributes, **_place(talk.begun)}, talk.begun.time, talk.last.time
    )
    for party in (talk.consumer, talk.holder):
        by = _agent(party, answers, graph)
        seen = talk.brought if party == talk.holder and talk.brought is not None else talk.begun
        graph.relate("wasAssociatedWith", name, by, seen)
    if talk.digest is None or talk.agreement is None or talk.brought is None:
        return
    agreement = _named(talk.digest)
    graph.entities[agreement] = Element(
        agreement,
        {
            "prov:label": talk.agreement.id,
            "prov:type": Name("unseen", "Agreement"),
            **_place(talk.finalised or talk.brought),
        },
    )
    graph.relate("wasGeneratedBy", agreement, name, talk.finalised or talk.brought)
    product = _named(talk.agreement.terms.product)
    graph.relate("used", name, product, talk.brought)
    graph.relate("wasDerivedFrom", agreement, product, talk.brought)
    for party in (talk.holder, talk.consumer):
        by = _agent(party, answers, graph)
        graph.relate("wasAttributedTo", agreement, by, talk.finalised or talk.brought)


def _add_job(job: Ran, answers: Answers, graph: Graph) -> None:
    name, plan = Name("unseen", job.plan.job), _named(job.digest)
    graph.entities[plan] = Element(
        plan,
        {
            "prov:label": f"{job.plan.join.value}: {job.plan.purpose}",
            "prov:type": Name("prov", "Plan"),
            **_columns(job),
            **_place(job.submitted),
        },
    )
    consumer = _agent(job.plan.consumer, answers, graph)
    graph.relate("wasAttributedTo", plan, consumer, job.submitted)
    ends = [job.opened, job.released, job.ended, *(part.sealed for part in job.parts)]
    last = max((seen for seen in ends if seen), key=lambda seen: seen.index, default=job.submitted)
    graph.activities[name] = Element(
        name,
        {
            "prov:label": job.state,
            "prov:type": Name("unseen", "Job"),
            **_place(job.submitted),
        },
        job.submitted.time,
        last.time,
    )
    graph.relate("used", name, plan, job.submitted)
    graph.relate("wasAssociatedWith", name, consumer, job.submitted, plan)
    for side in job.plan.sides:
        graph.relate("wasDerivedFrom", plan, _named(side.agreement), job.submitted)
    for party, seen in job.admitted.items():
        by = _agent(party, answers, graph)
        graph.relate("wasAssociatedWith", name, by, seen, plan)
        if job.plan.helper is not None and party == job.plan.helper.party:
            for side in job.plan.sides:
                graph.relate("actedOnBehalfOf", by, _agent(side.holder, answers, graph), seen, name)
    for side in job.plan.sides:
        started = job.started.get(side.holder)
        if started is not None:
            graph.relate("used", name, _named(side.product), started)
    for part in job.parts:
        sealed = _named(part.digest)
        graph.entities[sealed] = Element(
            sealed,
            {
                "prov:label": answers.name(part.party),
                "prov:type": Name("unseen", "SealedPart"),
                "unseen:software": part.software,
                **_place(part.sealed),
            },
        )
        graph.relate("wasGeneratedBy", sealed, name, part.sealed)
        graph.relate("wasAttributedTo", sealed, _agent(part.party, answers, graph), part.sealed)
        own = job.plan.side_of(part.party)
        if own is not None:
            graph.relate("wasDerivedFrom", sealed, _named(own.product), part.sealed)
    _add_settlement(job, answers, graph)


def _add_settlement(job: Ran, answers: Answers, graph: Graph) -> None:
    if not job.payments:
        return
    name = Name("unseen", f"settlement_{job.plan.job}")
    first, last = job.payments[0], job.payments[-1]
    graph.activities[name] = Element(
        name,
        {
            "prov:label": last.kind,
            "prov:type": Name("unseen", "Settlement"),
            **_place(last.seen),
        },
        first.seen.time,
        last.seen.time,
    )
    operator = _agent(job.plan.operator, answers, graph)
    consumer = _agent(job.plan.consumer, answers, graph)
    graph.relate("wasAssociatedWith", name, operator, first.seen)
    graph.relate("actedOnBehalfOf", operator, consumer, first.seen, name)
    for side in job.plan.sides:
        graph.relate("used", name, _named(side.agreement), first.seen)
    if last.kind == "funds.released":
        for part in job.parts:
            graph.relate("used", name, _named(part.digest), last.seen)
    for payment in job.payments:
        moved = _named(payment.seen.statement)
        attributes: dict[str, Value] = {
            "prov:label": payment.kind,
            "prov:type": Name("unseen", "Movement"),
        }
        if payment.movement is not None:
            attributes["unseen:legs"] = legs_in_words(payment.movement.legs, job.plan.currency)
        graph.entities[moved] = Element(moved, {**attributes, **_place(payment.seen)})
        graph.relate("wasGeneratedBy", moved, name, payment.seen)


def _add_products(answers: Answers, graph: Graph) -> None:
    for one in answers.listed:
        name = _named(one.digest)
        place = {} if one.listed is None else _place(one.listed)
        graph.entities[name] = Element(
            name,
            {
                "prov:label": one.product.name,
                "prov:type": Name("unseen", "DataProduct"),
                "unseen:product": one.product.id,
                "unseen:version": one.product.version,
                "unseen:holderDocument": str(one.product.holder_document),
                **place,
            },
        )
        holder = _agent(one.product.holder, answers, graph)
        if one.listed is not None:
            graph.relate("wasAttributedTo", name, holder, one.listed)


def _agent(party: PartyId, answers: Answers, graph: Graph) -> Name:
    name = Name("unseen", party)
    graph.agents.setdefault(
        name,
        Element(
            name,
            {"prov:label": answers.name(party), "prov:type": Name("prov", "Organization")},
        ),
    )
    return name


def _columns(job: Ran) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for number, columns in enumerate(job.columns, start=1):
        found[f"unseen:columns{number}"] = ", ".join(columns)
    return found


def _named(digest: Digest) -> Name:
    return Name("sha256", digest.raw.hex())


def _place(seen: Seen) -> dict[str, Value]:
    return {"unseen:leafHash": seen.leaf.hex(), "unseen:index": seen.index}


def _elements(graph: Graph) -> list[tuple[str, list[Element]]]:
    return [
        ("entity", list(graph.entities.values())),
        ("activity", list(graph.activities.values())),
        ("agent", list(graph.agents.values())),
    ]


def _times(one: Element) -> dict[str, str]:
    times = {"prov:startTime": one.started, "prov:endTime": one.ended}
    return {name: time.isoformat() for name, time in times.items() if time is not None}


def _json_attributes(attributes: Attributes) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in attributes.items():
        if isinstance(value, Name):
            found[name] = {"$": str(value), "type": "xsd:QName"}
        elif isinstance(value, int):
            found[name] = {"$": str(value), "type": "xsd:int"}
        else:
            found[name] = value
    return found


def _in_brackets(attributes: Attributes) -> str:
    return "[" + ", ".join(f"{name}={_n(value)}" for name, value in attributes.items()) + "]"


def _n(value: Value) -> str:
    if isinstance(value, Name):
        return f"'{value}'"
    if isinstance(value, int):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
