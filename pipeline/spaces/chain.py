"""A space as data: a chain of slots between a stem and a tail. Nothing here needs torch before something is built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from paceline.arch import Arch, Choice, Space
from paceline.errors import SpaceError
from paceline.pipeline.spaces.options import (
    ActName,
    MBConvOp,
    MultiKernelOp,
    Op,
    RepConvOp,
    Se,
    SkipOp,
    StabilisedSkipOp,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Chain",
    "MBConvOp",
    "MultiKernelOp",
    "Op",
    "RepConvOp",
    "Se",
    "SkipOp",
    "Slot",
    "StabilisedSkipOp",
    "Stage",
    "Stem",
    "Tail",
    "Widths",
    "slots_of",
]


@dataclass(frozen=True)
class Stem:
    """The fixed start: a convolution with BatchNorm, and where `separable` names its width a depthwise separable block.

    `separable_act=None` is the stem's own activation; the separable block has none behind its 1x1 convolution and no shortcut.
    `rep` makes the convolution a RepConv, whose kernel is 3 and whose activation is ReLU.
    """

    channels: int
    stride: int = 2
    kernel: int = 3
    act: ActName = "relu6"
    separable: int | None = None
    separable_act: ActName | None = None
    rep: bool = False

    @property
    def width(self) -> int:
        """The channels that it gives to the first slot."""
        return self.channels if self.separable is None else self.separable


@dataclass(frozen=True)
class Tail:
    """The fixed end: 1x1 convolution with BatchNorm, global average, dropout, classifier with bias.

    `second` puts a 1x1 convolution of that width behind the average, without bias and BatchNorm (MoGA). `channels=None` leaves
    the 1x1 convolution out (RepVGG).
    """

    channels: int | None
    act: ActName = "relu6"
    second: int | None = None
    dropout: float = 0.0


@dataclass(frozen=True)
class Widths:
    """A number of channels that is to be decided: the number of each option. Slots that share it always agree."""

    name: str
    channels: Mapping[str, int]

    @property
    def choice(self) -> Choice:
        return Choice(self.name, tuple(self.channels))


@dataclass(frozen=True)
class Slot:
    """A place for one of several operations, or for the sum of some of them where `at_most` is above 1.

    With `reads` and `writes` the channels at its input and output are to be decided too; `c_in` and `c_out` are then one of
    their numbers. Raises SpaceError where an option does not fit the shapes.
    """

    name: str
    c_in: int
    c_out: int
    stride: int
    options: Mapping[str, Op]
    at_least: int = 1
    at_most: int = 1
    reads: Widths | None = None
    writes: Widths | None = None

    def __post_init__(self) -> None:
        for name, op in self.options.items():
            if not op.fits(self):
                raise SpaceError(
                    f"slot {self.name!r} goes from {self.c_in} to {self.c_out} channels with stride {self.stride}, which option "
                    f"{name!r} ({type(op).__name__}) can't; leave it out there"
                )

    @property
    def keeps_shape(self) -> bool:
        """Whether an identity is legal."""
        return self.stride == 1 and self.c_in == self.c_out and self.reads == self.writes

    @property
    def choice(self) -> Choice:
        """What is to be decided about the slot itself."""
        return Choice(self.name, tuple(self.options), self.at_least, self.at_most)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """All that is to be decided here: the slot's own choice, those inside its options, each once, and a new width."""
        inner = (choice for op in self.options.values() for choice in op.choices(self))
        new = () if self.writes is None or self.writes == self.reads else (self.writes.choice,)
        return tuple(dict.fromkeys((self.choice, *inner, *new)))

    @property
    def widths(self) -> tuple[Widths, ...]:
        """Those that its channels follow, each once."""
        found = (self.reads,) if self.reads == self.writes else (self.reads, self.writes)
        return tuple(widths for widths in found if widths is not None)

    def sized(self, channels: Mapping[str, int]) -> Slot:
        """The same slot where the widths, by their names, have these numbers of channels."""
        c_in = self.c_in if self.reads is None else channels[self.reads.name]
        return replace(self, c_in=c_in, c_out=self.c_out if self.writes is None else channels[self.writes.name])


@dataclass(frozen=True)
class Stage:
    """Slots of one width; `stride` is that of the first."""

    channels: int
    layers: int
    stride: int


def slots_of(c_in: int, stages: Iterable[Stage], options: Callable[[Stage], Mapping[str, Op]]) -> tuple[Slot, ...]:
    """The slots "stage1_layer1", … of stages behind `c_in` channels; in each the `options` of its stage that fit there."""
    slots: list[Slot] = []
    for number, stage in enumerate(stages, 1):
        for layer in range(stage.layers):
            empty = Slot(f"stage{number}_layer{layer + 1}", c_in, stage.channels, stage.stride if layer == 0 else 1, {})
            fitting = {name: op for name, op in options(stage).items() if op.fits(empty)}
            slots.append(Slot(empty.name, empty.c_in, empty.c_out, empty.stride, fitting))
            c_in = stage.channels
    return tuple(slots)


@dataclass(frozen=True)
class Chain:
    """A network of slots: stem, one operation for each slot, tail. Images (N, in_channels, image_size, image_size) -> logits.

    Without a stem the first slot reads the images (RepVGG). Raises SpaceError where widths of neighbours disagree, a slot has no
    option, or the strides leave nothing of the image.
    """

    name: str
    stem: Stem | None
    slots: Sequence[Slot]
    tail: Tail
    in_channels: int = 3
    classes: int = 1000
    image_size: int = 224

    def __post_init__(self) -> None:
        if not self.slots:
            raise SpaceError(f"chain {self.name!r} has no slot, so there is nothing to choose")
        width, shrink = (self.in_channels, 1) if self.stem is None else (self.stem.width, self.stem.stride)
        widths: Widths | None = None
        for slot in self.slots:
            if slot.c_in != width:
                raise SpaceError(f"slot {slot.name!r} reads {slot.c_in} channels, but {width} come in; make them equal")
            if slot.reads != widths:
                names = [w.name if w else "no width that is to be decided" for w in (slot.reads, widths)]
                raise SpaceError(f"slot {slot.name!r} reads {names[0]}, but {names[1]} comes in; make them the same")
            width, widths, shrink = slot.c_out, slot.writes, shrink * slot.stride
        if self.image_size < shrink:
            raise SpaceError(
                f"images of {self.image_size} pixels are too small for a total stride of {shrink}; lower a stride or enlarge them"
            )
        if self.tail.channels is None and widths is not None:
            raise SpaceError(f"chain {self.name!r} ends with {widths.name}, a width to be decided; give its tail channels")
        self.space()

    def for_images(self, in_channels: int, classes: int, image_size: int) -> Chain:
        """The same space for other images. Raises SpaceError where they are too small for the strides."""
        slots = self.slots if self.stem is not None else (replace(self.slots[0], c_in=in_channels), *self.slots[1:])
        return replace(self, slots=slots, in_channels=in_channels, classes=classes, image_size=image_size)

    def space(self) -> Space:
        """What is to be decided, in order; the same as `space_of` of the supernet."""
        return Space(tuple(choice for slot in self.slots for choice in slot.choices))

    def arch(self, picks: str) -> Arch:
        """An architecture from words in the order of the choices, "k3e6 k7e3 skip …"; "k3+k5" takes several options.

        Raises SpaceError where they are not of this space.
        """
        words = picks.split()
        choices = self.space().choices
        if len(words) != len(choices):
            raise SpaceError(f"{self.name} asks {len(choices)} choices, got {len(words)} words")
        arch = Arch(tuple((c.name, tuple(word.split("+"))) for c, word in zip(choices, words, strict=True)))
        self.space().check(arch)
        return arch

    def supernet(self, seed: int) -> nn.Module:
        """All architectures in one network, one `Mixed` for each choice. `seed` makes the weights.

        The inverted residuals of a slot start aligned (`paceline.pipeline.ops.align`), which speeds up their training.
        """
        from paceline.pipeline.spaces.build import supernet

        return supernet(self, seed)

    def network(self, arch: Arch, seed: int) -> nn.Module:
        """One architecture by itself, nothing else is built. `seed` makes the weights.

        Its parts have the names and shapes that `derive(supernet, arch)` gives them, stabilised skips are identities.
        Raises SpaceError where `arch` is not of this space.
        """
        self.space().check(arch)
        from paceline.pipeline.spaces.build import network

        return network(self, arch, seed)
