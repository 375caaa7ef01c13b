"""Rows for latency models: what is worth measuring, measured under a budget, checked, and measured again when it has expired."""
