"""Plans: one job compiled, signed by the consumer and identified by its digest.

A plan says who computes what, over which columns, with which join, behind which gate, for which
epsilon and price, and in words what each party will learn. Whoever runs it needs nothing else,
and whoever signed the agreements can check that nothing else was asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import ClassVar, Final

from crypto import envelope as dsse
from crypto import record
from crypto.digest import SALT_BYTES, Digest
from crypto.envelope import Envelope
from crypto.errors import Malformed
from crypto.identifiers import DealId, JobId, PartyId
from crypto.joins.intersection import Intersection
from crypto.joins.layout import Order
from crypto.keys import Signer
from crypto.noise import MAX_SCALE, Distribution
from crypto.record import Amount
from exchange.jobs import GRACE, MAX_RUN_S
from exchange.query.released import Calculated, Having, Output, Released, Value
from registry.expression import Condition, Expression
from registry.rule import Function, Join

PAYLOAD_TYPE: Final = "application/vnd.unseen.plan.v1+json"
MAX_CELLS: Final = 4096
MAX_STATISTICS: Final = 64
MAX_SIDES: Final = 3  # holders whose rows meet on one key
MAX_EPSILON: Final = 100  # beyond, nothing is private, and exp(epsilon) is no number one can write
MIN_PADDING_EPSILON: Final = Fraction(1, 2000)  # with the least delta 100,000 rows of either kind
MIN_PADDING_DELTA: Final = Fraction(1, 10**18)
TWO_SIDED: Final = frozenset({Join.HIDDEN, Join.REVEALED, Join.SUM, Join.UNION})
JOINED: Final = frozenset({Join.HIDDEN, Join.REVEALED, Join.SUM})  # rows matched by key
HELPED: Final = frozenset({Join.HIDDEN, Join.UNION})  # three parties compute
MAY_BE_HELPED: Final = HELPED | {Join.REVEALED}
HELPER_RANK: Final = 2
HOLDER_RANKS: Final = (0, 1, 3)  # by place in `Plan.sides`
LEFT_OF_THREE: Final = (
    "takes two tables: of three, rows that only two of them have would need a match of their own"
)
WITH_CONSUMER: Final = frozenset({Join.SCORE, Join.LOOKUP})  # the consumer computes as well


@dataclass(frozen=True)
class GroupBy:
    """One group key with a public domain, in exactly one of three forms.

    categories: values of the text or number column `name`
    cuts:       ascending, in units of 10**-decimals of the column `name`; band i holds
                cuts[i-1] <= value < cuts[i]
    cases:      group i holds whoever fulfils cases[i] and none before; `labels` names them, with
                one label more where there is an ELSE
    """

    name: str
    categories: tuple[str, ...] | None = None
    cuts: tuple[int, ...] | None = None
    cases: tuple[Condition, ...] | None = None
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if [self.categories, self.cuts, self.cases].count(None) != 2:
            raise Malformed("group_by", f"{self.name} needs categories, cuts or cases")
        if self.categories is not None and (
            not self.categories or len(set(self.categories)) != len(self.categories)
        ):
            raise Malformed("categories", f"of {self.name} must be distinct and not empty")
        if self.cuts is not None and (not self.cuts or list(self.cuts) != sorted(set(self.cuts))):
            raise Malformed("cuts", f"of {self.name} must ascend and not be empty")
        if (self.cases is None) != (self.labels is None):
            raise Malformed("labels", f"of {self.name} go with cases")
        if self.cases is not None and self.labels is not None:
            if len(self.labels) - len(self.cases) not in (0, 1) or not self.cases:
                raise Malformed("labels", f"of {self.name} must be one per case, or one more")
            if len(set(self.labels)) != len(self.labels):
                raise Malformed("labels", f"of {self.name} must be distinct")

    @property
    def size(self) -> int:
        """How many groups this key makes."""
        if self.categories is not None:
            return len(self.categories)
        if self.labels is not None:
            return len(self.labels)
        return len(self.cuts or ()) + 1


@dataclass(frozen=True)
class SidePlan:
    """What one holder contributes. Its rank in the engine run follows from its place in
    `Plan.sides`: see HOLDER_RANKS.

    agreement, product: digests; holder_document: the keys its messages are checked with.
    where:       which of its rows take part
    price_minor: what this holder is paid when the job is done
    """

    agreement: Digest
    product: Digest
    holder: PartyId
    holder_document: Digest
    group_by: tuple[GroupBy, ...]
    where: Condition | None
    price_minor: Amount

    @property
    def groups(self) -> int:
        size = 1
        for group in self.group_by:
            size *= group.size
        return size


@dataclass(frozen=True)
class Argument:
    """side: index into `Plan.sides`. expression: numeric, over that side's columns alone."""

    side: int
    expression: Expression


@dataclass(frozen=True)
class Statistic:
    """One released aggregate per group.

    function and arguments:
        COUNT                     none: people (one row each) or row pairs; one to three: those
                                  rows where all of them are present
        SUM, MEAN, VARIANCE, STDDEV  the product of one to three arguments, at most one per side
        MIN, MAX                  one
        QUANTILE                  one, with `quantile` in (0, 1) and ascending public `cuts` in the
                                  argument's units; what is released is the histogram behind it
        COVARIANCE, CORRELATION   two, on any sides
        REGRESSION                y, then one or more x; least squares with an intercept
    VARIANCE, STDDEV and COVARIANCE are those of a sample: divided by n - 1.
    distinct: of COUNT without argument: people, even where a person has several rows.
    """

    function: Function
    arguments: tuple[Argument, ...]
    distinct: bool
    quantile: Fraction | None = None
    cuts: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        counts = {
            Function.COUNT: (0, MAX_SIDES),
            Function.MIN: (1, 1),
            Function.MAX: (1, 1),
            Function.QUANTILE: (1, 1),
            Function.COVARIANCE: (2, 2),
            Function.CORRELATION: (2, 2),
            Function.REGRESSION: (2, 8),
        }
        low, high = counts.get(self.function, (1, MAX_SIDES))
        if not low <= len(self.arguments) <= high:
            raise Malformed("arguments", f"of {self.function} must be {low} to {high}")
        products = (Function.SUM, Function.MEAN, Function.VARIANCE, Function.STDDEV)
        if self.function in products or (
            self.function is Function.COUNT and len(self.arguments) == MAX_SIDES
        ):
            sides = [argument.side for argument in self.arguments]
            if len(set(sides)) != len(sides):
                raise Malformed("arguments", "name a side twice; multiply within the side")
        if self.distinct and (self.function is not Function.COUNT or self.arguments):
            raise Malformed("distinct", "goes with a count of people alone")
        is_quantile = self.function is Function.QUANTILE
        if is_quantile != (self.quantile is not None) or is_quantile != (self.cuts is not None):
            raise Malformed("quantile", "and cuts go with the function quantile")
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise Malformed("quantile", "must lie between 0 and 1")
        if self.cuts is not None and (
            not 2 <= len(self.cuts) <= 257 or list(self.cuts) != sorted(set(self.cuts))
        ):
            raise Malformed("cuts", "must ascend and be 2 to 257")


@dataclass(frozen=True)
class CrossCondition:
    """A condition on rows that meet: left (of side 0) order right (of another side). Where either
    is missing it is not fulfilled.

    right_side: index into `Plan.sides`, 1 or 2
    """

    left: Expression
    order: Order
    right: Expression
    right_side: int = 1

    def reads(self, side: int) -> Expression | None:
        """What it compares of one side."""
        if side == 0:
            return self.left
        return self.right if side == self.right_side else None


@dataclass(frozen=True)
class Gate:
    """What a released group must satisfy. min_group: people in it; the rest as in
    `registry.rule.AnalysisRule`."""

    min_group: int
    dominance: Fraction | None = None
    round_counts: int | None = None

    def __post_init__(self) -> None:
        if self.min_group < 2:
            raise Malformed("min_group", "must be 2 or more")
        if self.dominance is not None and not 0 < self.dominance <= 1:
            raise Malformed("dominance", "must be above 0 and at most 1")
        if self.round_counts is not None and self.round_counts < 2:
            raise Malformed("round_counts", "must be 2 or more, or absent")


@dataclass(frozen=True)
class Padding:
    """What hides the matched count of a hidden join from each party that computes."""

    epsilon: Fraction
    delta: Fraction

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= MAX_EPSILON or not 0 < self.delta < 1:
            raise Malformed(
                "padding", f"needs epsilon from 0 to {MAX_EPSILON} and delta between 0 and 1"
            )
        # Padding grows with 1/epsilon, at every party: a job must not exhaust engines for nothing.
        for name, least in (("epsilon", MIN_PADDING_EPSILON), ("delta", MIN_PADDING_DELTA)):
            if getattr(self, name) < least:
                raise Malformed(
                    f"padding.{name}", f"is below {least}: uploads would be padding and little else"
                )


@dataclass(frozen=True)
class Noise:
    """Noise on everything released; every parameter is here and nothing else is drawn.

    epsilon, delta: what the release costs together, by basic composition over the terms
    rho:     the same in zero-concentrated DP (Bun and Steinke 2016), Gaussian only
    scales:  per term of the compiled query, in its units: b of discrete Laplace, sigma of discrete
             Gaussian. Two parties each add a full draw.
    beta:    chance that the two draws of a count reach the gate's slack
    """

    distribution: Distribution
    epsilon: Fraction
    delta: Fraction
    rho: Fraction | None
    scales: tuple[Fraction, ...]
    beta: Fraction

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= MAX_EPSILON or not 0 <= self.delta < 1 or not 0 < self.beta < 1:
            raise Malformed(
                "noise", f"needs epsilon from 0 to {MAX_EPSILON}, delta and beta between 0 and 1"
            )
        if (self.rho is None) != (self.distribution is Distribution.LAPLACE):
            raise Malformed("noise.rho", "goes with Gaussian noise")
        # Before epsilon is spent: engines draw no wider noise.
        if not all(0 < scale <= MAX_SCALE for scale in self.scales):
            raise Malformed(
                "noise.scales", "must be above 0 and at most 2**56; ask for more epsilon"
            )


@dataclass(frozen=True)
class Query:
    """SQL, compiled. keep_left: LEFT JOIN, all rows of side 0 count, matched or not.

    hide_size: the variant of the hidden join in which no holder learns any count.
    """

    kind: ClassVar[str] = "query"
    keep_left: bool
    hide_size: bool
    intersection: Intersection | None
    comparisons: tuple[CrossCondition, ...]
    statistics: tuple[Statistic, ...]
    outputs: tuple[Output, ...]
    having: tuple[Having, ...]
    gate: Gate
    padding: Padding | None
    noise: Noise | None

    def __post_init__(self) -> None:
        if not 1 <= len(self.statistics) <= MAX_STATISTICS:
            raise Malformed("statistics", f"must be 1 to {MAX_STATISTICS}")
        if not self.outputs:
            raise Malformed("outputs", "must name at least one released number")
        for index, output in enumerate(self.outputs):
            self._require_released(output.value, f"outputs[{index}]")
        for index, having in enumerate(self.having):
            self._require_released(having.left, f"having[{index}]")
            self._require_released(having.right, f"having[{index}]")

    def _require_released(self, root: Value, where: str) -> None:
        """That it is made of numbers which this query releases."""
        if isinstance(root, Calculated):
            self._require_released(root.left, where)
            self._require_released(root.right, where)
        elif isinstance(root, Released):
            if not 0 <= root.statistic < len(self.statistics):
                raise Malformed(where, "names a statistic that is not there")
            statistic = self.statistics[root.statistic]
            known = {0}
            if statistic.function is Function.REGRESSION:
                known = {-2, -1, *range(len(statistic.arguments))}
            if root.part not in known:
                raise Malformed(where, f"names a part that {statistic.function} does not have")


@dataclass(frozen=True)
class Score:
    """Scoring of rows that the consumer brings, encrypted; the model's owner sees none of them.

    rows: exactly so many are sent, the rest filled up, so that sizes tell nothing
    parameters: the name of the CKKS parameter set; see crypto.scoring
    """

    kind: ClassVar[str] = "score"
    rows: int
    parameters: str

    def __post_init__(self) -> None:
        if not 1 <= self.rows <= 1_000_000:
            raise Malformed("rows", "must be 1 to 1,000,000")


@dataclass(frozen=True)
class Lookup:
    """Private lookup of keys. columns: what is released of a key's record, in this order.

    keys: exactly so many blinded keys are sent, the rest filled up
    epoch: the holder's key epoch of the product version; its table is made once per epoch
    """

    kind: ClassVar[str] = "lookup"
    keys: int
    columns: tuple[str, ...]
    epoch: int

    def __post_init__(self) -> None:
        if not 1 <= self.keys <= 100_000:
            raise Malformed("keys", "must be 1 to 100,000")
        if not self.columns or len(set(self.columns)) != len(self.columns):
            raise Malformed("columns", "must name each column once, and at least one")
        if self.epoch < 0:
            raise Malformed("epoch", "is negative")


@dataclass(frozen=True)
class Receiver:
    """Who opens the result: the party and the document whose sealing key it is sealed to."""

    party: PartyId
    document: Digest


@dataclass(frozen=True)
class HelperSeat:
    """The neutral computing party without rows: HELPER_RANK. Every agreement of the plan names
    it."""

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
    sides: tuple[SidePlan, ...]
    helper: HelperSeat | None
    work: Query | Score | Lookup
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
        self._require_sides()
        if len({side.holder for side in self.sides}) != len(self.sides):
            raise Malformed("sides", "name a holder twice")
        fits = self.join in MAY_BE_HELPED if self.helper else self.join not in HELPED
        if not fits:
            raise Malformed("helper", f"does not fit the join {self.join}")
        if len(self.receivers) != 1:
            raise Malformed("receivers", "must be exactly one")
        self._require_work()
        if self.cells > MAX_CELLS:
            raise Malformed("group_by", f"makes {self.cells} groups; at most {MAX_CELLS}")
        if self.run_by <= self.created_at:
            raise Malformed("run_by", "is not after created_at")
        if not 1 <= self.run_seconds <= MAX_RUN_S:
            raise Malformed("run_seconds", f"must be 1 to {MAX_RUN_S:,}")
        if self.finish_by.year > record.LAST_YEAR:
            raise Malformed("run_by", f"leaves no time to run before {record.LAST_YEAR} is over")

    def _require_sides(self) -> None:
        count = len(self.sides)
        if self.join not in TWO_SIDED:
            if count != 1:
                raise Malformed("sides", f"{self.join} takes exactly 1")
            return
        if self.join is not Join.HIDDEN and count != 2:
            raise Malformed("sides", f"{self.join} takes exactly 2")
        if not 2 <= count <= MAX_SIDES:
            raise Malformed("sides", f"{self.join} takes 2 to {MAX_SIDES}")
        if count > 2 and isinstance(self.work, Query):
            if self.work.hide_size:
                raise Malformed("work.hide_size", "goes with two tables, not with three")
            if self.work.keep_left:
                raise Malformed("work.keep_left", LEFT_OF_THREE)

    def _require_work(self) -> None:
        kinds = {Join.SCORE: Score, Join.LOOKUP: Lookup}
        if not isinstance(self.work, kinds.get(self.join, Query)):
            raise Malformed("work", f"does not fit the join {self.join}")
        if not isinstance(self.work, Query):
            if any(side.group_by or side.where is not None for side in self.sides):
                raise Malformed("sides", f"of a {self.join} have neither groups nor filters")
            return
        if (self.join is Join.REVEALED) != (self.work.intersection is not None):
            raise Malformed("work.intersection", "goes with the revealed join")
        if (self.join is Join.HIDDEN) != (self.work.padding is not None):
            raise Malformed("work.padding", "goes with the hidden join")
        if self.work.keep_left and self.join not in JOINED:
            raise Malformed("work.keep_left", "goes with a join of two tables")
        if self.work.comparisons and self.join not in JOINED:
            raise Malformed("work.comparisons", "go with a join of two tables")
        for index, comparison in enumerate(self.work.comparisons):
            if not 1 <= comparison.right_side < len(self.sides):
                raise Malformed(f"work.comparisons[{index}]", "names a side that is not there")
        if self.work.hide_size and self.join is not Join.HIDDEN:
            raise Malformed("work.hide_size", "goes with the hidden join")
        if self.join is Join.UNION and self.sides[0].group_by != self.sides[1].group_by:
            raise Malformed("sides", "of a union must have the same groups")
        for index, statistic in enumerate(self.work.statistics):
            for argument in statistic.arguments:
                if not 0 <= argument.side < len(self.sides):
                    raise Malformed(f"work.statistics[{index}]", "names a side that is not there")

    @property
    def query(self) -> Query:
        """Raises Malformed for a score or a lookup."""
        if not isinstance(self.work, Query):
            raise Malformed("work", "is not a query")
        return self.work

    @property
    def epsilon(self) -> Fraction:
        """What this job costs each product, by basic composition (see hidden_join: a party that
        computes spends the padding's, the receiver the noise's; both are charged)."""
        if not isinstance(self.work, Query):
            return Fraction(0)
        padding, noise = self.work.padding, self.work.noise
        return (padding.epsilon if padding else Fraction(0)) + (
            noise.epsilon if noise else Fraction(0)
        )

    @property
    def delta(self) -> Fraction:
        if not isinstance(self.work, Query):
            return Fraction(0)
        padding, noise = self.work.padding, self.work.noise
        return (padding.delta if padding else Fraction(0)) + (noise.delta if noise else Fraction(0))

    @property
    def evaluations(self) -> int:
        """What a score or lookup is limited by: rows or keys that are sent, fillers included."""
        if isinstance(self.work, Score):
            return self.work.rows
        return self.work.keys if isinstance(self.work, Lookup) else 0

    @property
    def cells(self) -> int:
        """Groups in all: those of every side multiplied, where rows are joined; of a union, those
        that each side has."""
        if self.join is Join.UNION:
            return self.sides[0].groups
        size = 1
        for side in self.sides:
            size *= side.groups
        return size

    @property
    def price_minor(self) -> int:
        return sum(side.price_minor for side in self.sides)

    @property
    def engine_parties(self) -> tuple[PartyId, ...]:
        """Who takes part in the engine run, by rank: two holders, the helper, a third holder."""
        parties = [side.holder for side in self.sides]
        if self.helper is not None:
            parties.insert(HELPER_RANK, self.helper.party)
        if self.join in WITH_CONSUMER:
            parties.append(self.consumer)
        return tuple(parties)

    @property
    def sealers(self) -> tuple[PartyId, ...]:
        """Who admits the job and seals a part of its result: the holders and the helper."""
        return tuple(party for party in self.engine_parties if party != self.consumer)

    def place_of(self, rank: int) -> int | None:
        """Where the party of this rank stands in `sides`; None for one that has no rows."""
        return HOLDER_RANKS.index(rank) if rank in HOLDER_RANKS[: len(self.sides)] else None

    def side_of(self, party: PartyId) -> SidePlan | None:
        for side in self.sides:
            if side.holder == party:
                return side
        return None

    @property
    def finish_by(self) -> datetime:
        """When the hub gives up a run that began."""
        return self.run_by + timedelta(seconds=self.run_seconds) + GRACE

    @property
    def relies_on(self) -> tuple[Digest, ...]:
        """What its submission names: of each side the agreement, then of each side's holder, and of
        the helper if there is one, the party document. The plan is nobody's but its parties'; by
        this whoever reads the public log knows who they are, by the consumer's own word."""
        documents = tuple(side.holder_document for side in self.sides)
        helper = () if self.helper is None else (self.helper.document,)
        return (*(side.agreement for side in self.sides), *documents, *helper)

    def document_of(self, party: PartyId) -> Digest | None:
        """Which party document the plan names for someone who computes."""
        side = self.side_of(party)
        if side is not None:
            return side.holder_document
        if self.helper is not None and party == self.helper.party:
            return self.helper.document
        return self.consumer_document if party == self.consumer else None


def sign_plan(plan: Plan, signer: Signer) -> Envelope:
    return dsse.sign(PAYLOAD_TYPE, record.to_bytes(plan), signer)


def read_plan(envelope: Envelope) -> Plan:
    """Parse; says nothing yet of who signed."""
    return record.from_bytes(Plan, envelope.payload)
