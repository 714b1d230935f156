"""CKKS parameter sets, one for each kind of model.

Security: the whole modulus, special prime included, is within the bound for 128-bit classical
security with ternary secrets: 218 bits at ring size 8192, 438 bits at 16384.
Source: Homomorphic Encryption Standard (Albrecht et al. 2018), table 1; SEAL 4.1
`CoeffModulus::MaxBitCount`, which the adapter asks for and which refuses anything larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from crypto.errors import Malformed
from crypto.scoring.shape import ModelFamily

# Ring size to largest modulus in bits, 128-bit classical security.
STANDARD_BITS: Final[Mapping[int, int]] = MappingProxyType({8192: 218, 16384: 438})


@dataclass(frozen=True)
class Parameters:
    """primes: bits of each prime of the data modulus, last dropped first. special: bits of the
    prime that only keys have.

    drops:    how many primes each rescaling drops, in order
    features: bits of the scale that features are encrypted at
    weights:  bits of the scale of plain weights: a weight is a multiple of 2**-weights
    depth:    products of ciphertexts one after the other
    wide:     unused slots and imaginary parts of a reply carry noise of 2**wide (see hiding)
    """

    name: str
    family: ModelFamily
    ring: int
    primes: tuple[int, ...]
    special: int
    drops: tuple[int, ...]
    features: int
    weights: int
    depth: int
    wide: int
    security_bits: int

    @property
    def slots(self) -> int:
        """Rows of one ciphertext."""
        return self.ring // 2

    @property
    def modulus_bits(self) -> int:
        return sum(self.primes) + self.special

    @property
    def result_primes(self) -> int:
        """Primes that a reply still has."""
        return len(self.primes) - sum(self.drops)

    @property
    def result_bits(self) -> int:
        """Bits of a reply's scale."""
        return {
            ModelFamily.LINEAR: self.features + self.weights,
            ModelFamily.LOGISTIC: 2 * self.features,
            ModelFamily.SQUARE_NETWORK: 2 * self.features + self.weights,
        }[self.family]

    @property
    def relinearises(self) -> bool:
        """Whether the owner needs relinearisation keys. No set needs Galois keys: with one
        ciphertext a feature, no slot ever meets another."""
        return self.depth > 0


PARAMETERS: Final[Mapping[str, Parameters]] = MappingProxyType(
    {
        one.name: one
        for one in (
            Parameters(
                name="ckks-linear-8192",
                family=ModelFamily.LINEAR,
                ring=8192,
                primes=(50, 50, 50),
                special=40,
                drops=(),
                features=96,
                weights=40,
                depth=0,
                wide=10,
                security_bits=128,
            ),
            Parameters(
                name="ckks-logistic-16384",
                family=ModelFamily.LOGISTIC,
                ring=16384,
                primes=(48, 48, 47, 47, 42, 42, 42, 42, 40),
                special=40,
                drops=(1, 2, 2),
                features=84,
                weights=40,
                depth=3,
                wide=10,
                security_bits=128,
            ),
            Parameters(
                name="ckks-network-16384",
                family=ModelFamily.SQUARE_NETWORK,
                ring=16384,
                primes=(48, 48, 47, 47, 46, 40),
                special=50,
                drops=(1,),
                features=92,
                weights=40,
                depth=1,
                wide=8,
                security_bits=128,
            ),
        )
    }
)


def parameters_for(name: str, family: ModelFamily) -> Parameters:
    """Raises Malformed unless `name` is a parameter set for models of that kind."""
    found = PARAMETERS.get(name)
    if found is None or found.family is not family:
        allowed = ", ".join(one.name for one in PARAMETERS.values() if one.family is family)
        raise Malformed(
            "parameters", f"{name!r} is not a set for {family} models, which is {allowed}"
        )
    return found
