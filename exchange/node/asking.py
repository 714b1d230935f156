"""What a transaction needs of the hub, asked for while no transaction is open.

A node's records have one writer at a time. A hub that answers late must not keep everybody else
from them: whoever waits too long fails, and a run that cannot record how it ended has spent its
budget for nothing. So a step that finds out what it needs is undone, the hub is asked, and the step
begins again with the answer at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from crypto.digest import Digest
from crypto.errors import CryptoError
from crypto.identifiers import JobId, PartyId
from exchange.errors import ExchangeError
from exchange.node.ports import Documents, NodeStore, NodeTransaction
from registry.errors import RegistryError

T = TypeVar("T")


def transact(
    step: Callable[[NodeTransaction, Documents], T], *, store: NodeStore, hub: Documents
) -> T:
    """Run `step` in a transaction of its own and return what it returns.

    step: changes nothing but the transaction, for it may run several times, of which the last
          counts. A question has one answer throughout, also where that is an error.
    """
    answers = _Answers(hub)
    while True:
        try:
            with store.transaction() as tx:
                return step(tx, answers)
        except _Unanswered as question:
            question.ask()


class _Unanswered(Exception):
    """None of our errors, so that no step takes it for an answer."""

    def __init__(self, ask: Callable[[], None]) -> None:
        super().__init__("a question to the hub")
        self.ask = ask


class _Answers:
    """The hub's `Documents`, as far as they were asked for."""

    def __init__(self, hub: Documents) -> None:
        self._hub = hub
        self._known: dict[tuple[str, ...], bytes | Exception] = {}

    def party(self, party: PartyId) -> bytes:
        return self._answer(("party", party), lambda: self._hub.party(party))

    def document(self, digest: Digest) -> bytes:
        return self._answer(("document", str(digest)), lambda: self._hub.document(digest))

    def part(self, job: JobId, digest: Digest) -> bytes:
        return self._answer(("part", job, str(digest)), lambda: self._hub.part(job, digest))

    def _answer(self, question: tuple[str, ...], ask: Callable[[], bytes]) -> bytes:
        def keep() -> None:
            try:
                self._known[question] = ask()
            except (CryptoError, ExchangeError, RegistryError) as error:
                self._known[question] = error

        if question not in self._known:
            raise _Unanswered(keep)
        found = self._known[question]
        if isinstance(found, Exception):
            raise found
        return found
