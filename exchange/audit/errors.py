"""What stops an audit before it begins. A check that fails is no error: it is in the report.

AuditError
├── BundleRefused   the file is not a bundle; get it again, or from somebody else
├── CannotJudge     this program fails at the evidence; keep it, and tell those who publish this
├── RootsRefused    the roots file is not one; the message names the line
└── StateRefused    a follower's state is not one; restore it, or begin anew under another name
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from exchange.errors import ExchangeError
from ledger.errors import LedgerError


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


class CannotJudge(AuditError):
    """Evidence at which this program itself fails: a defect, which must not pass for a result, and
    by which nobody may end a follower's look at all else. cause: what failed, and where."""

    def __init__(self, what: str, error: Exception) -> None:
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        self.cause = type(error).__name__
        if place is not None:
            module = place.tb_frame.f_globals.get("__name__", "?")
            self.cause += f" in {module}, line {place.tb_lineno}"
        super().__init__(
            f"{what} cannot be judged, for this program itself fails at it ({self.cause}): that "
            "shows nothing for it or against it; keep it, and tell those who publish this program"
        )


@contextmanager
def judging(what: str) -> Iterator[None]:
    """Work on evidence, which is anybody's. Raises CannotJudge in place of any error that no
    evidence ought to bring about."""
    try:
        yield
    except (AuditError, LedgerError, OSError):
        raise
    except Exception as error:
        raise CannotJudge(what, error) from error
