"""Terms as a consumer or holder writes them, in TOML or as options of a command.

What is left out is what the product itself says: its purposes, joins, minimum group and price.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Self

from pydantic import ConfigDict

from api.files.reading import Minor, Written, fraction, member, read_toml
from crypto.digest import Digest
from crypto.identifiers import PartyId
from crypto.record import Amount
from exchange.terms.agreement import Partner, Terms
from registry.errors import DocumentRefused
from registry.product import DataProduct
from registry.rule import Join

VALIDITY: Final = timedelta(days=30)
RUNS: Final = 1


class WrittenTerms(Written):
    """Each field means what it means in `Terms`; one that is absent was not spoken of."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    product: str | None = None
    purposes: list[str] | None = None
    joins: list[str] | None = None
    combine_with: list[str] | None = None
    min_group: int | None = None
    runs: int | None = None
    epsilon: str | None = None
    price_minor: Minor | None = None
    valid_until: datetime | None = None
    regulator: str | None = None
    helper: str | None = None

    def over(self, other: Self) -> Self:
        """These, and where they say nothing, the other's."""
        return other.model_copy(update=self.model_dump(exclude_none=True))


def read_terms(path: Path) -> WrittenTerms:
    """Raises FileRefused, naming the field."""
    return read_toml(WrittenTerms, path)


def complete(
    written: WrittenTerms,
    product: DataProduct,
    digest: Digest,
    *,
    now: datetime,
    document_of: Callable[[PartyId], Digest],
) -> Terms:
    """Terms about one product version. Raises DocumentRefused or Malformed, naming the field.

    document_of: the digest of a party's believed document; asked for the regulator's.
    """
    basis = Terms(
        product_id=product.id,
        product=digest,
        purposes=product.rule.purposes,
        joins=product.rule.joins,
        combine_with=(),
        helper=None,
        min_group=product.rule.min_group,
        runs=RUNS,
        epsilon=Fraction(0),
        currency=product.currency,
        price_minor=product.price_minor,
        valid_from=now,
        valid_until=now + VALIDITY,
        regulator=None,
        regulator_document=None,
    )
    return amend(basis, written, document_of=document_of)


def amend(
    terms: Terms, written: WrittenTerms, *, document_of: Callable[[PartyId], Digest]
) -> Terms:
    """The terms with what `written` speaks of changed: a counter-offer, for instance."""
    if written.product is not None and written.product != terms.product_id:
        raise DocumentRefused("product", f"is not {terms.product_id}")
    changes: dict[str, Any] = {}
    if written.purposes is not None:
        changes["purposes"] = tuple(written.purposes)
    if written.joins is not None:
        changes["joins"] = tuple(
            member(Join, name, f"joins[{i}]") for i, name in enumerate(written.joins)
        )
    if written.combine_with is not None:
        changes["combine_with"] = tuple(
            Partner.parse(text, where=f"combine_with[{i}]")
            for i, text in enumerate(written.combine_with)
        )
    if written.min_group is not None:
        changes["min_group"] = written.min_group
    if written.runs is not None:
        changes["runs"] = written.runs
    if written.epsilon is not None:
        changes["epsilon"] = fraction(written.epsilon, "epsilon")
    if written.price_minor is not None:
        changes["price_minor"] = Amount(written.price_minor)
    if written.valid_until is not None:
        changes["valid_until"] = _utc(written.valid_until)
    if written.helper is not None:
        changes["helper"] = PartyId.parse(written.helper, where="helper")
    if written.regulator is not None:
        regulator = PartyId.parse(written.regulator, where="regulator")
        changes["regulator"] = regulator
        changes["regulator_document"] = document_of(regulator)
    return replace(terms, **changes)


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise DocumentRefused("valid_until", "has no time zone; end it with Z for UTC")
    return moment.astimezone(UTC)
