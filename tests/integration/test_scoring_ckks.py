"""Scoring with real CKKS on real data: exactness, measured noise, what each side can read."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

seal = pytest.importorskip("tenseal.sealapi")

from crypto.adapters.ckks import SealArithmetic, SealOwnKey, SealScheme  # noqa: E402
from crypto.adapters.score_engine import check_scheme  # noqa: E402
from crypto.engine import ScoreTask  # noqa: E402
from crypto.errors import EngineFailed, EngineFault  # noqa: E402
from crypto.ports import SystemRandomness  # noqa: E402
from crypto.scoring.circuits import Circuit  # noqa: E402
from crypto.scoring.hiding import ERROR_UNITS, result_error, unit  # noqa: E402
from crypto.scoring.model import (  # noqa: E402
    AffineModel,
    FeatureRows,
    ScoringModel,
    SquareNetwork,
    affine_model,
    plain_scores,
)
from crypto.scoring.packing import columns  # noqa: E402
from crypto.scoring.parameters import PARAMETERS, Parameters  # noqa: E402
from crypto.scoring.quadratic import network_of_quadratic  # noqa: E402
from crypto.scoring.results import unpack  # noqa: E402
from crypto.scoring.shape import Feature, ModelFamily  # noqa: E402
from exchange.node.adapters.process_engine import ProcessEngine  # noqa: E402
from exchange.node.engine import EngineLimits  # noqa: E402
from tests.fakes.scoring import NAMES, Scoring, some_features  # noqa: E402
from tests.fakes.seats import seats  # noqa: E402
from tests.fakes.tunnel import Tunnel  # noqa: E402

Float64Array = npt.NDArray[np.float64]

RANDOM = SystemRandomness()
RNG = np.random.default_rng(3)
LINEAR = PARAMETERS["ckks-linear-8192"]


def a_linear_model(d: int = 4, reach_bits: int = 0) -> AffineModel:
    weights = RNG.normal(size=(1, d)) * 2.0**reach_bits
    return affine_model(
        ModelFamily.LINEAR, some_features(d), ("y",), 3, weights=weights, bias=np.ones(1)
    )


def a_logistic_model(d: int = 3) -> AffineModel:
    weights = RNG.normal(size=(1, d))
    return affine_model(
        ModelFamily.LOGISTIC, some_features(d), ("p",), 3, weights=weights, bias=np.ones(1)
    )


def a_network(d: int = 3) -> SquareNetwork:
    squares, linear = RNG.normal(size=(2, d, d)), RNG.normal(size=(2, d))
    return network_of_quadratic(
        some_features(d), ("a", "b"), 3, squares=squares, linear=linear, constant=np.ones(2)
    )


def some_rows(count: int, d: int) -> Float64Array:
    return RNG.uniform(-4, 6, size=(count, d))


@pytest.mark.parametrize(
    ("model", "rows"),
    [(a_linear_model(), 10_000), (a_logistic_model(), 8200), (a_network(), 8200)],
    ids=["linear", "logistic", "network"],
)
def test_scores_of_more_rows_than_one_block_are_the_plain_ones_to_the_last_unit(
    model: ScoringModel, rows: int
) -> None:
    features = some_rows(rows - 7, len(model.shape.features))
    scoring = Scoring(model, features, rows=rows, scheme=SealScheme())
    assert scoring.errors == {}
    wanted = plain_scores(model, features) * 10**model.shape.decimals
    assert np.abs(scoring.scores - wanted).max() < ERROR_UNITS


def test_this_build_of_seal_computes_what_is_known() -> None:
    check_scheme()


# The sets of the product keep their error far below what floating point can show. These have the
# same steps at scales of 2**30, where it can be seen.
VISIBLE = {
    ModelFamily.LINEAR: replace(LINEAR, name="visible", primes=(50, 40), features=30),
    ModelFamily.LOGISTIC: replace(
        PARAMETERS["ckks-logistic-16384"],
        name="visible",
        primes=(41, 41, 30, 30, 40),
        drops=(1, 1, 1),
        features=30,
    ),
    ModelFamily.SQUARE_NETWORK: replace(
        PARAMETERS["ckks-network-16384"], name="visible", primes=(40, 40, 40, 40), features=30
    ),
}


@pytest.mark.parametrize(
    "model",
    [a_linear_model(), a_logistic_model(), a_network()],
    ids=["linear", "logistic", "network"],
)
def test_the_error_before_flooding_is_within_the_bound_that_hiding_is_reckoned_from(
    model: ScoringModel,
) -> None:
    parameters = VISIBLE[model.shape.family]
    key = SealOwnKey(parameters)
    on = SealArithmetic(parameters, key.public, key.relinearisation)
    features = np.clip(some_rows(parameters.slots, len(model.shape.features)), -2, 3)
    block = next(columns(model.shape, features, rows=parameters.slots, slots=parameters.slots))
    scores = Circuit(model, on).run([on.read(key.encrypt(one)) for one in block])
    replies = [on.reply(s, rows=parameters.slots, sigma=0.0, randomness=RANDOM) for s in scores]
    found = np.stack([key.decrypt(reply) for reply in replies], axis=1)
    wanted = plain_scores(model, features) / model.shape.scale
    if model.shape.family is ModelFamily.LOGISTIC:  # the reply is not clamped yet
        inside = (wanted > 0.01) & (wanted < 0.99)
        found, wanted = found[inside], wanted[inside]
    measured, bound = np.abs(found - wanted).max(), result_error(model.shape, parameters)
    assert bound / 2**14 < measured < bound


def test_flooded_scores_carry_noise_of_the_stated_width() -> None:
    """Six standard errors of a standard deviation: false alarm below 1e-8."""
    key = SealOwnKey(LINEAR)
    on = SealArithmetic(LINEAR, key.public, b"")
    sigma = 2.0**-16
    zero = on.weighted(on.read(key.encrypt(np.zeros(LINEAR.slots))), 1.0)
    noise = key.decrypt(on.reply(zero, rows=1000, sigma=sigma, randomness=RANDOM))
    assert abs(noise[:1000].std() / sigma - 1) < 6 / np.sqrt(2000)
    wide = noise[1000:].std() / 2.0**LINEAR.wide
    assert abs(wide - 1) < 6 / np.sqrt(2 * (LINEAR.slots - 1000))


class BareScheme(SealScheme):
    """An owner that returns what it computed as it is."""

    def under_key(
        self, parameters: Parameters, public: bytes, relinearisation: bytes
    ) -> SealArithmetic:
        arithmetic = super().under_key(parameters, public, relinearisation)

        def bare(cipher: Any, **ignored: object) -> bytes:
            return arithmetic._memory.written(cipher)

        arithmetic.reply = bare  # type: ignore[method-assign]
        return arithmetic


def weight_by_division(scoring: Scoring) -> set[int]:
    """A consumer's attack on a model of one feature: what its own ciphertext's second component,
    which it knows, was multiplied by."""
    key = SealOwnKey(LINEAR)
    sent = dict(scoring.consumer.sent)["feature"]
    came = dict(scoring.owner.sent)["score"]
    asked, reply = (key._memory.read(seal.Ciphertext(), key._context, data, 6, LINEAR)
                    for data in (sent, came))  # fmt: skip
    prime = key._context.first_context_data().parms().coeff_modulus()[0].value()
    second = LINEAR.ring * len(LINEAR.primes)
    return {
        reply[second + i] * pow(asked[second + i], -1, prime) % prime for i in range(0, 4000, 400)
    }


def test_a_bare_reply_gives_the_weight_away_and_a_flooded_one_does_not() -> None:
    features = (Feature("x", -100, 100, 2),)
    secret = 0.7310585786
    model = affine_model(
        ModelFamily.LINEAR, features, ("y",), 3, weights=np.array([[secret]]), bias=np.zeros(1)
    )
    rows = np.array([[0.5]])
    bare = Scoring(model, rows, rows=1, scheme=BareScheme(), consumer_scheme=SealScheme())
    (found,) = weight_by_division(bare)  # the same number at each of ten places
    assert abs(found / 2.0**LINEAR.weights - secret) < 2.0**-LINEAR.weights
    product = Scoring(model, rows, rows=1, scheme=SealScheme())
    assert product.scores[0, 0] in (365, 366)
    guesses = weight_by_division(product)
    assert len(guesses) == 10 and found not in guesses


def test_the_same_weights_never_make_the_same_reply_twice() -> None:
    key = SealOwnKey(LINEAR)
    on = SealArithmetic(LINEAR, key.public, b"")
    cipher = on.weighted(on.read(key.encrypt(np.zeros(LINEAR.slots))), 0.5)
    replies = {on.reply(cipher, rows=1, sigma=2.0**-16, randomness=RANDOM) for _ in range(3)}
    assert len(replies) == 3


def test_features_are_unreadable_without_the_key_and_never_encrypted_alike() -> None:
    key, other = SealOwnKey(LINEAR), SealOwnKey(LINEAR)
    values = np.linspace(-1, 1, LINEAR.slots)
    first, second = key.encrypt(values), key.encrypt(values)
    assert first != second
    on = SealArithmetic(LINEAR, key.public, b"")
    sent = on.reply(
        on.weighted(on.read(first), 1.0), rows=LINEAR.slots, sigma=0.0, randomness=RANDOM
    )
    assert np.abs(key.decrypt(sent) - values).max() < 2.0**-30
    # Under another key a slot is noise as wide as the modulus.
    assert np.median(np.abs(other.decrypt(sent))) > 2.0**8


def refused(work: Any, *arguments: object) -> EngineFault:
    with pytest.raises(EngineFailed) as failed:
        work(*arguments)
    return failed.value.fault


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[SealOwnKey, SealArithmetic]]:
    key = SealOwnKey(LINEAR)
    yield key, SealArithmetic(LINEAR, key.public, b"")


def written(key: SealOwnKey, cipher: Any) -> bytes:
    return key._memory.written(cipher)


def by_hand(level: list[int], primes: int, scale: float, *, second: int) -> bytes:
    """SEAL's uncompressed form of a ciphertext whose second component is one constant."""

    def headed(body: bytes) -> bytes:
        return struct.pack("<HBBBBHQ", 0xA15E, 16, 4, 3, 0, 0, 16 + len(body)) + body

    count = LINEAR.ring * primes
    data = np.repeat(np.array([1, second], dtype="<u8"), count).tobytes()
    return headed(
        struct.pack("<4Q?QQQdQ", *level, True, 2, LINEAR.ring, primes, scale, 1)
        + headed(struct.pack("<Q", 2 * count) + data)
    )


def test_malformed_ciphertexts_are_refused_by_the_owner_and_crash_nothing(
    pair: tuple[SealOwnKey, SealArithmetic],
) -> None:
    key, on = pair
    good = key.encrypt(np.zeros(LINEAR.slots))
    assert on.read(by_hand(on.read(good).parms_id(), 3, 2.0**96, second=5)).size() == 2
    network = SealOwnKey(PARAMETERS["ckks-network-16384"])
    loaded = on.read(good)
    lower, scaled, square = seal.Ciphertext(), on.read(good), seal.Ciphertext()
    on._evaluator.mod_switch_to_next(loaded, lower)
    scaled.scale = 2.0**40
    on._evaluator.square(scaled, square)
    scaled.scale, square.scale = 2.0**97, 2.0**96
    other_bits = SealOwnKey(replace(LINEAR, primes=(50, 50, 49)))
    nearest = {
        "of another ring": network.encrypt(np.zeros(8192)),
        "of other primes": other_bits.encrypt(np.zeros(LINEAR.slots)),
        "of three components": written(key, square),
        "of a lower level": written(key, lower),
        "of another scale": written(key, scaled),
        "a public key": key.public,
        "without a mask": by_hand(loaded.parms_id(), 3, 2.0**96, second=0),
        "cut short": good[:-1],
        "with a byte left over": good + b"\x00",
        "empty": b"",
        "not SEAL": bytes(1000),
        "too long": bytes(10**6),
        "of a newer version": good[:3] + b"\x09" + good[4:],
    }
    for what, data in nearest.items():
        assert refused(on.read, data) is EngineFault.MISMATCH, what


def test_flipped_bits_are_refused_or_read_as_some_ciphertext_and_crash_nothing(
    pair: tuple[SealOwnKey, SealArithmetic],
) -> None:
    key, on = pair
    good = key.encrypt(np.zeros(LINEAR.slots))
    refusals = 0
    for number in range(300):
        data = bytearray(good)
        data[int(RNG.integers(200 if number % 2 else len(data)))] ^= 1 << int(RNG.integers(8))
        try:
            on.read(bytes(data))
        except EngineFailed as error:
            assert error.fault is EngineFault.MISMATCH
            refusals += 1
    assert refusals > 30


def test_foreign_keys_are_refused_by_the_owner() -> None:
    network = PARAMETERS["ckks-network-16384"]
    key, linear = SealOwnKey(network), SealOwnKey(LINEAR)
    for parameters, public, relinearisation in [
        (LINEAR, key.public, b""),
        (LINEAR, linear.public[:-1], b""),
        (LINEAR, by_hand(linear._context.key_parms_id(), 4, 1.0, second=0), b""),
        (LINEAR, linear.public, key.relinearisation),
        (network, key.public, b""),
        (network, key.public, key.relinearisation[:-5]),
        (network, key.public, key.public),
        (network, linear.public, key.relinearisation),
    ]:
        assert refused(SealArithmetic, parameters, public, relinearisation) is EngineFault.MISMATCH


def test_replies_that_are_not_scores_are_refused_by_the_consumer(
    pair: tuple[SealOwnKey, SealArithmetic],
) -> None:
    key, on = pair
    fresh = key.encrypt(np.zeros(LINEAR.slots))  # of features' scale, not of scores'
    score = on.weighted(on.read(fresh), 1.0)
    good = on.reply(score, rows=1, sigma=0.0, randomness=RANDOM)
    key.decrypt(good)
    score.scale = score.scale * 1.02
    for data in (fresh, good[:-1], b"", written(key, score)):
        assert refused(key.decrypt, data) is EngineFault.MISMATCH


def test_a_consumer_of_another_parameter_set_ends_the_owner_s_run_with_a_reason() -> None:
    class Other(SealScheme):
        def make_key(self, parameters: Parameters) -> SealOwnKey:
            return SealOwnKey(replace(parameters, primes=(50, 50, 49)))

    scoring = Scoring(
        a_linear_model(), some_rows(1, 4), rows=1, scheme=SealScheme(), consumer_scheme=Other()
    )
    error = scoring.errors["owner"]
    assert isinstance(error, EngineFailed) and error.fault is EngineFault.MISMATCH
    assert "score" not in [label for label, _ in scoring.owner.sent]


@pytest.mark.engine
def test_two_engine_children_score_over_their_tunnels(tmp_path: Path) -> None:
    tunnels = Tunnel(), Tunnel()
    engines = [ProcessEngine(tmp_path / name, tmp_path / "logs") for name in "ab"]
    model = a_linear_model()
    features = some_rows(4500, 4)
    limits = EngineLimits(deadline_s=120, memory_bytes=3 * 2**30)
    places = seats([one.engine for one in tunnels], [one.address for one in tunnels])
    tasks = [ScoreTask(place, model.shape, 5000, NAMES[model.shape.family]) for place in places]
    try:
        given = (model, FeatureRows(features))
        runs = [e.start(t, g, limits) for e, t, g in zip(engines, tasks, given, strict=True)]
        owner, consumer = (run.wait() for run in runs)
    finally:
        for engine in engines:
            engine.close()
        for tunnel in tunnels:
            tunnel.close()
    assert owner.share == b""
    scores = unpack(consumer.share, rows=5000, outputs=1)
    wanted = plain_scores(model, features) * 1000
    assert np.abs(scores[:4500] - wanted).max() < ERROR_UNITS
    assert unit(model.shape) == 1 / (model.shape.reach * 1000)
