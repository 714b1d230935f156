"""Proposals and agreements: the documents that a negotiation passes to and fro.

Both carry a random salt, so that their digests, which are public in the ledger, tell nothing of
prices or terms to whoever guesses. An agreement is signed by both parties' nodes over the same
canonical bytes; its digest is what plans, jobs, receipts and payments refer to.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Final

from crypto import envelope as dsse
from crypto import record
from crypto.digest import SALT_BYTES, Digest, digest
from crypto.envelope import Envelope
from crypto.errors import Malformed
from crypto.identifiers import AgreementId, DealId, NegotiationId, PartyId, ProductId
from crypto.keys import Signer
from crypto.record import Amount
from exchange.errors import PlanRefused, TermsRefused
from registry.party import SignedParty
from registry.product import DataProduct
from registry.rule import Join

PAYLOAD_TYPE: Final = "application/vnd.unseen.agreement.v1+json"


@dataclass(frozen=True, order=True)
class Partner:
    """A data product that another holder's may be joined with. The holder is named as well: a
    product id alone could be listed by anybody who wants to learn whose keys match."""

    product: ProductId
    holder: PartyId

    def __str__(self) -> str:
        return f"{self.product}@{self.holder}"

    @classmethod
    def parse(cls, text: str, *, where: str = "partner") -> Partner:
        """Read `prd_…@pty_…`. Raises Malformed, naming `where`."""
        product, _, holder = text.partition("@")
        return cls(ProductId.parse(product, where=where), PartyId.parse(holder, where=where))


@dataclass(frozen=True)
class Terms:
    """What one holder lets one consumer compute on one data product, for how much.

    product:      digest of the listed product version the terms are about
    combine_with: the other products, and whose, it may be combined with in one job
    helper:       the neutral party that three-party protocols may use, where one is named
    min_group:    fewest people a released group may hold; never below the product's
    runs:         jobs allowed in all
    epsilon:      privacy loss allowed in all; 0/1 where no noise is agreed
    price_minor:  of one job, in minor units of `currency`
    regulator:    to whom openings are sealed, and the digest of its party document
    """

    product_id: ProductId
    product: Digest
    purposes: tuple[str, ...]
    joins: tuple[Join, ...]
    combine_with: tuple[Partner, ...]
    helper: PartyId | None
    min_group: int
    runs: int
    epsilon: Fraction
    currency: str
    price_minor: Amount
    valid_from: datetime
    valid_until: datetime
    regulator: PartyId | None
    regulator_document: Digest | None

    def __post_init__(self) -> None:
        if not self.purposes:
            raise Malformed("purposes", "must name at least one purpose")
        if not self.joins:
            raise Malformed("joins", "must allow at least one join")
        if not 1 <= self.runs <= 1_000_000:
            raise Malformed("runs", "must be 1 to 1,000,000")
        if self.epsilon < 0:
            raise Malformed("epsilon", "is negative")
        if self.price_minor < 0:
            raise Malformed("price_minor", "is negative")
        if self.valid_until <= self.valid_from:
            raise Malformed("valid_until", "is not after valid_from")
        if (self.regulator is None) != (self.regulator_document is None):
            raise Malformed("regulator_document", "goes with regulator")


@dataclass(frozen=True)
class Proposal:
    """Terms put on the table by one side: a request, an offer or a counter-offer."""

    v: int
    deal: DealId
    negotiation: NegotiationId
    consumer: PartyId
    holder: PartyId
    terms: Terms
    salt: bytes

    def __post_init__(self) -> None:
        _require_version_and_salt(self.v, self.salt)


@dataclass(frozen=True)
class Agreement:
    """Accepted terms. The documents' digests pin each party's keys for the agreement's life."""

    v: int
    id: AgreementId
    deal: DealId
    negotiation: NegotiationId
    consumer: PartyId
    consumer_document: Digest
    holder: PartyId
    holder_document: Digest
    terms: Terms
    agreed_at: datetime
    salt: bytes

    def __post_init__(self) -> None:
        _require_version_and_salt(self.v, self.salt)


def require_within_product(terms: Terms, product: DataProduct) -> None:
    """Raises TermsRefused, naming the clause, unless the product's own rule allows the terms."""
    rule = product.rule
    for purpose in terms.purposes:
        if purpose not in rule.purposes:
            allowed = ", ".join(rule.purposes)
            raise TermsRefused("purposes", f"{purpose} is not among the product's: {allowed}")
    for join in terms.joins:
        if join not in rule.joins:
            raise TermsRefused("joins", f"the product does not allow the {join} join")
    if terms.min_group < rule.min_group:
        raise TermsRefused("min_group", f"is below the product's {rule.min_group}")
    if terms.currency != product.currency:
        raise TermsRefused("currency", f"is not the product's {product.currency}")


def require_same_but_signed(agreement: Agreement, proposal: Proposal) -> None:
    """Raises TermsRefused unless the agreement is exactly what was on the table."""
    for name in ("deal", "negotiation", "consumer", "holder", "terms"):
        if getattr(agreement, name) != getattr(proposal, name):
            raise TermsRefused(name, "differs from the proposal that was accepted")


def proposal_digest(proposal: Proposal) -> Digest:
    return digest(record.to_bytes(proposal))


def sign_agreement(agreement: Agreement, signer: Signer) -> Envelope:
    return dsse.sign(PAYLOAD_TYPE, record.to_bytes(agreement), signer)


def read_agreement(envelope: Envelope) -> Agreement:
    """Parse; says nothing yet of who signed."""
    return record.from_bytes(Agreement, envelope.payload)


def require_signed_by(envelope: Envelope, signer: SignedParty, party: PartyId) -> None:
    """Raises unless `party` signed with the key of this document of its own."""
    if signer.document.party != party:
        raise PlanRefused("agreement", f"is not with {signer.document.party}")
    dsse.verify(envelope, PAYLOAD_TYPE, signer.document.signing)


def require_signed(
    envelope: Envelope, agreement: Agreement, *, consumer: SignedParty, holder: SignedParty
) -> None:
    """Raises unless both parties signed with the keys of the documents that the agreement names."""
    for signer, party, pinned in (
        (consumer, agreement.consumer, agreement.consumer_document),
        (holder, agreement.holder, agreement.holder_document),
    ):
        if signer.digest != pinned:
            raise PlanRefused("agreement", f"names another party document of {party}")
        require_signed_by(envelope, signer, party)


def require_in_force(agreement: Agreement, now: datetime) -> None:
    """Raises PlanRefused outside the agreement's validity."""
    terms = agreement.terms
    if now < terms.valid_from:
        raise PlanRefused("validity", f"agreement {agreement.id} is not yet in force")
    if now >= terms.valid_until:
        raise PlanRefused("validity", f"agreement {agreement.id} has expired")


def require_outlasts(agreement: Agreement, run_by: datetime) -> None:
    """Raises PlanRefused if a job admitted now could still start after the agreement's end."""
    if run_by > agreement.terms.valid_until:
        raise PlanRefused("validity", f"agreement {agreement.id} expires before the job must start")


def _require_version_and_salt(version: int, salt: bytes) -> None:
    if version != 1:
        raise Malformed("v", f"is {version}; this version reads 1")
    if len(salt) != SALT_BYTES:
        raise Malformed("salt", f"has {len(salt)} bytes, not {SALT_BYTES}")
