from __future__ import annotations

import numpy as np
import pytest

from crypto.errors import Malformed
from crypto.sharing import from_bytes, recombine, to_bytes, zero_shares

KEY = bytes(range(32))


def test_the_two_parties_zero_shares_add_up_to_zero() -> None:
    ours, theirs = zero_shares(KEY, 1000, sign=1), zero_shares(KEY, 1000, sign=-1)
    assert not (ours + theirs).any()
    assert len(np.unique(ours)) == 1000


def test_zero_shares_with_the_same_sign_leave_noise() -> None:
    ours = zero_shares(KEY, 1000, sign=1)
    assert (ours + ours).all()


def test_every_bit_of_a_zero_share_is_set_half_of_the_time() -> None:
    """64 bits over 20,000 draws: |z| > 5 for one bit has probability 6e-7, 4e-5 in all."""
    n = 20_000
    words = zero_shares(KEY, n, sign=-1)
    for bit in range(64):
        ones = int(((words >> np.uint64(bit)) & np.uint64(1)).sum())
        assert abs(ones - n / 2) < 5 * (n / 4) ** 0.5


def test_another_key_gives_other_shares() -> None:
    assert not (zero_shares(KEY, 100, sign=1) == zero_shares(KEY[::-1], 100, sign=1)).any()


def test_the_first_words_are_those_of_aes_256_in_counter_mode() -> None:
    # NIST SP 800-38A has no zero block; FIPS 197 appendix C.3 has this key and plain text.
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    block = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor()
    first, second = block.update(bytes(16)), block.update(bytes(15) + b"\x01")
    assert to_bytes(zero_shares(KEY, 4, sign=1)) == first + second


@pytest.mark.parametrize("key", [b"", KEY[:16], KEY + b"\x00"])
def test_a_key_of_another_length_is_refused(key: bytes) -> None:
    with pytest.raises(Malformed, match="zero_key"):
        zero_shares(key, 1, sign=1)


def test_shares_recombine_to_signed_integers_over_the_whole_ring() -> None:
    values = np.array([0, 1, -1, 2**63 - 1, -(2**63)], dtype=np.int64)
    mask = zero_shares(KEY, len(values), sign=1)
    other = zero_shares(KEY, len(values), sign=-1)
    assert recombine([to_bytes(values.view(np.uint64) + mask), to_bytes(other)]).tolist() == list(
        values
    )


def test_shares_of_different_length_are_refused() -> None:
    with pytest.raises(Malformed, match="2 values, its counterpart 1"):
        recombine([bytes(16), bytes(8)])


def test_half_a_word_is_refused() -> None:
    with pytest.raises(Malformed, match="whole number"):
        from_bytes(bytes(12))
