"""How long a question to a stranger's server may take as a whole.

The time limit of a socket is one for each of its operations: a server that sends a byte just
before each would run out, in its headers or in its answer, is waited for without end.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

Answer = TypeVar("Answer")


def within(timeout_s: float, ask: Callable[[], Answer]) -> Answer:
    """What `ask` returns or raises. Raises TimeoutError, which is an OSError, after that time.

    `ask` is then left to end by itself, in a thread that no end of the program waits for: it has
    to have limits of its own, and its answer comes to nobody.
    """
    answer: Future[Answer] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:  # raised again where the answer is waited for
            answer.set_exception(error)

    Thread(target=run, daemon=True).start()
    try:
        return answer.result(timeout_s)
    except TimeoutError:
        if answer.done():  # its own, with its own words
            raise
        raise TimeoutError(f"not answered in full in {timeout_s:g} s") from None
