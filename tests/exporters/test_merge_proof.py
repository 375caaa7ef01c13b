"""Merges are proven before a file is written: wrong ones, injected here, are each found by one of three checks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paceline.exporters import export, exporting, merge_plan, merge_write
from paceline.exporters.algebra import ConvForm, to_conv
from paceline.exporters.algebra_chains import compose
from paceline.exporters.merge import MergeError, check_merge, merged
from paceline.exporters.merge_forms import optional_merges
from paceline.exporters.merge_proof import ProvenMerge, proven_merge
from paceline.exporters.parity import ParityError
from paceline.exporters.precision.calibration import Calibration
from paceline.exporters.precision.weight_ranges import range_of, weight_ranges

from networks import Net, Sum, conv_bn, image, randomised


def chain(bias: bool = False) -> nn.Sequential:
    """A 1x1 convolution, its BatchNorm, then zero padding and a 3x3 one: no kernel, once the BatchNorm shifts."""
    return nn.Sequential(nn.Conv2d(3, 4, 1, bias=bias), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)).eval()


def block() -> nn.Module:
    return Sum([conv_bn(3, 4, 3), conv_bn(3, 4, 1), nn.Sequential(nn.Conv2d(3, 4, (1, 3), padding=(0, 1)))]).eval()


def everything(merge: object) -> bool:
    return True


def test_proof_of_a_right_merge() -> None:
    net, x = randomised(block()), image(1, 3, 224, 200)
    state = torch.get_rng_state()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    found, again = proven_merge(net, x), proven_merge(net, x)
    assert (len(found.merges), found.proof.dtype) == (1, "float64")
    assert found.proof.randomised_error < 1e-13
    assert 0 < found.proof.error < 1e-5
    assert found.proof == again.proof
    ((n, _, height, width),) = found.proof.shapes
    assert (n, height % 2, width % 2) == (2, 1, 0)
    assert height != width < 200
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_mistakes_at_borders_show_in_spite_of_fresh_statistics(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def wrong(first: ConvForm, second: ConvForm) -> ConvForm:
        """As if the second layer saw the first one's bias in its padding."""
        if not any(second.padding):
            return compose(first, second)
        form = compose(replace(first, bias=torch.zeros_like(first.bias)), second)
        return replace(form, bias=form.bias + second.kernel.sum((2, 3)) @ first.bias)

    monkeypatch.setattr(merge_plan, "check_compose", lambda first, second: None)
    monkeypatch.setattr(merge_plan, "compose", wrong)
    net, x = chain(), image(1, 3, 12, 12)
    result = merged(net, choose=everything)
    assert len(result.report) == 1
    assert check_merge(net, result.module, x) < 1e-5  # the real statistics hide it
    with pytest.raises(MergeError, match=r"Sequential with random statistics, on inputs of 2x3x13x24: .* differs"):
        export(net, x, tmp_path / "wrong.tflite", merge=everything)
    assert list(tmp_path.iterdir()) == []


def test_mistakes_in_casting_show_with_the_real_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def wrong(form: ConvForm, dtype: torch.dtype, device: torch.device | str) -> nn.Conv2d:
        return to_conv(form if dtype == torch.float64 else replace(form, bias=form.bias + 0.01), dtype, device)

    monkeypatch.setattr(merge_write, "to_conv", wrong)
    with pytest.raises(MergeError, match="the merged network differs from the original by"):
        export(randomised(block()), image(1, 3, 12, 12), tmp_path / "wrong.onnx", merge=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["wrong.tflite", "wrong.onnx"])
def test_the_file_is_compared_with_the_unmerged_network(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def wrong(module: nn.Module, example: tuple[Tensor, ...], choose: object) -> ProvenMerge:
        found = proven_merge(module, example)
        with torch.no_grad():
            found.module.get_submodule(found.merges[0].name).bias.add_(0.1)  # type: ignore[operator]
        return found

    monkeypatch.setattr(exporting, "proven_merge", wrong)
    with pytest.raises(ParityError, match="differs from Sum by"):
        export(randomised(block()), image(1, 3, 12, 12), tmp_path / name, merge=True)
    assert list(tmp_path.iterdir()) == []


def test_export_tells_what_it_merged(tmp_path: Path) -> None:
    net, x = randomised(block()), image(1, 3, 16, 16)
    rng = np.random.default_rng(0)
    calibration = Calibration(tuple((rng.standard_normal((1, 16, 16, 3), np.float32),) for _ in range(3)), "noise")
    plain = export(net, x, tmp_path / "plain.tflite")
    file = export(net, x, tmp_path / "merged.tflite", precision="int8", calibration=calibration, merge=True)
    assert plain.report.merge is None
    assert file.report.merge is not None
    assert file.merging is not None
    assert [merge.name for merge in file.report.merge.merges] == [merge.name for merge in file.merging.merges]
    assert plain.report.ops["CONV_2D"] == 3
    assert file.report.ops["CONV_2D"] == 1
    seen = json.loads(json.dumps(file.report.to_json()))
    assert seen["merge"]["proof"]["dtype"] == "float64"
    (layer,) = seen["precision"]["merged_weights"]
    assert layer["after"] == pytest.approx(range_of(file.merging.module.get_submodule(layer["layer"]).weight))  # type: ignore[arg-type]


def test_size_and_type_are_the_networks() -> None:
    fixed = nn.Sequential(conv_bn(3, 4, 3), nn.Flatten(), nn.Linear(4 * 64, 2))
    assert proven_merge(fixed, image(1, 3, 8, 8)).proof.shapes == ((1, 3, 8, 8),)

    def single(net: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = net.a(x.float()) + net.b(x.float())  # type: ignore[operator]
        return out

    only = Net(single, a=nn.Conv2d(3, 4, 3, padding=1), b=nn.Conv2d(3, 4, 1))
    assert proven_merge(only, image(1, 3, 8, 8)).proof.dtype == "float32"


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.images, self.maps = block(), nn.Conv2d(2, 4, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.images(x) + self.maps(y)
        return out


def test_several_inputs() -> None:
    found = proven_merge(randomised(Two()), (image(1, 3, 9, 8), image(1, 2, 9, 8)))
    assert found.proof.shapes == ((2, 3, 9, 20), (2, 2, 9, 20))


def test_a_choice_by_name_holds_where_only_these_weights_allow_the_merge() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)).eval()
    nn.init.zeros_(net[0].bias)  # type: ignore[arg-type]
    names = [merge.name for merge in optional_merges(net)]
    assert names
    found = proven_merge(net, image(1, 3, 8, 8), dict.fromkeys(names, True))
    assert len(found.merges) == 1


def test_what_float32_loses_anyway_is_no_mistake() -> None:
    """Two branches that nearly cancel: their sum in float32 is far from what one kernel gives."""
    a, b = (nn.Conv2d(3, 4, 3, padding=1, bias=False) for _ in range(2))
    net, x = randomised(Sum([a, b])).eval(), image(1, 3, 16, 16)
    with torch.no_grad():
        a.weight.mul_(1e4)
        b.weight.sub_(a.weight)
    with pytest.raises(MergeError):
        check_merge(net, merged(net).module, x)
    assert proven_merge(net, x).proof.error > 1e-5


@pytest.mark.parametrize(
    ("weight", "expected"),
    [(torch.ones(2, 3, 3, 3), 1.0), (torch.tensor([[1.0, 0, 0, 0]]), 2.0), (torch.zeros(2, 4), 1.0)],
)
def test_range_of_weights(weight: Tensor, expected: float) -> None:
    assert range_of(weight) == pytest.approx(expected)
    assert range_of(weight * torch.rand(len(weight)).add(1).view(-1, *(1,) * (weight.ndim - 1))) == pytest.approx(expected)


def test_ranges_of_merged_layers_only() -> None:
    net = nn.Sequential(block(), nn.ReLU(), conv_bn(4, 4, 3)).eval()
    result = merged(net)
    found = weight_ranges(net, result.module, result.report)
    assert len(found) == 1
    widest = max(range_of(m.weight) for m in net[0].modules() if isinstance(m, nn.Conv2d))
    assert found[0].before == pytest.approx(widest)
    assert found[0].widening == pytest.approx(found[0].after / widest)
