"""The tables as they are now. Whoever changes one adds a step to `migrations.py` and a number to its SCHEMA."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

about = sa.Table("about", metadata, sa.Column("schema", sa.Integer, primary_key=True))

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("fingerprint", sa.String(16), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("simulated", sa.Boolean, nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
    sa.Column("delegates", sa.Text, nullable=False, server_default="[]"),
)

measurements = sa.Table(
    "measurements",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("artifact", sa.String(64), nullable=False),
    sa.Column("device", sa.String(16), nullable=False),
    sa.Column("bench", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("ms", sa.Float),
    sa.Column("spread", sa.Float),
    sa.Column("samples", sa.LargeBinary, nullable=False),
    sa.Column("batches", sa.Text, nullable=False),
    sa.Column("cpu_share", sa.Text, nullable=False),
    sa.Column("reference", sa.Text, nullable=False),
    sa.Column("failure", sa.Text),
    sa.Column("transient", sa.Boolean, nullable=False),
    sa.Column("context", sa.Text, nullable=False),
    sa.Column("measured_at", sa.Float, nullable=False),
    sa.Column("summaries", sa.Text, nullable=False, server_default="[]"),
    sa.Column("delegation", sa.Text),
    sa.UniqueConstraint("artifact", "device", "bench"),
)

results = sa.Table(
    "results",
    metadata,
    sa.Column("run", sa.String(64), primary_key=True),
    sa.Column("step", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

log = sa.Table(
    "log",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("device", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("artifact", sa.String(64)),
    sa.Column("bench", sa.Text),
    sa.Column("ms", sa.Float),
    sa.Column("spread", sa.Float),
    sa.Column("context", sa.Text),
    sa.Index("log_device", "device", "id"),
)

claims = sa.Table(
    "claims",
    metadata,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("until", sa.Float, nullable=False),
)
