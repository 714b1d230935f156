"""Asking witnesses at the same time, so that one that is slow holds up no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from threading import Thread

from ledger.errors import LedgerError
from ledger.ports import WitnessPort


def ask_all(
    witnesses: Sequence[WitnessPort], ask: Callable[[WitnessPort], None]
) -> list[LedgerError | None]:
    """What went wrong with each, in their order; None where nothing did.

    ask: called once for each witness, in threads of their own that no end of the program waits
    for; how long it takes at most is for the witness's adapter to say. What it raises that is no
    LedgerError is raised, once all have ended.
    """
    if len(witnesses) == 1:
        return [_failure(ask, witnesses[0])]
    answers: list[Future[LedgerError | None]] = [Future() for _ in witnesses]

    def run(answer: Future[LedgerError | None], witness: WitnessPort) -> None:
        try:
            answer.set_result(_failure(ask, witness))
        except BaseException as error:  # raised again where the answers are waited for
            answer.set_exception(error)

    for answer, witness in zip(answers, witnesses, strict=True):
        Thread(target=run, args=(answer, witness), daemon=True).start()
    wait(answers)
    return [answer.result() for answer in answers]


def _failure(ask: Callable[[WitnessPort], None], witness: WitnessPort) -> LedgerError | None:
    try:
        ask(witness)
    except LedgerError as error:
        return error
    return None
