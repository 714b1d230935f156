"""What the engines themselves make of a side on which nobody fits the filters."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from exchange.jobs import JobState
from exchange.node import receiving
from tests.acceptance.test_a_deal_with_real_engines import real_workshop
from tests.world import QUESTION, a_deal, a_world

pytestmark = pytest.mark.engine


def test_a_filter_that_nobody_fits_gives_suppressed_groups_and_no_failure(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    deal = a_deal(world)
    deal.approve_standing()
    clinic, lab, research = (world.members[name] for name in ("clinic", "lab", "research"))
    nobody = QUESTION.replace("GROUP BY", "WHERE clinic.sex <> 'f' AND clinic.sex <> 'm' GROUP BY")
    with real_workshop(clinic, listen=True), real_workshop(lab, listen=False):
        job = deal.submit(sql=nobody)
        for _ in range(600):
            world.round()
            threading.Event().wait(0.02)
            with research.node.store.reading() as tx:
                found = tx.job(job)
            if found is not None and found.state in (JobState.RELEASED, JobState.FAILED):
                break
        world.settle()
        with clinic.node.store.reading() as tx:
            kept = tx.job(job)
            assert kept is not None and kept.state is JobState.RELEASED, kept.reason
    answer = receiving.answer(job, research.node.store)
    assert {row.figures[0].value for row in answer.rows} == {None}
