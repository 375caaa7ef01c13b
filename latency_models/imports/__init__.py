"""Foreign latency tables and logs as bundles."""
