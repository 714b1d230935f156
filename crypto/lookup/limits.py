"""Sizes that a lookup's task, its table and its messages keep to."""

from __future__ import annotations

from typing import Final

SEED_BYTES: Final = 32  # RFC 9497, section 3.2.1: Ns
MAX_ROWS: Final = 2**26
MAX_LABEL_BYTES: Final = 2**15
# RFC 9497, section 2.2.1 numbers the elements of one proof with two bytes.
MAX_EVALUATIONS: Final = 2**16 - 1
# crypto.lookup.answers; an engine child hands them over in one line of at most 16 MiB.
MAX_ANSWER_BYTES: Final = 8 << 20
ANSWER_HEAD_BYTES: Final = 3
