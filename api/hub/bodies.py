"""What travels between the hub and its clients, apart from signed documents and log formats.

Amounts are strings of integer minor units, epsilon an exact fraction, times RFC 3339 in UTC.
Used by the routes and by `api.client.hub`; needs no web framework.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import ConfigDict, Field

from api.http.bodies import Body, Wire
from crypto import record
from crypto.digest import Digest, digest
from crypto.identifiers import DealId, JobId, NegotiationId, PartyId, ProductId
from crypto.record import Amount
from crypto.statement import ChainHead
from exchange.jobs import FINAL
from ledger.ports import AnchorState

if TYPE_CHECKING:  # only the hub writes them, and clients start faster without
    from exchange.hub.model import Delivery, JobEventNote, Outcome
    from exchange.hub.service import JobView
    from exchange.terms.negotiation import Negotiation
    from ledger.ports import Anchor
    from pricing.book import Balance
    from registry.product import DataProduct

_PARTY: Final = "pty_5f0e7c9b2d4a4c1e8f3b6a7d9c0e1f2a"
_HOLDER: Final = "pty_0a1b2c3d4e5f60718293a4b5c6d7e8f9"
_PRODUCT: Final = "prd_019abd3f1c2e7a5b9d4c8e6f01234567"
_JOB: Final = "job_019abd41f0007d3c8a1b2c3d4e5f6071"
_DEAL: Final = "dea_019abd40a1b27c3d9e4f5a6b7c8d9e0f"
_DIGEST: Final = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_OTHER: Final = "sha256:60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"
_CONTRACT: Final = "0x5fbdb2315678afecb367f032d93f642f64180aa3"
_HASH: Final = "0x9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_TIME: Final = "2026-11-23T05:48:21.123Z"

Links = Annotated[
    dict[str, str], Field(description="Where to go on from here: addresses at this hub, by name.")
]


def _example(**members: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"example": members})


def _sample(kind: type[Body]) -> Any:
    extra = kind.model_config.get("json_schema_extra")
    return extra["example"] if isinstance(extra, dict) else None


class SubmitBody(Body):
    """A signed statement and the documents that it names."""

    model_config = _example(entry="eyJwYXlsb2FkIjoi…", documents=["eyJwYXlsb2FkIjoi…"])

    entry: Annotated[
        Wire[bytes],
        Field(description="The statement as a DSSE envelope: the ledger entry itself, base64url."),
    ]
    documents: Annotated[
        list[Wire[bytes]], Field(description="Only ones that the statement names; base64url each.")
    ]


class OutcomeBody(Body):
    """What became of a statement that was taken in. It is in the ledger either way."""

    model_config = _example(
        digest=_DIGEST,
        applied=True,
        reason="",
        links={"receipt": f"/v1/log/receipts/{_DIGEST}", "subject": f"/v1/jobs/{_JOB}"},
    )

    digest: Wire[Digest]
    applied: Annotated[bool, Field(description="Whether the act had its effect.")]
    reason: Annotated[str, Field(description="Why it had none; empty if it had.")]
    links: Links

    @classmethod
    def of(cls, outcome: Outcome, *, links: dict[str, str]) -> OutcomeBody:
        return cls(
            digest=outcome.statement, applied=outcome.applied, reason=outcome.reason, links=links
        )


class DeliveryBody(Body):
    model_config = _example(number=7, entry="eyJwYXlsb2FkIjoi…", documents=["eyJwYXlsb2FkIjoi…"])

    number: Annotated[int, Field(description="Rises; ask for what is after the last one seen.")]
    entry: Wire[bytes]
    documents: list[Wire[bytes]]

    @classmethod
    def of(cls, delivery: Delivery) -> DeliveryBody:
        return cls(number=delivery.number, entry=delivery.entry, documents=list(delivery.documents))


class InboxBody(Body):
    model_config = _example(items=[_sample(DeliveryBody)])

    items: list[DeliveryBody]


class ChainBody(Body):
    """Where the caller's own chain of statements stands at the hub."""

    model_config = _example(next_seq=12, last=_DIGEST)

    next_seq: int
    last: Annotated[
        Wire[Digest] | None, Field(description="Digest of the last statement; null before any.")
    ]

    @classmethod
    def of(cls, head: ChainHead) -> ChainBody:
        return cls(next_seq=head.next_seq, last=head.last)


class ProductSummary(Body):
    """A data product as the catalogue lists it."""

    model_config = _example(
        id=_PRODUCT,
        version=1,
        holder=_HOLDER,
        name="Diabetes progression",
        description="442 patients, one row each",
        columns=["patient", "sex", "progression"],
        purposes=["research"],
        currency="CNY",
        price_minor="120000",
        links={"self": f"/v1/products/{_PRODUCT}"},
    )

    id: Wire[ProductId]
    version: int
    holder: Wire[PartyId]
    name: str
    description: str
    columns: list[str]
    purposes: list[str]
    currency: str
    price_minor: Annotated[Wire[Amount], Field(description="Of one job, in minor units.")]
    links: Links

    @classmethod
    def of(cls, product: DataProduct) -> ProductSummary:
        return cls(
            id=product.id,
            version=product.version,
            holder=product.holder,
            name=product.name,
            description=product.description,
            columns=[column.name for column in product.columns],
            purposes=list(product.rule.purposes),
            currency=product.currency,
            price_minor=product.price_minor,
            links={"self": f"/v1/products/{product.id}"},
        )


class CatalogueBody(Body):
    model_config = _example(
        items=[_sample(ProductSummary)],
        next_cursor="cHJkXzAxOWFiZDNmMWMyZTdhNWI",
    )

    items: list[ProductSummary]
    next_cursor: Annotated[
        str | None, Field(description="`after` of the next page; null on the last. Opaque.")
    ]


class ColumnBody(Body):
    """low, high: the public clamp, in units of 10**-decimals. categories: the public domain."""

    model_config = _example(
        name="progression",
        type="decimal",
        meaning="disease progression after one year",
        unit=None,
        decimals=1,
        low=0,
        high=4000,
        categories=None,
        uses=["aggregate"],
    )

    name: str
    type: str
    meaning: str
    unit: str | None
    decimals: int
    low: int | None
    high: int | None
    categories: list[str] | None
    uses: Annotated[
        list[str], Field(description="What a plan may do with it; empty: nothing at all.")
    ]


class ProductBody(Body):
    """A data product. What its holder signed is at `links.document`."""

    model_config = _example(
        id=_PRODUCT,
        version=1,
        digest=_DIGEST,
        holder=_HOLDER,
        holder_document=_OTHER,
        name="Diabetes progression",
        description="442 patients, one row each",
        columns=[_sample(ColumnBody)],
        key="patient",
        cap=1000,
        functions=["count", "mean"],
        joins=["revealed"],
        min_group=10,
        purposes=["research"],
        currency="CNY",
        price_minor="120000",
        links={"self": f"/v1/products/{_PRODUCT}", "document": f"/v1/documents/{_DIGEST}"},
    )

    id: Wire[ProductId]
    version: int
    digest: Wire[Digest]
    holder: Wire[PartyId]
    holder_document: Wire[Digest]
    name: str
    description: str
    columns: list[ColumnBody]
    key: Annotated[str, Field(description="The column by which rows can be joined.")]
    cap: Annotated[int, Field(description="Most rows that a version may hold.")]
    functions: list[str]
    joins: Annotated[list[str], Field(description="Permitted joins, named after their leakage.")]
    min_group: Annotated[int, Field(description="Fewest people in a released group.")]
    purposes: list[str]
    currency: str
    price_minor: Annotated[Wire[Amount], Field(description="Of one job, in minor units.")]
    links: Links

    @classmethod
    def of(cls, product: DataProduct) -> ProductBody:
        name = digest(record.to_bytes(product))
        return cls(
            id=product.id,
            version=product.version,
            digest=name,
            holder=product.holder,
            holder_document=product.holder_document,
            name=product.name,
            description=product.description,
            columns=[
                ColumnBody(
                    name=column.name,
                    type=column.type.value,
                    meaning=column.meaning,
                    unit=column.unit,
                    decimals=column.decimals,
                    low=column.low,
                    high=column.high,
                    categories=None if column.categories is None else list(column.categories),
                    uses=[use.value for use in product.rule.uses.get(column.name, ())],
                )
                for column in product.columns
            ],
            key=product.key,
            cap=product.cap,
            functions=[function.value for function in product.rule.functions],
            joins=[join.value for join in product.rule.joins],
            min_group=product.rule.min_group,
            purposes=list(product.rule.purposes),
            currency=product.currency,
            price_minor=product.price_minor,
            links={
                "self": f"/v1/products/{product.id}",
                "document": f"/v1/documents/{name}",
                "holder": f"/v1/parties/{product.holder}",
            },
        )


class NegotiationBody(Body):
    """State names are those of the Dataspace Protocol."""

    model_config = _example(
        id="neg_019abd402b3c7d4e8f5a6b7c8d9e0f10",
        deal=_DEAL,
        consumer=_PARTY,
        holder=_HOLDER,
        product=_PRODUCT,
        state="FINALIZED",
        proposal=_DIGEST,
        agreement=_OTHER,
    )

    id: Wire[NegotiationId]
    deal: Wire[DealId]
    consumer: Wire[PartyId]
    holder: Wire[PartyId]
    product: Wire[ProductId]
    state: str
    proposal: Annotated[Wire[Digest], Field(description="Digest of the terms on the table.")]
    agreement: Annotated[Wire[Digest] | None, Field(description="Digest of it once signed.")]

    @classmethod
    def of(cls, negotiation: Negotiation) -> NegotiationBody:
        return cls(
            id=negotiation.id,
            deal=negotiation.deal,
            consumer=negotiation.consumer,
            holder=negotiation.holder,
            product=negotiation.product,
            state=negotiation.state.value,
            proposal=negotiation.proposal,
            agreement=negotiation.agreement,
        )


class NegotiationsBody(Body):
    model_config = _example(items=[_sample(NegotiationBody)])

    items: list[NegotiationBody]


class JobBody(Body):
    """One computation. Watch it at `links.events`."""

    model_config = _example(
        id=_JOB,
        deal=_DEAL,
        consumer=_PARTY,
        parties=[_HOLDER],
        plan=_DIGEST,
        state="RUNNING",
        stage="started",
        final=False,
        settled=False,
        reason="",
        results={},
        run_by=_TIME,
        finish_by=_TIME,
        updated_at=_TIME,
        links={"self": f"/v1/jobs/{_JOB}", "events": f"/v1/jobs/{_JOB}/events"},
    )

    id: Wire[JobId]
    deal: Wire[DealId]
    consumer: Wire[PartyId]
    parties: Annotated[
        list[Wire[PartyId]],
        Field(description="Who admits, starts and seals: the holders, and a helper."),
    ]
    plan: Wire[Digest]
    state: str
    stage: Annotated[str, Field(description="What was noted last: a state, or a step of the run.")]
    final: Annotated[bool, Field(description="The state will not change any more.")]
    settled: Annotated[bool, Field(description="No money of this job is in escrow any more.")]
    reason: Annotated[str, Field(description="Why it ended without a result; empty otherwise.")]
    results: Annotated[
        dict[str, Wire[Digest]],
        Field(description="By holder, its sealed part; the consumer fetches it once released."),
    ]
    run_by: Annotated[Wire[datetime], Field(description="Until when the run must have started.")]
    finish_by: Annotated[Wire[datetime], Field(description="When a run counts as lost.")]
    updated_at: Wire[datetime]
    links: Links

    @classmethod
    def of(cls, view: JobView) -> JobBody:
        job = view.job
        return cls(
            id=job.id,
            deal=job.deal,
            consumer=job.consumer,
            parties=list(job.parties),
            plan=job.plan,
            state=job.state.value,
            stage=view.stage,
            final=job.state in FINAL,
            settled=job.settled,
            reason=job.reason,
            results=dict(job.results),
            run_by=job.run_by,
            finish_by=job.finish_by,
            updated_at=job.updated_at,
            links={
                "self": f"/v1/jobs/{job.id}",
                "events": f"/v1/jobs/{job.id}/events",
                "bundle": f"/v1/deals/{job.deal}/bundle",
            },
        )


class JobsBody(Body):
    model_config = _example(items=[_sample(JobBody)])

    items: list[JobBody]


class JobNoteBody(Body):
    """The data of one server-sent event of a job, named `note`."""

    model_config = _example(stage="admitted", party=_HOLDER, detail="", at=_TIME)

    stage: str
    party: Wire[PartyId]
    detail: str
    at: Wire[datetime]

    @classmethod
    def of(cls, note: JobEventNote) -> JobNoteBody:
        return cls(stage=note.stage, party=note.party, detail=note.detail, at=note.at)


class ProgressBody(Body):
    """How far a holder's run is. Words for those who watch; never data."""

    model_config = _example(stage="intersecting", detail="step 2 of 4")

    stage: Annotated[str, Field(min_length=1, max_length=40)]
    detail: Annotated[str, Field(max_length=200)]


class BalanceBody(Body):
    """held: set aside for jobs. incoming: pending towards the account."""

    model_config = _example(
        currency="CNY", available_minor="880000", held_minor="120000", incoming_minor="0"
    )

    currency: str
    available_minor: Wire[Amount]
    held_minor: Wire[Amount]
    incoming_minor: Wire[Amount]

    @classmethod
    def of(cls, balance: Balance) -> BalanceBody:
        return cls(
            currency=balance.available.currency,
            available_minor=balance.available.amount_minor,
            held_minor=balance.held.amount_minor,
            incoming_minor=balance.incoming.amount_minor,
        )


class DepositBody(Body):
    """Money that arrived outside, or play money (TEST), credited to a party."""

    model_config = _example(party=_PARTY, currency="TEST", amount_minor="1000000")

    party: Wire[PartyId]
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3,4}$")]
    amount_minor: Wire[Amount]


class DepositedBody(Body):
    model_config = _example(statement=_DIGEST)

    statement: Annotated[
        Wire[Digest] | None,
        Field(description="The operator's statement of it; null if an earlier one stands."),
    ]


class ConsistencyBody(Body):
    """An RFC 6962 consistency proof."""

    model_config = _example(hashes=["n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg"])

    hashes: Annotated[list[Wire[bytes]], Field(description="32 bytes each, base64url.")]


class AnchoringBody(Body):
    """The contract that this hub anchors to. problem: why nothing is sent at the moment."""

    model_config = _example(chain_id=31337, contract=_CONTRACT, problem=None)

    chain_id: int
    contract: str
    problem: str | None


class AnchorBody(Body):
    """One head of the log on its way to a chain, or there. Hashes are written as the chain's
    tools write them: 0x and hexadecimal digits."""

    model_config = _example(
        chain_id=31337,
        contract=_CONTRACT,
        size=128,
        root=_HASH,
        state="final",
        simulated=False,
        changed_at=_TIME,
        transaction=_HASH,
        block_number=7,
        block_hash=_HASH,
    )

    chain_id: int
    contract: str
    size: int
    root: str
    state: Annotated[
        AnchorState, Field(description="`final` once its block is, by the operator's rule.")
    ]
    simulated: Annotated[
        bool, Field(description="On a simulated chain, which proves nothing and does not last.")
    ]
    changed_at: Wire[datetime]
    transaction: Annotated[
        str | None, Field(description="The one that is mined, or the last that was sent.")
    ]
    block_number: int | None
    block_hash: str | None

    @classmethod
    def of(cls, anchor: Anchor) -> AnchorBody:
        sent = anchor.transactions[-1].hash if anchor.transactions else None
        transaction = anchor.transaction or sent
        return cls(
            chain_id=anchor.place.chain_id,
            contract=anchor.place.contract,
            size=anchor.size,
            root="0x" + anchor.root.hex(),
            state=anchor.state,
            simulated=anchor.simulated,
            changed_at=anchor.changed_at,
            transaction=None if transaction is None else "0x" + transaction.hex(),
            block_number=None if anchor.block is None else anchor.block.number,
            block_hash=None if anchor.block is None else "0x" + anchor.block.hash.hex(),
        )


class AnchorsBody(Body):
    """anchoring: null if this hub anchors nowhere. anchors: largest heads first."""

    model_config = _example(anchoring=_sample(AnchoringBody), anchors=[_sample(AnchorBody)])

    anchoring: AnchoringBody | None
    anchors: list[AnchorBody]
