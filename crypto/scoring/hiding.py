"""How a reply hides the weights, and how rounding hides the key.

**Weights from the consumer.** The consumer made every ciphertext it sent, so the bare result
of a linear model is a system of equations in the weights that a laptop solves. The owner therefore
adds a fresh encryption of zero, which makes the second component of the ciphertext fresh under ring
learning with errors, and noise so wide that the first one tells the score to a fraction of a unit
and nothing else (noise flooding; Gentry 2009, section 21). The noise is Gaussian, of
`FLOOD_UNITS` of a score's last decimal; a Gaussian hides a shift v of a ciphertext's coefficients
with statistical distance at most |v| / (2 sigma), and `hiding_bits` bounds that from public
numbers. Unused slots and imaginary parts, which an honest consumer never reads, carry noise as wide
as the modulus has room for, so that a consumer which fills them gains a few bits a slot at most.

**The key from whoever reads scores.** A CKKS decryption is the message plus the error; who knows
message and ciphertext reads the error off a raw decryption and solves for the secret key. The
consumer owns the key and is the one receiver, so nothing is lost while it keeps scores to itself;
but it will show scores to somebody, perhaps to the owner, who knows the ciphertext. `ask` therefore
adds Gaussian noise of `FLOOD_UNITS` that nobody else knows, then rounds, and hands out nothing but
the rounded integer; raw decryptions never leave it. A consumer that changes the program to pass on
raw decryptions gives its key, and with it every feature it ever encrypted under that key, to the
owner. Keys are made for one attempt and dropped with it.
Source: Li and Micciancio 2021 (the attack); Li, Micciancio, Schultz and Sorrell 2022 (the noise).
"""

from __future__ import annotations

import math
from typing import Final

from crypto.errors import Malformed
from crypto.scoring.parameters import Parameters, parameters_for
from crypto.scoring.shape import ModelFamily, ModelShape
from crypto.scoring.sigmoid import SIGMOIDS

FLOOD_UNITS: Final = 2.0**-6  # standard deviation of both noises, in units of the last decimal
HIDING_BITS: Final = 30  # statistical distance of one reply from one made of scores alone: 2**-30
# Largest score in units. The noise is encoded from 53-bit floating-point numbers, the wide one
# first; finer floods than this would no longer fill the gaps between the wide one's values.
MAX_UNITS: Final = 2**28
# |released - 10**decimals * plain| in units: half for rounding, 8 sigma of each of two noises
# (exceeded with probability 2 * 1.3e-15 a score), and an eighth for weights kept to
# 2**-40 and floating point.
ERROR_UNITS: Final = 0.5 + 2 * 8 * FLOOD_UNITS + 0.125


def fresh_error(parameters: Parameters) -> float:
    """Bound on a slot's error after encryption or rescaling, in units of the ciphertext's scale.

    Dropping the special prime rounds both components: a coefficient's error then has variance
    (1 + |s|**2) / 12 with |s|**2 = 2N/3 for a ternary secret. A slot adds N of them; six standard
    deviations are exceeded with probability e**-36.
    """
    coefficient = math.sqrt((1 + 2 * parameters.ring / 3) / 12)
    return 6 * math.sqrt(parameters.ring) * coefficient


def result_error(shape: ModelShape, parameters: Parameters) -> float:
    """Bound on the error of a reply's slots before flooding, of scores scaled to -1..1.

    Weights are scaled so that their magnitudes add up to at most 1 before each nonlinear step,
    which is why no weight enters.
    """
    error = fresh_error(parameters) * 2.0**-parameters.features
    if shape.family is ModelFamily.LINEAR:
        return error
    if shape.family is ModelFamily.SQUARE_NETWORK:
        return 4 * error  # fresh and rescaled, then twice that for a square of at most 1
    return SIGMOIDS[shape.reach].monic.error_growth(error)


def unit(shape: ModelShape) -> float:
    """The last released decimal, of scores scaled to -1..1."""
    return 1.0 / float(shape.scale * 10**shape.decimals)


def hiding_bits(shape: ModelShape, parameters: Parameters) -> int:
    """The statistical distance that flooding leaves is at most 2**-hiding_bits a reply.

    With slots' error at most e, the coefficients' error has length at most e (Parseval); a
    coefficient's sigma is a real slot's divided by sqrt(N / 2).
    """
    sigma = FLOOD_UNITS * unit(shape) / math.sqrt(parameters.slots)
    return math.floor(-math.log2(result_error(shape, parameters) / (2 * sigma)))


def require_hiding(shape: ModelShape, name: str) -> Parameters:
    """The parameter set by its name. Raises Malformed if it is not one for this kind of model or
    if the shape asks for more decimals than it can hide the weights under."""
    parameters = parameters_for(name, shape.family)
    if shape.scale * 10**shape.decimals > MAX_UNITS:
        raise Malformed("decimals", f"and reach make scores of more than {MAX_UNITS} units")
    bits = hiding_bits(shape, parameters)
    if bits < HIDING_BITS:
        spare = math.ceil((HIDING_BITS - bits) * math.log10(2))
        raise Malformed(
            "decimals",
            f"{shape.decimals} would hide the weights with {bits} bits, of {HIDING_BITS} needed; "
            f"keep {spare} fewer, or bound the features more tightly",
        )
    return parameters
