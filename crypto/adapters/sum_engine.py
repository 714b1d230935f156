"""The `sum` join in the engine child: real channels, curve and encryption."""

from __future__ import annotations

import resource
from collections.abc import Callable
from importlib.metadata import version

from crypto.adapters import tcp_channels
from crypto.adapters.curve import CurveMask
from crypto.adapters.stages import Stages
from crypto.engine import EngineOutcome, EngineStage, SumTask
from crypto.joins import summed
from crypto.joins.ports import ValueEncryption
from crypto.joins.rows import SideRows
from crypto.joins.summable import ValueScheme
from crypto.ports import SystemRandomness


def run(task: SumTask, rows: SideRows, *, on_stage: Callable[[EngineStage], None]) -> EngineOutcome:
    """Take this party's part. Raises what `summed.run` raises."""
    clock, randomness = Stages(on_stage), SystemRandomness()
    encryption = _encryption(task.scheme)
    clock.enter(EngineStage.CONNECT)
    with tcp_channels.connect(task.seat) as channels:
        share, learned = summed.run(
            task,
            rows,
            channels=channels,
            randomness=randomness,
            mask=CurveMask.draw(randomness),
            encryption=encryption,
            on_stage=clock.enter,
        )
    return EngineOutcome(
        share=share,
        learned=learned,
        timings_ms=clock.finish(),
        versions={
            name: version(name) for name in ("cryptography", "gmpy2", "numpy", "phe", "tenseal")
        },
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _encryption(scheme: ValueScheme) -> ValueEncryption:
    """Loads only the library that is used: each takes a few tenths of a second."""
    if scheme is ValueScheme.PAILLIER:
        from crypto.adapters.paillier import Paillier

        return Paillier()
    from crypto.adapters.packed_bfv import PackedBfv

    return PackedBfv()
