"""What becomes of released statistics: columns of the answer, and HAVING.

All of it is arithmetic on numbers that were released anyway, done by the receiver: it costs no
epsilon and no clause can forbid it (post-processing; Dwork and Roth 2014, proposition 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from crypto.errors import Malformed
from registry.expression import Comparator, Number


class Calculation(StrEnum):
    ADD = "+"
    SUBTRACT = "-"
    MULTIPLY = "*"
    DIVIDE = "/"


@dataclass(frozen=True)
class Released:
    """One number of one statistic. part: 0, but for a regression: 0 the intercept, i the
    coefficient of the i-th x, and -1 for R squared, -2 for the number of rows."""

    kind: ClassVar[str] = "released"
    statistic: int
    part: int


@dataclass(frozen=True)
class Calculated:
    """Missing if either operand is suppressed, or the divisor is zero."""

    kind: ClassVar[str] = "calculated"
    calculation: Calculation
    left: Value
    right: Value


Value = Released | Calculated | Number


@dataclass(frozen=True)
class Output:
    """One column of the answer beside the group keys."""

    name: str
    value: Value

    def __post_init__(self) -> None:
        if not 1 <= len(self.name) <= 60 or not self.name.isprintable():
            raise Malformed("name", "must be 1 to 60 printable characters")


@dataclass(frozen=True)
class Having:
    """A group is shown only if this holds of its released numbers; all of them must."""

    left: Value
    comparator: Comparator
    right: Value
