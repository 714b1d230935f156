"""What a plan will do and take, before anybody agrees to it: computed from the plan and the public
descriptions of its products, so everybody who reads a plan is shown the same.

Rows and bytes follow from the protocols' formulas (docs/hidden_join.md, *Re-sharing*; docs/trust.md
for the others) with every product at its cap and every person in common: real jobs take less.
Seconds are estimates, from constants that were measured on two cores with all parties on one
machine; a network adds its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from math import exp, sqrt
from typing import ClassVar, Final

from crypto.engine import PaddingBounds
from crypto.identifiers import PartyId, ProductId
from crypto.joins.hidden.columns import Column, ColumnPlan, column_plan, parts, row_columns
from crypto.joins.hidden.padding import upload_sizes
from crypto.joins.intersection import MASKED_BYTES, Intersection
from crypto.joins.layout import Layout
from crypto.joins.summable import ValueScheme, scheme_for, summed_factors
from crypto.lookup.table import size_bytes
from crypto.noise import Distribution, gate_delta
from crypto.record import Amount, Rational
from crypto.scoring.parameters import PARAMETERS
from exchange.query import phrases
from exchange.query.plan import Lookup, Noise, Plan, Query, Score
from exchange.query.program import Program, Reading, program_of
from exchange.query.released import Released
from exchange.query.standing import server_of
from exchange.results import group_labels
from registry.product import DataProduct
from registry.rule import Function, Join

# Seconds, measured on two shared cores; `exchange bench sql` shows what they foretell beside what
# is measured. Engine children are warm: starting one is not in here.
# Processor time of a row, bench sql, 10**5 rows: DuckDB 1.1 to 2.2e-6, key 0.5e-6, tag 0.3e-6.
LOCAL_ROW_S: Final = 2.5e-6
ENGINE_S: Final = 0.8  # a job of hardly any rows: links, agreement on keys, gate
HIDDEN_ROW_S: Final = 0.5e-6  # upload, tags and matching of one row: 1.0 s for 2 x 10**6
HIDDEN_CELL_S: Final = 0.05e-6  # sharing and products, per row and column: 1.1 s for 16 columns
# A condition or extreme under ABY3, per pair and column; bench sql, 10**5 rows: 9 to 14e-6 busy.
BY_ROW_S: Final = 10e-6
PSI_ROW_S: Final = {Intersection.RR22: 5e-6, Intersection.ECDH: 32e-6, Intersection.SM2: 1.3e-3}
STANDING_ROW_S: Final = 26e-6  # unbalanced, once: mask one row of the larger product, and send it
KNOWN_ROW_S: Final = 0.5e-6  # in every job: see that the larger side's rows are those masked
ASKED_ROW_S: Final = 0.12e-3  # in every job: ask for one row of the smaller product
CHEETAH_S: Final = 0.9  # its keys, processor time of either side; bench join, 2,000 rows
CHEETAH_CELL_S: Final = 0.28e-6  # per matched row and group: 4.4 s for 10**6 rows and 16 groups
# Two multiplications on the curve for a row of either cap, of either party: processor time over
# 5,000 rows, 34e-6 with the hash and 31e-6 with the check.
MASK_ROW_S: Final = 65e-6
VALUE_S: Final = {ValueScheme.PAILLIER: 27e-3, ValueScheme.BFV: 0.7e-6}
SCORE_CELL_S: Final = 3e-6  # encrypt and weigh, per row and feature
LOOKUP_KEY_S: Final = 0.34e-3
LOOKUP_BYTE_S: Final = 1e-9

# Both directions together.
PSI_ROW_BYTES: Final = {Intersection.RR22: 35, Intersection.ECDH: 88, Intersection.SM2: 92}
ASKED_ROW_BYTES: Final = 32 + 32 + 16  # blinded, evaluated, and named where it matched
CHEETAH_BYTES: Final = 21_900_000  # its keys, however few the rows; bench join, 2,000 rows
CHEETAH_CELL_BYTES: Final = 66 / 16  # per matched row and group
KEY_BYTES: Final = 32
SHORT_KEY_BYTES: Final = 16
PAILLIER_ROW_BYTES: Final = 768
BFV_VALUE_BYTES: Final = 90
TAG_BYTES: Final = 16
WORD_BYTES: Final = 8
POSITION_BYTES: Final = 4
SEED_BYTES: Final = 16
BLINDED_BYTES: Final = 32


@dataclass(frozen=True)
class LocalPart:
    """What one holder does at home. rows: at most so many. factors: numbers it computes a person,
    in words of SQL; where: its filter.

    shared_columns: how many columns of its rows leave it, as shares or encrypted
    """

    holder: PartyId
    product: ProductId
    product_name: str
    rows: int
    where: str | None
    group_by: tuple[str, ...]
    groups: int
    factors: tuple[str, ...]
    rows_per_person: int
    shared_columns: int
    price_minor: Amount


class Step(StrEnum):
    STANDING = "standing"  # the larger side's masked keys, once per filter and product version
    UPLOAD = "upload"  # tags and shares of rows, to the helper
    SEED = "seed"
    POSITIONS = "positions"
    RESHARING = "resharing"
    INTERSECTION = "intersection"
    COMPUTING = "computing"
    MASKED_KEYS = "masked_keys"
    ENCRYPTED_VALUES = "encrypted_values"
    SUMS = "sums"
    FEATURES = "features"
    SCORES = "scores"
    TABLE = "table"  # once per consumer and table
    BLINDED_KEYS = "blinded_keys"
    RESULT = "result"  # sealed, through the hub


@dataclass(frozen=True)
class Transfer:
    """sender, receiver: parties; `receiver` absent: to each other."""

    step: Step
    sender: PartyId
    receiver: PartyId | None
    size_bytes: int


@dataclass(frozen=True)
class Meeting:
    """How the parties' rows meet. uploads: rows that each holder sends, fillers included, whatever
    its filters select. pairs: at most so many matched, padding included.

    intersection: of the revealed join. standing_ms: how much of the expected time a later job over
    the same rows of the larger side does not take, nor what it sends as STANDING.
    """

    join: Join
    intersection: Intersection | None
    standing_ms: int
    helper: PartyId | None
    keep_left: bool
    hide_size: bool
    comparisons: tuple[str, ...]
    uploads: tuple[int, ...]
    pairs: int
    transfers: tuple[Transfer, ...]

    @property
    def size_bytes(self) -> int:
        return sum(transfer.size_bytes for transfer in self.transfers)


class Spent(StrEnum):
    PADDING = "padding"  # hides how many rows matched, from whoever computes
    NOISE = "noise"  # hides any one person in what is released
    GATE = "gate"  # the chance that the exact count decides at the gate; part of the noise's delta


@dataclass(frozen=True)
class PrivacyPart:
    spent: Spent
    epsilon: Fraction
    delta: Fraction


@dataclass(frozen=True)
class PrivacyCost:
    """What one product's account is charged. parts: what each piece is for; they add up."""

    product: ProductId
    product_name: str
    epsilon: Fraction
    delta: Fraction
    parts: tuple[PrivacyPart, ...]


@dataclass(frozen=True)
class TermNoise:
    """what: `n` rows, the sum `Σ1` of variable 1, `Σ1·2` of the product of two, `#3` of bin 3.
    deviation: of all authors' noise together, in the sum's own units."""

    what: str
    deviation: Rational


@dataclass(frozen=True)
class ReleasedNumber:
    """One output. deviation: standard deviation of its noise in its own units; absent where there
    is no noise, or where it depends on the rows (then `terms` says what it is made of).

    people: the group size that the deviation is worked out for; absent: it is the same for any
    """

    name: str
    calculation: str
    deviation: Rational | None
    people: int | None
    terms: tuple[TermNoise, ...]


@dataclass(frozen=True)
class Gated:
    """What each group must satisfy. slack: added to min_group for noisy counts."""

    min_group: int
    slack: int
    dominance: Fraction | None
    round_counts: int | None
    distribution: Distribution | None
    having: tuple[str, ...]


@dataclass(frozen=True)
class QueryPart:
    kind: ClassVar[str] = "query"
    cells: int
    meeting: Meeting
    gate: Gated
    released: tuple[ReleasedNumber, ...]


@dataclass(frozen=True)
class ScorePart:
    kind: ClassVar[str] = "score"
    rows: int
    features: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: str
    security_bits: int
    transfers: tuple[Transfer, ...]


@dataclass(frozen=True)
class LookupPart:
    """table_bytes: of the encrypted table, downloaded once per epoch."""

    kind: ClassVar[str] = "lookup"
    keys: int
    columns: tuple[str, ...]
    epoch: int
    table_bytes: int
    transfers: tuple[Transfer, ...]


@dataclass(frozen=True)
class Explanation:
    """A plan as a tree. expected_ms: an estimate. price_minor: of all holders together."""

    local: tuple[LocalPart, ...]
    work: QueryPart | ScorePart | LookupPart
    privacy: tuple[PrivacyCost, ...]
    expected_ms: int
    price_minor: Amount
    currency: str


def explain(
    plan: Plan,
    products: Sequence[DataProduct],
    language: phrases.Language = phrases.Language.ENGLISH,
) -> Explanation:
    """products: of all sides, in the plan's order. language: of what is computed, in words.

    Raises PlanRefused and DocumentRefused where the plan does not fit the products.
    """
    program = program_of(plan, products) if isinstance(plan.work, Query) else None
    part, seconds = _work(plan, products, program, language)
    return Explanation(
        local=tuple(
            _local(plan, index, product, program) for index, product in enumerate(products)
        ),
        work=part,
        privacy=tuple(_privacy(plan, product, products) for product in products),
        expected_ms=round(1000 * seconds),
        price_minor=Amount(plan.price_minor),
        currency=plan.currency,
    )


def _local(plan: Plan, index: int, product: DataProduct, program: Program | None) -> LocalPart:
    side = plan.sides[index]
    factors: tuple[str, ...] = ()
    if program is not None:
        factors = tuple(phrases.expression_text(f.expression) for f in program.factors[index])
    return LocalPart(
        holder=side.holder,
        product=product.id,
        product_name=product.name,
        rows=0 if product.model is not None else product.cap * product.contribution,
        where=None if side.where is None else phrases.condition_text(side.where),
        group_by=tuple(
            phrases.group_text(group, group_labels(group, product)) for group in side.group_by
        ),
        groups=side.groups,
        factors=factors,
        rows_per_person=product.contribution,
        shared_columns=0 if program is None else _shared_columns(plan, program.layout, index),
        price_minor=side.price_minor,
    )


def _shared_columns(plan: Plan, layout: Layout, index: int) -> int:
    if plan.join is Join.HIDDEN:
        return len(column_plan(layout, hide_size=plan.query.hide_size).columns[index])
    if plan.join is Join.REVEALED:
        return layout.groups(index) * layout.factors(index)
    if plan.join is Join.SUM:
        return len(summed_factors(layout, index))
    return 0  # of a union and of one table, sums leave and no row does


def _work(
    plan: Plan,
    products: Sequence[DataProduct],
    program: Program | None,
    language: phrases.Language,
) -> tuple[QueryPart | ScorePart | LookupPart, float]:
    if isinstance(plan.work, Score):
        return _score(plan, plan.work, products[0])
    if isinstance(plan.work, Lookup):
        return _lookup(plan, plan.work, products[0])
    if program is None:
        raise TypeError("a query has a program")
    query, layout = plan.work, program.layout
    meeting, seconds = _meeting(plan, products, layout)
    seconds += LOCAL_ROW_S * max(product.cap * product.contribution for product in products)
    gate = Gated(
        min_group=query.gate.min_group,
        slack=layout.slack,
        dominance=query.gate.dominance,
        round_counts=query.gate.round_counts,
        distribution=None if query.noise is None else query.noise.distribution,
        having=tuple(phrases.having_text(plan, having, language) for having in query.having),
    )
    released = tuple(_released(plan, program, products, language))
    return QueryPart(plan.cells, meeting, gate, released), seconds


# How rows meet


def _meeting(plan: Plan, products: Sequence[DataProduct], layout: Layout) -> tuple[Meeting, float]:
    query = plan.query
    sizes = {
        Join.HIDDEN: _hidden,
        Join.REVEALED: _revealed,
        Join.SUM: _summed,
        Join.UNION: _together,
        Join.ALONE: _together,
    }[plan.join](plan, products, layout)
    sealed = WORD_BYTES * layout.outputs
    results = tuple(Transfer(Step.RESULT, party, plan.consumer, sealed) for party in plan.sealers)
    meeting = Meeting(
        join=plan.join,
        intersection=query.intersection,
        standing_ms=round(1000 * sizes.standing_s),
        helper=None if plan.helper is None else plan.helper.party,
        keep_left=query.keep_left,
        hide_size=query.hide_size,
        comparisons=tuple(phrases.comparison_text(c) for c in query.comparisons),
        uploads=sizes.uploads,
        pairs=sizes.pairs,
        transfers=(*sizes.transfers, *results),
    )
    return meeting, sizes.seconds


@dataclass(frozen=True)
class _Sizes:
    uploads: tuple[int, ...]
    pairs: int
    transfers: tuple[Transfer, ...]
    seconds: float
    standing_s: float = 0.0


def _hidden(plan: Plan, products: Sequence[DataProduct], layout: Layout) -> _Sizes:
    """docs/hidden_join.md: upload 16 + 8 * (columns + 1) a row, positions 4 a pair to each holder,
    re-sharing 8 a pair and column in each direction, 8 a sum for the engine to gate. A third
    holder only uploads: its seed and the list of its rows go to the first."""
    query, (a, b, *others) = plan.query, (side.holder for side in plan.sides)
    padding, helper = query.padding, plan.helper
    if padding is None or helper is None:
        raise TypeError("a hidden join has padding and a helper")
    contribution = max(product.contribution for product in products)
    bounds = PaddingBounds(padding.epsilon, padding.delta, contribution)
    caps = tuple(product.cap for product in products)
    sizes = upload_sizes(caps, bounds, hide_size=query.hide_size)
    columns = column_plan(layout, hide_size=query.hide_size)
    widths = [len(held) for held in columns.columns]
    # Of the agreed rows and of the pool, half are paired on average; of three holders' agreed rows
    # those that all of them have.
    agreed = (sizes.rows[0] - caps[0] - sizes.pool[0]) // (3 if others else 1)
    pairs = sizes.rows[0] if query.hide_size else min(caps) + (agreed + sizes.pool[0]) // 2
    by_row = [len(row_columns(layout, rank)) if layout.by_row else 0 for rank in (0, 1)]
    # Where the size is hidden, the check is a product as well: A's is multiplied by B's validity.
    shared = [
        by_row[rank] or len(columns.shared(rank)) * layout.groups(rank) + query.hide_size
        for rank in (0, 1)
    ]
    multiplied = 0
    if others:
        shared[1], multiplied = _of_both(layout, columns)
    transfers = []
    for place, (holder, other) in enumerate(((a, b), (b, a), *((d, a) for d in others))):
        # Beside the columns go the check column and, from the second holder, the canary column.
        row_bytes = TAG_BYTES + WORD_BYTES * (widths[place] + 1 + (place == 1))
        uploaded = sizes.rows[place] * row_bytes + POSITION_BYTES * sizes.pool[place]
        transfers += [
            Transfer(Step.UPLOAD, holder, helper.party, uploaded),
            Transfer(Step.SEED, holder, other, SEED_BYTES),
            Transfer(Step.POSITIONS, helper.party, other, POSITION_BYTES * pairs),
        ]
    for rank, other in ((0, b), (1, a)):
        if shared[rank]:
            moved = WORD_BYTES * pairs * shared[rank]
            transfers += [
                Transfer(Step.RESHARING, other, helper.party, moved),
                Transfer(Step.RESHARING, helper.party, other, moved),
            ]
    sums = WORD_BYTES * len(layout.terms) * layout.cells
    around = ((a, b), (b, helper.party), (helper.party, a))
    if multiplied:
        size = WORD_BYTES * pairs * multiplied
        transfers += [Transfer(Step.RESHARING, one, other, size) for one, other in around]
    transfers += [Transfer(Step.SUMS, one, other, sums) for one, other in around]
    cells = sum(n * w for n, w in zip(sizes.rows, widths, strict=True))
    cells += pairs * (sum(shared) + multiplied)
    seconds = ENGINE_S + HIDDEN_ROW_S * sum(sizes.rows) + HIDDEN_CELL_S * cells
    if layout.by_row:
        each = len(layout.comparisons) + len(layout.extremes) * layout.cells + 1
        seconds += BY_ROW_S * pairs * each
    return _Sizes(sizes.rows, pairs, tuple(transfers), seconds)


def _of_both(layout: Layout, columns: ColumnPlan) -> tuple[int, int]:
    """How many columns of the second and third holder are re-shared, and how many products of one
    of each are: those that the first holder's columns are multiplied with."""
    held: set[tuple[int, Column]] = set()
    multiplied = 0
    for column in columns.sides[1]:
        made = [(place, one) for place, one in enumerate(parts(layout, column)) if one is not None]
        passed = layout.by_row or column.factor in columns.shared(1)
        if passed or len(made) > 1:
            held.update(made)
        multiplied += passed and len(made) > 1
    return len(held), multiplied


def _revealed(plan: Plan, products: Sequence[DataProduct], layout: Layout) -> _Sizes:
    """RR22 sends about 35 bytes a row, ECDH 88; CHEETAH 22 MB, and about 66 bytes a matched row of
    16 groups."""
    kind = plan.query.intersection or Intersection.RR22
    caps = [product.cap for product in products]
    if kind is Intersection.UNBALANCED:
        return _unbalanced(plan, caps, layout)
    pairs, holder = min(caps), plan.sides[0].holder
    computing, computing_s = _computing(plan, pairs, layout)
    found = Transfer(Step.INTERSECTION, holder, None, PSI_ROW_BYTES[kind] * max(caps))
    transfers = (found, *computing)
    seconds = ENGINE_S + PSI_ROW_S[kind] * max(caps) + computing_s
    return _Sizes(tuple(caps), pairs, transfers, seconds)


def _unbalanced(plan: Plan, caps: Sequence[int], layout: Layout) -> _Sizes:
    """Of the larger side 12 bytes a row, once; of the smaller 80 a row in every job."""
    server, asked, many = server_of(caps), min(caps), max(caps)
    holders = [side.holder for side in plan.sides]
    computing, computing_s = _computing(plan, asked, layout)
    transfers = (
        Transfer(Step.STANDING, holders[server], holders[1 - server], MASKED_BYTES * many),
        Transfer(Step.INTERSECTION, holders[0], None, ASKED_ROW_BYTES * asked),
        *computing,
    )
    standing = STANDING_ROW_S * many
    online = KNOWN_ROW_S * many + ASKED_ROW_S * asked + computing_s
    return _Sizes(tuple(caps), asked, transfers, ENGINE_S + standing + online, standing)


def _computing(plan: Plan, pairs: int, layout: Layout) -> tuple[tuple[Transfer, ...], float]:
    """Of the matched rows. Two holders: CHEETAH's ciphertexts. With a helper: a word a column and
    row, masked, A's to the helper and B's to A (crypto.joins.helped)."""
    a, b = (side.holder for side in plan.sides)
    if plan.helper is None:
        cells = pairs * layout.cells * (len(layout.terms) + 1) / 2
        computed = CHEETAH_BYTES + round(CHEETAH_CELL_BYTES * cells)
        return (Transfer(Step.COMPUTING, a, None, computed),), CHEETAH_S + CHEETAH_CELL_S * cells
    widths = [layout.groups(rank) * layout.factors(rank) for rank in (0, 1)]
    to_helper = Transfer(Step.COMPUTING, a, plan.helper.party, WORD_BYTES * widths[0] * pairs)
    to_a = Transfer(Step.COMPUTING, b, a, WORD_BYTES * widths[1] * pairs)
    return (to_helper, to_a), HIDDEN_CELL_S * pairs * sum(widths)


def _summed(plan: Plan, products: Sequence[DataProduct], layout: Layout) -> _Sizes:
    """Keys masked once (32 bytes) and returned masked twice (16), values encrypted."""
    caps = tuple(product.cap for product in products)
    scheme = scheme_for(caps)
    transfers, seconds = [], ENGINE_S + MASK_ROW_S * sum(caps) / 2
    for rank, side in enumerate(plan.sides):
        other = plan.sides[1 - rank].holder
        keys = KEY_BYTES * caps[rank] + SHORT_KEY_BYTES * caps[1 - rank]
        transfers.append(Transfer(Step.MASKED_KEYS, side.holder, other, keys))
        values = len(summed_factors(layout, rank))
        if values:
            row_bytes = (
                PAILLIER_ROW_BYTES * -(-values // 25)
                if scheme is ValueScheme.PAILLIER
                else BFV_VALUE_BYTES * values
            )
            sent = Transfer(Step.ENCRYPTED_VALUES, side.holder, other, row_bytes * caps[rank])
            transfers.append(sent)
            seconds += (
                VALUE_S[scheme]
                * caps[rank]
                * (-(-values // 25) if scheme is ValueScheme.PAILLIER else values)
            )
    return _Sizes(caps, min(caps), tuple(transfers), seconds)


def _together(plan: Plan, products: Sequence[DataProduct], layout: Layout) -> _Sizes:
    """Sums of each holder's own rows; a union shares them among three."""
    sums = WORD_BYTES * len(layout.terms) * layout.cells
    parties = plan.engine_parties
    transfers = tuple(
        Transfer(Step.SUMS, side.holder, party, sums)
        for side in plan.sides
        for party in parties
        if party != side.holder
    )
    seconds = ENGINE_S if len(parties) > 1 else 0.0
    return _Sizes((), 0, transfers, seconds)


# Scores and lookups


def _score(plan: Plan, score: Score, product: DataProduct) -> tuple[ScorePart, float]:
    """A ciphertext of a ring of n holds n/2 rows of one feature, in two polynomials of n words a
    prime."""
    owner, consumer = plan.sides[0].holder, plan.consumer
    parameters = PARAMETERS[score.parameters]
    if product.model is None:
        raise TypeError("a score needs a model")
    shape = product.model.shape
    blocks = -(-score.rows // parameters.slots)
    polynomials = 2 * parameters.ring * WORD_BYTES
    sent = blocks * len(shape.features) * polynomials * len(parameters.primes)
    returned = blocks * len(shape.outputs) * polynomials * parameters.result_primes
    part = ScorePart(
        rows=score.rows,
        features=tuple(feature.name for feature in shape.features),
        outputs=shape.outputs,
        parameters=parameters.name,
        security_bits=parameters.security_bits,
        transfers=(
            Transfer(Step.FEATURES, consumer, owner, sent),
            Transfer(Step.SCORES, owner, consumer, returned),
        ),
    )
    cells = blocks * parameters.slots * len(shape.features) * len(parameters.primes) / 3
    return part, ENGINE_S + SCORE_CELL_S * cells


def _lookup(plan: Plan, lookup: Lookup, product: DataProduct) -> tuple[LookupPart, float]:
    holder, consumer = plan.sides[0].holder, plan.consumer
    card = product.lookup
    table = 0 if card is None else size_bytes(card.rows, card.label_bytes)
    keys = BLINDED_BYTES * lookup.keys
    part = LookupPart(
        keys=lookup.keys,
        columns=lookup.columns,
        epoch=lookup.epoch,
        table_bytes=table,
        transfers=(
            Transfer(Step.TABLE, holder, consumer, table),
            Transfer(Step.BLINDED_KEYS, consumer, holder, keys),
            Transfer(Step.BLINDED_KEYS, holder, consumer, keys + 2 * BLINDED_BYTES),
        ),
    )
    return part, ENGINE_S + LOOKUP_KEY_S * lookup.keys + LOOKUP_BYTE_S * table


# Privacy and noise


def _privacy(plan: Plan, product: DataProduct, products: Sequence[DataProduct]) -> PrivacyCost:
    """Every product of a job is charged all of it, once an upload has left."""
    parts = []
    if isinstance(plan.work, Query):
        padding, noise = plan.work.padding, plan.work.noise
        if padding is not None:
            parts.append(PrivacyPart(Spent.PADDING, padding.epsilon, padding.delta))
        if noise is not None:
            contribution = max(held.contribution for held in products)
            gate = min(gate_delta(noise.epsilon, noise.beta, contribution), noise.delta)
            parts += [
                PrivacyPart(Spent.NOISE, noise.epsilon, noise.delta - gate),
                PrivacyPart(Spent.GATE, Fraction(0), gate),
            ]
    return PrivacyCost(product.id, product.name, plan.epsilon, plan.delta, tuple(parts))


def _released(
    plan: Plan,
    program: Program,
    products: Sequence[DataProduct],
    language: phrases.Language,
) -> Iterator[ReleasedNumber]:
    people = min(product.cap for product in products) // plan.cells
    for output in plan.query.outputs:
        text = phrases.output_text(plan, output, language)
        noise, value = plan.query.noise, output.value
        if noise is None or not isinstance(value, Released):
            yield ReleasedNumber(output.name, text, None, None, ())
            continue
        reading = program.readings[value.statistic]
        terms = tuple(_term_noises(plan, program, noise, reading))
        function = plan.query.statistics[value.statistic].function
        if function is Function.COUNT or (function is Function.REGRESSION and value.part == -2):
            yield ReleasedNumber(output.name, text, terms[0].deviation, None, terms)
        elif function is Function.SUM:
            yield ReleasedNumber(output.name, text, terms[1].deviation, None, terms)
        elif function in (Function.MEAN, Function.VARIANCE, Function.COVARIANCE) and people > 1:
            # Of so many people; the count's own noise changes it little.
            of = 1 if function is Function.MEAN else _cross(reading, terms)
            deviation = Rational(round(terms[of].deviation / people, 9))
            yield ReleasedNumber(output.name, text, deviation, people, terms)
        else:
            yield ReleasedNumber(output.name, text, None, None, terms)


def _cross(reading: Reading, terms: Sequence[TermNoise]) -> int:
    """Where the sum of the product of different variables stands, or of the only one's square."""
    first = 1 + len(reading.sums)
    return first + (1 if len(reading.sums) > 1 else 0) if len(terms) > first else first


def _term_noises(
    plan: Plan, program: Program, noise: Noise, reading: Reading
) -> Iterator[TermNoise]:
    authors = 1 if plan.join is Join.ALONE else 2

    def one(what: str, term: int) -> TermNoise:
        scale = float(noise.scales[term]) if term < len(noise.scales) else 0.0
        drawn = sqrt(authors) * deviation(noise.distribution, scale)
        unit = 10 ** program.terms[term].decimals
        return TermNoise(what, Rational(round(Fraction(drawn) / unit, 9)))

    yield one("n", reading.rows)
    for number, term in enumerate(reading.sums, 1):
        yield one(f"Σ{number}", term)
    width = len(reading.sums)
    pairs = [(i, j) for i in range(1, width + 1) for j in range(i, width + 1)]
    for (i, j), term in zip(pairs, reading.products, strict=False):
        yield one(f"Σ{i}·{j}", term)
    for number, term in enumerate(reading.bins, 1):
        yield one(f"#{number}", term)


def deviation(distribution: Distribution, scale: float) -> float:
    """Standard deviation of one draw: of discrete Laplace sqrt(2q) / (1 - q) with q = exp(-1/b);
    of discrete Gaussian at most sigma (Canonne, Kamath and Steinke 2020, corollary 9)."""
    if scale <= 0 or distribution is Distribution.GAUSSIAN:
        return scale
    q = exp(-1 / scale)
    return sqrt(2 * q) / (1 - q)
