"""The régua de cobrança: charges, rules, and what was decided about them. PostgreSQL only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_NOW = sa.text("now()")
_MONEY = sa.Numeric(precision=14, scale=2)
_PERCENT = sa.Numeric(precision=5, scale=2)


def upgrade() -> None:
    """Create the tables, empty; nothing in SQLite."""
    if op.get_bind().dialect.name != "postgresql":
        return
    op.create_table(
        "bank_days",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("next_open", sa.Date(), nullable=False),
        sa.Column("ord", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("day", name="bank_days_pkey"),
    )
    op.create_index("bank_days_ord_idx", "bank_days", ["ord"], postgresql_where=sa.text("day = next_open"))
    op.create_table(
        "billing_epoch",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("redis_run_id", sa.Text()),
        sa.Column("seen_at", _TIME),
        sa.PrimaryKeyConstraint("id", name="billing_epoch_pkey"),
    )
    op.create_table(
        "calendars",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("window_spec", sa.Text(), nullable=False),
        sa.Column("uf", sa.Text(), nullable=False),
        sa.Column("own", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="calendars_pkey"),
        sa.UniqueConstraint("window_spec", "uf", "own", name="calendars_window_spec_uf_own_key"),
    )
    op.create_table(
        "cancel_flags",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("done_at", _TIME),
        sa.PrimaryKeyConstraint("id", name="cancel_flags_pkey"),
    )
    op.create_index("cancel_flags_open_idx", "cancel_flags", ["at"], postgresql_where=sa.text("done_at IS NULL"))
    op.create_table(
        "imports",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("file_digest", sa.Text(), nullable=False),
        sa.Column("profile", sa.Text()),
        sa.Column("counts", postgresql.JSONB(), nullable=False),
        sa.Column("at", _TIME, server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="imports_pkey"),
    )
    op.create_table(
        "rules",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("tenant", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="rules_pkey"),
        sa.UniqueConstraint("tenant", "name", "version", name="rules_tenant_name_version_key"),
    )
    op.create_table(
        "billing_tenants",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("legal_name", sa.Text(), nullable=False),
        sa.Column("trade_name", sa.Text()),
        sa.Column("document", sa.Text()),
        sa.Column("address", sa.Text()),
        sa.Column("signature", sa.Text()),
        sa.Column("uf", sa.Text(), nullable=False),
        sa.Column("tz", sa.Text(), server_default=sa.text("'America/Sao_Paulo'"), nullable=False),
        sa.Column("window_spec", sa.Text(), server_default=sa.text("'lei-sp'"), nullable=False),
        sa.Column("rule_id", sa.Integer(), nullable=False),
        sa.Column("text_set", sa.Text()),
        sa.Column("spread_s", sa.Integer(), server_default=sa.text("7200"), nullable=False),
        sa.Column("consolidate", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("daily_cap", sa.SmallInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("overdue_gap_days", sa.SmallInteger(), server_default=sa.text("3"), nullable=False),
        sa.Column("fine_percent", _PERCENT, server_default=sa.text("2"), nullable=False),
        sa.Column("interest_percent_month", _PERCENT, server_default=sa.text("1"), nullable=False),
        sa.Column("receipts", sa.Text(), server_default=sa.text("'after_notice'"), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'active'"), nullable=False),
        sa.Column("active_until", _TIME),
        sa.Column("paused_at", _TIME),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.ForeignKeyConstraint(["rule_id"], ["rules.id"], name="billing_tenants_rule_id_fkey"),
        sa.PrimaryKeyConstraint("id", name="billing_tenants_pkey"),
    )
    op.create_table(
        "rule_steps",
        sa.Column("rule_id", sa.Integer(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("ord", sa.SmallInteger(), nullable=False),
        sa.Column("trigger", sa.Text(), server_default=sa.text("'due'"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), server_default=sa.text("'whatsapp'"), nullable=False),
        sa.Column("text", sa.Text()),
        sa.Column("offset_days", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("every_days", sa.Integer()),
        sa.Column("every_max", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("at", sa.Time(), nullable=False),
        sa.Column("valid_days", sa.Integer(), nullable=False),
        sa.Column("effective_on", sa.Date(), nullable=False),
        sa.Column("condition", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.ForeignKeyConstraint(["rule_id"], ["rules.id"], name="rule_steps_rule_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("rule_id", "step", name="rule_steps_pkey"),
    )
    op.create_table(
        "send_days",
        sa.Column("calendar_id", sa.Integer(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("send_on", sa.Date(), nullable=False),
        sa.Column("opens", sa.Time(), nullable=False),
        sa.Column("closes", sa.Time(), nullable=False),
        sa.ForeignKeyConstraint(
            ["calendar_id"], ["calendars.id"], name="send_days_calendar_id_fkey", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("calendar_id", "day", name="send_days_pkey"),
    )
    op.create_table(
        "customers",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text()),
        sa.Column("document", sa.Text()),
        sa.Column("phone", sa.Text()),
        sa.Column("email", sa.Text()),
        sa.Column("uf", sa.Text()),
        sa.Column("address", sa.Text()),
        sa.Column("notes", sa.Text()),
        sa.Column("channels", sa.ARRAY(sa.Text()), server_default=sa.text("'{whatsapp}'"), nullable=False),
        sa.Column("rule_id", sa.Integer()),
        sa.Column("calendar_id", sa.Integer(), nullable=False),
        sa.Column("hold_until", sa.Date()),
        sa.Column("hold_reason", sa.Text()),
        sa.Column("last_notice_on", sa.Date()),
        sa.Column("last_overdue_on", sa.Date()),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.ForeignKeyConstraint(["calendar_id"], ["calendars.id"], name="customers_calendar_id_fkey"),
        sa.ForeignKeyConstraint(["rule_id"], ["rules.id"], name="customers_rule_id_fkey"),
        sa.ForeignKeyConstraint(["tenant"], ["billing_tenants.id"], name="customers_tenant_fkey"),
        sa.PrimaryKeyConstraint("tenant", "id", name="customers_pkey"),
    )
    op.create_index("customers_phone_idx", "customers", ["phone"])
    op.create_index("customers_tenant_document_idx", "customers", ["tenant", "document"])
    op.create_index("customers_tenant_name_idx", "customers", ["tenant", sa.literal_column("lower(name)")])
    op.create_table(
        "own_holidays",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant"], ["billing_tenants.id"], name="own_holidays_tenant_fkey", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant", "day", name="own_holidays_pkey"),
    )
    op.create_table(
        "texts",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["billing_tenants.id"], name="texts_tenant_fkey"),
        sa.PrimaryKeyConstraint("tenant", "name", "version", name="texts_pkey"),
    )
    op.create_table(
        "recurrences",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("amount", _MONEY, nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("method", sa.Text(), server_default=sa.text("'other'"), nullable=False),
        sa.Column("every", sa.Integer(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("anchor", sa.Date(), nullable=False),
        sa.Column("until", sa.Date()),
        sa.Column("count", sa.Integer()),
        sa.Column("ahead_days", sa.Integer(), server_default=sa.text("35"), nullable=False),
        sa.Column("next_n", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_on", sa.Date()),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.CheckConstraint("amount > 0", name="recurrences_amount_check"),
        sa.ForeignKeyConstraint(
            ["tenant", "customer_id"], ["customers.tenant", "customers.id"], name="recurrences_tenant_customer_id_fkey"
        ),
        sa.PrimaryKeyConstraint("tenant", "id", name="recurrences_pkey"),
    )
    op.create_index("recurrences_next_on_idx", "recurrences", ["next_on"], postgresql_where=sa.text("active"))
    op.create_table(
        "charges",
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("amount", _MONEY, nullable=False),
        sa.Column("paid", _MONEY, server_default=sa.text("0"), nullable=False),
        sa.Column("discount", _MONEY, server_default=sa.text("0"), nullable=False),
        sa.Column("waives_fees", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("due_date", sa.Date(), nullable=False),
        sa.Column("payable_on", sa.Date(), nullable=False),
        sa.Column("late_from", sa.Date(), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'open'"), nullable=False),
        sa.Column("method", sa.Text(), server_default=sa.text("'other'"), nullable=False),
        sa.Column("payment_link", sa.Text()),
        sa.Column("pix_code", sa.Text()),
        sa.Column("pix_expires_at", _TIME),
        sa.Column("boleto_line", sa.Text()),
        sa.Column("boleto_pdf", sa.Text()),
        sa.Column("provider", sa.Text()),
        sa.Column("provider_id", sa.Text()),
        sa.Column("recurrence_id", sa.Text()),
        sa.Column("occurrence", sa.Integer()),
        sa.Column("notify", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("hold_until", sa.Date()),
        sa.Column("hold_reason", sa.Text()),
        sa.Column("known_on", sa.Date(), nullable=False),
        sa.Column("paid_at", _TIME),
        sa.Column("paid_via", sa.Text()),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("updated_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.CheckConstraint("amount > 0", name="charges_amount_check"),
        sa.CheckConstraint("paid >= 0", name="charges_paid_check"),
        sa.ForeignKeyConstraint(
            ["tenant", "customer_id"], ["customers.tenant", "customers.id"], name="charges_tenant_customer_id_fkey"
        ),
        sa.ForeignKeyConstraint(
            ["tenant", "recurrence_id"],
            ["recurrences.tenant", "recurrences.id"],
            name="charges_tenant_recurrence_id_fkey",
        ),
        sa.PrimaryKeyConstraint("seq", name="charges_pkey"),
        sa.UniqueConstraint("tenant", "id", name="charges_tenant_id_key"),
    )
    op.create_index(
        "charges_becomes_overdue_idx", "charges", ["payable_on"], postgresql_where=sa.text("status = 'open'")
    )
    op.create_index(
        "charges_occurrence_idx",
        "charges",
        ["tenant", "recurrence_id", "occurrence"],
        unique=True,
        postgresql_where=sa.text("recurrence_id IS NOT NULL"),
    )
    op.create_index(
        "charges_open_customer_idx",
        "charges",
        ["tenant", "customer_id"],
        postgresql_where=sa.text("status IN ('open', 'overdue')"),
    )
    op.create_index(
        "charges_provider_id_idx",
        "charges",
        ["tenant", "provider", "provider_id"],
        unique=True,
        postgresql_where=sa.text("provider_id IS NOT NULL"),
    )
    op.create_table(
        "agenda",
        sa.Column("charge_seq", sa.BigInteger(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("next_on", sa.Date(), nullable=False),
        sa.ForeignKeyConstraint(["charge_seq"], ["charges.seq"], name="agenda_charge_seq_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("charge_seq", name="agenda_pkey"),
        postgresql_with={"fillfactor": 80},
    )
    op.create_index("agenda_tenant_next_on_charge_seq_idx", "agenda", ["tenant", "next_on", "charge_seq"])
    op.create_table(
        "intents",
        sa.Column("charge_seq", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("due_date", sa.Date(), nullable=False),
        sa.Column("n", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("rev", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("text", sa.Text()),
        sa.Column("planned_on", sa.Date(), nullable=False),
        sa.Column("not_before", _TIME),
        sa.Column("valid_until", _TIME),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("leader", sa.BigInteger()),
        sa.Column("doubtful", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("queued_at", _TIME),
        sa.Column("epoch", sa.UUID(as_uuid=False)),
        sa.Column("decided_at", _TIME, server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(["charge_seq"], ["charges.seq"], name="intents_charge_seq_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("charge_seq", "step", "due_date", "n", name="intents_pkey"),
    )
    op.create_index(
        "intents_customer_idx",
        "intents",
        ["tenant", "customer_id", "planned_on"],
        postgresql_where=sa.text("state IN ('planned', 'merged', 'queued')"),
    )
    op.create_index("intents_planned_idx", "intents", ["not_before"], postgresql_where=sa.text("state = 'planned'"))
    op.create_index("intents_queued_idx", "intents", ["queued_at"], postgresql_where=sa.text("state = 'queued'"))
    op.create_index("intents_tenant_planned_on_state_idx", "intents", ["tenant", "planned_on", "state"])
    op.create_table(
        "payment_events",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("effect", sa.Text(), nullable=False),
        sa.Column("references", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("payment_id", sa.Text()),
        sa.Column("amount", _MONEY),
        sa.Column("paid_at", _TIME),
        sa.Column("occurred_at", _TIME),
        sa.Column("due_date", sa.Date()),
        sa.Column("new_amount", _MONEY),
        sa.Column("raw", postgresql.JSONB(), nullable=False),
        sa.Column("charge_seq", sa.BigInteger()),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("note", sa.Text()),
        sa.Column("received_at", _TIME, server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["charge_seq"], ["charges.seq"], name="payment_events_charge_seq_fkey", ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("provider", "tenant", "event_id", name="payment_events_pkey"),
    )
    op.create_index("payment_events_charge_seq_idx", "payment_events", ["charge_seq"])
    op.create_index("payment_events_references_idx", "payment_events", ["references"], postgresql_using="gin")
    op.create_index("payment_events_tenant_received_at_idx", "payment_events", ["tenant", "received_at"])
    op.create_index(
        "payment_events_unmatched_idx",
        "payment_events",
        ["tenant", "received_at"],
        postgresql_where=sa.text("state = 'unmatched'"),
    )
