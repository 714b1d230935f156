"""One lookup between a holder (rank 0) and a consumer (rank 1).

    consumer -> holder   begin      digest of the common task; 1 if it has the table, else 0
    holder -> consumer   table      the table in blocks, unless the consumer has it
    consumer -> holder   blinded    exactly `evaluations` elements; random keys fill the batch
    holder -> consumer   evaluated  as many elements, and one proof

The consumer looks for its rows by itself and says nothing more. So the holder receives uniform
elements, their number, which the plan fixes, and whether the table was new. It learns neither a
key, nor how many of the batch were meant, nor whether one was found: a row that it damaged in
order to see whose run fails makes no run fail. The consumer learns F at the keys of one batch:
each guess at a key costs an evaluation, which is what the holder's budget and rate limit count.

The plan names the table's digest, the table names the public key, and the proof shows that this
key answered: a holder cannot mark one consumer by a key of its own. That all consumers are given
the same table is for the product's published version to show.
Source: RFC 9497; labelled lookups over a static encrypted set as in Kales et al., "Mobile Private
Contact Discovery at Scale", USENIX Security 2019.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from crypto.engine import EngineStage, LookupTask
from crypto.errors import EngineFailed, EngineFault, Malformed
from crypto.lookup import oprf
from crypto.lookup.ports import Element, Group
from crypto.lookup.spread import spread
from crypto.lookup.table import (
    Absence,
    Table,
    TableSecret,
    public_key,
    require_keys,
    size_bytes,
)
from crypto.ports import Channels, Randomness

HOLDER: Final = 0
CONSUMER: Final = 1
BLOCK_BYTES: Final = 4 << 20

_BEGIN: Final = "lookup/begin"
_TABLE: Final = "lookup/table"
_BLINDED: Final = "lookup/blinded"
_EVALUATED: Final = "lookup/evaluated"
_FILLER_BYTES: Final = 32

OnStage = Callable[[EngineStage], None]


def serve(
    task: LookupTask,
    secret: TableSecret,
    table: Table,
    *,
    group: Group,
    channels: Channels,
    randomness: Randomness,
    on_stage: OnStage,
) -> int:
    """The holder's side. Gives the evaluations spent: also those of keys that have no record.

    The caller has set them aside in the consumer's budget before, for a run that fails after its
    answer left has spent them too. Raises EngineFailed.
    """
    with _failing(EngineFault.INPUT):
        _require_table(task, table)
        if secret.keys.public != table.public:
            raise Malformed("seed", "is not the one that the table was made from")
    on_stage(EngineStage.UPLOAD)
    with _failing(EngineFault.MISMATCH):
        begin = channels.receive(CONSUMER, _BEGIN)
        if begin[:-1] != task.common.raw or begin[-1] not in (0, 1):
            raise Malformed("begin", "is of another task than the holder's")
    if not begin[-1]:
        for start in range(0, len(table.image), BLOCK_BYTES):
            channels.send(CONSUMER, _TABLE, table.image[start : start + BLOCK_BYTES].data)
    on_stage(EngineStage.COMPUTE)
    with _failing(EngineFault.MISMATCH):
        blinded = _elements(group, channels.receive(CONSUMER, _BLINDED), task.evaluations)
        evaluated, proof = oprf.blind_evaluate(group, secret.keys, blinded, randomness=randomness)
    channels.send(CONSUMER, _EVALUATED, b"".join(evaluated) + proof.to_bytes())
    return task.evaluations


def ask(
    task: LookupTask,
    keys: Sequence[bytes],
    cached_table: Path,
    *,
    group: Group,
    channels: Channels,
    randomness: Randomness,
    on_stage: OnStage,
) -> list[bytes | Absence]:
    """The consumer's side. Gives for each key its record, or why there is none.

    keys: canonical and distinct, at most `task.evaluations`
    cached_table: the file that holds the table of `task.table`, or is to hold it
    Raises EngineFailed. What is found decides neither whether it does nor what the holder sees.
    """
    with _failing(EngineFault.INPUT):
        require_keys(keys)
        if len(keys) > task.evaluations:
            raise Malformed("keys", f"are more than the plan's {task.evaluations} evaluations")
    on_stage(EngineStage.UPLOAD)
    table = _cached(task, cached_table)
    channels.send(HOLDER, _BEGIN, task.common.raw + bytes([table is not None]))
    if table is None:
        table = _download(task, cached_table, channels)
    with _failing(EngineFault.MISMATCH):
        public = public_key(group, table)
    on_stage(EngineStage.COMPUTE)
    # Random keys take as long as the others, so neither bytes nor time tell how many are meant.
    fillers = [randomness.draw(_FILLER_BYTES) for _ in range(task.evaluations - len(keys))]
    batch = [*keys, *fillers]
    blinded = spread(
        lambda part: [oprf.blind(group, key, randomness=randomness) for key in part], batch
    )
    elements = [one.element for one in blinded]
    channels.send(HOLDER, _BLINDED, b"".join(elements))
    answer = channels.receive(HOLDER, _EVALUATED)
    on_stage(EngineStage.CHECK)
    with _failing(EngineFault.MISMATCH):
        evaluated = _elements(group, answer[: -oprf.PROOF_BYTES], task.evaluations)
        proof = oprf.Proof.parse(bytes(answer[-oprf.PROOF_BYTES :]))
        oprf.verify_proof(group, public, elements, evaluated, proof)
    on_stage(EngineStage.MATCH)
    scalars = [one.scalar for one in blinded]
    outputs = spread(
        lambda part: [oprf.finalize(group, *one) for one in part],
        list(zip(batch, scalars, evaluated, strict=True)),
    )
    return table.records(outputs)[: len(keys)]


def _cached(task: LookupTask, path: Path) -> Table | None:
    if not path.exists():
        return None
    try:
        table = Table.load(path)
        _require_table(task, table)
    except Malformed:
        return None  # of another version, or broken here: it is asked for again
    return table


def _download(task: LookupTask, path: Path, channels: Channels) -> Table:
    expected = size_bytes(task.rows, task.label_bytes)
    # Another run may be receiving the same table.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        while (left := expected - file.tell()) > 0:
            block = channels.receive(HOLDER, _TABLE)
            if len(block) != min(left, BLOCK_BYTES):
                raise EngineFailed(EngineFault.MISMATCH, "a block of the table has another size")
            file.write(block)
    with _failing(EngineFault.MISMATCH):
        try:
            table = Table.load(part)
            _require_table(task, table)
        except Malformed:
            part.unlink()
            raise
    part.replace(path)  # a crash before it leaves no half table under this name
    return table


def _require_table(task: LookupTask, table: Table) -> None:
    if (table.rows, table.label_bytes, table.epoch) != (task.rows, task.label_bytes, task.epoch):
        raise Malformed("table", "has another size or epoch than the plan says")
    if table.digest != task.table:
        raise Malformed("table", "is not the one that the plan names")


def _elements(group: Group, data: bytes | bytearray, count: int) -> list[Element]:
    if len(data) != count * oprf.ELEMENT_BYTES:
        raise Malformed("batch", "has another size than the plan says")
    raw = bytes(data)
    return [
        oprf.decode_element(group, raw[start : start + oprf.ELEMENT_BYTES])
        for start in range(0, len(raw), oprf.ELEMENT_BYTES)
    ]


@contextmanager
def _failing(fault: EngineFault) -> Iterator[None]:
    try:
        yield
    except Malformed as error:
        raise EngineFailed(fault, str(error)) from None
