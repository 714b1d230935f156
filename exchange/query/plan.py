"""Plans: one job compiled, signed by the consumer and identified by its digest.

A plan says who computes what, over which columns, with which join, behind which gate, for which
epsilon and price, and in words what each party will learn. Whoever runs it needs nothing else,
and whoever signed the agreements can check that nothing else was asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Final

from crypto import envelope as dsse
from crypto import record
from crypto.digest import SALT_BYTES, Digest
from crypto.envelope import Envelope
from crypto.errors import Malformed
from crypto.identifiers import DealId, JobId, PartyId
from crypto.joins.intersection import Intersection
from crypto.joins.layout import MAX_OUTPUTS
from crypto.keys import Signer
from crypto.record import Amount
from registry.rule import Function, Join

PAYLOAD_TYPE: Final = "application/vnd.unseen.plan.v1+json"
MAX_CELLS: Final = 4096
OPERATORS: Final = ("=", "!=", "<", "<=", ">", ">=")


@dataclass(frozen=True)
class GroupBy:
    """One group column with a public domain: either its categories, or bands between cuts.

    cuts: ascending, in units of 10**-decimals; band i holds cuts[i-1] <= value < cuts[i].
    """

    column: str
    categories: tuple[str, ...] | None = None
    cuts: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if (self.categories is None) == (self.cuts is None):
            raise Malformed("group_by", f"{self.column} needs either categories or cuts")
        if self.categories is not None and (
            not self.categories or len(set(self.categories)) != len(self.categories)
        ):
            raise Malformed("categories", f"of {self.column} must be distinct and not empty")
        if self.cuts is not None and (not self.cuts or list(self.cuts) != sorted(set(self.cuts))):
            raise Malformed("cuts", f"of {self.column} must ascend and not be empty")

    @property
    def size(self) -> int:
        """How many groups this column makes."""
        if self.categories is not None:
            return len(self.categories)
        return len(self.cuts or ()) + 1


@dataclass(frozen=True)
class Measure:
    """function: SUM or MEAN of the column, over rows where it is not missing."""

    column: str
    function: Function

    def __post_init__(self) -> None:
        if self.function is Function.COUNT:
            raise Malformed("function", "count needs no column; every group is counted")


@dataclass(frozen=True)
class Filter:
    """column op value. value: text for text columns, else an integer of 10**-decimals."""

    column: str
    op: str
    text: str | None = None
    number: int | None = None

    def __post_init__(self) -> None:
        if self.op not in OPERATORS:
            raise Malformed("op", f"is not one of {' '.join(OPERATORS)}")
        if (self.text is None) == (self.number is None):
            raise Malformed("filter", f"on {self.column} needs either text or number")
        if self.text is not None and self.op not in ("=", "!="):
            raise Malformed("op", f"on the text column {self.column} must be = or !=")


@dataclass(frozen=True)
class SidePlan:
    """What one holder contributes. Its rank in the engine run is its place in `Plan.sides`.

    agreement, product: digests; holder_document: the keys its messages are checked with.
    price_minor: what this holder is paid when the job is done.
    """

    agreement: Digest
    product: Digest
    holder: PartyId
    holder_document: Digest
    group_by: tuple[GroupBy, ...]
    measures: tuple[Measure, ...]
    filters: tuple[Filter, ...]
    price_minor: Amount

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column read besides the key, once each."""
        return tuple(
            dict.fromkeys(
                [g.column for g in self.group_by]
                + [m.column for m in self.measures]
                + [f.column for f in self.filters]
            )
        )

    @property
    def groups(self) -> int:
        size = 1
        for group in self.group_by:
            size *= group.size
        return size


@dataclass(frozen=True)
class Gate:
    """What a released group must satisfy. min_group: people in it."""

    min_group: int

    def __post_init__(self) -> None:
        if self.min_group < 2:
            raise Malformed("min_group", "must be 2 or more")


@dataclass(frozen=True)
class Receiver:
    """Who opens the result: the party and the document whose sealing key it is sealed to."""

    party: PartyId
    document: Digest


@dataclass(frozen=True)
class Plan:
    """run_by: no node starts after this; run_seconds: an engine run is killed after this long.

    learns: for each party, in words, what it will learn. Nodes recompute it and refuse a plan
    that says anything else.
    """

    v: int
    job: JobId
    deal: DealId
    consumer: PartyId
    consumer_document: Digest
    operator: PartyId
    purpose: str
    join: Join
    intersection: Intersection
    sides: tuple[SidePlan, ...]
    gate: Gate
    epsilon: Fraction
    currency: str
    receivers: tuple[Receiver, ...]
    created_at: datetime
    run_by: datetime
    run_seconds: int
    learns: Mapping[str, str]
    salt: bytes

    def __post_init__(self) -> None:
        if self.v != 1:
            raise Malformed("v", f"is {self.v}; this version reads 1")
        if len(self.salt) != SALT_BYTES:
            raise Malformed("salt", f"has {len(self.salt)} bytes, not {SALT_BYTES}")
        if len(self.sides) != 2:
            raise Malformed("sides", "the revealed join takes exactly two holders")
        if len({side.holder for side in self.sides}) != len(self.sides):
            raise Malformed("sides", "name a holder twice")
        if len(self.receivers) != 1:
            raise Malformed("receivers", "must be exactly one")
        if self.cells > MAX_CELLS:
            raise Malformed("group_by", f"makes {self.cells} groups; at most {MAX_CELLS}")
        measures = sum(len(side.measures) for side in self.sides)
        if self.cells * (2 + 3 * measures) > MAX_OUTPUTS:
            raise Malformed("measures", f"make more than {MAX_OUTPUTS} outputs; ask for fewer")
        if self.run_by <= self.created_at:
            raise Malformed("run_by", "is not after created_at")
        if not 1 <= self.run_seconds <= 86_400:
            raise Malformed("run_seconds", "must be 1 to 86,400")
        if self.epsilon < 0:
            raise Malformed("epsilon", "is negative")

    @property
    def cells(self) -> int:
        """Groups in all: those of the first side times those of the second."""
        size = 1
        for side in self.sides:
            size *= side.groups
        return size

    @property
    def price_minor(self) -> int:
        return sum(side.price_minor for side in self.sides)

    @property
    def engine_parties(self) -> tuple[PartyId, ...]:
        """Who takes part in the engine run, by rank."""
        return tuple(side.holder for side in self.sides)

    def side_of(self, party: PartyId) -> SidePlan | None:
        for side in self.sides:
            if side.holder == party:
                return side
        return None


def sign_plan(plan: Plan, signer: Signer) -> Envelope:
    return dsse.sign(PAYLOAD_TYPE, record.to_bytes(plan), signer)


def read_plan(envelope: Envelope) -> Plan:
    """Parse; says nothing yet of who signed."""
    return record.from_bytes(Plan, envelope.payload)
