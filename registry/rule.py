"""The type of an analysis rule: what may happen to each column of a data product.

A column's rule is a set of permitted uses, not a level: a column can be a join key and nothing
else, or a group key and an aggregate. A column that the rule does not name is forbidden.
Who checks a plan against rules: `exchange.query.rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from crypto.identifiers import PartyId
from registry.errors import DocumentRefused


class Use(StrEnum):
    """What a plan may do with a column."""

    JOIN_KEY = "join_key"
    GROUP_KEY = "group_key"
    AGGREGATE = "aggregate"
    FILTER = "filter"
    COMPARE = "compare"  # with another holder's column, row by row, under sharing
    LOOKUP = "lookup"  # released for a key that the consumer names, by private lookup
    FEATURE = "feature"  # of a model: an input that the consumer brings, encrypted


class Join(StrEnum):
    """How the parties' rows meet. Protocols are named after their leakage: see docs/trust.md."""

    HIDDEN = "hidden"
    REVEALED = "revealed"
    SUM = "sum"
    UNION = "union"  # rows of several holders side by side, matched with nobody's
    ALONE = "alone"  # one holder's rows
    SCORE = "score"
    LOOKUP = "lookup"


class Function(StrEnum):
    COUNT = "count"
    SUM = "sum"
    MEAN = "mean"
    VARIANCE = "variance"
    STDDEV = "stddev"
    MIN = "min"
    MAX = "max"
    QUANTILE = "quantile"
    COVARIANCE = "covariance"
    CORRELATION = "correlation"
    REGRESSION = "regression"


@dataclass(frozen=True)
class ColumnLimit:
    """What narrows the rule for one column. None: as the rule says for all columns."""

    functions: tuple[Function, ...] | None = None
    purposes: tuple[str, ...] | None = None
    consumers: tuple[PartyId, ...] | None = None


@dataclass(frozen=True)
class PrivacyRule:
    """The privacy account of a product, shared by all consumers, who may pool what they learn.

    epsilon_per_job: most that one job may cost
    epsilon_total, delta_total: for as long as the rows of this version stay the same
    noise:  whether every released number must carry noise. Without it, released numbers are exact
            and only the padding of a hidden join is charged.
    """

    epsilon_per_job: Fraction
    epsilon_total: Fraction
    delta_total: Fraction
    noise: bool

    def __post_init__(self) -> None:
        if not 0 < self.epsilon_per_job <= self.epsilon_total:
            raise DocumentRefused(
                "privacy.epsilon_per_job", "must be above 0 and at most epsilon_total"
            )
        if not 0 <= self.delta_total < 1:
            raise DocumentRefused("privacy.delta_total", "must be at least 0 and below 1")


@dataclass(frozen=True)
class AnalysisRule:
    """uses: per column. functions: which aggregates may be released. limits: per column, narrower.

    min_group: the fewest people a released group may hold.
    dominance: a sum is released only if no single person has more than this share of it.
    round_counts: released counts are rounded to multiples of this; 1 for none.
    purposes:  terms of the purpose list; a plan's purpose must be among them.
    consumers: who may ask; None: whoever the holder makes an agreement with.
    evaluations_per_day: the most keys that one consumer may look up, or rows that it may have
               scored, in 24 hours, as many as are sent, fillers included. Its agreement's number of
               jobs times this is the most it ever gets. Needed for lookups and scores.
    privacy:   None: no epsilon can be spent, so neither noise nor the hidden join is possible.
    """

    uses: Mapping[str, tuple[Use, ...]]
    functions: tuple[Function, ...]
    joins: tuple[Join, ...]
    min_group: int
    purposes: tuple[str, ...]
    limits: Mapping[str, ColumnLimit] | None = None
    dominance: Fraction | None = None
    round_counts: int | None = None
    consumers: tuple[PartyId, ...] | None = None
    privacy: PrivacyRule | None = None
    evaluations_per_day: int | None = None

    def __post_init__(self) -> None:
        if self.min_group < 2:
            raise DocumentRefused("min_group", "must be 2 or more")
        if not self.purposes:
            raise DocumentRefused("purposes", "must name at least one purpose")
        if not self.joins:
            raise DocumentRefused("joins", "must allow at least one join")
        for column, uses in self.uses.items():
            if not uses or len(set(uses)) != len(uses):
                raise DocumentRefused(f"uses.{column}", "must list each use once")
        for column in self.limits or {}:
            if column not in self.uses:
                raise DocumentRefused(f"limits.{column}", "limits a column that has no use")
        if self.dominance is not None and not 0 < self.dominance <= 1:
            raise DocumentRefused("dominance", "must be above 0 and at most 1")
        if self.round_counts is not None and self.round_counts < 2:
            raise DocumentRefused("round_counts", "must be 2 or more, or absent")
        if self.evaluations_per_day is not None and self.evaluations_per_day < 1:
            raise DocumentRefused("evaluations_per_day", "must be 1 or more")
        if {Join.SCORE, Join.LOOKUP} & set(self.joins) and self.evaluations_per_day is None:
            raise DocumentRefused(
                "evaluations_per_day",
                "is needed for lookup and score: nothing else limits how many keys are tried, or "
                "how soon a model's weights follow from its scores",
            )
        if Join.HIDDEN in self.joins and self.privacy is None:
            raise DocumentRefused(
                "joins", "hidden needs `privacy`: its padding is charged to an epsilon account"
            )

    def permits(self, column: str, use: Use) -> bool:
        return use in self.uses.get(column, ())

    def limit(self, column: str) -> ColumnLimit:
        return (self.limits or {}).get(column, ColumnLimit())

    def functions_of(self, column: str) -> tuple[Function, ...]:
        """Which aggregates of this column may be released: the column's own list may only narrow
        the rule's."""
        own = self.limit(column).functions
        return tuple(f for f in self.functions if own is None or f in own)
