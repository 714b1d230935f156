"""A lookup in the engine child."""

from __future__ import annotations

import resource
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from crypto.adapters import tcp_channels
from crypto.adapters.ristretto import Ristretto255
from crypto.adapters.stages import Stages
from crypto.engine import EngineOutcome, EngineStage, LookupTask
from crypto.errors import EngineFailed, EngineFault
from crypto.lookup import oprf, protocol
from crypto.lookup.answers import KEYS_FILE, TABLE_FILE, AskedKeys, pack
from crypto.lookup.table import Table, table_secret
from crypto.ports import Channels, SystemRandomness

_GROUP = Ristretto255()


def check_group() -> None:
    """Load the group's library and compare one published answer: RFC 9497, appendix A.1.2.

    Raises EngineFailed if this build computes anything else.
    """
    keys = oprf.derive_key_pair(_GROUP, b"\xa3" * 32, b"test key")
    if keys.public.hex() != "c803e2cc6b05fc15064549b5920659ca4a77b2cca6f04f6b357009335476ad4e":
        raise EngineFailed(EngineFault.LAYOUT, "a known answer of ristretto255 did not come out")


def run(
    task: LookupTask, *, folder: Path, on_stage: Callable[[EngineStage], None]
) -> EngineOutcome:
    """Take this party's part. The consumer's outcome carries `answers.pack` of what was found.

    folder: the run's own, with TABLE_FILE and, at the consumer, KEYS_FILE
    Raises EngineFailed, and Malformed for own files that are not what they should be.
    """
    clock = Stages(on_stage)
    if task.seat.rank == protocol.HOLDER:
        table = Table.load(_own(folder / TABLE_FILE))
        clock.enter(EngineStage.CONNECT)
        with tcp_channels.connect(task.seat) as channels:
            share = _serve(task, table, channels, clock)
    else:
        keys = AskedKeys.parse(_own(folder / KEYS_FILE).read_bytes()).keys
        clock.enter(EngineStage.CONNECT)
        with tcp_channels.connect(task.seat) as channels:
            # A link to where the node keeps tables: what is received there outlives the run.
            cached = (folder / TABLE_FILE).resolve()
            share = _ask(task, keys, cached, channels, clock)
    return EngineOutcome(
        share=share,
        learned={"evaluations": task.evaluations},
        timings_ms=clock.finish(),
        versions={name: version(name) for name in ("cryptography", "numpy", "rbcl")},
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _serve(task: LookupTask, table: Table, channels: Channels, clock: Stages) -> bytes:
    protocol.serve(
        task,
        table_secret(_GROUP, task.seed, epoch=task.epoch),
        table,
        group=_GROUP,
        channels=channels,
        randomness=SystemRandomness(),
        on_stage=clock.enter,
    )
    return b""


def _ask(
    task: LookupTask, keys: tuple[bytes, ...], cached: Path, channels: Channels, clock: Stages
) -> bytes:
    answers = protocol.ask(
        task,
        keys,
        cached,
        group=_GROUP,
        channels=channels,
        randomness=SystemRandomness(),
        on_stage=clock.enter,
    )
    return pack(answers, evaluations=task.evaluations, label_bytes=task.label_bytes)


def _own(path: Path) -> Path:
    if not path.exists():
        raise EngineFailed(EngineFault.INPUT, f"the run's folder holds no {path.name}")
    return path
