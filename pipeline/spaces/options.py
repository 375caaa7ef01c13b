"""What a slot of a chain can hold, as data. Nothing here needs torch before something is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from paceline.arch import Arch, Choice

if TYPE_CHECKING:
    from torch import nn

    from paceline.pipeline.spaces.chain import Slot

ActName = Literal["relu", "relu6", "hswish", "swish"]
GateName = Literal["hsigmoid", "sigmoid"]


def multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and never more than 10 % below `channels` (the MobileNet rule)."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


class Op(Protocol):
    """One option of a slot. A new kind of option is a frozen dataclass that inherits from this."""

    def fits(self, slot: Slot) -> bool:
        """Whether it maps the slot's input shape to its output shape."""
        return True

    def choices(self, slot: Slot) -> tuple[Choice, ...]:
        """What is to be decided inside it, besides the slot's own choice."""
        return ()

    def build(self, slot: Slot, arch: Arch | None) -> nn.Module:
        """The module: with `arch` what stands in the network of that architecture, without it what stands in a supernet."""
        raise NotImplementedError


@dataclass(frozen=True)
class Se:
    """Squeeze-and-excitation (Hu et al. 2018) behind the depthwise activation; both of its convolutions have a bias.

    Its inner width is `ratio` times the block's hidden or input channels, rounded down or to a multiple of 8. `act=None` is the
    block's own activation.
    """

    ratio: float = 0.25
    base: Literal["hidden", "input"] = "hidden"
    rounding: Literal["down", "multiple_of_8"] = "down"
    act: ActName | None = "relu"
    gate: GateName = "hsigmoid"

    def width(self, c_in: int, hidden: int) -> int:
        """Its inner channels in a block of these channels."""
        channels = self.ratio * (hidden if self.base == "hidden" else c_in)
        return multiple_of_8(channels) if self.rounding == "multiple_of_8" else max(1, int(channels))


@dataclass(frozen=True)
class MBConvOp(Op):
    """Inverted residual (MobileNetV2): expand, depthwise, perhaps squeeze-and-excitation, project; see `ops.MBConv`."""

    kernel: int
    expansion: float
    se: Se | None = None
    act: ActName = "relu6"
    shortcut: bool = True
    """Whether the input is added where shapes agree."""

    def build(self, slot: Slot, arch: Arch | None) -> nn.Module:
        from paceline.pipeline.spaces.build import mbconv

        return mbconv(self, slot)


@dataclass(frozen=True)
class RepConvOp(Op):
    """A block of several branches that becomes one 3x3 convolution (RepVGG); see `ops.RepConv`."""

    def build(self, slot: Slot, arch: Arch | None) -> nn.Module:
        from paceline.pipeline.ops import RepConv

        return RepConv(slot.c_in, slot.c_out, slot.stride)


@dataclass(frozen=True)
class SkipOp(Op):
    """Identity: the layer is left out."""

    def fits(self, slot: Slot) -> bool:
        return slot.keeps_shape

    def build(self, slot: Slot, arch: Arch | None) -> nn.Module:
        from paceline.pipeline.ops import Skip

        return Skip(slot.c_in, slot.c_out, slot.stride)


@dataclass(frozen=True)
class StabilisedSkipOp(Op):
    """A skip that is a learned 1x1 convolution in the supernet and an identity in the network (SCARLET-NAS)."""

    start: Literal["identity", "kaiming"] = "identity"

    def fits(self, slot: Slot) -> bool:
        return slot.keeps_shape

    def build(self, slot: Slot, arch: Arch | None) -> nn.Module:
        from paceline.pipeline.ops import Skip, StabilisedSkip

        if arch is not None:
            return Skip(slot.c_in, slot.c_out, slot.stride)
        return StabilisedSkip(slot.c_in, slot.c_out, slot.stride, self.start)


@dataclass(frozen=True)
class MultiKernelOp(Op):
    """Inverted residual whose depthwise part is the sum of 1 to `at_most` kernels (MixPath, Chu et al. 2023, section 3).

    The kernels are a choice of their own, "<slot>_kernels" with the options "k3", "k5", …, which all such options of a slot
    share: one decision serves whichever of them the slot takes. Each kernel of each option has its own weights and BatchNorm.
    The projection is followed by a shadow BatchNorm (`shadow`) or by an ordinary one.
    """

    expansion: float
    kernels: tuple[int, ...]
    at_most: int
    act: ActName = "relu6"
    shadow: bool = True

    def choices(self, slot: Slot) -> tuple[Choice, ...]:
        return (Choice(f"{slot.name}_kernels", tuple(f"k{k}" for k in self.kernels), 1, self.at_most),)

    def build(self, slot: Slot, arch: Arch | None) -> nn.Module:
        from paceline.pipeline.spaces.build import multi_kernel

        return multi_kernel(self, slot, arch)
