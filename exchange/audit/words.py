"""Every sentence of a deal's audit, in both languages; what `ledger.verify` finds it says itself.

CLAIMS says what each check shows when it passes. PHRASES are the notes beside a check and the
sentences of the story; `{…}` are facts, the same in both languages. A reason that another part of
the program gave (why a step had no effect, why a signature was refused) stays in its own words.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from exchange.query.explanation import Language

Words = Mapping[Language, str]


def _both(english: str, chinese: str) -> Words:
    return MappingProxyType({Language.ENGLISH: english, Language.CHINESE: chinese})


HEADINGS: Final[Mapping[str, Words]] = MappingProxyType(
    {
        "rights": _both("Who offered what, and by which document", "谁依据何文件提供何物"),
        "agreed": _both("Who agreed to what", "谁同意了什么"),
        "ran": _both("What ran, on which columns", "运行了什么、使用了哪些列"),
        "learned": _both(
            "What each party learned, if all kept to the plan", "各方得知什么（若均按计划执行）"
        ),
        "released": _both("What was released", "放行了什么"),
        "paid": _both("Who was paid", "谁获得付款"),
        "nothing": _both("nothing", "无"),
    }
)

NOT_PROVED: Final = (
    "not_proved.inputs",
    "not_proved.honest",
    "not_proved.collusion",
    "not_proved.outside",
    "not_proved.bundle",
)

CLAIMS: Final[Mapping[str, Words]] = MappingProxyType(
    {
        "bundle.entries": _both(
            "Every entry has the digest that the manifest lists it with.",
            "每条日志条目的摘要与清单所列一致。",
        ),
        "bundle.documents": _both(
            "Every document is the one that its name, its digest, promises.",
            "每份文件的内容与其名称（摘要）一致。",
        ),
        "log.consistent": _both(
            "The later head extends the earlier one: nothing was removed or changed between them.",
            "后一树头是前一树头的延伸：其间没有删除或改动。",
        ),
        "entry.after": _both(
            "Every statement it relies on is in the bundle and earlier in the log.",
            "它所依据的每份陈述都在本包中，且在日志中更早。",
        ),
        "party.document": _both(
            "The party document is signed by the identity key that names the party, follows the "
            "one before, and was logged by the party itself.",
            "主体文件由命名该主体的身份密钥签名，承接前一份，并由该主体自己记入日志。",
        ),
        "party.trusted": _both(
            "The party's identity is confirmed by a fingerprint or a registrar that the auditor "
            "trusts.",
            "该主体的身份由审计方信任的指纹或登记方确认。",
        ),
        "product.signed": _both(
            "The product version is signed by its holder and was logged by it.",
            "该产品版本由其持有方签名，并由其记入日志。",
        ),
        "negotiation.replayed": _both(
            "The negotiation went by the table: each step by the side whose step it was.",
            "协商按状态表进行：每一步都由有权的一方作出。",
        ),
        "agreement.accepted": _both(
            "The agreement is exactly the proposal that was accepted.",
            "协议与被接受的提议完全一致。",
        ),
        "agreement.signed": _both(
            "Both parties signed the agreement with the keys of the documents that it names.",
            "双方均以协议所指主体文件中的密钥签署了协议。",
        ),
        "agreement.product": _both(
            "The agreement stays within the product's own rule.",
            "协议未超出产品自身的规则。",
        ),
        "agreement.finalised": _both(
            "The agreement was finalised before anything relied on it.",
            "协议在被依据之前已经最终确定。",
        ),
        "agreement.runs": _both(
            "No more jobs were admitted, and no more epsilon spent, than the agreement allows.",
            "获准的作业数与消耗的 ε 均未超出协议允许。",
        ),
        "product.privacy": _both(
            "What the holder admitted on the product's privacy account stays within the totals of "
            "the newest version that it had listed by then.",
            "持有方就该产品隐私账户准许的消耗，均未超出其当时最新登记版本的总额。",
        ),
        "plan.signed": _both(
            "The consumer signed the plan with the key of the document that the plan names.",
            "需方以计划所指主体文件中的密钥签署了计划。",
        ),
        "plan.agreements": _both(
            "The plan names exactly the agreements it was submitted under, all in force when it "
            "was admitted.",
            "计划所指的正是其提交所依据的协议，且在获准时均有效。",
        ),
        "plan.rules": _both(
            "The rule checker finds nothing in the plan that an agreement or product forbids.",
            "规则检查未发现计划中有协议或产品所禁止的内容。",
        ),
        "plan.owners": _both(
            "As the party documents declare, nobody who controls the helper controls a holder or "
            "the receiver, and nobody who controls the receiver of exact numbers controls a holder "
            "of what was joined.",
            "据各方主体文件声明，协助方的实际控制人不控制任何持有方或结果接收方；"
            "未加噪声的连接结果，其接收方的实际控制人不控制任何一个被连接产品的持有方。",
        ),
        "plan.learns": _both(
            "The plan tells each party in words exactly what follows from it.",
            "计划以文字如实说明各方将得知的内容。",
        ),
        "job.replayed": _both(
            "The job went by the table, and every act of the operator fits where it stands.",
            "作业按状态表进行，运营方的每一行为都与其所处位置相符。",
        ),
        "job.admitted": _both(
            "Every holder admitted exactly this plan, under its own agreement, in time.",
            "每个持有方都在期限内依自己的协议准许了正是这份计划。",
        ),
        "job.receipt": _both(
            "The holder's receipt names the plan, the sealed part, the gate, the software, the "
            "lock, its peers by their fingerprints, and the bytes that left.",
            "持有方的回执载明计划、密封结果、门限、软件、依赖锁、以指纹标识的对端及送出的字节数。",
        ),
        "receipt.opened": _both(
            "The receipt's commitments open, and the budget counts up by this job.",
            "回执的承诺可以打开，且预算因本作业如实递增。",
        ),
        "money.held": _both(
            "The operator held the price once, for this submission, before anybody admitted it.",
            "运营方就本次提交、在任何一方准许之前，恰好冻结了一次价款。",
        ),
        "money.settled": _both(
            "The hold was released or refunded when it was due, at most once, and released only "
            "after every receipt and the release of the result were under a witnessed head.",
            "冻结款到期即放款或退款，且至多一次；放款仅在全部回执与结果放行均处于经见证的树头之下之后。",
        ),
        "money.amounts": _both(
            "The committed amounts, payers and payees are those of the agreements.",
            "所承诺的金额、付款方与收款方与协议一致。",
        ),
        "bundle.left_out": _both(
            "What anybody said of the deal without part in it or effect is in the bundle as well.",
            "任何人就该交易所作的、与其无关或未生效的陈述亦在证据包中。",
        ),
        "standing.opened": _both(
            "What the holder's node admits without asking is what it committed to.",
            "持有方节点不经询问即准许的内容与其承诺一致。",
        ),
        "standing.in_force": _both(
            "A job that was admitted without asking rests on that party's own approval, in force "
            "then: a holder's for this product, or a helper's general one.",
            "未经询问而准许的作业以该方自身当时有效的准许为依据：持有方就该产品的长期准许，"
            "或协助方的一般准许。",
        ),
        "standing.within": _both(
            "A job that was admitted without asking keeps to the approval's limits: product, "
            "consumers, purposes, smallest group, end, and jobs of one consumer in 24 hours.",
            "未经询问而准许的作业未超出该准许的限制：产品、需方、用途、最小分组、有效期，"
            "以及同一需方 24 小时内的作业数。",
        ),
        "bundle.given": _both(
            "The operator gave the deal's evidence to somebody who may read it.",
            "平台运营方将该交易的证据交给了有权查阅者。",
        ),
        "alarm": _both(
            "A participant raised an alarm; it is that participant's word.",
            "有参与方发出警报；此为该参与方单方之言。",
        ),
    }
)

PHRASES: Final[Mapping[str, Words]] = MappingProxyType(
    {
        "title.deal": _both("Audit of the deal {deal}", "交易 {deal} 的审计"),
        "not_proved.bundle": _both(
            "That the bundle holds every statement about the deal: one that nothing else in it "
            "relies on could have been left out. Its actor can show it, and the whole log would.",
            "本包含有关于该交易的全部陈述：没有其他陈述所依赖的陈述可能被遗漏。其签名方可以出示，完整日志也会显示。",
        ),
        # the bundle and the log
        "digest.differs": _both("its bytes have the digest {found}", "其内容的摘要为 {found}"),
        "head.as_of": _both(
            "the bundle tells of the first {size} entries of the log (witnessed {time}); what was "
            "said since is in a later one",
            "本包截至日志的前 {size} 条（见证时间 {time}）；此后的陈述见更晚的证据包",
        ),
        "head.size": _both(
            "it is filed under size {filed} and states {stated}",
            "它按大小 {filed} 存放，却自称 {stated}",
        ),
        "head.beyond": _both(
            "it is not smaller than the bundle's checkpoint, or of another log",
            "它不小于本包的检查点，或属于另一日志",
        ),
        "head.no_proof": _both("the proof is not in the bundle", "本包中没有该证明"),
        "head.stray_proof": _both(
            "the proof is not between neighbouring heads of the bundle",
            "该证明不在本包的相邻树头之间",
        ),
        "head.not_accepted": _both(
            "the head that it is under is not accepted", "其所在的树头未被认可"
        ),
        "proof.index": _both("the proof is for index {index}", "该证明针对的是序号 {index}"),
        "proof.other_head": _both(
            "the proof is under another head than the bundle's checkpoint",
            "该证明所用的树头不是本包的检查点",
        ),
        "time.no_witness": _both(
            "no witness that the policy names stated a time",
            "策略所列的见证方均未给出时间",
        ),
        "time.open": _both(
            "no earlier witnessed head is in the bundle, so nothing shows how old it can be",
            "本包中没有更早的经见证树头，无法证明其最早时间",
        ),
        "time.late": _both(
            "it came late or was back-dated; it had no effect, and nobody relied on it",
            "它迟到或被提前标注时间；它未生效，也无人依据它",
        ),
        "time.back_dated": _both("back-dated: it {reason}", "时间被提前：{reason}"),
        "time.post_dated": _both("post-dated: it {reason}", "时间被推后：{reason}"),
        # actors
        "chain.broken": _both(
            "at index {index}: {problem}: {reason}", "序号 {index}：{problem}：{reason}"
        ),
        "chain.gaps": _both(
            "{count} of this actor's statements between those shown are not in this bundle: they "
            "are about other matters, or were left out",
            "该行为方另有 {count} 份陈述介于所示之间而不在本包中：或关于其他事项，或被遗漏",
        ),
        "after.outside": _both(
            "it relies on {digest}, which the bundle does not hold: left out, or made up",
            "它依据的 {digest} 不在本包中：或被遗漏，或系虚构",
        ),
        "after.later": _both(
            "it relies on the statement at index {index}, which is later in the log",
            "它依据的序号 {index} 的陈述在日志中更晚",
        ),
        "after.stranger": _both("by a party that has no part in the deal", "作出者与本交易无关"),
        "signature.no_key": _both(
            "the bundle holds no party document, logged before, that gives {actor} a key",
            "本包中没有此前记入日志、赋予 {actor} 密钥的主体文件",
        ),
        "party.not_logged": _both(
            "no statement of the party's own brought it into the log",
            "没有该主体自己的陈述将其记入日志",
        ),
        "party.absent": _both(
            "a statement in the log brought this document, and the bundle does not hold it",
            "日志中有陈述引入该文件，而本包中没有",
        ),
        "party.bystander": _both(
            "not confirmed, and without a part in the deal", "未经确认，且与本交易无关"
        ),
        "product.not_logged": _both(
            "no statement of its holder brought it into the log",
            "没有其持有方的陈述将其记入日志",
        ),
        # negotiations and agreements
        "no_effect": _both("without effect: {what}", "未生效：{what}"),
        "negotiation.not_begun": _both("no step began it: {what}", "没有任何一步启动它：{what}"),
        "negotiation.supposed": _both(
            "that fits only if these steps had no effect, which nothing here shows: {what}",
            "仅当以下步骤未生效时才相符，而此处无从证明：{what}",
        ),
        "negotiation.other_deal": _both(
            "it belongs to another deal, {deal}", "它属于另一交易 {deal}"
        ),
        "negotiation.out_of_place": _both(
            "the step at index {index} ({kind}) does not follow: {reason}",
            "序号 {index} 的一步（{kind}）不能承接：{reason}",
        ),
        "agreement.no_statement": _both(
            "no statement of its holder brought it", "没有其持有方的陈述提出它"
        ),
        "agreement.not_final": _both(
            "its negotiation {negotiation} did not finalise it before index {index}",
            "其协商 {negotiation} 在序号 {index} 之前未最终确定它",
        ),
        "agreement.not_final_at_all": _both(
            "its negotiation did not finalise it", "其协商未最终确定它"
        ),
        "runs.used": _both(
            "{used} of {allowed} runs, epsilon {epsilon} of {epsilon_allowed}",
            "已用 {used} / {allowed} 次，ε 已用 {epsilon} / {epsilon_allowed}",
        ),
        "runs.perhaps": _both(
            "{used}, if each job counts that ended after a start which may have come too late",
            "{used}（若计入每个启动可能迟到、随后又结束的作业）",
        ),
        # plans and jobs
        "job.not_submitted": _both(
            "no submission of it counts{reason}",
            "没有成立的提交{reason}",
        ),
        "job.ended": _both("ended {state}", "结束于 {state}"),
        "job.stands": _both("stands at {state}", "当前为 {state}"),
        "job.ended_but": _both(
            "ended {state}; without effect: {what}", "结束于 {state}；未生效：{what}"
        ),
        "job.supposed": _both(
            "ended {state}; that fits only if these had no effect, which nothing here shows: "
            "{what}",
            "结束于 {state}；仅当以下陈述未生效时才相符，而此处无从证明：{what}",
        ),
        "replay.either": _both(
            "not all of these can be right, and nothing here shows which is not: {what}",
            "以下各项不可能都正确，而此处看不出错在哪一项：{what}",
        ),
        "job.out_of_place": _both(
            "{kind} at index {index} by {actor} does not fit: {reason}",
            "{actor} 在序号 {index} 的 {kind} 不相符：{reason}",
        ),
        "job.other_deal": _both("its plan belongs to the deal {deal}", "其计划属于交易 {deal}"),
        "admission.missing": _both("{holder} did not admit this plan", "{holder} 未准许这份计划"),
        "admission.refused": _both(
            "the admission by {holder} does not count: {reason}",
            "{holder} 的准许不成立：{reason}",
        ),
        "admission.agreement": _both(
            "{holder} admitted it under another agreement than the plan names",
            "{holder} 准许时所依据的协议不是计划所指的协议",
        ),
        "admission.late": _both(
            "{holder} admitted it after {run_by}", "{holder} 在 {run_by} 之后才准许"
        ),
        "plan.not_operator": _both(
            "{operator}, which the plan names as operator, is not one by its document",
            "计划所指的运营方 {operator} 按其文件并非运营方",
        ),
        "plan.controller": _both(
            "{helper} declares that {controller} controls it",
            "{helper} 声明其实际控制人为 {controller}",
        ),
        "plan.other_agreements": _both(
            "the submission names other agreements than the plan",
            "提交陈述所指的协议与计划不同",
        ),
        "plan.words_differ": _both(
            "what it says differs from what follows from it", "其文字与由计划得出的内容不符"
        ),
        "receipt.lacks": _both("it does not state {field}", "未载明 {field}"),
        "receipt.differs": _both(
            "{field} is {found}, not {expected}", "{field} 为 {found}，而非 {expected}"
        ),
        "receipt.none": _both("there is none", "没有回执"),
        "receipt.bytes": _both("bytes that left: {sent}", "送出字节数：{sent}"),
        # openings
        "opening.no_key": _both(
            "not opened: no reader's key was given", "未打开：未提供读取方的密钥"
        ),
        "opening.no_reader": _both(
            "not opened: the agreements name no regulator to open it",
            "未打开：协议未指定可打开它的监管方",
        ),
        "opening.other_reader": _both(
            "not opened: it is sealed to another party, or to another key of this one",
            "未打开：它密封给了另一方，或该方的另一密钥",
        ),
        "opening.missing": _both(
            "the opening that this reader is owed is not in the bundle",
            "本包中没有应给予该读取方的开启件",
        ),
        "opening.names": _both(
            "it opens {found}, and the receipt committed to {expected}",
            "它打开的是 {found}，而回执承诺的是 {expected}",
        ),
        "opening.mismatch": _both(
            "{name} is not what the statement committed to", "{name} 与陈述所承诺的不符"
        ),
        "privacy.used": _both(
            "epsilon {epsilon} of {epsilon_total}, delta {delta} of {delta_total}",
            "ε 已用 {epsilon} / {epsilon_total}，δ 已用 {delta} / {delta_total}",
        ),
        "privacy.perhaps": _both(
            "{reason}, if each job counts that ended after a start which may have come too late",
            "{reason}（若计入每个启动可能迟到、随后又结束的作业）",
        ),
        "privacy.no_version": _both(
            "the bundle does not hold the version that states the totals",
            "材料中没有载明总额的产品版本",
        ),
        "privacy.unstated": _both(
            "it states the product's privacy account exactly where the plan costs it something, "
            "and this one does not fit the plan",
            "仅当计划消耗隐私预算时，回执才应载明产品隐私账户，此处与计划不符",
        ),
        "privacy.miscounted": _both(
            "it counts the product's privacy account from {before} to {after}; the plan costs "
            "{cost}, beside the jobs that had started",
            "回执所载产品隐私账户由 {before} 变为 {after}；该计划消耗 {cost}，另有已开始的作业",
        ),
        "budget.counted": _both(
            "run {after} of {allowed}, epsilon {epsilon}; engine bytes that left: {sent}",
            "第 {after} / {allowed} 次，ε {epsilon}；引擎送出字节数：{sent}",
        ),
        "budget.wrong": _both(
            "it counts runs from {before} to {after}, and its admissions allow {low} to {high}",
            "它将次数从 {before} 记到 {after}，而按其准许应为 {low} 至 {high}",
        ),
        "budget.epsilon": _both(
            "it counts epsilon from {before} to {after}; the plan costs {cost} of {allowed}",
            "它将 ε 从 {before} 记到 {after}；计划消耗 {cost}，协议允许 {allowed}",
        ),
        # money
        "money.count": _both(
            "there are {count} statements of the kind {kind}, and there must be {expected}",
            "{kind} 类陈述有 {count} 份，应为 {expected} 份",
        ),
        "money.after": _both("{kind} does not rely on {what}", "{kind} 未依据 {what}"),
        "money.inputs": _both(
            "{kind} names other documents than the plan and its agreements",
            "{kind} 所指的文件不是计划及其协议",
        ),
        "money.unknown_job": _both(
            "money moved for a job that nobody submitted", "资金为无人提交的作业而变动"
        ),
        "money.early": _both(
            "no witnessed head between what it relies on and the release is in the bundle",
            "本包中在其所依据者与放款之间没有经见证的树头",
        ),
        "money.still_held": _both("still held", "仍在冻结"),
        "money.undated": _both(
            "still held; no witness of the policy says until when",
            "仍在冻结；策略中没有见证方说明截至何时",
        ),
        "money.unpaid": _both(
            "released, to be paid from {since} on, and still not paid at {seen}",
            "已放行，自 {since} 起应付款，至 {seen} 仍未付款",
        ),
        "money.unended": _both(
            "still held at {seen}, and to be paid or refunded from {since} on",
            "至 {seen} 仍在冻结，而自 {since} 起应付款或退款",
        ),
        "money.nothing_held": _both("nothing was held", "未曾冻结"),
        "money.released": _both("released to the holders", "已放款给持有方"),
        "money.refunded": _both("refunded to the consumer", "已退还需方"),
        "money.moved": _both("{what}", "{what}"),
        "money.wrong": _both(
            "{what}; by the plan and its agreements it must be {expected}",
            "{what}；按计划及协议应为 {expected}",
        ),
        "bundle.left_out": _both(
            "{count} statements are not, says the manifest: of others than the deal's parties, or "
            "of a party that said too much without effect; the whole log holds them",
            "清单称有 {count} 份未纳入：出自交易各方以外者，或某一方过多的未生效陈述；"
            "整个日志中均有",
        ),
        "standing.none": _both(
            "{digest} is no approval of this party's for this job, or was taken back before",
            "{digest} 并非该方可适用于此作业的准许，或此前已撤回",
        ),
        "standing.no_product": _both(
            "the bundle lacks the product that the approval must be of",
            "证据包中缺少该准许所应针对的产品",
        ),
        "standing.says": _both("{text}", "{text}"),
        "standing.seen": _both(
            "number {count} of the {allowed} that the approval allows this consumer in 24 hours, "
            "as far as this deal shows: jobs of its other deals count too and are not seen here",
            "就本交易所见，系该准许允许该需方 24 小时内 {allowed} 次中的第 {count} 次；"
            "其他交易的作业亦计入，而此处不可见",
        ),
        "standing.beyond": _both(
            "beyond the approval's {limit}: {found}, where it says {allowed}",
            "超出该准许的 {limit}：实为 {found}，而准许为 {allowed}",
        ),
        "bundle.given_to": _both("to {to}", "交予 {to}"),
        # the story
        "did.party.registered": _both("{actor} registered.", "{actor} 完成登记。"),
        "did.party.updated": _both(
            "{actor} changed its keys or roles.", "{actor} 更换了密钥或角色。"
        ),
        "did.product.listed": _both("{actor} listed {subject}.", "{actor} 上架了 {subject}。"),
        "did.negotiation.requested": _both(
            "{actor} asked for terms ({subject}).", "{actor} 提出请求（{subject}）。"
        ),
        "did.negotiation.offered": _both(
            "{actor} offered terms ({subject}).", "{actor} 提出要约（{subject}）。"
        ),
        "did.negotiation.accepted": _both(
            "{actor} accepted the offer ({subject}).", "{actor} 接受要约（{subject}）。"
        ),
        "did.negotiation.agreed": _both(
            "{actor} signed the agreement ({subject}).", "{actor} 签署协议（{subject}）。"
        ),
        "did.negotiation.verified": _both(
            "{actor} verified and countersigned the agreement ({subject}).",
            "{actor} 核验并会签协议（{subject}）。",
        ),
        "did.negotiation.finalized": _both(
            "{actor} finalised the agreement ({subject}).", "{actor} 最终确定协议（{subject}）。"
        ),
        "did.negotiation.terminated": _both(
            "{actor} ended the negotiation ({subject}).", "{actor} 终止协商（{subject}）。"
        ),
        "did.job.submitted": _both(
            "{actor} submitted the plan of {subject}.", "{actor} 提交了 {subject} 的计划。"
        ),
        "did.job.rejected": _both(
            "{actor} rejected {subject}: {problem}", "{actor} 驳回了 {subject}：{problem}"
        ),
        "did.job.admitted": _both("{actor} admitted {subject}.", "{actor} 准许了 {subject}。"),
        "did.job.refused": _both(
            "{actor} refused {subject}: {problem}", "{actor} 拒绝了 {subject}：{problem}"
        ),
        "did.job.started": _both(
            "{actor} started {subject}: messages may leave from here on.",
            "{actor} 启动了 {subject}：此后消息可能送出。",
        ),
        "did.job.sealed": _both(
            "{actor} sealed its part of {subject} and signed the receipt.",
            "{actor} 密封了 {subject} 中自己的部分并签署回执。",
        ),
        "did.job.failed": _both(
            "{actor} reported that {subject} failed: {problem}",
            "{actor} 报告 {subject} 失败：{problem}",
        ),
        "did.job.cancelled": _both("{actor} cancelled {subject}.", "{actor} 取消了 {subject}。"),
        "did.job.expired": _both(
            "{actor} let {subject} expire: {problem}", "{actor} 宣告 {subject} 过期：{problem}"
        ),
        "did.job.released": _both(
            "{actor} released the sealed result of {subject}.",
            "{actor} 放行了 {subject} 的密封结果。",
        ),
        "did.job.opened": _both(
            "{actor} opened the result of {subject}.", "{actor} 打开了 {subject} 的结果。"
        ),
        "did.funds.held": _both(
            "{actor} held the price of {subject} in escrow.", "{actor} 冻结了 {subject} 的价款。"
        ),
        "did.funds.released": _both(
            "{actor} paid the holders of {subject} out of escrow.",
            "{actor} 将 {subject} 的冻结款支付给持有方。",
        ),
        "did.funds.refunded": _both(
            "{actor} refunded the price of {subject}.", "{actor} 退还了 {subject} 的价款。"
        ),
        "did.alarm.raised": _both(
            "{actor} raised an alarm about {subject}: {problem}",
            "{actor} 就 {subject} 发出警报：{problem}",
        ),
        "did.standing.approved": _both(
            "{actor} lets its node admit certain jobs on {subject} without asking a person.",
            "{actor} 允许其节点不经人工询问即准许 {subject} 上的某些作业。",
        ),
        "did.standing.withdrawn": _both(
            "{actor} took a standing approval on {subject} back.",
            "{actor} 撤回了对 {subject} 的长期准许。",
        ),
        "did.helping.begun": _both(
            "{actor} lets its node help, without asking a person, with every job that names it.",
            "{actor} 允许其节点不经人工询问即协助所有指名它的作业。",
        ),
        "did.helping.ended": _both(
            "{actor} no longer helps without asking a person.",
            "{actor} 不再未经人工询问即提供协助。",
        ),
        "did.regulators.named": _both(
            "{actor} named who may read every deal.", "{actor} 指明了可查阅所有交易的监管方。"
        ),
        "did.bundle.exported": _both(
            "{actor} gave somebody the evidence of {subject}.", "{actor} 交出了 {subject} 的证据。"
        ),
        "did.other": _both("{actor}: {kind} {subject}", "{actor}：{kind} {subject}"),
        "told.no_effect": _both(
            "{sentence} (No effect: {reason})", "{sentence}（未生效：{reason}）"
        ),
        "alarm.words": _both("{kind}: {words}", "{kind}：{words}"),
        # the answers
        "answer.listed": _both(
            "{holder} ({id}) listed {product} ({number} version {version}, {digest}) under its "
            "party document {document} (entry {index}).",
            "{holder}（{id}）依据主体文件 {document} 上架 {product}（{number} 第 {version} 版，"
            "{digest}；条目 {index}）。",
        ),
        "answer.not_listed": _both(
            "{product} ({number} version {version}, {digest}) names {holder} ({id}) and its party "
            "document {document}; no statement here lists it{index}.",
            "{product}（{number} 第 {version} 版，{digest}）载明 {holder}（{id}）及其主体文件 "
            "{document}，但此处没有上架陈述{index}。",
        ),
        "answer.talked": _both(
            "{consumer} and {holder} negotiated about {product} ({negotiation}), {state} with "
            "entry {index}: nothing is agreed.",
            "{consumer} 与 {holder} 就 {product} 协商（{negotiation}），条目 {index} 后为 {state}："
            "未达成协议。",
        ),
        "answer.agreed": _both(
            "{consumer} and {holder} agreed to {agreement} ({digest}) on {product}: for "
            "{purposes}; joins {joins}; groups of {min_group} people or more; {runs} jobs, epsilon "
            "{epsilon} in all; {price} {currency} (minor units) a job; from {since} to {until} "
            "(final with entry {index}).",
            "{consumer} 与 {holder} 就 {product} 达成 {agreement}（{digest}）：用途 {purposes}；"
            "连接方式 {joins}；每组至少 {min_group} 人；共 {runs} 次作业、ε 合计 {epsilon}；每次 "
            "{price} {currency}（最小单位）；自 {since} 至 {until}（条目 {index} 时最终确定）。",
        ),
        "answer.ran": _both(
            "{job} for {consumer}, purpose {purpose}, join {join}, plan {digest}: {state} "
            "(submitted with entry {index}).",
            "{job}：需方 {consumer}，用途 {purpose}，连接方式 {join}，计划 {digest}：{state}"
            "（条目 {index} 提交）。",
        ),
        "answer.columns": _both(
            "    of {holder}, product {product}: {columns}",
            "    {holder} 的产品 {product}：{columns}",
        ),
        "answer.part": _both(
            "{job}: {party} sealed its part {digest} (entry {index}).",
            "{job}：{party} 密封了自己的部分 {digest}（条目 {index}）。",
        ),
        "answer.released": _both(
            "{job}: released to {receiver} (entry {index}).",
            "{job}：已向 {receiver} 放行（条目 {index}）。",
        ),
        "answer.not_released": _both(
            "{job}: nothing was released; it stands at {state}.",
            "{job}：未放行任何结果；当前为 {state}。",
        ),
        "answer.opened": _both(
            "{job}: {receiver} says that it opened every part (entry {index}).",
            "{job}：{receiver} 表示已打开全部部分（条目 {index}）。",
        ),
        "answer.paid": _both(
            "{job}: {kind}: {what} (entry {index}).", "{job}：{kind}：{what}（条目 {index}）。"
        ),
        "answer.paid_closed": _both(
            "{job}: {kind}; payer, payees and amounts not opened (entry {index}).",
            "{job}：{kind}；付款方、收款方与金额未打开（条目 {index}）。",
        ),
    }
)
