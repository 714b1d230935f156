"""`exchange demo --json`, as a newcomer runs it: real processes, engines, links and data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.engine
def test_the_demonstration_matches_the_plaintext_and_passes_its_audit(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "exchange"
    done = subprocess.run(
        [program, "demo", "--json", "--folder", tmp_path / "demo"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout)  # one document, and nothing else on stdout
    assert document["match"] is True
    assert document["answer"] == document["plaintext_answer"]
    assert len(document["answer"]) == 8
    assert document["audit"]["failed"] == 0
    assert document["audit"]["passed"] > 50
    assert document["audit"]["not_opened"] == 0  # the regulator brought its key
    anchor = document["anchor"]
    assert anchor["simulated"] is True and anchor["state"] == "final" and anchor["count"] > 1
    assert document["audit_log"]["failed"] == document["audit_anchor"]["failed"] == 0
    assert document["audit_log"]["size"] >= anchor["size"] > 40
    assert document["audit_anchor"]["simulated"] is True
    assert document["second"]["within_slack"] is True
    assert [row["sex"] for row in document["second"]["answer"]] == ["1", "2"]
    assert document["second"]["epsilon"] == "61/10"
    balances = document["balances"]
    assert balances["clinic"]["available_minor"] == "24000"
    assert balances["laboratory"]["available_minor"] == "19000"
    assert balances["company"]["available_minor"] == "957000"
    assert {"keys", "processes", "negotiate", "job", "audit", "total"} <= set(document["elapsed_s"])
    # What each process was told stays in its own folder: no row of the clinic anywhere else.
    rows = (tmp_path / "demo" / "clinic" / "patients.csv").read_text().splitlines()[1:]
    patients = [row.split(",")[0].encode() for row in rows[:50]]
    for name in ("hub", "witness", "company", "helper", "regulator", "laboratory"):
        for file in (tmp_path / "demo" / name).rglob("*"):
            if file.is_file() and file.suffix != ".parquet":
                data = file.read_bytes()
                assert not any(patient in data for patient in patients), file
