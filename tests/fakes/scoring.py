"""Scoring without encryption, and two parties of one process that score."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.engine import EngineStage, ScoreTask
from crypto.errors import EngineFailed, EngineFault
from crypto.ports import Randomness, SystemRandomness
from crypto.scoring.model import Float64Array, Int64Array, ScoringModel
from crypto.scoring.parameters import PARAMETERS, Parameters
from crypto.scoring.ports import Scheme
from crypto.scoring.protocol import ask, serve
from crypto.scoring.shape import Feature, ModelFamily, ModelShape
from tests.fakes.seats import nowhere

NAMES = {one.family: one.name for one in PARAMETERS.values()}


def some_features(count: int) -> tuple[Feature, ...]:
    """Bounds that are neither symmetric nor alike: -2.50 .. 4.00 and so on."""
    return tuple(Feature(f"f{i}", -250 - 10 * i, 400 + 30 * i, 2) for i in range(count))


def a_shape(
    family: ModelFamily = ModelFamily.LINEAR,
    *,
    features: int = 3,
    outputs: tuple[str, ...] = ("score",),
    decimals: int = 3,
    reach: int = 64,
) -> ModelShape:
    return ModelShape(family, some_features(features), outputs, decimals, reach)


def a_task(rank: int, shape: ModelShape, rows: int) -> ScoreTask:
    return ScoreTask(nowhere(2)[rank], shape, rows, NAMES[shape.family])


class QueuedChannels:
    """`crypto.ports.Channels` within one process. `sent` keeps what went out, by label."""

    def __init__(self, out: queue.Queue[Any], into: queue.Queue[Any]) -> None:
        self._out, self._into = out, into
        self.sent: list[tuple[str, bytes]] = []

    def send(self, to: int, label: str, payload: bytes | bytearray | memoryview) -> None:
        self.sent.append((label, bytes(payload)))
        self._out.put((label, bytes(payload)))

    def receive(self, of: int, label: str) -> bytearray:
        found = self._into.get(timeout=30)
        if found is None:
            raise EngineFailed(EngineFault.PEER, "the peer went away")
        if found[0] != label:
            raise EngineFailed(EngineFault.MISMATCH, f"{found[0]} came, not {label}")
        return bytearray(found[1])

    def leave(self) -> None:
        self._out.put(None)

    def wake(self) -> None:
        """Whoever waits for a message here hears that the peer went away."""
        self._into.put(None)

    @property
    def sent_bytes(self) -> int:
        return sum(len(payload) for _, payload in self.sent)


class Scoring:
    """One scoring. `scores`, or what either party raised; what each sent."""

    def __init__(
        self,
        model: ScoringModel,
        features: Float64Array,
        *,
        rows: int,
        scheme: Scheme,
        consumer_scheme: Scheme | None = None,
        consumer_task: ScoreTask | None = None,
    ) -> None:
        there: queue.Queue[Any] = queue.Queue()
        back: queue.Queue[Any] = queue.Queue()
        self.owner, self.consumer = QueuedChannels(back, there), QueuedChannels(there, back)
        self.errors: dict[str, Exception] = {}
        self.stages: list[EngineStage] = []
        self.scores: Int64Array = np.zeros((0, 0), np.int64)

        def serving() -> None:
            serve(
                a_task(0, model.shape, rows),
                model,
                channels=self.owner,
                scheme=scheme,
                randomness=SystemRandomness(),
                on_stage=lambda stage: None,
            )

        def asking() -> None:
            self.scores = ask(
                consumer_task or a_task(1, model.shape, rows),
                features,
                channels=self.consumer,
                scheme=consumer_scheme or scheme,
                randomness=SystemRandomness(),
                on_stage=self.stages.append,
            )

        threads = [
            threading.Thread(target=self._kept, args=("owner", serving, self.owner)),
            threading.Thread(target=self._kept, args=("consumer", asking, self.consumer)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _kept(self, who: str, work: Callable[[], None], channels: QueuedChannels) -> None:
        try:
            work()
        except Exception as error:  # for the test to look at
            self.errors[who] = error
        channels.leave()


class PlainScheme:
    """A `crypto.scoring.ports.Scheme` that hides nothing and keeps count of scales and levels."""

    def make_key(self, parameters: Parameters) -> PlainKey:
        return PlainKey(parameters)

    def under_key(
        self, parameters: Parameters, public: bytes, relinearisation: bytes
    ) -> PlainArithmetic:
        if public != b"public" or bool(relinearisation) != parameters.relinearises:
            raise EngineFailed(EngineFault.MISMATCH, "other keys")
        return PlainArithmetic(parameters)


class PlainKey:
    public = b"public"

    def __init__(self, parameters: Parameters) -> None:
        self.relinearisation = b"relinearisation" if parameters.relinearises else b""

    def encrypt(self, values: Float64Array) -> bytes:
        if np.abs(values).max() > 1 + 1e-12:
            raise ValueError("beyond -1..1")
        return values.tobytes()

    def decrypt(self, reply: bytes) -> Float64Array:
        return np.frombuffer(reply, np.float64)


class PlainCipher:
    """values; scale and primes as a real ciphertext would have; components 2 or 3."""

    def __init__(self, values: Float64Array, scale: int, primes: int, components: int = 2) -> None:
        self.values, self.scale, self.primes = values, scale, primes
        self.components = components


class PlainArithmetic:
    """Refuses what CKKS would refuse or would get wrong: unequal scales, sums of other levels."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def read(self, data: bytes) -> Any:
        p = self._parameters
        return PlainCipher(np.frombuffer(data, np.float64), p.features, len(p.primes))

    def add(self, left: Any, right: Any) -> Any:
        if (left.scale, left.primes) != (right.scale, right.primes):
            raise ValueError("unequal scales")
        components = max(left.components, right.components)
        return PlainCipher(left.values + right.values, left.scale, left.primes, components)

    def plus(self, left: Any, constant: float) -> Any:
        return self._like(left, left.values + constant)

    def weighted(self, cipher: Any, weight: float) -> Any:
        found = self._like(cipher, cipher.values * weight)
        found.scale += self._parameters.weights
        return self._held(found)

    def fill_up(self, cipher: Any, factor: float, other: Any) -> Any:
        if other.scale > cipher.scale or other.primes < cipher.primes:
            raise ValueError("the larger scale comes first")
        return self._like(cipher, cipher.values + factor * other.values)

    def multiply(self, left: Any, right: Any) -> Any:
        if left.components + right.components != 4:
            raise ValueError("relinearise first")
        primes = min(left.primes, right.primes)
        values = left.values * right.values
        return self._held(PlainCipher(values, left.scale + right.scale, primes, 3))

    def relinearise(self, cipher: Any) -> Any:
        return PlainCipher(cipher.values, cipher.scale, cipher.primes)

    def rescale(self, cipher: Any) -> Any:
        if cipher.components != 2:
            raise ValueError("relinearise first")
        left = len(self._parameters.primes)
        for drop in self._parameters.drops:
            left -= drop
            if left < cipher.primes:
                break
        dropped = sum(self._parameters.primes[left : cipher.primes])
        return PlainCipher(cipher.values, cipher.scale - dropped, left)

    def reply(self, cipher: Any, *, rows: int, sigma: float, randomness: Randomness) -> bytes:
        p = self._parameters
        if (cipher.scale, cipher.primes) != (p.result_bits, p.result_primes):
            raise ValueError("not a result's scale and level")
        if cipher.components != 2:
            raise ValueError("relinearise first")
        values = cipher.values.copy()
        values[rows:] = np.nan
        return values.tobytes()

    def _held(self, cipher: PlainCipher) -> PlainCipher:
        bits = np.log2(np.abs(cipher.values).max() + 2.0**-300) + cipher.scale
        if bits > sum(self._parameters.primes[: cipher.primes]) - 1:
            raise ValueError("larger than the modulus")
        return cipher

    def _like(self, cipher: PlainCipher, values: npt.NDArray[np.float64]) -> PlainCipher:
        return self._held(PlainCipher(values, cipher.scale, cipher.primes, cipher.components))
