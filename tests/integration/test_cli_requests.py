"""A score and a lookup from files to a paid answer, by commands alone."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crypto.scoring.model import affine_model, plain_scores, save_model
from crypto.scoring.shape import Feature, ModelFamily
from tests.desks import Desks
from tests.requests import with_request_engines
from tests.world import PURPOSE, a_world

PEOPLE = """
name = "People"
description = "sex and town"
key = "person"
cap = 10
price_minor = 700
currency = "TEST"
[rule]
min_group = 5
functions = []
joins = ["lookup"]
purposes = ["research"]
evaluations_per_day = 64
[[columns]]
name = "person"
type = "text"
meaning = "invented id"
uses = ["join_key"]
[[columns]]
name = "town"
type = "text"
meaning = "town"
uses = ["lookup"]
"""
RISK = """
name = "Risk"
description = "an invented model"
cap = 1
price_minor = 300
currency = "TEST"
[rule]
min_group = 5
functions = []
joins = ["score"]
purposes = ["research"]
evaluations_per_day = 5000
[[columns]]
name = "age"
type = "integer"
meaning = "years"
low = 0
high = 120
uses = ["feature"]
[[columns]]
name = "bmi"
type = "decimal"
meaning = "body mass index"
decimals = 1
low = 10.0
high = 60.0
uses = ["feature"]
"""


@pytest.fixture
def desks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Desks:
    world = a_world(tmp_path)
    with_request_engines(world)
    world.fund("research", 10_000)
    return Desks(world, monkeypatch, capsys)


def agreed(desks: Desks, product: str) -> str:
    asked = desks.ok(
        "research", "negotiation", "request", "--product", product, "--runs", 3,
        "--until", "2026-12-20",
    )  # fmt: skip
    desks.world.settle()
    desks.ok("clinic", "negotiation", "agree", asked["id"])
    desks.world.settle()
    deal: str = asked["deal"]
    return deal


def answered(desks: Desks, *command: object) -> Any:
    job = desks.ok("research", *command, "--purpose", PURPOSE, "--yes")["job"]
    desks.world.settle()
    desks.ok("clinic", "node", "approve", job)
    desks.world.settle()
    return desks.ok("research", "job", "result", job)


def test_keys_of_a_file_are_looked_up_in_a_table_made_of_a_csv(
    desks: Desks, tmp_path: Path
) -> None:
    (tmp_path / "people.toml").write_text(PEOPLE)
    (tmp_path / "people.csv").write_text("person,town\np1,Basel\np2,Bern\n")
    (tmp_path / "keys.txt").write_text("p2\nsomebody\n")
    product = desks.ok("clinic", "product", "publish", tmp_path / "people.toml")["product"]
    desks.ok("clinic", "node", "source", "add", product, "--csv", tmp_path / "people.csv")
    made = desks.ok("clinic", "node", "lookup", "make", product, "--columns", "town")
    assert (made["version"], made["epoch"], made["rows"]) == (2, 0, 10)
    card = desks.ok("research", "product", "show", product)["lookup"]
    assert (card["columns"], card["table"]) == (["town"], made["table"])
    assert "private lookup" in desks.run("research", "product", "show", product).out
    deal = agreed(desks, product)
    asking = ("job", "lookup", deal, "--product", product, "--keys", tmp_path / "keys.txt")
    shown = desks.run("research", *asking, "--purpose", PURPOSE, answer="n\n")
    assert shown.code != 0 and "16 keys were asked for" in " ".join(shown.err.split())
    assert not list((desks.world.path / "research").glob("asked/*"))
    answer = answered(desks, *asking)
    assert [(row["key"], row["found"]) for row in answer["rows"]] == [
        ("p2", "record"),
        ("somebody", "nothing"),
    ]
    assert answer["rows"][0]["values"] == {"town": "Bern"}
    assert desks.world.available("clinic") == 700


def test_rows_of_a_csv_are_scored_by_a_model_that_stays_with_its_owner(
    desks: Desks, tmp_path: Path
) -> None:
    features = (Feature("age", 0, 120, 0), Feature("bmi", 100, 600, 1))
    weights = np.array([[0.04, -0.11]])
    model = affine_model(
        ModelFamily.LINEAR, features, ("risk",), 2, weights=weights, bias=np.ones(1)
    )
    save_model(model, tmp_path / "risk.npz")
    (tmp_path / "risk.toml").write_text(RISK)
    (tmp_path / "rows.csv").write_text("patient,bmi,age,note\na,24.5,61,x\nb,31,40,y\n")
    product = desks.ok(
        "clinic", "product", "publish", tmp_path / "risk.toml", "--model", tmp_path / "risk.npz"
    )["product"]
    (kept,) = (desks.world.path / "clinic" / "models").glob("*.npz")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    told = desks.run("research", "product", "show", product).out
    assert "linear model of risk" in told and "0.04" not in told
    deal = agreed(desks, product)
    answer = answered(
        desks, "job", "score", deal, "--product", product, "--rows", tmp_path / "rows.csv",
        "--name", "patient",
    )  # fmt: skip
    exact = plain_scores(model, np.array([[61.0, 24.5], [40.0, 31.0]]))[:, 0]
    assert [row["name"] for row in answer["rows"]] == ["a", "b"]
    for row, wanted in zip(answer["rows"], exact, strict=True):
        above, below = map(int, row["scores"][0].split("/"))
        assert abs(above / below - wanted) < 0.01
    assert desks.world.available("clinic") == 300


def test_a_row_without_a_value_is_refused_naming_the_place(desks: Desks, tmp_path: Path) -> None:
    model = affine_model(
        ModelFamily.LINEAR,
        (Feature("age", 0, 120, 0), Feature("bmi", 100, 600, 1)),
        ("risk",),
        2,
        weights=np.ones((1, 2)),
        bias=np.ones(1),
    )
    save_model(model, tmp_path / "risk.npz")
    (tmp_path / "risk.toml").write_text(RISK)
    product = desks.ok(
        "clinic", "product", "publish", tmp_path / "risk.toml", "--model", tmp_path / "risk.npz"
    )["product"]
    deal = agreed(desks, product)
    for text, place in (
        ("age,bmi\n50,\n", "row 1, bmi"),
        ("age\n50\n", "bmi"),
        ("age,bmi\n1,2\n50,nan\n", "row 2, bmi"),
        ("age,bmi\n", "no rows"),
    ):
        (tmp_path / "rows.csv").write_text(text)
        ran = desks.run(
            "research", "job", "score", deal, "--product", product, "--rows",
            tmp_path / "rows.csv", "--purpose", PURPOSE, "--yes",
        )  # fmt: skip
        assert (ran.code, place in ran.err) == (2, True), ran.err


def test_a_file_that_would_run_code_when_read_is_no_model(desks: Desks, tmp_path: Path) -> None:
    """A pickled estimator: refused by the format, never loaded."""
    import pickle

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    with (tmp_path / "risk.npz").open("wb") as file:
        pickle.dump(Trap(), file)
    np.savez(tmp_path / "inside.npz", shape=np.array([Trap()], dtype=object))
    (tmp_path / "risk.toml").write_text(RISK)
    for name in ("risk.npz", "inside.npz"):
        ran = desks.run(
            "clinic", "product", "publish", tmp_path / "risk.toml", "--model", tmp_path / name
        )
        assert ran.code == 2 and "npz" in ran.err
    assert not (tmp_path / "sprung").exists()
