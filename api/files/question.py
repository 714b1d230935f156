"""Questions as a consumer writes them: SQL with what goes beside it, in a TOML file or as options.

purpose = "research"
epsilon = "2"
sql = '''
SELECT c.sex, CORR(c.bmi, l.s5) AS correlation
FROM clinic AS c JOIN laboratory AS l ON c.person = l.person
GROUP BY c.sex
'''

[tables]
clinic = "prd_…"
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import Field

from api.files.reading import FileRefused, Plain, Written, fraction, member, naming, read_toml
from crypto.identifiers import ProductId
from crypto.joins.intersection import Intersection
from crypto.noise import Distribution
from exchange.query.plan import Padding
from exchange.query.question import DELTA, PADDING, RUN_SECONDS, Question
from registry.rule import Join

AUTO: Final = "auto"


class WrittenQuestion(Written):
    """See `exchange.query.question.Question`. join: `auto` picks the one that discloses least.
    intersection: of a revealed join; `auto` picks by the sizes of the products.
    helped: of a revealed join: whether the agreed helper computes as well; absent: if much quicker

    padding_epsilon, padding_delta: of the hidden join; noise: laplace or gaussian, with epsilon
    """

    sql: str
    purpose: str
    tables: dict[str, str] = Field(default_factory=dict)
    join: str = AUTO
    intersection: str = AUTO
    helped: bool | None = None
    hide_size: bool = False
    min_group: int | None = None
    epsilon: Plain | None = None
    delta: Plain | None = None
    noise: str = Distribution.LAPLACE.value
    padding_epsilon: Plain | None = None
    padding_delta: Plain | None = None
    run_seconds: int = RUN_SECONDS


def read_question(path: Path) -> Question:
    """Raises FileRefused, naming the field."""
    written = read_toml(WrittenQuestion, path)
    with naming(path):
        return _question(written)


def question_of(
    path: Path | None,
    *,
    sql: str | None,
    tables: Sequence[str] | None,
    purpose: str | None,
    join: str | None,
    min_group: int | None,
    epsilon: str | None,
    delta: str | None,
    noise: str | None,
    hide_size: bool,
) -> Question:
    """The question of a file, or else of options. tables: each `NAME=PRODUCT`.

    Raises FileRefused, naming the field or option.
    """
    options = (sql, tables or None, purpose, join, min_group, epsilon, delta, noise)
    if path is not None:
        if hide_size or any(option is not None for option in options):
            raise FileRefused(path, "", "says all there is to ask; leave the options out")
        return read_question(path)
    if sql is None:
        raise FileRefused(None, "--sql", "is missing; name a question's file or give --sql")
    if purpose is None:
        raise FileRefused(None, "--purpose", "is missing")
    named: dict[str, str] = {}
    for text in tables or ():
        name, equals, product = text.partition("=")
        if not equals or not name or name in named:
            raise FileRefused(None, "--table", f"{text[:60]!r} is not a new NAME=PRODUCT")
        named[name] = product
    written = WrittenQuestion(
        sql=sql,
        purpose=purpose,
        tables=named,
        join=join or AUTO,
        min_group=min_group,
        epsilon=epsilon,
        delta=delta,
        noise=noise or Distribution.LAPLACE.value,
        hide_size=hide_size,
    )
    with naming(None):
        return _question(written)


def _question(written: WrittenQuestion) -> Question:
    return Question(
        sql=written.sql,
        tables={
            name: ProductId.parse(text, where=f"tables.{name}")
            for name, text in written.tables.items()
        },
        purpose=written.purpose,
        join=None if written.join == AUTO else member(Join, written.join, "join"),
        intersection=None
        if written.intersection == AUTO
        else member(Intersection, written.intersection, "intersection"),
        helped=written.helped,
        hide_size=written.hide_size,
        min_group=written.min_group,
        epsilon=None if written.epsilon is None else fraction(written.epsilon, "epsilon"),
        delta=DELTA if written.delta is None else fraction(written.delta, "delta"),
        distribution=member(Distribution, written.noise, "noise"),
        padding=Padding(
            PADDING.epsilon
            if written.padding_epsilon is None
            else fraction(written.padding_epsilon, "padding_epsilon"),
            PADDING.delta
            if written.padding_delta is None
            else fraction(written.padding_delta, "padding_delta"),
        ),
        run_seconds=written.run_seconds,
    )
