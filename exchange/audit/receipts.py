"""Receipts: what each holder signed about its own run, and what its commitments hide."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from crypto import record
from crypto.digest import Digest, opens
from crypto.errors import CryptoError, Malformed
from crypto.identifiers import PartyId
from exchange import openings
from exchange.audit.counts import Counts
from exchange.audit.evidence import Evidence
from exchange.audit.jobs import COMMITTED, Job
from exchange.audit.log import Said
from exchange.audit.openings import NotOpened, Opener, open_for
from exchange.audit.plans import privacy_note
from exchange.errors import ExchangeError
from exchange.evidence import gate_words
from exchange.openings import BudgetUse, BytesOut, PrivacyUse, ReceiptOpenings
from exchange.privacy import NOTHING, PrivacyAccount, cost_of
from exchange.query.plan import SidePlan
from exchange.terms.agreement import Agreement
from ledger.verify.report import Check, Phrase, phrase

_FRACTION: Final = re.compile(r"\d{1,38}(/[1-9]\d{0,37})?", re.ASCII)


def check_receipts(
    job: Job, evidence: Evidence, counts: Counts, opener: Opener | None
) -> list[Check]:
    """Each holder's receipt of a sealed job and, for a reader with a key, what it opens to."""
    checks = []
    for party in job.plan.sealers:
        subject = f"{job.id} by {evidence.parties.name(party)}"
        said, side = job.sealed.get(party), job.plan.side_of(party)
        if said is None:
            if job.released is not None:
                note = phrase("receipt.none")
                checks.append(Check("job.receipt", False, subject, note))
            continue
        checks.append(_receipt(job, party, said, evidence, subject))
        if side is not None:  # no agreement names a reader of a helper's commitment
            checks.append(_opened(job, side, said, evidence, counts, opener, subject))
    return checks


def _receipt(job: Job, party: PartyId, said: Said, evidence: Evidence, subject: str) -> Check:
    """Signed by the holder: what it ran, behind which gate, with whom, and how much left it. The
    plan is among its inputs, or the replay would not have taken it for a receipt."""
    problem = _receipt_problem(job, party, said, evidence)
    if problem is not None:
        return Check("job.receipt", False, subject, problem)
    body = said.statement.body
    sent = ", ".join(
        f"{evidence.parties.name(name.removeprefix('bytes_out.'))} {body[name]}"
        for name in sorted(body)
        if name.startswith("bytes_out.")
    )
    return Check("job.receipt", True, subject, phrase("receipt.bytes", sent=sent))


def _receipt_problem(job: Job, party: PartyId, said: Said, evidence: Evidence) -> Phrase | None:
    body = said.statement.body
    gate = gate_words(job.plan)
    if body.get("gate", "") != gate:
        return phrase("receipt.differs", field="gate", found=body.get("gate", ""), expected=gate)
    if not body.get("software"):
        return phrase("receipt.lacks", field="software")
    try:
        Digest.parse(body.get("lock", ""), where="lock")
    except CryptoError:
        return phrase("receipt.lacks", field="lock")
    for other in job.plan.engine_parties:
        named = job.plan.document_of(other)
        if other == party or named is None:
            continue
        try:
            document = evidence.parties.by_digest(named).document
        except ExchangeError as error:
            return phrase("reason", reason=error)
        found, expected = body.get(f"peer.{other}", ""), document.identity.fingerprint
        if found != expected:
            field = f"peer.{other}"
            return phrase("receipt.differs", field=field, found=found, expected=expected)
    receiver = job.plan.receivers[0].party
    for name in [f"bytes_out.{receiver}", *(n for n in body if n.startswith("bytes_out."))]:
        count = body.get(name, "")
        if not count.isascii() or not count.isdigit():
            return phrase("receipt.lacks", field=name)
    return None


def _opened(
    job: Job,
    side: SidePlan,
    said: Said,
    evidence: Evidence,
    counts: Counts,
    opener: Opener | None,
    subject: str,
) -> Check:
    """Committed to by the holder, sealed by it to the regulator: which rows it used (as a digest
    that only it can show the rows of) and how far its own count of runs and epsilon had come."""
    try:
        agreement = evidence.agreement(side.agreement)
        plain = open_for(
            said,
            [agreement.terms],
            context=openings.receipt_context(job.plan_digest, side.holder),
            evidence=evidence,
            opener=opener,
        )
        note, right = _read_openings(plain, job, side, said, agreement, evidence, counts)
        return Check("receipt.opened", right, subject, note)
    except NotOpened as error:
        return Check("receipt.opened", False if error.failed else None, subject, error.why)
    except (ExchangeError, CryptoError) as error:
        return Check("receipt.opened", False, subject, phrase("reason", reason=error))


def _read_openings(
    plain: bytes,
    job: Job,
    side: SidePlan,
    said: Said,
    agreement: Agreement,
    evidence: Evidence,
    counts: Counts,
) -> tuple[Phrase, bool]:
    opened = record.from_bytes(ReceiptOpenings, plain)
    if opened.v != 1:
        raise Malformed("v", f"is {opened.v}; this version reads 1")
    committed = said.statement.commitments
    if set(opened.commitments) != set(committed) or not set(COMMITTED) <= set(committed):
        names, expected = (", ".join(sorted(own)) for own in (opened.commitments, committed))
        return phrase("opening.names", found=names, expected=expected), False
    for name, opening in opened.commitments.items():
        if not opens(committed[name], opening.salt, opening.value):
            return phrase("opening.mismatch", name=name), False
    Digest(opened.commitments["snapshot"].value)
    use = record.from_bytes(BudgetUse, opened.commitments["budget"].value)
    low, high = counts.runs(side.agreement, said)
    if use.runs_after != use.runs_before + 1 or not low <= use.runs_after <= high:
        counted = phrase(
            "budget.wrong", before=use.runs_before, after=use.runs_after, low=low, high=high
        )
        return counted, False
    before, after = _fraction(use.epsilon_before), _fraction(use.epsilon_after)
    allowed = agreement.terms.epsilon
    if after - before != job.plan.epsilon or before < 0 or after > allowed:
        spent = phrase(
            "budget.epsilon", before=before, after=after, cost=job.plan.epsilon, allowed=allowed
        )
        return spent, False
    wrong = _account_problem(use.product, job, said, agreement, evidence, counts)
    if wrong is not None:
        return wrong, False
    egress = record.from_bytes(BytesOut, opened.commitments["egress"].value)
    sent = ", ".join(f"{evidence.parties.name(p)} {n}" for p, n in sorted(egress.engine.items()))
    note = phrase(
        "budget.counted",
        after=use.runs_after,
        allowed=agreement.terms.runs,
        epsilon=after,
        sent=sent or "0",
    )
    return note, use.runs_after <= agreement.terms.runs


def _account_problem(
    use: PrivacyUse | None,
    job: Job,
    said: Said,
    agreement: Agreement,
    evidence: Evidence,
    counts: Counts,
) -> Phrase | None:
    """The product's account, which other deals draw on too: it moved by what the plan costs, had
    counted at least this deal's started jobs, and stayed within what the holder had listed."""
    cost, number = cost_of(job.plan), agreement.terms.product_id
    if use is None or cost == NOTHING:
        return None if use is None and cost == NOTHING else phrase("privacy.unstated")
    started = counts.started(number, said)
    if use.before + cost != use.after or not started.within(use.after):
        return phrase("privacy.miscounted", before=use.before, after=use.after, cost=cost)
    newest: PrivacyAccount | None = None
    for account in counts.accounts(number, said, use.after):
        if min(account.epsilon_left, account.delta_left) >= 0:
            return None
        newest = newest or account
    return None if newest is None else privacy_note(newest)


def _fraction(text: str) -> Fraction:
    # Python would also read 1e999999999, and take all memory for it.
    if not _FRACTION.fullmatch(text):
        raise Malformed("budget", f"{text[:20]!r} is not a fraction such as 1/4")
    return Fraction(text)
