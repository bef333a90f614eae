"""The first tables of the ledger."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Create the tables, and the one row of `recorder`."""
    op.create_table(
        "notifications",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text()),
        sa.Column("kind", sa.Text()),
        sa.Column("instance", sa.Text()),
        sa.Column("queue", sa.Text()),
        sa.Column("phone", sa.Text()),
        sa.Column("phone_hash", sa.Text()),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("state_rank", sa.SmallInteger(), nullable=False),
        sa.Column("state_ms", sa.BigInteger(), nullable=False),
        sa.Column("state_seq", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.Text()),
        sa.Column("confirmed", sa.Boolean()),
        sa.Column("reason", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("due_at", _TIME),
        sa.Column("first_at", _TIME, nullable=False),
        sa.Column("last_at", _TIME, nullable=False),
        sa.Column("sent_at", _TIME),
        sa.Column("server_ack_at", _TIME),
        sa.Column("delivered_at", _TIME),
        sa.Column("read_at", _TIME),
        sa.Column("failed_at", _TIME),
        sa.Column("unconfirmed_at", _TIME),
        sa.PrimaryKeyConstraint("id", name="notifications_pkey"),
    )
    op.create_index("notifications_key_id_idx", "notifications", ["key_id"])
    waiting = sa.text("state = 'sent' AND unconfirmed_at IS NULL")
    op.create_index(
        "notifications_unconfirmed_idx", "notifications", ["last_at"], postgresql_where=waiting, sqlite_where=waiting
    )
    op.create_index("notifications_last_at_idx", "notifications", ["last_at"])
    op.create_index("notifications_phone_hash_idx", "notifications", ["phone_hash"])
    op.create_index("notifications_state_last_at_idx", "notifications", ["state", "last_at"])
    op.create_index("notifications_tenant_last_at_idx", "notifications", ["tenant", "last_at"])
    op.create_table(
        "events",
        sa.Column("ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("notification_id", sa.Text()),
        sa.Column("key_id", sa.Text()),
        sa.Column("data", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("ms", "seq", name="events_pkey"),
    )
    op.create_index("events_key_id_idx", "events", ["key_id"])
    op.create_index("events_notification_id_idx", "events", ["notification_id"])
    op.create_table(
        "receipts",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text()),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("rank", sa.SmallInteger(), nullable=False),
        sa.Column("last_at", _TIME, nullable=False),
        sa.Column("server_ack_at", _TIME),
        sa.Column("delivered_at", _TIME),
        sa.Column("read_at", _TIME),
        sa.Column("failed_at", _TIME),
        sa.PrimaryKeyConstraint("key_id", name="receipts_pkey"),
    )
    op.create_index("receipts_last_at_idx", "receipts", ["last_at"])
    op.create_table(
        "opt_outs",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("phone_hash", sa.Text(), nullable=False),
        sa.Column("phone", sa.Text()),
        sa.Column("source", sa.Text()),
        sa.Column("at", _TIME),
        sa.Column("removed_at", _TIME),
        sa.Column("ms", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "phone_hash", name="opt_outs_pkey"),
    )
    op.create_index("opt_outs_phone_hash_idx", "opt_outs", ["phone_hash"])
    op.create_table(
        "instances",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text()),
        sa.Column("code", sa.Integer()),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("ms", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="instances_pkey"),
    )
    op.create_table(
        "recorder",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("ms", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="recorder_pkey"),
    )
    op.create_table(
        "gaps",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("found_at", _TIME, nullable=False),
        sa.Column("ms", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="gaps_pkey"),
    )
    op.execute("INSERT INTO recorder (id, ms, seq, updated_at) VALUES (1, 0, 0, CURRENT_TIMESTAMP)")
