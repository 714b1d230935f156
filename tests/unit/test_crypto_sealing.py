"""Sealing: only the receiver opens it, only in the place it was sealed for."""

from __future__ import annotations

import pytest

from crypto.digest import commit, opens
from crypto.errors import CannotOpen, Malformed
from crypto.keys import ExchangeKey, PublicKey, SigningKey
from crypto.sealing import open_sealed, seal

RECEIVER = ExchangeKey.generate()


@pytest.mark.parametrize("plaintext", [b"", b"x", b"result" * 10_000])
def test_the_receiver_opens_what_was_sealed_to_it(plaintext: bytes) -> None:
    sealed = seal(plaintext, RECEIVER.public, context=b"job_1")
    assert open_sealed(sealed, RECEIVER, context=b"job_1") == plaintext
    assert len(plaintext) < 16 or plaintext not in sealed  # a short one may be there by chance


def test_another_key_opens_nothing() -> None:
    sealed = seal(b"result", RECEIVER.public, context=b"job_1")
    with pytest.raises(CannotOpen):
        open_sealed(sealed, ExchangeKey.generate(), context=b"job_1")


@pytest.mark.parametrize("context", [b"", b"job_2", b"job_1\x00", b"job_"])
def test_a_result_cannot_be_passed_off_as_another_jobs(context: bytes) -> None:
    sealed = seal(b"result", RECEIVER.public, context=b"job_1")
    with pytest.raises(CannotOpen):
        open_sealed(sealed, RECEIVER, context=context)


def test_no_byte_can_be_changed_dropped_or_added() -> None:
    sealed = seal(b"result", RECEIVER.public, context=b"c")
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(CannotOpen):
            open_sealed(bytes(changed), RECEIVER, context=b"c")
    for length in range(len(sealed)):
        with pytest.raises(CannotOpen):
            open_sealed(sealed[:length], RECEIVER, context=b"c")
    with pytest.raises(CannotOpen):
        open_sealed(sealed + b"\x00", RECEIVER, context=b"c")


def test_the_same_plaintext_is_never_sealed_to_the_same_bytes() -> None:
    assert len({seal(b"x", RECEIVER.public, context=b"c") for _ in range(20)}) == 20


def test_a_key_that_cannot_receive_is_refused() -> None:
    with pytest.raises(Malformed, match="receiver: is not a sealing key"):
        seal(b"x", SigningKey.generate().public, context=b"c")
    with pytest.raises(Malformed, match="receiver: is a key of low order"):
        seal(b"x", PublicKey("x25519", bytes(32)), context=b"c")


def test_a_commitment_opens_to_its_data_and_salt_alone() -> None:
    salt, other = bytes(32), b"\x01" + bytes(31)
    commitment = commit(salt, b"price 100")
    assert opens(commitment, salt, b"price 100")
    assert not opens(commitment, salt, b"price 101")
    assert not opens(commitment, other, b"price 100")
    for short in (b"", bytes(31), bytes(33)):
        with pytest.raises(Malformed, match="salt"):
            commit(short, b"price 100")
