"""SQL over two holders who hide their rows from each other, beside DuckDB on the pooled rows.

Each query is compiled under two agreements, computed by the parties of its join over TLS links,
opened, and compared with DuckDB's own answer to the same text. A wrong answer ends the benchmark.
Seconds run from the text to the opened answer, both holders' local parts included; the engines have
loaded before, which is `start_s`.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import duckdb

from api.bench.harness import Measured, Run
from api.bench.join import NAMES, Parties, WrongAnswer, lasted, parties
from crypto import record
from crypto.digest import SALT_BYTES, digest
from crypto.identifiers import AgreementId, DealId, NegotiationId, PartyId, ProductId
from crypto.ports import SystemClock, SystemRandomness
from crypto.record import Amount
from exchange.query.adapters.sqlglot_reader import SqlglotReader
from exchange.query.forecast import explain
from exchange.query.plan import Plan, Statistic
from exchange.query.program import Program, program_of
from exchange.query.question import Footing, Question, compile_question, grounds_of
from exchange.query.released import Released
from exchange.query.rules import Ground, violations
from exchange.results import Answer, Figure, SealedPart, read_parts
from exchange.terms.agreement import Agreement, Partner, Terms
from registry.expression import ColumnValue
from registry.product import Column, ColumnType, DataProduct
from registry.rule import AnalysisRule, Function, Join, PrivacyRule, Use


@dataclass(frozen=True)
class Asked:
    """new: what the queries before it do not have."""

    new: str
    sql: str
    join: Join = Join.HIDDEN
    hide_size: bool = False
    epsilon: Fraction | None = None


SEED: Final = 20261123
ON: Final = "FROM a JOIN b ON a.person = b.person"
BAND: Final = "CASE WHEN a.age < 30 THEN 'young' WHEN a.age < 60 THEN 'middle' ELSE 'old' END"
TOWNS: Final = f"SELECT a.sex, b.town, COUNT(*) AS n, SUM(b.score) AS s {ON} GROUP BY a.sex, b.town"
BOTH: Final = "SELECT person, sex, age FROM a UNION ALL SELECT person, sex, age FROM b"
QUERIES: Final = (
    Asked("count", f"SELECT COUNT(*) AS n {ON}"),
    Asked("sum and mean", f"SELECT SUM(a.income) AS s, AVG(b.bmi) AS m {ON}"),
    Asked("groups", f"SELECT a.sex, COUNT(*) AS n, SUM(b.score) AS s {ON} GROUP BY a.sex"),
    Asked("groups of both", TOWNS),
    Asked(
        "filters of both",
        f"SELECT COUNT(*) AS n, AVG(b.score) AS m {ON} WHERE a.age >= 40 AND b.bmi < 30",
    ),
    Asked(
        "CASE and HAVING",
        f"SELECT {BAND} AS band, COUNT(*) AS n {ON} GROUP BY {BAND} HAVING COUNT(*) > 100",
    ),
    Asked(
        "variances",
        f"SELECT b.town, VAR_SAMP(a.income) AS v, STDDEV(b.score) AS d {ON} GROUP BY b.town",
    ),
    Asked("correlation", f"SELECT a.sex, CORR(a.income, b.bmi) AS r {ON} GROUP BY a.sex"),
    Asked(
        "regression",
        "SELECT COVAR_SAMP(b.score, a.age) AS c, REGR_SLOPE(b.score, a.age) AS k, "
        f"REGR_INTERCEPT(b.score, a.age) AS i, REGR_R2(b.score, a.age) AS r {ON}",
    ),
    Asked("product across", f"SELECT b.town, SUM(a.income * b.score) AS s {ON} GROUP BY b.town"),
    Asked(
        "LEFT JOIN",
        "SELECT a.sex, COUNT(*) AS n, COUNT(b.person) AS met, SUM(b.score) AS s "
        "FROM a LEFT JOIN b ON a.person = b.person GROUP BY a.sex",
    ),
    Asked("condition across", f"SELECT COUNT(*) AS n {ON} WHERE a.age > b.score"),
    Asked(
        "MIN and MAX",
        f"SELECT a.sex, MIN(a.age) AS low, MAX(b.score) AS high {ON} GROUP BY a.sex",
    ),
    Asked("hidden size", TOWNS, hide_size=True),
    Asked("revealed", TOWNS, Join.REVEALED),
    Asked(
        "sum", f"SELECT COUNT(*) AS n, SUM(b.score) AS s {ON} WHERE b.score IS NOT NULL", Join.SUM
    ),
    Asked(
        "union",
        f"SELECT u.sex, COUNT(*) AS n, AVG(u.age) AS m FROM ({BOTH}) AS u GROUP BY u.sex",
        Join.UNION,
    ),
    Asked(
        "quantile with noise",
        f"SELECT COUNT(*) AS n, MEDIAN(b.score) AS m {ON}",
        epsilon=Fraction(8),
    ),
)
# A correct run fails a check of noise with at most this chance.
MISS: Final = 1e-12
JOINS: Final = (Join.HIDDEN, Join.REVEALED, Join.SUM, Join.UNION)
AUTHORS: Final = 2  # of noise, a full draw each
SEXES: Final = ("f", "m")
COLUMNS: Final = {
    "a": (
        Column("person", ColumnType.TEXT, "invented person"),
        Column("sex", ColumnType.TEXT, "sex", categories=SEXES),
        Column("age", ColumnType.INTEGER, "age", low=0, high=120),
        Column("income", ColumnType.INTEGER, "income", low=0, high=200_000),
    ),
    "b": (
        Column("person", ColumnType.TEXT, "invented person"),
        Column("sex", ColumnType.TEXT, "sex", categories=SEXES),
        Column("age", ColumnType.INTEGER, "age", low=0, high=120),
        Column("town", ColumnType.TEXT, "town", categories=("east", "north", "south", "west")),
        Column("bmi", ColumnType.DECIMAL, "body mass index", decimals=1, low=100, high=600),
        Column("score", ColumnType.INTEGER, "score", low=0, high=120),
    ),
}


def sql(runs: int, rows: int) -> Measured:
    """seconds: of all queries, one after the other. figures: per query, its seconds, how many
    times longer than DuckDB on the pooled rows it took, and what all parties sent."""
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
            starts = []
            for number, asked in enumerate(QUERIES, 1):
                seconds, expected_s, said = _ask(asked, three, footings, files, pooled)
                began = time.perf_counter()
                pooled.execute(asked.sql).fetchall()
                plain_s = time.perf_counter() - began
                starts.append(max(one["start_s"] for one in said))
                figures[f"q{number}_s"] = seconds
                figures[f"q{number}_expected"] = expected_s
                figures[f"q{number}_slowdown"] = seconds / plain_s
                figures[f"q{number}_bytes"] = sum(one["sent_bytes"] for one in said)
                for name, one in zip(NAMES, said, strict=False):
                    _keep(peaks, name, one["engine_rss_mb"] + one["node_rss_mb"])
                    _keep(peaks, f"{name}, engine", one["engine_rss_mb"])
                    sent[name] += one["sent_bytes"]
            total = sum(value for name, value in figures.items() if name.endswith("_s"))
            done.append(Run(total, {"start_s": sum(starts) / len(starts), **figures}))
    bytes_sent = {name: total // runs for name, total in sent.items()}
    queries = [{"new": one.new, "join": one.join.value, "sql": one.sql} for one in QUERIES]
    parameters = {"runs": runs, "rows": rows, "queries": queries}
    return Measured(parameters, tuple(done), peaks, bytes_sent)


def _keep(peaks: dict[str, float], name: str, peak_mb: float) -> None:
    peaks[name] = max(peaks.get(name, 0.0), round(peak_mb, 1))


def _ask(
    asked: Asked,
    three: Parties,
    footings: dict[ProductId, Footing],
    files: dict[str, Path],
    pooled: duckdb.DuckDBPyConnection,
) -> tuple[float, float, list[dict[str, Any]]]:
    """Seconds from text to opened answer, those that `explain` would have foretold, and what each
    party measured. Raises WrongAnswer."""
    began = time.perf_counter()
    plan = planned(asked, footings)
    grounds = grounds_of(plan, footings)
    if found := violations(plan, grounds):
        raise WrongAnswer(f"{asked.sql}: {found[0]}")
    compiled_s = time.perf_counter() - began
    products = [ground.product for ground in grounds]
    said = three.ask(
        {
            "plan": record.encode_base64(record.to_bytes(plan)),
            "products": [record.encode_base64(record.to_bytes(one)) for one in products],
            "files": [str(files[product.name]) for product in products],
        },
        plan.job,
        parties=len(plan.engine_parties),
    )
    began = time.perf_counter()
    answer = _opened(plan, products, said)
    opened_s = time.perf_counter() - began
    if asked.epsilon is None:
        _require_equal(asked.sql, answer, pooled.execute(asked.sql).fetchall())
    else:
        _require_near(asked.sql, answer, plan, program_of(plan, products), pooled)
    expected_s = explain(plan, products).expected_ms / 1000
    return compiled_s + lasted(said) + opened_s, expected_s, said


def planned(asked: Asked, footings: dict[ProductId, Footing]) -> Plan:
    """Under the benchmark's agreements. Raises QuestionRefused."""
    return compile_question(
        Question(
            sql=asked.sql,
            tables={one.ground.product.name: number for number, one in footings.items()},
            purpose="research",
            join=asked.join,
            hide_size=asked.hide_size,
            epsilon=asked.epsilon,
        ),
        footings,
        reader=SqlglotReader(),
        operator=_party("operator"),
        helpers={_party("helper"): digest(b"helper")},
        now=SystemClock().now(),
        wait=timedelta(minutes=5),
        randomness=SystemRandomness(),
    )


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


def _require_near(
    text: str,
    answer: Answer,
    plan: Plan,
    program: Program,
    pooled: duckdb.DuckDBPyConnection,
) -> None:
    """That what carries noise is off by no more than the noise that the plan states can move it,
    but for MISS: a count directly; a quantile by how many rows lie below its bin, and up to it."""
    (row,) = answer.rows
    (exact,) = pooled.execute(text).fetchall()
    for figure, output, number in zip(row.figures, plan.query.outputs, exact, strict=True):
        if figure.value is None or not isinstance(output.value, Released):
            raise WrongAnswer(f"{text}: {output.name} is missing")
        statistic = plan.query.statistics[output.value.statistic]
        reading = program.readings[output.value.statistic]
        if statistic.function is Function.COUNT:
            reach = _reach(plan, reading.rows, 1)
            if abs(Fraction(figure.value) - number) > reach:
                raise WrongAnswer(f"{text}: {figure.value} is further than {reach} from {number}")
        else:
            # Both the rows below the bin and all rows are sums of noisy bins.
            reach = 2 * _reach(plan, reading.bins[0], len(reading.bins))
            _require_quantile(text, statistic, figure, reach, pooled)


def _require_quantile(
    text: str,
    statistic: Statistic,
    figure: Figure,
    reach: float,
    pooled: duckdb.DuckDBPyConnection,
) -> None:
    (argument,) = statistic.arguments
    if not isinstance(argument.expression, ColumnValue) or figure.value is None:
        raise WrongAnswer(f"{text}: only a column's quantile can be checked here")
    column = f"{'ab'[argument.side]}.{argument.expression.column}"
    cuts, share = statistic.cuts or (), statistic.quantile or Fraction(1, 2)
    low = max(cut for cut in cuts[:-1] if cut <= figure.value)
    high = min(cut for cut in cuts[1:] if cut >= figure.value)
    ((below, reached, rows),) = pooled.execute(
        f"SELECT COUNT(*) FILTER (WHERE {column} < {low}), "
        f"COUNT(*) FILTER (WHERE {column} <= {high}), COUNT({column}) {ON}"
    ).fetchall()
    if not below - reach <= share * rows <= reached + reach:
        raise WrongAnswer(f"{text}: {figure.value} has {below} of {rows} rows below its bin")


def _reach(plan: Plan, term: int, terms: int) -> float:
    """How far the noise of so many terms together moves their sum, but for MISS. Chernoff's bound
    over the moments of discrete Laplace, (1 - q)**2 / ((1 - q*e**l) * (1 - q/e**l)), each sign."""
    if plan.query.noise is None:
        return 0.0
    scale = float(plan.query.noise.scales[term])
    q, draws = math.exp(-1 / scale), AUTHORS * terms
    bounds = []
    for step in range(1, 100):
        tilt = step / 100 / scale
        moment = (1 - q) ** 2 / ((1 - q * math.exp(tilt)) * (1 - q * math.exp(-tilt)))
        bounds.append((draws * math.log(moment) + math.log(2 / MISS)) / tilt)
    return min(bounds)


def _write(folder: Path, rows: int) -> dict[str, Path]:
    """Two files of invented people, half of them in common, made by DuckDB from a seed."""
    made = duckdb.connect()
    made.execute(f"SELECT setseed({(SEED % 1000) / 1000})")
    sex = "['f', 'm'][1 + (random() * 2)::INT % 2] AS sex"
    # One age in fifty, and one bmi, is unknown.
    age = "CASE WHEN random() > 0.02 THEN (18 + random() * 72)::INT END AS age"
    bmi = "CASE WHEN random() > 0.02 THEN round(15 + random() * 30, 1)::DECIMAL(4, 1) END AS bmi"
    towns = "['east', 'north', 'south', 'west'][1 + (random() * 4)::INT % 4] AS town"
    queries = {
        "a": f"SELECT 'p' || i AS person, {sex}, {age}, (random() * 200000)::INT AS income "
        f"FROM range(0, {rows}) t(i)",
        "b": f"SELECT 'p' || i AS person, {sex}, {age}, {towns}, {bmi}, "
        f"(random() * 120)::INT AS score FROM range({rows // 2}, {rows + rows // 2}) t(i)",
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
                joins=JOINS,
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
            joins=JOINS,
            min_group=2,
            purposes=("research",),
            privacy=PrivacyRule(Fraction(10), Fraction(100), Fraction(1, 1000), noise=False),
        ),
        currency="TEST",
        price_minor=Amount(0),
    )


def _party(name: str) -> PartyId:
    return PartyId(f"pty_{digest(name.encode()).raw.hex()[:32]}")
