"""
The tables of the régua de cobrança, in the ledger's database. PostgreSQL only.

    billing_tenants  who bills: name and address in the texts, rule, calendar, limits
    customers        who owes
    charges          what they owe, and by when
    agenda           one row per open charge: the next day on which something has to be decided about it
    rules            a rule, one row per version; `rule_steps` are its steps
    intents          one row per decided step of a charge: a message that goes, or the reason why none does
    bank_days        each day, the next bank day from it on, and the number of bank days before it
    calendars        a sending window in a state, with a tenant's holidays; `send_days` are its days
    own_holidays     further days on which a tenant sends nothing
    recurrences      charges that repeat
    texts            a tenant's texts, one row per version
    payment_events   what payment providers reported
    cancel_flags     ids that Redis has to cancel; done once `done_at` is set
    imports          the files that were imported
    billing_epoch    one row: a value that Redis has too, as long as it holds what was pushed

Names, phones, e-mail addresses, documents and addresses of people are in `customers`; the description, the link and the
payment codes of a charge, and the description of a recurrence, may name them too. No other column may. The migrations
create these tables, and a test compares them with this module.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    Time,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

_TIME = DateTime(timezone=True)
_MONEY = Numeric(14, 2)
_PERCENT = Numeric(5, 2)

# Indexes and constraints carry the names that PostgreSQL would give them.
metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    },
)


def _default(value: str) -> dict[str, Any]:
    return {"nullable": False, "server_default": text(value)}


_NOW = _default("now()")

rules = Table(
    "rules",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("tenant", Text, **_default("''")),  # empty for those that every tenant may use
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", _TIME, **_NOW),
    UniqueConstraint("tenant", "name", "version"),
)

rule_steps = Table(
    "rule_steps",
    metadata,
    Column("rule_id", Integer, ForeignKey("rules.id", ondelete="CASCADE"), primary_key=True),
    Column("step", Text, primary_key=True),
    Column("ord", SmallInteger, nullable=False),  # of two steps on one day the later one goes
    Column("trigger", Text, **_default("'due'")),  # due, payment or creation: what its days count from
    Column("kind", Text, nullable=False),  # a `notification.Kind`
    Column("channel", Text, **_default("'whatsapp'")),
    Column("text", Text),  # the name of its text; NULL for that of its kind
    Column("offset_days", Integer, **_default("0")),
    Column("every_days", Integer),  # repeats so often,
    Column("every_max", Integer, **_default("0")),  # so many times
    Column("at", Time, nullable=False),
    Column("valid_days", Integer, nullable=False),  # days from its day on after which it is not sent any more
    Column("effective_on", Date, nullable=False),  # it decides nothing that came before this day
    Column("condition", JSONB, **_default("'{}'")),
)

calendars = Table(
    "calendars",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("window_spec", Text, nullable=False),
    Column("uf", Text, nullable=False),
    Column("own", Text, **_default("''")),  # the tenant whose own holidays count, or empty
    UniqueConstraint("window_spec", "uf", "own"),
)

send_days = Table(
    "send_days",
    metadata,
    Column("calendar_id", Integer, ForeignKey("calendars.id", ondelete="CASCADE"), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("send_on", Date, nullable=False),  # the day itself if it is open, else the next open one
    Column("opens", Time, nullable=False),  # hours of `send_on`
    Column("closes", Time, nullable=False),
)

own_holidays = Table(
    "own_holidays",
    metadata,
    Column("tenant", Text, ForeignKey("billing_tenants.id", ondelete="CASCADE"), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("name", Text, nullable=False),
)

bank_days = Table(
    "bank_days",
    metadata,
    Column("day", Date, primary_key=True),
    Column("next_open", Date, nullable=False),
    Column("ord", Integer, nullable=False),
    # For `late_from`: the bank day that is so many bank days later.
    Index("bank_days_ord_idx", "ord", postgresql_where=text("day = next_open")),
)

billing_tenants = Table(
    "billing_tenants",
    metadata,
    Column("id", Text, primary_key=True),
    Column("legal_name", Text, nullable=False),
    Column("trade_name", Text),
    Column("document", Text),
    Column("address", Text),
    Column("signature", Text),
    Column("uf", Text, nullable=False),
    Column("tz", Text, **_default("'America/Sao_Paulo'")),
    Column("window_spec", Text, **_default("'lei-sp'")),
    Column("rule_id", Integer, ForeignKey("rules.id"), nullable=False),
    Column("text_set", Text),  # a set of texts that comes with the product, such as `ifinu`
    Column("spread_s", Integer, **_default("7200")),  # over which the messages of a morning are spread
    Column("consolidate", Boolean, **_default("true")),  # one message about all charges of a customer
    Column("daily_cap", SmallInteger, **_default("1")),  # notices to a customer a day
    Column("overdue_gap_days", SmallInteger, **_default("3")),  # days between two `atraso` to a customer
    Column("fine_percent", _PERCENT, **_default("2")),
    Column("interest_percent_month", _PERCENT, **_default("1")),
    Column("receipts", Text, **_default("'after_notice'")),  # whether `pagamento` goes: always, after_notice, never
    Column("status", Text, **_default("'active'")),  # trial, active, lifetime or suspended
    Column("active_until", _TIME),
    Column("paused_at", _TIME),  # while set, nothing is pushed
    Column("created_at", _TIME, **_NOW),
    Column("version", Integer, **_default("1")),
)

customers = Table(
    "customers",
    metadata,
    Column("tenant", Text, ForeignKey("billing_tenants.id"), primary_key=True),
    Column("id", Text, primary_key=True),
    Column("name", Text),  # NULL only after an erasure, as the other personal data
    Column("document", Text),
    Column("phone", Text),  # E.164
    Column("email", Text),
    Column("uf", Text),
    Column("address", Text),
    Column("notes", Text),
    Column("channels", ARRAY(Text), **_default("'{whatsapp}'")),
    Column("rule_id", Integer, ForeignKey("rules.id")),  # instead of the tenant's
    Column("calendar_id", Integer, ForeignKey("calendars.id"), nullable=False),
    Column("hold_until", Date),  # held before this day; `date.max` without an end
    Column("hold_reason", Text),
    Column("last_notice_on", Date),
    Column("last_overdue_on", Date),
    Column("active", Boolean, **_default("true")),
    Column("created_at", _TIME, **_NOW),
    Column("version", Integer, **_default("1")),
    Index(None, "phone"),
    Index(None, "tenant", "document"),
)
Index("customers_tenant_name_idx", customers.c.tenant, text("lower(name)"))

recurrences = Table(
    "recurrences",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("customer_id", Text, nullable=False),
    Column("amount", _MONEY, nullable=False),
    Column("description", Text),
    Column("method", Text, **_default("'other'")),
    Column("every", Integer, nullable=False),
    Column("unit", Text, nullable=False),  # days, weeks, months or years
    Column("anchor", Date, nullable=False),  # the due date of the first; the others count from it
    Column("until", Date),
    Column("count", Integer),
    Column("ahead_days", Integer, **_default("35")),  # a charge is made so long before it is due
    Column("next_n", Integer, **_default("0")),
    Column("next_on", Date),  # the day on which the next one is made; NULL after the last
    Column("active", Boolean, **_default("true")),
    Column("created_at", _TIME, **_NOW),
    Column("version", Integer, **_default("1")),
    ForeignKeyConstraint(["tenant", "customer_id"], ["customers.tenant", "customers.id"]),
    CheckConstraint("amount > 0", name="amount"),
    Index("recurrences_next_on_idx", "next_on", postgresql_where=text("active")),
)

charges = Table(
    "charges",
    metadata,
    Column("seq", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("id", Text, nullable=False),  # the tenant's
    Column("customer_id", Text, nullable=False),
    Column("description", Text),
    Column("amount", _MONEY, nullable=False),
    Column("paid", _MONEY, **_default("0")),
    Column("discount", _MONEY, **_default("0")),  # if it is paid by `payable_on`
    Column("waives_fees", Boolean, **_default("false")),  # no fine and no interest, however late
    Column("due_date", Date, nullable=False),
    Column("payable_on", Date, nullable=False),  # the last day on which it is paid in time
    Column("late_from", Date, nullable=False),  # the first day on which a notice may call it late
    Column("status", Text, **_default("'open'")),  # open, overdue, paid or cancelled
    Column("method", Text, **_default("'other'")),  # pix, boleto, card or other
    Column("payment_link", Text),
    Column("pix_code", Text),
    Column("pix_expires_at", _TIME),
    Column("boleto_line", Text),
    Column("boleto_pdf", Text),
    Column("provider", Text),
    Column("provider_id", Text),
    Column("recurrence_id", Text),
    Column("occurrence", Integer),
    Column("notify", Boolean, **_default("true")),  # false: its steps are recorded, nothing is sent
    Column("hold_until", Date),  # as in `customers`
    Column("hold_reason", Text),
    Column("known_on", Date, nullable=False),  # steps before this day are not sent
    Column("paid_at", _TIME),
    Column("paid_via", Text),
    Column("created_at", _TIME, **_NOW),
    Column("updated_at", _TIME, **_NOW),
    Column("version", Integer, **_default("1")),
    UniqueConstraint("tenant", "id"),
    ForeignKeyConstraint(["tenant", "customer_id"], ["customers.tenant", "customers.id"]),
    ForeignKeyConstraint(["tenant", "recurrence_id"], ["recurrences.tenant", "recurrences.id"]),
    CheckConstraint("amount > 0", name="amount"),
    CheckConstraint("paid >= 0", name="paid"),
)
IS_OPEN = charges.c.status.in_(("open", "overdue"))
Index(
    "charges_provider_id_idx", charges.c.tenant, charges.c.provider, charges.c.provider_id,
    unique=True, postgresql_where=charges.c.provider_id.is_not(None),
)  # fmt: skip
Index(
    "charges_occurrence_idx", charges.c.tenant, charges.c.recurrence_id, charges.c.occurrence,
    unique=True, postgresql_where=charges.c.recurrence_id.is_not(None),
)  # fmt: skip
Index(
    "charges_open_customer_idx",
    charges.c.tenant,
    charges.c.customer_id,
    postgresql_where=text("status IN ('open', 'overdue')"),
)
Index("charges_becomes_overdue_idx", charges.c.payable_on, postgresql_where=text("status = 'open'"))

agenda = Table(
    "agenda",
    metadata,
    Column("charge_seq", BigInteger, ForeignKey("charges.seq", ondelete="CASCADE"), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("next_on", Date, nullable=False),  # `infinity` once every step is decided
    Index(None, "tenant", "next_on", "charge_seq"),
    postgresql_with={"fillfactor": 80},  # each pass updates rows in place
)

intents = Table(
    "intents",
    metadata,
    Column("charge_seq", BigInteger, ForeignKey("charges.seq", ondelete="CASCADE"), primary_key=True),
    Column("step", Text, primary_key=True),
    Column("due_date", Date, primary_key=True),
    Column("n", Integer, primary_key=True, server_default=text("0")),  # of a repeated step: which time, from 0
    Column("id", Text, nullable=False),  # of its message: `c<seq>.<step>.<yymmdd>[.<n>][~<rev>]`
    Column("rev", Integer, **_default("0")),  # counts changed recipients, each with another id
    Column("tenant", Text, nullable=False),
    Column("customer_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("text", Text),
    Column("planned_on", Date, nullable=False),
    Column("not_before", _TIME),
    Column("valid_until", _TIME),
    # planned, queued, merged, skipped, cancelled or expired; after `queued` the ledger knows more
    Column("state", Text, nullable=False),
    Column("reason", Text),  # why it is skipped, cancelled, expired, or withdrawn from a queue
    Column("leader", BigInteger),  # the charge whose message speaks of this one too
    Column("doubtful", Boolean, **_default("false")),  # it may have been sent before Redis was lost: look before
    Column("queued_at", _TIME),
    Column("epoch", UUID(as_uuid=False)),
    Column("decided_at", _TIME, **_NOW),
    Index("intents_planned_idx", "not_before", postgresql_where=text("state = 'planned'")),
    Index("intents_queued_idx", "queued_at", postgresql_where=text("state = 'queued'")),
    Index(None, "tenant", "planned_on", "state"),
    # What a customer gets, and has got: for caps, and for one message about several charges.
    Index(
        "intents_customer_idx", "tenant", "customer_id", "planned_on",
        postgresql_where=text("state IN ('planned', 'merged', 'queued')"),
    ),
)  # fmt: skip

texts = Table(
    "texts",
    metadata,
    Column("tenant", Text, ForeignKey("billing_tenants.id"), primary_key=True),
    Column("name", Text, primary_key=True),  # of a kind, or one that a step names
    Column("version", Integer, primary_key=True),
    Column("body", Text, nullable=False),
    Column("created_at", _TIME, **_NOW),
)

payment_events = Table(
    "payment_events",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("tenant", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("event", Text, nullable=False),  # the provider's name of it
    Column("effect", Text, nullable=False),  # what it means for the charge
    Column("references", ARRAY(Text), **_default("'{}'")),  # what names the charge, the best first
    Column("payment_id", Text),  # the provider's, of the payment that several events speak of
    Column("amount", _MONEY),
    Column("paid_at", _TIME),
    Column("occurred_at", _TIME),  # by the provider's clock: events come in any order
    Column("due_date", Date),  # of a change
    Column("new_amount", _MONEY),  # of a change
    Column("raw", JSONB, nullable=False),  # masked
    Column("charge_seq", BigInteger, ForeignKey("charges.seq", ondelete="SET NULL")),
    Column("state", Text, nullable=False),  # applied, ignored or unmatched
    Column("note", Text),
    Column("received_at", _TIME, **_NOW),
    Index("payment_events_unmatched_idx", "tenant", "received_at", postgresql_where=text("state = 'unmatched'")),
    Index(None, "charge_seq"),
    Index(None, "tenant", "received_at"),
    Index("payment_events_references_idx", "references", postgresql_using="gin"),
)

cancel_flags = Table(
    "cancel_flags",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at", _TIME, **_NOW),
    Column("done_at", _TIME),
    Index("cancel_flags_open_idx", "at", postgresql_where=text("done_at IS NULL")),
)

imports = Table(
    "imports",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("file_digest", Text, nullable=False),
    Column("profile", Text),
    Column("counts", JSONB, nullable=False),
    Column("at", _TIME, **_NOW),
)

billing_epoch = Table(
    "billing_epoch",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", UUID(as_uuid=False), nullable=False),
    Column("redis_run_id", Text),
    Column("seen_at", _TIME),
)
