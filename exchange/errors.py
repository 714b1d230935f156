"""Every error of this package is an ExchangeError.

ExchangeError
├── TermsRefused        propose other terms: the message names the clause
├── PlanRefused         fix the plan, or ask for other terms: names the constraint that failed
│   └── BudgetExhausted a product's privacy account cannot pay; only its holder can raise the total
├── IllegalTransition   the negotiation or job is not where this act needs it to be
├── ChainBroken         the actor's statements do not follow each other; stop and look
├── NotYours            this party has no part in what it asks for
├── UnknownSubject      no such negotiation, agreement, deal or job
├── HistoryRefused      its difference from an earlier answer would single people out
├── QuestionRefused     the question does not fit the products: names the field
├── EvidenceMissing     the ledger does not hold what it must; raise the alarm
├── BundleNotReady      ask again in a moment: nothing of the deal is under a head yet
├── BookkeepingBehind   the hub's records are older than its ledger; it must not work
├── RestoredBackup      this node's records are older than the ledger; it must not work
└── HubUnreachable      try later; nothing was lost
"""

from __future__ import annotations

from fractions import Fraction


class ExchangeError(Exception):
    """Base of all errors raised by `exchange`."""


class TermsRefused(ExchangeError):
    """Terms that a product or an earlier step does not allow. `clause` names which."""

    def __init__(self, clause: str, problem: str) -> None:
        super().__init__(f"{clause}: {problem}")
        self.clause = clause
        self.problem = problem


class PlanRefused(ExchangeError):
    """A plan that this party does not compute. `constraint` names what failed, never data."""

    def __init__(self, constraint: str, problem: str) -> None:
        super().__init__(f"{constraint}: {problem}")
        self.constraint = constraint
        self.problem = problem


class BudgetExhausted(PlanRefused):
    """A product's privacy account, shared by all its consumers, has less left than the job costs.

    name: epsilon or delta. asked, left: exact.
    """

    def __init__(self, product: str, name: str, *, asked: Fraction, left: Fraction) -> None:
        super().__init__(
            f"rule.privacy.{name}_total",
            f"data product {product} has {name} {left} left; the job asks for {asked}",
        )
        self.product = product
        self.name = name
        self.asked = asked
        self.left = left


class IllegalTransition(ExchangeError):
    """An event that the present state does not allow. Nothing changed."""

    def __init__(self, subject: str, state: str, event: str) -> None:
        super().__init__(f"{subject} is {state}; {event} is not possible there")
        self.subject = subject
        self.state = state
        self.event = event


class ChainBroken(ExchangeError):
    """A statement that does not follow the actor's last one."""

    def __init__(self, actor: str, expected_seq: int, found_seq: int, problem: str) -> None:
        super().__init__(
            f"statement {found_seq} of {actor} {problem}; the next one must be {expected_seq}"
        )
        self.actor = actor
        self.expected_seq = expected_seq
        self.found_seq = found_seq
        self.problem = problem


class NotYours(ExchangeError):
    """The caller has no part in this."""


class UnknownSubject(ExchangeError):
    """Nothing is known under this identifier."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not known here")
        self.what = what


class QuestionRefused(ExchangeError):
    """A question that no plan can answer. `where` names the field."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


class HistoryRefused(ExchangeError):
    """An exact answer that, alone or beside an earlier one, would isolate fewer people than
    `least`."""

    def __init__(self, least: int) -> None:
        super().__init__(
            "the answer, or its difference from an earlier one, would be about fewer than "
            f"{least} people; ask with noise, or for other groups"
        )
        self.least = least


class ExactRefused(ExchangeError):
    """A question that this holder's product answers with noise only, by now."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}; ask with noise (give epsilon)")


class EvidenceMissing(ExchangeError):
    """The ledger does not show what it must."""


class BundleNotReady(ExchangeError):
    """A deal of which nothing is under a witnessed head yet."""


class BookkeepingBehind(ExchangeError):
    """The ledger holds statements that the hub's own records do not know."""

    def __init__(self, unknown: int) -> None:
        super().__init__(
            f"the ledger holds {unknown} statements that this hub's bookkeeping does not know: it "
            "was restored from an older backup than the ledger. Accounts, jobs and chains of "
            "statements would be written a second time; restore a newer backup of the database"
        )
        self.unknown = unknown


class RestoredBackup(ExchangeError):
    """The ledger holds statements of this party that its own records do not."""


class HubUnreachable(ExchangeError):
    """The hub cannot be reached now."""
