"""What stops an audit before it begins. A check that fails is no error: it is in the report.

AuditError
├── BundleRefused   the file is not a bundle; get it again, or from somebody else
├── RootsRefused    the roots file is not one; the message names the line
└── StateRefused    a follower's state is not one; restore it, or begin anew under another name
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


class StateRefused(AuditError):
    """What a follower kept between two looks cannot be read."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(
            f"{path} is not the state of a follower ({problem}); restore it, or begin anew with "
            "another file, which then knows of no earlier head"
        )
        self.path = path
