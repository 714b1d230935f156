"""How two sides of the `revealed` join find out which rows they share."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

MASKED_BYTES: Final = 12  # of a masked key: n * m pairs are taken for equal with n * m / 2**96


class Intersection(StrEnum):
    """RR22 in fast mode only: its low-communication mode silently loses matches in spu 0.9.5."""

    RR22 = "rr22"  # vector OLE: the default
    ECDH = "ecdh25519"  # double masking on Curve25519: slower, the cross-check
    SM2 = "ecdhsm2"  # double masking on SM2: where a standard asks for it; a millisecond a row
    UNBALANCED = "unbalanced"  # many rows against few: masked once, then asked for per job
