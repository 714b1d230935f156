"""What this package needs from outside: somebody who reads SQL."""

from __future__ import annotations

from typing import Protocol

from exchange.query.sql import Select


class SqlReader(Protocol):
    """Reads the subset of SQL that docs/sql.md describes."""

    def read(self, text: str) -> Select:
        """Raises QuestionRefused, naming the fragment and what to write instead, for whatever is
        not in the subset."""
        ...
