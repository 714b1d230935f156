"""What a deal's audit answers, and the same as W3C PROV and as a picture: views that say no more
and no other than the statements, each with its place in the log."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from prov.model import ProvDocument

from crypto.digest import Digest
from crypto.keys import write_key
from exchange.audit import bundle as bundles
from exchange.audit import picture, prov
from exchange.audit.__main__ import main
from exchange.audit.answers import DealReport, Seen
from exchange.audit.deal import audit_deal
from exchange.audit.openings import Opener
from exchange.audit.voices import VOICES
from exchange.query.explanation import Language, learns
from ledger.verify.merkle import leaf_hash
from tests.forgery import Forger
from tests.integration.test_audit_deal import export, roots_of
from tests.world import Deal, World, a_deal, a_world

SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Audited:
    world: World
    deal: Deal
    bundle: bytes
    report: DealReport

    @property
    def seen(self) -> Iterator[Seen]:
        """Every place that the answers name."""
        answers = self.report.answers
        yield from (one.listed for one in answers.listed if one.listed is not None)
        for talk in answers.talks:
            yield from (s for s in (talk.begun, talk.brought, talk.finalised) if s is not None)
        for job in answers.ran:
            yield from (job.submitted, *job.admitted.values(), *job.started.values())
            yield from (part.sealed for part in job.parts)
            yield from (payment.seen for payment in job.payments)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    world = a_world(tmp_path_factory.mktemp("viewed"))
    deal = a_deal(world)
    deal.approve_standing()
    deal.submit()
    world.settle()
    world.clock.pass_(timedelta(hours=2))
    data = export(world, deal)
    regulator = world.members["regulator"]
    opener = Opener(regulator.id, regulator.folder.sealing)
    return Audited(world, deal, data, audit_deal(data, world.policy, roots_of(world), opener))


# The answers


def test_each_question_has_its_answer(done: Audited) -> None:
    answers = done.report.answers
    names = {name: done.world.members[name].id for name in ("clinic", "lab", "research")}
    assert {one.product.holder for one in answers.listed} == {names["clinic"], names["lab"]}
    assert all(one.listed is not None for one in answers.listed)
    agreed = [talk for talk in answers.talks if talk.finalised is not None]
    assert {talk.holder for talk in agreed} == {names["clinic"], names["lab"]}
    assert {talk.consumer for talk in agreed} == {names["research"]}
    (job,) = answers.ran
    by_holder = {
        side.holder: columns for side, columns in zip(job.plan.sides, job.columns, strict=True)
    }
    assert by_holder[names["clinic"]] == {
        "person": ["join_key"],
        "sex": ["group_key"],
        "progression": ["aggregate (mean)"],
    }
    assert by_holder[names["lab"]] == {"person": ["join_key"], "s5": ["group_key"]}
    assert {part.party for part in job.parts} == {names["clinic"], names["lab"]}
    assert job.released is not None
    assert job.opened is not None
    assert [paid.kind for paid in job.payments] == ["funds.held", "funds.released"]
    paid = job.payments[-1].movement
    assert paid is not None
    assert [leg.amount_minor for leg in paid.legs] == [2000, 1000, 1000]


def test_every_answer_names_the_entry_that_shows_it(done: Audited) -> None:
    entries = bundles.read(done.bundle).entries
    for seen in done.seen:
        assert seen.leaf == leaf_hash(entries[seen.index])


@pytest.mark.parametrize("language", Language)
def test_the_answers_are_told_to_people_and_to_programs(done: Audited, language: Language) -> None:
    text = done.report.to_text(VOICES[language])
    value = done.report.to_value(VOICES[language])["answers"]
    assert isinstance(value, dict)
    assert json.loads(json.dumps(value)) == value
    (job,) = done.report.answers.ran
    for said in learns(job.plan, language).values():
        assert said in text
    assert str(job.digest) in text
    assert value["jobs"][0]["plan"] == str(job.digest)
    assert value["jobs"][0]["learns"] == learns(job.plan, language)


def test_without_a_key_nobody_is_told_who_was_paid_how_much(done: Audited) -> None:
    report = audit_deal(done.bundle, done.world.policy, roots_of(done.world), None)
    (job,) = report.answers.ran
    assert [paid.movement for paid in job.payments] == [None, None]
    assert "legs" not in prov.to_json(prov.graph_of(report))
    assert "not opened" in report.to_text(VOICES[Language.ENGLISH])


def test_a_forged_deal_is_told_and_drawn_all_the_same_with_its_failures(done: Audited) -> None:
    """An auditor needs the picture most where something is wrong; it says that something is."""
    forger = Forger.of(done.world, done.bundle)
    forger.change(forger.place("job.released"), after=())
    report = audit_deal(forger.bundle(), forger.policy, roots_of(done.world), None)
    assert report.failed
    drawn = picture.draw(prov.graph_of(report), Language.ENGLISH)
    assert f"{len(report.failed)} failed" in drawn
    assert report.to_text(VOICES[Language.ENGLISH])


# PROV


def test_an_outside_library_reads_the_same_digests_from_our_prov_json(done: Audited) -> None:
    read = ProvDocument.deserialize(content=prov.to_json(prov.graph_of(done.report)))
    digests = {
        Digest(bytes.fromhex(record.identifier.localpart))
        for record in read.get_records()
        if record.identifier is not None and record.identifier.namespace.prefix == "sha256"
    }
    (job,) = done.report.answers.ran
    wanted = {job.digest, *(part.digest for part in job.parts)}
    wanted |= {one.digest for one in done.report.answers.listed}
    wanted |= {talk.digest for talk in done.report.answers.talks if talk.digest is not None}
    wanted |= {payment.seen.statement for payment in job.payments}
    assert digests == wanted


def test_an_outside_library_writes_our_prov_n_from_our_prov_json(done: Audited) -> None:
    graph = prov.graph_of(done.report)
    read = ProvDocument.deserialize(content=prov.to_json(graph))
    assert read.get_provn().strip() == prov.to_provn(graph).strip()


def test_every_relation_names_a_leaf_of_the_log(done: Audited) -> None:
    leaves = {
        index: leaf_hash(entry).hex() for index, entry in bundles.read(done.bundle).entries.items()
    }
    value = json.loads(prov.to_json(prov.graph_of(done.report)))
    kinds = {"wasGeneratedBy", "used", "wasDerivedFrom", "wasAttributedTo"}
    kinds |= {"wasAssociatedWith", "actedOnBehalfOf"}
    assert kinds <= set(value)
    for kind in kinds:
        for relation in value[kind].values():
            index = int(relation["unseen:index"]["$"])
            assert relation["unseen:leafHash"] == leaves[index]


def test_a_result_leads_back_to_the_products_it_was_made_from(done: Audited) -> None:
    value = json.loads(prov.to_json(prov.graph_of(done.report)))
    (job,) = done.report.answers.ran
    derived = {
        (one["prov:generatedEntity"], one["prov:usedEntity"])
        for one in value["wasDerivedFrom"].values()
    }
    for part in job.parts:
        side = job.plan.side_of(part.party)
        assert side is not None
        pair = (f"sha256:{part.digest.raw.hex()}", f"sha256:{side.product.raw.hex()}")
        assert pair in derived


def test_a_name_with_quotes_and_backslashes_survives_both_forms(done: Audited) -> None:
    graph = prov.graph_of(done.report)
    (name, agent) = next(iter(graph.agents.items()))
    odd = 'a "quoted" \\ 名称 </svg><script>'
    graph.agents[name] = replace(agent, attributes={**agent.attributes, "prov:label": odd})
    read = ProvDocument.deserialize(content=prov.to_json(graph))
    assert read.get_provn().strip() == prov.to_provn(graph).strip()
    (record,) = read.get_record(str(name))
    assert str(record.label) == odd


def test_words_of_strangers_stay_one_line_and_steer_nothing_in_any_form(done: Audited) -> None:
    (job,) = done.report.answers.ran
    odd = replace(job, plan=replace(job.plan, purpose='x\n\x1b[2J"\ny'))
    odd = replace(odd, columns=[{"a\n\x00b": ["sum"]}, *job.columns[1:]])
    graph = prov.graph_of(replace(done.report, answers=replace(done.report.answers, ran=[odd])))
    plain = prov.to_provn(prov.graph_of(done.report))
    assert len(prov.to_provn(graph).splitlines()) == len(plain.splitlines())
    drawn = [picture.draw(graph, language) for language in Language]
    for text in (prov.to_provn(graph), prov.to_json(graph), *drawn):
        assert not {"\x1b", "\x00"} & set(text)
    for svg in drawn:
        ElementTree.fromstring(svg)


# The picture


@pytest.mark.parametrize("language", Language)
def test_the_picture_is_shapes_and_text_and_nothing_that_runs_or_is_fetched(
    done: Audited, language: Language
) -> None:
    graph = prov.graph_of(done.report)
    name, agent = next(iter(graph.agents.items()))
    evil = '</title><script>x</script>" onload="y'
    graph.agents[name] = replace(agent, attributes={**agent.attributes, "prov:label": evil})
    drawn = picture.draw(graph, language)
    root = ElementTree.fromstring(drawn)
    tags = {element.tag for element in root.iter()}
    assert tags == {f"{SVG}{tag}" for tag in ("svg", "g", "rect", "path", "text", "title")}
    names = {name for element in root.iter() for name in element.attrib}
    assert not {name for name in names if name.startswith("on") or "href" in name}
    assert drawn == picture.draw(graph, language)


def test_every_entity_and_activity_has_a_box_that_holds_its_whole_digest(done: Audited) -> None:
    graph = prov.graph_of(done.report)
    root = ElementTree.fromstring(picture.draw(graph, Language.ENGLISH))
    titles = {(title.text or "").split("\n")[0] for title in root.iter(f"{SVG}title")}
    drawn = {str(name) for name in [*graph.entities, *graph.activities]}
    assert titles == drawn - {f"unseen:{done.deal.deal}"}


def test_no_two_boxes_lie_on_each_other(done: Audited) -> None:
    root = ElementTree.fromstring(picture.draw(prov.graph_of(done.report), Language.ENGLISH))
    boxes = [
        (int(r.attrib["x"]), int(r.attrib["y"]), int(r.attrib["width"]), int(r.attrib["height"]))
        for g in root.iter(f"{SVG}g")
        for r in g.findall(f"{SVG}rect")[:1]
    ]
    for place, (x, y, w, h) in enumerate(boxes):
        for a, b, c, d in boxes[:place]:
            assert x + w <= a or a + c <= x or y + h <= b or b + d <= y


# The command


def test_the_command_writes_the_views_once_and_never_over_a_file(
    done: Audited, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world, regulator = done.world, done.world.members["regulator"]
    (tmp_path / "deal.zip").write_bytes(done.bundle)
    log, witness = world.policy.logs[0].key, world.witness.key
    (tmp_path / "policy").write_text(f"log {log}\nwitness w {witness}\nquorum w\n")
    roots = sorted(roots_of(world).fingerprints)
    (tmp_path / "roots").write_text("".join(f"fingerprint {one}\n" for one in roots))
    write_key(tmp_path / "key", regulator.folder.sealing)
    asked = ["deal", str(tmp_path / "deal.zip"), "--policy", str(tmp_path / "policy")]
    asked += ["--roots", str(tmp_path / "roots"), "--open-with", str(tmp_path / "key")]
    asked += ["--party", regulator.id, "--prov-json", str(tmp_path / "deal.json")]
    asked += ["--prov-n", str(tmp_path / "deal.provn"), "--svg", str(tmp_path / "deal.svg")]
    assert main(asked) == 0
    graph = prov.graph_of(done.report)
    assert (tmp_path / "deal.json").read_text("utf-8") == prov.to_json(graph)
    assert (tmp_path / "deal.provn").read_text("utf-8") == prov.to_provn(graph)
    assert (tmp_path / "deal.svg").read_text("utf-8") == picture.draw(graph, Language.ENGLISH)
    capsys.readouterr()
    assert main(asked) == 2
    assert "deal.json" in capsys.readouterr().err
