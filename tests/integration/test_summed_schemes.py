"""The two encryptions of the `sum` join: one suite for both, then what each hides and how."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from crypto.adapters import packed_bfv, paillier, sum_engine
from crypto.adapters.packed_bfv import RING, BfvAdder, PackedBfv
from crypto.adapters.paillier import Paillier, PaillierAdder
from crypto.engine import EngineOutcome
from crypto.errors import EngineFailed, EngineFault
from crypto.joins.ports import MASK_BITS, SUM_BITS, ValueEncryption, ValueOwner
from crypto.joins.released import open_cells
from crypto.joins.rows import plain_output
from crypto.joins.summable import ValueScheme
from crypto.ports import SystemRandomness
from crypto.sharing import recombine
from tests.summing import joined, layout, parties, side, task

RANDOM = SystemRandomness()
SHIFT = 2 ** (SUM_BITS - 1)
SCHEMES: dict[str, ValueEncryption] = {"paillier": Paillier(), "bfv": PackedBfv()}


@pytest.fixture(params=SCHEMES)
def encryption(request: pytest.FixtureRequest) -> ValueEncryption:
    return SCHEMES[request.param]


def values(*rows: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.array(rows, dtype=np.int64)


@cache
def an_owner(encryption: ValueEncryption) -> ValueOwner:
    """One key for all tests that do not care which: a Paillier key takes half a second."""
    return encryption.owner(1, RANDOM)


# Both


def test_the_join_under_real_encryption_says_what_the_pooled_rows_say(
    encryption: ValueEncryption,
) -> None:
    draw = np.random.default_rng(3)
    shape = layout(of_a=1, of_b=2, min_group=4)
    a = side(range(12), draw.integers(-(2**50), 2**50, (12, 1)))
    b = side(range(6, 20), draw.integers(-(2**50), 2**50, (14, 2)))
    pair = joined(parties(shape, a, b, encryption=encryption))
    assert (recombine([one.share for one in pair]) == plain_output(shape, a, b)).all()


def test_sums_and_masks_at_their_bounds_do_not_run_into_each_other(
    encryption: ValueEncryption,
) -> None:
    """Thirty columns: more than one Paillier ciphertext holds."""
    most, columns = 2**62 - 1, 30
    owner = encryption.owner(columns, RANDOM)
    adder = encryption.adder(owner.public_key, columns, RANDOM)
    rows = values(*([sign * (most // 2)] * columns for sign in (1, -1, 1, -1, 1)))
    rows[:, 1::2] *= -1
    picked = np.array([True, False, True, False, False])
    adder.add(owner.encrypt(rows), picked)
    masks = [SHIFT + (2**MASK_BITS - 1) * (i % 3 > 0) for i in range(columns)]
    found = owner.open(adder.close(masks))
    expected = [int(rows[picked, i].sum()) + masks[i] for i in range(columns)]
    assert found == expected
    assert max(expected) < 2**MASK_BITS + 2**SUM_BITS and min(expected) > 0


def test_messages_add_up_and_one_without_a_picked_row_adds_nothing(
    encryption: ValueEncryption,
) -> None:
    owner = encryption.owner(1, RANDOM)
    adder = encryption.adder(owner.public_key, 1, RANDOM)
    for picked in ([True, True], [False, False], [False, True]):
        adder.add(owner.encrypt(values([5], [7])), np.array(picked))
    assert owner.open(adder.close([SHIFT])) == [SHIFT + 19]


@pytest.mark.parametrize("what", ["key", "values", "reply"])
@pytest.mark.parametrize("forgery", ["shorter", "longer", "empty", "noise", "of the other scheme"])
def test_what_is_no_key_or_ciphertext_is_refused(
    encryption: ValueEncryption, what: str, forgery: str
) -> None:
    owner = an_owner(encryption)
    adder = encryption.adder(owner.public_key, 1, RANDOM)
    message = owner.encrypt(values([5], [7]))
    adder.add(message, np.array([True, False]))
    right = {"key": owner.public_key, "values": message, "reply": adder.close([SHIFT])}[what]
    other = next(one for one in SCHEMES.values() if one is not encryption)
    forged = {
        "shorter": right[:-1],
        "longer": right + b"\0",
        "empty": b"",
        "noise": RANDOM.draw(len(right)),
        "of the other scheme": an_owner(other).public_key,
    }[forgery]
    if forgery == "noise" and encryption is SCHEMES["paillier"]:
        # Any unit below n**2 is a ciphertext and most odd numbers could be a key; these are not.
        forged = b"\xff" * len(right)
    with pytest.raises(EngineFailed) as refused:
        if what == "key":
            encryption.adder(forged, 1, RANDOM)
        elif what == "values":
            adder.add(forged, np.array([True, False]))
        else:
            owner.open(forged)
    assert refused.value.fault is EngineFault.MISMATCH


def test_a_reply_under_another_key_is_refused(encryption: ValueEncryption) -> None:
    owner, other = an_owner(encryption), encryption.owner(1, RANDOM)
    adder = encryption.adder(other.public_key, 1, RANDOM)
    adder.add(other.encrypt(values([5])), np.array([True]))
    with pytest.raises(EngineFailed):
        owner.open(adder.close([SHIFT]))


# Paillier


@pytest.mark.parametrize("forged", ["0", "n", "n**2", "n**2 + 1"])
def test_a_number_that_is_no_paillier_ciphertext_is_refused(forged: str) -> None:
    owner = an_owner(SCHEMES["paillier"])
    n = int.from_bytes(owner.public_key, "big")
    number = {"0": 0, "n": n, "n**2": n**2, "n**2 + 1": n**2 + 1}[forged]
    with pytest.raises(EngineFailed, match="no ciphertext"):
        owner.open(number.to_bytes(768, "big"))


def test_a_paillier_modulus_of_another_size_or_kind_is_refused() -> None:
    n = int.from_bytes(an_owner(SCHEMES["paillier"]).public_key, "big")
    prime = paillier.gmpy2.next_prime(2**3071)
    for forged in (n >> 1, n - 1, int(prime), 3 * (n // 3)):
        with pytest.raises(EngineFailed, match="modulus"):
            Paillier().adder(forged.to_bytes(384, "big"), 1, RANDOM)


class BarePaillier(PaillierAdder):
    """The twin that adds the mask as a known number, without a fresh encryption."""

    def close(self, masks: Sequence[int]) -> bytes:
        n = int(self._public.n)
        made = int(self._sums[0]) * (1 + n * masks[0]) % n**2
        return made.to_bytes(768, "big")


def rows_in_paillier_reply(owner: Any, message: bytes, sent: list[int], reply: bytes) -> list[int]:
    """The owner divides the plaintexts out and looks for its own randomness."""
    n = int.from_bytes(owner.public_key, "big")

    def residue(ciphertext: bytes, plain: int) -> int:
        return int.from_bytes(ciphertext, "big") * (1 - n * plain) % n**2

    held = residue(reply, owner.open(reply)[0])
    own = [residue(message[768 * i : 768 * i + 768], value) for i, value in enumerate(sent)]
    return [row for row, one in enumerate(own) if one == held]


def test_a_fresh_paillier_reply_does_not_say_which_row_it_holds() -> None:
    """All rows have one value, so that the sum says nothing; the ciphertexts alone would."""
    owner: Any = an_owner(SCHEMES["paillier"])
    sent = [9] * 6
    message = owner.encrypt(values(*([one] for one in sent)))
    found = []
    for adder in (
        BarePaillier(owner._public, 1, RANDOM),
        Paillier().adder(owner.public_key, 1, RANDOM),
    ):
        adder.add(message, np.arange(6) == 4)
        found.append(rows_in_paillier_reply(owner, message, sent, adder.close([SHIFT])))
    assert found == [[4], []]


# BFV


def test_more_rows_than_a_ciphertext_holds_are_summed_exactly() -> None:
    draw = np.random.default_rng(5)
    shape, people = layout(of_b=1), RING + 200
    a, b = side(range(0, people, 3)), side(range(people), draw.integers(-(2**45), 2**45, people))
    pair = joined(parties(shape, a, b, encryption=PackedBfv()))
    assert (recombine([one.share for one in pair]) == plain_output(shape, a, b)).all()


def test_a_ciphertext_altered_in_any_place_is_refused_or_read_as_another() -> None:
    """SEAL's reader meets bytes of a peer: it must end in our error or in a ciphertext."""
    draw = np.random.default_rng(6)
    owner = PackedBfv().owner(1, RANDOM)
    adder = PackedBfv().adder(owner.public_key, 1, RANDOM)
    right, refused = owner.encrypt(values([5])), 0
    places = [*range(4, 160), *draw.integers(160, len(right), 60).tolist()]
    for place in places:
        forged = bytearray(right)
        forged[place] ^= int(draw.integers(1, 256))
        try:
            adder.add(bytes(forged), np.array([True]))
        except EngineFailed as error:
            assert error.fault is EngineFault.MISMATCH
            refused += 1
    assert refused > 30


def test_a_bfv_ciphertext_of_another_level_or_shape_is_refused() -> None:
    owner = PackedBfv().owner(1, RANDOM)
    adder = PackedBfv().adder(owner.public_key, 1, RANDOM)
    message = owner.encrypt(values([5]))
    adder.add(message, np.array([True]))
    with pytest.raises(EngineFailed, match="no ciphertext"):
        adder.add(adder.close([SHIFT]), np.array([True]))  # one level down
    with pytest.raises(EngineFailed, match="no ciphertext"):
        owner.open(message)  # one level up
    space = packed_bfv._spaces()[0]
    three, square = packed_bfv.seal.Ciphertext(), packed_bfv._split(message, 2, 10**6)
    space.evaluator.square(space.ciphertext(square[0], space.context.first_parms_id()), three)
    with pytest.raises(EngineFailed):
        adder.add(packed_bfv._joined([packed_bfv._saved(three), square[1]]), np.array([True]))


class Counting:
    """An evaluator that writes down what it is asked to do, in order."""

    def __init__(self, evaluator: Any, asked: list[tuple[str, int]]) -> None:
        self._evaluator, self._asked = evaluator, asked

    def __getattr__(self, name: str) -> Any:
        def called(*given: Any) -> None:
            plain = [one.nonzero_coeff_count() for one in given if hasattr(one, "coeff_count")]
            self._asked.append((name, sum(plain)))
            getattr(self._evaluator, name)(*given)

        return called


@pytest.mark.parametrize("picked", [0, 1, 2, 50, RING])
def test_what_a_bfv_message_takes_does_not_depend_on_how_many_rows_are_picked(picked: int) -> None:
    """The owner waits for the next message, so it can time what became of the last one. SEAL takes
    1 ms for nothing, 2 ms for one coefficient and 20 ms for more. Times are not compared here, but
    operations and the number of coefficients that they go over, which is what times follow."""
    owner = PackedBfv().owner(1, RANDOM)
    adder = BfvAdder(owner.public_key, 1, RANDOM)
    asked: list[tuple[str, int]] = []
    adder._spaces = tuple(  # type: ignore[assignment]
        replace(space, evaluator=Counting(space.evaluator, asked)) for space in adder._spaces
    )
    for _ in range(2):
        adder.add(owner.encrypt(values([5], [7])), np.arange(RING)[:2] < picked)
    adder.add(owner.encrypt(np.full((RING, 1), 9)), np.arange(RING) < picked)
    each = [("multiply_plain", RING), ("add_inplace", 0), ("add_inplace", 0)]
    assert asked == [each[0]] * 2 + (each * 2) * 2
    expected = SHIFT + 2 * sum([5, 7][: min(picked, 2)]) + 9 * picked
    assert owner.open(adder.close([SHIFT])) == [expected]


class BareBfv(BfvAdder):
    """The twin that returns the sum of the owner's own ciphertexts, the mask added in the clear."""

    def close(self, masks: Sequence[int]) -> bytes:
        made = []
        for index, held in enumerate(self._sums):
            space = self._spaces[index % 2]
            hiding = np.zeros(RING, dtype=np.uint64)
            hiding[-1] = masks[0] % space.plain_modulus
            masked, shorter = packed_bfv.seal.Ciphertext(), packed_bfv.seal.Ciphertext()
            space.evaluator.add_plain(held, space.plaintext(hiding), masked)
            once, ones = packed_bfv.seal.Ciphertext(), np.ones(RING, dtype=np.uint64)
            space.evaluator.multiply_plain(self._came[index], space.plaintext(ones), once)
            space.evaluator.sub_inplace(masked, once)
            space.evaluator.mod_switch_to_next(masked, shorter)
            made.append(packed_bfv._saved(shorter))
        return packed_bfv._joined(made)


def rows_by_second_polynomial(message: bytes, reply: bytes, candidates: range) -> list[int]:
    """The owner does to its own ciphertext what the other side must have done."""
    space, evaluator = packed_bfv._spaces()[0], packed_bfv._spaces()[0].evaluator
    lower = space.context.first_context_data().next_context_data().parms_id()
    own = space.ciphertext(packed_bfv._split(message, 2, 10**6)[0], space.context.first_parms_id())
    said = space.ciphertext(packed_bfv._split(reply, 2, 10**6)[0], lower)
    found = []
    for row in candidates:
        one = np.zeros(RING, dtype=np.uint64)
        one[row] = 1
        moved, shorter = packed_bfv.seal.Ciphertext(), packed_bfv.seal.Ciphertext()
        evaluator.multiply_plain(own, space.plaintext(one), moved)
        evaluator.mod_switch_to_next(moved, shorter)
        if all(shorter[i] == said[i] for i in range(2 * RING, 2 * RING + 64)):
            found.append(row)
    return found


def test_a_fresh_bfv_reply_does_not_say_which_row_it_holds() -> None:
    owner = PackedBfv().owner(1, RANDOM)
    message = owner.encrypt(np.full((RING, 1), 9, dtype=np.int64))
    found = []
    for adder in (
        BareBfv(owner.public_key, 1, RANDOM),
        PackedBfv().adder(owner.public_key, 1, RANDOM),
    ):
        adder.add(message, np.arange(RING) == 4)
        reply = adder.close([SHIFT])
        assert owner.open(reply) == [SHIFT + 9]
        found.append(rows_by_second_polynomial(message, reply, range(12)))
    assert found == [[4], []]


def test_the_noise_of_a_reply_does_not_say_which_row_it_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The owner subtracts all it knows from a reply and compares what is left with the noise of
    its own ciphertext, moved as each row would move it. Twin: a fresh encryption, no flooding.

    The attack's score for a wrong row is about normal with standard deviation 1; among 64 rows of
    the product one above 8 has probability below 1e-13.
    """
    owner = PackedBfv().owner(1, RANDOM)
    message = owner.encrypt(np.full((RING, 1), 9, dtype=np.int64))
    picked = np.arange(RING) == 40

    scores = {}
    for name, flood in (("twin", lambda _: [0] * RING), ("product", packed_bfv._flood)):
        monkeypatch.setattr(packed_bfv, "_flood", flood)
        adder = BfvAdder(owner.public_key, 1, RANDOM)
        # Read before the change of modulus, where the owner could read most.
        adder._spaces = tuple(  # type: ignore[assignment]
            replace(space, evaluator=Unswitched(space.evaluator)) for space in adder._spaces
        )
        adder.add(message, picked)
        reply = adder.close([SHIFT])
        left, own = noise_of(owner, reply), noise_of(owner, message)
        scores[name] = [correlation(left, own, row) for row in range(64)]
        if name == "twin":
            assert np.abs(left).max() < 2**29  # the bound that the flooding is measured against
    assert int(np.argmax(scores["twin"])) == 40 and max(scores["twin"]) > 8
    assert np.abs(scores["product"]).max() < 8


class Unswitched:
    """An evaluator that leaves the modulus as it is."""

    def __init__(self, evaluator: Any) -> None:
        self._evaluator = evaluator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._evaluator, name)

    def mod_switch_to_next(self, one: Any, other: Any) -> None:
        self._evaluator.add(one, zero_like(one), other)


def zero_like(one: Any) -> Any:
    space = packed_bfv._spaces()[0]
    if list(one.parms_id()) != list(space.context.first_parms_id()):
        space = packed_bfv._spaces()[1]
    return space.noise([0] * RING)


def noise_of(owner: Any, message: bytes) -> npt.NDArray[np.float64]:
    """What is left of the first ciphertext when the owner takes off all it can open, modulo the
    first prime: c0 + c1 * s - round(q * m / t)."""
    end = owner._ends[0]
    space = end.space
    one = space.ciphertext(packed_bfv._split(message, 2, 10**6)[0], space.context.first_parms_id())
    plain = packed_bfv.seal.Plaintext()
    end.decryptor.decrypt(one, plain)
    known = [int(plain[i]) if i < plain.coeff_count() else 0 for i in range(RING)]
    whole, prime, t = math.prod(space.moduli), space.moduli[0], space.plain_modulus
    first = np.array([one[i] for i in range(RING)], dtype=np.int64)
    second = np.array([one[len(space.moduli) * RING + i] for i in range(RING)], dtype=np.int64)
    product = times_secret(end, second, prime)
    told = np.array([((whole * m + t // 2) // t) % prime for m in known], dtype=np.int64)
    left = (first + product - told) % prime
    return np.where(left > prime // 2, left - prime, left).astype(np.float64)


def times_secret(end: Any, second: npt.NDArray[np.int64], prime: int) -> npt.NDArray[np.int64]:
    """Modulo X**8192 + 1: a sum of turned copies, for the secret's coefficients are -1, 0, 1."""
    secret = secret_of(end)
    total = np.zeros(RING, dtype=np.int64)
    around = np.concatenate([-second, second])
    for place in np.flatnonzero(secret):
        total += secret[place] * around[RING - place : 2 * RING - place]
        if place % 512 == 0:
            total %= prime
    return total % prime


def secret_of(end: Any) -> npt.NDArray[np.int64]:
    """The secret's coefficients: SEAL keeps it transformed; it is turned back as a ciphertext."""
    space, moduli = end.space, len(end.space.moduli)
    transformed = end.secret.data()
    words = np.zeros(2 * moduli * RING, dtype=np.uint64)
    words[: moduli * RING] = [transformed[i] for i in range(moduli * RING)]
    words[moduli * RING :] = 1  # SEAL refuses to work on a second polynomial of zero
    body = packed_bfv.struct.pack(
        "<4QBQQQdQ", *space.context.first_parms_id(), 1, 2, RING, moduli, 1.0, 1
    )
    held = packed_bfv._loaded(
        packed_bfv.seal.Ciphertext(),
        space.context,
        packed_bfv._headed(body + packed_bfv._array(words)),
    )
    plain = packed_bfv.seal.Ciphertext()
    space.evaluator.transform_from_ntt(held, plain)
    found = np.array([plain[i] for i in range(RING)], dtype=np.int64)
    return np.where(found > 1, found - space.moduli[0], found)


def correlation(left: npt.NDArray[np.float64], own: npt.NDArray[np.float64], row: int) -> float:
    moved = np.concatenate([-own, own])[RING - row : 2 * RING - row]
    return float(left @ moved / (np.linalg.norm(left) * np.linalg.norm(moved)) * RING**0.5)


# In the engine child


def test_two_engines_meet_over_sockets() -> None:
    shape = layout(of_b=1)
    a, b = side(range(10)), side(range(5, 15), np.arange(10))
    ports = [free_port(), free_port()]
    outcomes: dict[int, EngineOutcome] = {}

    def take_part(rank: int) -> None:
        told = task(rank, shape, (12, 12), ValueScheme.BFV)
        addresses = [f"127.0.0.1:{port}" for port in ports]
        peers = tuple("" if one == rank else addresses[one] for one in (0, 1))
        seat = replace(
            told.seat,
            listen=addresses[rank],
            peers=peers,
            connect_timeout_ms=20_000,
            receive_timeout_ms=20_000,
        )
        outcomes[rank] = sum_engine.run(
            replace(told, seat=seat), (a, b)[rank], on_stage=lambda _: None
        )

    threads = [threading.Thread(target=take_part, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    cell = open_cells(shape, [outcomes[rank].share for rank in (0, 1)])[0]
    assert cell.terms == (5, 0 + 1 + 2 + 3 + 4)
    assert list(outcomes[0].timings_ms) == ["connect", "match", "share", "compute", "total"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])
