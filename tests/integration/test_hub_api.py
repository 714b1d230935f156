"""The hub's routes over a real server on loopback."""

from __future__ import annotations

from pathlib import Path

from exchange.jobs import JobState
from tests.hub_server import an_http_world
from tests.world import a_deal


def test_a_whole_deal_runs_over_http(tmp_path: Path) -> None:
    with an_http_world(tmp_path) as world:
        deal = a_deal(world)
        deal.approve_standing()
        job = deal.submit()
        world.settle()
        found = world.members["research"].hub.job(job)
        assert (found.state, found.settled) == (JobState.RELEASED, True)
        assert world.available("clinic") == 1000
