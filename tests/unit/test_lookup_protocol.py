"""One lookup between holder and consumer: what is found, what each receives, what is refused."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crypto import record
from crypto.adapters import lookup_engine
from crypto.adapters.ristretto import Ristretto255
from crypto.digest import Digest, digest
from crypto.engine import EngineOutcome, EngineStage, LookupTask, Seat, TaskLine
from crypto.errors import EngineFailed, EngineFault, Malformed
from crypto.lookup import oprf
from crypto.lookup.answers import KEYS_FILE, TABLE_FILE, AskedKeys, unpack
from crypto.lookup.protocol import BLOCK_BYTES, CONSUMER, HOLDER, ask, serve
from crypto.lookup.table import Absence, Table, TableSecret, make_table, table_secret
from crypto.ports import SystemRandomness
from tests.fakes.tunnel import free_port

GROUP = Ristretto255()
RANDOM = SystemRandomness()
SEED = b"s" * 32
SECRET = table_secret(GROUP, SEED, epoch=1)
KEYS = [b"%d" % number for number in range(30)]
RECORDS = [b"record of %d" % number for number in range(30)]
CAP, LABEL, BATCH = 40, 24, 8


def a_table(*, secret: TableSecret = SECRET, records: list[bytes] = RECORDS) -> Table:
    return make_table(
        KEYS,
        records,
        group=GROUP,
        secret=secret,
        randomness=RANDOM,
        cap=CAP,
        label_bytes=LABEL,
    )


TABLE = a_table()


def a_task(rank: int, *, table: Table = TABLE, **changes: Any) -> LookupTask:
    other = 1 - rank
    seat = Seat(
        attempt="attempt_1",
        plan=digest(b"plan"),
        rank=rank,
        listen="127.0.0.1:7001",
        peers=tuple("" if r == rank else f"127.0.0.1:{7001 + r}" for r in (0, 1)),
        keys=tuple(b"" if r == rank else b"k" * 32 for r in (0, 1)),
        connect_timeout_ms=2000,
        receive_timeout_ms=2000,
    )
    assert seat.peers[other]
    fields: dict[str, Any] = {
        "seat": seat,
        "table": table.digest,
        "epoch": table.epoch,
        "rows": table.rows,
        "label_bytes": table.label_bytes,
        "evaluations": BATCH,
        "seed": SEED if rank == HOLDER else b"",
    }
    return LookupTask(**{**fields, **changes})


class Line:
    """One end of the channels between two threads, which remembers what it received."""

    def __init__(self) -> None:
        self._in: queue.Queue[tuple[str, bytes] | None] = queue.Queue()
        self.other: Line = self
        self.received: list[tuple[str, bytes]] = []
        self.sent_bytes = 0

    def send(self, to: int, label: str, payload: bytes | bytearray | memoryview) -> None:
        self.sent_bytes += len(payload)
        self.other._in.put((label, bytes(payload)))

    def receive(self, of: int, label: str) -> bytearray:
        if (found := self._in.get(timeout=10)) is None:
            raise EngineFailed(EngineFault.PEER, "a peer's engine went away")
        self.received.append(found)
        if found[0] != label:
            raise EngineFailed(EngineFault.MISMATCH, "a peer sent another message")
        return bytearray(found[1])

    def hang_up(self) -> None:
        self.other._in.put(None)


def lines() -> tuple[Line, Line]:
    holder, consumer = Line(), Line()
    holder.other, consumer.other = consumer, holder
    return holder, consumer


Side = Callable[[Line], Any]


def both(holder: Side, consumer: Side) -> tuple[Any, Any, Line, Line]:
    """Run both sides; each gives what it returned or the error it raised."""
    ends = lines()
    found: list[Any] = [None, None]

    def run(rank: int, side: Side) -> None:
        try:
            found[rank] = side(ends[rank])
        except EngineFailed as error:
            found[rank] = error
        finally:
            ends[rank].hang_up()

    threads = [
        threading.Thread(target=run, args=(r, side)) for r, side in enumerate((holder, consumer))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found[0], found[1], *ends


def serving(
    table: Table = TABLE,
    secret: TableSecret = SECRET,
    stages: list[EngineStage] | None = None,
    **changes: Any,
) -> Side:
    return lambda line: serve(
        a_task(HOLDER, **{"table": table, **changes}),
        secret,
        table,
        group=GROUP,
        channels=line,
        randomness=RANDOM,
        on_stage=(stages if stages is not None else []).append,
    )


def asking(
    keys: list[bytes],
    cached: Path,
    *,
    table: Table = TABLE,
    stages: list[EngineStage] | None = None,
    **changes: Any,
) -> Side:
    return lambda line: ask(
        a_task(CONSUMER, table=table, **changes),
        keys,
        cached,
        group=GROUP,
        channels=line,
        randomness=RANDOM,
        on_stage=(stages if stages is not None else []).append,
    )


def fault(error: object) -> EngineFault:
    assert isinstance(error, EngineFailed), error
    return error.fault


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """The consumer's table, already there."""
    TABLE.save(tmp_path / "table")
    return tmp_path / "table"


def test_a_consumer_gets_the_records_of_its_keys_and_the_holder_a_count(tmp_path: Path) -> None:
    stages: list[EngineStage] = []
    keys = [b"3", b"no such key", b"29"]
    spent, found, _, _ = both(serving(), asking(keys, tmp_path / "table", stages=stages))
    assert found == [b"record of 3", Absence.NO_RECORD, b"record of 29"]
    assert spent == BATCH
    assert stages == [
        EngineStage.UPLOAD,
        EngineStage.COMPUTE,
        EngineStage.CHECK,
        EngineStage.MATCH,
    ]


@pytest.mark.parametrize("count", [0, BATCH], ids=["nothing meant", "the whole batch"])
def test_a_batch_may_be_all_fillers_or_none(cached: Path, count: int) -> None:
    spent, found, _, _ = both(serving(), asking(KEYS[:count], cached))
    assert (spent, found) == (BATCH, RECORDS[:count])


def test_the_table_travels_once(tmp_path: Path) -> None:
    _, found, holder, first = both(serving(), asking([b"3"], tmp_path / "table"))
    assert found == [b"record of 3"] and holder.sent_bytes > len(TABLE.image)
    assert [label for label, _ in first.received] == ["lookup/table", "lookup/evaluated"]
    _, found, holder, second = both(serving(), asking([b"3"], tmp_path / "table"))
    assert found == [b"record of 3"] and holder.sent_bytes == BATCH * 32 + 64
    assert [label for label, _ in second.received] == ["lookup/evaluated"]


def test_a_table_of_many_blocks_arrives_whole(tmp_path: Path) -> None:
    large = make_table(
        [b"1"],
        [b"one"],
        group=GROUP,
        secret=SECRET,
        randomness=RANDOM,
        cap=300,
        label_bytes=2**15,
    )
    assert len(large.image) > 2 * BLOCK_BYTES
    spent, found, _, consumer = both(
        serving(large), asking([b"1"], tmp_path / "table", table=large)
    )
    assert (spent, found) == (BATCH, [b"one"])
    assert len(consumer.received) == 3 + 1
    assert Table.load(tmp_path / "table").digest == large.digest


@pytest.mark.parametrize("spoil", ["cut", "altered", "another version"])
def test_a_cached_table_that_is_not_the_plans_is_fetched_again(cached: Path, spoil: str) -> None:
    data = bytearray(cached.read_bytes())
    if spoil == "cut":
        data = data[:-1]
    elif spoil == "altered":
        data[-1] ^= 1
    else:
        data = bytearray(a_table(records=RECORDS[::-1]).image.tobytes())
    cached.write_bytes(data)
    _, found, _, _ = both(serving(), asking([b"3"], cached))
    assert found == [b"record of 3"]
    assert cached.read_bytes() == TABLE.image.tobytes()


# What each side receives.


def received_by_holder(keys: list[bytes], cached: Path) -> list[tuple[str, bytes]]:
    _, found, holder, _ = both(serving(), asking(keys, cached))
    assert not isinstance(found, EngineFailed)
    return holder.received


def test_what_the_holder_receives_has_one_form_for_all_keys(cached: Path) -> None:
    """One key or many, present or absent, long or short: labels, sizes and all but the uniform
    elements are equal."""
    views = [
        received_by_holder(keys, cached)
        for keys in ([b"3"], [b"absent"], [], KEYS[:BATCH], [b"k" * 1024])
    ]
    for view in views:
        assert [(label, len(data)) for label, data in view] == [
            ("lookup/begin", 33),
            ("lookup/blinded", 32 * BATCH),
        ]
        assert view[0] == views[0][0]
    elements = [view[1][1][at : at + 32] for view in views for at in range(0, 32 * BATCH, 32)]
    assert len(set(elements)) == len(elements)


def test_the_holder_cannot_tell_two_keys_apart_by_anything_it_holds(cached: Path) -> None:
    """The unprotected twin sends H(key)^1, which the holder finds by trying all its keys; with
    blinding nothing it can compute from a key meets anything that it received."""
    candidates = {bytes(oprf.hash_to_group(GROUP, key)) for key in KEYS}
    candidates |= {
        bytes(GROUP.times(SECRET.keys.secret, oprf.hash_to_group(GROUP, key))) for key in KEYS
    }
    unprotected = bytes(oprf.hash_to_group(GROUP, b"3"))
    assert unprotected in candidates
    (_, blinded) = received_by_holder([b"3"], cached)[1]
    assert not candidates & {blinded[at : at + 32] for at in range(0, len(blinded), 32)}


def test_a_row_damaged_to_see_whose_run_fails_makes_no_run_fail(tmp_path: Path) -> None:
    """Selective failure: the holder spoils the rows of one key; a consumer that asked for it must
    end as every other does."""
    image = TABLE.image.copy()
    image[68 + 16 * CAP :] ^= 1
    spoiled = Table(image)
    views = []
    for keys in ([b"3"], [b"absent"]):
        spent, found, holder, _ = both(
            serving(spoiled), asking(keys, tmp_path / "table", table=spoiled)
        )
        assert spent == BATCH
        assert found == [Absence.DAMAGED if keys == [b"3"] else Absence.NO_RECORD]
        views.append([(label, len(data)) for label, data in holder.received])
    assert views[0] == views[1]


def test_the_consumer_receives_one_output_for_each_evaluation_and_no_more(cached: Path) -> None:
    _, _, _, consumer = both(serving(), asking([b"3"], cached))
    ((label, answer),) = consumer.received
    assert (label, len(answer)) == ("lookup/evaluated", 32 * BATCH + 64)


def test_an_answer_kept_from_one_epoch_finds_nothing_in_the_next(cached: Path) -> None:
    after = table_secret(GROUP, SEED, epoch=2)
    table = a_table(secret=after)
    one = oprf.blind(GROUP, b"3", randomness=RANDOM)
    answered, _ = oprf.blind_evaluate(GROUP, SECRET.keys, [one.element], randomness=RANDOM)
    output = oprf.finalize(GROUP, b"3", one.scalar, answered[0])
    assert TABLE.records([output]) == [b"record of 3"]
    assert table.records([output]) == [Absence.NO_RECORD]


# A hostile holder.


def forging(
    change: Callable[[LookupTask, list[oprf.Element], bytes], bytes],
) -> Side:
    """Serves as it should, and alters its answer."""

    def side(line: Line) -> None:
        line.receive(CONSUMER, "lookup/begin")
        blinded = bytes(line.receive(CONSUMER, "lookup/blinded"))
        elements = [oprf.Element(blinded[at : at + 32]) for at in range(0, len(blinded), 32)]
        evaluated, proof = oprf.blind_evaluate(GROUP, SECRET.keys, elements, randomness=RANDOM)
        honest = b"".join(evaluated) + proof.to_bytes()
        line.send(CONSUMER, "lookup/evaluated", change(a_task(HOLDER), elements, honest))

    return side


OTHER = table_secret(GROUP, b"o" * 32, epoch=1)


def tagged(_: LookupTask, elements: list[oprf.Element], __: bytes) -> bytes:
    evaluated, proof = oprf.blind_evaluate(GROUP, OTHER.keys, elements, randomness=RANDOM)
    return b"".join(evaluated) + proof.to_bytes()


def tagged_one(_: LookupTask, elements: list[oprf.Element], honest: bytes) -> bytes:
    evaluated = [oprf.Element(honest[at : at + 32]) for at in range(0, 32 * BATCH, 32)]
    evaluated[0] = GROUP.times(OTHER.keys.secret, elements[0])
    proof = oprf.generate_proof(GROUP, SECRET.keys, elements, evaluated, randomness=RANDOM)
    return b"".join(evaluated) + proof.to_bytes()


FORGERIES: dict[str, Callable[[LookupTask, list[oprf.Element], bytes], bytes]] = {
    "another key for this consumer": tagged,
    "another key for one element": tagged_one,
    "two answers exchanged": lambda _, __, honest: honest[32:64] + honest[:32] + honest[64:],
    "the identity": lambda _, __, honest: bytes(32) + honest[32:],
    "no element": lambda _, __, honest: b"\xff" * 32 + honest[32:],
    "no proof": lambda _, __, honest: honest[:-64],
    "a proof of zeros": lambda _, __, honest: honest[:-64] + bytes(64),
    "half a proof": lambda _, __, honest: honest[:-32],
    "one element fewer": lambda _, __, honest: honest[32:],
    "one element more": lambda _, __, honest: honest[:32] + honest,
    "nothing": lambda _, __, honest: b"",
    "what was sent, unevaluated": lambda _, elements, honest: b"".join(elements) + honest[-64:],
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES)
def test_an_answer_that_is_not_the_holders_one_is_refused(
    cached: Path, change: Callable[[LookupTask, list[oprf.Element], bytes], bytes]
) -> None:
    _, found, _, _ = both(forging(change), asking([b"3"], cached))
    assert fault(found) is EngineFault.MISMATCH


def test_the_answer_of_an_earlier_run_is_refused(cached: Path) -> None:
    _, _, _, consumer = both(serving(), asking([b"3"], cached))
    ((_, earlier),) = consumer.received
    _, found, _, _ = both(forging(lambda _, __, ___: earlier), asking([b"3"], cached))
    assert fault(found) is EngineFault.MISMATCH


def test_the_unaltered_answer_of_that_forger_is_accepted(cached: Path) -> None:
    _, found, _, _ = both(forging(lambda _, __, honest: honest), asking([b"3"], cached))
    assert found == [b"record of 3"]


def sending(blocks: Callable[[bytes], list[bytes]]) -> Side:
    def side(line: Line) -> None:
        line.receive(CONSUMER, "lookup/begin")
        for block in blocks(TABLE.image.tobytes()):
            line.send(CONSUMER, "lookup/table", block)

    return side


FOREIGN = a_table(records=RECORDS[::-1])
UNKEYED = bytes(TABLE.image[:36].tobytes()) + bytes(32) + TABLE.image[68:].tobytes()
BLOCKS: dict[str, Callable[[bytes], list[bytes]]] = {
    "cut short": lambda whole: [whole[:-1]],
    "too long": lambda whole: [whole + b"\x00"],
    "an empty block": lambda whole: [b"", whole],
    "in other blocks": lambda whole: [whole[:100], whole[100:]],
    "altered": lambda whole: [whole[:-1] + bytes([whole[-1] ^ 1])],
    "of another table": lambda whole: [FOREIGN.image.tobytes()],
    "of zeros": lambda whole: [bytes(len(whole))],
}


@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)
def test_a_table_that_is_not_the_plans_is_refused_before_a_key_is_blinded(
    tmp_path: Path, blocks: Callable[[bytes], list[bytes]]
) -> None:
    ended, found, holder, _ = both(sending(blocks), asking([b"3"], tmp_path / "table"))
    assert ended is None and fault(found) is EngineFault.MISMATCH
    assert [label for label, _ in holder.received] == ["lookup/begin"]
    assert not (tmp_path / "table").exists()


def test_a_table_with_no_public_key_is_refused_although_a_plan_names_it(tmp_path: Path) -> None:
    table = Table(np.frombuffer(UNKEYED, dtype=np.uint8))
    table.save(tmp_path / "table")
    _, found, holder, _ = both(
        lambda line: line.receive(CONSUMER, "lookup/begin"),
        asking([b"3"], tmp_path / "table", table=table),
    )
    assert fault(found) is EngineFault.MISMATCH
    assert [label for label, _ in holder.received] == ["lookup/begin"]


# A hostile consumer.


def requesting(
    blinded: bytes, *, begin: Callable[[bytes], bytes] = lambda common: common + b"\x01"
) -> Side:
    def side(line: Line) -> bytearray:
        line.send(HOLDER, "lookup/begin", begin(a_task(CONSUMER).common.raw))
        line.send(HOLDER, "lookup/blinded", blinded)
        return line.receive(HOLDER, "lookup/evaluated")

    return side


GOOD = b"".join(oprf.blind(GROUP, b"x", randomness=RANDOM).element for _ in range(BATCH))
REQUESTS = {
    "one more than agreed": GOOD + GOOD[:32],
    "one fewer": GOOD[32:],
    "none": b"",
    "part of one": GOOD[:-1],
    "the identity": bytes(32) + GOOD[32:],
    "no element": GOOD[:-32] + b"\xff" * 32,
    "an element in a second encoding": GOOD[:-32]
    + bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
}


@pytest.mark.parametrize("blinded", REQUESTS.values(), ids=REQUESTS)
def test_a_batch_that_is_not_the_agreed_one_gets_no_answer(blinded: bytes) -> None:
    ended, _, holder, _ = both(serving(), requesting(blinded))
    assert fault(ended) is EngineFault.MISMATCH
    assert holder.sent_bytes == 0


BEGINNINGS: dict[str, Callable[[bytes], bytes]] = {
    "of another task": lambda common: digest(b"other").raw + b"\x01",
    "neither yes nor no": lambda common: common + b"\x02",
    "too short": lambda common: common,
    "too long": lambda common: common + b"\x00\x01",
    "empty": lambda common: b"",
}


@pytest.mark.parametrize("begin", BEGINNINGS.values(), ids=BEGINNINGS)
def test_a_beginning_of_another_form_gets_no_answer(begin: Callable[[bytes], bytes]) -> None:
    ended, _, holder, _ = both(serving(), requesting(GOOD, begin=begin))
    assert fault(ended) is EngineFault.MISMATCH
    assert holder.sent_bytes == 0


def test_a_second_batch_in_one_run_is_not_answered() -> None:
    """The plan's evaluations are all there are; each further guess needs a plan of its own."""

    def greedy(line: Line) -> bytearray:
        requesting(GOOD)(line)
        line.send(HOLDER, "lookup/blinded", GOOD)
        return line.receive(HOLDER, "lookup/evaluated")

    spent, found, _, _ = both(serving(), greedy)
    assert spent == BATCH and fault(found) is EngineFault.PEER


# Own mistakes, before anything is sent.


@pytest.mark.parametrize(
    "side",
    [
        serving(secret=OTHER),
        serving(secret=table_secret(GROUP, SEED, epoch=2)),
        serving(rows=CAP + 1),
        serving(label_bytes=LABEL - 1),
        serving(epoch=2),
        lambda line: serve(
            a_task(HOLDER, table=FOREIGN),
            SECRET,
            TABLE,
            group=GROUP,
            channels=line,
            randomness=RANDOM,
            on_stage=[].append,
        ),
    ],
    ids=["secret", "secret's epoch", "rows", "label_bytes", "epoch", "digest"],
)
def test_a_holder_with_the_wrong_table_or_secret_sends_nothing(side: Side) -> None:
    ended, _, holder, _ = both(side, lambda line: None)
    assert fault(ended) is EngineFault.INPUT
    assert holder.sent_bytes == 0


@pytest.mark.parametrize(
    "keys",
    [KEYS[: BATCH + 1], [b"secret-key"] * 2, [b""], [b"k" * 1025]],
    ids=["too many", "repeated", "empty", "too long"],
)
def test_keys_that_cannot_be_asked_are_refused_by_row_and_nothing_is_sent(
    cached: Path, keys: list[bytes]
) -> None:
    _, found, _, consumer = both(lambda line: None, asking(keys, cached))
    assert fault(found) is EngineFault.INPUT
    assert consumer.sent_bytes == 0 and "secret-key" not in str(found)


# The task, and the engine child's part.


def test_a_task_is_read_back_as_it_was_written_and_prints_no_seed() -> None:
    for rank in (HOLDER, CONSUMER):
        task = a_task(rank)
        assert record.from_bytes(TaskLine, record.to_bytes(TaskLine(task))).task == task
    assert "sss" not in repr(a_task(HOLDER))


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": -1},
        {"rows": 0},
        {"rows": 2**26 + 1},
        {"label_bytes": 0},
        {"label_bytes": 2**15 + 1},
        {"evaluations": 0},
        {"evaluations": 2**16},
        {"evaluations": 2**15, "label_bytes": 2**15},
        {"seed": b""},
        {"seed": b"s" * 31},
    ],
    ids=str,
)
def test_a_task_that_could_not_be_run_safely_cannot_be_made(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match=next(iter(change))):
        a_task(HOLDER, **change)


def test_a_consumer_is_never_given_a_seed() -> None:
    with pytest.raises(Malformed, match="seed"):
        a_task(CONSUMER, seed=SEED)


def test_both_tasks_agree_on_what_is_common_and_on_nothing_else() -> None:
    task = a_task(CONSUMER)
    assert task.common == a_task(HOLDER).common
    for name, value in {
        "table": Digest(bytes(32)),
        "epoch": 2,
        "rows": CAP + 1,
        "label_bytes": LABEL + 1,
        "evaluations": BATCH + 1,
        "seat": replace(task.seat, attempt="attempt_2"),
    }.items():
        assert replace(task, **{name: value}).common != task.common


def test_two_engines_find_records_over_real_channels(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    folders = tmp_path / "holder", tmp_path / "consumer"
    for folder in folders:
        folder.mkdir()
    TABLE.save(folders[HOLDER] / TABLE_FILE)
    asked = AskedKeys((b"7", b"absent"))
    (folders[CONSUMER] / KEYS_FILE).write_bytes(asked.to_bytes())
    found: list[Any] = [None, None]

    def run(rank: int) -> None:
        task = a_task(rank)
        seat = replace(
            task.seat,
            listen=f"127.0.0.1:{ports[rank]}",
            peers=tuple("" if r == rank else f"127.0.0.1:{ports[r]}" for r in (0, 1)),
            connect_timeout_ms=10_000,
            receive_timeout_ms=10_000,
        )
        try:
            found[rank] = lookup_engine.run(
                replace(task, seat=seat), folder=folders[rank], on_stage=lambda _: None
            )
        except EngineFailed as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in (HOLDER, CONSUMER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    served, answered = found
    assert isinstance(served, EngineOutcome) and isinstance(answered, EngineOutcome), found
    assert served.share == b"" and served.learned == {"evaluations": BATCH}
    answers = unpack(answered.share, evaluations=BATCH, label_bytes=LABEL)
    assert answers == [b"record of 7", *[Absence.NO_RECORD] * (BATCH - 1)]
    assert Table.load(folders[CONSUMER] / TABLE_FILE).digest == TABLE.digest
    assert {"connect", "upload", "compute", "check", "match", "total"} <= set(answered.timings_ms)


def test_an_engine_whose_group_computes_something_else_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lookup_engine.check_group()
    wrong = GROUP.generator_times(oprf.random_scalar(GROUP, RANDOM))
    monkeypatch.setattr(Ristretto255, "generator_times", lambda self, scalar: wrong)
    with pytest.raises(EngineFailed, match="known answer"):
        lookup_engine.check_group()


@pytest.mark.parametrize("rank", [HOLDER, CONSUMER])
def test_an_engine_without_its_files_says_so_and_connects_to_nobody(
    rank: int, tmp_path: Path
) -> None:
    with pytest.raises(EngineFailed, match="folder") as failure:
        lookup_engine.run(a_task(rank), folder=tmp_path, on_stage=lambda _: None)
    assert failure.value.fault is EngineFault.INPUT
