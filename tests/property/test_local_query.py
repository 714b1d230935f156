"""Laws of local queries: the engine's answer is that of plain fractions, and nobody's rows decide
about another person's."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import product as product_of
from pathlib import Path

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from registry.adapters.duckdb_source import DuckDBFileSource
from registry.expression import (
    Arithmetic,
    Both,
    Case,
    ColumnValue,
    Comparator,
    Compare,
    Condition,
    Either,
    Expression,
    LocalFactor,
    LocalQuery,
    Not,
    Number,
    OneOf,
    Operation,
    Present,
    Text,
    When,
)
from registry.ports import LocalRows
from registry.product import DataProduct
from registry.source import FileFormat, FileSource
from tests.local_reference import (
    KEYS,
    PRODUCT,
    QUERIES,
    REPEATED,
    ROWS,
    Row,
    computed,
    csv_of,
    fitting,
    memberships,
)

PRODUCTS = st.sampled_from([PRODUCT, REPEATED])
COLUMNS = [column.name for column in PRODUCT.columns[1:]]


class Saved:
    """Rows in a file, while the block lasts."""

    def __init__(self, product: DataProduct, rows: Sequence[Row]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "rows.csv"
        path.write_text(csv_of(product, rows), encoding="utf-8", newline="")
        self._source = DuckDBFileSource(FileSource(str(path), FileFormat.CSV))

    def __enter__(self) -> DuckDBFileSource:
        return self._source

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def by_person(found: LocalRows) -> dict[str, tuple[int, list[int]]]:
    both = zip(found.group.tolist(), found.factors.tolist(), strict=True)
    return dict(zip(found.keys, both, strict=True))


NUMBERS: list[Expression] = [
    *map(ColumnValue, ("age", "bmi", "s5")),
    Number(15, 1),
    Arithmetic(Operation.MULTIPLY, ColumnValue("bmi"), ColumnValue("s5")),
    Case((When(Present(ColumnValue("sex")), ColumnValue("s5")),), ColumnValue("age")),
]
TEXTS: list[Expression] = [
    *map(ColumnValue, ("sex", "town")),
    *map(Text, ("f", "e\u0301", "")),
    Case((When(Present(ColumnValue("age")), ColumnValue("town")),), None),
]
UNKNOWN = Compare(Comparator.EQUAL, ColumnValue("sex"), Text("f"))


def every_form() -> list[Expression]:
    """Each operation on each pair of numbers; each condition, its negation, and both beside one
    that is unknown in some rows."""
    sums: list[Expression] = [
        Arithmetic(operation, left, right)
        for operation in Operation
        for left, right in product_of(NUMBERS, NUMBERS)
        if (left, right) != (NUMBERS[4], NUMBERS[4])
    ]
    conditions: list[Condition] = []
    for kind in ([*NUMBERS, ColumnValue("visits")], TEXTS):
        for one, other in product_of(kind, kind):
            conditions += [Compare(comparator, one, other) for comparator in Comparator]
            conditions += [OneOf(one, (other, kind[1], kind[2]))]
        conditions += [Present(one) for one in kind]
    forms: list[Condition] = []
    for index, condition in enumerate(conditions):
        forms.append((condition, Not(condition))[index % 2])
        forms.append((Both(condition, UNKNOWN), Either(UNKNOWN, condition))[index % 2])
    return sums + [Case((When(form, Number(1, 0)),), None) for form in forms]


def rows_of_every_kind(count: int) -> list[Row]:
    """Periods without a common divisor, so that odd and plain values meet in every combination."""
    spelled: dict[str, list[tuple[str, int | str | None]]] = {
        "age": [("", None), ("40", 40), ("2", 2), ("x", None), ("0", 0)],
        "bmi": [("4", 40), ("-1.5", -15), ("NaN", None), ("1.50", 15), ("0.2", 2), ("-99", -600),
                ("2.25", 22)],
        "s5": [("1.5", 1500), ("", None), ("0.04", 40)],
        "visits": [("4", 4), ("999999999999999999", 10**18 - 1), ("", None), ("-3", -3)],
        "sex": [("f", "f"), ("F", None), ("m", "m")],
        "town": [("é", "é"), ("e\u0301", "é"), ("", None), ("f", "f"), ("z", "z"), ("汉", "汉"),
                 ("m", "m"), ("\U0001f600", "\U0001f600"), ("M", "M"), ("fa", "fa"), ("'", "'")],
    }  # fmt: skip
    keys = [f"k{index}" for index in range(count // 4)]
    return [
        {"id": (keys[i % len(keys)],) * 2}
        | {name: cells[i % len(cells)] for name, cells in spelled.items()}
        for i in range(count)
    ]


def test_every_form_of_expression_means_the_same_in_the_engine() -> None:
    product, rows = REPEATED, rows_of_every_kind(160)
    forms = every_form()
    factors = tuple(LocalFactor(form, indicator=i % 3 == 0) for i, form in enumerate(forms))
    with Saved(product, rows) as source:
        found = by_person(source.compute(product, LocalQuery(None, None, factors)))
    expected = computed(product, LocalQuery(None, None, factors), rows)
    for index, factor in enumerate(factors):
        assert {key: values[index] for key, (_, values) in found.items()} == {
            key: values[index] for key, (_, values) in expected.items()
        }, factor


@settings(max_examples=35, deadline=None)
@given(PRODUCTS, st.lists(ROWS, min_size=1, max_size=30), QUERIES)
def test_the_engine_computes_what_the_expressions_mean(
    product: DataProduct, rows: list[Row], query: LocalQuery
) -> None:
    query = fitting(product, query)
    with Saved(product, rows) as source:
        found = source.compute(product, query)
    assert by_person(found) == computed(product, query, rows)
    assert list(found.keys) == sorted(found.keys, key=str.encode)


@settings(max_examples=15, deadline=None)
@given(PRODUCTS, st.lists(ROWS, min_size=1, max_size=20), st.lists(QUERIES, min_size=1, max_size=4))
def test_memberships_say_where_each_query_counts_each_person(
    product: DataProduct, rows: list[Row], queries: list[LocalQuery]
) -> None:
    queries = [fitting(product, query) for query in queries]
    with Saved(product, rows) as source:
        found = source.memberships(product, queries)
    assert found.tolist() == [memberships(product, query, rows) for query in queries]


@settings(max_examples=12, deadline=None)
@given(
    PRODUCTS,
    st.lists(ROWS, min_size=1, max_size=20),
    st.lists(ROWS, min_size=1, max_size=5),
    KEYS,
    QUERIES,
    st.randoms(use_true_random=False),
)
def test_one_persons_rows_decide_nothing_about_another_persons(
    product: DataProduct,
    rows: list[Row],
    added: list[Row],
    person: tuple[str, str | None],
    query: LocalQuery,
    order: object,
) -> None:
    """Whatever one person's rows hold, everybody else's output rows are the same."""
    query = fitting(product, query)
    others = [row for row in rows if row["id"][1] != person[1]]
    assume(others)
    together = [*others, *({**row, "id": person} for row in added)]
    order.shuffle(together)  # type: ignore[attr-defined]
    with Saved(product, others) as source:
        without = by_person(source.compute(product, query))
        records = source.records(PRODUCT, COLUMNS)
    with Saved(product, together) as source:
        found = by_person(source.compute(product, query))
        all_records = source.records(PRODUCT, COLUMNS)
    assert {key: rest for key, rest in found.items() if key != person[1]} == without
    kept = dict(zip(all_records.keys, all_records.records, strict=True))
    kept.pop(person[1] or "", None)
    assert kept == dict(zip(records.keys, records.records, strict=True))


@settings(max_examples=8, deadline=None)
@given(
    PRODUCTS,
    st.lists(ROWS, min_size=2, max_size=20),
    QUERIES,
    st.randoms(use_true_random=False),
)
def test_the_order_of_the_rows_decides_nothing(
    product: DataProduct, rows: list[Row], query: LocalQuery, order: object
) -> None:
    query = fitting(product, query)
    with Saved(product, rows) as source:
        found = source.compute(product, query).snapshot
    order.shuffle(rows)  # type: ignore[attr-defined]
    with Saved(product, rows) as source:
        assert source.compute(product, query).snapshot == found
