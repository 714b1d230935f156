"""Job after job over what earlier ones left, the two sides find what sets would say."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.joins import unbalanced
from tests.fakes.two_masked import one_job, tokens

PEOPLE = st.integers(0, 60)
SIDE = st.lists(PEOPLE, unique=True, min_size=1, max_size=40)


@settings(max_examples=15, deadline=None)
@given(jobs=st.lists(st.tuples(SIDE, SIDE), min_size=1, max_size=4), block=st.integers(1, 50))
def test_every_job_finds_the_intersection(
    jobs: list[tuple[list[int], list[int]]], block: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, unbalanced.ROWS_PER_BLOCK = unbalanced.ROWS_PER_BLOCK, block  # type: ignore[misc]
        try:
            before: set[int] | None = None
            for many, few in jobs:
                server, client = tokens(many), tokens(few)
                found = one_job(Path(folder), server, client)
                assert np.array_equal(server[found.server], client[found.client])
                assert {few[at] for at in found.client} == {*many} & {*few}
                assert found.offline == (before != {*many})
                before = {*many}
        finally:
            unbalanced.ROWS_PER_BLOCK = whole  # type: ignore[misc]
