"""Simulated phones: a product part for CI, demonstrations and tests of faults. Every row they give says that it is simulated."""
