"""The revealed join with a helper: SPU's intersection of two, then SPU under ABY3 with three.

The two holders' own link closes before the machines of three meet: each child has one port.
"""

from __future__ import annotations

import gc
import resource
from dataclasses import replace
from importlib.metadata import version

from crypto.adapters import spu_machine, tcp_channels
from crypto.adapters.opendp_noise import OpenDpNoise
from crypto.adapters.spu_hidden import ThreePartySpu
from crypto.adapters.spu_machine import OnStage
from crypto.adapters.spu_revealed import matches, require_sums
from crypto.adapters.stages import Stages
from crypto.engine import EngineOutcome, EngineStage, RevealedTask, Seat
from crypto.joins import helped
from crypto.joins.rows import Int64Array, SideRows
from crypto.ports import SystemRandomness


def run(task: RevealedTask, rows: SideRows | None, *, on_stage: OnStage) -> EngineOutcome:
    """Take this party's part, in the run's own working directory. rows: None at the helper.

    Raises EngineFailed; SPU may also end the process, which the supervisor reports.
    """
    if rows is not None:
        require_sums(task, rows)
    clock = Stages(on_stage)
    clock.enter(EngineStage.CONNECT)
    with tcp_channels.connect(task.seat) as channels:
        helped.agree(task, channels)
        at = None if rows is None else _matched(task, rows, clock)
        secure = ThreePartySpu(task.seat)
        share, pairs = helped.run(
            task,
            rows,
            at,
            channels=channels,
            randomness=SystemRandomness(),
            noise=OpenDpNoise(),
            secure=secure,
            on_stage=clock.enter,
        )
        secure.close()
    return EngineOutcome(
        share=share,
        learned={"matched": pairs},
        timings_ms=clock.finish(),
        versions={name: version(name) for name in ("jax", "numpy", "spu")},
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _matched(task: RevealedTask, rows: SideRows, clock: Stages) -> Int64Array:
    link = spu_machine.connect(of_holders(task.seat))
    at = matches(link, task, rows, clock)
    # Waits until what was sent has arrived, and lets go of the port.
    link.stop_link()
    del link
    gc.collect()
    return at


def of_holders(seat: Seat) -> Seat:
    """The two holders' seat, of an attempt of its own for SPU."""
    return replace(
        seat, attempt=f"{seat.attempt}.holders", peers=seat.peers[:2], keys=seat.keys[:2]
    )
