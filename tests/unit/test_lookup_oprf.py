"""The verifiable oblivious function: what is proved, what is hidden, what is refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from crypto.adapters.ristretto import Ristretto255
from crypto.errors import Malformed
from crypto.lookup import oprf
from crypto.lookup.ports import Element, Scalar
from crypto.ports import SystemRandomness

GROUP = Ristretto255()
RANDOM = SystemRandomness()
KEYS = oprf.derive_key_pair(GROUP, b"s" * 32, b"one table")
OTHER = oprf.derive_key_pair(GROUP, b"s" * 32, b"another table")


def batch(count: int, keys: oprf.KeyPair = KEYS) -> tuple[list[Element], list[Element], oprf.Proof]:
    blinded = [
        oprf.blind(GROUP, b"key %d" % number, randomness=RANDOM).element for number in range(count)
    ]
    evaluated, proof = oprf.blind_evaluate(GROUP, keys, blinded, randomness=RANDOM)
    return blinded, evaluated, proof


class Tape:
    """Randomness that remembers what it gave, or gives what it was told to."""

    def __init__(self, *prepared: bytes) -> None:
        self.given: list[bytes] = []
        self._prepared = list(prepared)

    def draw(self, size: int) -> bytes:
        self.given.append(self._prepared.pop(0) if self._prepared else RANDOM.draw(size))
        return self.given[-1]


@pytest.mark.parametrize("count", [1, 2, 200], ids=lambda count: f"{count} at once")
def test_the_blinded_way_and_the_holders_own_way_give_one_value(count: int) -> None:
    keys = [b"key %d" % number for number in range(count)]
    sent = [oprf.blind(GROUP, key, randomness=RANDOM) for key in keys]
    elements = [one.element for one in sent]
    evaluated, proof = oprf.blind_evaluate(GROUP, KEYS, elements, randomness=RANDOM)
    oprf.verify_proof(GROUP, KEYS.public, elements, evaluated, proof)
    for key, one, answer in zip(keys, sent, evaluated, strict=True):
        assert oprf.finalize(GROUP, key, one.scalar, answer) == oprf.evaluate(GROUP, KEYS, key)
    assert oprf.evaluate(GROUP, KEYS, b"key 0") != oprf.evaluate(GROUP, OTHER, b"key 0")


def test_a_batch_evaluated_under_another_key_is_refused() -> None:
    blinded, evaluated, proof = batch(5, OTHER)
    oprf.verify_proof(GROUP, OTHER.public, blinded, evaluated, proof)
    with pytest.raises(Malformed, match="proof"):
        oprf.verify_proof(GROUP, KEYS.public, blinded, evaluated, proof)


def test_one_element_of_many_under_another_key_is_refused() -> None:
    """The nearest forgery of key tagging: the holder, who knows the key, proves all it can."""
    blinded, evaluated, _ = batch(200)
    evaluated[123] = GROUP.times(OTHER.secret, blinded[123])
    proof = oprf.generate_proof(GROUP, KEYS, blinded, evaluated, randomness=RANDOM)
    with pytest.raises(Malformed, match="proof"):
        oprf.verify_proof(GROUP, KEYS.public, blinded, evaluated, proof)


def test_two_errors_that_cancel_in_a_plain_sum_are_refused() -> None:
    """Were the batch summed without weights, this would pass: the weights come from a hash."""
    blinded, evaluated, _ = batch(2)
    shift = GROUP.generator_times(oprf.random_scalar(GROUP, RANDOM))
    minus = GROUP.times(Scalar((oprf.ORDER - 1).to_bytes(32, "little")), shift)
    evaluated = [GROUP.plus(evaluated[0], shift), GROUP.plus(evaluated[1], minus)]
    proof = oprf.generate_proof(GROUP, KEYS, blinded, evaluated, randomness=RANDOM)
    with pytest.raises(Malformed, match="proof"):
        oprf.verify_proof(GROUP, KEYS.public, blinded, evaluated, proof)


def test_errors_that_cancel_under_the_weights_known_before_are_refused() -> None:
    """A holder that first learns the weights and then chooses two errors to cancel under them has
    changed the answers, and with them the weights."""
    blinded, evaluated, _ = batch(3)
    weights = oprf._weights(GROUP, KEYS.public, blinded, evaluated)
    shift = GROUP.generator_times(oprf.random_scalar(GROUP, RANDOM))
    ratio = GROUP.scalar_times(weights[1], GROUP.inverse(weights[2]))
    minus = Scalar((oprf.ORDER - int.from_bytes(ratio, "little")).to_bytes(32, "little"))
    forged = [
        evaluated[0],
        GROUP.plus(evaluated[1], shift),
        GROUP.plus(evaluated[2], GROUP.times(minus, shift)),
    ]
    composite = oprf._weighted(GROUP, weights, evaluated)
    assert oprf._weighted(GROUP, weights, forged) == composite  # they do cancel
    proof = oprf.generate_proof(GROUP, KEYS, blinded, forged, randomness=RANDOM)
    with pytest.raises(Malformed, match="proof"):
        oprf.verify_proof(GROUP, KEYS.public, blinded, forged, proof)


def test_a_proof_holds_for_its_own_batch_in_its_own_order_alone() -> None:
    blinded, evaluated, proof = batch(3)
    again, answers, _ = batch(3)
    forgeries = [
        (again, answers),
        (blinded[::-1], evaluated[::-1]),
        (blinded, evaluated[1:] + evaluated[:1]),
        (blinded[:2], evaluated[:2]),
        (evaluated, blinded),
    ]
    for left, right in forgeries:
        with pytest.raises(Malformed, match="proof"):
            oprf.verify_proof(GROUP, KEYS.public, left, right, proof)


def test_a_proof_with_either_scalar_changed_is_refused() -> None:
    blinded, evaluated, proof = batch(2)
    one = Scalar((1).to_bytes(32, "little"))
    for name in ("challenge", "response"):
        changed = replace(proof, **{name: GROUP.scalar_minus(getattr(proof, name), one)})
        with pytest.raises(Malformed, match="proof"):
            oprf.verify_proof(GROUP, KEYS.public, blinded, evaluated, changed)


def test_batches_of_unequal_or_no_length_are_refused() -> None:
    blinded, evaluated, proof = batch(2)
    for left, right in ((blinded, evaluated[:1]), ([], [])):
        with pytest.raises(Malformed, match="batch"):
            oprf.verify_proof(GROUP, KEYS.public, left, right, proof)


@pytest.mark.parametrize(
    "data",
    [
        bytes(32),
        oprf.ORDER.to_bytes(32, "little"),
        (oprf.ORDER + 1).to_bytes(32, "little"),
        b"\xff" * 32,
        b"\x01" * 31,
        b"\x01" * 33,
    ],
    ids=["0", "the order", "1 again", "all ones", "short", "long"],
)
def test_a_scalar_has_one_encoding(data: bytes) -> None:
    with pytest.raises(Malformed, match="scalar"):
        oprf.decode_scalar(data)
    for proof in (data + b"\x01" * 32, b"\x01" * 32 + data):
        with pytest.raises(Malformed, match="scalar"):
            oprf.Proof.parse(proof)


def test_what_is_sent_is_the_keys_element_times_a_fresh_scalar_drawn_without_the_key() -> None:
    """The exact argument that x and y look alike: the map from a scalar to its product with any
    element but the identity is a bijection onto the others, and the scalar is drawn alike."""
    for key in (b"x", b"y"):
        tape = Tape()
        sent = oprf.blind(GROUP, key, randomness=tape)
        assert tape.given == [tape.given[0]] and len(tape.given[0]) == 64
        scalar = int.from_bytes(tape.given[0], "little") % oprf.ORDER
        assert sent.scalar == scalar.to_bytes(32, "little")
        assert sent.element == GROUP.times(sent.scalar, oprf.hash_to_group(GROUP, key))


def test_a_scalar_of_0_which_would_show_that_it_was_drawn_is_drawn_again() -> None:
    tape = Tape(bytes(64), oprf.ORDER.to_bytes(64, "little"), b"\x07" + bytes(63))
    assert oprf.random_scalar(GROUP, tape)[0] == 7
    assert len(tape.given) == 3


def test_blinded_elements_of_two_keys_have_one_distribution() -> None:
    """Chi-squared homogeneity over 16 classes of two samples of 2,000; bound 58.0 with 15 degrees
    of freedom. False alarm: one run in 10**6. It would catch a byte that depends on the key."""
    counts = []
    for key in (b"x", b"y"):
        seen = [
            # A hash of the element, so that any dependence of the whole encoding is seen.
            hashlib.sha256(oprf.blind(GROUP, key, randomness=RANDOM).element).digest()[0] % 16
            for _ in range(2000)
        ]
        counts.append(np.bincount(seen, minlength=16))
    both = np.array(counts)
    expected = both.sum(axis=0) / 2
    assert ((both - expected) ** 2 / expected).sum() < 58.0


def test_a_key_used_twice_is_not_recognised() -> None:
    sent = {oprf.blind(GROUP, b"x", randomness=RANDOM).element for _ in range(100)}
    assert len(sent) == 100


def test_an_input_beyond_the_rfcs_limit_is_refused() -> None:
    with pytest.raises(Malformed, match="input"):
        oprf.blind(GROUP, bytes(2**16 - 1), randomness=RANDOM)


def test_no_secret_is_printed() -> None:
    sent = oprf.blind(GROUP, b"x", randomness=RANDOM)
    for thing, secret in ((KEYS, KEYS.secret), (sent, sent.scalar)):
        assert secret.hex() not in repr(thing) and repr(secret) not in repr(thing)
