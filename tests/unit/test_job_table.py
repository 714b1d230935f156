"""What the table of a job's life promises, whatever stands in it."""

from __future__ import annotations

from itertools import product

import pytest

from exchange.errors import IllegalTransition
from exchange.jobs import FINAL, LIFECYCLE, JobEvent, JobState, advance


def paths(to: JobState) -> list[list[JobState]]:
    """Every way from REQUESTED to a state. The table has no circle, or this would not end."""
    found: list[list[JobState]] = []

    def walk(path: list[JobState]) -> None:
        assert len(path) == len(set(path)), path
        if path[-1] is to:
            found.append(path)
            return
        for (before, _), after in LIFECYCLE.items():
            if before is path[-1]:
                walk([*path, after])

    walk([JobState.REQUESTED])
    return found


@pytest.mark.parametrize("state", sorted(FINAL))
def test_a_final_state_has_no_way_out(state: JobState) -> None:
    for event in JobEvent:
        with pytest.raises(IllegalTransition):
            advance("job", state, event)


@pytest.mark.parametrize("state", sorted(set(JobState) - FINAL))
def test_a_state_that_is_not_final_has_a_way_out(state: JobState) -> None:
    assert any(before is state for before, _ in LIFECYCLE)


@pytest.mark.parametrize("state", JobState)
def test_every_state_can_be_reached(state: JobState) -> None:
    assert paths(state)


def test_nothing_is_released_that_was_not_admitted_run_and_sealed() -> None:
    assert paths(JobState.RELEASED) == [
        [
            JobState.REQUESTED,
            JobState.ADMITTED,
            JobState.RUNNING,
            JobState.SEALED,
            JobState.RELEASED,
        ]
    ]


def test_nothing_is_cancelled_or_refused_once_it_runs() -> None:
    for state in (JobState.CANCELLED, JobState.REFUSED):
        assert all(JobState.RUNNING not in way for way in paths(state))


def test_what_is_sealed_can_only_be_released() -> None:
    assert {event for state, event in LIFECYCLE if state is JobState.SEALED} == {JobEvent.RELEASE}


@pytest.mark.parametrize(("state", "event"), list(product(JobState, JobEvent)))
def test_an_event_is_either_in_the_table_or_refused_by_name(
    state: JobState, event: JobEvent
) -> None:
    if (state, event) in LIFECYCLE:
        assert advance("job", state, event) is LIFECYCLE[state, event]
        return
    with pytest.raises(IllegalTransition) as refused:
        advance("job_1", state, event)
    found = refused.value
    assert (found.subject, found.state, found.event) == ("job_1", state, event)
