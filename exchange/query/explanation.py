"""What each party will learn, in words. The plan carries the English; people read their own.

The words follow from the plan alone, so every node recomputes them and refuses a plan that says
something else. docs/trust.md argues each sentence and names the test that shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Final

from crypto.joins.intersection import Intersection
from crypto.noise import Distribution
from exchange.query.phrases import Language, fraction_text, statistic_text
from exchange.query.plan import MAX_SIDES, Lookup, Plan, Query, Score
from registry.rule import Function, Join

__all__ = ["Language", "learns"]

_ENGLISH: Final = MappingProxyType(
    {
        "operator": (
            "This plan, the agreements, the price, sizes and times of messages. No row, no key, "
            "no result: it stores the sealed result without being able to open it."
        ),
        "operator.hidden": (
            "This plan, the agreements, the price, sizes and times of messages; from sizes the "
            "same padded count as the holders. No row, no key, no result: it stores the sealed "
            "result without being able to open it."
        ),
        "operator.sum": (
            "This plan, the agreements, the price, sizes and times of messages; from sizes, "
            "whether the answer was shown. No row, no key, no result: it stores the sealed result "
            "without being able to open it."
        ),
        # The receiver of a query
        "rows.joined": "Over the rows that both holders have in common",
        "rows.joined_three": "Over the rows that all three holders have in common",
        "rows.left": (
            "Over all rows of holder 1, each with holder 2's where there is one (numbers that "
            "rest on holder 1 alone count every row of its, matched or not)"
        ),
        "rows.union": "Over the rows of both holders together, not told apart",
        "rows.alone": "Over the holder's rows",
        "cells.one": ", as a whole: ",
        "cells.many": ", for each of {cells} groups: ",
        "shown.one": (
            ". It is shown only if it rests on at least {min_group} people; otherwise the consumer "
            "learns only that it was suppressed."
        ),
        "shown.many": (
            ". A group is shown only if it holds at least {min_group} people; of any other the "
            "consumer learns only that it was suppressed."
        ),
        "compared": " Only pairs of rows count that fulfil {count} conditions across the tables.",
        "dominance": " A sum of which one person has more than {share} is suppressed as well.",
        "rounded": " Counts of people are rounded to multiples of {multiple}.",
        "extreme": " A least or largest value is one single person's.",
        "noise.laplace": (
            " Every number carries Laplace noise; together they are worth epsilon {epsilon}, delta "
            "{delta} for any one person (differentially private)."
        ),
        "noise.gaussian": (
            " Every number carries Gaussian noise; together they are worth epsilon {epsilon}, "
            "delta {delta} for any one person (differentially private)."
        ),
        "exact": " No noise is added, so it is not differentially private.",
        "nothing_else": " No row, no key, nothing of smaller groups.",
        # Who computes
        "holder.revealed": (
            "Which of its own keys, after its filters, the other holder also has after its own "
            "filters, and how many each side brought. No value of the other holder's columns, no "
            "result, not which groups were suppressed."
        ),
        "holder.revealed_standing": (
            "Which of its own keys, after its filters, the other holder also has after its own "
            "filters, and how many each side brought. The holder of the smaller product keeps the "
            "other's keys, masked, for later jobs with this product version and filter: it sees "
            "whether they are those of an earlier job, and can test a guess only by asking in a "
            "job. No value of the other holder's columns, no result, not which groups were "
            "suppressed."
        ),
        "holder.sum": (
            "How many of its own keys, after its filters, the other holder also has after its own: "
            "the exact number, not which, and so whether the answer was shown. No key and no value "
            "of the other holder, not how many rows it brought, no sum."
        ),
        "holder.hidden": (
            "Not which of its own rows matched. How many did, after both holders' filters, only as "
            "one padded count, differentially private for any one person (epsilon {epsilon}, delta "
            "{delta}). No key and no value of the other holder, no result, not which groups were "
            "suppressed. {collusion}"
        ),
        "holder.hidden_size": (
            "Not which of its own rows matched, nor how many: no count at all. No key and no value "
            "of the other holder, no result, not which groups were suppressed. {collusion}"
        ),
        "holder.hidden_three": (
            "Not which of its own rows matched. How many people all three holders have in common, "
            "after their filters, only as one padded count, differentially private for any one "
            "person (epsilon {epsilon}, delta {delta}); nothing of how many any two have. No key "
            "and no value of the other holders, no result, not which groups were suppressed. "
            "{collusion}"
        ),
        "holder.hidden_third": (
            "That the run went on to its end, and nothing else: not which of its own rows matched, "
            "nor how many. No key and no value of the other holders, no result, not which groups "
            "were suppressed. {collusion}"
        ),
        "holder.union": (
            "Nothing of the other holder's rows: no row, no sum, not how many there are; no "
            "result, not which groups were suppressed. {collusion}"
        ),
        "holder.alone": (
            "What is asked, and the answer before noise and gate: it computes it on its own rows "
            "alone."
        ),
        "helper.hidden": (
            "How many rows matched, only as one padded count, differentially private for any one "
            "person (epsilon {epsilon}, delta {delta}). Beside it tags and shares that look "
            "random, as many as the plan fixes. No key, no value, no row's group, no result. "
            "{collusion}"
        ),
        "helper.hidden_three": (
            "How many people, after all filters, are in common to holders 1 and 2 alone, to 1 and "
            "3 alone, to 2 and 3 alone, and to all three: four padded counts, together "
            "differentially private for any one person (epsilon {epsilon}, delta {delta}). Beside "
            "them tags and shares that look random, as many as the plan fixes. No key, no value, "
            "no row's group, no result. {collusion}"
        ),
        "helper.revealed": (
            "Exactly how many rows matched, not which. Beside it numbers that look random, so many "
            "a matched row as the plan fixes. No key, no value, no row's group, no result."
        ),
        "helper.union": (
            "Shares of sums that look random, as many as the plan fixes. No row and no key reaches "
            "it. No sum, no result. {collusion}"
        ),
        "collusion.hidden": (
            "If the helper {helper} colludes with a holder, the pair reads the other holder's "
            "whole upload, matched or not: every shared column, and every key it can guess."
        ),
        "collusion.hidden_three": (
            "If the helper {helper} colludes with a holder, the pair learns of every key it can "
            "guess whether another holder has it; with holder 1 it also reads the other holders' "
            "whole uploads, matched or not: every shared column; with holder 2 that of holder 1, "
            "and the matched rows of holder 3. If holder 1 colludes with another holder, the two "
            "learn which of the people that both have the third has too."
        ),
        "collusion.revealed": (
            "If the helper {helper} colludes with a holder, the pair reads the other holder's "
            "values of the matched rows that this plan uses, and every group before the gate."
        ),
        "collusion.union": (
            "If the helper {helper} colludes with a holder, the pair reads the other holder's own "
            "sums in every group, before gate and noise."
        ),
        # Scores and lookups
        "holder.score": (
            "That {rows} encrypted rows were scored, a number that the plan fixes: smaller batches "
            "are filled up. No feature, no score, not how many rows were meant."
        ),
        "consumer.score": (
            "The scores of at most {rows} rows of its own, rounded. Nothing else of the model's "
            "weights; but scores of enough rows of its choice determine a model, and only the "
            "number of rows and jobs holds that back."
        ),
        "holder.lookup": (
            "That {keys} keys were asked for, a number that the plan fixes: smaller batches are "
            "filled up; and whether the consumer already held the encrypted table. Not which "
            "keys, not how many were meant, not whether one was found."
        ),
        "consumer.lookup": (
            "For each of at most {keys} keys of its choice: {columns} of its record, or that there "
            "is none. It keeps the holder's whole table encrypted and can open no other record of "
            "it; each guess at a key counts as one of the keys."
        ),
        "list": ", ",
    }
)
_CHINESE: Final = MappingProxyType(
    {
        "operator": (
            "本计划、协议、价格、消息的大小与时间。看不到任何一行、任何主键和结果：只保存无法打开的"
            "密封结果。"
        ),
        "operator.hidden": (
            "本计划、协议、价格、消息的大小与时间；从大小可得到与持有方相同的加填充计数。看不到任何"
            "一行、任何主键和结果：只保存无法打开的密封结果。"
        ),
        "operator.sum": (
            "本计划、协议、价格、消息的大小与时间；从大小可知答案是否被显示。看不到任何一行、任何主键和"
            "结果：只保存无法打开的密封结果。"
        ),
        "rows.joined": "对双方持有方共有的行",
        "rows.joined_three": "对三方持有方共有的行",
        "rows.left": (
            "对持有方 1 的全部行（持有方 2 有对应行的则连接；只依赖持有方 1 的数字计入其每一行，"
            "无论是否匹配）"
        ),
        "rows.union": "对双方持有方合在一起、不作区分的行",
        "rows.alone": "对该持有方的行",
        "cells.one": "，就整体得到：",
        "cells.many": "，对 {cells} 个分组各得到：",
        "shown.one": "。仅当不少于 {min_group} 人时才显示；否则需方只知道它被隐去。",
        "shown.many": "。分组内不少于 {min_group} 人才显示；其他分组需方只知道被隐去。",
        "compared": "只计入同时满足 {count} 个跨表条件的行对。",
        "dominance": "若某一人在一个总和中所占超过 {share}，该总和也被隐去。",
        "rounded": "人数取整到 {multiple} 的倍数。",
        "extreme": "最小值或最大值是某一个人的取值。",
        "noise.laplace": (
            "每个数字都加有拉普拉斯噪声；对任何一个人合计为 epsilon {epsilon}、delta {delta}"
            "（差分隐私）。"
        ),
        "noise.gaussian": (
            "每个数字都加有高斯噪声；对任何一个人合计为 epsilon {epsilon}、delta {delta}"
            "（差分隐私）。"
        ),
        "exact": "不加噪声，因此不具差分隐私。",
        "nothing_else": "看不到任何一行、任何主键和更小分组的内容。",
        "holder.revealed": (
            "自己的主键经本方筛选后，哪些也在对方筛选后的数据中，以及双方各有多少条。看不到对方任何"
            "列的取值，看不到结果，也不知道哪些分组被隐去。"
        ),
        "holder.revealed_standing": (
            "自己的主键经本方筛选后，哪些也在对方筛选后的数据中，以及双方各有多少条。较小产品的持有方"
            "保存对方经掩蔽的主键，供同一产品版本、同一筛选的后续作业使用：它能看出这些主键是否与先前"
            "作业相同；要试猜一个主键，只能在作业中询问。看不到对方任何列的取值，看不到结果，也不知道"
            "哪些分组被隐去。"
        ),
        "holder.sum": (
            "自己的主键经本方筛选后，有多少也在对方筛选后的数据中：只知道确切数目，不知道是哪些；"
            "因而知道答案是否被显示。看不到对方的任何主键和取值，不知道对方有多少行，看不到总和。"
        ),
        "holder.hidden": (
            "不知道自己的哪些行匹配上。双方筛选后匹配的行数只作为一个加填充的计数得知，对任何一个人"
            "具差分隐私（epsilon {epsilon}、delta {delta}）。看不到对方的任何主键和取值，看不到"
            "结果，也不知道哪些分组被隐去。{collusion}"
        ),
        "holder.hidden_size": (
            "不知道自己的哪些行匹配上，也不知道有多少：得不到任何计数。看不到对方的任何主键和取值，"
            "看不到结果，也不知道哪些分组被隐去。{collusion}"
        ),
        "holder.hidden_three": (
            "不知道自己的哪些行匹配上。三方筛选后共有的人数只作为一个加填充的计数得知，对任何一个人具"
            "差分隐私（epsilon {epsilon}、delta {delta}）；任何两方共有多少，一概不知。看不到其他"
            "持有方的任何主键和取值，看不到结果，也不知道哪些分组被隐去。{collusion}"
        ),
        "holder.hidden_third": (
            "只知道运行进行到了最后：不知道自己的哪些行匹配上，也不知道有多少。看不到其他持有方的任何"
            "主键和取值，看不到结果，也不知道哪些分组被隐去。{collusion}"
        ),
        "holder.union": (
            "对方的行一概不知：看不到任何一行、任何总和，不知道有多少行；看不到结果，也不知道哪些"
            "分组被隐去。{collusion}"
        ),
        "holder.alone": "所问的内容，以及加噪声和隐去之前的答案：由它单独在自己的行上计算。",
        "helper.hidden": (
            "匹配的行数只作为一个加填充的计数得知，对任何一个人具差分隐私（epsilon {epsilon}、"
            "delta {delta}）。此外只有看起来随机的标签与份额，数目由计划固定。看不到任何主键、"
            "取值、行所属的分组和结果。{collusion}"
        ),
        "helper.hidden_three": (
            "经各方筛选后，仅持有方 1 与 2、仅 1 与 3、仅 2 与 3、以及三方共有的人数：四个加填充的"
            "计数，对任何一个人合计具差分隐私（epsilon {epsilon}、delta {delta}）。此外只有看起来"
            "随机的标签与份额，数目由计划固定。看不到任何主键、取值、行所属的分组和结果。{collusion}"
        ),
        "helper.revealed": (
            "匹配的行数（确切数目），不知道是哪些行。此外只有看起来随机的数，每个匹配行多少个由计划"
            "固定。看不到任何主键、取值、行所属的分组和结果。"
        ),
        "helper.union": (
            "看起来随机的总和份额，数目由计划固定。没有任何一行或主键到达它那里。看不到总和与结果。"
            "{collusion}"
        ),
        "collusion.hidden": (
            "若协助方 {helper} 与某一持有方合谋，二者可读出另一持有方上传的全部内容，无论是否匹配："
            "每个共享的列，以及它们猜得到的每个主键。"
        ),
        "collusion.hidden_three": (
            "若协助方 {helper} 与某一持有方合谋，二者可得知猜到的每个主键是否在其他持有方处；与"
            "持有方 1 合谋还可读出其他持有方上传的全部内容，无论是否匹配：每个共享的列；与持有方 2 "
            "合谋则可读出持有方 1 上传的全部内容，以及持有方 3 匹配的行。若持有方 1 与另一持有方"
            "合谋，则二者可知道双方共有的人中哪些第三方也有。"
        ),
        "collusion.revealed": (
            "若协助方 {helper} 与某一持有方合谋，二者可读出另一持有方在匹配的行上本计划所用的取值，"
            "以及每个分组在隐去之前的数字。"
        ),
        "collusion.union": (
            "若协助方 {helper} 与某一持有方合谋，二者可读出另一持有方在每个分组中隐去和加噪声之前"
            "的总和。"
        ),
        "holder.score": (
            "有 {rows} 个加密的行被评分，数目由计划固定：不足的会补齐。看不到任何特征和分数，也不"
            "知道其中多少行是真正要评的。"
        ),
        "consumer.score": (
            "自己的至多 {rows} 行的分数，经取整。对模型的权重别无所知；但对足够多自选的行评分即可"
            "推出模型，只有行数和次数能加以限制。"
        ),
        "holder.lookup": (
            "有 {keys} 个主键被查询，数目由计划固定：不足的会补齐；以及需方是否已持有加密的表。不知"
            "道是哪些主键、真正要查的有多少、是否查到。"
        ),
        "consumer.lookup": (
            "对自选的至多 {keys} 个主键：各自记录中的 {columns}，或没有该记录。需方保存持有方整张"
            "加密的表，但打不开其中任何其他记录；每猜一个主键都算作其中一个。"
        ),
        "list": "、",
    }
)
_WORDS: Final[Mapping[Language, Mapping[str, str]]] = MappingProxyType(
    {Language.ENGLISH: _ENGLISH, Language.CHINESE: _CHINESE}
)
_ROWS: Final = MappingProxyType({Join.UNION: "rows.union", Join.ALONE: "rows.alone"})


def learns(plan: Plan, language: Language = Language.ENGLISH) -> dict[str, str]:
    """For each party in the plan, by its id, the sentences of what it learns.

    A party in two roles (a holder that is the consumer, an operator that helps) learns both.
    """
    words = _WORDS[language]
    found: dict[str, str] = {}
    for party, sentence in _sentences(plan, words, language):
        space = " " if language is Language.ENGLISH else ""
        found[party] = sentence if party not in found else f"{found[party]}{space}{sentence}"
    return found


def _sentences(
    plan: Plan, words: Mapping[str, str], language: Language
) -> Iterator[tuple[str, str]]:
    work = plan.work
    facts = _facts(plan, words)
    yield str(plan.operator), words[_operator(plan)]
    for place, side in enumerate(plan.sides):
        yield str(side.holder), words[_holder(plan, place)].format(**facts)
        if plan.join is Join.REVEALED and plan.helper is not None:
            yield str(side.holder), str(facts["collusion"])
    if plan.helper is not None:
        yield str(plan.helper.party), words[f"helper.{plan.join}{_three(plan)}"].format(**facts)
        if plan.join is Join.REVEALED:
            yield str(plan.helper.party), str(facts["collusion"])
    if isinstance(work, Query):
        yield str(plan.consumer), _received(plan, work, words, language)
    else:
        yield str(plan.consumer), words[f"consumer.{plan.join}"].format(**facts)


def _three(plan: Plan) -> str:
    """Which sentences are others where three holders meet."""
    return "_three" if len(plan.sides) == MAX_SIDES else ""


def _holder(plan: Plan, place: int) -> str:
    if isinstance(plan.work, Query) and plan.work.hide_size:
        return f"holder.{plan.join}_size"
    if isinstance(plan.work, Query) and plan.work.intersection is Intersection.UNBALANCED:
        return f"holder.{plan.join}_standing"
    # The third holder's rows are joined without it: it gets no list (docs/hidden_join.md).
    return f"holder.{plan.join}_third" if place == 2 else f"holder.{plan.join}{_three(plan)}"


def _operator(plan: Plan) -> str:
    """What sizes of messages tell whoever carries them depends on the join."""
    if plan.join is Join.HIDDEN and not plan.query.hide_size:
        return "operator.hidden"
    return "operator.sum" if plan.join is Join.SUM else "operator"


def _facts(plan: Plan, words: Mapping[str, str]) -> dict[str, object]:
    work, facts = plan.work, dict[str, object]()
    if isinstance(work, Score):
        facts["rows"] = f"{work.rows:,}"
    elif isinstance(work, Lookup):
        facts["keys"] = f"{work.keys:,}"
        facts["columns"] = words["list"].join(work.columns)
    elif work.padding is not None:
        facts["epsilon"] = fraction_text(work.padding.epsilon)
        facts["delta"] = delta_text(work.padding.delta)
    if plan.helper is not None:
        collusion = words[f"collusion.{plan.join}{_three(plan)}"]
        facts["collusion"] = collusion.format(helper=plan.helper.party)
    return facts


def _received(plan: Plan, query: Query, words: Mapping[str, str], language: Language) -> str:
    """What the receiver of a query gets to know, in the order in which it is computed."""
    gate = query.gate
    amount = "one" if plan.cells == 1 else "many"
    joined = f"rows.joined{_three(plan)}"
    rows = "rows.left" if query.keep_left else _ROWS.get(plan.join, joined)
    asked = [statistic_text(plan, statistic, language) for statistic in query.statistics]
    told = [
        words[rows],
        words[f"cells.{amount}"].format(cells=plan.cells),
        words["list"].join(dict.fromkeys(asked)),
        words[f"shown.{amount}"].format(min_group=gate.min_group),
    ]
    if query.comparisons:
        told.append(words["compared"].format(count=len(query.comparisons)))
    if gate.dominance is not None:
        told.append(words["dominance"].format(share=fraction_text(gate.dominance)))
    if gate.round_counts is not None:
        told.append(words["rounded"].format(multiple=gate.round_counts))
    if any(s.function in (Function.MIN, Function.MAX) for s in query.statistics):
        told.append(words["extreme"])
    if query.noise is None:
        told.append(words["exact"])
    else:
        laplace = query.noise.distribution is Distribution.LAPLACE
        told.append(
            words["noise.laplace" if laplace else "noise.gaussian"].format(
                epsilon=fraction_text(query.noise.epsilon), delta=delta_text(query.noise.delta)
            )
        )
    told.append(words["nothing_else"])
    return "".join(told)


def delta_text(delta: Fraction) -> str:
    """Two digits, never too few: 1.1e-09 for what lies above 1e-09."""
    if delta == 0:
        return "0"
    exponent = 0
    while delta * 10**exponent < 10:
        exponent += 1
    digits = -(-(delta * 10**exponent).numerator // (delta * 10**exponent).denominator)
    if digits == 100:
        digits, exponent = 10, exponent - 1
    lead = f"{digits // 10}" if digits % 10 == 0 else f"{digits // 10}.{digits % 10}"
    return lead if exponent == 1 else f"{lead}e-{exponent - 1:02d}"
