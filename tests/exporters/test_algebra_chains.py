"""Layers one behind the other and side by side: one convolution, borders included, or the reason why not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_algebra import close, noise, norm
from torch import Tensor, nn

from paceline.exporters.algebra import ConvForm, MergeError, PaddingMode, add, conv_form, fold_batchnorm, identity_form, to_linear
from paceline.exporters.algebra_chains import (
    average_pool_form,
    compose,
    composed_macs,
    concat,
    densify,
    is_diagonal,
    padding_form,
    repeat,
    scale,
)

Sizes = st.tuples(st.sampled_from([1, 1, 2, 3]), st.sampled_from([1, 1, 3]))
Pairs = st.tuples(st.integers(1, 3), st.integers(1, 2))


def run(form: ConvForm, x: Tensor) -> Tensor:
    padding = form.padding
    if form.padding_mode != "zeros" and any(padding):
        x = nn.functional.pad(x, (padding[1], padding[1], padding[0], padding[0]), mode=form.padding_mode)
        padding = (0, 0)
    return nn.functional.conv2d(x, form.kernel, form.bias, form.stride, padding, form.dilation, form.groups)


@st.composite
def forms(draw: st.DrawFn, channels: tuple[int, int], *, padded: bool = True, mode: PaddingMode = "zeros") -> ConvForm:
    """Any convolution: groups, sizes, strides, dilations, paddings, odd ones and uneven ones."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    common = math.gcd(*channels)
    groups = draw(st.sampled_from([g for g in range(1, common + 1) if common % g == 0]))
    size, stride, dilation = draw(Sizes), draw(Pairs), draw(Pairs)
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2))) if padded else (0, 0)
    kernel = noise(generator, channels[1], channels[0] // groups, *size)
    return ConvForm(kernel, noise(generator, channels[1]), stride, padding, dilation, groups, mode)


@st.composite
def chains(draw: st.DrawFn) -> tuple[ConvForm, ConvForm, Tensor]:
    a, b, c = (draw(st.sampled_from([4, 6, 12])) for _ in range(3))
    image = noise(
        torch.Generator().manual_seed(draw(st.integers(0, 99))), 2, a, draw(st.integers(5, 13)), draw(st.integers(5, 13))
    )
    first = draw(forms((a, b), mode=draw(st.sampled_from(["zeros", "zeros", "reflect", "circular"]))))
    return first, draw(forms((b, c), mode=first.padding_mode)), image


def outputs(first: ConvForm, second: ConvForm, x: Tensor) -> Tensor:
    try:
        return run(second, run(first, x))
    except RuntimeError:  # the image is too small for this chain
        assume(False)
        raise


@settings(max_examples=60, deadline=None)
@given(chains())
def test_a_layer_behind_that_does_not_pad_makes_one_kernel(case: tuple[ConvForm, ConvForm, Tensor]) -> None:
    """III, III-b, III-g, III-dw, III-k, X: all sizes, strides, dilations and groups of both."""
    first, second, x = case
    second = replace(second, padding=(0, 0))
    wanted = outputs(first, second, x)
    both = compose(first, second)
    assert close(run(both, x), wanted)
    assert both.macs == composed_macs(first, second)
    assert both.groups == math.gcd(first.groups, second.groups)


@settings(max_examples=60, deadline=None)
@given(chains())
def test_a_layer_behind_that_pads_needs_a_pointwise_one_without_bias(case: tuple[ConvForm, ConvForm, Tensor]) -> None:
    first, second, x = case
    wanted = outputs(first, second, x)
    padded = [i for i in (0, 1) if second.padding[i]]
    pointwise = all(first.size[i] == 1 for i in padded)
    zeros = first.padding_mode == "zeros"
    free = all(first.stride[i] == 1 and not first.padding[i] for i in padded)
    if not padded or (pointwise and not zeros and free):
        assert close(run(compose(first, second), x), wanted)
        return
    reason = "padding inside" if not pointwise or not zeros else "zero padding with a bias"
    with pytest.raises(MergeError, match=reason):
        compose(first, second)
    if pointwise and zeros:
        plain = replace(first, bias=torch.zeros_like(first.bias))
        assert close(run(compose(plain, second), x), outputs(plain, second, x))


@settings(max_examples=40, deadline=None)
@given(chains(), st.integers(1, 2))
def test_padding_filled_with_the_bias_is_exact(case: tuple[ConvForm, ConvForm, Tensor], padding: int) -> None:
    """III and V with "BN-with-bias padding": what is padded behind the 1x1 is its bias."""
    first, second, x = case
    generator = torch.Generator().manual_seed(1)
    point = ConvForm(noise(generator, first.out_channels, first.in_channels, 1, 1), first.bias)
    point = fold_batchnorm(point, norm(first.out_channels, generator))
    behind = replace(second, padding=(0, 0))
    filled = nn.functional.pad(run(point, x) - point.bias.view(1, -1, 1, 1), (padding,) * 4) + point.bias.view(1, -1, 1, 1)
    try:
        wanted = run(behind, filled)
    except RuntimeError:
        assume(False)
        raise
    zero = replace(point, bias=torch.zeros_like(point.bias))
    alone = compose(zero, repeat(padding_form((padding, padding)), point.out_channels))
    again = scale(alone, torch.ones_like(point.bias), point.bias)
    assert close(run(compose(again, behind), x), wanted)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(2, 2), (3, 3), (3, 2)])
def test_an_average_pool_is_a_kernel(groups: int, size: tuple[int, int]) -> None:
    g = torch.Generator().manual_seed(groups)
    x, stride, padding = noise(g, 2, 8, 7, 9), (2, 1), (1, 1)
    pool = nn.AvgPool2d(size, stride, padding)
    form = repeat(average_pool_form(size, stride, padding), 8)
    assert close(run(form, x), pool(x))
    conv = ConvForm(noise(g, 8, 8 // groups, 1, 1), noise(g, 8), groups=groups)
    alone = nn.AvgPool2d(size, stride)
    assert close(run(compose(conv, repeat(average_pool_form(size, stride), 8)), x), alone(run(conv, x)))
    assert close(
        run(repeat(average_pool_form(size, stride, padding, count_include_pad=False, divisor=5), 8), x),
        nn.AvgPool2d(size, stride, padding, count_include_pad=False, divisor_override=5)(x),
    )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_batchnorm_before_a_convolution_without_padding(data: st.DataObject) -> None:
    """I'': its scale goes into the kernel, its shift into the bias."""
    form = data.draw(forms((6, 12), padded=False))
    g = torch.Generator().manual_seed(3)
    bn, x = norm(6, g), noise(g, 2, 6, 9, 8)
    before = fold_batchnorm(identity_form(6), bn)
    with torch.no_grad():
        wanted = run(form, bn(x))
    both = compose(before, form)
    assert close(run(both, x), wanted)
    assert (both.groups, both.size) == (form.groups, form.size)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_concatenation_is_one_convolution(data: st.DataObject) -> None:
    """IV, dense and with the groups interleaved, kernels of different sizes centred."""
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    groups = data.draw(st.sampled_from([1, 2, 4]))
    stride = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    branches = []
    for _ in range(data.draw(st.integers(1, 3))):
        size = data.draw(st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 3])))
        out = data.draw(st.sampled_from([4, 8, 12]))
        padding = (size[0] // 2, size[1] // 2)
        branches.append(ConvForm(noise(g, out, 8 // groups, *size), noise(g, out), stride, padding, groups=groups))
    x = noise(g, 2, 8, 7, 6)
    wanted = [run(form, x) for form in branches]
    dense, interleaved = concat(branches), concat(branches, interleaved=True)
    assert close(run(dense, x), torch.cat(wanted, 1))
    assert (dense.groups, interleaved.groups) == (1, groups)
    by_group = [torch.cat([y.chunk(groups, 1)[q] for y in wanted], 1) for q in range(groups)]
    assert close(run(interleaved, x), torch.cat(by_group, 1))


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_dense_kernel_and_a_scale_compute_the_same(groups: int) -> None:
    """IX and XI."""
    g = torch.Generator().manual_seed(groups)
    form = ConvForm(noise(g, 8, 8 // groups, 3, 3), noise(g, 8), (2, 1), (1, 1), (1, 2), groups)
    x, factor, shift = noise(g, 1, 8, 7, 9), noise(g, 8), noise(g, 8)
    assert densify(form).groups == 1
    assert close(run(densify(form), x), run(form, x))
    wanted = run(form, x) * factor.view(-1, 1, 1) + shift.view(-1, 1, 1)
    assert close(run(scale(form, factor, shift), x), wanted)


def test_a_linear_layer_and_a_batchnorm_behind() -> None:
    """I for matrices."""
    g = torch.Generator().manual_seed(0)
    linear, bn = nn.Linear(6, 4).double(), nn.BatchNorm1d(4).double().eval()
    bn.running_mean.copy_(noise(g, 4))
    x = noise(g, 5, 6)
    form = fold_batchnorm(ConvForm(linear.weight.detach()[:, :, None, None], linear.bias.detach()), bn)
    with torch.no_grad():
        assert close(to_linear(form, torch.float64)(x), bn(linear(x)))


def test_a_stride_in_the_layer_before_becomes_a_dilation() -> None:
    """X: the 3x3 of the same stride would be another function."""
    g = torch.Generator().manual_seed(0)
    point = ConvForm(noise(g, 4, 4, 1, 1), torch.zeros(4, dtype=torch.float64), stride=(2, 2))
    dense = ConvForm(noise(g, 4, 4, 3, 3), noise(g, 4), padding=(1, 1))
    both = compose(point, dense)
    assert (both.stride, both.dilation, both.padding, both.size) == ((2, 2), (2, 2), (2, 2), (3, 3))
    x = noise(g, 1, 4, 9, 10)
    assert close(run(both, x), run(dense, run(point, x)))
    wrong = replace(both, dilation=(1, 1), padding=(1, 1))
    assert not close(run(wrong, x), run(dense, run(point, x)))


def test_a_dilated_kernel_lies_in_a_larger_one() -> None:
    """VI, VII, VIII: 3x3 of dilation 2, 1x5 and 1x1 in one 5x5."""
    g = torch.Generator().manual_seed(0)
    sizes = {(3, 3): ((2, 2), (2, 2)), (1, 5): ((0, 2), (1, 1)), (1, 1): ((0, 0), (1, 1)), (5, 5): ((2, 2), (1, 1))}
    branches = [ConvForm(noise(g, 4, 4, *size), noise(g, 4), (1, 1), p, d) for size, (p, d) in sizes.items()]
    x, total = noise(g, 1, 4, 8, 7), branches[0]
    for branch in branches[1:]:
        total = add(total, branch)
    assert (total.size, total.dilation) == ((5, 5), (1, 1))
    assert close(run(total, x), sum(run(branch, x) for branch in branches))


@pytest.mark.parametrize("larger_padding", [0, 1])
def test_a_smaller_kernel_with_less_padding_crops(larger_padding: int) -> None:
    """VI where the padding is not half of the kernel: a negative one for the smaller kernel, which crops its input (ACNet)."""
    g = torch.Generator().manual_seed(0)
    large = ConvForm(noise(g, 4, 4, 5, 5), noise(g, 4), padding=(larger_padding,) * 2)
    small = ConvForm(noise(g, 4, 4, 3, 3), noise(g, 4), padding=(larger_padding - 1,) * 2)
    x = noise(g, 1, 4, 9, 8)
    cropped = x[..., 1:-1, 1:-1] if larger_padding == 0 else x
    wanted = run(large, x) + nn.functional.conv2d(cropped, small.kernel, small.bias)
    assert close(run(add(large, small), x), wanted)


def test_a_pad_and_a_convolution_are_a_convolution_that_pads() -> None:
    g = torch.Generator().manual_seed(0)
    conv, x = conv_form(nn.Conv2d(4, 4, 3, padding=1).double()), noise(g, 1, 4, 6, 5)
    both = compose(repeat(padding_form((2, 1)), 4), conv)
    assert both.padding == (3, 2)
    assert close(run(both, x), run(conv, nn.functional.pad(x, (1, 1, 2, 2))))


def test_a_diagonal_form_is_known() -> None:
    assert is_diagonal(identity_form(4))
    assert not is_diagonal(repeat(average_pool_form((2, 2), (2, 2)), 4))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: average_pool_form((3, 3), (1, 1), (1, 1), count_include_pad=False), "count_include_pad=False"),
        (lambda: average_pool_form((3, 3), (2, 2), ceil_mode=True), "ceil_mode=True"),
        (lambda: padding_form((1, 1), "constant", 0.5), "padding with 0.5"),
        (lambda: padding_form((1, 1), "wrap"), "padding mode 'wrap'"),
        (lambda: repeat(identity_form(2), 4), "only a form of one channel"),
        (lambda: compose(identity_form(4), identity_form(3)), "channels differ: 4 are given and 3 are read"),
        (lambda: add(identity_form(4), replace(identity_form(4), stride=(2, 2))), "strides differ"),
        (lambda: add(identity_form(4), identity_form(3)), "channels differ"),
        (lambda: concat([identity_form(4), replace(identity_form(4), stride=(2, 2))]), "strides differ"),
        (lambda: concat([identity_form(4), densify(identity_form(4))], interleaved=True), "groups differ"),
        (
            lambda: compose(
                conv_form(nn.Conv2d(2, 2, 1, padding=1, padding_mode="reflect")), conv_form(nn.Conv2d(2, 2, 3, padding=1))
            ),
            "padding modes differ: reflect and then zeros",
        ),
        (
            lambda: compose(conv_form(nn.Conv2d(2, 2, 3, padding=1)), conv_form(nn.Conv2d(2, 2, 3, padding=1))),
            "padding inside",
        ),
        (
            lambda: compose(
                conv_form(nn.Conv2d(2, 2, 1, stride=2)), conv_form(nn.Conv2d(2, 2, 3, padding=1, padding_mode="replicate"))
            ),
            "padding inside: replicate",
        ),
    ],
)
def test_what_no_kernel_computes_is_refused(make: object, reason: str) -> None:
    with pytest.raises(MergeError, match=reason):
        make()  # type: ignore[operator]
