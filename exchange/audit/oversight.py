"""Who was given a deal's evidence, and what holders' nodes admitted without asking a person.

A hub that gives evidence to whom it may not says nothing of it; what it does say must be true of
itself: it gave it to whom the deal, its agreements or the operator named.
"""

from __future__ import annotations

from collections.abc import Collection

from crypto import record, sealing
from crypto.digest import Digest, opens
from crypto.errors import BadSignature, CryptoError
from crypto.identifiers import PartyId
from crypto.statement import Statement
from exchange.audit.evidence import Evidence
from exchange.audit.log import Said
from exchange.audit.openings import Opener
from exchange.evidence import (
    BUNDLE_EXPORTED,
    REGULATORS_NAMED,
    STANDING,
    STANDING_APPROVED,
    STANDING_WITHDRAWN,
    read_regulators,
)
from exchange.openings import Opening, standing_context
from ledger.verify.report import Check, Phrase, phrase


def check_standing(
    evidence: Evidence, taking_part: Collection[PartyId], opener: Opener | None
) -> list[Check]:
    """Standing approvals on the deal's products, and the admissions that rest on one.

    taking_part: what others say of the deal's jobs is no evidence
    """
    checks = []
    given: dict[Digest, Statement] = {}
    for said in evidence.said:
        statement = said.statement
        if statement.type == STANDING_APPROVED:
            given[said.signed.digest] = statement
            checks.append(_opened(said, evidence, opener))
        elif statement.type == STANDING_WITHDRAWN:
            for name in statement.after:
                if name in given and given[name].actor == statement.actor:
                    del given[name]
        elif statement.type == "job.admitted" and statement.actor in taking_part:
            # The submission and the hold come first; what else it names let it be admitted.
            for name in statement.after[2:]:
                ours = name in given and given[name].actor == statement.actor
                note = None if ours else phrase("standing.none", digest=name)
                checks.append(Check("standing.in_force", ours, said.subject, note))
    return checks


def _opened(said: Said, evidence: Evidence, opener: Opener | None) -> Check:
    def result(passed: bool | None, note: Phrase) -> Check:
        return Check("standing.opened", passed, said.subject, note)

    if opener is None:
        return result(None, phrase("opening.no_key"))
    sealed = evidence.openings.get((said.signed.digest, opener.party))
    if sealed is None:
        return result(None, phrase("opening.other_reader"))
    try:
        commitment = said.statement.commitments[STANDING]
        context = standing_context(commitment)
        plain = sealing.open_sealed(sealed, opener.key, context=context)
        opening = record.from_bytes(Opening, plain)
        if not opens(commitment, opening.salt, opening.value):
            raise BadSignature("the opening is not what the statement committed to")
        says = opening.value.decode("utf-8")
    except (CryptoError, KeyError, UnicodeDecodeError) as error:
        return result(False, phrase("reason", reason=error))
    return result(True, phrase("standing.says", text=says))


def check_exports(evidence: Evidence, entitled: Collection[PartyId]) -> list[Check]:
    """entitled: the consumers of the deal, and the regulators that its agreements name."""
    checks = []
    named: dict[PartyId, Collection[PartyId]] = {}  # by the operator that named them last
    for said in evidence.said:
        statement = said.statement
        try:
            if statement.type == REGULATORS_NAMED:
                named[statement.actor] = read_regulators(statement)
            if statement.type != BUNDLE_EXPORTED:
                continue
            to = PartyId.parse(statement.body.get("to", ""), where="to")
        except CryptoError as error:
            why = phrase("reason", reason=error)
            checks.append(Check("bundle.given", False, said.subject, why))
            continue
        allowed = {statement.actor, *entitled, *named.get(statement.actor, ())}
        note = phrase("bundle.given_to", to=evidence.parties.name(to))
        checks.append(Check("bundle.given", to in allowed, said.subject, note))
    return checks
