"""docs/benchmarks.md says what the saved documents say, and where an aim was missed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.bench.document import AIMS, FOLDER, PAGE, load, page


def a_start(**figures: object) -> dict[str, Any]:
    found: dict[str, Any] = {
        "workload": "start",
        "command": "exchange bench start --runs 3 --json",
        "parameters": {"runs": 3},
        "machine": {"cores": 2, "load_before": 0.5, "load_after": 1.0},
        "runs": [1.0, 1.1, 1.2],
        "median_s": 1.1,
        "peak_rss_mb": {"hub": 99.0},
        "bytes_sent": {},
        "help_s": 0.2,
        "first_start_s": 2.4,
    }
    return found | figures


def test_the_page_is_what_the_saved_documents_give() -> None:
    assert PAGE.read_text("utf-8") == page(load(FOLDER))


def test_every_workload_is_on_the_page_with_the_command_that_made_it() -> None:
    documents = load(FOLDER)
    assert set(documents) == set(AIMS)
    text = PAGE.read_text("utf-8")
    for workload, document in documents.items():
        assert document["workload"] == workload
        assert f"`{document['command']}`" in text


def test_a_figure_within_its_aim_is_met_and_one_beyond_it_is_missed() -> None:
    assert "| `exchange hub` to ready, s | 2.00 | at most 2 | met |" in page(
        {"start": a_start(median_s=2.0)}
    )
    assert "| `exchange hub` to ready, s | 2.01 | at most 2 | missed |" in page(
        {"start": a_start(median_s=2.01)}
    )


def test_a_busy_machine_is_said_to_have_been_busy() -> None:
    busy = a_start(machine={"cores": 2, "load_before": 7.5, "load_after": 7.0})
    words = "Other programs kept more than every core busy"
    assert words in page({"start": busy})
    assert words not in page({"start": a_start()})


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_an_absent_database_has_no_rows_and_is_said_to_be_absent(database: str) -> None:
    document = json.loads((FOLDER / "api.json").read_text("utf-8"))
    document["parameters"]["postgresql"] = "absent: not installed"
    kept = {name: value for name, value in document.items() if not name.endswith(f"_{database}")}
    text = page({"api": kept})
    title = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[database]
    assert f"| {title} |" not in text
    assert "PostgreSQL: absent: not installed." in text
