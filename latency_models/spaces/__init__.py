"""Latency on one search space: architectures as matrices, relaxed paths, chances of keeping a limit."""
