"""Damaged outputs of benchmark_model: benchmarks/fuzz_benchmark_model.py, a few hundred of its cases."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from paceline.devices.benchmark_model.output import parse

SAMPLES = sorted((Path(__file__).parent / "benchmark_model_samples").glob("*.txt"))


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    script = Path(__file__).parents[2] / "benchmarks" / "fuzz_benchmark_model.py"
    spec = importlib.util.spec_from_file_location("fuzz_benchmark_model", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_no_number_comes_out_that_is_not_in_the_text(fuzz: ModuleType, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    original = fuzz.undamaged(text)
    changed = 0
    for i in range(40):
        rng = np.random.default_rng((7, i))
        damaged = fuzz.MUTATIONS[i % len(fuzz.MUTATIONS)](text, rng)
        assert fuzz.violation(damaged, original) == ""
        changed += damaged != text
    assert changed > 30


def test_the_check_finds_strays(fuzz: ModuleType) -> None:
    text = (SAMPLES[0].parent / "gpu_full.txt").read_text(encoding="utf-8")
    output = parse(text)
    assert fuzz.strays(output, text) == []
    assert fuzz.strays(replace(output, init_ms=3.25), text) == [3.25]
    assert fuzz.strays(output, text.replace("7700", "7701")) == [7.7]
    assert output.inference is not None
    assert fuzz.strays(replace(output, inference=replace(output.inference, count=77)), text) == [77.0]
    (gpu,) = output.delegations
    assert fuzz.strays(replace(output, delegations=(replace(gpu, delegated=32, partitions=3),)), text) == [32, 3]
