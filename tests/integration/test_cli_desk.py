"""Each role's day at its desk, by commands alone."""

from __future__ import annotations

import csv
import io
import tarfile
from fractions import Fraction
from pathlib import Path

import duckdb
import pytest

from api.folder import PartyFolder
from crypto.digest import Digest, commit
from exchange.errors import RestoredBackup
from exchange.node.model import Alarm
from tests.desks import Desks
from tests.world import CLINIC_ROWS, LAB_ROWS, PURPOSE, START, Deal, a_deal, a_world, down

CLINIC = """
name = "Clinic"
description = "progression by sex"
key = "person"
cap = 1000
price_minor = "1000"
currency = "TEST"
[rule]
min_group = 5
functions = ["count", "mean"]
joins = ["revealed"]
purposes = ["research"]
[[columns]]
name = "person"
type = "text"
meaning = "invented id"
uses = ["join_key"]
[[columns]]
name = "sex"
type = "text"
meaning = "sex"
categories = ["f", "m"]
uses = ["group_key", "filter"]
[[columns]]
name = "progression"
type = "decimal"
meaning = "progression"
decimals = 1
low = 0
high = 1000.0
uses = ["aggregate"]
"""
LAB = """
name = "Laboratory"
description = "serum"
key = "person"
cap = 1000
price_minor = 500
currency = "TEST"
[rule]
min_group = 5
functions = ["count", "mean"]
joins = ["revealed"]
purposes = ["research"]
[[columns]]
name = "person"
type = "text"
meaning = "invented id"
uses = ["join_key"]
[[columns]]
name = "s5"
type = "decimal"
meaning = "serum 5"
decimals = 2
low = 0
high = 10.00
uses = ["group_key"]
"""
UNTIL = "2026-12-20"


@pytest.fixture(scope="module")
def deal(tmp_path_factory: pytest.TempPathFactory) -> Deal:
    """One exchange for all tests that leave it as it was, but for jobs of their own."""
    return a_deal(a_world(tmp_path_factory.mktemp("exchange")), runs=100, funded=1_000_000)


@pytest.fixture
def desks(deal: Deal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desks:
    return Desks(deal.world, monkeypatch, capsys)


@pytest.fixture
def new_desks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Desks:
    """An exchange of the test's own, without a deal."""
    return Desks(a_world(tmp_path), monkeypatch, capsys)


SQL = """
SELECT clinic.sex, BANDS(lab.s5, 4.60, 5.10) AS s5, COUNT(*) AS people,
       AVG(clinic.progression) AS progression
FROM clinic JOIN lab ON clinic.person = lab.person
GROUP BY clinic.sex, BANDS(lab.s5, 4.60, 5.10)
"""


def a_question(path: Path, clinic: str, lab: str, *, min_group: int = 5) -> Path:
    file = path / "question.toml"
    file.write_text(
        f"purpose = \"{PURPOSE}\"\nmin_group = {min_group}\nsql = '''{SQL}'''\n"
        f'[tables]\nclinic = "{clinic}"\nlab = "{lab}"\n'
    )
    return file


def question_of(deal: Deal, *, min_group: int = 5) -> Path:
    clinic, lab = deal.clinic_product.id, deal.lab_product.id
    return a_question(deal.world.path, clinic, lab, min_group=min_group)


def options_of(deal: Deal) -> tuple[object, ...]:
    """The same question without a file."""
    return (
        "--sql", SQL, "--table", f"clinic={deal.clinic_product.id}",
        "--table", f"lab={deal.lab_product.id}", "--purpose", PURPOSE, "--min-group", 5,
    )  # fmt: skip


def submitted(desks: Desks, deal: Deal) -> str:
    job: str = desks.ok("research", "job", "submit", deal.deal, question_of(deal), "--yes")["job"]
    return job


def listed(desks: Desks, name: str, *words: str) -> set[str]:
    return {job["id"] for job in desks.ok(name, *words)["jobs"]}


def released(desks: Desks, deal: Deal) -> str:
    job = submitted(desks, deal)
    for holder in ("clinic", "lab"):
        desks.ok(holder, "node", "approve", job)
    desks.world.settle()
    return job


def test_a_deal_goes_from_product_files_to_a_paid_answer_by_commands_alone(
    new_desks: Desks, tmp_path: Path
) -> None:
    desks = new_desks
    products = {}
    for name, text, header, rows in (
        ("clinic", CLINIC, "person,sex,progression", CLINIC_ROWS),
        ("lab", LAB, "person,s5", LAB_ROWS),
    ):
        (tmp_path / f"{name}.toml").write_text(text)
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *map(",".join, rows)]) + "\n")
        products[name] = desks.ok(name, "product", "publish", tmp_path / f"{name}.toml")["product"]
        desks.ok(name, "node", "source", "add", products[name], "--csv", tmp_path / f"{name}.csv")
        assert desks.ok(name, "node", "source", "test", products[name])["fits"] is True
        (source,) = desks.ok(name, "node", "source", "show")["sources"]
        assert source["product"] == products[name]

    found = desks.ok("research", "product", "search", "progression")["products"]
    assert [one["id"] for one in found] == [products["clinic"]]
    shown = desks.ok("research", "product", "show", products["clinic"])
    assert shown["signed_by_holder"] is True
    assert shown["columns"][2]["high"] == "1000.0"

    regulator = desks.world.members["regulator"].id
    common = ("--runs", 3, "--until", UNTIL, "--regulator", regulator)
    first = desks.ok(
        "research", "negotiation", "request", "--product", products["clinic"],
        "--combine-with", f"{products['lab']}@{desks.world.members['lab'].id}", *common,
    )  # fmt: skip
    terms = tmp_path / "terms.toml"
    partner = f"{products['clinic']}@{desks.world.members['clinic'].id}"
    terms.write_text(f'product = "{products["lab"]}"\ncombine_with = ["{partner}"]\n')
    second = desks.ok(
        "research", "negotiation", "request", "--terms", terms, "--deal", first["deal"], *common
    )
    assert first["deal"] == second["deal"]
    desks.world.settle()
    desks.ok("clinic", "negotiation", "agree", first["id"])
    countered = desks.ok("lab", "negotiation", "offer", second["id"], "--price-minor", 700)
    assert countered["state"] == "OFFERED"
    desks.world.settle()
    seen = desks.ok("research", "negotiation", "show", second["id"])
    assert seen["terms"]["price_minor"] == "700"
    desks.ok("research", "negotiation", "accept", second["id"])
    desks.world.settle()
    desks.ok("lab", "negotiation", "agree", second["id"])
    desks.world.settle()
    listed = desks.ok("research", "negotiation", "list")["negotiations"]
    assert {one["state"] for one in listed} == {"FINALIZED"}

    desks.world.fund("research", 10_000)
    question = a_question(tmp_path, products["clinic"], products["lab"])
    plan = desks.ok("research", "job", "explain", first["deal"], question)
    assert plan["price_minor"] == "1700"
    assert len(plan["learns"]) == 4
    job = desks.ok("research", "job", "submit", first["deal"], question, "--yes")["job"]
    desks.world.settle()

    (waiting,) = desks.ok("clinic", "node", "jobs")["jobs"]
    assert waiting["id"] == job
    asked = desks.ok("clinic", "node", "show", job)
    assert (
        asked["agreements"][0] | {"runs": 3, "runs_before": 0, "runs_after": 1}
        == (asked["agreements"][0])
    )
    desks.ok("clinic", "node", "approve", job)
    desks.ok(
        "lab", "node", "standing", "add", "--product", products["lab"],
        "--consumer", desks.world.members["research"].id, "--purpose", PURPOSE,
        "--min-group", 5, "--runs-per-day", 2, "--until", UNTIL,
    )  # fmt: skip
    watched = desks.ok("research", "job", "watch", job)
    assert watched["state"] == "RELEASED"
    assert {"reserved", "admitted", "released"} <= {step["stage"] for step in watched["steps"]}

    answered = desks.ok("research", "job", "result", job)
    assert answered["groups"] == ["sex", "s5"]
    assert len(answered["rows"]) == 6
    assert any(row["suppressed"] for row in answered["rows"])
    desks.world.settle()
    assert desks.world.available("clinic") == 1000
    assert desks.world.available("lab") == 700
    used = desks.ok("clinic", "node", "show", job)["agreements"][0]
    assert (used["runs_before"], used["runs_after"]) == (0, 1)


def test_an_answer_is_written_with_empty_cells_where_it_is_suppressed_and_never_zero(
    desks: Desks, deal: Deal, tmp_path: Path
) -> None:
    job = released(desks, deal)
    csv_file, parquet = tmp_path / "answer.csv", tmp_path / "an'swer.parquet"
    document = desks.ok("research", "job", "result", job, "--csv", csv_file, "--parquet", parquet)
    with csv_file.open(newline="") as file:
        lines = list(csv.DictReader(file))
    with duckdb.connect() as connection:
        rows = connection.execute("SELECT * FROM read_parquet(?)", [str(parquet)]).fetchall()
    hidden = [row["suppressed"] for row in document["rows"]]
    assert any(hidden) and not all(hidden)
    for row, line, stored in zip(document["rows"], lines, rows, strict=True):
        assert list(stored[:2]) == row["groups"] == [line["sex"], line["s5"]]
        assert line["suppressed"] == str(row["suppressed"]).lower()
        if row["suppressed"]:
            assert {figure["missing"] for figure in row["figures"]} == {"suppressed"}
            assert (line["people"], line["progression"]) == ("", "")
            assert stored[2:] == (None, None, True)
        else:
            people, progression = (Fraction(figure["value"]) for figure in row["figures"])
            assert int(line["people"]) == people == stored[2]
            assert float(line["progression"]) == pytest.approx(float(progression))
            assert stored[3] == pytest.approx(float(progression))
    assert "suppressed" in desks.run("research", "job", "result", job).out
    again = desks.run("research", "job", "result", job, "--csv", csv_file)
    assert again.code == 1


def test_a_holder_reads_in_its_own_language_what_each_party_would_learn(
    desks: Desks, deal: Deal
) -> None:
    job = submitted(desks, deal)
    desks.world.settle()
    english = desks.run("clinic", "node", "show", job, "--lang", "en").out
    chinese = desks.run("clinic", "node", "show", job, "--lang", "zh-CN").out
    assert "what each party would learn" in english and "which of its own keys" in english.lower()
    assert "各方会得知" in chinese and "看不到" in chinese
    assert "4.6 to < 5.1" in english and "4.6 to < 5.1" in chinese
    assert "AVG(a.progression)" in english and "AVG(a.progression)" in chinese
    assert "4.6 to < 5.1" in desks.run("clinic", "node", "approve", job).err


def test_the_same_explanation_is_of_a_file_of_options_and_of_the_submitted_job(
    desks: Desks, deal: Deal
) -> None:
    of_file = desks.ok("research", "job", "explain", deal.deal, question_of(deal))
    of_options = desks.ok("research", "job", "explain", deal.deal, *options_of(deal))
    job = desks.ok("research", "job", "submit", deal.deal, *options_of(deal), "--yes")["job"]
    desks.world.settle()
    own = {"job", "run_by"}
    same = {name: value for name, value in of_file.items() if name not in own}
    for document in (
        of_options,
        desks.ok("research", "job", "explain", job),
        desks.ok("clinic", "node", "show", job)["plan"],
    ):
        assert {name: value for name, value in document.items() if name not in own} == same
    explained = of_file["explained"]
    assert explained["work"]["meeting"]["uploads"] == [1000, 1000]
    assert explained["price_minor"] == of_file["price_minor"]
    assert {local["product_name"] for local in explained["local"]} == {"clinic data", "lab data"}


def test_a_refused_job_ends_with_the_holders_reason_and_the_consumer_keeps_its_money(
    desks: Desks, deal: Deal
) -> None:
    before = desks.world.available("research")
    job = submitted(desks, deal)
    desks.world.settle()
    desks.ok("lab", "node", "refuse", job, "--reason", "not this week")
    desks.world.settle()
    shown = desks.ok("research", "job", "show", job)
    assert (shown["state"], shown["reason"]) == ("REFUSED", "not this week")
    assert desks.run("research", "job", "watch", job).code == 3
    none = desks.run("research", "job", "result", job)
    assert none.code == 3 and "not this week" in none.err
    assert desks.world.available("research") == before
    assert job not in listed(desks, "lab", "node", "jobs")
    assert job in listed(desks, "lab", "node", "jobs", "--all")


def test_a_cancelled_job_can_be_asked_again_under_the_same_agreements(
    desks: Desks, deal: Deal
) -> None:
    job = submitted(desks, deal)
    assert desks.ok("research", "job", "cancel", job)["state"] == "CANCELLED"
    again = desks.ok("research", "job", "rerun", job, "--yes")
    assert again["job"] != job
    first = desks.ok("research", "job", "show", job)["plan"]
    for name in ("sides", "purpose", "price_minor", "learns"):
        assert again["plan"][name] == first[name]
    assert {job, again["job"]} <= listed(desks, "research", "job", "list")
    assert desks.run("research", "job", "cancel", job).code == 1


def test_nothing_is_submitted_unless_the_person_says_yes(desks: Desks, deal: Deal) -> None:
    question, before = question_of(deal), listed(desks, "research", "job", "list")
    refused = desks.run("research", "job", "submit", deal.deal, question, answer="n\n")
    assert refused.code == 1
    assert "price in all" in refused.err
    assert listed(desks, "research", "job", "list") == before


def test_a_job_that_cannot_be_paid_is_refused_with_the_hubs_reason(new_desks: Desks) -> None:
    desks = new_desks
    poor = a_deal(desks.world, funded=0)
    ran = desks.run("research", "job", "submit", poor.deal, question_of(poor), "--yes", "--json")
    assert ran.code == 3
    assert ran.out == ""
    assert "available" in ran.err or "account" in ran.err


def test_a_plan_that_the_agreement_forbids_exits_as_refused_and_sends_nothing(
    desks: Desks, deal: Deal
) -> None:
    small, before = question_of(deal, min_group=3), listed(desks, "research", "job", "list")
    ran = desks.run("research", "job", "explain", deal.deal, small)
    assert ran.code == 3 and "min_group" in ran.err
    assert listed(desks, "research", "job", "list") == before


def test_without_a_running_node_the_command_says_how_to_start_it(desks: Desks, deal: Deal) -> None:
    before = listed(desks, "research", "job", "list")
    desks.stopped = True
    ran = desks.run(
        "research", "job", "submit", deal.deal, question_of(deal), "--yes", "--timeout", 0
    )
    assert ran.code == 4
    assert f"exchange node --settings {desks.settings('research')}" in ran.err
    assert desks.ok("research", "node", "status")["unsent"] == 1
    desks.stopped = False
    desks.world.settle()
    (kept,) = listed(desks, "research", "job", "list") - before
    assert desks.ok("research", "job", "show", kept)["escrow"] is True


def test_an_unreachable_hub_ends_a_command_with_its_own_code(desks: Desks, deal: Deal) -> None:
    with down(desks.world.members["research"]):
        assert desks.run("research", "product", "search", "clinic").code == 4
        status = desks.ok("research", "node", "status")
    assert status["hub_reachable"] is False and status["hub_problem"]


def test_a_consumer_follows_its_own_records_when_the_hub_streams_nothing(
    desks: Desks, deal: Deal
) -> None:
    job = released(desks, deal)
    with down(desks.world.members["research"]):
        watched = desks.ok("research", "job", "watch", job)
    assert watched["state"] == "RELEASED"
    assert [step["stage"] for step in watched["steps"]] == ["released"]


def test_every_stream_that_left_is_listed_with_its_receiver(desks: Desks, deal: Deal) -> None:
    job = released(desks, deal)
    document = desks.ok("lab", "node", "egress", job)
    (stream,) = document["streams"]
    assert stream["receiver"] == desks.world.members["research"].id
    assert stream["size_bytes"] == document["total_bytes"] > 0
    assert stream["digest"].startswith("sha256:")
    assert desks.run("lab", "node", "egress", "job_" + "0" * 32).code == 1


def test_a_holder_can_show_what_its_receipt_hides_of_the_rows_that_a_job_read(
    desks: Desks, deal: Deal
) -> None:
    job = released(desks, deal)
    kept = desks.ok("lab", "node", "snapshot", job)
    assert (
        commit(bytes.fromhex(kept["secret"]), Digest.parse(kept["snapshot"]).raw).raw.hex()
        == (kept["committed"])
    )
    assert desks.run("lab", "node", "snapshot", "job_" + "0" * 32).code == 1


def test_a_paused_holder_refuses_until_it_resumes(desks: Desks, deal: Deal) -> None:
    assert desks.ok("clinic", "node", "pause") == {"paused": True}
    job = submitted(desks, deal)
    desks.world.settle()
    assert desks.ok("research", "job", "show", job)["state"] == "REFUSED"
    assert desks.ok("clinic", "node", "status")["paused"] is True
    assert desks.ok("clinic", "node", "resume") == {"paused": False}
    waiting = submitted(desks, deal)
    desks.world.settle()
    assert desks.ok("research", "job", "show", waiting)["state"] == "REQUESTED"


def test_a_standing_approval_is_taken_back_by_the_id_it_is_listed_under(
    desks: Desks, deal: Deal
) -> None:
    added = desks.ok(
        "clinic", "node", "standing", "add", "--product", deal.clinic_product.id,
        "--consumer", desks.world.members["research"].id, "--purpose", PURPOSE,
        "--min-group", 5, "--runs-per-day", 2, "--until", UNTIL,
    )  # fmt: skip
    assert added["valid_until"] == "2026-12-21T00:00:00.000Z"
    assert desks.ok("clinic", "node", "standing", "list")["standing"] == [added]
    assert desks.run("clinic", "node", "standing", "remove", "000000000000").code == 1
    desks.ok("clinic", "node", "standing", "remove", added["id"])
    assert desks.ok("clinic", "node", "standing", "list")["standing"] == []
    other = desks.run(
        "clinic", "node", "standing", "add", "--product", deal.lab_product.id,
        "--consumer", desks.world.members["research"].id, "--purpose", PURPOSE,
        "--min-group", 5, "--runs-per-day", 2, "--until", UNTIL,
    )  # fmt: skip
    assert other.code == 1 and "product of this party" in other.err


def test_a_fingerprint_of_somebody_else_is_not_confirmed(desks: Desks) -> None:
    clinic, lab = desks.world.members["clinic"], desks.world.members["lab"]
    theirs = clinic.folder.party.document.identity.fingerprint
    assert desks.ok("research", "node", "trust", clinic.id, theirs.upper())["name"] == "Clinic"
    assert desks.run("research", "node", "trust", lab.id, theirs).code == 1
    assert desks.run("research", "node", "trust", clinic.id, theirs[:-1]).code == 1


def test_alarms_are_listed_with_what_happened(desks: Desks) -> None:
    with desks.world.members["lab"].node.store.transaction() as tx:
        tx.add_alarm(Alarm("LogForked", "the newest head [does] not hold", START))
    alarm = desks.ok("lab", "node", "alarms")["alarms"][0]
    assert alarm["kind"] == "LogForked"
    assert "[does]" in desks.run("lab", "node", "alarms").out


def test_a_negotiation_is_ended_with_a_reason_and_an_illegal_step_changes_nothing(
    desks: Desks, deal: Deal
) -> None:
    begun = desks.ok("research", "negotiation", "request", "--product", deal.lab_product.id)
    desks.world.settle()
    assert desks.run("research", "negotiation", "accept", begun["id"]).code == 1
    desks.ok("lab", "negotiation", "terminate", begun["id"], "--reason", "no")
    desks.world.settle()
    assert desks.ok("research", "negotiation", "show", begun["id"])["state"] == "TERMINATED"
    below = desks.run(
        "research", "negotiation", "request", "--product", deal.lab_product.id, "--min-group", 2
    )
    assert below.code == 3 and "min_group" in below.err
    assert desks.run("research", "negotiation", "request").code == 2


def test_an_act_that_the_hub_does_not_apply_ends_as_refused_with_its_reason(
    desks: Desks, deal: Deal
) -> None:
    begun = desks.ok("research", "negotiation", "request", "--product", deal.lab_product.id)
    desks.world.settle()
    desks.world.members["research"].hub.down = True  # it does not hear of the termination in time
    desks.ok("lab", "negotiation", "terminate", begun["id"], "--reason", "no")
    desks.stopped = True
    desks.world.members["research"].hub.down = False
    ran = desks.run(
        "research", "negotiation", "terminate", begun["id"], "--reason", "no", "--timeout", 0
    )
    assert ran.code == 4
    desks.world.members["research"].node.work()
    desks.world.settle()
    status = desks.ok("research", "node", "status")
    assert status["without_effect"][0]["kind"] == "negotiation.terminated"


def test_a_product_file_with_a_mistake_is_refused_naming_the_field(
    desks: Desks, tmp_path: Path
) -> None:
    file = tmp_path / "product.toml"
    file.write_text(CLINIC.replace("high = 1000.0", "high = 1000.05"))
    ran = desks.run("clinic", "product", "publish", file)
    assert ran.code == 2 and "columns[2].high" in ran.err
    written = desks.plain("product", "list-new", tmp_path / "new.toml")
    assert written.code == 0
    assert desks.plain("product", "list-new", tmp_path / "new.toml").code == 1
    first = desks.ok("clinic", "product", "publish", tmp_path / "new.toml")
    text = (tmp_path / "new.toml").read_text()
    (tmp_path / "new.toml").write_text(f'id = "{first["product"]}"\n{text}')
    second = desks.ok("clinic", "product", "publish", tmp_path / "new.toml")
    assert (second["product"], second["version"]) == (first["product"], 2)
    (tmp_path / "new.toml").write_text(text)
    other = desks.ok("clinic", "product", "publish", tmp_path / "new.toml")
    rows = tmp_path / "rows.csv"
    for product, alike in ((first, 0), (first, 0), (other, 1)):
        added = desks.ok("clinic", "node", "source", "add", product["product"], "--csv", rows)
        assert len(added["same_rows_as"]) == alike


def test_rows_that_do_not_fit_the_product_are_reported_and_the_command_fails(
    desks: Desks, deal: Deal, tmp_path: Path
) -> None:
    rows = tmp_path / "bad.csv"
    rows.write_text("person,s5\np1,4.5\np1,x\n")
    number = deal.lab_product.id
    desks.ok("lab", "node", "source", "add", number, "--csv", rows)
    ran = desks.run("lab", "node", "source", "test", number, "--json")
    assert ran.code == 1
    assert (ran.json["fits"], ran.json["duplicate_keys"]) == (False, 1)
    assert desks.run("lab", "node", "source", "add", number).code == 2
    relative = desks.run("lab", "node", "source", "add", number, "--postgresql", "service=x")
    assert relative.code == 2


def test_a_participant_shows_registers_and_is_endorsed(desks: Desks, tmp_path: Path) -> None:
    own = desks.ok("clinic", "party", "show")
    assert own["trusted"] is True
    fingerprint = desks.run("clinic", "party", "fingerprint").out.strip()
    assert fingerprint == own["fingerprint"]
    assert desks.ok("clinic", "party", "register")["party"] == own["party"]
    other = desks.ok("clinic", "party", "show", desks.world.members["lab"].id)
    assert (other["name"], other["trusted"]) == ("Lab", True)

    key = tmp_path / "registrar.key"
    made = desks.plain("party", "registrar-init", key, "--json").json
    assert key.stat().st_mode & 0o777 == 0o600
    assert desks.plain("party", "registrar-init", key).code == 1
    endorsed = tmp_path / "endorsed.json"
    party_json = desks.settings("clinic").with_name("party.json")
    ran = desks.plain("party", "endorse", party_json, "--registrar", key, "-o", endorsed, "--json")
    assert ran.json["registrar"] == made["public"]
    assert len(ran.json["signed_by"]) == 2
    desks.ok("clinic", "party", "register", "--endorsed", endorsed)
    assert party_json.read_bytes() == endorsed.read_bytes()
    wrong = desks.run("lab", "party", "register", "--endorsed", endorsed)
    assert wrong.code == 1


def test_a_job_works_after_everybody_rotated_and_an_older_result_still_opens(
    new_desks: Desks,
) -> None:
    desks = new_desks
    deal = a_deal(desks.world)
    before = submitted(desks, deal)
    for holder in ("clinic", "lab"):
        desks.ok(holder, "node", "approve", before)
    early = desks.run("clinic", "node", "rotate")
    assert early.code == 3 and before in early.err
    desks.world.members["research"].hub.down = True  # its result is released meanwhile
    desks.world.settle()
    desks.world.members["research"].hub.down = False
    desks.world.members["research"].node.hear(wait_s=0)

    for name in ("clinic", "lab", "research"):
        old = desks.world.members[name].folder.party
        rotated = desks.ok(name, "node", "rotate")
        assert rotated["seq"] == 1
        desks.reopen(name)
        new = desks.world.members[name].folder.party
        assert new.document.previous == old.digest
        assert new.document.identity == old.document.identity
        keys = (desks.world.path / name).glob("**/*.key")
        assert all(key.stat().st_mode & 0o777 == 0o600 for key in keys)
    desks.world.settle()
    assert desks.ok("research", "job", "result", before)["rows"]

    after = desks.ok("research", "job", "rerun", before, "--yes")["job"]
    for holder in ("clinic", "lab"):
        desks.ok(holder, "node", "approve", after)
    desks.world.settle()
    shown = desks.ok("research", "job", "show", after)
    assert shown["state"] == "RELEASED", shown["reason"]
    assert desks.ok("research", "job", "result", after)["rows"]
    for name in ("clinic", "lab", "research"):
        assert desks.ok(name, "node", "alarms") == {"alarms": []}


def test_a_participant_declares_who_controls_it_and_announces_that(new_desks: Desks) -> None:
    desks, owner = new_desks, "91440300708461136T"
    assert desks.run("lab", "party", "declare", owner[:-1] + "0").code != 0
    declared = desks.ok("lab", "party", "declare", owner)
    assert (declared["seq"], declared["controller"]) == (1, owner)
    again = desks.run("lab", "party", "declare", owner)
    assert again.code != 0 and "exchange party register" in again.err
    desks.ok("lab", "party", "register")
    lab = desks.world.members["lab"].id
    assert desks.ok("clinic", "party", "show", lab)["controller"] == owner


def test_keys_are_not_rotated_while_the_node_runs(desks: Desks) -> None:
    with desks.world.members["lab"].folder.alone():
        ran = desks.run("lab", "node", "rotate")
        assert desks.ok("lab", "node", "status")["node_running"] is True
    assert ran.code == 1 and "stop it" in ran.err
    assert desks.world.members["lab"].folder.party.document.seq == 0
    assert desks.ok("lab", "node", "status")["node_running"] is False


def test_an_interrupted_rotation_goes_on_where_it_was(
    new_desks: Desks, monkeypatch: pytest.MonkeyPatch
) -> None:
    desks = new_desks
    folder = desks.world.members["lab"].folder
    old = folder.party
    monkeypatch.setattr(PartyFolder, "finish_rotation", lambda self: None)  # killed before it
    folder.rotate(now=desks.world.clock.now())
    assert folder.party == old
    monkeypatch.undo()
    desks = Desks(desks.world, monkeypatch, desks.capsys)
    rotated = desks.ok("lab", "node", "rotate")
    assert rotated["seq"] == 1
    assert not (folder.path / "next").exists()
    desks.reopen("lab")
    newest = desks.ok("clinic", "party", "show", desks.world.members["lab"].id)
    assert newest["document"] == rotated["document"]


def test_a_backup_brings_a_participant_back_and_a_stale_one_refuses_to_work(
    new_desks: Desks, tmp_path: Path
) -> None:
    desks = new_desks
    deal = a_deal(desks.world)
    file = tmp_path / "lab.backup"
    saved = desks.ok("lab", "node", "backup", file)
    assert saved["with_database"] is True
    assert file.stat().st_mode & 0o777 == 0o600
    assert desks.run("lab", "node", "backup", file).code == 1

    there = tmp_path / "lab2"
    restored = desks.plain("node", "restore", file, there, "--json").json
    assert sorted(restored["files"]) == sorted(saved["files"])
    for name in ("identity.key", "signing.key", "sealing.key", "agreement.key", "tls.pem"):
        assert (there / name).read_bytes() == (tmp_path / "lab" / name).read_bytes()
        assert (there / name).stat().st_mode & 0o777 == 0o600
    assert desks.plain("node", "restore", file, there).code == 1
    fresh = desks.world.open_member("lab2", PartyFolder(there))
    fresh.node.begin()

    job = submitted(desks, deal)
    desks.world.settle()
    desks.ok("lab", "node", "approve", job)
    with pytest.raises(RestoredBackup, match="statements"):
        fresh.node.begin()


def test_a_backup_from_before_a_rotation_refuses_to_work(new_desks: Desks, tmp_path: Path) -> None:
    new_desks.ok("lab", "node", "backup", tmp_path / "lab.backup")
    new_desks.ok("lab", "node", "rotate")
    new_desks.reopen("lab")
    new_desks.world.members["lab"].node.begin()
    new_desks.plain("node", "restore", tmp_path / "lab.backup", tmp_path / "lab2")
    stale = new_desks.world.open_member("lab2", PartyFolder(tmp_path / "lab2"))
    with pytest.raises(RestoredBackup, match="rotated"):
        stale.node.begin()


def test_a_backup_is_read_strictly(desks: Desks, tmp_path: Path) -> None:
    def forged(name: str) -> Path:
        path = tmp_path / "forged.tar"
        with tarfile.open(path, "w") as archive:
            for member in ("party.json", name):
                info = tarfile.TarInfo(member)
                info.size = 1
                archive.addfile(info, io.BytesIO(b"x"))
        return path

    for name in ("../climbs", "/absolute", "party.json"):
        ran = desks.plain("node", "restore", forged(name), tmp_path / "there")
        assert ran.code == 1, name
        assert not (tmp_path / "there").exists()
    (tmp_path / "not.tar").write_bytes(b"x" * 100)
    assert desks.plain("node", "restore", tmp_path / "not.tar", tmp_path / "there").code == 1


def test_a_regulator_fetches_a_bundle_and_the_audit_says_so_in_its_exit_code(
    new_desks: Desks, tmp_path: Path
) -> None:
    desks = new_desks
    deal = a_deal(desks.world)
    released(desks, deal)
    desks.world.settle()
    file, policy, roots = tmp_path / "deal.zip", tmp_path / "policy", tmp_path / "roots"
    desks.ok("research", "audit", "bundle", deal.deal, "-o", file)
    world = desks.world
    log = world.policy.log_keys[0]
    policy.write_text(f"log {log}\nwitness w {world.witness.key}\nquorum w\n")
    operator = world.operator_folder.party.document.identity.fingerprint
    roots.write_text(f"fingerprint {operator}\n")
    audit = ("audit", "deal", file, "--policy", policy, "--roots", roots)
    distrusted = desks.plain(*audit, "--json")
    assert distrusted.code == 1
    assert distrusted.json["failed"] > 0
    with roots.open("a") as more:
        for member in world.members.values():
            more.write(f"fingerprint {member.folder.party.document.identity.fingerprint}\n")
    believed = desks.plain(*audit, "--open-with", tmp_path / "regulator", "--json")
    assert believed.code == 0, believed.json
    assert believed.json["failed"] == 0
    assert believed.json["not_opened"] < distrusted.json["not_opened"]
    assert desks.plain(*audit, "--lang", "zh-CN").out != desks.plain(*audit).out
    key = tmp_path / "regulator" / "sealing.key"
    assert desks.plain(*audit, "--open-with", key).code == 1
    assert (
        desks.plain(*audit, "--open-with", key, "--party", world.members["regulator"].id).code == 0
    )
    file.write_bytes(file.read_bytes()[:-1])
    assert desks.plain(*audit).code == 1
