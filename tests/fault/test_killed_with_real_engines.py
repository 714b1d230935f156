"""Processes of a running exchange killed with -9 while real engines compute, and started again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from api.demo import deal
from api.demo.processes import start_all
from api.demo.setting import CURRENCY, Exchange
from api.demo.story import Story
from api.demo.teller import Teller
from crypto.identifiers import DealId, JobId
from exchange.audit.deal import audit_deal
from exchange.errors import UnknownSubject
from exchange.jobs import FINAL, JobState
from exchange.node.model import NodeJob
from registry.product import DataProduct

pytestmark = [pytest.mark.slow, pytest.mark.engine]
T = TypeVar("T")
POINTS = (("laboratory", "psi"), ("clinic", "compute"), ("hub", "gate"))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    story = Story(Exchange(tmp_path_factory.mktemp("killed")), Teller("en", quiet_stdout=True))
    try:
        yield story
    finally:
        story.exchange.stop()


def test_whoever_is_killed_in_a_run_the_job_ends_cleanly_and_the_audit_passes(
    story: Story,
) -> None:
    number, clinic, laboratory = story.prepare()
    story.approve_by_standing("clinic", clinic)
    story.approve_by_standing("laboratory", laboratory)
    company = story.exchange.participants["company"]
    paid = 0
    before = company.available()
    for victim, stage in POINTS:
        job = submit(story, number, clinic, laboratory)
        until(lambda job=job, stage=stage: reached(story, job, stage), f"{job} is at {stage}")
        kill_and_restart(story, victim)
        found = until(lambda job=job: ended(story, job), f"{job} ends after {victim} was killed")
        assert found.state in (JobState.FAILED, JobState.RELEASED), found
        if found.state is JobState.RELEASED:
            paid += 1
    price = deal.CLINIC_PRICE + deal.LABORATORY_ASKS
    until(
        lambda: (
            company.available() == before - paid * price
            and company.opened.hub.balance(CURRENCY).held_minor == 0
        ),
        "everything is paid or refunded",
    )
    last = story.job(number, clinic, laboratory)  # and the exchange still works
    assert company.has_answer(last.job)
    regulator = story.exchange.participants["regulator"]
    report = audit_deal(
        regulator.opened.hub.bundle(number),
        story.exchange.policy(),
        story.exchange.roots(),
        story.exchange.opener("regulator"),
    )
    assert [check.words for check in report.failed] == []


def submit(story: Story, number: DealId, clinic: DataProduct, laboratory: DataProduct) -> JobId:
    desk = story.exchange.participants["company"].opened.desk
    return desk.submit(desk.compile(number, deal.question(clinic.id, laboratory.id)))


def reached(story: Story, job: JobId, stage: str) -> bool:
    try:
        found = story.exchange.participants["company"].opened.hub.job(job)
    except UnknownSubject:
        return False  # the consumer's node has not sent it yet
    return found.stage == stage or ended(story, job) is not None


def ended(story: Story, job: JobId) -> NodeJob | None:
    with story.exchange.participants["company"].opened.store.reading() as tx:
        found = tx.job(job)
    return found if found is not None and found.state in FINAL else None


def kill_and_restart(story: Story, name: str) -> None:
    process = story.exchange.processes[name]
    os.kill(process.pid, signal.SIGKILL)
    process.child.wait()
    story.exchange.processes |= start_all({name: story.exchange.program(name)})


def until(true: Callable[[], T | None], what: str, seconds: float = 120) -> T:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found
