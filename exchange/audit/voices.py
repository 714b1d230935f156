"""All that audits say, in both languages: of deals, whole logs, receipts, anchors and forks.

English for what `ledger.verify` finds is in that package, which speaks no other language; here is
the Chinese beside it, and both for what only the exchange can find.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from exchange.audit import words
from exchange.query.explanation import Language
from ledger.verify import words as ledger
from ledger.verify.report import Voice

_CLAIMS: Final[Mapping[str, tuple[str, str]]] = {
    "negotiation.public": (
        "Every agreement that a price was held under had become final between its two parties, by "
        "the table.",
        "冻结价款所依据的每份协议，此前均已按状态表在其双方之间最终确定。",
    ),
    "job.public": (
        "What the operator did about a job, and what its holders started and sealed, follows by "
        "the table from the statements before it.",
        "运营方就作业所作的行为，以及各持有方的启动与密封，均按状态表承接此前的陈述。",
    ),
    "documents.private": (
        "Terms, plans, budgets and amounts were kept to.",
        "条款、计划、预算与金额均得到遵守。",
    ),
}

_PHRASES: Final[Mapping[str, tuple[str, str]]] = {
    "time.relied_on": (
        "back-dated: it says {time}, a later head does not hold it, and the statement at index "
        "{index} relies on it",
        "时间被提前：它自称 {time}，而更晚的树头中没有它，且序号 {index} 的陈述依据了它",
    ),
    "follow.no_head": ("the log shows no head any more", "日志不再出示任何树头"),
    "follow.other_log": (
        "it was the log {before} and is now {now}",
        "原为日志 {before}，现为 {now}",
    ),
    "follow.shrank": (
        "the log showed {before} entries and now shows {now}: an old copy, unless a cache lags",
        "日志曾出示 {before} 条，现只出示 {now} 条：系旧副本，除非缓存滞后",
    ),
    "follow.forked": (
        "the log signed two heads that cannot both be true; keep both notes ({reason})",
        "日志签署了两个不能同真的树头；请保存两份签名文本（{reason}）",
    ),
    "follow.unwitnessed": (
        "the quorum of witnesses has been missing since {since}",
        "自 {since} 起一直缺少见证方定数",
    ),
    "follow.unanswered": (
        "the log has given no answer since {since}",
        "日志自 {since} 起未作应答",
    ),
    "follow.quiet": (
        "the log has not grown since {since}: it is idle, or its heads are withheld; nothing here "
        "tells which",
        "日志自 {since} 起未增长：或为空闲，或树头被扣留，在此无从分辨",
    ),
    "follow.relies": (
        "{actor} relies on {count} that the log does not hold before it, {digest} first: left "
        "out, or made up",
        "{actor} 所依据的 {count} 份陈述在此前的日志中不存在（首份为 {digest}）："
        "或被遗漏，或系虚构",
    ),
    "follow.unheard": (
        "from entry {index} on no document that is served shows whose key signs in this party's "
        "name, so nothing said in it is judged; ask whoever serves the documents, and the party",
        "自条目 {index} 起，所提供的文件均不能表明以该主体名义签名的密钥属于谁，"
        "因此以其名义所作的陈述未作判断；请询问文件提供方及该主体",
    ),
    "follow.more_unheard": (
        "and more parties of which no document is served: audit the whole log",
        "另有更多主体的文件未被提供：请审计整个日志",
    ),
    "follow.alarm": ("raised by {actor}: {kind}. {words}", "由 {actor} 发出：{kind}。{words}"),
    "follow.changed": (
        "{actor} declared other keys, another policy or another anchor of the log, or other "
        "regulators ({kind}): look at the entry, and decide whether what you trust follows",
        "{actor} 宣告了日志的新密钥、新策略、新锚定或新的监管方（{kind}）：请查看该条目，"
        "并决定您的信任是否随之更改",
    ),
    "follow.given": (
        "{kind} about {about}, signed at {time}, was handed over as logged and is not in the log",
        "关于 {about} 的 {kind}（签于 {time}）据称已入日志，而日志中没有",
    ),
    "follow.overdue": (
        "it had until {deadline}, and nothing ended it; no receipt of: {missing}",
        "期限为 {deadline}，至今未结束；缺少回执：{missing}",
    ),
    "follow.unpaid": (
        "the operator {operator} has released it and had to pay its holders from {since} on, and "
        "has not: ask it why",
        "运营方 {operator} 已放行该作业，自 {since} 起应向持有方付款而至今未付：请向其查询",
    ),
    "follow.unended": (
        "the operator {operator} still holds its price, and had to pay or refund it from {since} "
        "on: ask it why",
        "运营方 {operator} 仍冻结其价款，而自 {since} 起应付款或退款：请向其查询",
    ),
    "follow.bundle_forked": (
        "its bundle is of another history of the log than the one shown here ({reason})",
        "其证据包所属的日志历史与此处所示不同（{reason}）",
    ),
    "follow.cannot_judge": (
        "it cannot be judged, for this program itself fails at it ({cause}): that shows nothing "
        "for it or against it; keep the bundle and the log, look at it with another program, and "
        "tell those who publish this one",
        "无法判断，因本程序自身在此出错（{cause}）：既不证明其成立，也不证明其不成立；"
        "请保存证据包与日志，另用程序查看，并告知本程序的发布方",
    ),
    "follow.withheld": (
        "its bundle leaves out the entry {index}, which is about it",
        "其证据包遗漏了与之有关的条目 {index}",
    ),
    "follow.behind": (
        "no bundle that holds all that the log says of it was to be had since {since}, so what is "
        "new in it is not judged ({reason})",
        "自 {since} 起未能取得涵盖日志所载全部有关内容的证据包，其中的新内容未作判断（{reason}）",
    ),
    "follow.not_opened": (
        "terms, counts, budgets and amounts were not opened: no bundle, or no key, was given",
        "条款、次数、预算与金额未打开：未提供证据包或密钥",
    ),
    "public.open": ("{count} are still open", "仍有 {count} 项未结束"),
    "public.doubtful": (
        "an agreement of the job is final only if an earlier step of its negotiation came too late "
        "or incomplete to have an effect, or was not its party's, which nothing here shows",
        "仅当谈判中此前某一步因迟到或不完整而未生效，或并非其当事方所为时，"
        "作业所依据的协议才算最终确定，而此处无从证明",
    ),
    "public.doubtful_because": (
        "{reason}; it fits if an earlier step came too late to have an effect, which nothing here "
        "shows",
        "{reason}；若此前某一步因迟到而未生效则相符，而此处无从证明",
    ),
    "public.unheard": (
        "{reason}; it fits if a step was said under a key that no party document at hand gives",
        "{reason}；若此前某一步所用密钥不在手头主体文件之中则相符",
    ),
    "public.rests_on_unheard": (
        "it rests on a statement under a key that no party document at hand gives",
        "它所依据的陈述所用密钥不在手头主体文件之中",
    ),
    "public.unknown_party": (
        "{kind}: the submission names a party document that no party announced before",
        "{kind}：该提交所指明的参与方文件此前未由任何一方公布",
    ),
    "public.no_part": (
        "{kind}: it relies on {who}, who had no such part in the job",
        "{kind}：所依据的 {who} 在该作业中并无相应角色",
    ),
    "public.other_parties": (
        "{kind}: it does not name exactly the admissions of the job's parties",
        "{kind}：所指明者并非恰为该作业各方的准许",
    ),
    "time.many_late": (
        "more than {count} statements came late or were back-dated; of the earlier ones it was "
        "not judged whether anybody relied on them",
        "超过 {count} 份陈述迟到或被提前标注时间；其中较早者是否有人依据，未作判断",
    ),
    "party.gap": (
        "an earlier document of this party is not at hand, so nothing shows whether this one "
        "follows it",
        "该主体此前的一份文件不在手头，因此无从证明本文件是否接续它",
    ),
    "party.not_served": (
        "the operator's own document, as it signed it, is not at hand, so nothing that it did "
        "since can be judged",
        "平台运营方自身经其签署的文件不在手头，因此其此后的行为均无从判断",
    ),
    "party.no_effect": (
        "the statement's type is not the one that announces this document, so it had no effect",
        "该陈述的类型与其所宣告的文件不符，因此未生效",
    ),
    "public.not_submitted": ("{kind}: nobody submitted this job", "{kind}：无人提交过该作业"),
    "public.closed": (
        "{kind}: the job had ended {state} already",
        "{kind}：该作业早已结束于 {state}",
    ),
    "public.other_plan": (
        "{kind}: it names another plan or other agreements than the submission",
        "{kind}：所指的计划或协议与提交陈述不同",
    ),
    "public.not_held": (
        "{kind}: the price was not in escrow",
        "{kind}：价款尚未冻结",
    ),
    "public.not_admitted": (
        "{kind}: {who} had not admitted the job",
        "{kind}：{who} 尚未准许该作业",
    ),
    "public.not_started": ("{kind}: its actor had not started", "{kind}：其行为方尚未启动"),
    "public.after": ("{kind}: it does not rely on {what}", "{kind}：未依据应依据者（{what}）"),
    "public.not_operators": (
        "{kind}: whoever opened the log alone says this, and the hub takes it from nobody else",
        "{kind}：仅日志的开启者可作此陈述，平台不接受他人的此类陈述",
    ),
    "public.twice": ("{kind}: it was done already", "{kind}：此前已经做过"),
    "public.not_final": (
        "{kind}: an agreement of the job was never finalised with its consumer",
        "{kind}：作业所依据的协议未与其需方最终确定",
    ),
    "public.no_receipts": (
        "{kind}: it does not rely on a receipt of every party, and on nothing else",
        "{kind}：并非恰以各方的回执为依据",
    ),
    "public.unwitnessed": (
        "{kind}: no witnessed head lies between it and what it relies on",
        "{kind}：在其与所依据者之间没有经见证的树头",
    ),
    "public.no_operator": (
        "the log does not begin with its operator's registration, so nobody's acts can be judged "
        "as the operator's",
        "日志并非以其运营方的登记开始，故无从将任何行为作为运营方的行为加以评判",
    ),
    "public.not_judged": (
        "the operator's first document is not at hand, so nobody's acts are judged as its own",
        "运营方的首份文件不可取得，故未将任何行为作为其行为加以评判",
    ),
    "documents.beside": (
        "party documents: those of the copy itself, {folder}",
        "主体文件：副本自带的 {folder}",
    ),
    "public.documents": (
        "they are not public; `exchange audit deal` reads them from a deal's bundle",
        "它们并不公开；`exchange audit deal` 可从交易的材料包中读取",
    ),
    "not_proved.inputs": ("That the inputs are true.", "输入数据是真实的。"),
    "not_proved.honest": ("That the parties executed honestly.", "各方诚实地执行了计算。"),
    "not_proved.collusion": (
        "That parties who were not to collude did not collude.",
        "不应串通的各方没有串通。",
    ),
}

_CHINESE: Final[Mapping[str, str]] = {
    # headings
    "story": "各方签名陈述所述经过",
    "checks": "已证实的内容",
    "ok": "通过",
    "unopened": "未打开，或在此无法证明",
    "failures": "未通过",
    "not_proved": "此类审计不能证明的事",
    "good": "没有未通过的检查：{passed} 项通过，{not_opened} 项未打开。",
    "bad": "{failed} 项检查未通过：{passed} 项通过，{not_opened} 项未打开。",
    # claims
    "receipt.readable": "该回执是格式唯一的 C2SP tlog-proof。",
    "log.signed": "策略信任的日志签署了该树头。",
    "log.head": "该树头由受信任的日志签名，并由策略要求的见证方法定数共同签名。",
    "log.witnessed": "策略要求的见证方法定数共同签署了该树头。",
    "entry.logged": "该条目在已认可的树头之下的日志中。",
    "log.tiles": "每个瓦片与每条条目都是签名根所承诺的。",
    "log.heads": "日志此前签署的每个树头都属于同一历史，且其时间不倒退。",
    "log.keys": "日志就其自身密钥、策略与锚定所作的声明具有相应授权，"
    "且其树头含有每个有效密钥的签名行。",
    "log.follows": "本日志所接续的旧日志已予同意。",
    "entry.readable": "该条目是一份陈述。",
    "entry.signed": "该陈述由其行为方当时有效的密钥签名。",
    "entry.time": "其所述时间位于相邻两个经见证树头之间，容差 15 分钟。",
    "actor.chain": "该行为方的陈述编号随日志顺序递增，每份都指明前一份，且无重复；"
    "完整日志中亦无缺失。",
    "chain.id": "该链是审计方指定的链。",
    "chain.durable": "该链未自称为模拟链。",
    "anchor.held": "合约中存有该日志的树头。",
    "anchor.code": "该合约正是本程序所附源码的合约：只接受延伸前一树头的树头。",
    "anchor.current": "该日志仍在此合约中锚定。",
    "anchor.continued": "该合约从前一合约结束之处延续该日志。",
    "anchor.declared": "日志自称在此合约中锚定。",
    "anchor.same_history": "所锚定的树头属于该日志自身的历史。",
    "note.signed": "策略信任的日志签署了该签名注记。",
    "notes.agree": "两份签名注记互不矛盾。",
    # phrases
    "reason": "{reason}",
    "counted": "{count} 次",
    "and_more": "另有 {count} 项",
    "title.receipt.witnessed": "回执审计：已见证",
    "title.receipt.acknowledged": "回执审计：日志运营方已确认，尚未见证",
    "title.receipt.refused": "回执审计：不予认可",
    "title.log": "日志 {log} 的审计，共 {size} 条",
    "title.log.first": "日志 {log} 的审计，共 {size} 条：首个不能承接的是第 {index} 条"
    "（{subject}，{check}：{why}）",
    "title.anchor": "{log} 在链 {chain} 上 {contract} 的锚定审计",
    "title.anchor.simulated": "{log} 在链 {chain} 上 {contract} 的锚定审计："
    "该链为模拟链，不具持久性",
    "title.equivocation.fork": "同一日志的两份签名注记：互相矛盾，日志已分叉",
    "title.equivocation.one": "两份签名注记：互不矛盾",
    "title.equivocation.unknown": "两份签名注记：是否矛盾未能证明",
    "quorum.met": "共同签名方 {who}",
    "quorum.none": "策略不要求见证方",
    "quorum.missing": "策略要求 {quorum}；共同签名方 {who}：请稍后重新索取回执",
    "head.other_history": "日志签署了另一历史的树头：{reason}；请保存该注记与检查点，"
    "二者可证明分叉",
    "head.runs_back": "其法定数完成于 {time}，而更小的树头完成于 {before}",
    "log.says_follows": "它自称接续另一日志，任何人均可如此自称；"
    "`exchange audit history` 读出是哪一个，并以 --old-policy 核验旧日志的密钥或恢复密钥是否签署",
    "entry.no_statement": "它不是陈述：{reason}",
    "signature.not_asked": "{count} 个签名未检查：密钥归属载于主体文件，由 "
    "`python -m exchange.audit log` 读取",
    "keys.line": "条目 {index} 声明了必须签署它的密钥，而 {reason}；已被替换或被盗的密钥只能如此",
    "keys.none": "日志未声明自己的密钥，因此策略中的任何密钥均可",
    "keys.forgotten": "此后其密钥更换次数过多，无法比对",
    "signature.no_document": "手头没有赋予 {actor} 密钥的主体文件",
    "signature.other_key": "签名所用密钥为 {found}；{actor} 当时有效的密钥为 {expected}",
    "signature.forged": "签名在密钥 {key_id} 下不成立",
    "chain.problem": "{problem}：{reason}（{actor}）",
    "chain.gap": "编号 {seq} 之前缺少编号 {first} 至 {last}：被遗漏，或之后才记入",
    "chain.unheard": "此前有 {count} 份陈述所用密钥无从得知，因此无从证明它是否接续它们",
    "chain.link": "编号 {seq} 未指明记在其前的那一份",
    "chain.reordered": "编号 {seq} 记在编号 {later} 之后",
    "chain.duplicate": "编号 {seq} 已在序号 {earlier} 处",
    "chain.forked": "编号 {seq} 之下已有另一份陈述",
    "chain.taken": "编号 {seq} 之下已有陈述（即此份或另一份）：此类过多，未再查找",
    "time.early": "时间被推后：它自称 {time}，而此前已在日志中",
    "time.old": "时间被提前或迟到：它自称 {time}，而此后超过 15 分钟的经见证树头中没有它",
    "time.no_head": "没有更早的经见证树头，无法证明其最早时间",
    "time.no_later_head": "手头含有它的树头均无见证方所述的时间，无法证明其入日志的时间",
    "chain.other": "该链自称为 {found}，而非 {expected}",
    "chain.simulated": "它自称 {name}：模拟链，不具持久性，运行者可以改写",
    "chain.client": "它自称 {name}",
    "chain.unnamed": "它不说明自己是什么（web3_clientVersion）：它是否会遗忘、是否由一人制造，"
    "无从得知",
    "anchor.none": "在区块 {block}，合约中没有该日志的树头",
    "anchor.at": "大小 {size}，存于区块 {anchored}；于区块 {block} 读取，链上最新为 {tip}",
    "anchor.other_code": "其代码不同：在采信其内容之前请先审阅",
    "anchor.from": "自大小 {size} 起；此前的锚定在该合约中",
    "anchor.not_continued": "该合约的最后树头（大小 {size}）并非本合约起始的树头，"
    "或其所指后继另有其他",
    "anchor.handed_over": "该日志已移交至 {successor}：请一并查询该合约",
    "anchor.no_log": "请提供日志本身，以便读取其所指明的合约",
    "anchor.undeclared": "日志前 {size} 条中未指明任何合约",
    "anchor.declared_at": "自第 {index} 条起，日志指明链 {chain} 上的 {contract}",
    "anchor.nowhere": "自第 {index} 条起，日志声明不再锚定于任何合约",
    "anchor.left": "曾经如此，现已不再：{now}",
    "anchor.not_yet": "日志前 {size} 条中未指明该合约：{now}。请以更新的树头再查",
    "anchor.elsewhere": "日志前 {size} 条中从未指明该合约：{now}",
    "anchor.ahead": "合约中为大小 {size}，而所给树头止于 {own}：请取更新的检查点；若日志没有，"
    "则它丢失了条目",
    "anchor.no_tiles": "已锚定大小 {size}，所给树头为 {own}：请提供日志瓦片以便比较",
    "anchor.differs": "合约中的根为 {root}，日志自身为 {own}：日志已分叉；请保存二者",
    "note.says": "{origin} 共 {size} 条，根为 {root}；由 {signers} 签名，由 {cosigners} 共同签名",
    "notes.other_logs": "它们属于两个日志，可以不同",
    "notes.same": "二者声明大小 {size} 的同一个根",
    "notes.fork": "大小 {size} 有两个不同的根：同时签署二者的一方使日志分叉",
    "notes.empty": "其一为空日志，任何日志都是其延伸",
    "notes.not_empty": "其一声明了空日志不可能有的根",
    "notes.no_tiles": "大小 {old} 与 {new} 只能借助较大日志的瓦片比较",
    "notes.other_tiles": "手头的瓦片不属于较大的树头：{reason}",
    "notes.rewritten": "大小 {new} 的树并非以所签大小 {old} 的树开头：同时签署二者的一方改写了日志",
    "notes.extends": "大小 {new} 的树以大小 {old} 的树开头",
    "not_proved.signature": "谁签署了该条目：这需要其行为方的主体文件。",
    "not_proved.rest": "日志其他条目的任何情况。",
    "not_proved.truth": "条目所述属实，或行为诚实。",
    "not_proved.other_heads": "没有人在未经策略见证方共同签名的树头下看到另一历史。",
    "not_proved.outside": "平台之外没有发生任何事情。",
    "not_proved.why": "日志为何签署，以及谁持有其密钥。",
    "not_proved.chain": "该链已终局，且不会被运行者改写。",
    "not_proved.rpc": "所询问的 JSON-RPC 如实反映该链；请另询一处。",
}


def _voice(language: Language) -> Voice:
    def table(
        base: Mapping[str, str],
        own: Mapping[str, tuple[str, str]],
        deal: Mapping[str, Mapping[Language, str]],
    ) -> Mapping[str, str]:
        english = language is Language.ENGLISH
        return MappingProxyType(
            {key: text if english else _CHINESE[key] for key, text in base.items()}
            | {key: both[0 if english else 1] for key, both in own.items()}
            | {key: both[language] for key, both in deal.items()}
        )

    return Voice(
        table(ledger.CLAIMS, _CLAIMS, words.CLAIMS),
        table(ledger.PHRASES, _PHRASES, words.PHRASES),
        table(ledger.HEADINGS, {}, words.HEADINGS),
        language.value,
        "：" if language is Language.CHINESE else ": ",
    )


VOICES: Final[Mapping[Language, Voice]] = MappingProxyType(
    {language: _voice(language) for language in Language}
)
