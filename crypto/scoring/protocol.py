"""The messages of one scoring: the owner serves (rank 0), the consumer asks (rank 1).

    both      digest of the task, so that nothing starts on two different ones
    consumer  public key, and relinearisation keys where the model multiplies ciphertexts
    then, for each block of rows
    consumer  one ciphertext a feature
    owner     one ciphertext an output, re-randomised and flooded (crypto.scoring.hiding)

A block's scores are awaited before the next block is sent, so neither side's queue grows with the
rows. The consumer's messages have sizes that follow from the task alone (but for the compression of
uniform bits), and it goes on whatever it decrypts: an owner learns nothing from what happens next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from crypto.engine import EngineStage, ScoreTask
from crypto.errors import EngineFailed, EngineFault, Malformed
from crypto.ports import Channels, Randomness
from crypto.scoring.circuits import Circuit
from crypto.scoring.hiding import FLOOD_UNITS, require_hiding, unit
from crypto.scoring.model import Float64Array, Int64Array, ScoringModel, clamp
from crypto.scoring.noise import gaussian
from crypto.scoring.packing import blocks, columns
from crypto.scoring.ports import Arithmetic, Scheme
from crypto.scoring.shape import ModelShape

OWNER: Final = 0
CONSUMER: Final = 1

OnStage = Callable[[EngineStage], None]


def serve(
    task: ScoreTask,
    model: ScoringModel,
    *,
    channels: Channels,
    scheme: Scheme,
    randomness: Randomness,
    on_stage: OnStage,
) -> None:
    """The model's owner. Learns nothing but that the task ran.

    Raises Malformed if the model is not the task's, EngineFailed (mismatch) if the consumer's
    messages are not what the task says.
    """
    if task.seat.rank != OWNER:
        raise Malformed("seat.rank", "is not the model owner's")
    if model.shape != task.shape:
        raise Malformed("model", "does not have the task's shape")
    parameters = require_hiding(task.shape, task.parameters)
    on_stage(EngineStage.CHECK)
    _agree(task, CONSUMER, channels)
    on_stage(EngineStage.UPLOAD)
    public = bytes(channels.receive(CONSUMER, "key"))
    relinearisation = bytes(channels.receive(CONSUMER, "relinearisation"))
    arithmetic = scheme.under_key(parameters, public, relinearisation)
    circuit = Circuit(model, arithmetic)
    sigma = FLOOD_UNITS * unit(task.shape)
    on_stage(EngineStage.COMPUTE)
    for rows in blocks(task.rows, parameters.slots):
        for score in circuit.run(_received(task.shape, arithmetic, channels)):
            reply = arithmetic.reply(score, rows=rows, sigma=sigma, randomness=randomness)
            channels.send(CONSUMER, "score", reply)
    on_stage(EngineStage.GATE)


def ask(
    task: ScoreTask,
    features: Float64Array,
    *,
    channels: Channels,
    scheme: Scheme,
    randomness: Randomness,
    on_stage: OnStage,
) -> Int64Array:
    """The consumer. Returns its scores in units of 10**-decimals, shape (n, outputs), int64.

    features: shape (n, d), float64, in the order of the shape's features; n at most the task's
              rows, which are filled up. Values outside the bounds are clamped to them.
    Each score differs from `plain_scores` by less than `crypto.scoring.hiding.ERROR_UNITS` units.
    Raises Malformed on features it can't take, before anything is sent, and EngineFailed (mismatch)
    if the owner's messages are not what the task says.
    """
    if task.seat.rank != CONSUMER:
        raise Malformed("seat.rank", "is not the consumer's")
    parameters = require_hiding(task.shape, task.parameters)
    inside = clamp(task.shape, features)
    if len(inside) > task.rows:
        raise Malformed("features", f"are {len(inside)} rows; the plan has {task.rows}")
    packed = columns(task.shape, inside, rows=task.rows, slots=parameters.slots)
    on_stage(EngineStage.CHECK)
    _agree(task, OWNER, channels)
    on_stage(EngineStage.UPLOAD)
    key = scheme.make_key(parameters)
    channels.send(OWNER, "key", key.public)
    channels.send(OWNER, "relinearisation", key.relinearisation)
    on_stage(EngineStage.COMPUTE)
    found = []
    for block in packed:
        for feature in block:
            channels.send(OWNER, "feature", key.encrypt(feature))
        replies = [bytes(channels.receive(OWNER, "score")) for _ in task.shape.outputs]
        found.append(np.stack([key.decrypt(reply) for reply in replies], axis=1))
    on_stage(EngineStage.GATE)
    return released(task.shape, np.concatenate(found)[: len(inside)], randomness=randomness)


def released(shape: ModelShape, decrypted: Float64Array, *, randomness: Randomness) -> Int64Array:
    """Scores that may be shown to others, from raw decryptions, which may not (hiding says why).

    decrypted: shape (n, outputs), divided by the shape's `scale`. What lies outside the range of
    scores is clamped and not refused: an error that depends on a decryption would answer
    an owner's question about it.
    """
    noise = FLOOD_UNITS * gaussian(randomness, decrypted.size).reshape(decrypted.shape)
    low, high = shape.score_range
    near = np.clip(np.nan_to_num(decrypted), -2.0, 2.0)  # no overflow below
    return np.clip(np.rint(near / unit(shape) + noise), low, high).astype(np.int64)


def _received(
    shape: ModelShape, arithmetic: Arithmetic[object], channels: Channels
) -> Iterator[object]:
    for _ in shape.features:
        yield arithmetic.read(bytes(channels.receive(CONSUMER, "feature")))


def _agree(task: ScoreTask, peer: int, channels: Channels) -> None:
    channels.send(peer, "task", task.common.raw)
    if bytes(channels.receive(peer, "task")) != task.common.raw:
        raise EngineFailed(EngineFault.MISMATCH, "the peer was given another scoring task")
