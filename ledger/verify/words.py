"""Every sentence of this package's audits, in English."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ledger.verify.report import Voice

HEADINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "story": "What the signed statements say",
        "checks": "What was shown",
        "ok": "ok",
        "unopened": "Not opened, or not provable from here",
        "failures": "FAILED",
        "not_proved": "What no audit of this kind proves",
        "good": "No check failed: {passed} passed, {not_opened} not opened.",
        "bad": "{failed} checks FAILED: {passed} passed, {not_opened} not opened.",
    }
)

CLAIMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # receipts and heads
        "receipt.readable": "The receipt is a C2SP tlog-proof in its one form.",
        "log.signed": "A log that the policy trusts signed the head.",
        "log.head": "The head is signed by the trusted log and cosigned by the quorum of the "
        "policy.",
        "log.witnessed": "The policy's quorum of witnesses cosigned the head.",
        "entry.logged": "The entry is in the log under the accepted head.",
        # whole logs
        "log.tiles": "Every tile and every entry is the one that the signed root commits to.",
        "log.heads": "Every earlier head that the log signed is of this very history, and their "
        "times do not run backwards.",
        "log.keys": "What the log declares of its own keys, policies and anchors has the "
        "authority for it, and its heads carry a line of each key that was in force.",
        "log.follows": "The log that this one follows agreed to that.",
        "entry.readable": "The entry is a statement.",
        "entry.signed": "The statement is signed with the key that its actor had in force at that "
        "point.",
        "entry.time": "The time it states lies between its neighbouring witnessed heads, give or "
        "take 15 minutes.",
        "actor.chain": "The actor's statements rise in number in the order of the log, each names "
        "the one before, and none is there twice; in a whole log, none is missing.",
        # anchors
        "chain.id": "The chain is the one that the auditor named.",
        "chain.durable": "The chain does not call itself a simulation.",
        "anchor.held": "The contract holds a head of this log.",
        "anchor.code": "The contract is the one whose source this program comes with: it takes "
        "only heads that extend the last.",
        "anchor.current": "The log is still anchored in this contract.",
        "anchor.continued": "The contract continues the log where the one before it ended.",
        "anchor.declared": "The log says that it is anchored in this contract.",
        "anchor.same_history": "The anchored head is of the log's own history.",
        # equivocation
        "note.signed": "A log that the policy trusts signed the note.",
        "notes.agree": "The notes do not contradict each other.",
    }
)

PHRASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "reason": "{reason}",
        "counted": "{count} times",
        "and_more": "and {count} more",
        # titles
        "title.receipt.witnessed": "Audit of a receipt: witnessed",
        "title.receipt.acknowledged": "Audit of a receipt: acknowledged by the log's operator, "
        "not witnessed",
        "title.receipt.refused": "Audit of a receipt: REFUSED",
        "title.log": "Audit of the log {log}, {size} entries",
        "title.log.first": "Audit of the log {log}, {size} entries: the first that does not "
        "follow is {index} ({subject}, {check}: {why})",
        "title.anchor": "Audit of the anchor of {log} at {contract} on chain {chain}",
        "title.anchor.simulated": "Audit of the anchor of {log} at {contract} on chain {chain}, "
        "which is SIMULATED and not durable",
        "title.equivocation.fork": "Two notes of one log: they CONTRADICT each other, the log has "
        "forked",
        "title.equivocation.one": "Two notes: they do not contradict each other",
        "title.equivocation.unknown": "Two notes: whether they contradict each other is not shown",
        # receipts and heads
        "quorum.met": "cosigned by {who}",
        "quorum.none": "the policy asks for no witness",
        "quorum.missing": "the policy asks for {quorum}; cosigned by {who}: ask for the receipt "
        "again later",
        "head.other_history": "the log signed a head of another history: {reason}; keep this note "
        "and the checkpoint, they show a fork",
        "head.runs_back": "its quorum was complete at {time}, and a smaller head's at {before}",
        # whole logs
        "keys.line": "entry {index} declares the keys that must sign it, and {reason}; a key that "
        "was replaced, or stolen, can sign nothing else",
        "keys.none": "the log declares no keys of its own, so that any key of the policy will do",
        "keys.forgotten": "its keys were changed too many times since to compare it",
        "log.says_follows": "it says that it follows another log, which anybody can say; "
        "`exchange audit history` reads which one, and with --old-policy whether that one's key or "
        "recovery key signed it",
        "entry.no_statement": "it is no statement: {reason}",
        "signature.not_asked": "{count} signatures were not checked: whose key it is stands in "
        "party documents, which `python -m exchange.audit log` reads",
        "signature.no_document": "no party document at hand gives {actor} a key",
        "signature.other_key": "it is signed with key {found}; {actor} had key {expected} in force",
        "signature.forged": "the signature does not verify under key {key_id}",
        "chain.problem": "{problem}: {reason} (of {actor})",
        "chain.gap": "before statement {seq}, statements {first} to {last} are missing: left out, "
        "or logged later",
        "chain.unheard": "{count} statements before it were logged under a key that nobody at hand "
        "knows, so nothing shows whether it follows them",
        "chain.link": "statement {seq} does not name the one logged before it",
        "chain.reordered": "statement {seq} was logged after statement {later}",
        "chain.duplicate": "statement {seq} is already at index {earlier}",
        "chain.forked": "another statement under the number {seq} is there already",
        "chain.taken": "a statement under the number {seq} is there already, this one or another: "
        "so many are that it was not looked up",
        "time.early": "post-dated: it says {time}, and was in the log before",
        "time.old": "back-dated or late: it says {time}, and a head witnessed more than 15 minutes "
        "after that does not hold it",
        "time.no_head": "no earlier witnessed head is at hand, so nothing shows how old it can be",
        "time.no_later_head": "no head at hand that holds it has a time stated by witnesses, so "
        "nothing shows when it was in the log",
        # anchors
        "chain.other": "the chain says that it is {found}, not {expected}",
        "chain.simulated": "it calls itself {name}: a SIMULATED chain, not durable, which whoever "
        "runs it can rewrite",
        "chain.client": "it calls itself {name}",
        "chain.unnamed": "it does not say what it is (web3_clientVersion): whether it forgets, or "
        "one person makes it, is not known",
        "anchor.none": "the contract holds no head of this log at block {block}",
        "anchor.at": "size {size}, stored in block {anchored}; read at block {block}, the chain's "
        "newest being {tip}",
        "anchor.other_code": "its code is another: read it before you believe what it holds",
        "anchor.from": "from size {size}; what was anchored before is in that contract",
        "anchor.not_continued": "that contract's last head, of size {size}, is not the one that "
        "this contract began with, or it names another successor",
        "anchor.handed_over": "the log was handed over to {successor}: ask that contract as well",
        "anchor.no_log": "give the log itself, to read which contract it names",
        "anchor.undeclared": "the log names no contract in its first {size} entries",
        "anchor.declared_at": "since entry {index} the log names {contract} on chain {chain}",
        "anchor.nowhere": "since entry {index} the log says that it is anchored nowhere",
        "anchor.left": "it was, and is not any more: {now}",
        "anchor.not_yet": "the log names it nowhere in its first {size} entries: {now}. Ask again "
        "with a later head",
        "anchor.elsewhere": "the log never named it in its first {size} entries: {now}",
        "anchor.ahead": "the contract holds size {size}, and the given head ends at {own}: take a "
        "newer checkpoint; if the log has none, it has lost entries",
        "anchor.no_tiles": "size {size} is anchored and the given head has {own}: give the log's "
        "tiles to compare them",
        "anchor.differs": "the contract holds root {root}, and the log's own is {own}: the log "
        "has forked; keep both",
        # equivocation
        "note.says": "{origin} has {size} entries under {root}; signed by {signers}, cosigned by "
        "{cosigners}",
        "notes.other_logs": "they are of two logs, which may differ",
        "notes.same": "both state the same root of size {size}",
        "notes.fork": "two different roots of size {size}: whoever signed both has forked the log",
        "notes.empty": "one is of the empty log, which every log extends",
        "notes.not_empty": "one states a root of the empty log that no empty log has",
        "notes.no_tiles": "sizes {old} and {new} can only be compared with the larger log's tiles",
        "notes.other_tiles": "the tiles at hand are not those of the larger head: {reason}",
        "notes.rewritten": "the tree of size {new} does not begin with the tree that was signed as "
        "size {old}: whoever signed both has rewritten the log",
        "notes.extends": "the tree of size {new} begins with the one of size {old}",
        # what is not proved
        "not_proved.signature": "Who signed the entry: that needs its actor's party document.",
        "not_proved.rest": "Anything about the log's other entries.",
        "not_proved.truth": "That what entries say is true, or was done honestly.",
        "not_proved.other_heads": "That nobody was shown another history under heads that no "
        "witness of the policy cosigned.",
        "not_proved.outside": "That nothing happened outside the platform.",
        "not_proved.why": "Why the log signed what it signed, and who had its key.",
        "not_proved.chain": "That the chain is final and cannot be rewritten by those who run it.",
        "not_proved.rpc": "That the JSON-RPC that was asked tells the truth about the chain; ask "
        "a second one.",
    }
)

ENGLISH: Final = Voice(CLAIMS, PHRASES, HEADINGS)
