"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "hub_agreement",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("deal", sa.String(), nullable=False),
        sa.Column("runs_used", sa.Integer(), nullable=False),
        sa.Column("epsilon_used", sa.String(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_index(op.f("ix_hub_agreement_deal"), "hub_agreement", ["deal"], unique=False)
    op.create_table(
        "hub_chain",
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("next_seq", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("actor"),
    )
    op.create_table(
        "hub_delivery",
        sa.Column("party", sa.String(), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("entry", sa.LargeBinary(), nullable=False),
        sa.Column("documents", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("party", "place"),
    )
    op.create_table(
        "hub_document",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_table(
        "hub_idempotency",
        sa.Column("caller", sa.String(length=36), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("request", sa.String(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("location", sa.String(), nullable=True),
        sa.Column("at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("caller", "key"),
    )
    op.create_table(
        "hub_inbox",
        sa.Column("party", sa.String(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("party"),
    )
    op.create_table(
        "hub_job",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("deal", sa.String(), nullable=False),
        sa.Column("consumer", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_hub_job_consumer"), "hub_job", ["consumer"], unique=False)
    op.create_index(op.f("ix_hub_job_deal"), "hub_job", ["deal"], unique=False)
    op.create_index(op.f("ix_hub_job_settled"), "hub_job", ["settled"], unique=False)
    op.create_table(
        "hub_negotiation",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("deal", sa.String(), nullable=False),
        sa.Column("consumer", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        op.f("ix_hub_negotiation_consumer"), "hub_negotiation", ["consumer"], unique=False
    )
    op.create_index(op.f("ix_hub_negotiation_deal"), "hub_negotiation", ["deal"], unique=False)
    op.create_index(op.f("ix_hub_negotiation_holder"), "hub_negotiation", ["holder"], unique=False)
    op.create_table(
        "hub_nonce",
        sa.Column("keyid", sa.String(length=64), nullable=False),
        sa.Column("nonce", sa.String(length=64), nullable=False),
        sa.Column("expires", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("keyid", "nonce"),
    )
    op.create_index(op.f("ix_hub_nonce_expires"), "hub_nonce", ["expires"], unique=False)
    op.create_table(
        "hub_note",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("party", sa.String(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index(op.f("ix_hub_note_job"), "hub_note", ["job"], unique=False)
    op.create_table(
        "hub_opening",
        sa.Column("statement", sa.String(), nullable=False),
        sa.Column("reader", sa.String(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("statement", "reader"),
    )
    op.create_table(
        "hub_privacy_account",
        sa.Column("product", sa.String(), nullable=False),
        sa.Column("epsilon", sa.String(), nullable=False),
        sa.Column("gaussian", sa.String(), nullable=False),
        sa.Column("rho", sa.String(), nullable=False),
        sa.Column("delta", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("product"),
    )
    op.create_table(
        "hub_statement",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("applied", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("digest"),
    )
    op.create_index(
        "ix_hub_statement_about",
        "hub_statement",
        ["subject", "actor", "number", "applied", "kind"],
        unique=False,
    )
    op.create_table(
        "ledger_anchor",
        sa.Column("chain_id", sa.BigInteger(), nullable=False),
        sa.Column("contract", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("transaction_hash", sa.LargeBinary(), nullable=True),
        sa.Column("block_number", sa.BigInteger(), nullable=True),
        sa.Column("block_hash", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("chain_id", "contract", "size"),
    )
    op.create_index(op.f("ix_ledger_anchor_state"), "ledger_anchor", ["state"], unique=False)
    op.create_table(
        "ledger_anchor_transaction",
        sa.Column("chain_id", sa.BigInteger(), nullable=False),
        sa.Column("contract", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("nonce", sa.BigInteger(), nullable=True),
        sa.Column("max_fee", sa.BigInteger(), nullable=True),
        sa.Column("tip", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("chain_id", "contract", "size", "number"),
    )
    op.create_table(
        "ledger_checkpoint",
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.LargeBinary(), nullable=False),
        sa.Column("signed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("witnessed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("size"),
    )
    op.create_index(
        op.f("ix_ledger_checkpoint_published_at"),
        "ledger_checkpoint",
        ["published_at"],
        unique=False,
    )
    op.create_index(
        op.f("ix_ledger_checkpoint_witnessed_at"),
        "ledger_checkpoint",
        ["witnessed_at"],
        unique=False,
    )
    op.create_table(
        "ledger_entry",
        sa.Column("arrival", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=True),
        sa.Column("entry", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("arrival"),
        sa.UniqueConstraint("digest"),
    )
    op.create_index(
        "ix_ledger_entry_pending",
        "ledger_entry",
        ["arrival"],
        unique=False,
        sqlite_where=sa.text("position IS NULL"),
        postgresql_where=sa.text("position IS NULL"),
    )
    op.create_index(
        "ix_ledger_entry_position",
        "ledger_entry",
        ["position"],
        unique=True,
        sqlite_where=sa.text("position IS NOT NULL"),
        postgresql_where=sa.text("position IS NOT NULL"),
    )
    op.create_table(
        "ledger_sm3_head",
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.LargeBinary(), nullable=False),
        sa.Column("edge", sa.LargeBinary(), nullable=False),
        sa.Column("signed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("size"),
    )
    op.create_table(
        "ledger_tile",
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "position"),
    )
    op.create_table(
        "pricing_account",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("posted", sa.BigInteger(), nullable=False),
        sa.Column("outgoing", sa.BigInteger(), nullable=False),
        sa.Column("incoming", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "kind = 'custody' OR posted >= outgoing", name="pricing_account_never_below_zero"
        ),
        sa.CheckConstraint(
            "outgoing >= 0 AND incoming >= 0", name="pricing_account_pending_not_negative"
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "registry_party",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("party", sa.String(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
        sa.UniqueConstraint("party", "seq", name="registry_party_seq"),
    )
    op.create_table(
        "registry_product",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("product", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
        sa.UniqueConstraint("product", "version", name="registry_product_version"),
    )
    op.create_table(
        "hub_job_holder",
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("job", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job"],
            ["hub_job.id"],
        ),
        sa.PrimaryKeyConstraint("holder", "job"),
    )
    op.create_table(
        "ledger_cosignature",
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("witness", sa.String(), nullable=False),
        sa.Column("key_id", sa.LargeBinary(), nullable=False),
        sa.Column("cosigned_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("line", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["size"],
            ["ledger_checkpoint.size"],
        ),
        sa.PrimaryKeyConstraint("size", "witness", "key_id"),
    )
    op.create_table(
        "pricing_transfer",
        sa.Column("place", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("chain", sa.String(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("debit", sa.String(), nullable=False),
        sa.Column("credit", sa.String(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("resolves", sa.String(), nullable=True),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("reference", sa.String(), nullable=False),
        sa.Column("at", sa.String(), nullable=False),
        sa.CheckConstraint("phase <> 'post' OR amount <= reserved", name="pricing_transfer_within"),
        sa.CheckConstraint("amount >= 0 AND reserved >= 0", name="pricing_transfer_not_negative"),
        sa.CheckConstraint("debit <> credit", name="pricing_transfer_two_accounts"),
        sa.ForeignKeyConstraint(
            ["credit"],
            ["pricing_account.id"],
        ),
        sa.ForeignKeyConstraint(
            ["debit"],
            ["pricing_account.id"],
        ),
        sa.PrimaryKeyConstraint("place"),
        sa.UniqueConstraint("chain", "step", name="pricing_transfer_once"),
        sa.UniqueConstraint("resolves", name="pricing_transfer_resolves_once"),
    )
    op.create_index(
        "pricing_transfer_credit", "pricing_transfer", ["credit", "place"], unique=False
    )
    op.create_index("pricing_transfer_debit", "pricing_transfer", ["debit", "place"], unique=False)
    op.create_table(
        "registry_catalogue",
        sa.Column("product", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("words", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["digest"],
            ["registry_product.digest"],
        ),
        sa.PrimaryKeyConstraint("product"),
    )
