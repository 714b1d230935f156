"""Answers to SQL over two holders equal DuckDB's over the pooled rows, for every form there is.

Each side computes its local part from its own file; what engines add up under sharing is added up
here in the clear, since engines have tests of their own. No noise: the numbers must be the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import duckdb
import numpy as np
import pytest

from crypto import record
from crypto.digest import digest
from crypto.joinkeys import KeyKind, canonical_keys, tokens
from crypto.joins.rows import SideRows, plain_output, second_side
from crypto.sharing import to_bytes
from exchange.errors import QuestionRefused
from exchange.node.alone import alone
from exchange.node.parts import local_query, unmatched
from exchange.query.plan import Plan
from exchange.query.program import program_of
from exchange.query.question import grounds_of
from exchange.query.rendering import render
from exchange.query.rules import Ground, violations
from exchange.results import Answer, SealedPart, read_parts
from registry.adapters.duckdb_source import DuckDBFileSource
from registry.product import DataProduct
from registry.rule import Join
from registry.source import FileFormat, FileSource
from tests.queries import compiled, footings, open_grounds, three_grounds

PEOPLE = 400
BOTH = open_grounds(min_group=2)
THREE = three_grounds(min_group=2)


@dataclass
class Pool:
    """The files, and a database that holds their rows as tables `a`, `b` and `c`."""

    files: tuple[Path, ...]
    database: duckdb.DuckDBPyConnection
    judged: tuple[Ground, ...] = BOTH

    def expected(self, sql: str) -> dict[tuple[str, ...], tuple[float | None, ...]]:
        """By group: numbers as DuckDB finds them. Columns of text are the groups."""
        found = {}
        for row in self.database.execute(sql).fetchall():
            groups = tuple(part for part in row if isinstance(part, str))
            numbers = [part for part in row if not isinstance(part, str)]
            found[groups] = tuple(None if n is None else float(n) for n in numbers)
        return found

    def answer(self, sql: str, **options: object) -> Answer:
        """Compiled, shown to a holder, compiled again from what was shown, and answered."""
        plan = compiled(sql, self.judged, **options)
        products = [ground.product for ground in grounds_of(plan, footings(*self.judged))]
        shown = render(plan, products)
        again = compiled(shown, self.judged, **options)
        assert _asked(again) == _asked(plan), shown
        # Noise and intervals have their own tests; here the numbers behind them must be right.
        exact = replace(plan, work=replace(plan.query, noise=None))
        return self._read(exact, products)

    def _read(self, plan: Plan, products: list[DataProduct]) -> Answer:
        program = program_of(plan, products)
        held = {
            product.id: file
            for product, file in zip((g.product for g in self.judged), self.files, strict=True)
        }
        locals_ = [
            DuckDBFileSource(FileSource(str(held[product.id]), FileFormat.CSV)).compute(
                product, local_query(plan, program, rank)
            )
            for rank, product in enumerate(products)
        ]
        if plan.join is Join.UNION:
            rows = [unmatched(local) for local in locals_]
            first = SideRows(
                np.arange(2 * sum(map(len, rows)), dtype=np.uint64).view(np.uint8).reshape(-1, 16),
                np.concatenate([side.group for side in rows]),
                np.concatenate([side.factors for side in rows]),
            )
            terms = tuple(replace(term, outer=True) for term in program.layout.terms)
            output = alone(replace(program.layout, terms=terms), first, None, _Silence())
        elif plan.join is Join.ALONE:
            output = alone(program.layout, unmatched(locals_[0]), None, _Silence())
        else:
            sides = [
                SideRows(
                    tokens(canonical_keys(local.keys, KeyKind.TEXT), b"k" * 32),
                    local.group,
                    local.factors,
                )
                for local in locals_
            ]
            if program.layout.third is not None:
                sides[1:] = [second_side(program.layout.third, *sides[1:])]
            output = to_bytes(plain_output(program.layout, *sides).view(np.uint64))
        named = digest(record.to_bytes(plan))
        nothing = to_bytes(np.zeros(len(output) // 8, dtype=np.uint64))
        parts = {
            party: record.to_bytes(
                SealedPart(1, plan.job, named, party, nothing if rank else output)
            )
            for rank, party in enumerate(plan.sealers)
        }
        return read_parts(plan, named, parts, products)


class _Silence:
    def draw(self, *_: object) -> np.ndarray:  # type: ignore[type-arg]
        raise AssertionError("noise is not asked for")


def _asked(plan: Plan) -> object:
    return plan.join, plan.query, [(side.group_by, side.where) for side in plan.sides]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    folder, draw = tmp_path_factory.mktemp("pool"), random.Random(7)
    files = tuple(folder / f"{table}.csv" for table in "abc")
    database = duckdb.connect()
    for table, file, start in zip("abc", files, (0, PEOPLE // 4, PEOPLE // 8), strict=True):
        lines = ["person,sex,town,age,bmi,income"]
        for number in range(start, start + PEOPLE):
            sex = draw.choice(["f", "m", "f", "m", "x", ""])  # x is outside the public domain
            town = draw.choice(["north", "south", "o'hare", ""])
            age = draw.choice([str(draw.randint(18, 80)), str(draw.randint(18, 80)), ""])
            bmi = draw.choice([f"{draw.randint(150, 450) / 10}", f"{20 + number % 9}.5", ""])
            lines.append(f"p{number},{sex},{town},{age},{bmi},{number}")
        file.write_text("\n".join(lines) + "\n")
        database.execute(
            f"CREATE TABLE {table} AS SELECT * FROM read_csv('{file}', header = true, columns = "
            "{'person': 'VARCHAR', 'sex': 'VARCHAR', 'town': 'VARCHAR', 'age': 'INTEGER', "
            "'bmi': 'DECIMAL(9, 1)', 'income': 'BIGINT'}, nullstr = '')"
        )
        database.execute(f"UPDATE {table} SET sex = NULL WHERE sex = 'x'")
    yield Pool(files[:2], database)
    database.close()


@pytest.fixture(scope="module")
def pool_of_three(pool: Pool) -> Pool:
    return Pool((*pool.files, pool.files[0].with_name("c.csv")), pool.database, THREE)


JOIN = "FROM a JOIN b ON a.person = b.person"
BANDS = (
    "CASE WHEN b.age < 40 THEN '< 40' WHEN b.age < 60 THEN '40 to < 60' "
    "WHEN b.age >= 60 THEN '>= 60' END"
)

# Our SQL, and DuckDB's where it is written otherwise.
SAME: dict[str, tuple[str, ...]] = {
    "a count of everybody in common": (f"SELECT COUNT(*) AS n {JOIN}",),
    "people of both": (f"SELECT COUNT(DISTINCT a.person) AS n, SUM(b.bmi) AS s {JOIN}",),
    "sums by a column of either side": (
        f"SELECT a.sex, b.sex AS other, COUNT(*), SUM(a.bmi), AVG(b.bmi) {JOIN} "
        "WHERE a.sex IS NOT NULL AND b.sex IS NOT NULL GROUP BY a.sex, b.sex",
    ),
    "conditions on each side, pushed down": (
        f"SELECT COUNT(*), AVG(a.bmi) {JOIN} WHERE a.age BETWEEN 20 AND 70 "
        "AND NOT (b.town IN ('north', 'o''hare') AND b.age < 60) AND b.bmi IS NOT NULL",
    ),
    "three-valued logic": (
        f"SELECT COUNT(*) {JOIN} WHERE (a.age > 50 OR a.bmi < 22.5) AND NOT (b.age = 40)",
    ),
    "a missing value is in no average": (
        f"SELECT COUNT(a.bmi), AVG(a.bmi), COUNT(b.age), COUNT(a.town), SUM(a.bmi * b.age) {JOIN}",
    ),
    "arithmetic on the released": (
        f"SELECT a.sex, SUM(b.bmi) / COUNT(b.bmi) * 100 AS mean, COUNT(*) - 1 AS fewer {JOIN} "
        "WHERE a.sex IS NOT NULL GROUP BY 1",
    ),
    "spread": (
        f"SELECT VAR_SAMP(a.bmi), VAR_POP(a.bmi), STDDEV(b.bmi), STDDEV_SAMP(a.age) {JOIN}",
    ),
    "the spread of a product across": (
        f"SELECT VAR_SAMP(a.age * b.age), AVG(a.age * b.bmi) {JOIN}",
    ),
    "how two columns of two holders go together": (
        f"SELECT CORR(a.bmi, b.bmi), COVAR_SAMP(a.age, b.bmi), COVAR_POP(a.age, b.bmi) {JOIN}",
    ),
    "how two columns of one holder go together": (
        f"SELECT CORR(a.bmi, a.age), COVAR_POP(b.bmi, b.age), REGR_COUNT(b.bmi, b.age) {JOIN}",
    ),
    "a line through the points": (
        f"SELECT REGR_SLOPE(a.bmi, b.age), REGR_INTERCEPT(a.bmi, b.age), REGR_R2(a.bmi, b.age), "
        f"REGR_COUNT(a.bmi, b.age) {JOIN}",
    ),
    "the least and the largest": (
        f"SELECT a.sex, MIN(a.bmi), MAX(b.age) {JOIN} WHERE a.sex IS NOT NULL GROUP BY a.sex",
    ),
    "comparison row by row": (
        f"SELECT COUNT(*), AVG(a.bmi) {JOIN} WHERE a.age < b.age AND a.bmi >= b.bmi",
    ),
    "comparison of sums across": (
        f"SELECT COUNT(*) {JOIN} WHERE a.bmi - b.bmi > 5 AND NOT b.age + 10 <= a.age - 2",
    ),
    "numbers of different decimals": (f"SELECT COUNT(*) {JOIN} WHERE a.bmi > b.age",),
    "a range across": (f"SELECT COUNT(*) {JOIN} WHERE b.age BETWEEN a.age AND a.age + 20",),
    "expressions of a row": (
        f"SELECT SUM(a.age * 2 - 3), AVG(COALESCE(a.bmi, 20.5)), SUM(ABS(b.age - 50)), "
        f"AVG(NULLIF(a.age, 44)), SUM(-a.age) {JOIN}",
    ),
    "a case": (
        f"SELECT SUM(CASE WHEN a.age > 50 THEN a.bmi WHEN a.age > 30 THEN 1 ELSE 0 END), "
        f"SUM(CASE a.sex WHEN 'f' THEN 1 ELSE 0 END) {JOIN}",
    ),
    "a case of one side over the other": (
        f"SELECT SUM(CASE WHEN a.sex = 'f' AND b.age > 40 THEN b.bmi ELSE 0 END), "
        f"AVG(CASE WHEN a.sex = 'f' THEN b.bmi END), "
        f"COUNT(CASE WHEN a.age > 40 AND b.age > 40 THEN 1 END) {JOIN}",
    ),
    "filters of aggregates": (
        "SELECT COUNT(*) FILTER (WHERE a.age > 40 AND b.sex = 'm'), "
        f"SUM(b.bmi) FILTER (WHERE a.town = 'north') {JOIN}",
    ),
    "groups by labels": (
        f"SELECT CASE WHEN a.age < 40 THEN 'young' WHEN a.age >= 40 THEN 'old' END AS g, "
        f"COUNT(*), AVG(b.bmi) {JOIN} WHERE a.age IS NOT NULL GROUP BY g",
    ),
    "a label for the rest": (
        f"SELECT CASE WHEN a.town = 'north' THEN 'north' ELSE 'elsewhere' END AS g, COUNT(*) "
        f"{JOIN} GROUP BY 1",
    ),
    "bands": (
        f"SELECT BANDS(b.age, 40, 60) AS band, COUNT(*), SUM(a.bmi) {JOIN} "
        "WHERE b.age IS NOT NULL GROUP BY band",
        f"SELECT {BANDS} AS band, COUNT(*), SUM(a.bmi) {JOIN} WHERE b.age IS NOT NULL GROUP BY 1",
    ),
    "bands of equal width": (
        f"SELECT COUNT(*) {JOIN} WHERE b.age IS NOT NULL GROUP BY WIDTH_BUCKET(b.age, 40, 60, 1)",
        f"SELECT {BANDS} AS band, COUNT(*) {JOIN} WHERE b.age IS NOT NULL GROUP BY 1",
    ),
    "bands of an expression": (
        f"SELECT BANDS(a.age - 20, 20, 40) AS band, COUNT(*) {JOIN} WHERE a.age > 0 GROUP BY band",
        "SELECT CASE WHEN a.age < 40 THEN '< 20' WHEN a.age < 60 THEN '20 to < 40' "
        f"ELSE '>= 40' END, COUNT(*) {JOIN} WHERE a.age > 0 GROUP BY 1",
    ),
    "having": (
        f"SELECT a.sex, COUNT(*) AS n {JOIN} WHERE a.sex IS NOT NULL GROUP BY a.sex "
        "HAVING n > 3 AND AVG(b.bmi) BETWEEN 1 AND 99",
    ),
    "having that holds of nobody": (
        f"SELECT a.sex, COUNT(*) AS n {JOIN} WHERE a.sex IS NOT NULL GROUP BY a.sex HAVING n < 0",
    ),
    "a left join": (
        "SELECT COUNT(*), COUNT(b.person), SUM(a.age), AVG(b.bmi), CORR(a.bmi, b.bmi), "
        "COUNT(DISTINCT a.person) FROM a LEFT JOIN b ON a.person = b.person WHERE a.bmi > 20",
    ),
    "a left join with a condition on the right": (
        "SELECT a.sex, COUNT(*), COUNT(b.person), SUM(b.age) FROM a LEFT JOIN b "
        "ON a.person = b.person AND b.age > 40 AND b.town <> 'north' "
        "WHERE a.sex IS NOT NULL GROUP BY a.sex",
    ),
    "a join by USING, the tables the other way round": (
        "SELECT y.sex, COUNT(*), SUM(x.bmi) FROM b AS x JOIN a AS y USING (person) "
        "WHERE y.sex IS NOT NULL GROUP BY y.sex",
    ),
    "rows of two holders side by side": (
        "SELECT sex, COUNT(*), SUM(x), AVG(x), VAR_SAMP(x) FROM ("
        "SELECT sex, bmi * 2 AS x, age AS years FROM a WHERE age > 30 UNION ALL "
        "SELECT sex, bmi * 2, age FROM b) AS u WHERE sex IS NOT NULL AND years < 70 GROUP BY sex",
    ),
    "all columns side by side": (
        "SELECT CASE WHEN age < 40 THEN 'young' ELSE 'other' END AS g, CORR(age, bmi) "
        "FROM (SELECT * FROM a UNION ALL SELECT * FROM b) u GROUP BY 1",
    ),
    "one holder's rows": (
        "SELECT sex, COUNT(*), AVG(bmi), REGR_SLOPE(bmi, age) FROM a "
        "WHERE sex IS NOT NULL AND age > 20 GROUP BY sex",
    ),
}


# These calculate inside an aggregate, or sum a column for different people: only noise covers that.
NOISY = {
    "a missing value is in no average",
    "the spread of a product across",
    "how two columns of two holders go together",
    "rows of two holders side by side",
    "expressions of a row",
    "a case",
    "a case of one side over the other",
    "filters of aggregates",
}


@pytest.mark.parametrize("what", SAME)
def test_the_answer_is_that_of_the_pooled_rows(pool: Pool, what: str) -> None:
    ours, *theirs = SAME[what]
    expected = pool.expected(theirs[0] if theirs else ours)
    if what in NOISY:
        _require_refused_without_noise(ours, BOTH)
        answer = pool.answer(ours, epsilon=Fraction(1, 2))
    else:
        answer = pool.answer(ours)
    _require_same(answer, expected)


def _require_refused_without_noise(sql: str, judged: Sequence[Ground]) -> None:
    """By the compiler, or by the rules."""
    try:
        plan = compiled(sql, judged)
    except QuestionRefused as error:
        assert "ask with noise" in str(error)
        return
    found = violations(plan, grounds_of(plan, footings(*judged)))
    assert found and all("ask with noise" in str(one) for one in found)


def _require_same(
    answer: Answer, expected: dict[tuple[str, ...], tuple[float | None, ...]]
) -> None:
    found = {}
    for row in answer.rows:
        assert not row.suppressed
        numbers = [figure.value for figure in row.figures]
        found[row.groups] = tuple(None if n is None else float(n) for n in numbers)
    assert found.keys() == expected.keys()
    for groups, shown in found.items():
        # Squares and roots are exact here and floating point there.
        assert shown == pytest.approx(expected[groups], rel=1e-9, abs=1e-9)


ALL = "FROM a JOIN b USING (person) JOIN c USING (person)"
OF_THREE = {
    "a count of everybody in all three": f"SELECT COUNT(*), COUNT(DISTINCT c.person) {ALL}",
    "sums of each": f"SELECT SUM(a.bmi), AVG(b.bmi), AVG(c.age), COUNT(c.bmi), SUM(c.bmi) {ALL}",
    "products of two and of three": (
        "SELECT SUM(a.age * b.age * c.age), AVG(b.age * c.bmi), SUM(a.bmi * c.bmi), "
        f"COUNT(a.bmi * b.age * c.age) {ALL}"
    ),
    "columns of any two": (
        "SELECT CORR(b.bmi, c.bmi), CORR(a.bmi, c.age), COVAR_SAMP(a.age, b.bmi), "
        f"COVAR_POP(c.age, c.bmi), REGR_SLOPE(b.bmi, c.age), REGR_COUNT(b.bmi, c.age) {ALL}"
    ),
    "spread": f"SELECT VAR_SAMP(c.bmi), STDDEV(b.age), VAR_POP(a.age) {ALL}",
    "groups of all three": (
        "SELECT a.sex, b.sex AS other, CASE WHEN c.age < 40 THEN 'young' ELSE 'old' END AS third, "
        f"COUNT(*), SUM(c.age), SUM(a.age * c.age), SUM(b.age * c.age) {ALL} "
        "WHERE a.sex IS NOT NULL AND b.sex IS NOT NULL GROUP BY a.sex, b.sex, third"
    ),
    "a filter in each": (
        f"SELECT COUNT(*), AVG(c.bmi) {ALL} WHERE a.age > 30 AND b.town <> 'north' AND c.age < 70"
    ),
    "ON, each key with another one": (
        "SELECT c.sex, COUNT(*) FROM a JOIN b ON a.person = b.person AND b.age > 20 "
        "JOIN c ON c.person = b.person AND a.person = c.person AND c.bmi > 18 "
        "WHERE c.sex IS NOT NULL GROUP BY c.sex"
    ),
    "the first compared with both others": (
        f"SELECT COUNT(*), SUM(b.bmi * c.bmi) {ALL} WHERE a.age < c.age AND NOT b.bmi - 2 >= a.bmi"
    ),
    "the least and the largest": (
        f"SELECT c.sex, MIN(c.age), MAX(b.bmi), MIN(a.bmi) {ALL} "
        "WHERE c.sex IS NOT NULL GROUP BY c.sex"
    ),
    "another order of tables": (
        "SELECT a.sex, SUM(a.bmi), AVG(b.bmi * c.age) FROM c JOIN a USING (person) "
        "JOIN b USING (person) WHERE a.sex IS NOT NULL GROUP BY a.sex"
    ),
}


@pytest.mark.parametrize("what", OF_THREE)
def test_the_answer_over_three_holders_is_that_of_the_pooled_rows(
    pool_of_three: Pool, what: str
) -> None:
    expected = pool_of_three.expected(OF_THREE[what])
    # With noise, which alone covers products of three; a least value is one person's and has none.
    options = {} if "MIN(" in OF_THREE[what] else {"epsilon": Fraction(1, 2)}
    plan = compiled(OF_THREE[what], THREE, **options)
    assert violations(plan, grounds_of(plan, footings(*THREE))) == ()
    _require_same(pool_of_three.answer(OF_THREE[what], **options), expected)


def test_what_chooses_rows_of_three_holders_is_split_into_one_factor_of_each(
    pool_of_three: Pool,
) -> None:
    sql = (
        "SELECT SUM(CASE WHEN a.sex = 'f' AND b.age > 40 AND c.town = 'north' THEN c.bmi END), "
        f"VAR_SAMP(a.age * b.age * c.age) {ALL}"
    )
    with pytest.raises(QuestionRefused, match="ask with noise"):
        compiled(sql, THREE)
    answer = pool_of_three.answer(sql, epsilon=Fraction(1, 2))
    _require_same(answer, pool_of_three.expected(sql))
    median = f"SELECT MEDIAN(c.age, 60) AS q {ALL}"
    ((expected,),) = pool_of_three.database.execute(median.replace(", 60)", ")")).fetchall()
    shown = pool_of_three.answer(median, epsilon=Fraction(1, 2))
    assert abs(float(shown.rows[0].figures[0].value or 0) - expected) <= 2


def test_a_regression_on_columns_of_both_is_that_of_least_squares(pool: Pool) -> None:
    sql = f"SELECT LINEAR_REGRESSION(b.bmi, a.age, b.age, a.bmi) AS m {JOIN}"
    answer = pool.answer(sql, epsilon=Fraction(1, 2))
    assert answer.outputs == ("m_intercept", "m_age", "m_x2", "m_bmi", "m_r2", "m_count")
    rows = pool.database.execute(
        f"SELECT b.bmi, a.age, b.age, a.bmi {JOIN} "
        "WHERE a.age IS NOT NULL AND b.age IS NOT NULL AND a.bmi IS NOT NULL AND b.bmi IS NOT NULL"
    ).fetchall()
    table = np.array(rows, dtype=np.float64)
    design = np.column_stack([np.ones(len(table)), table[:, 1:]])
    weights, residual, *_ = np.linalg.lstsq(design, table[:, 0], rcond=None)
    fit = 1 - residual[0] / ((table[:, 0] - table[:, 0].mean()) ** 2).sum()
    numbers = [float(figure.value or 0) for figure in answer.rows[0].figures]
    assert numbers == pytest.approx([*weights, fit, len(table)], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    "sql", ["MEDIAN(a.age, 60)", "PERCENTILE_CONT(0.9) WITHIN GROUP (ORDER BY a.age)"]
)
def test_a_quantile_is_right_to_a_step_of_its_histogram(pool: Pool, sql: str) -> None:
    answer = pool.answer(f"SELECT {sql} AS q {JOIN}", epsilon=Fraction(1, 2))
    theirs = sql.replace(", 60)", ")")
    ((expected,),) = pool.database.execute(f"SELECT {theirs} {JOIN}").fetchall()
    step = 120 / (60 if "60" in sql else 16)
    assert abs(float(answer.rows[0].figures[0].value or 0) - expected) <= step
