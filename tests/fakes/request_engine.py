"""An engine without child processes for scores and lookups: the real protocols between threads.

Lookups compute on the real group; scores on a scheme that encrypts nothing. Both nodes of an
attempt must use engines of one room.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crypto.adapters.ristretto import Ristretto255
from crypto.engine import EngineOutcome, EngineStage, EngineTask, LookupTask, ScoreTask
from crypto.errors import EngineFailed, EngineFault, Malformed
from crypto.lookup import protocol as lookup
from crypto.lookup.answers import KEYS_FILE, TABLE_FILE, AskedKeys
from crypto.lookup.answers import pack as pack_records
from crypto.lookup.table import Table, table_secret
from crypto.ports import SystemRandomness
from crypto.scoring import protocol as scoring
from crypto.scoring.model import MODEL_FILE, FeatureRows, load_model
from crypto.scoring.results import pack as pack_scores
from exchange.node.engine import EngineInput, EngineLimits, ignore_stages, require_input
from tests.fakes.scoring import PlainScheme, QueuedChannels

GROUP = Ristretto255()


@dataclass
class RequestRoom:
    """Where both parties of an attempt meet. tables_sent: of each lookup, whether it was."""

    ways: dict[str, tuple[queue.Queue[Any], queue.Queue[Any]]] = field(default_factory=dict)
    tables_sent: list[bool] = field(default_factory=list)

    def channels(self, attempt: str, rank: int) -> QueuedChannels:
        ways = self.ways.setdefault(attempt, (queue.Queue(), queue.Queue()))
        return QueuedChannels(ways[rank], ways[1 - rank])


@dataclass
class RequestEngine:
    """An EngineRunner. `vanish`: the next run of this node goes away without a word."""

    room: RequestRoom
    vanish: bool = False

    def start(
        self, task: EngineTask, given: EngineInput | None, limits: EngineLimits
    ) -> RequestRun:
        require_input(task, given)
        if given is None:
            raise EngineFailed(EngineFault.INPUT, "brings nothing")
        vanish, self.vanish = self.vanish, False
        return RequestRun(self.room, task, given, vanish=vanish)

    def close(self) -> None:
        return


class RequestRun:
    def __init__(
        self, room: RequestRoom, task: EngineTask, given: EngineInput, *, vanish: bool
    ) -> None:
        self._end: EngineOutcome | EngineFailed | None = None
        self._channels = room.channels(task.seat.attempt, task.seat.rank)
        self._thread = threading.Thread(target=self._run, args=(room, task, given, vanish))
        self._thread.start()

    def wait(self, on_stage: Callable[[EngineStage], None] = ignore_stages) -> EngineOutcome:
        self._thread.join()
        if isinstance(self._end, EngineOutcome):
            return self._end
        raise self._end or EngineFailed(EngineFault.CRASHED, "it ended with nothing")

    def kill(self, why: str) -> None:
        self._end = EngineFailed(EngineFault.KILLED, why)
        self._channels.wake()

    def _run(self, room: RequestRoom, task: EngineTask, given: EngineInput, vanish: bool) -> None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                given.place(Path(folder))
                if vanish:
                    raise EngineFailed(EngineFault.CRASHED, "as the test asked")
                share = _compute(task, Path(folder), self._channels, room)
                self._end = EngineOutcome(share, {}, {"total": 0}, {"fake": "1"}, 0)
            except EngineFailed as error:
                self._end = self._end or error
            except Malformed as error:
                self._end = EngineFailed(EngineFault.INPUT, str(error))
            finally:
                self._channels.leave()


def _compute(task: EngineTask, folder: Path, channels: QueuedChannels, room: RequestRoom) -> bytes:
    common: dict[str, Any] = {
        "channels": channels,
        "randomness": SystemRandomness(),
        "on_stage": ignore_stages,
    }
    if isinstance(task, LookupTask) and task.seat.rank == lookup.HOLDER:
        table = Table.load(folder / TABLE_FILE)
        secret = table_secret(GROUP, task.seed, epoch=task.epoch)
        lookup.serve(task, secret, table, group=GROUP, **common)
        room.tables_sent.append(any(label == "lookup/table" for label, _ in channels.sent))
        return b""
    if isinstance(task, LookupTask):
        keys = AskedKeys.parse((folder / KEYS_FILE).read_bytes()).keys
        cached = (folder / TABLE_FILE).resolve()
        found = lookup.ask(task, keys, cached, group=GROUP, **common)
        return pack_records(found, evaluations=task.evaluations, label_bytes=task.label_bytes)
    if not isinstance(task, ScoreTask):
        raise TypeError("this engine makes scores and lookups only")
    if task.seat.rank == scoring.OWNER:
        scoring.serve(task, load_model(folder / MODEL_FILE), scheme=PlainScheme(), **common)
        return b""
    rows = FeatureRows.load(folder).values
    scores = scoring.ask(task, rows, scheme=PlainScheme(), **common)
    return pack_scores(scores, rows=task.rows)
