"""What each party will learn, in words. The plan carries the English; people read their own.

The words follow from the plan alone, so every node recomputes them and refuses a plan that says
something else. docs/trust.md argues each sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from exchange.query.plan import Plan


class Language(StrEnum):
    ENGLISH = "en"
    CHINESE = "zh-CN"


CONSUMER: Final = "consumer"
HOLDER: Final = "holder"
OPERATOR: Final = "operator"

_WORDS: Final[Mapping[Language, Mapping[str, str]]] = MappingProxyType(
    {
        Language.ENGLISH: {
            CONSUMER: (
                "For each of {cells} groups: the number of people and the {measures} asked for, if "
                "the group holds at least {min_group} people; otherwise only that it was "
                "suppressed. No noise is added, so it is not differentially private. No row, no "
                "key, nothing of smaller groups."
            ),
            HOLDER: (
                "Which of its own keys, after its filters, the other holder also has after its own "
                "filters, and how many each side brought. No value of the other holder's columns, "
                "no result, not which groups were suppressed."
            ),
            OPERATOR: (
                "This plan, the agreements, the price, sizes and times of messages. No row, no "
                "key, no result: it stores the sealed result without being able to open it."
            ),
        },
        Language.CHINESE: {
            CONSUMER: (
                "对 {cells} 个分组：若组内不少于 {min_group} 人，得到人数及所求的 {measures}；"
                "否则只知道该组被隐去。不加噪声，因此不具差分隐私。看不到任何一行、任何主键和更小分组的内容。"
            ),
            HOLDER: (
                "自己的主键经本方筛选后，哪些也在对方筛选后的数据中，以及双方各有多少条。看不到对方任何"
                "列的取值，看不到结果，也不知道哪些分组被隐去。"
            ),
            OPERATOR: (
                "本计划、协议、价格、消息的大小与时间。看不到任何一行、任何主键和结果：只保存无法打开的"
                "密封结果。"
            ),
        },
    }
)


def learns(plan: Plan, language: Language = Language.ENGLISH) -> dict[str, str]:
    """For each party in the plan, by its id, the sentence of what it learns."""
    words = _WORDS[language]
    asked = [f"{m.function} of {m.column}" for side in plan.sides for m in side.measures]
    nothing_more = "count" if language is Language.ENGLISH else "人数"
    facts = {
        "cells": plan.cells,
        "min_group": plan.gate.min_group,
        "measures": ", ".join(asked) or nothing_more,
    }
    sentences = {side.holder: words[HOLDER].format(**facts) for side in plan.sides}
    return {
        plan.operator: words[OPERATOR].format(**facts),
        **{str(holder): text for holder, text in sentences.items()},
        plan.consumer: words[CONSUMER].format(**facts),
    }
