from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from paceline.cli_spaces import spaces
from paceline.errors import SpaceError
from paceline.exporters.merge import merged
from paceline.exporters.torch_graph import graph_of
from paceline.pipeline.networks import deployable
from paceline.pipeline.operators import space_operators
from paceline.pipeline.spaces import SPACES, Chain, find_space
from paceline.pipeline.supernet import space_of
from paceline.pipeline.testing import check_supernet

SMALL = [name for name in SPACES if name.endswith("_small")]


def test_sizes_are_those_of_the_papers() -> None:
    published = {
        "fairnas": 6**19,
        "scarlet": 13**13 * 12**6,
        "moga": 12**14,
        "mixpath_s1_m1": 8**12,
        "mixpath_s1_m2": 20**12,
        "mixpath_s1_m3": 28**12,
        "mixpath_s1_m4": 30**12,
    }
    assert {name: SPACES[name].chain.space().size for name in published} == published


def test_every_space_names_its_source() -> None:
    for name, entry in SPACES.items():
        assert entry.name == name
        own = entry.source is None
        assert own == name.startswith("mobile")
        assert (entry.source is None) or re.fullmatch(r"\d{4}\.\d{5}", entry.source.arxiv)
        assert ("Reduced" in " ".join(entry.reconstructed)) == (name.endswith("_small") and not own)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    assert find_space("moga") is SPACES["moga"]
    with pytest.raises(SpaceError, match="no space is called 'mogga'; did you mean 'moga'"):
        find_space("mogga")


def test_skips_are_legal_in_13_of_scarlets_layers() -> None:
    legal = [i for i, slot in enumerate(SPACES["scarlet"].chain.slots, 1) if "skip" in slot.options]
    assert legal == [2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 17, 18]


def test_mogas_slots_have_ten_shapes() -> None:
    slots = SPACES["moga"].chain.slots
    resolution = 112
    shapes = set()
    for slot in slots:
        shapes.add((resolution, slot.c_in, slot.c_out, slot.stride, tuple(slot.options.values())))
        resolution //= slot.stride
    assert len(slots) == 14
    assert len(shapes) == 10


@pytest.mark.parametrize("name", SMALL)
def test_every_option_fits_its_place(name: str) -> None:
    chain = SPACES[name].chain
    check_supernet(chain.supernet(1), torch.randn(2, chain.in_channels, chain.image_size, chain.image_size))


@pytest.mark.parametrize("name", [name for name in SPACES if name not in ("mixpath_s1_m1", "mixpath_s1_m3", "mixpath_s1_m4")])
def test_a_network_by_itself_has_the_parts_of_a_derived_one(name: str) -> None:
    chain = SPACES[name].chain
    if name not in SMALL:  # the same code at full width takes seconds
        chain = Chain(chain.name, chain.stem, chain.slots[:6], chain.tail, image_size=64)
    supernet = chain.supernet(0)
    assert space_of(supernet) == chain.space()
    rng = np.random.default_rng(0)
    for _ in range(3):
        arch = chain.space().sample(rng)
        alone, derived = chain.network(arch, 0).state_dict(), deployable(supernet, arch).state_dict()
        assert {k: v.shape for k, v in alone.items()} == {k: v.shape for k, v in derived.items()}
        assert list(alone) == list(derived)


PUBLISHED = {
    "FairNAS-A": ("fairnas", "k7e3 k3e3 k7e3 k3e6 k7e6 k3e3 k3e3 k7e6 k7e6 k5e3 k3e6 k5e3 k5e3 k3e6 k3e6 k7e6 k3e6 k7e6 k5e6"),
    "SCARLET-B": (
        "scarlet",
        "k3e3_se k5e3_se k3e3_se k7e6_se k3e3 k5e3 k7e6_se k3e3_se skip k5e3 "
        "k3e3_se k3e3_se k7e6_se k3e3_se k5e6_se k5e6_se skip k7e6_se k5e6_se",
    ),
    "MoGA-A": ("moga", "k5e6 k7e6 k3e6 k3e6_se k3e3_se k3e6_se k3e6 k7e6 k7e3_se k7e6 k3e6 k3e6 k5e6_se k5e6_se"),
}


@pytest.mark.parametrize(
    ("published", "params", "macs"),
    [("FairNAS-A", 4_651_352, 388_122_848), ("SCARLET-B", 6_531_556, 326_853_440), ("MoGA-A", 5_159_802, 304_042_176)],
)
def test_published_networks_have_their_published_counts(published: str, params: int, macs: int) -> None:
    space, picks = PUBLISHED[published]
    chain = SPACES[space].chain
    net = chain.network(chain.arch(picks), 0).eval()
    assert sum(p.numel() for p in net.parameters()) == params
    counted = 0

    def count(module: nn.Module, args: object, y: torch.Tensor) -> None:
        nonlocal counted
        counted += y.numel() * module.weight[0].numel()

    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with FakeTensorMode(allow_non_fake_inputs=True):  # shapes alone, nothing is computed
        net(torch.zeros(1, 3, 224, 224))
    assert counted == macs


@pytest.mark.parametrize(("name", "slots"), [("scarlet_small", 2), ("moga", 1), ("mixpath_small", 1)])
def test_operators_of_an_architecture_are_those_of_its_exported_network(name: str, slots: int) -> None:
    whole = SPACES[name].chain
    chain = replace(
        whole, slots=whole.slots[1 : 1 + slots], stem=replace(whole.stem, separable=None, channels=whole.slots[1].c_in)
    )
    chain = chain.for_images(chain.in_channels, 4, 16)
    net, example = chain.supernet(0), torch.zeros(1, chain.in_channels, 16, 16)
    found = space_operators(net, example)
    assert found.space == chain.space()
    rng = np.random.default_rng(0)
    for _ in range(2):
        arch = chain.space().sample(rng)
        operators = graph_of(merged(chain.network(arch, 0)).module, example).operators()
        assert Counter(found.of(arch)) == Counter(operators)


def test_a_stabilised_skip_needs_no_operators() -> None:
    chain = SPACES["scarlet_small"].chain
    chain = replace(chain, slots=tuple(replace(s, options={"skip": s.options["skip"]}) for s in chain.slots[:2]))
    found = space_operators(chain.supernet(0), torch.zeros(1, 1, 16, 16))
    assert set(found.options.values()) == {()}


def test_listing_needs_no_torch() -> None:
    code = "import sys; from paceline.pipeline.spaces import SPACES; print(len(SPACES), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [str(len(SPACES)), "False"], done.stderr


def test_the_command_lists_and_shows_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    spaces(as_json=True)
    listed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in listed] == list(SPACES)
    by_name = {row["name"]: row for row in listed}
    assert by_name["scarlet"]["size"] == 13**13 * 12**6
    assert by_name["moga"]["paper"] == {"system": "MoGA", "venue": "ICASSP 2020", "arxiv": "1908.01314"}
    assert by_name["mobile_small"]["paper"] is None
    spaces("mixpath_s1_m2", as_json=True)
    assert json.loads(capsys.readouterr().out)["choices"]["stage5_layer2_kernels"] == ["k3", "k5", "k7", "k9"]
    spaces()
    assert "9e20" in capsys.readouterr().out
    spaces("mixpath_s1_m2")
    assert "kernels: k3 k5 k7 k9 (1 to 2 of them)" in capsys.readouterr().out
    with pytest.raises(SpaceError, match="no space is called 'x'"):
        spaces("x")
