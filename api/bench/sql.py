"""SQL over two holders who hide everything from each other, beside DuckDB on the pooled rows.

Each query is compiled under two agreements, computed by the hidden join between three processes
over TLS links, opened, and compared with DuckDB's own answer to the same text. A wrong answer ends
the benchmark. Seconds include both holders' local parts and exclude the engines' start.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import duckdb

from api.bench.harness import Measured, Run
from api.bench.join import NAMES, Parties, WrongAnswer, parties
from crypto import record
from crypto.digest import SALT_BYTES, digest
from crypto.identifiers import AgreementId, DealId, NegotiationId, PartyId, ProductId
from crypto.ports import SystemClock, SystemRandomness
from crypto.record import Amount
from exchange.query.adapters.sqlglot_reader import SqlglotReader
from exchange.query.plan import Plan
from exchange.query.question import Footing, Question, compile_question, grounds_of
from exchange.query.rules import Ground, violations
from exchange.results import Answer, SealedPart, read_parts
from exchange.terms.agreement import Agreement, Partner, Terms
from registry.product import Column, ColumnType, DataProduct
from registry.rule import AnalysisRule, Function, Join, PrivacyRule, Use

SEED: Final = 20261123
ON: Final = "FROM a JOIN b ON a.person = b.person"
BAND: Final = "CASE WHEN a.age < 30 THEN 'young' WHEN a.age < 60 THEN 'middle' ELSE 'old' END"
QUERIES: Final = (
    f"SELECT COUNT(*) AS n {ON}",
    f"SELECT SUM(a.income) AS s, AVG(b.bmi) AS m {ON}",
    f"SELECT a.sex, COUNT(*) AS n, SUM(b.score) AS s {ON} GROUP BY a.sex",
    f"SELECT a.sex, b.town, COUNT(*) AS n, AVG(a.income) AS m {ON} GROUP BY a.sex, b.town",
    f"SELECT COUNT(*) AS n, AVG(b.score) AS m {ON} WHERE a.age >= 40 AND b.bmi < 30",
    f"SELECT b.town, VAR_SAMP(a.income) AS v, STDDEV(b.score) AS d {ON} GROUP BY b.town",
    f"SELECT a.sex, CORR(a.income, b.bmi) AS r {ON} GROUP BY a.sex",
    f"SELECT COVAR_SAMP(a.age, b.score) AS c, REGR_SLOPE(b.score, a.age) AS k {ON}",
    f"SELECT b.town, SUM(a.income * b.score) AS s {ON} GROUP BY b.town",
    f"SELECT {BAND} AS band, COUNT(*) AS n {ON} GROUP BY {BAND} HAVING COUNT(*) > 100",
    "SELECT a.sex, COUNT(*) AS n, SUM(b.score) AS s FROM a LEFT JOIN b ON a.person = b.person "
    "GROUP BY a.sex",
    f"SELECT COUNT(*) AS n {ON} WHERE a.age > b.score",
    f"SELECT MIN(a.age) AS low, MAX(b.score) AS high {ON}",
)
COLUMNS: Final = {
    "a": (
        Column("person", ColumnType.TEXT, "invented person"),
        Column("sex", ColumnType.TEXT, "sex", categories=("f", "m")),
        Column("age", ColumnType.INTEGER, "age", low=0, high=120),
        Column("income", ColumnType.INTEGER, "income", low=0, high=200_000),
    ),
    "b": (
        Column("person", ColumnType.TEXT, "invented person"),
        Column("town", ColumnType.TEXT, "town", categories=("east", "north", "south", "west")),
        Column("bmi", ColumnType.DECIMAL, "body mass index", decimals=1, low=100, high=600),
        Column("score", ColumnType.INTEGER, "score", low=0, high=120),
    ),
}


def sql(runs: int, rows: int) -> Measured:
    """seconds: of all queries, one after the other. figures: per query, its seconds and how many
    times longer than DuckDB on the pooled rows it took."""
    with (
        tempfile.TemporaryDirectory(prefix="unseen-bench-") as folder,
        parties("hidden") as three,
    ):
        files = _write(Path(folder), rows)
        pooled = duckdb.connect()
        for name, file in files.items():
            pooled.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{file}')")
        footings = _footings(rows)
        done: list[Run] = []
        peaks: dict[str, float] = {}
        sent = dict.fromkeys(NAMES, 0)
        for _ in range(runs):
            figures: dict[str, float] = {}
            for number, text in enumerate(QUERIES, 1):
                seconds, said = _ask(text, three, footings, files, pooled)
                began = time.perf_counter()
                pooled.execute(text).fetchall()
                plain_s = time.perf_counter() - began
                figures[f"q{number}_s"] = seconds
                figures[f"q{number}_slowdown"] = seconds / plain_s
                for name, one in zip(NAMES, said, strict=True):
                    peak = round(one["engine_rss_mb"] + one["node_rss_mb"], 1)
                    peaks[name] = max(peaks.get(name, 0.0), peak)
                    sent[name] += one["sent_bytes"]
            done.append(Run(sum(v for k, v in figures.items() if k.endswith("_s")), figures))
    bytes_sent = {name: total // runs for name, total in sent.items()}
    parameters = {"runs": runs, "rows": rows, "queries": list(QUERIES)}
    return Measured(parameters, tuple(done), peaks, bytes_sent)


def _ask(
    text: str,
    three: Parties,
    footings: dict[ProductId, Footing],
    files: dict[str, Path],
    pooled: duckdb.DuckDBPyConnection,
) -> tuple[float, list[dict[str, Any]]]:
    now = SystemClock().now()
    names = {footing.ground.product.name: number for number, footing in footings.items()}
    plan = compile_question(
        Question(sql=text, tables=names, purpose="research", join=Join.HIDDEN),
        footings,
        reader=SqlglotReader(),
        operator=_party("operator"),
        helpers={_party("helper"): digest(b"helper")},
        now=now,
        wait=timedelta(minutes=5),
        randomness=SystemRandomness(),
    )
    grounds = grounds_of(plan, footings)
    if found := violations(plan, grounds):
        raise WrongAnswer(f"{text}: {found[0]}")
    products = [ground.product for ground in grounds]
    said = three.ask(
        {
            "plan": record.encode_base64(record.to_bytes(plan)),
            "products": [record.encode_base64(record.to_bytes(one)) for one in products],
            "files": [str(files[product.name]) for product in products],
        },
        plan.job,
    )
    _require_equal(text, _opened(plan, products, said), pooled.execute(text).fetchall())
    ready = max(one["entered"]["ready"] for one in said)
    local = max(one["local_s"] for one in said)
    return local + max(one["ended"] for one in said) - ready, said


def _opened(plan: Plan, products: list[DataProduct], said: list[dict[str, Any]]) -> Answer:
    named = digest(record.to_bytes(plan))
    parts = {
        party: record.to_bytes(
            SealedPart(1, plan.job, named, party, record.decode_base64(one["share"]))
        )
        for party, one in zip(plan.sealers, said, strict=True)
    }
    return read_parts(plan, named, parts, products)


def _require_equal(text: str, answer: Answer, expected: list[tuple[Any, ...]]) -> None:
    """Integers exactly; what DuckDB computes in floating point, to nine digits."""
    wanted = {
        tuple(part for part in row if isinstance(part, str)): [
            part for part in row if not isinstance(part, str)
        ]
        for row in expected
    }
    for row in answer.rows:
        numbers = wanted.pop(row.groups, None)
        if numbers is None or len(numbers) != len(row.figures):
            raise WrongAnswer(f"{text}: group {row.groups}")
        for figure, number in zip(row.figures, numbers, strict=True):
            found = None if figure.value is None else Fraction(figure.value)
            same = found is not None and (
                found == number
                if isinstance(number, int)
                else math.isclose(float(found), float(number), rel_tol=1e-9, abs_tol=1e-9)
            )
            if not same:
                raise WrongAnswer(f"{text}: {row.groups} {figure.value} is not {number}")
    if wanted:
        raise WrongAnswer(f"{text}: {len(wanted)} groups are missing")


def _write(folder: Path, rows: int) -> dict[str, Path]:
    """Two files of invented people, half of them in common, made by DuckDB from a seed."""
    made = duckdb.connect()
    made.execute(f"SELECT setseed({(SEED % 1000) / 1000})")
    queries = {  # of numbers made here
        "a": f"SELECT 'p' || i AS person, ['f', 'm'][1 + (random() * 2)::INT % 2] AS sex, "
        "(18 + random() * 72)::INT AS age, (random() * 200000)::INT AS income "
        f"FROM range(0, {rows}) t(i)",
        "b": "SELECT 'p' || i AS person, "
        "['east', 'north', 'south', 'west'][1 + (random() * 4)::INT % 4] AS town, "
        "round(15 + random() * 30, 1)::DECIMAL(4, 1) AS bmi, (random() * 120)::INT AS score "
        f"FROM range({rows // 2}, {rows + rows // 2}) t(i)",
    }
    files = {}
    for name, query in queries.items():
        files[name] = folder / f"{name}.parquet"
        made.execute(f"COPY ({query}) TO '{files[name]}' (FORMAT parquet)")
    return files


def _footings(rows: int) -> dict[ProductId, Footing]:
    randomness, now = SystemRandomness(), SystemClock().now()
    deal = DealId.new(now, randomness)
    products = {name: _product(name, rows, now) for name in COLUMNS}
    found = {}
    for name, product in products.items():
        other = products["b" if name == "a" else "a"]
        listed = digest(record.to_bytes(product))
        agreement = Agreement(
            v=1,
            id=AgreementId.new(now, randomness),
            deal=deal,
            negotiation=NegotiationId.new(now, randomness),
            consumer=_party("consumer"),
            consumer_document=digest(b"consumer"),
            holder=product.holder,
            holder_document=product.holder_document,
            terms=Terms(
                product_id=product.id,
                product=listed,
                purposes=("research",),
                joins=(Join.HIDDEN,),
                combine_with=(Partner(other.id, other.holder),),
                helper=_party("helper"),
                min_group=2,
                runs=1000,
                epsilon=Fraction(100),
                currency="TEST",
                price_minor=Amount(0),
                valid_from=now - timedelta(days=1),
                valid_until=now + timedelta(days=1),
                regulator=None,
                regulator_document=None,
            ),
            agreed_at=now,
            salt=os.urandom(SALT_BYTES),
        )
        name_of = digest(record.to_bytes(agreement))
        found[product.id] = Footing(Ground(agreement, product), name_of, listed)
    return found


def _product(name: str, rows: int, now: datetime) -> DataProduct:
    every = (Use.GROUP_KEY, Use.AGGREGATE, Use.FILTER, Use.COMPARE)
    columns = COLUMNS[name]
    uses = {
        column.name: (Use.JOIN_KEY,)
        if column.name == "person"
        else (Use.GROUP_KEY, Use.FILTER)
        if column.type is ColumnType.TEXT
        else every
        for column in columns
    }
    return DataProduct(
        v=1,
        id=ProductId.new(now, SystemRandomness()),
        version=1,
        holder=_party(name),
        holder_document=digest(name.encode()),
        name=name,
        description="made of a seed",
        columns=columns,
        key="person",
        cap=rows,
        rule=AnalysisRule(
            uses=uses,
            functions=tuple(Function),
            joins=(Join.HIDDEN,),
            min_group=2,
            purposes=("research",),
            privacy=PrivacyRule(Fraction(10), Fraction(100), Fraction(1, 1000), noise=False),
        ),
        currency="TEST",
        price_minor=Amount(0),
    )


def _party(name: str) -> PartyId:
    return PartyId(f"pty_{digest(name.encode()).raw.hex()[:32]}")
