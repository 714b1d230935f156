"""Forged bundles: an honest deal said again by people who collude, in a log of their own making.

Everything that a forgery does not touch is made right again (signatures, numbers, references,
proofs, heads, sealed openings), so that a check which fails has found the forgery itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise

from crypto import record, sealing
from crypto.digest import Digest
from crypto.envelope import Envelope
from crypto.identifiers import DealId, PartyId
from crypto.keys import ExchangeKey, SigningKey
from crypto.ports import SystemRandomness
from crypto.statement import Act, ChainHead, Statement, read_statement, sign_statement
from exchange import openings
from exchange.audit import bundle as bundles
from exchange.audit.bundle import Bundle
from exchange.audit.deal import audit_deal
from exchange.audit.openings import Opener
from exchange.audit.roots import Roots
from exchange.evidence import STANDING, STANDING_APPROVED
from exchange.query import plan as plans
from exchange.query.plan import Plan
from exchange.submission import document_digest
from exchange.terms import agreement as agreements
from exchange.terms.agreement import Agreement, Proposal, Terms
from ledger.tree import consistency_path, inclusion_path, range_hash
from ledger.verify.checkpoint import Checkpoint, sign_checkpoint
from ledger.verify.cosignature import cosign
from ledger.verify.merkle import leaf_hash
from ledger.verify.note import COSIGNATURE, LOG_SIGNATURE, VerifierKey
from ledger.verify.policy import Policy
from ledger.verify.proof import Proof
from ledger.verify.report import Report
from tests.trees import nodes_of
from tests.world import World


@dataclass(frozen=True)
class Draft:
    """A statement before it is said again. was: its digest when it was honest.

    opening: what is sealed to the regulator with it. seen: when the log took it in.
    """

    statement: Statement
    was: Digest
    opening: bytes | None
    seen: datetime


@dataclass
class Forger:
    """Has everybody's keys. documents and renamed are changed by the forgeries below."""

    deal: DealId
    keys: dict[PartyId, SigningKey]
    regulator: PartyId
    regulator_key: ExchangeKey
    drafts: list[Draft]
    documents: dict[Digest, bytes]
    renamed: dict[Digest, Digest] = field(default_factory=dict)
    witnessed_every: int = 1
    log: SigningKey = field(default_factory=SigningKey.generate)
    witness: SigningKey = field(default_factory=SigningKey.generate)

    @classmethod
    def of(cls, world: World, data: bytes) -> Forger:
        honest = bundles.read(data)
        folders = [world.operator_folder, *(m.folder for m in world.members.values())]
        regulator = world.members["regulator"]
        drafts = []
        for index in sorted(honest.entries):
            signed = read_statement(honest.entries[index])
            statement = signed.statement
            sealed = honest.openings.get((signed.digest, regulator.id))
            opening = None
            if sealed is not None:
                opening = sealing.open_sealed(
                    sealed, regulator.folder.sealing, context=_context(statement, signed.digest)
                )
            drafts.append(Draft(statement, signed.digest, opening, statement.time))
        return cls(
            deal=honest.manifest.deal,
            keys={f.party.document.party: f.signing for f in folders},
            regulator=regulator.id,
            regulator_key=regulator.folder.sealing,
            drafts=drafts,
            documents=dict(honest.documents),
        )

    # What to change

    def place(self, kind: str, actor: PartyId | None = None, nth: int = 0) -> int:
        """Where the nth statement of this type, by this actor, is."""
        found = [
            place
            for place, draft in enumerate(self.drafts)
            if draft.statement.type == kind and actor in (None, draft.statement.actor)
        ]
        return found[nth]

    def change(self, place: int, **changes: object) -> None:
        draft = self.drafts[place]
        statement = replace(draft.statement, **changes)  # type: ignore[arg-type]
        self.drafts[place] = replace(draft, statement=statement)

    def reopen(self, place: int, opening: bytes) -> None:
        self.drafts[place] = replace(self.drafts[place], opening=opening)

    def swap_document(self, old: Digest, data: bytes) -> None:
        """Everybody names another document where they named `old`."""
        del self.documents[old]
        new = document_digest(data)
        self.documents[new] = data
        self.renamed[old] = new

    def terms(self, change: Callable[[Terms], Terms], *, proposals: bool = True) -> None:
        """Every agreement, signed again by both, has other terms; and every proposal too."""
        for name, data in list(self.documents.items()):
            if not data.startswith(b'{"payload":'):
                if proposals:
                    proposal = record.from_bytes(Proposal, data)
                    proposal = replace(proposal, terms=change(proposal.terms))
                    self.swap_document(name, record.to_bytes(proposal))
                continue
            envelope = Envelope.from_bytes(data)
            if envelope.payload_type == agreements.PAYLOAD_TYPE:
                agreement = record.from_bytes(Agreement, envelope.payload)
                self.sign_agreement(name, replace(agreement, terms=change(agreement.terms)))

    def sign_agreement(self, old: Digest, new: Agreement) -> None:
        signed = agreements.sign_agreement(new, self.keys[new.holder])
        signed = signed.with_signature(self.keys[new.consumer])
        self.swap_document(old, signed.to_bytes())

    def plan(self, nth: int = 0) -> tuple[Digest, Plan]:
        (name,) = self.drafts[self.place("job.submitted", nth=nth)].statement.outputs
        return name, plans.read_plan(Envelope.from_bytes(self.documents[name]))

    def change_plan(self, change: Callable[[Plan], Plan], nth: int = 0) -> None:
        """The plan is another one, signed by the consumer, and everybody goes along."""
        name, plan = self.plan(nth)
        plan = change(plan)
        self.swap_document(name, plans.sign_plan(plan, self.keys[plan.consumer]).to_bytes())

    # What comes of it

    def bundle(self) -> bytes:
        """Say everything again, in the order of the drafts, and log it."""
        self._rename_in_plans()
        heads: dict[PartyId, ChainHead] = {}
        said: dict[Digest, Digest] = {}
        entries: list[bytes] = []
        sealed: dict[tuple[Digest, PartyId], bytes] = {}
        for draft in self.drafts:
            statement = draft.statement
            signed = sign_statement(
                Act(
                    type=statement.type,
                    subject=statement.subject,
                    after=tuple(said.get(name, name) for name in statement.after),
                    policy_digest=self._new(statement.policy_digest),
                    inputs=tuple(self._named(name) for name in statement.inputs),
                    outputs=tuple(self._named(name) for name in statement.outputs),
                    commitments=statement.commitments,
                    body=statement.body,
                    on_behalf=statement.on_behalf,
                ),
                actor=statement.actor,
                head=heads.get(statement.actor, ChainHead()),
                signer=self.keys[statement.actor],
                now=statement.time,
                randomness=SystemRandomness(),
            )
            heads[statement.actor] = signed.head
            said[draft.was] = signed.digest
            entries.append(signed.entry)
            if draft.opening is not None:
                context = _context(signed.statement, signed.digest)
                sealed[signed.digest, self.regulator] = sealing.seal(
                    draft.opening, self.regulator_key.public, context=context
                )
        return self.logged(entries, sealed=sealed, seen=[draft.seen for draft in self.drafts])

    def logged(
        self,
        entries: Sequence[bytes],
        *,
        sealed: Mapping[tuple[Digest, PartyId], bytes],
        seen: Sequence[datetime],
    ) -> bytes:
        """A bundle of these entries, alone in a log that is cosigned as it grows."""
        size = len(entries)
        nodes = nodes_of([leaf_hash(entry) for entry in entries])

        def note(of: int) -> bytes:
            root = range_hash((0, of), nodes)
            signed = sign_checkpoint(Checkpoint(ORIGIN, of, root), self.log)
            now = max(seen[:of]) + timedelta(seconds=1)
            return signed.with_signatures(
                [cosign(signed.text, WITNESS, self.witness, now=now)]
            ).to_bytes()

        sizes = [*range(self.witnessed_every, size, self.witnessed_every)]
        last = note(size)
        pairs = list(pairwise([*sizes, size]))
        numbered = dict(enumerate(entries))
        heads = {of: note(of) for of in sizes}
        return bundles.write(
            Bundle(
                manifest=bundles.list_content(
                    self.deal,
                    entries=numbered,
                    documents=self.documents,
                    openings=sealed,
                    heads=heads,
                ),
                checkpoint=last,
                entries=numbered,
                proofs={
                    index: Proof(
                        index,
                        tuple(range_hash(p, nodes) for p in inclusion_path(index, size)),
                        last,
                    ).text.encode()
                    for index in numbered
                },
                documents=self.documents,
                openings=sealed,
                heads=heads,
                consistency={
                    (old, new): tuple(range_hash(p, nodes) for p in consistency_path(old, new))
                    for old, new in pairs
                },
            )
        )

    @property
    def policy(self) -> Policy:
        log = VerifierKey(ORIGIN, LOG_SIGNATURE, self.log.public)
        witness = VerifierKey(WITNESS, COSIGNATURE, self.witness.public)
        return Policy.parse(f"log {log}\nwitness w {witness}\nquorum w\n".encode())

    def audit(self, roots: Roots) -> Report:
        opener = Opener(self.regulator, self.regulator_key)
        return audit_deal(self.bundle(), self.policy, roots, opener)

    def _named(self, name: Digest) -> Digest:
        return self.renamed.get(name, name)

    def _new(self, name: Digest | None) -> Digest | None:
        return None if name is None else self._named(name)

    def _rename_in_plans(self) -> None:
        """A plan names agreements; where those have other names now, so must it."""
        for name, data in list(self.documents.items()):
            if not data.startswith(b'{"payload":'):
                continue
            envelope = Envelope.from_bytes(data)
            if envelope.payload_type != plans.PAYLOAD_TYPE:
                continue
            plan = plans.read_plan(envelope)
            sides = tuple(replace(s, agreement=self._named(s.agreement)) for s in plan.sides)
            if sides != plan.sides:
                plan = replace(plan, sides=sides)
                signed = plans.sign_plan(plan, self.keys[plan.consumer])
                before = [old for old, new in self.renamed.items() if new == name]
                self.swap_document(name, signed.to_bytes())
                for old in before:
                    self.renamed[old] = self.renamed[name]


ORIGIN = "unseen.test/forged"
WITNESS = "forged.test/witness"


def failing(report: Report) -> set[str]:
    return {check.id for check in report.failed}


def _context(statement: Statement, name: Digest) -> bytes:
    if statement.type == "job.sealed":
        return openings.receipt_context(statement.inputs[0], statement.actor)
    if statement.type == STANDING_APPROVED:
        return openings.standing_context(statement.commitments[STANDING])
    return openings.context(name)
