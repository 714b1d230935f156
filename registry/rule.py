"""The type of an analysis rule: what may happen to each column of a data product.

A column's rule is a set of permitted uses, not a level: a column can be a join key and nothing
else, or a group key and an aggregate. A column that the rule does not name is forbidden.
Who checks a plan against rules: `exchange.query.rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from registry.errors import DocumentRefused


class Use(StrEnum):
    """What a plan may do with a column."""

    JOIN_KEY = "join_key"
    GROUP_KEY = "group_key"
    AGGREGATE = "aggregate"
    FILTER = "filter"


class Join(StrEnum):
    """Join protocols, named after their leakage: see docs/trust.md."""

    REVEALED = "revealed"


class Function(StrEnum):
    COUNT = "count"
    SUM = "sum"
    MEAN = "mean"


@dataclass(frozen=True)
class AnalysisRule:
    """uses: per column. functions: which aggregates may be released.

    min_group: the fewest people a released group may hold.
    purposes:  terms of the purpose list; a plan's purpose must be among them.
    """

    uses: Mapping[str, tuple[Use, ...]]
    functions: tuple[Function, ...]
    joins: tuple[Join, ...]
    min_group: int
    purposes: tuple[str, ...]

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

    def permits(self, column: str, use: Use) -> bool:
        return use in self.uses.get(column, ())
