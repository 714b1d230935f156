"""Private lookup of keys in a table of records, holder and consumer each a process.

The table is made once, ahead of all lookups; the first lookup downloads it, and all later ones are
online work alone, which is what the seconds are: from both engines ready to the consumer's answer.
Every record is compared with the one that was sealed.
"""

from __future__ import annotations

from typing import Any, Final

from api.bench.harness import Measured, Run
from api.bench.join import WrongAnswer, parties
from api.bench.request_party import LABEL_BYTES, RECORD, Looking
from crypto import record
from crypto.identifiers import JobId
from crypto.lookup.answers import unpack
from crypto.lookup.table import Absence
from crypto.ports import SystemClock, SystemRandomness

ROLES: Final = ("holder", "consumer")


def lookup(runs: int, rows: int, keys: int) -> Measured:
    """runs: beside the first one, which downloads the table. Raises WrongAnswer."""
    found: list[Run] = []
    every = []
    with parties("lookup", "api.bench.request_party") as both:
        made = both.ask(Looking(rows, keys).__dict__, _job())[0]
        asked = Looking(rows, keys, made["table"])
        said = both.ask(asked.__dict__, _job())
        first = _checked(asked, said)
        downloaded = said[0]["sent_bytes"]
        for _ in range(runs):
            said = both.ask(asked.__dict__, _job())
            every.append(said)
            seconds = _checked(asked, said)
            check, match = (said[1]["stages_ms"][stage] / 1000 for stage in ("check", "match"))
            figures = {
                "evaluate_s": said[0]["stages_ms"]["compute"] / 1000,
                "verify_s": check,
                "open_s": match,
                "table_s": made["seconds"],
                "download_s": first - seconds,
            }
            found.append(Run(seconds, figures))
    parameters = {
        "runs": runs,
        "rows": rows,
        "keys": keys,
        "record_bytes": LABEL_BYTES,
        "table_bytes": made["size_bytes"],
        "first_sent_bytes": downloaded,
    }
    return Measured(parameters, tuple(found), peaks(every), sent(said))


def peaks(every: list[list[dict[str, Any]]]) -> dict[str, float]:
    """By process, over all attempts: an engine is a new one each time, the node's is the most of
    its life."""
    found: dict[str, float] = {}
    for said in every:
        for role, one in zip(ROLES, said, strict=True):
            for name, peak in ((role, "node_rss_mb"), (f"{role}, engine", "engine_rss_mb")):
                found[name] = max(found.get(name, 0.0), round(one[peak], 1))
    return found


def sent(said: list[dict[str, Any]]) -> dict[str, int]:
    return {role: one["sent_bytes"] for role, one in zip(ROLES, said, strict=True)}


def online(said: list[dict[str, Any]]) -> float:
    """From the moment both engines are ready to the consumer's answer."""
    seconds: float = said[1]["ended"] - max(one["entered"]["ready"] for one in said)
    return seconds


def _checked(asked: Looking, said: list[dict[str, Any]]) -> float:
    answers = unpack(
        record.decode_base64(said[1]["share"]), evaluations=asked.keys, label_bytes=LABEL_BYTES
    )
    for key, answer in zip(asked.asked, answers, strict=True):
        known = int(key) < asked.rows
        if answer != (RECORD % int(key) if known else Absence.NO_RECORD):
            raise WrongAnswer(f"lookup of {asked.keys} keys")
    return online(said)


def _job() -> JobId:
    return JobId.new(SystemClock().now(), SystemRandomness())
