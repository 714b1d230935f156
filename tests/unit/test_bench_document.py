"""docs/benchmarks.md says what the saved documents say, and where an aim was missed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.bench.document import FOLDER, PAGE, TITLES, load, page


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


def a_join(protocol: str, rows: int, groups: int, **figures: object) -> dict[str, Any]:
    found: dict[str, Any] = {
        "workload": "join",
        "command": f"exchange bench join --protocol {protocol} --rows {rows} --json",
        "parameters": {"runs": 3, "protocol": protocol, "rows": rows, "groups": groups},
        "machine": {"cores": 2, "load_before": 0.5, "load_after": 1.0},
        "runs": [2.0, 2.1, 2.2],
        "median_s": 2.1,
        "start_s": 3.0,
        "peak_rss_mb": {"holder A": 700.0, "holder A, engine": 600.0, "holder B": 650.0},
        "bytes_sent": {"holder A": 28_000_000, "holder B": 14_000_000},
    }
    return found | figures


def test_the_page_is_what_the_saved_documents_give() -> None:
    assert PAGE.read_text("utf-8") == page(load(FOLDER))


def test_every_workload_is_on_the_page_with_the_command_that_made_it() -> None:
    text = PAGE.read_text("utf-8")
    for name, document in load(FOLDER).items():
        assert document["workload"] in TITLES
        assert name.partition("-")[0] == document["workload"]
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


def test_joins_of_all_sizes_stand_in_one_table_with_the_aims_of_their_size() -> None:
    text = page(
        {
            "join-sum-1000-1": a_join("sum", 1000, 1),
            "join-hidden-1000000-16": a_join("hidden", 10**6, 16, ratio=2.9, rival_median_s=6.1),
            "join-hidden-10000000-1": a_join("hidden", 10**7, 1, ratio=4.0, rival_median_s=90.0),
        }
    )
    assert text.count("## Joins of two holders") == 1
    assert "revealed's seconds over its own | 2.90 | at least 3 | missed |" in text
    assert "COUNT and SUM, s | 2.10 | at most 30 | met |" in text
    assert "most memory of a party, MB | 700 | at most 2,147 | met |" in text
    assert (
        "| hidden | 1,000,000 | 16 | 2.10 | 6.10 | 2.90 | 3.00 | 28.0, 700 | 14.0, 650 |  |" in text
    )
    assert "| sum | 1,000 | 1 | 2.10 |  |  |" in text


def a_ledger(database: str, **figures: object) -> dict[str, Any]:
    measured = {
        f"{kind}_{name}": value
        for kind in ("unsigned", "signed")
        for name, value in (
            ("per_second", 21_000.0),
            ("batch_p50_ms", 90.0),
            ("batch_p99_ms", 140.0),
            ("processor_us", 45.0),
            ("stored_bytes", 612.0),
        )
    }
    whole = a_start(
        workload="ledger",
        command=f"exchange bench ledger --entries 100000 --database {database} --runs 3 --json",
        parameters={
            "runs": 3,
            "entries": 100_000,
            "database": database,
            "unsigned_entry_bytes": 443,
            "signed_entry_bytes": 924,
        },
        peak_rss_mb={"log": 300.0},
        receipt_p99_ms=140.0,
        proof_build_us=900.0,
        proof_verify_us=9.0,
        audit_s=6.5,
    )
    return whole | measured | figures


def test_the_log_on_both_databases_stands_in_one_table_each_with_its_aims() -> None:
    text = page(
        {
            "ledger-sqlite": a_ledger("sqlite"),
            "ledger-postgresql": a_ledger("postgresql", receipt_p99_ms=251.0),
        }
    )
    assert "| SQLite | 100,000 | unsigned | 21,000 | 90.0 | 140 | 45.0 | 443 | 612 | 300 |" in text
    assert (
        "SQLite, 100,000 entries: statement to receipt, p99, ms | 140 | at most 250 | met" in text
    )
    assert "PostgreSQL, 100,000 entries: statement to receipt, p99, ms | 251 |" in text
    assert "receipt | 21,000 | at least 20,000 | met |" in text
    assert "| PostgreSQL | 100,000 | 900 | 9.00 | 6.50 |" in text
    assert text.count("## The ledger's write path") == 1


def test_each_query_of_the_sql_suite_stands_with_its_slowdown_and_its_text() -> None:
    queries = [{"new": "count", "join": "hidden", "sql": "SELECT COUNT(*) FROM a"}]
    text = page(
        {
            "sql": a_start(
                workload="sql",
                parameters={"runs": 3, "rows": 1000, "queries": queries},
                start_s=4.4,
                q1_s=1.25,
                q1_expected=1.1,
                q1_slowdown=120.4,
                q1_bytes=6_000_000,
            )
        }
    )
    assert "| 1 | count | hidden | 1.25 | 1.10 | 120 | 6,000,000 |" in text
    assert "1. `SELECT COUNT(*) FROM a`" in text


def test_a_join_of_many_with_few_stands_beside_rr22_with_what_it_took_once() -> None:
    document = a_join(
        "revealed",
        10**6,
        1,
        rival_median_s=6.0,
        ratio=2.857,
        first_s=30.0,
        offline_s=26.0,
        bytes_sent={
            "holder A": 11_000_000,
            "holder A, offline": 12_000_000,
            "holder B": 10_000_000,
            "holder B, offline": -86,
        },
    )
    document["parameters"]["against"] = 1000
    text = page({"join-revealed-1000000-1000-1": document})
    assert "| 1,000,000 | 1,000 | 1 | 2.10 | 6.00 | 2.86 | 30.0 | 26.0 |" in text
    assert "| 11.0, 12.0, 700 | 10.0, 0.00, 650 |" in text


def test_the_gas_of_an_event_is_judged_at_ten_thousand_events_for_each_anchor() -> None:
    found = a_start(
        workload="anchor",
        gas_per_anchor=87_000.0,
        gas_per_event=8.7,
        parameters={
            "runs": 5,
            "entries": 10_000,
            "largest": 60_000,
            "client": "anvil/v1",
            "deployment_gas": 1_500_000,
            "first_gas": 96_000,
        },
    )
    row = "| gas for each of 10,000 events of an anchor | 8.70 | at most 10 | met |"
    assert row in page({"anchor": found})
    missed = page({"anchor": {**found, "gas_per_event": 10.1}})
    assert "| 10.1 | at most 10 | missed |" in missed
    fewer = {**found, "parameters": {**found["parameters"], "entries": 100}}
    assert "at most 10" not in page({"anchor": fewer})
