"""The authors' checkpoints: under which names their code keeps the weights of these networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from paceline.errors import DataError
from paceline.pipeline.zoo.building import build

Names = Mapping[str, tuple[str, ...]]
"""Our module -> its name in the authors' code, or the names that it has in different repositories."""


@dataclass(frozen=True)
class _Layout:
    """The names of the fixed parts, of the parts of a block, and of the blocks in the order of the slots."""

    fixed: Names
    block: Names
    blocks: tuple[str, ...]


_CLASSIFIER = "classifier", "classifier.1"  # behind a dropout in a Sequential: FairNAS, and every network transferred to CIFAR

# models/{FairNAS,Scarlet,MoGA}_{A,B,C}.py of xiaomi-automl/{FairNAS,SCARLET-NAS,MoGA}
_XIAOMI = _Layout(
    fixed={
        "stem.conv": ("stem.0",),
        "stem.bn": ("stem.1",),
        "separable.body.depthwise.conv": ("separable_conv.0",),
        "separable.body.depthwise.bn": ("separable_conv.1",),
        "separable.body.project.conv": ("separable_conv.3",),
        "separable.body.project.bn": ("separable_conv.4",),
        "head.conv": ("conv_before_pooling.0",),
        "head.bn": ("conv_before_pooling.1",),
        "second.conv": ("conv_head.0",),
        "classifier": _CLASSIFIER,
    },
    block={
        "body.expand.conv": ("conv1",),
        "body.expand.bn": ("bn1",),
        "body.depthwise.conv": ("conv2",),
        "body.depthwise.bn": ("bn2",),
        "body.squeeze.reduce": ("mid_se.squeeze_conv", "mid_se.conv.0"),  # SCARLET, MoGA
        "body.squeeze.expand": ("mid_se.excite_conv", "mid_se.fc.0"),
        "body.project.conv": ("conv3",),
        "body.project.bn": ("bn3",),
    },
    blocks=tuple(f"mb_module.{i}" for i in range(19)),
)

# models/timm_models.py of xiaomi-automl/FairNAS: a timm EfficientNet, whose stages hold 1 (the separable block), 1, 1, 4, 8 and 5
_TIMM = _Layout(
    fixed={
        "stem.conv": ("conv_stem",),
        "stem.bn": ("bn1",),
        "separable.body.depthwise.conv": ("blocks.0.0.conv_dw",),
        "separable.body.depthwise.bn": ("blocks.0.0.bn1",),
        "separable.body.project.conv": ("blocks.0.0.conv_pw",),
        "separable.body.project.bn": ("blocks.0.0.bn2",),
        "head.conv": ("conv_head",),
        "head.bn": ("bn2",),
        "classifier": _CLASSIFIER,
    },
    block={
        "body.expand.conv": ("conv_pw",),
        "body.expand.bn": ("bn1",),
        "body.depthwise.conv": ("conv_dw",),
        "body.depthwise.bn": ("bn2",),
        "body.squeeze.reduce": ("se.conv_reduce",),
        "body.squeeze.expand": ("se.conv_expand",),
        "body.project.conv": ("conv_pwl",),
        "body.project.bn": ("bn3",),
    },
    blocks=tuple(f"blocks.{stage}.{i}" for stage, length in enumerate((1, 1, 4, 8, 5), 1) for i in range(length)),
)

_SHOWN = 5
"""So many names of each kind an error tells."""


def load_official(network: nn.Module | str, state: Mapping[str, Tensor]) -> nn.Module:
    """Puts a state dict of the authors' code into a network of the zoo, by its name or as `build` made it; returns that network.

    The repositories are xiaomi-automl/FairNAS (plain networks, and SE networks on timm), SCARLET-NAS and MoGA; their checkpoints
    keep the state dict under "model_state". Counters of BatchNorm (num_batches_tracked) may be missing. A state dict with the
    names of `build`'s own network fits, too.

    Raises DataError with what is missing, left over or of another shape; then the network is as it was.
    """
    net = build(network, seed=0) if isinstance(network, str) else network
    own = net.state_dict()
    theirs = {key: _official(key, net, state) for key in own}
    missing = [name for key, name in theirs.items() if name not in state and not key.endswith(".num_batches_tracked")]
    unexpected = sorted(set(state) - set(theirs.values()))
    shapes = [
        f"{name} is {_shape(state[name])} and should be {_shape(own[key])}"
        for key, name in theirs.items()
        if name in state and state[name].shape != own[key].shape
    ]
    wrong = [
        f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of other shapes", shapes))
        if names
    ]
    if wrong:
        raise DataError(
            f"the state dict is not that of this network; {'; '.join(wrong)}. Name the network that the weights are of, built "
            "for their number of classes"
        )
    net.load_state_dict({key: state.get(name, own[key]) for key, name in theirs.items()})
    return net


def _official(key: str, net: nn.Module, state: Mapping[str, Tensor]) -> str:
    """The name of one of our tensors in `state`, or the one that it should have."""
    if "stem.conv.weight" in state:  # our own names
        return key
    layout = _TIMM if "conv_stem.weight" in state else _XIAOMI
    module, _, tensor = key.rpartition(".")
    slot, _, part = module.partition(".")
    blocks = dict(zip((name for name, _ in net.named_children() if name not in _FIXED), layout.blocks, strict=False))
    if slot in blocks:
        names = tuple(f"{blocks[slot]}.{name}" for name in layout.block.get(part, (part,)))
    else:
        names = layout.fixed.get(module, (module,))
    candidates = [f"{name}.{tensor}" for name in names]
    return next((name for name in candidates if name in state), candidates[0])


_FIXED = ("stem", "separable", "head", "pool", "second", "flatten", "dropout", "classifier")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
