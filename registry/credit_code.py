"""Unified social credit codes (统一社会信用代码): how a Chinese organisation is named for good.

    1      the department that registers      digit or letter
    2      the kind of organisation           digit or letter
    3-8    where it is registered             six digits (GB/T 2260)
    9-17   the organisation's own code        digits and letters (GB 11714)
    18     check character

Letters are capital, without I, O, S, V and Z, which are read as digits.
Source: GB 32100-2015, with the check character by ISO 7064's method: a weighted sum modulo 31 with
the weights 3**(i-1) modulo 31.
"""

from __future__ import annotations

import re
from typing import Final

from crypto.errors import Malformed

_CHARACTERS: Final = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_BODY: Final = re.compile(rf"[{_CHARACTERS}]{{2}}[0-9]{{6}}[{_CHARACTERS}]{{9}}")


def check_character(body: str) -> str:
    """Of the first 17 characters. Raises Malformed if they are none of a code."""
    if not _BODY.fullmatch(body):
        raise Malformed(
            "credit_code",
            "begins with two characters, six digits and nine characters, without I, O, S, V and Z",
        )
    total = sum(_CHARACTERS.index(c) * pow(3, place, 31) for place, c in enumerate(body))
    return _CHARACTERS[-total % 31]


def require_credit_code(text: str, *, where: str) -> None:
    """Raises Malformed unless `text` is the one spelling of a credit code."""
    if len(text) != 18 or not _BODY.fullmatch(text[:17]):
        raise Malformed(
            where,
            "is no unified social credit code: 18 digits and capital letters, six digits from the "
            "third on, no I, O, S, V or Z",
        )
    if text[17] != check_character(text[:17]):
        raise Malformed(where, "is no unified social credit code: its last character does not fit")
