"""What this package needs from outside: storage at the hub, rows at the holder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from crypto.digest import Digest
from crypto.identifiers import PartyId, ProductId
from registry.expression import LocalQuery
from registry.party import SignedParty
from registry.product import DataProduct
from registry.source import SourceReport

if TYPE_CHECKING:  # the hub and clients, which see no rows, start without it
    import numpy as np
    import numpy.typing as npt


class PartyStore(Protocol):
    """Party documents, all of them: agreements refer to old ones by digest."""

    def add(self, party: SignedParty) -> None:
        """Idempotent by digest."""
        ...

    def current(self, party: PartyId) -> SignedParty:
        """The document with the highest seq. Raises NotFound."""
        ...

    def by_digest(self, digest: Digest) -> SignedParty:
        """Raises NotFound."""
        ...

    def all_current(self) -> Sequence[SignedParty]: ...


@dataclass(frozen=True)
class CataloguePage:
    """total is not counted: a catalogue page must not cost a scan."""

    products: tuple[DataProduct, ...]
    next_after: ProductId | None


class ProductStore(Protocol):
    """Listed products at the hub."""

    def add(self, product: DataProduct, envelope: bytes, digest: Digest) -> None:
        """List a product version, replacing the version before it in the catalogue."""
        ...

    def current(self, product: ProductId) -> DataProduct: ...

    def by_digest(self, digest: Digest) -> DataProduct: ...

    def envelope(self, digest: Digest) -> bytes: ...

    def search(self, text: str, *, after: ProductId | None, limit: int) -> CataloguePage:
        """Products whose name or description holds every word of `text`, by id."""
        ...


@dataclass(frozen=True)
class LocalRows:
    """What a local query yields: one row for each person that it selects, in order of key.

    keys:     canonical join keys as text, unique, none missing, in order of their UTF-8 bytes.
              shape (n,)
    group:    int64, -1 where the row is in no group. shape (n,)
    factors:  int64 in units of 10**-decimals of each expression, 0 where missing; of several rows
              of one person their sum, or 1 for an indicator. shape (n, factors)
    snapshot: digest of exactly these rows, see `registry.snapshot`; commit to it with a salt
              before it leaves the node, for a few rows can be guessed
    """

    keys: tuple[str, ...]
    group: npt.NDArray[np.int64]
    factors: npt.NDArray[np.int64]
    snapshot: Digest


@dataclass(frozen=True)
class Records:
    """Whole records by key, as text for people: of a number its decimal digits with all the places
    of its column. Missing values are empty. Keys as in LocalRows. shape (n,), each record in the
    order of the columns asked for."""

    keys: tuple[str, ...]
    records: tuple[tuple[str, ...], ...]
    snapshot: Digest


class DataSource(Protocol):
    """A holder's rows behind a product: a Parquet or CSV file, or a PostgreSQL table."""

    def compute(self, product: DataProduct, query: LocalQuery) -> LocalRows:
        """Clamp and encode every row as the product says, then filter, group and compute, exactly.

        A row whose key is missing or is no canonical key takes no part. Of one key's rows the
        first `product.contribution` in the order of their encoded values take part, and the query
        is asked of these: so all queries see the same rows of a person, however they filter. A
        value that is not of the column's type, and a text outside its categories, counts as
        missing; a number outside its range as the nearer end. So no value of one row decides what
        becomes of another person's, and no odd value makes a job fail (docs/hidden_join.md, local
        part).

        Raises SourceRefused, naming the column: unknown, the key itself, not there or of another
        kind in the source, no rows at all, more people than the product's cap; and for a part of
        the query that does not fit the product: text for a number, a range beyond 60 bits, a group
        number that is no number 0, 1, 2, …, a group where a person may have several rows. The
        message is for the owner: it may hold counts, never a value.
        Raises SourceUnreachable when the file or database cannot be read now.
        """
        ...

    def records(self, product: DataProduct, columns: Sequence[str]) -> Records:
        """The records that a lookup table is made of: one of each person, encoded as above. Raises
        as `compute`, and SourceRefused where a person may have several rows."""
        ...

    def memberships(
        self, product: DataProduct, queries: Sequence[LocalQuery]
    ) -> npt.NDArray[np.int64]:
        """In which group each query counts each person: shape (queries, people), -1 for in no
        group, -2 for not selected at all; of several rows of one person any one selects. People
        are all those of the source, in order of key. Factors are not computed. Raises as
        `compute`."""
        ...

    def digest(self, product: DataProduct) -> Digest:
        """Of all rows as the source has them now, in any order: another one once a value of a
        column of the product has changed, or a row has come or gone. It never leaves the node."""
        ...

    def describe(self, product: DataProduct) -> SourceReport:
        """How the rows fit the product, for the owner: see SourceReport.

        Raises SourceRefused when the source is not a table at all, or can be written with the
        rights it is read with; SourceUnreachable as above.
        """
        ...
