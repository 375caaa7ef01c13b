"""Latency models on public data, always beside MACs alone, the fitted table and the noise floor."""
