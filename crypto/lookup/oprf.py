"""A verifiable oblivious pseudorandom function: RFC 9497, mode VOPRF, ristretto255-SHA512.

Both compute F(key, input) of the client's input under the server's key; the server learns nothing
of the input, the client nothing of the key but F at that input, and a proof shows that the key is
the one behind a public key known before. Names and order follow the RFC, section by section:

    2.2    discrete-logarithm equivalence proofs, one for a whole batch
    3.2.1  deterministic key generation
    3.3.2  blind, evaluate blindly, finalise
    4.1    the suite
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Final

from crypto.errors import Malformed
from crypto.lookup.limits import MAX_EVALUATIONS, SEED_BYTES
from crypto.lookup.ports import Element, Group, Scalar
from crypto.lookup.spread import spread
from crypto.ports import Randomness

ELEMENT_BYTES: Final = 32
SCALAR_BYTES: Final = 32
PROOF_BYTES: Final = 2 * SCALAR_BYTES
OUTPUT_BYTES: Final = 64
ORDER: Final = 2**252 + 27742317777372353535851937790883648493

_CONTEXT: Final = b"OPRFV1-\x01-ristretto255-SHA512"
_IDENTITY: Final = bytes(ELEMENT_BYTES)
_MAX_INPUT_BYTES: Final = 2**16 - 2  # RFC 9497, section 5.1


@dataclass(frozen=True)
class KeyPair:
    """secret: the server's scalar. public: secret times the generator."""

    secret: Scalar = field(repr=False)
    public: Element


@dataclass(frozen=True)
class Blinded:
    """scalar: stays with the client, used once. element: uniform whatever the input was."""

    scalar: Scalar = field(repr=False)
    element: Element


@dataclass(frozen=True)
class Proof:
    """That all elements of one batch were multiplied by one secret: challenge and response."""

    challenge: Scalar
    response: Scalar

    def to_bytes(self) -> bytes:
        return self.challenge + self.response

    @classmethod
    def parse(cls, data: bytes) -> Proof:
        """Raises Malformed."""
        return cls(decode_scalar(data[:SCALAR_BYTES]), decode_scalar(data[SCALAR_BYTES:]))


# 2.1 and 4.1: elements and scalars as bytes.


def decode_element(group: Group, data: bytes) -> Element:
    """Raises Malformed unless `data` is the one encoding of an element that is not the identity.

    The identity would be evaluated to itself, under every key.
    """
    if not group.is_element(data) or data == _IDENTITY:
        raise Malformed("element", "is not a ristretto255 element, or is the identity")
    return Element(data)


def decode_scalar(data: bytes) -> Scalar:
    """Raises Malformed unless `data` is a scalar in 1..order-1, in its one encoding."""
    if len(data) != SCALAR_BYTES or not 0 < int.from_bytes(data, "little") < ORDER:
        raise Malformed("scalar", "is not a ristretto255 scalar, or is 0")
    return Scalar(data)


def random_scalar(group: Group, randomness: Randomness) -> Scalar:
    """In 1..order-1; 64 bytes reduced are off uniform by less than 2**-250 (section 4.7.2)."""
    while (scalar := group.scalar(randomness.draw(64))) == bytes(SCALAR_BYTES):
        pass
    return scalar


def hash_to_group(group: Group, data: bytes) -> Element:
    return group.element(_expand(data, b"HashToGroup-" + _CONTEXT))


def hash_to_scalar(group: Group, data: bytes, *, to: bytes = b"HashToScalar-") -> Scalar:
    return group.scalar(_expand(data, to + _CONTEXT))


# 3.2.1


def derive_key_pair(group: Group, seed: bytes, info: bytes) -> KeyPair:
    """seed: 32 secret bytes from a cryptographic generator. info: public, what the key is for."""
    if len(seed) != SEED_BYTES:
        raise Malformed("seed", f"is not {SEED_BYTES} bytes")
    for counter in range(256):
        data = seed + _sized(info) + bytes([counter])
        secret = hash_to_scalar(group, data, to=b"DeriveKeyPair")
        if secret != bytes(SCALAR_BYTES):
            return KeyPair(secret, group.generator_times(secret))
    raise Malformed("seed", "yields no key")


# 3.3.2, with 3.3.1 for the parts that it shares with mode OPRF.


def blind(group: Group, data: bytes, *, randomness: Randomness) -> Blinded:
    """Raises Malformed for an input longer than the RFC allows."""
    if len(data) > _MAX_INPUT_BYTES:
        raise Malformed("input", f"is longer than {_MAX_INPUT_BYTES} bytes")
    scalar = random_scalar(group, randomness)
    return Blinded(scalar, group.times(scalar, hash_to_group(group, data)))


def blind_evaluate(
    group: Group, keys: KeyPair, blinded: Sequence[Element], *, randomness: Randomness
) -> tuple[list[Element], Proof]:
    """The server's answer to one batch of `decode_element`ed blinded inputs, with one proof."""
    evaluated = spread(lambda part: [group.times(keys.secret, one) for one in part], blinded)
    return evaluated, generate_proof(group, keys, blinded, evaluated, randomness=randomness)


def finalize(group: Group, data: bytes, scalar: Scalar, evaluated: Element) -> bytes:
    """F at the client's input, 64 bytes. The caller has already called `verify_proof`."""
    return _output(data, group.times(group.inverse(scalar), evaluated))


def evaluate(group: Group, keys: KeyPair, data: bytes) -> bytes:
    """What `finalize` gives, for whoever has both key and input."""
    return _output(data, group.times(keys.secret, hash_to_group(group, data)))


# 2.2.1 and 2.2.2, where A is the generator, B the public key, C blinded and D evaluated.


def generate_proof(
    group: Group,
    keys: KeyPair,
    blinded: Sequence[Element],
    evaluated: Sequence[Element],
    *,
    randomness: Randomness,
) -> Proof:
    """That each evaluated[i] is keys.secret times blinded[i]."""
    weights = _weights(group, keys.public, blinded, evaluated)
    composite = _weighted(group, weights, blinded)
    image = group.times(keys.secret, composite)
    r = random_scalar(group, randomness)
    challenge = _challenge(
        group,
        keys.public,
        composite,
        image,
        group.generator_times(r),
        group.times(r, composite),
    )
    response = group.scalar_minus(r, group.scalar_times(challenge, keys.secret))
    return Proof(challenge, response)


def verify_proof(
    group: Group,
    public: Element,
    blinded: Sequence[Element],
    evaluated: Sequence[Element],
    proof: Proof,
) -> None:
    """Raises Malformed unless one secret, that of `public`, took each blinded[i] to evaluated[i].

    A batch in which it did not passes with a chance of about 2**-252.
    """
    weights = _weights(group, public, blinded, evaluated)
    composite = _weighted(group, weights, blinded)
    image = _weighted(group, weights, evaluated)
    c, s = proof.challenge, proof.response
    t2 = group.plus(group.generator_times(s), group.times(c, public))
    t3 = group.plus(group.times(s, composite), group.times(c, image))
    if not hmac.compare_digest(_challenge(group, public, composite, image, t2, t3), c):
        raise Malformed("proof", "does not show that the holder used the key of this table")


def _weights(
    group: Group, public: Element, blinded: Sequence[Element], evaluated: Sequence[Element]
) -> list[Scalar]:
    """One for each pair, fixed only once all the holder's answers are: 2.2.1, ComputeComposites."""
    if len(blinded) != len(evaluated) or not 1 <= len(blinded) <= MAX_EVALUATIONS:
        raise Malformed("batch", f"is not 1..{MAX_EVALUATIONS} pairs")
    seed = hashlib.sha512(_sized(public) + _sized(b"Seed-" + _CONTEXT)).digest()
    return [
        hash_to_scalar(
            group,
            _sized(seed) + i.to_bytes(2, "big") + _sized(c) + _sized(d) + b"Composite",
        )
        for i, (c, d) in enumerate(zip(blinded, evaluated, strict=True))
    ]


def _weighted(group: Group, weights: Sequence[Scalar], elements: Sequence[Element]) -> Element:
    """The sum of weights[i] times elements[i]."""

    def part(pairs: Sequence[tuple[Scalar, Element]]) -> list[Element]:
        return [reduce(group.plus, [group.times(weight, one) for weight, one in pairs])]

    return reduce(group.plus, spread(part, list(zip(weights, elements, strict=True))))


def _challenge(group: Group, *elements: Element) -> Scalar:
    return hash_to_scalar(group, b"".join(map(_sized, elements)) + b"Challenge")


def _output(data: bytes, element: Element) -> bytes:
    return hashlib.sha512(_sized(data) + _sized(element) + b"Finalize").digest()


def _expand(data: bytes, tag: bytes) -> bytes:
    """expand_message_xmd of RFC 9380, section 5.3.1, with SHA-512, for exactly 64 bytes."""
    tag += len(tag).to_bytes(1, "big")
    first = _PADDED.copy()
    first.update(data + (64).to_bytes(2, "big") + b"\x00" + tag)
    return hashlib.sha512(first.digest() + b"\x01" + tag).digest()


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


_PADDED: Final = hashlib.sha512(bytes(128))  # Z_pad: one block of SHA-512
