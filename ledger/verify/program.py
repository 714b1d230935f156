"""How the programs `python -m ledger.verify` and `python -m exchange.audit` read, answer and end.

Exit codes: 0 no check failed; 1 a check failed; 2 the command line, or a file, cannot be used;
4 not yet or not reachable: a quorum is missing, or the log, the documents or the chain gave no
answer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from crypto.errors import CryptoError
from ledger.errors import ChainUnreachable, LedgerError, SourceUnreachable, TileMissing
from ledger.verify.report import TRY_LATER, Report, Voice, exit_code

UNUSABLE: Final = 2


def ends(run: Callable[[], int], refused: type[Exception] = LedgerError) -> int:
    """The exit code of `run`, or of what it raises, which is told on stderr. refused: the base of
    errors that are a file's or the command line's fault, beside those of this package."""
    try:
        return run()
    except (ChainUnreachable, SourceUnreachable, TileMissing) as error:
        return refuse(str(error), TRY_LATER)
    except (LedgerError, CryptoError, refused) as error:
        return refuse(str(error), UNUSABLE)
    except OSError as error:
        return refuse(f"{error.filename}: {error.strerror}", UNUSABLE)


def answer(report: Report, voice: Voice, *, as_json: bool) -> int:
    """Print a report on stdout; returns the exit code."""
    if as_json:
        text = json.dumps(report.to_value(voice), ensure_ascii=False, indent=2) + "\n"
    else:
        text = report.to_text(voice)
    sys.stdout.write(text)
    return exit_code(report)


def refuse(problem: str, code: int) -> int:
    sys.stderr.write(f"{problem}\n")
    return code


def read(path: Path, limit: int) -> bytes:
    """At most one byte more than `limit`: enough for whoever parses it to refuse it."""
    with path.open("rb") as file:
        return file.read(limit + 1)
