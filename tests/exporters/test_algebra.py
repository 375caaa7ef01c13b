"""The identities on kernels: exact in float64, borders included, for every shape."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from paceline.exporters.algebra import (
    ConvForm,
    MergeError,
    add,
    added_macs,
    conv_form,
    expand_groups,
    fold_batchnorm,
    identity_form,
    identity_kernel,
    pad_kernel,
    to_conv,
)

EXACT = 1e-13


def run(form: ConvForm, x: Tensor) -> Tensor:
    return nn.functional.conv2d(x, form.kernel, form.bias, form.stride, form.padding, form.dilation, form.groups)


def noise(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def close(got: Tensor, wanted: Tensor) -> bool:
    return got.shape == wanted.shape and float((got - wanted).abs().max()) <= EXACT * float(wanted.abs().max())


def norm(channels: int, generator: torch.Generator) -> nn.BatchNorm2d:
    bn = nn.BatchNorm2d(channels).double().eval()
    for value in (bn.weight, bn.bias, bn.running_mean):
        assert value is not None
        value.data = noise(generator, channels)
    assert bn.running_var is not None
    bn.running_var.copy_(noise(generator, channels).exp())
    return bn


@st.composite
def form_pairs(draw: st.DrawFn) -> tuple[ConvForm, ConvForm, Tensor]:
    """Two forms that are centred on each other, of any sizes, groups and dilations, and an image."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    channels_in, channels_out = draw(st.sampled_from([(4, 4), (6, 6), (4, 8), (12, 6)]))
    common = math.gcd(channels_in, channels_out)
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    forms = []
    for _ in range(2):
        groups = draw(st.sampled_from([g for g in range(1, common + 1) if common % g == 0]))
        size = draw(st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 3, 7])))
        dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
        padding = dilation[0] * (size[0] // 2), dilation[1] * (size[1] // 2)
        kernel = noise(generator, channels_out, channels_in // groups, *size)
        forms.append(ConvForm(kernel, noise(generator, channels_out), stride, padding, dilation, groups))
    image = noise(generator, 2, channels_in, draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    return forms[0], forms[1], image


@settings(max_examples=40, deadline=None)
@given(form_pairs())
def test_the_sum_of_two_forms_is_one_form(case: tuple[ConvForm, ConvForm, Tensor]) -> None:
    a, b, x = case
    assert close(run(add(a, b), x), run(a, x) + run(b, x))


@settings(max_examples=20, deadline=None)
@given(form_pairs())
def test_the_sum_is_no_larger_than_its_forms_need(case: tuple[ConvForm, ConvForm, Tensor]) -> None:
    a, b, _ = case
    both = add(a, b)
    spans = [tuple(form.dilation[i] * (form.size[i] - 1) for i in (0, 1)) for form in (a, b, both)]
    assert spans[2] == tuple(max(spans[0][i], spans[1][i]) for i in (0, 1))
    assert both.groups == math.gcd(a.groups, b.groups)
    assert both.macs == added_macs(a, b)
    if a.size == b.size and a.dilation == b.dilation:
        assert both.size == a.size


def test_even_kernels_that_are_centred_on_each_other_add() -> None:
    g = torch.Generator().manual_seed(0)
    small = ConvForm(noise(g, 3, 3, 2, 2), noise(g, 3), padding=(1, 1))
    large = ConvForm(noise(g, 3, 3, 4, 4), noise(g, 3), padding=(2, 2))
    x = noise(g, 1, 3, 6, 5)
    assert close(run(add(small, large), x), run(small, x) + run(large, x))


@pytest.mark.parametrize("order", [1, -1])
def test_a_kernel_that_never_reads_padding_takes_any_padding_mode(order: int) -> None:
    convs = [nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"), nn.Conv2d(3, 3, 1)][::order]
    both = to_conv(add(*map(conv_form, convs)), torch.float64)
    x = noise(torch.Generator().manual_seed(0), 1, 3, 5, 5)
    with torch.no_grad():
        assert close(both(x), sum(conv.double()(x) for conv in convs))


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        (nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1), "channels differ"),
        (nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, stride=2), "strides differ"),
        (nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3), "not centred"),
        (nn.Conv2d(4, 4, 3, padding=1, stride=2), nn.Conv2d(4, 4, 2, stride=2), "not centred"),
        (nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "padding modes differ"),
    ],
)
def test_a_sum_that_is_no_convolution_is_refused(a: nn.Conv2d, b: nn.Conv2d, reason: str) -> None:
    with pytest.raises(MergeError, match=reason):
        add(conv_form(a), conv_form(b))


@settings(max_examples=20, deadline=None)
@given(form_pairs())
def test_a_folded_batchnorm_is_the_batchnorm_behind(case: tuple[ConvForm, ConvForm, Tensor]) -> None:
    form, _, x = case
    bn = norm(form.out_channels, torch.Generator().manual_seed(form.out_channels))
    with torch.no_grad():
        assert close(run(fold_batchnorm(form, bn), x), bn(run(form, x)))


def test_a_batchnorm_without_scale_and_shift_folds() -> None:
    g = torch.Generator().manual_seed(1)
    bn = nn.BatchNorm2d(4, affine=False).double().eval()
    assert bn.running_mean is not None
    bn.running_mean.copy_(noise(g, 4))
    x = noise(g, 1, 4, 3, 3)
    assert close(run(fold_batchnorm(identity_form(4), bn), x), bn(x))


def test_a_batchnorm_without_running_statistics_is_refused() -> None:
    with pytest.raises(MergeError, match="without running statistics"):
        fold_batchnorm(identity_form(4), nn.BatchNorm2d(4, track_running_stats=False))


def test_a_batchnorm_of_other_channels_is_refused() -> None:
    with pytest.raises(MergeError, match="3 channels follows 4"):
        fold_batchnorm(identity_form(4), nn.BatchNorm2d(3))


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (1, 5)])
def test_the_identity_kernel_returns_its_input(groups: int, size: tuple[int, int]) -> None:
    x = noise(torch.Generator().manual_seed(0), 2, 6, 4, 5)
    padding = (size[0] // 2, size[1] // 2)
    assert torch.equal(nn.functional.conv2d(x, identity_kernel(6, groups, size), padding=padding, groups=groups), x)


@pytest.mark.parametrize(("groups", "fewer"), [(1, 1), (6, 6), (6, 1), (6, 2), (6, 3), (2, 1), (3, 1)])
def test_expanded_groups_compute_the_same(groups: int, fewer: int) -> None:
    g = torch.Generator().manual_seed(0)
    kernel, x = noise(g, 12, 6 // groups, 3, 3), noise(g, 1, 6, 5, 5)
    expanded = expand_groups(kernel, groups, fewer)
    assert expanded.shape[:2] == (12, 6 // fewer)
    assert close(nn.functional.conv2d(x, expanded, groups=fewer), nn.functional.conv2d(x, kernel, groups=groups))


def test_a_padded_kernel_keeps_its_taps_apart() -> None:
    padded = pad_kernel(torch.ones(1, 1, 2, 1, dtype=torch.float64), (5, 3), first=(0, 1), step=(2, 1))
    assert padded.nonzero()[:, 2:].tolist() == [[0, 1], [2, 1]]


@pytest.mark.parametrize("padding", ["same", "valid", 2, (1, 0)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_layer_and_its_form_are_the_same(padding: str | int | tuple[int, int], dilation: int) -> None:
    conv = nn.Conv2d(4, 8, (3, 5), padding=padding, dilation=dilation, groups=2)
    form = conv_form(conv)
    x = torch.randn(1, 4, 11, 12, generator=torch.Generator().manual_seed(0))
    back = to_conv(form, torch.float32)
    assert form.kernel.dtype == form.bias.dtype == torch.float64
    assert torch.equal(back(x), conv(x))


def test_same_padding_of_an_even_kernel_is_refused() -> None:
    with pytest.raises(MergeError, match="more on one side"):
        conv_form(nn.Conv2d(2, 2, 4, padding="same"))


def test_what_is_not_finite_is_refused() -> None:
    form = identity_form(2)
    with pytest.raises(MergeError, match=r"bias is not finite in torch\.float32"):
        to_conv(ConvForm(form.kernel, torch.tensor([1e300, 0.0], dtype=torch.float64), groups=2), torch.float32)


def test_no_random_numbers_are_drawn() -> None:
    before = torch.random.get_rng_state()
    to_conv(identity_form(4), torch.float32)
    assert torch.equal(torch.random.get_rng_state(), before)
