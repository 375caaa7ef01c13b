"""State dicts of the authors' code: put into our networks they compute what the authors' modules would.

The names, the shapes and the computation of those modules are stated again here, independent of the zoo.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from paceline.errors import DataError, ExportError
from paceline.exporters.sources import load_source
from paceline.pipeline import zoo

Act = Callable[[Tensor], Tensor]
Layer = tuple[int, int, int, int, int] | None
"""Expansion, channels, kernel, stride, squeeze-and-excitation; None is an identity."""

FAIRNAS_B: tuple[Layer, ...] = (
    *((3, 32, 5, 2, 0), (3, 32, 3, 1, 0), (3, 40, 5, 2, 0), (3, 40, 3, 1, 0), (6, 40, 3, 1, 0), (3, 40, 5, 1, 0)),
    *((3, 80, 7, 2, 0), (3, 80, 3, 1, 0), (6, 80, 3, 1, 0), (3, 80, 5, 1, 0), (3, 96, 3, 1, 0), (6, 96, 3, 1, 0)),
    *((3, 96, 7, 1, 0), (3, 96, 3, 1, 0), (6, 192, 7, 2, 0), (6, 192, 5, 1, 0), (6, 192, 7, 1, 0), (6, 192, 3, 1, 0)),
    (6, 320, 5, 1, 0),
)
SCARLET_C: tuple[Layer, ...] = (
    *((3, 32, 5, 2, 1), (3, 32, 3, 1, 1), (3, 40, 5, 2, 1), None, None, (3, 40, 3, 1, 0), (6, 80, 7, 2, 1), (3, 80, 3, 1, 1)),
    *((3, 80, 3, 1, 1), (3, 80, 5, 1, 0), (3, 96, 7, 1, 1), (3, 96, 7, 1, 0), (3, 96, 3, 1, 1), (3, 96, 7, 1, 1)),
    *((3, 192, 3, 2, 1), None, (6, 192, 3, 1, 1), (6, 192, 7, 1, 1), (6, 320, 5, 1, 1)),
)
MOGA_A: tuple[Layer, ...] = (
    *((6, 24, 5, 2, 0), (6, 24, 7, 1, 0), (6, 40, 3, 2, 0), (6, 40, 3, 1, 1), (3, 40, 3, 1, 1), (6, 80, 3, 2, 1)),
    *((6, 80, 3, 1, 0), (6, 80, 7, 1, 0), (3, 80, 7, 1, 1), (6, 112, 7, 1, 0), (6, 112, 3, 1, 0), (6, 160, 3, 2, 0)),
    *((6, 160, 5, 1, 1), (6, 160, 5, 1, 1)),
)


def hswish(x: Tensor) -> Tensor:
    return x * F.relu6(x + 3) / 6


def moga_act(number: int) -> Act:
    return F.relu if number < 5 else hswish


@dataclass
class Official:
    """One network of the authors' code, as its state dict and as what it computes; tensors are drawn when they are first read."""

    layers: tuple[Layer, ...]
    stem: int = 32
    stem_act: Act = F.relu6
    separable_act: Act = F.relu6
    acts: Callable[[int], Act] = lambda _: hswish
    """Of a block, by its number."""
    squeeze: tuple[str, str] = ("squeeze_conv", "excite_conv")
    squeeze_act: Callable[[int], Act] = lambda _: F.relu
    classifier: str = "classifier"
    widths: tuple[int, ...] = (1280,)
    """Of what follows the blocks: the second one has neither bias nor BatchNorm."""
    state: dict[str, Tensor] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(7))

    def tensor(self, name: str, *shape: int, scale: float = 1.0, around: float = 0.0) -> Tensor:
        if name not in self.state:
            self.state[name] = torch.randn(shape, generator=self.generator) * scale + around
        return self.state[name]

    def conv(
        self, x: Tensor, name: str, out: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, bias: bool = False
    ) -> Tensor:
        per_group = x.shape[1] // groups
        fan = per_group * kernel * kernel
        weight = self.tensor(f"{name}.weight", out, per_group, kernel, kernel, scale=(2 / fan) ** 0.5)
        added = self.tensor(f"{name}.bias", out, scale=0.1) if bias else None
        return F.conv2d(x, weight, added, stride, kernel // 2, groups=groups)

    def norm(self, x: Tensor, name: str) -> Tensor:
        width = x.shape[1]  # scales of 3: ReLU6 and ReLU differ
        scale, shift = self.tensor(f"{name}.weight", width, scale=0.3, around=3.0), self.tensor(f"{name}.bias", width, scale=0.1)
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
        mean, var = self.state.setdefault(f"{name}.running_mean", mean), self.state.setdefault(f"{name}.running_var", var)
        self.state.setdefault(f"{name}.num_batches_tracked", torch.tensor(1))
        return F.batch_norm(x, mean, var, scale, shift)

    def __call__(self, x: Tensor, classes: int = 1000) -> Tensor:
        x = self.stem_act(self.norm(self.conv(x, "stem.0", self.stem, 3, 2), "stem.1"))
        x = self.separable_act(self.norm(self.conv(x, "separable_conv.0", self.stem, 3, groups=self.stem), "separable_conv.1"))
        x = self.norm(self.conv(x, "separable_conv.3", 16), "separable_conv.4")
        for number, layer in enumerate(self.layers):
            if layer is not None:
                x = self.block(x, number, layer)
        first, *second = self.widths
        x = self.stem_act(self.norm(self.conv(x, "conv_before_pooling.0", first), "conv_before_pooling.1"))
        x = x.mean((2, 3), keepdim=True)
        for width in second:
            x = self.stem_act(self.conv(x, "conv_head.0", width))
        weight = self.tensor(f"{self.classifier}.weight", classes, x.shape[1], scale=0.1)
        return F.linear(x.flatten(1), weight, self.tensor(f"{self.classifier}.bias", classes))

    def block(self, x: Tensor, number: int, layer: tuple[int, int, int, int, int]) -> Tensor:
        expansion, channels, kernel, stride, squeezed = layer
        place, act, hidden = f"mb_module.{number}", self.acts(number), x.shape[1] * expansion
        y = act(self.norm(self.conv(x, f"{place}.conv1", hidden), f"{place}.bn1"))
        y = act(self.norm(self.conv(y, f"{place}.conv2", hidden, kernel, stride, groups=hidden), f"{place}.bn2"))
        if squeezed:
            narrow, wide = (f"{place}.mid_se.{name}" for name in self.squeeze)
            inner = self.squeeze_act(number)(self.conv(y.mean((2, 3), keepdim=True), narrow, hidden // 4, bias=True))
            y = y * F.relu6(self.conv(inner, wide, hidden, bias=True) + 3) / 6
        y = self.norm(self.conv(y, f"{place}.conv3", channels), f"{place}.bn3")
        return x + y if stride == 1 and x.shape[1] == channels else y


def official(name: str) -> Official:
    if name == "fairnas_b":
        return Official(FAIRNAS_B, acts=lambda _: F.relu6, classifier="classifier.1")
    if name == "scarlet_c":
        return Official(SCARLET_C)
    moga = {"stem_act": hswish, "separable_act": F.relu, "acts": moga_act, "squeeze": ("conv.0", "fc.0"), "squeeze_act": moga_act}
    return Official(MOGA_A, 16, widths=(960, 1280), **moga)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def scarlet(images: Tensor) -> dict[str, Tensor]:
    network = official("scarlet_c")
    network(images)
    return network.state


@pytest.mark.parametrize("name", ["fairnas_b", "scarlet_c", "moga_a"])
def test_with_the_authors_weights_it_computes_the_same(name: str, images: Tensor) -> None:
    network = official(name)
    expected = network(images)  # this draws the weights, and settles the statistics
    assert sum(t.numel() for key, t in network.state.items() if key.endswith((".weight", ".bias"))) == zoo.entry(name).params
    net = zoo.load_official(name, network.state).eval()
    with torch.no_grad():
        torch.testing.assert_close(net(images), expected, rtol=1e-3, atol=1e-4 * float(expected.max() - expected.min()))


@pytest.mark.parametrize(("letter", "ratio"), [("a", 0.5), ("c", 1.0)])
def test_se_networks_are_those_of_timm(letter: str, ratio: float, images: Tensor) -> None:
    """The authors' SE networks are made of timm's blocks; timm itself says what they compute."""
    from paceline.exporters.timm_networks import randomised, timm_network

    try:
        timm_network("lcnet_035")  # as it copes with a torchvision that does not fit
    except ExportError as e:
        pytest.skip(str(e))
    from timm.models._efficientnet_builder import decode_arch_def
    from timm.models.efficientnet import EfficientNet

    picks = zoo.entry(f"fairnas_{letter}").picks.split()
    widths = [32, 32, *[40] * 4, *[80] * 4, *[96] * 4, *[192] * 4, 320]
    strides = [2 if number in (0, 2, 6, 14) else 1 for number in range(19)]
    blocks = [f"ir_r1_k{p[1]}_s{s}_e{p[3]}_c{c}_se{ratio}_nsw" for p, s, c in zip(picks, strides, widths, strict=True)]
    stages = [["ds_r1_k3_s1_e1_c16"], blocks[:1], blocks[1:2], blocks[2:6], blocks[6:14], blocks[14:]]
    with torch.random.fork_rng(devices=[]):
        theirs = EfficientNet(decode_arch_def(stages), num_classes=10, num_features=1280, stem_size=32)
    randomised(theirs, 0).train()
    with torch.no_grad():
        for part in theirs.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.weight.mul_(3)  # ReLU6 and ReLU differ
        for _ in range(40):
            theirs(images)  # settles the statistics
        theirs.eval()
        name = f"fairnas_{letter}_se" + ("_050" if ratio == 0.5 else "")
        ours = zoo.load_official(zoo.build(name, 10, seed=0), theirs.state_dict()).eval()
        expected = theirs(images)
        torch.testing.assert_close(ours(images), expected, rtol=1e-3, atol=1e-4 * float(expected.max() - expected.min()))


def test_what_does_not_fit_is_told_and_changes_nothing(scarlet: dict[str, Tensor]) -> None:
    net = zoo.build("scarlet_c", seed=0)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    lost = {key: value for key, value in scarlet.items() if key != "mb_module.2.conv1.weight"}
    for state, reason in (
        (lost, "1 missing: mb_module.2.conv1.weight"),
        ({**scarlet, "epoch": torch.tensor(3)}, "1 unexpected: epoch"),
        (
            {**scarlet, "stem.0.weight": torch.zeros(16, 3, 3, 3)},
            "1 of other shapes: stem.0.weight is 16x3x3x3 and should be 32x3x3x3",
        ),
    ):
        with pytest.raises(DataError, match=reason):
            zoo.load_official(net, state)
    with pytest.raises(DataError, match=r"\d+ missing: .*mb_module\.3\.conv1\.weight"):  # an identity in C
        zoo.load_official("scarlet_a", scarlet)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_counters_of_batchnorm_may_be_missing(scarlet: dict[str, Tensor]) -> None:
    zoo.load_official("scarlet_c", {key: value for key, value in scarlet.items() if "num_batches" not in key})


def test_checkpoints_are_sources(scarlet: dict[str, Tensor], images: Tensor, tmp_path: Path) -> None:
    ten = {**scarlet, "classifier.weight": torch.ones(10, 1280), "classifier.bias": torch.ones(10)}
    torch.save({"model_state": ten, "epoch": 3}, tmp_path / "scarlet.pth.tar")
    found = load_source(f"zoo:scarlet_c:{tmp_path / 'scarlet.pth.tar'}", [(1, 64, 64, 3)])
    assert (found.text, found.warnings) == ("zoo:scarlet_c:scarlet.pth.tar", ())
    assert found.module(images).shape == (2, 10)
    torch.save(found.module.state_dict(), tmp_path / "own.pt")  # the names of our own network
    again = load_source(f"zoo:scarlet_c:{tmp_path / 'own.pt'}", [(1, 64, 64, 3)])
    assert torch.equal(again.module(images), found.module(images))
    (tmp_path / "bad.pt").write_bytes(b"nothing")
    torch.save([1], tmp_path / "list.pt")
    for name, reason in (
        ("scarlet_b:scarlet.pth.tar", "zoo:scarlet_b: the state dict is not that of this network"),
        ("scarlet_c:none.pt", "no file"),
        ("scarlet_c:bad.pt", "can't be read as weights"),
        ("scarlet_c:list.pt", "holds no state dict"),
    ):
        network, file = name.split(":")
        with pytest.raises(ExportError, match=reason):
            load_source(f"zoo:{network}:{tmp_path / file}")
