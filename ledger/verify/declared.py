"""What a log declares of its own keys, policies and anchors, judged as a whole log is walked.

`ledger.verify.history` has the rules. Here they are held against everything that a log shows:
each change of its keys has its authority, and each head carries a line of every key in force for
it. A policy accepts a head for the line of any key that it lists, so without this whoever holds a
key that was replaced, or stolen, could go on signing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from crypto.errors import CryptoError
from crypto.identifiers import PartyId
from crypto.statement import read_statement
from ledger.errors import FormatRefused, KeysRefused, LedgerError, SignatureUnchecked
from ledger.verify.history import (
    ADOPTED,
    ANCHOR_CHANGES,
    KINDS,
    KeysSince,
    read_anchor,
    read_keys,
    read_policy,
    require_every_line,
)
from ledger.verify.report import phrase
from ledger.verify.succession import SUCCEEDED

if TYPE_CHECKING:
    from ledger.verify.log import Entry, PastHead, Tally

MAX_KEPT: Final = 64  # changes of keys that heads seen later are still compared with


class DeclaredKeys:
    """Speaks of the log's own keys: whoever made its first entry, its operator. Nobody else does.

    Memory: MAX_KEPT documents.
    """

    def __init__(self, origin: str, tally: Tally) -> None:
        self._origin = origin
        self._tally = tally
        self._operator: PartyId | None = None
        self._kept: deque[KeysSince] = deque(maxlen=MAX_KEPT)
        self._forgotten = False

    def heard(self, entry: Entry) -> None:
        """Any statement, in its order; no forged one. A change without authority changes nothing:
        what its maker signs from there on fails as well."""
        if entry.place == 0:
            self._operator = entry.actor
        if (entry.actor, entry.subject) != (self._operator, self._origin):
            return
        if entry.type == SUCCEEDED:
            note = phrase("log.says_follows")
            self._tally.unopened("log.follows", entry.name, note)
        if entry.type not in KINDS:
            return
        try:
            statement = read_statement(entry.data).statement
            if entry.type == ADOPTED:
                read_policy(entry.place, statement)
            elif entry.type in ANCHOR_CHANGES:
                read_anchor(entry.place, statement)
            else:
                since = read_keys(entry.place, statement, self._kept[-1] if self._kept else None)
                self._forgotten |= len(self._kept) == MAX_KEPT
                self._kept.append(since)
        except (KeysRefused, FormatRefused, CryptoError) as error:
            why = phrase("reason", reason=error)
            self._tally.fails("log.keys", entry.name, why, index=entry.place)
            return
        self._tally.passes("log.keys")

    def signed(self, head: PastHead) -> None:
        """A head of this log's own history, after every entry that it holds."""
        size = head.checkpoint.size
        subject = f"head {size}"
        found = [since for since in self._kept if since.index < size]
        if not found:
            if self._forgotten:
                self._tally.unopened("log.keys", subject, phrase("keys.forgotten"))
            return  # nothing was declared before it
        try:
            require_every_line(head.note, found[-1].signed.document)
        except SignatureUnchecked as error:
            self._tally.unopened("log.keys", subject, phrase("reason", reason=error))
        except LedgerError as error:
            why = phrase("keys.line", index=found[-1].index, reason=error)
            self._tally.fails("log.keys", subject, why, index=size - 1)
        else:
            self._tally.passes("log.keys")

    def finish(self) -> None:
        if not self._kept:
            self._tally.unopened("log.keys", "log", phrase("keys.none"))
