from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from crypto.errors import KeyRefused, Malformed
from crypto.joinkeys import KeyKind, canonical_keys, tokens

KEY = bytes(range(32))


def test_a_null_key_takes_its_row_out_of_the_join_and_keeps_the_other_positions() -> None:
    keys = canonical_keys(["p1", None, "p3"], KeyKind.TEXT)
    assert keys.rows.tolist() == [0, 2]
    assert keys.canonical == (b"p1", b"p3")


def test_a_column_of_nulls_joins_nothing() -> None:
    keys = canonical_keys([None, None], KeyKind.TEXT)
    assert len(keys) == 0
    assert tokens(keys, KEY).shape == (0, 16)


def test_two_spellings_of_one_character_are_one_key() -> None:
    composed = canonical_keys(["Zürich"], KeyKind.TEXT)
    decomposed = canonical_keys(["Zu\u0308rich"], KeyKind.TEXT)
    assert composed.canonical == decomposed.canonical


def test_two_spellings_of_one_key_in_one_column_are_a_repeat() -> None:
    with pytest.raises(KeyRefused, match="rows 1 and 3"):
        canonical_keys(["Zürich", "Bern", "Zu\u0308rich"], KeyKind.TEXT)


def test_leading_zeros_make_another_text() -> None:
    assert canonical_keys(["7", "007", "7.0"], KeyKind.TEXT).canonical == (b"7", b"007", b"7.0")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", "empty"),
        (" p1", "blank"),
        ("p1 ", "blank"),
        ("p1\n", "blank"),
        ("p1\u3000", "blank"),
        ("p\x001", "control"),
        ("p\u200b1", "invisible"),
        ("p\ud8001", "control"),
        ("p\u20281", "control"),
        ("x" * 1025, "longer"),
        (7, "not text"),
        (b"p1", "not text"),
    ],
)
def test_a_text_key_without_one_spelling_is_refused_by_row_and_never_shown(
    value: object, problem: str
) -> None:
    with pytest.raises(KeyRefused, match=f"row 2: .*{problem}") as refused:
        canonical_keys(["fine", value], KeyKind.TEXT)
    if value not in ("", 7):
        assert str(value).strip() not in str(refused.value)


def test_integers_have_one_spelling_whatever_type_carries_them() -> None:
    found = canonical_keys([7, np.int32(-8), np.int64(10**15), 10**25], KeyKind.INTEGER)
    assert found.canonical == (b"7", b"-8", b"1000000000000000", b"1" + b"0" * 25)


@pytest.mark.parametrize("value", ["7", 7.0, True, np.bool_(True), Decimal(7), np.float64(7)])
def test_what_is_not_an_integer_is_not_taken_for_one(value: object) -> None:
    with pytest.raises(KeyRefused, match="the join key is not an integer"):
        canonical_keys([value], KeyKind.INTEGER)


def test_a_repeated_key_is_refused_for_a_join_on_it_pairs_wrong_rows() -> None:
    with pytest.raises(KeyRefused, match="rows 2 and 4"):
        canonical_keys([1, 2, 3, 2], KeyKind.INTEGER)


def test_equal_keys_have_equal_tokens_under_one_pair_key_and_others_under_another() -> None:
    keys = canonical_keys(["p1", "p2", "p3"], KeyKind.TEXT)
    ours, theirs = tokens(keys, KEY), tokens(canonical_keys(["p3"], KeyKind.TEXT), KEY)
    assert np.array_equal(ours[2], theirs[0])
    assert len({row.tobytes() for row in ours}) == 3
    assert not np.any(np.all(tokens(keys, KEY[::-1]) == ours, axis=1))


def test_a_token_is_keyed_blake2b_as_published() -> None:
    from hashlib import blake2b

    one = blake2b(b"p1", digest_size=16, key=KEY, person=b"unseen-token-v1").digest()
    assert tokens(canonical_keys(["p1"], KeyKind.TEXT), KEY)[0].tobytes() == one


def test_a_short_token_key_is_refused() -> None:
    with pytest.raises(Malformed, match="token_key"):
        tokens(canonical_keys(["p1"], KeyKind.TEXT), KEY[:16])


def test_keys_are_not_printed() -> None:
    assert "p1" not in repr(canonical_keys(["p1"], KeyKind.TEXT))
