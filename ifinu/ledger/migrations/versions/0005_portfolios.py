"""Portfolios of Meta's numbers, which share a limit of conversations a day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table, empty, and the column of a number's portfolio; no number has one."""
    op.create_table(
        "portfolios",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("conversations", sa.Integer()),
        sa.PrimaryKeyConstraint("name", name="portfolios_pkey"),
    )
    op.add_column("numbers", sa.Column("portfolio", sa.Text()))
