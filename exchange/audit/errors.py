"""What stops an audit before it begins. A check that fails is no error: it is in the report.

AuditError
├── BundleRefused   the file is not a bundle; get it again, or from somebody else
└── RootsRefused    the roots file is not one; the message names the line
"""

from __future__ import annotations

from exchange.errors import ExchangeError


class AuditError(ExchangeError):
    """Base of all errors raised by `exchange.audit`."""


class BundleRefused(AuditError):
    """Bytes that are not a bundle in its one form. `where` names the file inside it."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


class RootsRefused(AuditError):
    """A line of the roots file that is neither a fingerprint nor a registrar."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"roots line {line}: {problem}")
        self.line = line
        self.problem = problem
