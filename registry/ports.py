"""What this package needs from outside: storage at the hub, rows at the holder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from crypto.digest import Digest
from crypto.identifiers import PartyId, ProductId
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
class SourceFilter:
    """One comparison on one column: `column op value`; op is one of = != < <= > >=.

    value: for numbers an integer in units of 10**-decimals, for text the text. It is compared
    with the encoded value, after clamping and rounding, so that a filter can't tell apart what
    the product's public range does not. Text is compared by its UTF-8 bytes. A missing value
    matches nothing, `!=` included."""

    column: str
    op: str
    value: int | str


@dataclass(frozen=True)
class Extract:
    """What a local query yields, encoded as the product says, in order of key.

    keys:     canonical join keys as text, unique, none missing. shape (n,)
    numbers:  per numeric column asked for, int64 in units of 10**-decimals, clamped. shape (n,)
    texts:    per text column asked for, Unicode NFC. shape (n,)
    valid:    per column, False where the value was missing or outside the public categories;
              the number there is 0, the text empty. shape (n,)
    snapshot: digest of exactly these rows, see `registry.snapshot`; commit to it with a salt
              before it leaves the node, for a few rows can be guessed
    """

    keys: tuple[str, ...]
    numbers: dict[str, npt.NDArray[np.int64]]
    texts: dict[str, tuple[str, ...]]
    valid: dict[str, npt.NDArray[np.bool_]]
    snapshot: Digest


class DataSource(Protocol):
    """A holder's rows behind a product: a Parquet or CSV file, or a PostgreSQL table."""

    def extract(
        self, product: DataProduct, columns: Sequence[str], filters: Sequence[SourceFilter]
    ) -> Extract:
        """Filter, project, clamp and encode the rows that have a key.

        Every column of the product is checked over every row, whatever was asked: whether a job
        fails here must tell nothing about the rows that its filters select.

        Raises SourceRefused, naming the column: unknown, wrong type, a value that does not
        parse, duplicate key, no rows at all, more rows than the product's cap, text that is not
        UTF-8. The message is for the owner: it may hold counts and row numbers, never a value.
        Raises SourceUnreachable when the file or database cannot be read now.
        """
        ...

    def describe(self, product: DataProduct) -> SourceReport:
        """How the rows fit the product, for the owner: see SourceReport.

        Raises SourceRefused when the source is not a table at all, or can be written with the
        rights it is read with; SourceUnreachable as above.
        """
        ...
