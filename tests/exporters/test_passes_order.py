"""Any passes in any order leave the results the same."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from paceline.exporters import tflite
from paceline.exporters.draft import Draft
from paceline.exporters.passes import PASSES, legalise, simplify
from paceline.exporters.run_tflite import run
from paceline.exporters.torch_graph import draft_of
from paceline.graph import Array

from torch_reference import ChannelShuffleByHand, InvertedResidual, RepVGG, SqueezeExcite, conv_bn, image, randomised


class _Mixed(nn.Module):
    """A little of everything that a pass looks for."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.excite = conv_bn(3, 12, 3, 2, act=nn.ReLU), InvertedResidual(12, 12), SqueezeExcite(12)
        self.shuffle, self.rep = ChannelShuffleByHand(3), RepVGG(12)
        self.mix, self.norm, self.qkv = nn.Conv2d(12, 12, 1), nn.LayerNorm(12), nn.Linear(12, 36)
        self.up, self.head = nn.ConvTranspose2d(12, 8, 3, 2, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(self.stem(x), 3, 2, 1)
        x = self.shuffle(self.mix(self.excite(self.block(x)))) + self.rep(x)
        x = x * F.relu6(x + 3) / 6
        n, c, h, w = x.shape
        tokens = self.qkv(self.norm(x.flatten(2).transpose(1, 2)))
        q, k, v = tokens.reshape(n, h * w, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(n, c, h, w)
        up = self.up(F.pad(F.pad(x + y, (1, 0, 0, 0)), (0, 1, 1, 1))[:, :, ::2, ::2])
        return self.head(up.mean((2, 3))), F.pixel_shuffle(up, 2)


@functools.cache
def _reference() -> tuple[Draft, Array, list[Array]]:
    torch.manual_seed(0)
    x = image(1, 3, 32, 28)
    draft = draft_of(randomised(_Mixed()), x)
    pixels = x.permute(0, 2, 3, 1).numpy()
    return draft, pixels, _computed(copy.deepcopy(draft), pixels)


def _computed(draft: Draft, pixels: Array) -> list[Array]:
    legalise(draft)
    return run(tflite.write(draft.graph()), [pixels], "builtin")


def _same(draft: Draft) -> None:
    _, pixels, expected = _reference()
    for a, b in zip(expected, _computed(draft, pixels), strict=True):
        assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(PASSES), max_size=2 * len(PASSES)))
def test_random_order(steps: list[object]) -> None:
    draft = copy.deepcopy(_reference()[0])
    for step in steps:
        step.apply(draft)  # type: ignore[attr-defined]
    _same(draft)


@pytest.mark.parametrize("step", PASSES, ids=lambda step: step.name)
def test_each_alone_until_nothing_changes(step: object) -> None:
    draft = copy.deepcopy(_reference()[0])
    simplify(draft, [step])  # type: ignore[list-item]
    assert simplify(draft, [step]) == ()  # type: ignore[list-item]
    _same(draft)


def test_all_of_them_and_again_after_legalising() -> None:
    draft = copy.deepcopy(_reference()[0])
    used = simplify(draft)
    before = len(_reference()[0].ops)
    assert len(used) >= 8
    assert len(draft.ops) < 0.6 * before
    legalise(draft)
    simplify(draft)
    assert simplify(draft) == ()
    _same(draft)
