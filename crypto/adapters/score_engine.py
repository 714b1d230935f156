"""A scoring in the engine child."""

from __future__ import annotations

import resource
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from crypto.adapters import tcp_channels
from crypto.adapters.ckks import SealScheme
from crypto.adapters.stages import Stages
from crypto.engine import EngineOutcome, EngineStage, ScoreTask
from crypto.errors import EngineFailed, EngineFault
from crypto.ports import SystemRandomness
from crypto.scoring import protocol
from crypto.scoring.model import MODEL_FILE, FeatureRows, load_model
from crypto.scoring.parameters import PARAMETERS
from crypto.scoring.results import pack

_CHECKED = PARAMETERS["ckks-linear-8192"]


def check_scheme() -> None:
    """Encrypt and decrypt once. Raises EngineFailed if something else comes out."""
    values = np.linspace(-1.0, 1.0, _CHECKED.slots)
    key = SealScheme().make_key(_CHECKED)
    arithmetic = SealScheme().under_key(_CHECKED, key.public, key.relinearisation)
    half = arithmetic.weighted(arithmetic.read(key.encrypt(values)), 0.5)
    reply = arithmetic.reply(half, rows=_CHECKED.slots, sigma=0.0, randomness=SystemRandomness())
    if not np.allclose(key.decrypt(reply), values / 2, rtol=0, atol=2.0**-30):
        raise EngineFailed(EngineFault.LAYOUT, "a known product of CKKS did not come out")


def run(task: ScoreTask, *, folder: Path, on_stage: Callable[[EngineStage], None]) -> EngineOutcome:
    """Take this party's part. The consumer's outcome carries `results.pack` of its scores.

    folder: the run's own, with what `place` of the model or of FeatureRows left there
    Raises EngineFailed, and Malformed for own files that are not what they should be.
    """
    clock = Stages(on_stage)
    scheme, randomness = SealScheme(), SystemRandomness()
    share = b""
    if task.seat.rank == protocol.OWNER:
        model = load_model(folder / MODEL_FILE)
        clock.enter(EngineStage.CONNECT)
        with tcp_channels.connect(task.seat) as channels:
            protocol.serve(
                task,
                model,
                channels=channels,
                scheme=scheme,
                randomness=randomness,
                on_stage=clock.enter,
            )
    else:
        features = FeatureRows.load(folder).values
        clock.enter(EngineStage.CONNECT)
        with tcp_channels.connect(task.seat) as channels:
            scores = protocol.ask(
                task,
                features,
                channels=channels,
                scheme=scheme,
                randomness=randomness,
                on_stage=clock.enter,
            )
        share = pack(scores, rows=task.rows)
    return EngineOutcome(
        share=share,
        learned={"rows": task.rows},
        timings_ms=clock.finish(),
        versions={name: version(name) for name in ("cryptography", "numpy", "tenseal")},
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
