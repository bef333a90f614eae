"""Indexes for the guard: the last messages of a number, and the events by which it waits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the indexes."""
    op.create_index("notifications_instance_sent_at_idx", "notifications", ["instance", "sent_at"])
    trouble = sa.text("name IN ('deferred', 'retrying')")
    op.create_index("events_trouble_idx", "events", ["ms"], postgresql_where=trouble, sqlite_where=trouble)
