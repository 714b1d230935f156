"""Whoever is accused looks wrong however all doubtful statements are read, so nobody honest is: one
of those readings is how it went. Held against following each of them by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, combinations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.digest import Digest
from crypto.identifiers import PartyId
from crypto.keys import SigningKey
from crypto.ports import SystemRandomness
from crypto.statement import Act, ChainHead, sign_statement
from exchange.audit import doubts
from exchange.audit.doubts import NOBODY, Reading, Rules
from exchange.audit.log import Said
from tests.world import START

OPERATOR, *PARTIES = [PartyId("pty_" + letter * 32) for letter in "0123"]
KEY = SigningKey.generate()
FEW = settings(max_examples=150, deadline=None)

State = frozenset[int]
"""The places of what had an effect."""


@dataclass(frozen=True)
class Sense:
    """What a statement is about. needs, bars: what must have had an effect before it, and must not.
    took, idle: whom it makes look wrong if it has one itself, and if it has none."""

    needs: State
    bars: State
    took: PartyId | None
    idle: PartyId | None


@dataclass(frozen=True)
class Story:
    said: Sequence[Said]
    senses: Mapping[Digest, Sense]
    doubtful: frozenset[Digest]

    def sense(self, said: Said) -> Sense:
        return self.senses[said.signed.digest]

    def step(self, state: State, said: Said) -> State:
        sense = self.sense(said)
        if not sense.needs <= state or sense.bars & state:
            raise ValueError("does not follow")
        return state | {said.index}

    def same(self, state: State, last: Said) -> State:
        """What a later statement asks for."""
        later = [self.sense(said) for said in self.said if said.index > last.index]
        return state & frozenset[int]().union(*(sense.needs | sense.bars for sense in later))

    def wrong(self, state: State, said: Said, took: bool) -> PartyId | None:
        return self.sense(said).took if took else self.sense(said).idle

    def read(self) -> Reading[State]:
        rules = Rules(self.step, self.same, self.wrong, OPERATOR)
        return doubts.read(self.said, frozenset(), rules, without={}, doubtful=self.doubtful)

    def wrong_in(self, nothing: Sequence[Digest]) -> tuple[State, frozenset[PartyId]]:
        """How it went if just these came to nothing, and who is wrong then."""
        state: State = frozenset()
        wrong: set[PartyId | None] = set()
        for said in self.said:
            supposed, after = said.signed.digest in nothing, state
            if not supposed:
                with suppress(ValueError):
                    after = self.step(state, said)
            who = self.wrong(state, said, after != state)
            if not supposed or who != said.statement.actor:
                wrong.add(who)
            state = after
        return state, frozenset(who for who in wrong if who is not None)


def a_story(seed: int) -> Story:
    draw = Random(seed)
    said: list[Said] = []
    senses: dict[Digest, Sense] = {}
    doubtful: set[Digest] = set()
    for index in range(draw.randint(1, 9)):
        actor = draw.choice([OPERATOR, *PARTIES])
        signed = sign_statement(
            Act(f"test.{index}", "test"),
            actor=actor,
            head=ChainHead(),
            signer=KEY,
            now=START,
            randomness=SystemRandomness(),
        )
        before = range(index)
        senses[signed.digest] = Sense(
            needs=frozenset(draw.sample(before, min(index, draw.choice([0, 0, 1, 2])))),
            bars=frozenset(draw.sample(before, min(index, draw.choice([0, 0, 1])))),
            took=draw.choice([None, None, None, OPERATOR]),
            idle=draw.choice([None, actor, actor, OPERATOR, NOBODY]),
        )
        if actor != OPERATOR and draw.random() < 0.7:
            doubtful.add(signed.digest)
        said.append(Said(index, signed))
    return Story(said, senses, frozenset(doubtful))


@pytest.mark.parametrize("most", [1, 2, doubts.MAX_READINGS])
@FEW
@given(seed=st.integers(0, 2**32))
def test_an_accusation_holds_in_every_reading_also_in_those_not_followed(
    most: int, seed: int
) -> None:
    story = a_story(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doubts, "MAX_READINGS", most)
        found = story.read()
    every = [story.wrong_in(nothing)[1] for nothing in subsets(story.doubtful)]
    actors = {said.signed.digest: said.statement.actor for said in story.said}
    always = frozenset.intersection(*every)
    assert {actors[name] for name in found.misfits} <= always


@FEW
@given(seed=st.integers(0, 2**32))
def test_the_reading_is_one_in_which_the_operator_fits_and_then_the_fewest_are_wrong(
    seed: int,
) -> None:
    story = a_story(seed)
    found = story.read()
    every = [story.wrong_in(nothing) for nothing in subsets(story.doubtful)]
    best = min(cost(wrong) for _, wrong in every)
    alike = [wrong for state, wrong in every if state == found.state]
    assert min(map(cost, alike)) == best


@FEW
@given(seed=st.integers(0, 2**32))
def test_where_somebody_is_wrong_in_each_reading_something_is_said(seed: int) -> None:
    """And everybody who may be is named, in the fewest together; where all may fit, nobody."""
    story = a_story(seed)
    found = story.read()
    every = {story.wrong_in(nothing)[1] for nothing in subsets(story.doubtful)}
    always = frozenset.intersection(*every)
    assert not found.either.keys() & (always | {NOBODY})
    if not all(wrong - {NOBODY} for wrong in every):
        assert not found.either
        assert not found.misfits
    elif not always - {NOBODY}:
        assert len(found.either) > 1
        assert all(found.either.keys() & wrong for wrong in every)


def cost(wrong: frozenset[PartyId]) -> tuple[bool, int, bool]:
    return OPERATOR in wrong, len(wrong - {NOBODY}), NOBODY in wrong


def subsets(names: frozenset[Digest]) -> Sequence[tuple[Digest, ...]]:
    sizes = range(len(names) + 1)
    return list(chain.from_iterable(combinations(sorted(names, key=str), size) for size in sizes))
