"""Who was given a deal's evidence: only whom the deal, its agreements or the operator named.

A hub that gives it to others says nothing of it; what it does say must be true of itself.
"""

from __future__ import annotations

from collections.abc import Collection

from crypto.errors import CryptoError
from crypto.identifiers import PartyId
from exchange.audit.evidence import Evidence
from exchange.evidence import BUNDLE_EXPORTED, REGULATORS_NAMED, read_regulators
from ledger.verify.report import Check, phrase


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
