"""Keeping the parallel SM3 tree: it follows the log, in steps of its own.

It is made from entries that the log has signed already, so nothing of it is on the way of an
entry into the log; a crash leaves it behind, and it catches up.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from crypto.keys import Signer
from ledger.errors import LogDiverged, OtherLog
from ledger.ports import LogStore, Sm3Head, Sm3Store
from ledger.verify.checkpoint import Checkpoint, sign_checkpoint
from ledger.verify.history import SM3_SUFFIX
from ledger.verify.sm3 import Sm3Tree

MAX_STEP: Final = 16_384  # entries per step: bounds the memory and the length of the transaction


def follow(
    log: LogStore, store: Sm3Store, *, origin: str, signer: Signer, now: datetime
) -> Sm3Head | None:
    """Take in what the log has signed since the last head here, and sign the grown tree.

    None if nothing was added but the statement that paired the last heads: otherwise each pair
    would be followed by another. Takes at most MAX_STEP entries: call again until None.
    Raises LogDiverged if what is stored does not reproduce the last head.
    """
    last = store.latest()
    tree = Sm3Tree() if last is None else Sm3Tree(last.checkpoint.size, last.edge)
    name = origin + SM3_SUFFIX
    if last is not None and last.checkpoint.origin != name:
        raise OtherLog(last.checkpoint.origin)
    if last is not None and tree.root != last.checkpoint.root:
        raise LogDiverged(
            f"the stored SM3 tree of size {tree.size} does not have the root that was signed: "
            "remove it, and let it be made again from the entries"
        )
    latest = log.latest()
    end = 0 if latest is None else min(latest.size, tree.size + MAX_STEP)
    if end <= tree.size + (1 if last is not None else 0):
        return None
    tree.add(logged.entry for logged in log.entries(tree.size, end))
    if tree.size != end:
        raise LogDiverged(f"the log has signed {end} entries, and {tree.size} are stored")
    checkpoint = Checkpoint(name, tree.size, tree.root)
    head = Sm3Head(checkpoint, sign_checkpoint(checkpoint, signer), tree.edge, now)
    store.add(head)
    return head
