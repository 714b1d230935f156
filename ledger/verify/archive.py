"""Reading a log's history, and its pairs of heads, from its tiles: nothing but a head is believed.

What is found lies under the head that the auditor's own policy accepted. That the operator signed
each statement is for the audit of the whole log; here it is enough that only the operator can put
such entries into its log, and that changes of keys carry signatures of their own.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from crypto.errors import CryptoError
from crypto.identifiers import PartyId
from crypto.statement import Statement, read_statement
from ledger.tree import Node, cover
from ledger.verify.history import KINDS, LogHistory, read_history
from ledger.verify.merkle import fold
from ledger.verify.sm3 import PAIRED, PairedHeads, Sm3Tree, check_paired, read_paired
from ledger.verify.succession import SUCCEEDED, Predecessor
from ledger.verify.tiles import SignedTree

# How a statement's envelope begins, and what its payload holds if it is one of these: parsing
# every entry of a log to find a handful would take a hundred times as long.
_PAYLOAD: Final = re.compile(rb'\{"payload":"([A-Za-z0-9+/=]*)"')
_MARK: Final = re.compile(rb'"type":"log(_|\.succeeded")')


@dataclass(frozen=True)
class Archive:
    """pairs: every pair of heads that the log names, in order; not checked yet.

    follows: every log that it says it follows, with the entry's index; not checked yet either:
    see check_succession.
    """

    history: LogHistory
    pairs: Sequence[PairedHeads]
    follows: Sequence[tuple[int, Predecessor]]


def read_archive(tree: SignedTree) -> Archive:
    """Everything that a log says of its keys, policies and paired heads.

    Raises KeysRefused, FormatRefused, and what reading tiles raises.
    """
    said: list[tuple[int, Statement]] = []
    operator = None
    for index, entry in tree.entries():
        if index == 0:
            operator = _operator(entry)
        statement = _own_statement(entry)
        if statement is None or statement.subject != tree.checkpoint.origin:
            continue
        if statement.actor == operator:
            said.append((index, statement))
    history = read_history(said, origin=tree.checkpoint.origin)
    follows = [
        (index, Predecessor.read(statement.body, where=f"entry {index}"))
        for index, statement in said
        if statement.type == SUCCEEDED
    ]
    return Archive(history, [read_paired(s) for _, s in said if s.type == PAIRED], follows)


def check_pairs(tree: SignedTree, archive: Archive) -> int:
    """How many pairs of heads there are, once each is shown to be of the log's entries.

    Reads the log once more. Raises ConsistencyRefused, SignatureUnchecked on a machine without
    SM2, and what check_paired raises.
    """
    sm3 = Sm3Tree()
    for paired in sorted(archive.pairs, key=lambda paired: paired.size):
        sm3.add(entry for _, entry in tree.entries(sm3.size, min(paired.size, tree.size)))
        keys = archive.history.keys_for(paired.size)
        check_paired(paired, sm3, _root(tree, sm3.size), keys)
    return len(archive.pairs)


def _operator(first: bytes) -> PartyId | None:
    """Whoever made the log's first entry; nobody else speaks of its keys."""
    try:
        return read_statement(first).statement.actor
    except CryptoError:
        return None


def _own_statement(entry: bytes) -> Statement | None:
    found = _PAYLOAD.match(entry)
    try:
        if found is None or _MARK.search(base64.b64decode(found[1])) is None:
            return None
        statement = read_statement(entry).statement
    except (binascii.Error, CryptoError):  # an entry may be any bytes: this one is no statement
        return None
    return statement if statement.type in chain(KINDS, (PAIRED, SUCCEEDED)) else None


def _root(tree: SignedTree, size: int) -> bytes:
    nodes: Iterable[Node] = cover((0, size))
    return fold([tree.node(node) for node in nodes])
