"""The registry of numbers and tenants."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Create the registry, empty."""
    op.create_table(
        "numbers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text()),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("phone", sa.Text()),
        sa.Column("phone_hash", sa.Text()),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("preset", sa.Text(), nullable=False),
        sa.Column("overrides", _JSON, nullable=False),
        sa.Column("paired_at", _TIME),
        sa.Column("warm_up", sa.Boolean(), nullable=False),
        sa.Column("warm_up_from", sa.Date()),
        sa.Column("risk", sa.Integer(), nullable=False),
        sa.Column("brake", sa.Float(), nullable=False),
        sa.Column("held_until", _TIME),
        sa.Column("held_reason", sa.Text()),
        sa.Column("no_new_chats_until", _TIME),
        sa.Column("guard", _JSON, nullable=False),
        sa.Column("banned_at", _TIME),
        sa.Column("registered_at", _TIME, nullable=False),
        sa.Column("missing_since", _TIME),
        sa.Column("missing_count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="numbers_pkey"),
    )
    op.create_index("numbers_tenant_idx", "numbers", ["tenant"])
    op.create_table(
        "tenants",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="tenants_pkey"),
    )
    op.create_table(
        "registry",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("generation", sa.Text(), nullable=False),
        sa.Column("changed_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="registry_pkey"),
    )
