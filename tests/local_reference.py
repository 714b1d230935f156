"""What a local query means, in plain Python over fractions: what the engine's answers are held to.

Also rows, expressions and conditions to draw, over one product with a column of every kind. Rows
are drawn as a file spells them together with what each spelling counts as.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from hypothesis import strategies as st

from registry.errors import DocumentRefused
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
    require_condition,
    typed,
)
from registry.product import DataProduct
from tests.source_rows import a_product, number, text

Value = Fraction | str | None
Cell = tuple[str, int | str | None]  # as spelled, and what it counts as
Row = dict[str, Cell]
Held = Mapping[str, int | str | None]

PRODUCT = a_product(
    number("age", low=0, high=120),
    number("bmi", decimals=1, low=-600, high=600),
    number("s5", decimals=3, low=0, high=9_999),
    number("visits"),
    text("sex", ("f", "m")),
    text("town"),
)
REPEATED = replace(PRODUCT, rows_per_person=3)


def value(root: Expression, row: Held, product: DataProduct) -> Value:
    if isinstance(root, Number):
        return Fraction(root.value, 10**root.decimals)
    if isinstance(root, Text):
        return unicodedata.normalize("NFC", root.text)
    if isinstance(root, ColumnValue):
        held = row[root.column]
        if isinstance(held, int):
            return Fraction(held, 10 ** product.column(root.column).decimals)
        return held
    if isinstance(root, Case):
        for when in root.whens:
            if holds(when.condition, row, product):
                return value(when.value, row, product)
        return None if root.otherwise is None else value(root.otherwise, row, product)
    left, right = value(root.left, row, product), value(root.right, row, product)
    if left is None or right is None:
        return None
    assert isinstance(left, Fraction)
    assert isinstance(right, Fraction)
    if root.operation is Operation.ADD:
        return left + right
    if root.operation is Operation.SUBTRACT:
        return left - right
    if root.operation is Operation.MULTIPLY:
        return left * right
    return min(left, right) if root.operation is Operation.LEAST else max(left, right)


def holds(root: Condition, row: Held, product: DataProduct) -> bool | None:
    """None: unknown."""
    if isinstance(root, Present):
        return value(root.value, row, product) is not None
    if isinstance(root, Not):
        found = holds(root.condition, row, product)
        return None if found is None else not found
    if isinstance(root, Both | Either):
        sides = [holds(root.left, row, product), holds(root.right, row, product)]
        decided = isinstance(root, Either)
        if decided in sides:
            return decided
        return None if None in sides else not decided
    if isinstance(root, OneOf):
        wanted = value(root.value, row, product)
        options = [value(option, row, product) for option in root.options]
        if wanted is None:
            return None
        if wanted in options:
            return True
        return None if None in options else False
    left, right = value(root.left, row, product), value(root.right, row, product)
    if left is None or right is None:
        return None
    a, b = _ordered(left), _ordered(right)
    return {
        Comparator.EQUAL: a == b,
        Comparator.UNEQUAL: a != b,
        Comparator.LESS: a < b,
        Comparator.AT_MOST: a <= b,
        Comparator.GREATER: a > b,
        Comparator.AT_LEAST: a >= b,
    }[root.comparator]


def _ordered(held: Fraction | str) -> Fraction:
    """Texts by their UTF-8 bytes, as numbers: 33 bytes are more than any text drawn here has."""
    if isinstance(held, Fraction):
        return held
    return Fraction(int.from_bytes(held.encode().ljust(33, b"\x00"), "big"))


def people(product: DataProduct, rows: Sequence[Row]) -> dict[str, list[Held]]:
    """The rows that take part, by key, in order of key."""
    found: dict[str, list[Held]] = {}
    for row in rows:
        key = row[product.key][1]
        if isinstance(key, str):
            found.setdefault(key, []).append({name: cell[1] for name, cell in row.items()})
    names = [column.name for column in product.columns]
    for own in found.values():
        own.sort(key=lambda row: [_place(row[name]) for name in names])
        del own[product.contribution :]
    return {key: found[key] for key in sorted(found, key=str.encode)}


def _place(held: int | str | None) -> tuple[bool, int, bytes]:
    return (
        held is None,
        held if isinstance(held, int) else 0,
        held.encode() if isinstance(held, str) else b"",
    )


def computed(
    product: DataProduct, query: LocalQuery, rows: Sequence[Row]
) -> dict[str, tuple[int, list[int]]]:
    """Per selected key its group and factors."""
    found = {}
    for key, own in people(product, rows).items():
        taken = [
            row for row in own if query.where is None or holds(query.where, row, product) is True
        ]
        if taken:
            factors = [_factor(factor, taken, product) for factor in query.factors]
            found[key] = (_group(query, taken[0], product), factors)
    return found


def memberships(product: DataProduct, query: LocalQuery, rows: Sequence[Row]) -> list[int]:
    counted = computed(product, query, rows)
    return [counted[key][0] if key in counted else -2 for key in people(product, rows)]


def _factor(factor: LocalFactor, rows: Sequence[Held], product: DataProduct) -> int:
    unit = 10 ** typed(factor.expression, product).decimals
    values = [value(factor.expression, row, product) or Fraction(0) for row in rows]
    if factor.indicator:
        return int(any(values))
    total = sum((v * unit for v in values if isinstance(v, Fraction)), Fraction(0))
    assert total.denominator == 1, "a unit holds every value exactly"
    return int(total)


def _group(query: LocalQuery, row: Held, product: DataProduct) -> int:
    if query.group is None:
        return 0
    found = value(query.group, row, product)
    assert not isinstance(found, str)
    return -1 if found is None else int(found)


def csv_of(product: DataProduct, rows: Sequence[Row]) -> str:
    lines = [",".join(column.name for column in product.columns)]
    for row in rows:
        cells = (row[column.name][0].replace('"', '""') for column in product.columns)
        lines.append(",".join(f'"{cell}"' for cell in cells))
    return "\n".join(lines) + "\n"


# What files hold. Odd spellings are drawn as often as plain ones.

_ODD = st.sampled_from(["", "x", "1,5", "NaN", " 1", "0x1", "--", "1e"]).map(lambda s: (s, None))
_MISSING: st.SearchStrategy[Cell] = st.just(("", None))
WORDS = ("a", "B", "z", "Za", "é", "汉", "\U0001f600", "'; DROP TABLE raw; --", "a b", "1")
KEYS: st.SearchStrategy[Cell] = st.one_of(
    st.sampled_from("abcdef").map(lambda s: (s, s)),
    st.just(("e\u0301", "é")),
    st.sampled_from(["", " a", "a ", "a\tb", "\u200ba", "x" * 1025]).map(lambda s: (s, None)),
)


def _decimal(units: int, decimals: int) -> str:
    sign, digits = "-" if units < 0 else "", f"{abs(units):0{decimals + 1}d}"
    return f"{sign}{digits[: len(digits) - decimals]}.{digits[len(digits) - decimals :]}"


def _within(low: int, high: int, decimals: int) -> st.SearchStrategy[Cell]:
    return st.one_of(
        st.integers(low, high).map(lambda n: (_decimal(n, decimals), n)),
        st.just(("9e30", high)),
        st.just(("-1" + "0" * 40, low)),
        _ODD,
    )


CELLS: dict[str, st.SearchStrategy[Cell]] = {
    "age": st.one_of(
        st.integers(0, 120).map(lambda n: (str(n), n)),
        st.sampled_from([("007", 7), ("+5.0", 5), ("130", 120), ("-1", 0), ("1.5", None)]),
        _ODD,
    ),
    "bmi": _within(-600, 600, 1),
    "s5": _within(0, 9_999, 3),
    "visits": st.one_of(
        st.integers(-5, 5).map(lambda n: (str(n), n)),
        st.sampled_from([("9" * 18, 10**18 - 1), ("-" + "9" * 18, 1 - 10**18), ("1e18", None)]),
        _ODD,
    ),
    "sex": st.sampled_from([("f", "f"), ("m", "m"), ("F", None), ("x", None), ("", None)]),
    "town": st.one_of(
        st.sampled_from(WORDS).map(lambda s: (s, s)), st.just(("e\u0301", "é")), _MISSING
    ),
}
ROWS: st.SearchStrategy[Row] = st.fixed_dictionaries({"id": KEYS, **CELLS})


# What plans ask. Drawn depth by depth; a query that the product does not admit is drawn again.

DEPTH = 3
_BARE: st.SearchStrategy[Expression] = st.one_of(
    st.sampled_from(["age", "bmi", "s5"]).map(ColumnValue),
    st.builds(Number, st.integers(-30, 130), st.integers(0, 2)),
    st.sampled_from([Number(0, 0), Number(1, 0), Number(2**40, 0)]),
)
_BARE_TEXTS: st.SearchStrategy[Expression] = st.one_of(
    st.sampled_from(["sex", "town"]).map(ColumnValue),
    st.sampled_from([*WORDS, "e\u0301", "", "f", "m"]).map(Text),
)
# A column without a public range may be compared, and nothing more.
_UNBOUNDED = ColumnValue("visits")
_OPERATIONS = st.sampled_from(Operation)
_COMPARATORS = st.sampled_from(Comparator)
_FORMS = st.sampled_from(["compare", "texts", "one of", "present", "and", "or", "not"])


@st.composite
def _expressions(draw: st.DrawFn, depth: int, *, is_text: bool = False) -> Expression:
    form = draw(st.integers(0, 2)) if depth else 0
    if form == 0:
        return draw(_BARE_TEXTS if is_text else _BARE)
    inner = _expressions(depth - 1, is_text=is_text)
    if form == 1 and not is_text:
        return Arithmetic(draw(_OPERATIONS), draw(inner), draw(inner))
    whens = st.lists(st.builds(When, _conditions(depth - 1), inner), min_size=1, max_size=2)
    return Case(tuple(draw(whens)), draw(st.none() | inner))


@st.composite
def _conditions(draw: st.DrawFn, depth: int) -> Condition:
    form = draw(_FORMS)
    if depth and form in ("and", "or", "not"):
        inner = _conditions(depth - 1)
        if form == "not":
            return Not(draw(inner))
        return (Both if form == "and" else Either)(draw(inner), draw(inner))
    is_text = form in ("texts", "or", "present")
    values = _expressions(max(0, depth - 1), is_text=is_text)
    if not is_text:
        values |= st.just(_UNBOUNDED)
    if form == "present":
        return Present(draw(values))
    if form in ("one of", "or"):
        return OneOf(draw(values), tuple(draw(st.lists(values, min_size=1, max_size=3))))
    return Compare(draw(_COMPARATORS), draw(values), draw(values))


def _expression_fits(root: Expression) -> bool:
    try:
        typed(root, PRODUCT)
    except DocumentRefused:
        return False
    return True


def _condition_fits(root: Condition) -> bool:
    try:
        require_condition(root, PRODUCT)
    except DocumentRefused:
        return False
    return True


EXPRESSIONS = _expressions(DEPTH).filter(_expression_fits)
CONDITIONS = _conditions(DEPTH).filter(_condition_fits)
_GROUPS: st.SearchStrategy[Expression] = st.builds(
    lambda found, rest: Case(tuple(When(c, Number(i, 0)) for i, c in enumerate(found)), rest),
    st.lists(CONDITIONS, min_size=1, max_size=2),
    st.none() | st.just(Number(2, 0)),
)
QUERIES = st.builds(
    LocalQuery,
    st.none() | CONDITIONS,
    st.none() | _GROUPS,
    st.lists(st.builds(LocalFactor, EXPRESSIONS, st.booleans()), max_size=3).map(tuple),
)


def fitting(product: DataProduct, query: LocalQuery) -> LocalQuery:
    """A person with several rows is in no single group."""
    return query if product.contribution == 1 else replace(query, group=None)
