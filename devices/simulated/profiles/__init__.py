"""Profiles of simulated phones, as TOML. All figures are invented; no real phone is meant."""
