"""The life of a job as one table, used by the hub, by every node and by the audit."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from exchange.errors import IllegalTransition


class JobState(StrEnum):
    REQUESTED = "REQUESTED"
    ADMITTED = "ADMITTED"
    RUNNING = "RUNNING"
    SEALED = "SEALED"
    RELEASED = "RELEASED"
    REFUSED = "REFUSED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    FAILED = "FAILED"


class JobEvent(StrEnum):
    ADMIT = "ADMIT"
    REFUSE = "REFUSE"
    EXPIRE = "EXPIRE"
    CANCEL = "CANCEL"
    START = "START"
    SEAL = "SEAL"
    FAIL = "FAIL"
    RELEASE = "RELEASE"


FINAL: Final = frozenset(
    {
        JobState.RELEASED,
        JobState.REFUSED,
        JobState.CANCELLED,
        JobState.EXPIRED,
        JobState.FAILED,
    }
)

LIFECYCLE: Final[Mapping[tuple[JobState, JobEvent], JobState]] = {
    (JobState.REQUESTED, JobEvent.ADMIT): JobState.ADMITTED,  # every holder has admitted
    (JobState.REQUESTED, JobEvent.REFUSE): JobState.REFUSED,  # one holder declines
    (JobState.REQUESTED, JobEvent.EXPIRE): JobState.EXPIRED,  # somebody did not answer in time
    (JobState.REQUESTED, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.REQUESTED, JobEvent.FAIL): JobState.FAILED,  # a node broke before all had answered
    (JobState.ADMITTED, JobEvent.START): JobState.RUNNING,  # messages may have left from here on
    (JobState.ADMITTED, JobEvent.FAIL): JobState.FAILED,
    (JobState.ADMITTED, JobEvent.EXPIRE): JobState.EXPIRED,
    (JobState.ADMITTED, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.RUNNING, JobEvent.SEAL): JobState.SEALED,  # every holder's part is sealed
    (JobState.RUNNING, JobEvent.FAIL): JobState.FAILED,  # epsilon and run stay spent
    (JobState.RUNNING, JobEvent.EXPIRE): JobState.EXPIRED,  # not finished in time; run stays spent
    (JobState.SEALED, JobEvent.RELEASE): JobState.RELEASED,  # its receipts are in a checkpoint
}


def advance(subject: str, state: JobState, event: JobEvent) -> JobState:
    """Raises IllegalTransition; nothing changed then."""
    try:
        return LIFECYCLE[state, event]
    except KeyError:
        raise IllegalTransition(subject, state, event) from None
