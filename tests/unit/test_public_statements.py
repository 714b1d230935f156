"""What the public log may say: for every act there is one constructor, and none of them writes a
commercial or personal word, nor the bare digest of something that could be guessed."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

import exchange.evidence
import ledger.evidence
import pricing.evidence
import registry.evidence
from crypto import record
from crypto.digest import Digest, commit, digest
from crypto.identifiers import DealId, JobId, NegotiationId, PartyId
from crypto.keys import ExchangeKey, SigningKey
from crypto.ports import SystemRandomness
from crypto.record import Amount
from crypto.statement import Act, ChainHead, Statement, sign_statement
from exchange import evidence
from exchange.evidence import Overdue, gate_words, reason_document
from exchange.query.plan import Gate
from exchange.terms.negotiation import Event
from pricing.account import custody_account, escrow_account, party_account
from pricing.evidence import MoneyAct, funds_act
from pricing.transfer import Phase, Transfer, TransferId
from registry.party import party_id, sign_party
from tests.queries import LAB, a_plan, a_product, grounds, with_query
from tests.unit.test_party_documents import IDENTITY, a_document

ROOT: Final = Path(__file__).parents[2]
NOW: Final = datetime(2026, 11, 23, tzinfo=UTC)
RANDOM: Final = SystemRandomness()
JOB, DEAL, TALK = JobId.new(NOW, RANDOM), DealId.new(NOW, RANDOM), NegotiationId.new(NOW, RANDOM)
HOLDER, CONSUMER = PartyId("pty_" + "1" * 32), PartyId("pty_" + "2" * 32)
PLAN, AGREEMENT, SAID, RESULT = (digest(text) for text in (b"plan", b"agr", b"said", b"result"))
SECRETS: Final = ("7654321", "CNY", "income", "Clinic", "oncology", "invoice")
REASON: Final = reason_document(
    JOB, "price_minor", "oncology: 7654321 CNY is not enough for income", RANDOM
)
EPHEMERAL: Final = ExchangeKey.generate().public
EVIDENCE: Final = (registry.evidence, exchange.evidence, pricing.evidence, ledger.evidence)
# The log's own keys, heads, policies and anchors, which are there to be read by everybody, word for
# word.
WHOLLY_PUBLIC: Final = {
    "anchor_adopted",
    "anchoring_ended",
    "heads_paired",
    "log_keys_declared",
    "log_succeeded",
    "policy_adopted",
}

_ID: Final = r"[a-z]{3}_[0-9a-f]{32}"
PUBLIC: Final[Mapping[str, str]] = {
    # Every word that a body may hold. A new one belongs here only if everybody may read it.
    "deal": _ID,
    "ephemeral": r"x25519:.{10,80}",
    "link": r"([a-z0-9.-]{1,253}:\d{1,5})?",
    "gate": "none|applied at the holder|applied under sharing",
    "lock": r"sha256:[0-9a-f]{64}",
    "software": r"unseen [0-9.]+; spu [0-9.]+",
    f"bytes_out.{CONSUMER}": r"\d{1,12}",
    f"peer.{HOLDER}": r"[0-9a-f]{4}(-[0-9a-f]{4}){15}",
    "problem": "|".join(overdue.value for overdue in Overdue),
    "kind": "LogForked|ResultRefused",
    "words": "the log shrank from 9 to 7 entries",
    "operation": rf"(hold|release|refund)/{_ID}",
    "parties": rf"{_ID} {_ID}",
    "to": _ID,
}


def a_transfer(phase: Phase, chain: str) -> Transfer:
    consumer, escrow = party_account(CONSUMER, "CNY"), escrow_account(JOB, "CNY")
    resolves = phase in (Phase.POST, Phase.VOID)
    return Transfer(
        chain=TransferId(chain),
        step=0,
        phase=phase,
        debit=custody_account("bank", "CNY") if phase is Phase.SINGLE else consumer,
        credit=consumer if phase is Phase.SINGLE else escrow,
        amount=Amount(7_654_321),
        resolves=TransferId(f"hold/{JOB}") if resolves else None,
        reserved=Amount(7_654_321 if resolves else 0),
        reference=JOB,
        at=NOW,
    )


MONEY: Final = [
    funds_act([a_transfer(phase, chain)], subject=subject, inputs=inputs, randomness=RANDOM)
    for phase, chain, subject, inputs in (
        (Phase.SINGLE, "deposit/invoice-7654321-CNY", CONSUMER, ()),
        (Phase.PENDING, f"hold/{JOB}", JOB, (PLAN, AGREEMENT)),
        (Phase.POST, f"release/{JOB}", JOB, (PLAN, AGREEMENT)),
        (Phase.VOID, f"refund/{JOB}", JOB, (PLAN, AGREEMENT)),
    )
]


def acts() -> Iterator[tuple[str, Act]]:
    """What each constructor makes of an act full of secrets."""
    first = sign_party(a_document(), IDENTITY)
    second = sign_party(a_document(seq=1, previous=first.digest), IDENTITY)
    yield "party_registered", registry.evidence.party_registered(first)
    yield "party_updated", registry.evidence.party_updated(second, first)
    product = a_product(party_id(IDENTITY.public), name="oncology income")
    yield "product_listed", registry.evidence.product_listed(product)
    for event in Event:
        yield (
            "negotiated",
            evidence.negotiated(event, TALK, DEAL, proposal=AGREEMENT, document=digest(REASON)),
        )
    yield (
        "submitted",
        evidence.submitted(
            JOB, DEAL, plan=PLAN, relies_on=[AGREEMENT], ephemeral=EPHEMERAL, link=""
        ),
    )
    yield "rejected", evidence.rejected(JOB, plan=PLAN, after=SAID, reason=REASON)
    yield (
        "admitted",
        evidence.admitted(
            JOB,
            plan=PLAN,
            agreement=AGREEMENT,
            after=[SAID],
            ephemeral=EPHEMERAL,
            link="node.example:8402",
        ),
    )
    yield "refused", evidence.refused(JOB, plan=PLAN, after=[SAID], reason=REASON)
    yield "started", evidence.started(JOB, plan=PLAN, admissions=[SAID])
    both = grounds(a_product(), a_product(LAB))
    yield (
        "sealed",
        evidence.sealed(
            JOB,
            plan=PLAN,
            after=[SAID],
            result=RESULT,
            openings=SAID,
            commitments={name: commit(bytes(32), b"") for name in ("budget", "snapshot")},
            bytes_out={CONSUMER: 4321},
            gate=gate_words(a_plan(both)),
            software="unseen 0.1; spu 0.9.5",
            lock=digest(b"lock"),
            peers={HOLDER: IDENTITY.public.fingerprint},
        ),
    )
    yield "failed", evidence.failed(JOB, plan=PLAN, after=[SAID], reason=REASON)
    yield "cancelled", evidence.cancelled(JOB, plan=PLAN, after=[SAID])
    for overdue in Overdue:
        yield "expired", evidence.expired(JOB, plan=PLAN, after=[SAID], overdue=overdue)
    yield "released", evidence.released(JOB, plan=PLAN, receipts=[SAID])
    yield "opened", evidence.opened(JOB, plan=PLAN, after=[SAID], results=[RESULT])
    words = "the log shrank from 9 to 7 entries"
    yield "alarmed", evidence.alarmed(HOLDER, kind="LogForked", words=words)
    yield "result_refused", evidence.result_refused(JOB, plan=PLAN, after=[SAID], reason=REASON)
    approved = commit(bytes(32), b"income of the Clinic, 7654321 CNY")
    for openings in (None, SAID):
        yield (
            "standing_approved",
            evidence.standing_approved(product.id, commitment=approved, openings=openings),
        )
    yield "standing_withdrawn", evidence.standing_withdrawn(product.id, approved=SAID)
    yield "helping_begun", evidence.helping_begun(HOLDER)
    yield "helping_ended", evidence.helping_ended(HOLDER, begun=SAID)
    yield "regulators_named", evidence.regulators_named(HOLDER, {HOLDER, CONSUMER})
    yield "bundle_exported", evidence.bundle_exported(DEAL, CONSUMER, [SAID, RESULT])
    for money in MONEY:
        yield "funds_act", money.act


ACTS: Final = list(acts())


def said(act: Act) -> Statement:
    return sign_statement(
        act,
        actor=HOLDER,
        head=ChainHead(),
        signer=SigningKey.generate(),
        now=NOW,
        randomness=RANDOM,
    ).statement


def constructors(module: ModuleType) -> set[str]:
    return {
        name
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
        and not name.startswith("_")
        and inspect.signature(function).return_annotation in ("Act", "MoneyAct")
    }


def test_every_constructor_of_a_statement_is_looked_at_here() -> None:
    there = {name for module in EVIDENCE for name in constructors(module)}
    assert there == {name for name, _ in ACTS} | WHOLLY_PUBLIC


def test_acts_are_made_in_the_evidence_module_of_the_package_whose_act_it_is() -> None:
    """Else a statement could say what nobody looked at."""
    for package in ("api", "exchange", "pricing", "registry", "federated", "ledger"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id != "Act" or path.name == "evidence.py", path


def test_only_what_a_node_saw_of_the_ledger_itself_is_told_in_public_words() -> None:
    """An alarm's words are free, so whoever may choose them is listed: see `evidence.alarmed`."""
    calls = {
        path.relative_to(ROOT).as_posix()
        for package in ("api", "exchange")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"(?<!def )\balarmed\(", path.read_text("utf-8"))
    }
    assert calls == {"exchange/node/watch.py"}


@pytest.mark.parametrize(("name", "act"), ACTS, ids=[f"{n}-{a.type}" for n, a in ACTS])
def test_a_statement_holds_no_commercial_or_personal_word(name: str, act: Act) -> None:
    statement = said(act)
    for key, value in statement.body.items():
        assert re.fullmatch(PUBLIC[key], value), f"{name} says {key}: {value}"
    assert re.fullmatch(_ID, statement.subject)
    logged = record.to_bytes(statement).decode()
    for secret in SECRETS:
        assert secret not in logged


@pytest.mark.parametrize(("name", "act"), ACTS, ids=[f"{n}-{a.type}" for n, a in ACTS])
def test_whoever_knows_all_but_the_salt_finds_no_digest_to_try(name: str, act: Act) -> None:
    """Reasons and movements, with any other salt, are none of a statement's digests."""
    named: set[Digest] = {*act.inputs, *act.outputs, *(act.commitments or {}).values()}
    unsalted = replace(record.from_bytes(evidence.Reason, REASON), salt=bytes(32))
    assert digest(record.to_bytes(unsalted)) not in named
    for money in MONEY:
        movement = record.from_bytes(pricing.evidence.Movement, money.opening)
        assert replace(movement, salt=bytes(32)).commitment() not in named
        assert digest(money.opening) not in named


@pytest.mark.parametrize("money", MONEY, ids=[money.act.type for money in MONEY])
def test_what_a_money_act_hides_is_whole_in_its_opening(money: MoneyAct) -> None:
    """A statement may say little; with its opening an auditor has the act."""
    commitment = (money.act.commitments or {})[pricing.evidence.COMMITMENT]
    movement = pricing.evidence.open_movement(money.opening, commitment)
    assert movement.act == money.act.type
    assert movement.legs[0].amount_minor == 7_654_321
    assert movement.operation


def test_the_gates_numbers_are_in_the_plan_and_not_in_the_receipt() -> None:
    plan = a_plan(grounds(a_product(), a_product(LAB)))
    strict = with_query(plan, gate=Gate(min_group=97, round_counts=13))
    assert gate_words(strict) == gate_words(plan)
