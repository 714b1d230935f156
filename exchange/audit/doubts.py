"""Statements of which the bundle does not show whether the hub took them as having an effect.

The hub logs a statement that reaches it too late, or without the documents it names, and goes on
as if it had not been said. When it arrived, only the heads around it tell; what came with it,
nothing does. So where a replay does not fit, all ways are followed in which the hub may have read
such statements, and what the one that fits rests on is named instead of proved.

One of them is how it really went, and there only those look wrong who are. So somebody is accused
who looks wrong in every reading, and nobody else: how much looks wrong in one of them proves
nothing, for a liar says as much as it likes. What it all amounts to is taken from a reading in
which the operator's acts fit, if there is one: they tell how its hub read the others.

Nobody is excused by it who did wrong: a statement that came to nothing takes steps away and adds
none, so whoever relies on a step needs somebody's signed word for it in every reading. Where in
each reading somebody looks wrong, but not always the same, that is a failure that names them all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Generic, NamedTuple, TypeVar

from crypto.digest import Digest
from crypto.errors import CryptoError
from crypto.identifiers import PartyId
from exchange.audit.log import Said
from exchange.audit.parties import Parties
from exchange.errors import ExchangeError
from ledger.verify.report import Phrase, phrase
from registry.errors import RegistryError

S = TypeVar("S")

# Followed at once; of more, those that suppose least. More than four parties bring about with the
# words without effect that a bundle holds of each: else two could hide how it really went. Beyond
# it nobody's fault is certain.
MAX_READINGS: Final = 4096
ASSUMED: Final = "it came too late or incomplete, as the operator's acts after it suppose"
# Looks wrong where something is odd that somebody honest may do: a reading without it is likelier.
NOBODY: Final = PartyId("")


@dataclass(frozen=True)
class Rules(Generic[S]):
    """How a subject goes from state to state.

    step:  the state after a statement; raises where it has no effect. same: equal for states from
    which everything goes on alike after this statement. wrong: whom a statement makes look wrong
    where it stands, given the state before it and whether it took effect; None is nobody.
    """

    step: Callable[[S, Said], S]
    same: Callable[[S, Said], Hashable]
    wrong: Callable[[S, Said, bool], PartyId | None]
    operator: PartyId | None


@dataclass(frozen=True)
class Reading(Generic[S]):
    """One way in which the hub may have read all statements.

    no_effect: statements that changed nothing, with the reason. misfits: those among them whose
    actors look wrong however all are read. supposed: those that are only supposed to have come to
    nothing. either: where in every reading somebody looks wrong, but not always the same: who may
    be, each with the first statement that would show it.
    """

    state: S
    no_effect: Mapping[Digest, str]
    misfits: Mapping[Digest, str]
    supposed: frozenset[Digest]
    either: Mapping[PartyId, Said]


class _Idles(NamedTuple):
    """Newest first, so that readings share what they have in common."""

    said: Said
    reason: str
    misfit: bool
    before: _Idles | None


@dataclass(frozen=True)
class _Way(Generic[S]):
    """A reading so far. wrong: who looks wrong in it, since which statement."""

    state: S
    idles: _Idles | None = None
    wrong: Mapping[PartyId, Said] = field(default_factory=dict)
    supposed: int = 0

    @property
    def who(self) -> frozenset[PartyId]:
        return frozenset(self.wrong)

    def cost(self, operator: PartyId | None) -> tuple[bool, int, bool, int]:
        odd = NOBODY in self.wrong
        return operator in self.wrong, len(self.wrong) - odd, odd, self.supposed


def read(
    said: Sequence[Said],
    first: S,
    rules: Rules[S],
    *,
    without: Mapping[Digest, str],
    doubtful: Collection[Digest],
) -> Reading[S]:
    """What statements amount to, in the reading in which the operator's acts fit, then the fewest
    others look wrong, and then the least is supposed. without: those that certainly had no effect,
    with the reason. doubtful: of participants alone; the operator's acts wait for nobody."""
    found = _read(said, first, rules, without, ())
    if found.ways[0].wrong and doubtful:
        found = _read(said, first, rules, without, doubtful)
    return _told(found)


def either(found: Mapping[PartyId, Said], parties: Parties) -> Phrase:
    """That it cannot all be right, with who may be wrong, and at what."""
    what = " / ".join(
        f"{parties.name(party)} ({said.statement.type} at index {said.index})"
        for party, said in found.items()
    )
    return phrase("replay.either", what=what)


class _Ways(NamedTuple, Generic[S]):
    """cut: whether there were more readings than are followed."""

    ways: Sequence[_Way[S]]
    cut: bool


def _read(
    said: Sequence[Said],
    first: S,
    rules: Rules[S],
    without: Mapping[Digest, str],
    doubtful: Collection[Digest],
) -> _Ways[S]:
    ways: list[_Way[S]] = [_Way(first)]
    cut = False
    for one in said:
        then: dict[Hashable, list[_Way[S]]] = {}
        for way in ways:
            for after in _after(way, one, rules, without, doubtful):
                _keep(after, then.setdefault(rules.same(after.state, one), []))
        found = [way for alike in then.values() for way in alike]
        ways = sorted(found, key=lambda way: way.cost(rules.operator))[:MAX_READINGS]
        cut |= len(ways) < len(found)
    return _Ways(ways, cut)


def _keep(after: _Way[S], alike: list[_Way[S]]) -> None:
    """Unless one that goes on alike accuses nobody else and supposes no more; instead of those for
    which it is such a one."""

    def covers(one: _Way[S], other: _Way[S]) -> bool:
        same = one.wrong.keys() == other.wrong.keys()
        return one.supposed <= other.supposed if same else one.wrong.keys() < other.wrong.keys()

    if not any(covers(way, after) for way in alike):
        alike[:] = [way for way in alike if not covers(after, way)]
        alike.append(after)


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
        yield replace(way, idles=idles)
        return
    try:
        state = rules.step(way.state, said)
    except (ExchangeError, RegistryError, CryptoError, ValueError) as error:
        who = rules.wrong(way.state, said, False)
        misfit = who == said.statement.actor
        idles = _Idles(said, str(error), misfit, way.idles)
        yield replace(way, idles=idles, wrong=_with(way, who, said))
        if misfit and name in doubtful:
            yield _nothing(way, said, rules)
        return
    who = rules.wrong(way.state, said, True)
    yield replace(way, state=state, wrong=_with(way, who, said))
    if name in doubtful:
        yield _nothing(way, said, rules)


def _nothing(way: _Way[S], said: Said, rules: Rules[S]) -> _Way[S]:
    """On the supposition that the statement came to nothing: then whoever said it is right, but not
    who acted on it."""
    who = rules.wrong(way.state, said, False)
    wrong = way.wrong if who == said.statement.actor else _with(way, who, said)
    idles = _Idles(said, ASSUMED, False, way.idles)
    return _Way(way.state, idles, wrong, way.supposed + 1)


def _with(way: _Way[S], who: PartyId | None, said: Said) -> Mapping[PartyId, Said]:
    return way.wrong if who is None or who in way.wrong else {**way.wrong, who: said}


def _told(found: _Ways[S]) -> Reading[S]:
    way, *_ = found.ways
    by_who = {way.who: way for way in reversed(found.ways)}  # of each the likeliest
    always = frozenset[PartyId]() if found.cut else frozenset.intersection(*by_who)
    no_effect: dict[Digest, str] = {}
    misfits: dict[Digest, str] = {}
    idles = way.idles
    while idles is not None:
        name = idles.said.signed.digest
        no_effect[name] = idles.reason
        if idles.misfit and idles.said.statement.actor in always:
            misfits[name] = idles.reason
        idles = idles.before
    supposed = frozenset(name for name, reason in no_effect.items() if reason == ASSUMED)
    perhaps: dict[PartyId, Said] = {}
    if way.who - {NOBODY} - always:
        least = [who for who in by_who if not any(other < who for other in by_who)]
        for who in least:
            perhaps |= {p: by_who[who].wrong[p] for p in sorted(who - {NOBODY} - always)}
    return Reading(way.state, no_effect, misfits, supposed, perhaps)
