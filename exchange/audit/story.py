"""The story: who did what when, one sentence per statement, in the order of the log."""

from __future__ import annotations

from collections.abc import Mapping

from crypto.digest import Digest
from crypto.statement import Statement
from exchange.audit.evidence import Evidence
from exchange.audit.words import PHRASES
from exchange.evidence import ALARM, reason_of
from ledger.verify.report import Check, Deed, phrase


def tell(evidence: Evidence, no_effect: Mapping[Digest, str]) -> list[Deed]:
    """What the signed statements say, and which of them changed nothing."""
    deeds = []
    for said in evidence.said:
        statement = said.statement
        key = f"did.{statement.type}"
        sentence = phrase(
            key if key in PHRASES else "did.other",
            actor=evidence.parties.name(statement.actor),
            subject=statement.subject,
            kind=statement.type,
            problem=_said_why(statement, evidence),
        )
        reason = no_effect.get(said.signed.digest)
        if reason is not None:
            sentence = phrase("told.no_effect", sentence=sentence, reason=reason)
        deeds.append(Deed(said.index, statement.time, sentence))
    return deeds


def note_alarms(evidence: Evidence) -> list[Check]:
    """Alarms that participants raised about the deal: signed, and proof of nothing but that."""
    return [
        Check(
            "alarm",
            None,
            f"{said.subject} by {evidence.parties.name(said.statement.actor)}",
            phrase(
                "alarm.words",
                kind=said.statement.body.get("kind", ""),
                words=_said_why(said.statement, evidence),
            ),
        )
        for said in evidence.said
        if said.statement.type == ALARM
    ]


def _said_why(statement: Statement, evidence: Evidence) -> str:
    """In public words, or in the document that came with it, as far as the bundle holds it."""
    return statement.body.get("words", "") or reason_of(statement, evidence.documents)
