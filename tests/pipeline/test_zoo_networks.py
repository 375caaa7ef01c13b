"""The published networks: sizes to the last digit, one network for one seed, export, and their names on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from paceline.cli import app
from paceline.errors import ExportError, SpaceError
from paceline.exporters import tflite
from paceline.exporters.run_tflite import run
from paceline.exporters.sources import load_source
from paceline.exporters.timm_networks import randomised
from paceline.exporters.torch_graph import graph_of
from paceline.pipeline import zoo
from paceline.pipeline.supernet import recalibrate

PARAMS_MACS = {
    "fairnas_a": (4651352, 388122848),
    "fairnas_b": (4506272, 345297632),
    "fairnas_c": (4397864, 321024992),
    "fairnas_a_se_050": (5881920, 389343584),
    "fairnas_b_se_050": (5693040, 346475168),
    "fairnas_c_se_050": (5551776, 322170080),
    "scarlet_a": (6707720, 365307392),
    "scarlet_b": (6531556, 326853440),
    "scarlet_c": (6073684, 280082912),
    "moga_a": (5159802, 304042176),
    "moga_b": (5506236, 248634720),
    "moga_c": (5488200, 221089920),
}
"""Counted by others from the layer lists of the authors' code."""

CIFAR_PARAMS = {
    "fairnas_a_se": 5835322,
    "fairnas_b_se": 5603242,
    "fairnas_c_se": 5429530,
    "fairnas_a_se_050": 4613730,
    "fairnas_b_se_050": 4424850,
    "fairnas_c_se_050": 4283586,
}
"""From the README of the authors' code, for 10 classes."""


def params(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("name", zoo.names())
def test_sizes_to_the_last_digit(name: str) -> None:
    entry = zoo.entry(name)
    net = zoo.build(name, seed=0).eval().to("meta")
    with FlopCounterMode(display=False) as counter:  # two operations for each multiply-accumulate
        net(torch.zeros(1, 3, 224, 224, device="meta"))
    assert (params(net), counter.get_total_flops()) == (entry.params, 2 * entry.macs)
    assert (entry.params, entry.macs) == PARAMS_MACS.get(name, (entry.params, entry.macs))
    if name in CIFAR_PARAMS:
        assert params(zoo.build(name, 10, seed=0)) == CIFAR_PARAMS[name]


@pytest.mark.parametrize("name", ["fairnas_a", "fairnas_a_se", "scarlet_b", "moga_a"])
def test_exported_graphs_count_the_same(name: str) -> None:
    """The others: benchmarks/zoo.py."""
    assert graph_of(zoo.build(name, seed=0).eval(), torch.zeros(1, 3, 224, 224)).macs() == zoo.entry(name).macs


def test_claims_of_the_papers_are_near_our_counts() -> None:
    """SCARLET-B's 329 M are 0.7 % above what its code multiplies; parameters may be truncated to one decimal."""
    assert {*PARAMS_MACS, *CIFAR_PARAMS} == set(zoo.names())
    for entry in zoo.ENTRIES.values():
        if entry.claims.params_m is not None and entry.claims.macs_m is not None:
            assert entry.params / 1e6 == pytest.approx(entry.claims.params_m, abs=0.1)
            assert entry.macs / 1e6 == pytest.approx(entry.claims.macs_m, rel=0.007)


def test_architectures_are_those_of_their_spaces() -> None:
    for entry in zoo.ENTRIES.values():
        entry.space.space().check(entry.arch)
    assert zoo.entry("moga_a").arch["stage2_layer1"] == ("k3e6",)  # as in the code; the paper's figure has squeeze-and-excitation
    assert zoo.entry("moga_a").arch["stage3_layer1"] == ("k3e6_se",)
    assert zoo.entry("scarlet_b").arch["stage3_layer3"] == ("skip",)
    assert zoo.entry("fairnas_a").arch == zoo.entry("fairnas_a_se").arch  # other blocks in the same slots


def test_one_seed_one_network_in_another_process_too(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    net = zoo.build("moga_c", 10, 1, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    made = "zoo.build('moga_c', 10, 1, seed=3).state_dict()"
    save = f"import sys, torch; from paceline.pipeline import zoo; torch.save({made}, sys.argv[1])"
    subprocess.run([sys.executable, "-c", save, str(tmp_path / "there.pt")], check=True)
    there = torch.load(tmp_path / "there.pt", weights_only=True)
    assert all(torch.equal(there[key], value) for key, value in net.state_dict().items())
    other = zoo.build("moga_c", 10, 1, seed=4)
    assert not torch.equal(next(net.parameters()), next(other.parameters()))


def test_unknown_names_get_near_ones() -> None:
    with pytest.raises(SpaceError, match="no network 'moga-a'; near ones: moga_a"):
        zoo.build("moga-a", seed=0)
    with pytest.raises(SpaceError, match="it has fairnas_a, "):
        zoo.build("xyz", seed=0)
    with pytest.raises(ExportError, match="zoo:moga_d: the zoo has no network"):
        load_source("zoo:moga_d")


@pytest.mark.parametrize("name", ["scarlet_b", "fairnas_c_se_050"])
def test_exported_networks_compute_the_same(name: str) -> None:
    net = randomised(zoo.build(name, 10, seed=0), 0)
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    recalibrate(net, [(images, torch.zeros(4, dtype=torch.long))])
    net.eval()
    graph = graph_of(net, images[:1])
    with torch.no_grad():
        expected = net(images[:1]).numpy()
    for kernels in ("xnnpack", "builtin"):
        computed = run(tflite.write(graph), [images[:1].permute(0, 2, 3, 1).numpy()], kernels)[0]
        assert np.abs(computed - expected).max() <= 1e-4 * np.ptp(expected)
    assert "TRANSPOSE" not in {op.kind for op in graph.ops}


def test_commands_take_names_of_the_zoo(tmp_path: Path) -> None:
    inspected = CliRunner().invoke(app, ["inspect", "zoo:moga_c", "--json"])
    assert json.loads(inspected.stdout)["graphs"][0]["macs"] == zoo.entry("moga_c").macs
    made = CliRunner().invoke(app, ["export", "zoo:moga_c", "-o", str(tmp_path / "m.tflite"), "--input", "1x64x64x1", "--json"])
    assert made.exit_code == 0, made.output
    assert "zoo:moga_c has random weights" in json.loads(made.stdout)["warnings"][0]
    graph = tflite.read(tmp_path / "m.tflite").graph
    assert graph.tensors[graph.inputs[0]].shape == (1, 64, 64, 1)


def test_bench_takes_what_export_takes(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\ndef make():\n    torch.manual_seed(0)\n    return torch.nn.Conv2d(3, 4, 3), torch.ones(1, 3, 8, 8)\n"
    )
    store = ["--store", str(tmp_path / "store.sqlite"), "--json"]
    done = CliRunner().invoke(app, ["bench", f"{tmp_path / 'net.py'}:make", *store])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["p10_ms"] > 0
    wrong = CliRunner().invoke(app, ["bench", "net.bin", *store])
    assert isinstance(wrong.exception, ExportError)
    assert "can't tell what 'net.bin' is" in str(wrong.exception)
