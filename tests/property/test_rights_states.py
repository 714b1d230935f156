"""The register of rights against a plain model of it: whatever is tried, both agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.contracts import ZERO, Reverted, address
from tests.rights_register import (
    GRANTEE,
    HOLDING,
    NONE,
    PROCESSING,
    REGISTRAR,
    SECOND,
    Register,
    hashed,
)

PEOPLE = [address(n) for n in (0xA, 0xB, 0xC)]
# Mostly lawful, so that long stories come about; the refusals are many anyway.
SENDERS = st.sampled_from([*[REGISTRAR] * 4, *[SECOND] * 4, *PEOPLE])
LASTS = st.sampled_from([10_000] * 5 + [5_000] * 3 + [100, 20, 1, 0])
REGISTRARS = (REGISTRAR, SECOND)
UNKNOWN, PUBLICISED, OBJECTED, CERTIFIED, DISPUTED, CANCELLED, REVOKED, EXPIRED, LAPSED = range(9)
ENDED = (CANCELLED, REVOKED, EXPIRED, LAPSED)


@dataclass
class Licence:
    right: bytes
    expires: int
    tenure: int
    revoked: bool = False


@dataclass
class Right:
    """What anyone would write down on paper about one certificate."""

    asset: bytes
    kind: bytes
    holder: str
    parent: Right | None
    registrar: str
    content: bytes
    valid_until: int
    notice_until: int
    notice_left: int = 0
    ended: int = UNKNOWN
    certified: bool = False
    open: set[bytes] = field(default_factory=set)
    managers: set[str] = field(default_factory=set)
    tenure: int = 0
    licences: int = 0

    def ancestors(self) -> list[Right]:
        return [] if self.parent is None else [self.parent, *self.parent.ancestors()]

    def state(self, now: int) -> int:
        if self.ended:
            return self.ended
        if now >= self.valid_until:
            return EXPIRED
        if any(a.ended for a in self.ancestors()):
            return LAPSED
        if not self.certified:
            return OBJECTED if self.open else PUBLICISED
        return DISPUTED if self.open or any(a.open for a in self.ancestors()) else CERTIFIED


class Refused(Exception):
    pass


def need(condition: bool) -> None:
    if not condition:
        raise Refused


class Rights(RuleBasedStateMachine):
    """Each rule tries one act, lawful or not. The contract accepts it exactly if the model does."""

    def __init__(self) -> None:
        super().__init__()
        self.register = Register()
        self.rights: dict[bytes, Right] = {}
        self.disputes: dict[bytes, tuple[Right, bool]] = {}
        self.licences: dict[bytes, Licence] = {}

    @property
    def now(self) -> int:
        return self.register.machine.now

    def attempt(self, model: Callable[[], None], name: str, *arguments: Any, sender: str) -> None:
        try:
            model()
            lawful = True
        except Refused:
            lawful = False
        try:
            self.register(name, *arguments, by=sender)
            accepted = True
        except Reverted:
            accepted = False
        assert accepted is lawful

    def some(self, known: dict[bytes, Any], draw: int) -> bytes:
        """One of those known, or now and then one that does not exist."""
        if draw % 17 == 16 or not known:
            return hashed("unknown")
        return [*known][draw % len(known)]

    def placed(self, right: Right, holder: str) -> None:
        """No certificate of that holder stands in the way."""
        for other in self.rights.values():
            if (other.asset, other.kind, other.holder) == (right.asset, right.kind, holder):
                need(other.state(self.now) in ENDED)
        last = [
            other
            for other in self.rights.values()
            if (other.asset, other.kind, other.holder) == (right.asset, right.kind, holder)
        ]
        need(not last or not last[-1].open)

    @rule(
        sender=SENDERS,
        asset=st.sampled_from([hashed("a"), hashed("b")]),
        kind=st.sampled_from([HOLDING, PROCESSING]),
        holder=st.sampled_from(PEOPLE),
        derived=st.booleans(),
        which=st.integers(0, 1_000),
        lasts=LASTS,
        notice=st.sampled_from([-5, 0, 0, 0, 20, 200]),
    )
    def registers(
        self,
        sender: str,
        asset: bytes,
        kind: bytes,
        holder: str,
        derived: bool,
        which: int,
        lasts: int,
        notice: int,
    ) -> None:
        identifier = self.register.entry()
        parent = self.some(self.rights, which) if derived else NONE
        right = Right(
            asset=asset,
            kind=kind,
            holder=holder,
            parent=self.rights.get(parent),
            registrar=sender,
            content=hashed("content"),
            valid_until=self.now + lasts,
            notice_until=self.now + notice,
        )

        def model() -> None:
            need(sender in REGISTRARS)
            need(self.now < right.valid_until and right.notice_until < right.valid_until)
            self.placed(right, holder)
            if parent != NONE:
                need(right.parent is not None)
                assert right.parent is not None
                need(right.parent.state(self.now) == CERTIFIED)
                need(right.valid_until <= right.parent.valid_until)
                need(len(right.ancestors()) <= 16)
            self.rights[identifier] = right

        self.attempt(
            model,
            *("register", identifier, asset, kind, holder, parent, hashed("content")),
            *(right.valid_until, right.notice_until),
            sender=sender,
        )

    @initialize()
    def two_rights_and_one_derived_from_the_first(self) -> None:
        for holder, derived in [(PEOPLE[0], False), (PEOPLE[1], False), (PEOPLE[1], True)]:
            asset = hashed("b" if derived else "a")
            self.registers(REGISTRAR, asset, HOLDING, holder, derived, 2, 10_000, 0)
            self.certifies(SECOND, 1)
        assert [r.state(self.now) for r in self.rights.values()] == [CERTIFIED] * 3

    @rule(sender=SENDERS, which=st.integers(0, 1_000))
    def certifies(self, sender: str, which: int) -> None:
        waiting = {i: r for i, r in self.rights.items() if r.state(self.now) == PUBLICISED}
        identifier = self.some(waiting or self.rights, which)

        def model() -> None:
            need(sender in REGISTRARS and identifier in self.rights)
            right = self.rights[identifier]
            need(right.state(self.now) == PUBLICISED and sender != right.registrar)
            need(self.now >= right.notice_until)
            need(right.parent is None or right.parent.state(self.now) == CERTIFIED)
            right.certified = True

        self.attempt(model, "certify", self.register.entry(), identifier, sender=sender)

    @rule(
        sender=SENDERS,
        which=st.integers(0, 1_000),
        holder=st.sampled_from([*PEOPLE, ZERO]),
        miscounted=st.integers(0, 9).map(lambda n: n == 0),
    )
    def transfers(self, sender: str, which: int, holder: str, miscounted: bool) -> None:
        identifier = self.some(self.rights, which)
        known = self.rights[identifier].licences if identifier in self.rights else 0

        def model() -> None:
            need(sender in REGISTRARS and identifier in self.rights and not miscounted)
            right = self.rights[identifier]
            need(right.state(self.now) == CERTIFIED and holder not in (ZERO, right.holder))
            self.placed(right, holder)
            right.holder, right.managers, right.tenure = holder, set(), right.tenure + 1
            # The newest certificate of its holder, as a look into the register finds it.
            self.rights[identifier] = self.rights.pop(identifier)

        arguments = (self.register.entry(), identifier, holder, known + miscounted)
        self.attempt(model, "transfer", *arguments, sender=sender)

    @rule(sender=SENDERS, which=st.integers(0, 1_000), text=st.sampled_from(["content", "x", "y"]))
    def changes(self, sender: str, which: int, text: str) -> None:
        identifier = self.some(self.rights, which)

        def model() -> None:
            need(sender in REGISTRARS and identifier in self.rights)
            right = self.rights[identifier]
            need(right.state(self.now) == CERTIFIED and right.content != hashed(text))
            right.content = hashed(text)

        arguments = (self.register.entry(), identifier, hashed(text))
        self.attempt(model, "change", *arguments, sender=sender)

    @rule(sender=SENDERS, which=st.integers(0, 1_000))
    def cancels(self, sender: str, which: int) -> None:
        identifier = self.some(self.rights, which)

        def model() -> None:
            need(sender in REGISTRARS and identifier in self.rights)
            right = self.rights[identifier]
            need(right.state(self.now) in (CERTIFIED, PUBLICISED))
            right.ended = CANCELLED

        self.attempt(model, "cancel", self.register.entry(), identifier, sender=sender)

    @rule(sender=SENDERS, which=st.integers(0, 1_000), longer=st.sampled_from([0, -1, 100, 10_000]))
    def renews(self, sender: str, which: int, longer: int) -> None:
        identifier = self.some(self.rights, which)
        right = self.rights.get(identifier)
        until = (right.valid_until if right else self.now) + longer

        def model() -> None:
            need(sender in REGISTRARS and right is not None)
            assert right is not None
            need(right.state(self.now) in (CERTIFIED, DISPUTED) and longer > 0)
            need(right.parent is None or until <= right.parent.valid_until)
            right.valid_until = until

        self.attempt(model, "renew", self.register.entry(), identifier, until, sender=sender)

    @rule(sender=SENDERS, which=st.integers(0, 1_000))
    def claims(self, sender: str, which: int) -> None:
        identifier, dispute = self.some(self.rights, which), self.register.entry()

        def model() -> None:
            need(sender in REGISTRARS and identifier in self.rights)
            right = self.rights[identifier]
            need(right.state(self.now) in (PUBLICISED, OBJECTED, CERTIFIED, DISPUTED))
            if not right.certified and not right.open:
                need(self.now < right.notice_until)
                right.notice_left = right.notice_until - self.now
            right.open.add(dispute)
            self.disputes[dispute] = right, False

        arguments = (dispute, identifier, hashed("claimant"), hashed("evidence"))
        self.attempt(model, "dispute", *arguments, sender=sender)

    @rule(sender=SENDERS, which=st.integers(0, 1_000), upheld=st.integers(0, 4))
    def rules(self, sender: str, which: int, upheld: int) -> None:
        waiting = {d: known for d, known in self.disputes.items() if not known[1]}
        dispute = self.some(self.disputes if which % 5 == 4 else waiting, which)

        def model() -> None:
            need(sender in REGISTRARS and dispute in self.disputes)
            right, ruled = self.disputes[dispute]
            need(not ruled)
            self.disputes[dispute] = right, True
            right.open.remove(dispute)
            if right.ended:
                return
            if upheld == 0:
                right.ended = REVOKED
            elif not right.certified and not right.open:
                right.notice_until = min(self.now + right.notice_left, right.valid_until)

        arguments = (self.register.entry(), dispute, upheld == 0, hashed("ruling"))
        self.attempt(model, "rule", *arguments, sender=sender)

    @rule(sender=SENDERS, which=st.integers(0, 1_000), lasts=LASTS)
    def licenses(self, sender: str, which: int, lasts: int) -> None:
        identifier, licence = self.some(self.rights, which), self.register.entry()
        expires = self.now + lasts

        def model() -> None:
            need(identifier in self.rights)
            right = self.rights[identifier]
            need(sender in (*REGISTRARS, right.holder, *right.managers))
            need(right.state(self.now) == CERTIFIED)
            need(self.now < expires <= right.valid_until)
            right.licences += 1
            self.licences[licence] = Licence(identifier, expires, right.tenure)

        hashes = (hashed("terms"), hashed("scope"))
        arguments = (licence, identifier, GRANTEE, *hashes, expires)
        self.attempt(model, "license", *arguments, sender=sender)

    @rule(sender=SENDERS, which=st.integers(0, 1_000))
    def revokes(self, sender: str, which: int) -> None:
        valid = {i: known for i, known in self.licences.items() if not known.revoked}
        licence = self.some(self.licences if which % 5 == 4 else valid, which)
        identifier = self.licences[licence].right if licence in self.licences else hashed("?")

        def model() -> None:
            need(licence in self.licences)
            held, right = self.licences[licence], self.rights[identifier]
            need(sender in (*REGISTRARS, right.holder, *right.managers) and not held.revoked)
            need(sender in REGISTRARS or held.tenure == right.tenure)
            held.revoked = True

        self.attempt(model, "revoke", hashed("x"), identifier, licence, sender=sender)

    @rule(
        sender=SENDERS,
        which=st.integers(0, 1_000),
        manager=st.sampled_from(PEOPLE),
        appointed=st.booleans(),
    )
    def appoints(self, sender: str, which: int, manager: str, appointed: bool) -> None:
        identifier = self.some(self.rights, which)

        def model() -> None:
            need(identifier in self.rights)
            right = self.rights[identifier]
            need(sender in (*REGISTRARS, right.holder))
            need(right.state(self.now) in (PUBLICISED, OBJECTED, CERTIFIED, DISPUTED))
            need((manager in right.managers) is not appointed)
            (right.managers.add if appointed else right.managers.discard)(manager)

        self.attempt(model, "set_manager", identifier, manager, appointed, sender=sender)

    @rule(seconds=st.sampled_from([1, 5, 20, 100]))
    def time_passes(self, seconds: int) -> None:
        self.register.later(seconds)

    @invariant()
    def every_right_is_in_the_state_the_model_says(self) -> None:
        for identifier, right in self.rights.items():
            assert self.register("state", identifier) == right.state(self.now)
            stored = self.register("right_of", identifier)
            assert stored[2] == right.holder
            assert stored[4] == right.content
            assert stored[6] == right.valid_until

    @invariant()
    def tokens_are_the_certified_rights_not_cancelled_or_revoked(self) -> None:
        alive = [r for r in self.rights.values() if r.certified and not r.ended]
        for person in PEOPLE:
            assert self.register("balanceOf", person) == sum(r.holder == person for r in alive)

    @invariant()
    def no_licence_is_in_force_under_a_right_that_is_not(self) -> None:
        for identifier, licence in self.licences.items():
            right = self.rights[licence.right]
            expected = (
                not licence.revoked
                and self.now < licence.expires
                and right.state(self.now) in (CERTIFIED, DISPUTED)
            )
            assert self.register("is_licensed", licence.right, identifier) is expected


class TestRights(Rights.TestCase):  # type: ignore[misc]  # hypothesis makes the class
    settings = settings(max_examples=15, stateful_step_count=40, deadline=None)


@pytest.mark.slow
class TestRightsAtLength(Rights.TestCase):  # type: ignore[misc]  # as above
    settings = settings(max_examples=80, stateful_step_count=100, deadline=None)
