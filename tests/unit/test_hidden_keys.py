"""F, the PRF, zero shares: written again from the specification; what must never happen twice."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from crypto.digest import digest
from crypto.errors import Malformed
from crypto.joinkeys import KeyKind, canonical_keys
from crypto.joins.hidden import keys as keys_module
from crypto.joins.hidden.keys import (
    Pad,
    ZeroUse,
    agreed_tags,
    check_words,
    mask_label,
    pair_pads,
    row_tags,
    tag_keys,
    zero_share,
)
from tests.fakes.seats import nowhere

KEY = bytes(range(16))
TOKEN_KEY = bytes(range(32))


def block(key: bytes, label: int, index: int) -> bytes:
    encryptor = Cipher(AES(key), ECB()).encryptor()
    return encryptor.update(label.to_bytes(8, "big") + index.to_bytes(8, "big"))


def test_f_is_aes_in_counter_mode_with_the_label_in_front() -> None:
    words = Pad(KEY).stream(5).words(7)
    expected = b"".join(block(KEY, 5, index) for index in range(4))[: 8 * 7]
    assert words.astype("<u8").tobytes() == expected


def test_a_stream_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Pad(KEY).stream(1).words(1000)
    monkeypatch.setattr(keys_module, "_ZEROS", bytes(8 * 9))
    stream = Pad(KEY).stream(1)
    parts = [stream.words(count) for count in (1, 0, 10, 500, 489)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_words_are_never_given_out_twice() -> None:
    pad = Pad(KEY)
    pad.stream(3)
    with pytest.raises(ValueError, match="has been used"):
        pad.stream(3)
    with pytest.raises(ValueError, match="has been used"):
        pad.shuffle(3, 10)


def test_no_two_columns_of_any_side_share_a_label() -> None:
    labels = {mask_label(side, column) for side in (0, 1) for column in range(1000)}
    assert len(labels) == 2000


def test_both_parties_of_a_pair_derive_the_same_and_a_third_something_else() -> None:
    seat_a, seat_b, seat_c = nowhere(3)
    one, other = pair_pads(seat_a, 1), pair_pads(seat_b, 0)
    for name in ("zero", "masks", "agreed", "coefficients"):
        words = getattr(one, name).stream(0).words(4)
        assert np.array_equal(words, getattr(other, name).stream(0).words(4))
    names = [pair_pads(seat_a, 1).zero, pair_pads(seat_a, 1).masks, pair_pads(seat_a, 1).agreed]
    names += [pair_pads(seat_a, 1).coefficients, pair_pads(seat_c, 0).zero]
    found = {pad.stream(0).words(1).tobytes() for pad in names}
    assert len(found) == len(names)


@pytest.mark.parametrize("change", [{"attempt": "att_2"}, {"plan": digest(b"another plan")}])
def test_a_new_attempt_or_plan_has_other_keys(change: dict[str, object]) -> None:
    seat = nowhere(3)[0]
    again = replace(seat, **change)  # type: ignore[arg-type]
    words = pair_pads(seat, 1).zero.stream(0).words(4)
    assert not (pair_pads(again, 1).zero.stream(0).words(4) == words).any()


def test_zero_shares_add_up_to_zero_and_any_two_look_random() -> None:
    """65,536 words: the mean of the top bits of each party's share is within 5 deviations of one
    half; by chance less than 1 key in 10**6 would fail."""
    shares = []
    for rank, seat in enumerate(nowhere(3)):
        pads = {peer: pair_pads(seat, peer) for peer in range(3) if peer != rank}
        shares.append(zero_share(rank, pads, ZeroUse.EXACT, 65_536))
    assert not (shares[0] + shares[1] + shares[2]).any()
    for part in (*shares, shares[0] + shares[1]):
        assert abs((part >> np.uint64(63)).mean() - 0.5) < 5 / 2 / 256


def test_a_rows_tag_is_the_prf_of_row_and_key() -> None:
    joined = canonical_keys(["ann", "bob", None, "李雷"], KeyKind.TEXT)
    tags = row_tags(joined, TOKEN_KEY)
    assert tags.shape == (3, 16)
    k_tag = tag_keys(TOKEN_KEY).tag
    for tag, key in zip(tags, (b"ann", b"bob", "李雷".encode()), strict=True):
        assert tag.tobytes() == blake2b(b"row" + key, digest_size=16, key=k_tag).digest()


def test_an_agreed_rows_tag_is_the_prf_of_agreed_and_its_number() -> None:
    tags = agreed_tags(tag_keys(TOKEN_KEY), 300)
    k_tag = tag_keys(TOKEN_KEY).tag
    expected = blake2b(b"agreed" + (299).to_bytes(8, "big"), digest_size=16, key=k_tag).digest()
    assert tags[299].tobytes() == expected
    assert len({tag.tobytes() for tag in tags}) == 300


def test_a_key_that_imitates_an_agreed_row_has_another_tag() -> None:
    index = (0).to_bytes(8, "big").decode()
    row = blake2b(
        b"row" + b"agreed" + index.encode(), digest_size=16, key=tag_keys(TOKEN_KEY).tag
    ).digest()
    assert row != agreed_tags(tag_keys(TOKEN_KEY), 1)[0].tobytes()


def test_a_check_word_is_half_of_aes_of_the_tag() -> None:
    held = tag_keys(TOKEN_KEY)
    tags = agreed_tags(held, 5)
    words = check_words(held, tags)
    for tag, word in zip(tags, words, strict=True):
        encryptor = Cipher(AES(held.check), ECB()).encryptor()
        assert int(word).to_bytes(8, "little") == encryptor.update(tag.tobytes())[:8]


def test_keys_of_tags_and_checks_differ_and_show_nothing_when_printed() -> None:
    held = tag_keys(TOKEN_KEY)
    assert held.tag[:16] != held.check
    assert "tag" not in repr(held).partition("(")[2]
    with pytest.raises(Malformed, match="32 bytes"):
        tag_keys(b"short")
