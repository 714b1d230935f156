"""The history gate: no exact answer whose difference from an earlier one isolates a few people.

Two exact answers that are each about many people can be subtracted, and what is left may be about
one. So before an exact answer is computed, this holder compares, on its own rows, the people whom
the new job counts with those whom each earlier released job counted: every group and every whole,
against every group and whole. A difference of more than nobody and fewer than the least group is
refused. Answers with noise are not compared: their epsilon covers any combination, and a refusal
that depends on rows would itself be an answer without noise.

What it does not catch, and docs/trust.md says so: combinations of three and more answers, and
differences that only the other holder's rows make. Noise covers those.
Source: differencing attacks and query set overlap control, Dobkin, Jones and Lipton 1979.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from exchange.errors import HistoryRefused

NOT_SELECTED = -2

Int64Array = npt.NDArray[np.int64]


def require_no_isolation(memberships: Int64Array, groups: Sequence[int], least: int) -> None:
    """Raises HistoryRefused, saying nothing of rows.

    memberships: shape (queries, people): the new query first, then the earlier ones; the number of
                 the group in which each counts each person, -1 for in no group, -2 for not selected
    groups:      how many groups each of them has
    """
    new = _sets(memberships[0], groups[0])
    for earlier, count in zip(memberships[1:], groups[1:], strict=True):
        old = _sets(earlier, count)
        # |a or b| - |a and b|, for every pair of sets at once.
        common = new @ old.T
        apart = new.sum(axis=1)[:, None] + old.sum(axis=1)[None, :] - 2 * common
        if ((apart > 0) & (apart < least)).any():
            raise HistoryRefused(least)


def _sets(membership: Int64Array, groups: int) -> Int64Array:
    """Every group, and all groups together, as 0/1 over people: shape (groups + 1, people)."""
    each = (membership[None, :] == np.arange(groups)[:, None]).astype(np.int64)
    whole = (membership >= 0).astype(np.int64)
    found: Int64Array = np.concatenate([each, whole[None, :]])
    return found
