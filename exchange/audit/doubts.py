"""Statements of which the bundle does not show whether the hub took them as having an effect.

The hub logs a statement that reaches it too late, or without the documents it names, and goes on
as if it had not been said. When it arrived, only the heads around it tell; what came with it,
nothing does. So where a replay does not fit, all ways are followed in which the hub may have read
such statements, and what the one that fits rests on is named instead of proved.

Nobody is excused by it who did wrong: a statement that came to nothing takes steps away and adds
none, so whoever relies on a step needs somebody's signed word for it in every reading.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

from crypto.digest import Digest
from crypto.errors import CryptoError
from exchange.audit.log import Said
from exchange.errors import ExchangeError
from registry.errors import RegistryError

S = TypeVar("S")

# Followed at once; of more, those that suppose least. More than four parties bring about with the
# words without effect that a bundle holds of each: else two could hide how it really went.
MAX_READINGS: Final = 4096
ASSUMED: Final = "it came too late or incomplete, as the operator's acts after it suppose"


@dataclass(frozen=True)
class Rules(Generic[S]):
    """How a subject goes from state to state.

    step:  the state after a statement; raises where it has no effect. same: equal for states from
    which everything goes on alike after this statement. wrong: whether a statement makes its actor
    look wrong where it stands, given the state before it and whether it took effect.
    """

    step: Callable[[S, Said], S]
    same: Callable[[S, Said], Hashable]
    wrong: Callable[[S, Said, bool], bool]


@dataclass(frozen=True)
class Reading(Generic[S]):
    """One way in which the hub may have read all statements.

    no_effect: statements that changed nothing, with the reason. misfits: those among them that
    nobody makes where they stand. supposed: those that are only supposed to have come to nothing.
    """

    state: S
    no_effect: Mapping[Digest, str]
    misfits: Mapping[Digest, str]
    supposed: frozenset[Digest]


class _Idles(NamedTuple):
    """Newest first, so that readings share what they have in common."""

    said: Said
    reason: str
    misfit: bool
    before: _Idles | None


@dataclass(frozen=True)
class _Way(Generic[S]):
    """A reading so far. wrong: how many statements look wrong in it."""

    state: S
    idles: _Idles | None = None
    wrong: int = 0
    supposed: int = 0

    @property
    def cost(self) -> tuple[int, int]:
        return self.wrong, self.supposed


def read(
    said: Sequence[Said],
    first: S,
    rules: Rules[S],
    *,
    without: Mapping[Digest, str],
    doubtful: Collection[Digest],
) -> Reading[S]:
    """What statements amount to, in the reading that lets the fewest look wrong and then supposes
    the least. without: those that certainly had no effect, with the reason."""
    plain = _read(said, first, rules, without, ())
    if plain.wrong and doubtful:
        return _told(_read(said, first, rules, without, doubtful))
    return _told(plain)


def _read(
    said: Sequence[Said],
    first: S,
    rules: Rules[S],
    without: Mapping[Digest, str],
    doubtful: Collection[Digest],
) -> _Way[S]:
    ways: list[_Way[S]] = [_Way(first)]
    for one in said:
        then: dict[Hashable, _Way[S]] = {}
        for way in ways:
            for after in _after(way, one, rules, without, doubtful):
                key = rules.same(after.state, one)
                if key not in then or after.cost < then[key].cost:
                    then[key] = after
        ways = sorted(then.values(), key=lambda way: way.cost)[:MAX_READINGS]
    return ways[0]


def _after(
    way: _Way[S],
    said: Said,
    rules: Rules[S],
    without: Mapping[Digest, str],
    doubtful: Collection[Digest],
) -> Iterator[_Way[S]]:
    """In which ways it may go on with this statement."""
    name = said.signed.digest
    if name in without:
        idles = _Idles(said, without[name], False, way.idles)
        yield _Way(way.state, idles, way.wrong, way.supposed)
        return
    try:
        state = rules.step(way.state, said)
    except (ExchangeError, RegistryError, CryptoError, ValueError) as error:
        misfit = rules.wrong(way.state, said, False)
        idles = _Idles(said, str(error), misfit, way.idles)
        yield _Way(way.state, idles, way.wrong + misfit, way.supposed)
        if misfit and name in doubtful:
            yield _nothing(way, said)
        return
    wrong = way.wrong + rules.wrong(way.state, said, True)
    yield _Way(state, way.idles, wrong, way.supposed)
    if name in doubtful:
        yield _nothing(way, said)


def _nothing(way: _Way[S], said: Said) -> _Way[S]:
    """On the supposition that the statement came to nothing."""
    idles = _Idles(said, ASSUMED, False, way.idles)
    return _Way(way.state, idles, way.wrong, way.supposed + 1)


def _told(way: _Way[S]) -> Reading[S]:
    no_effect: dict[Digest, str] = {}
    misfits: dict[Digest, str] = {}
    idles = way.idles
    while idles is not None:
        no_effect[idles.said.signed.digest] = idles.reason
        if idles.misfit:
            misfits[idles.said.signed.digest] = idles.reason
        idles = idles.before
    supposed = frozenset(name for name, reason in no_effect.items() if reason == ASSUMED)
    return Reading(way.state, no_effect, misfits, supposed)
