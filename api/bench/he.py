"""Scoring of encrypted rows by an owner's model, owner and consumer each a process.

Seconds run from both engines ready to the consumer's scores: keys, encryption, network, the model
on ciphertexts, decryption. What each of these takes of one processor is measured beside it, on the
same number of blocks, without a network. Every score is compared with the plain one.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from api.bench.harness import Measured, Run
from api.bench.join import WrongAnswer, parties
from api.bench.lookup import online, peaks, sent
from api.bench.request_party import Scoring
from crypto import record
from crypto.identifiers import JobId
from crypto.ports import SystemClock, SystemRandomness
from crypto.scoring.circuits import Circuit
from crypto.scoring.hiding import ERROR_UNITS, FLOOD_UNITS, unit
from crypto.scoring.model import plain_scores
from crypto.scoring.packing import blocks, columns
from crypto.scoring.parameters import PARAMETERS
from crypto.scoring.results import unpack


def he(runs: int, rows: int, features: int, family: str) -> Measured:
    """family: linear, logistic or square_network. Raises WrongAnswer."""
    asked = Scoring(family, rows, features)
    found: list[Run] = []
    every = []
    worst = 0.0
    with parties("score", "api.bench.request_party") as both:
        for _ in range(runs):
            said = both.ask(asked.__dict__, JobId.new(SystemClock().now(), SystemRandomness()))
            every.append(said)
            worst = max(worst, _checked(asked, said))
            found.append(Run(online(said), _alone(asked)))
    parameters = {
        "runs": runs,
        "rows": rows,
        "features": features,
        "model": family,
        "parameters": asked.parameters,
        "security_bits": PARAMETERS[asked.parameters].security_bits,
        "worst_error_units": round(worst, 4),
        "rows_per_second": round(rows / float(np.median([run.seconds for run in found]))),
    }
    return Measured(parameters, tuple(found), peaks(every), sent(said))


def _checked(asked: Scoring, said: list[dict[str, Any]]) -> float:
    """The largest error, in units of the last decimal."""
    model = asked.model
    scores = unpack(record.decode_base64(said[1]["share"]), rows=asked.rows, outputs=1)
    wanted = plain_scores(model, asked.values) * 10**model.shape.decimals
    worst = float(np.abs(scores - wanted).max())
    if worst >= ERROR_UNITS:
        raise WrongAnswer(f"scores of {asked.rows} rows: {worst} units")
    return worst


def _alone(asked: Scoring) -> dict[str, float]:
    """What the steps take of this process, one after the other."""
    from crypto.adapters.ckks import SealScheme

    model, parameters = asked.model, PARAMETERS[asked.parameters]
    packed = columns(model.shape, asked.values, rows=asked.rows, slots=parameters.slots)
    scheme, randomness = SealScheme(), SystemRandomness()
    at = [time.perf_counter()]
    key = scheme.make_key(parameters)
    at.append(time.perf_counter())
    took = {"keys_s": at[1] - at[0], "encrypt_s": 0.0, "compute_s": 0.0, "decrypt_s": 0.0}
    arithmetic = scheme.under_key(parameters, key.public, key.relinearisation)
    circuit, sigma = Circuit(model, arithmetic), FLOOD_UNITS * unit(model.shape)
    for rows, block in zip(blocks(asked.rows, parameters.slots), packed, strict=True):
        at = [time.perf_counter()]
        sent_features = [key.encrypt(feature) for feature in block]
        at.append(time.perf_counter())
        replies = [
            arithmetic.reply(score, rows=rows, sigma=sigma, randomness=randomness)
            for score in circuit.run(map(arithmetic.read, sent_features))
        ]
        at.append(time.perf_counter())
        for reply in replies:
            key.decrypt(reply)
        at.append(time.perf_counter())
        for name, begun, ended in zip(
            ("encrypt_s", "compute_s", "decrypt_s"), at[:-1], at[1:], strict=True
        ):
            took[name] += ended - begun
    return took
