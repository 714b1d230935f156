"""What consumer and owner both know of a model. Everything here is public."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final

from crypto.errors import Malformed
from crypto.scoring.sigmoid import SIGMOIDS

MAX_FEATURES: Final = 200
MAX_OUTPUTS: Final = 16
MAX_DECIMALS: Final = 6
MAX_REACH: Final = 2**40
# Rows times outputs of one scoring; an engine child hands scores over in one line.
MAX_SCORES: Final = 1_000_000


class ModelFamily(StrEnum):
    LINEAR = "linear"
    LOGISTIC = "logistic"
    SQUARE_NETWORK = "square_network"


@dataclass(frozen=True)
class Feature:
    """low, high: the public range, in units of 10**-decimals. Values outside are clamped to it."""

    name: str
    low: int
    high: int
    decimals: int

    def __post_init__(self) -> None:
        if not self.name:
            raise Malformed("name", "is empty")
        if not 0 <= self.decimals <= 9:
            raise Malformed("decimals", "is not 0 to 9")
        if self.low > self.high or max(abs(self.low), abs(self.high)) >= 2**53:
            raise Malformed("low", "is above high, or either is beyond 2**53")

    @property
    def centre(self) -> float:
        return float(Fraction(self.low + self.high, 2 * 10**self.decimals))

    @property
    def half_width(self) -> float:
        return float(Fraction(self.high - self.low, 2 * 10**self.decimals))


@dataclass(frozen=True)
class ModelShape:
    """outputs: names of the scores. decimals: places kept of a released score.

    reach: a power of two. No features within their bounds bring a score of a linear model or a
           network, or the logit of a logistic model, outside -reach..reach. It is the one number
           about the weights that is public: all ciphertexts are scaled by it.
    """

    family: ModelFamily
    features: tuple[Feature, ...]
    outputs: tuple[str, ...]
    decimals: int
    reach: int

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.features]
        if not 1 <= len(names) <= MAX_FEATURES or len(set(names)) != len(names):
            raise Malformed("features", f"must be 1 to {MAX_FEATURES}, each named once")
        if not 1 <= len(self.outputs) <= MAX_OUTPUTS or len(set(self.outputs)) != len(self.outputs):
            raise Malformed("outputs", f"must be 1 to {MAX_OUTPUTS}, each named once")
        if not 0 <= self.decimals <= MAX_DECIMALS:
            raise Malformed("decimals", f"is not 0 to {MAX_DECIMALS}")
        if not 1 <= self.reach <= MAX_REACH or self.reach.bit_count() != 1:
            raise Malformed("reach", f"is not a power of two up to {MAX_REACH}")
        if self.family is ModelFamily.LOGISTIC and self.reach not in SIGMOIDS:
            allowed = ", ".join(str(reach) for reach in SIGMOIDS)
            raise Malformed("reach", f"of a logistic model must be one of {allowed}")

    @property
    def scale(self) -> int:
        """Encrypted scores are divided by this, and so within -1..1 (logistic: near 0..1)."""
        return 1 if self.family is ModelFamily.LOGISTIC else self.reach

    @property
    def score_range(self) -> tuple[int, int]:
        """Least and largest released score, in units of 10**-decimals."""
        top: int = self.scale * 10**self.decimals
        return (0 if self.family is ModelFamily.LOGISTIC else -top, top)

    @property
    def stated_error(self) -> Fraction:
        """How far the polynomial may be from the model: of a logistic model, from the logistic
        function of the logit, whatever features within their bounds. 0 for the others."""
        if self.family is ModelFamily.LOGISTIC:
            return SIGMOIDS[self.reach].stated_error
        return Fraction(0)
