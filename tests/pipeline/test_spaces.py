from __future__ import annotations

import pytest
import torch

from paceline.errors import SpaceError
from paceline.pipeline.spaces import mobile, mobile_imagenet, mobile_small
from paceline.pipeline.supernet import space_of
from paceline.pipeline.testing import check_supernet


def test_mobile_small_has_the_options_of_its_description() -> None:
    space = space_of(mobile_small(1, 10, seed=0))
    blocks = [f"k{k}e{e}{se}" for k in (3, 5, 7) for e in (3, 6) for se in ("", "_se")]
    assert len(space.choices) == 7
    for choice in space.choices:
        strided_or_wider = choice.name in ("stage1_layer1", "stage2_layer1", "stage3_layer1")
        assert choice.options == (*blocks, "rep3", *(() if strided_or_wider else ("skip",)))


def test_every_option_fits_its_place() -> None:
    check_supernet(mobile_small(3, 5, seed=1), torch.randn(2, 3, 32, 32))


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    nets = [mobile(1, 3, 16, seed=s, stages=((8, 1, 1),)).state_dict() for s in (1, 1, 2)]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(nets[0].values(), nets[1].values(), strict=True))
    assert not torch.equal(nets[0]["stem.conv.weight"], nets[2]["stem.conv.weight"])


def test_imagenet_space_has_the_shapes_of_fairnas() -> None:
    net = mobile_imagenet(width=0.5, image_size=64, seed=0, classes=7)
    space = space_of(net)
    assert len(space.choices) == 19
    assert [len(c.options) for c in space.choices].count(13) == 6  # the first layer of every stage can't skip


def test_too_small_images_are_refused() -> None:
    with pytest.raises(SpaceError, match="images of 4 pixels are too small for a total stride of 8"):
        mobile(1, 2, 4, seed=0, stages=((8, 1, 2), (8, 1, 2)))
