"""Public statements that reach a replay one after the other, each under a witnessed head."""

from __future__ import annotations

from datetime import datetime
from itertools import count

from crypto.digest import digest
from crypto.identifiers import JobId, NegotiationId, PartyId
from exchange.audit.public import PublicReplay
from ledger.verify.chain import Times
from ledger.verify.log import Entry, Tally, Timing

CONSUMER, HOLDER, SECOND, HELPER, OPERATOR, STRANGER = (PartyId("pty_" + c * 32) for c in "abcdef")
DEAL, OTHER_DEAL = NegotiationId("neg_" + "1" * 32), NegotiationId("neg_" + "3" * 32)
JOB = JobId("job_" + "2" * 32)
AGREEMENT, OTHER_AGREEMENT, PLAN = (digest(w).raw for w in (b"agreement", b"other", b"plan"))


def document(party: PartyId) -> bytes:
    """The digest of a party's document."""
    return digest(b"document of " + party.encode()).raw


class PublicLog:
    """holders: one agreement each, named in the job's submission. helper: named there as well.

    timing: of every statement that does not say otherwise.
    """

    def __init__(
        self,
        *,
        holders: tuple[PartyId, ...] = (HOLDER,),
        helper: PartyId | None = None,
        timing: Timing = Timing.FITS,
    ) -> None:
        self.tally = Tally()
        self.replay = PublicReplay(self.tally)
        self.replay.operator = OPERATOR
        self.timing = timing
        self.parties = (*holders, *((helper,) if helper else ()))
        self.agreements = dict(zip(holders, (AGREEMENT, OTHER_AGREEMENT), strict=False))
        self.said: dict[tuple[PartyId, str], bytes] = {}
        self._places = count()
        self.size = 0
        for party in self.parties:
            PublicLog.says(
                self, party, "party.registered", party, inputs=(), outputs=(document(party),)
            )

    def says(
        self,
        actor: PartyId,
        kind: str,
        subject: str = JOB,
        *,
        after: tuple[bytes, ...] = (),
        inputs: tuple[bytes, ...] = (PLAN,),
        outputs: tuple[bytes, ...] = (),
        policy: bytes | None = None,
        timing: Timing | None = None,
        heard: bool = True,
        again: bytes | None = None,
    ) -> bytes:
        """heard: whether it can be told who signed it. again: the digest, if these bytes were
        logged before. Returns the statement's digest."""
        place = next(self._places)
        self.size = place + 1
        name = again or digest(b"%d" % place).raw
        entry = Entry(
            place,
            name,
            actor=actor,
            type=kind,
            subject=subject,
            after=after,
            inputs=inputs,
            outputs=outputs,
            policy=policy,
            data=b"x" * 60_000,
        )
        if heard:
            self.replay.heard(entry, timing or self.timing, place)
        else:
            self.replay.unheard(entry)
        if actor != STRANGER:
            self.said[actor, kind] = name
        return name

    def is_witnessed(self, at: datetime) -> None:
        """All of it, at this time."""
        self.replay.witnessed(self.size, Times(at, at))

    def agrees(self, *, without: str = "", terminated: Timing | None = None) -> None:
        """Each holder and the consumer, by the table."""
        for (holder, agreement), deal in zip(
            self.agreements.items(), (DEAL, OTHER_DEAL), strict=False
        ):
            self.says(CONSUMER, "negotiation.requested", deal, inputs=())
            if terminated is not None:
                self.says(CONSUMER, "negotiation.terminated", deal, inputs=(), timing=terminated)
            for actor, kind, outputs in (
                (holder, "negotiation.agreed", (agreement,)),
                (CONSUMER, "negotiation.verified", (agreement,)),
                (holder, "negotiation.finalized", ()),
            ):
                if kind != without:
                    self.says(actor, kind, deal, inputs=(), outputs=outputs)

    def submits(self, actor: PartyId = CONSUMER, timing: Timing | None = None) -> bytes:
        inputs = (*self.agreements.values(), *map(document, self.parties))
        return self.says(actor, "job.submitted", inputs=inputs, outputs=(PLAN,), timing=timing)

    def holds(self) -> bytes:
        after = (self.said[CONSUMER, "job.submitted"],)
        inputs = (PLAN, *self.agreements.values())
        return self.says(OPERATOR, "funds.held", after=after, inputs=inputs)

    def admits(self, timing: Timing | None = None) -> None:
        for party in self.parties:
            agreement = self.agreements.get(party)
            self.says(party, "job.admitted", policy=agreement, timing=timing)

    @property
    def admissions(self) -> tuple[bytes, ...]:
        return tuple(self.said[party, "job.admitted"] for party in self.parties)

    def starts(self, timing: Timing | None = None) -> None:
        for party in self.parties:
            self.says(party, "job.started", after=self.admissions, timing=timing)

    def seals(self) -> tuple[bytes, ...]:
        return tuple(self.says(party, "job.sealed") for party in self.parties)

    def refunds(self, *because: bytes) -> bytes:
        return self.says(OPERATOR, "funds.refunded", after=because)

    def releases_and_pays(self) -> None:
        receipts = tuple(self.said[party, "job.sealed"] for party in self.parties)
        released = self.says(OPERATOR, "job.released", after=receipts)
        self.says(OPERATOR, "funds.released", after=(*receipts, released))

    def until_admitted(self, timing: Timing | None = None) -> None:
        """timing: of the admissions."""
        self.agrees()
        self.submits()
        self.holds()
        self.admits(timing)

    @property
    def failed(self) -> list[str]:
        """Types of the statements that did not follow."""
        return [subject.split(" ")[2] for kept in self.tally.failed.values() for subject, _ in kept]

    @property
    def unopened(self) -> list[str]:
        return [subject.split(" ")[2] for kept in self.tally.open.values() for subject, _ in kept]
