"""The life of a job as one table, used by the hub, by every node and by the audit."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Final

from exchange.errors import IllegalTransition

MAX_WAIT: Final = timedelta(days=30)  # for a run to begin, once the price is held
MAX_RUN_S: Final = 86_400  # as long as a plan may let it take
# How long after a plan's own limit the hub waits for receipts before it calls a run lost.
GRACE: Final = timedelta(seconds=30)
# By then every job whose price is held has ended, unless its result is sealed.
MAX_HELD: Final = MAX_WAIT + timedelta(seconds=MAX_RUN_S) + GRACE
# A hub refunds and pays within seconds of when it may, and one that starts again before it signs a
# head. So long after that, by the witnesses' clocks, a head without either is its operator's choice
# or neglect, not an outage.
SETTLED_WITHIN: Final = timedelta(days=1)


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
