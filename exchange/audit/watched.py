"""The deals and jobs of a log that is followed: which there are, and what their bundles show.

Terms, budgets, counts and amounts are not public. They are judged from the bundles of deals, as
far as this reader is given any; of every other deal it is said once that it was not opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from crypto.digest import digest
from crypto.errors import CryptoError
from crypto.identifiers import DealId, PartyId
from crypto.statement import Statement
from exchange.audit import bundle as bundles
from exchange.audit.alerts import Alerts, Kind
from exchange.audit.deal import audit_deal
from exchange.audit.errors import AuditError
from exchange.audit.openings import Opener
from exchange.audit.roots import Roots
from exchange.errors import BundleNotReady
from ledger.errors import ConsistencyRefused, LedgerError, SourceUnreachable
from ledger.verify.checkpoint import open_checkpoint
from ledger.verify.log import Entry
from ledger.verify.note import Note
from ledger.verify.policy import Policy
from ledger.verify.report import phrase
from ledger.verify.tiles import SignedTree
from pricing.evidence import HELD, REFUNDED

# As long as a plan may let a run take (`Plan.run_seconds`), and the hub wait for it after that.
LONGEST_RUN: Final = timedelta(seconds=86_400 + 30)
GRACE: Final = timedelta(seconds=30)


class Bundles(Protocol):
    """Where this reader gets the evidence of a deal."""

    def read(self, deal: DealId) -> bytes | None:
        """The deal's bundle as of now; None where this reader is given none. Raises
        BundleNotReady where there will be one in a moment."""
        ...


class FolderBundles:
    """Files `<deal>.zip`, put there by whoever may fetch them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, deal: DealId) -> bytes | None:
        try:
            with (self._folder / f"{deal}.zip").open("rb") as file:
                return file.read(bundles.MAX_BUNDLE_BYTES + 1)
        except FileNotFoundError:
            return None


class Deals:
    """Reads the bundles of deals of which something was heard. work: what was heard."""

    def __init__(
        self,
        source: Bundles | None,
        policy: Policy,
        roots: Roots,
        opener: Opener | None,
        alerts: Alerts,
    ) -> None:
        self._bundles = source
        self._policy = policy
        self._roots = roots
        self._opener = opener
        self._alerts = alerts
        self.work = Work()

    def check(self, tree: SignedTree, note: str) -> None:
        changed = self.work.changed()
        for at, deal in enumerate(changed):
            try:
                self._check(deal, tree, note)
            except SourceUnreachable:
                for left in changed[at:]:
                    self.work.again(left)
                raise

    def _check(self, deal: DealId, tree: SignedTree, note: str) -> None:
        try:
            data = None if self._bundles is None else self._bundles.read(deal)
        except BundleNotReady:
            self.work.again(deal)
            return
        if data is None:
            self._not_opened(deal)
            return
        try:
            shown = bundles.read(data)
            if self._is_of_this_log(deal, shown, tree, note):
                self._audit(deal, data, shown)
        except SourceUnreachable:
            raise
        except (AuditError, LedgerError) as error:
            why = phrase("follow.bundle", reason=error)
            self._alerts.once(Kind.FORGED, deal, why, check=str(digest(data)))

    def _is_of_this_log(
        self, deal: DealId, shown: bundles.Bundle, tree: SignedTree, note: str
    ) -> bool:
        """Whether the bundle's head is one of the history that is followed. One that is newer is
        for the next look."""
        head = open_checkpoint(Note.parse(shown.checkpoint), self._policy.log_keys)
        if head.size > tree.size:
            self.work.again(deal)
            return False
        try:
            tree.consistency(head.size, head.root)
        except ConsistencyRefused as error:
            why = phrase("follow.bundle_forked", reason=error)
            notes = [shown.checkpoint.decode(), note]
            self._alerts.once(Kind.FORK, deal, why, notes=notes)
            return False
        return True

    def _audit(self, deal: DealId, data: bytes, shown: bundles.Bundle) -> None:
        report = audit_deal(data, self._policy, self._roots, self._opener)
        if report.answers.deal != deal:
            self._alerts.once(
                Kind.FORGED, deal, phrase("follow.other_deal", deal=report.answers.deal)
            )
            return
        for check in report.failed:
            self._alerts.failed_in(deal, check)
        size = open_checkpoint(Note.parse(shown.checkpoint), self._policy.log_keys).size
        for index in self.work.entries(deal):
            if index < size and index not in shown.entries:
                why = phrase("follow.withheld", index=index)
                self._alerts.once(Kind.MISSING, deal, why, index=index)
        if any(index >= size for index in self.work.entries(deal)):
            self.work.again(deal)  # the bundle is older than what was heard
        for answer in report.answers.ran:
            limit = timedelta(seconds=answer.plan.run_seconds) + GRACE
            self.work.plan(answer.plan.job, answer.plan.run_by + limit)
        if self._opener is None:
            self._not_opened(deal)

    def _not_opened(self, deal: DealId) -> None:
        self._alerts.once(Kind.NOT_OPENED, deal, phrase("follow.not_opened"))


@dataclass
class Run:
    """A job under way. started: when each says that it began. deadline: as far as is known."""

    holder_of_money: PartyId
    started: dict[PartyId, datetime] = field(default_factory=dict)
    sealed: set[PartyId] = field(default_factory=set)
    planned: datetime | None = None

    @property
    def deadline(self) -> datetime:
        return self.planned or max(self.started.values()) + LONGEST_RUN


class Work:
    """Which deals and jobs there are, and what was said about each."""

    def __init__(self) -> None:
        self._deal_of: dict[str, DealId] = {}
        self._entries: dict[str, list[int]] = {}  # by subject
        self._subjects: dict[DealId, list[str]] = {}
        self._taken_in: set[str] = set()  # subjects that the hub surely keeps
        self._runs: dict[str, Run] = {}
        self._planned: dict[str, datetime] = {}
        self._changed: dict[DealId, None] = {}

    def heard(self, entry: Entry, statement: Statement) -> None:
        subject = entry.subject
        if subject not in self._deal_of and "deal" in statement.body:
            with suppress(CryptoError):
                deal = DealId.parse(statement.body["deal"])
                self._deal_of[subject] = deal
                self._subjects.setdefault(deal, []).append(subject)
        self._run(entry)
        known = self._deal_of.get(subject)
        if known is not None:
            self._entries.setdefault(subject, []).append(entry.place)
            self._changed[known] = None

    def _run(self, entry: Entry) -> None:
        subject = entry.subject
        if entry.type == HELD:
            self._taken_in.add(subject)
            self._runs.setdefault(subject, Run(entry.actor, planned=self._planned.get(subject)))
        run = self._runs.get(subject)
        if run is None:
            return
        if entry.type == "job.started":
            run.started[entry.actor] = entry.time
        elif entry.type == "job.sealed":
            run.sealed.add(entry.actor)
        elif entry.type in ("job.released", REFUNDED) and entry.actor == run.holder_of_money:
            del self._runs[subject]  # its end, in one transaction with the refund, or its result

    def running(self) -> Iterator[tuple[str, Run]]:
        return ((subject, run) for subject, run in self._runs.items() if run.started)

    def plan(self, job: str, deadline: datetime) -> None:
        self._planned[job] = deadline
        if job in self._runs:
            self._runs[job].planned = deadline

    def changed(self) -> list[DealId]:
        """Deals of which something was heard since the last call."""
        found, self._changed = list(self._changed), {}
        return found

    def again(self, deal: DealId) -> None:
        self._changed[deal] = None

    def entries(self, deal: DealId) -> list[int]:
        """Entries that the deal's bundle must hold: about jobs for which the operator held the
        price. What strangers say of a deal that is not theirs, the hub leaves out."""
        return [
            index
            for subject in self._subjects.get(deal, ())
            if subject in self._taken_in
            for index in self._entries.get(subject, ())
        ]
