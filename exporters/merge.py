"""Merge what training kept apart: BatchNorm into convolutions and parallel linear branches into one convolution, exactly.

Found in the traced graph of any network, not by the class of its blocks: whatever reads one tensor, is linear and is summed
becomes one Conv2d (RepVGG, Ding et al. 2021; ACNet, Ding et al. 2019; MobileOne, Vasu et al. 2023).
"""

from __future__ import annotations

import copy
import itertools
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from paceline.exporters.algebra import ConvForm, MergeError, add, conv_form, fold_batchnorm, identity_form, to_conv

__all__ = ["Merge", "MergeError", "Merged", "check_merge", "merged"]


@dataclass(frozen=True)
class Merge:
    """One place that became a single convolution: `name` is the module path of that convolution in the merged network."""

    name: str
    branches: tuple[str, ...]
    """What was merged, one text for each branch of the sum, with module paths."""
    params_before: int
    params_after: int


@dataclass(frozen=True)
class Merged:
    """A merged network in evaluation mode, and where it was merged, in execution order."""

    module: nn.Module
    report: tuple[Merge, ...]


def merged(module: nn.Module) -> Merged:
    """A new network that computes the same in evaluation: BatchNorms folded, parallel linear branches merged into one Conv2d.

    Kernels are computed in float64 and cast once. What has no exact merge stays as it is (a non-linearity between, different
    strides, a value that is read elsewhere too, kernels that are not centred on each other), and so does what would cost more
    multiply-accumulates in fewer groups or without dilation. `module` itself is not changed.

    Raises MergeError where torch.fx can't trace the network, or a BatchNorm has no running statistics.
    """
    network = _trace(module)
    report = _Merger(network).merge()
    network.graph.lint()
    # Built anew: it then holds what the graph calls, in that order, and nothing else.
    return Merged(fx.GraphModule(network, network.graph, type(module).__name__).eval(), report)


def check_merge(before: nn.Module, after: nn.Module, example: Tensor | tuple[Tensor, ...], tolerance: float = 1e-5) -> float:
    """The largest difference between the outputs of two networks in evaluation, relative to the largest output. Returns it.

    Borders count like the rest, but a default-initialised BatchNorm hides mistakes there: check trained or randomised statistics.
    Raises MergeError where the error exceeds `tolerance`, or is not a number, or the outputs differ in number or shape.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    # Copies: evaluation mode here must not change the caller's networks, nor an in-place operator the caller's tensors.
    with torch.no_grad():
        wanted, got = (list(_tensors(copy.deepcopy(net).eval()(*(x.clone() for x in inputs)))) for net in (before, after))
    if [t.shape for t in wanted] != [t.shape for t in got]:
        raise MergeError(f"merged outputs have shapes {[tuple(t.shape) for t in got]}, not {[tuple(t.shape) for t in wanted]}")
    error = max((_relative_error(w.double(), g.double()) for w, g in zip(wanted, got, strict=True)), default=0.0)
    if not error <= tolerance:  # NaN is no match either
        raise MergeError(
            f"the merged network differs from the original by {error:.3g} relative, more than {tolerance:.3g}: do not export it; "
            "if its forward depends on more than its inputs, make it a function of them, else report this network"
        )
    return error


@dataclass(frozen=True, eq=False)
class _Linear:
    """Nodes, in execution order, that compute one convolution of `source`; the last is its value. An identity has none."""

    source: fx.Node
    form: ConvForm
    branches: tuple[str, ...]
    convs: tuple[str, ...]
    nodes: tuple[fx.Node, ...]

    @property
    def value(self) -> fx.Node:
        return self.nodes[-1] if self.nodes else self.source


class _Merger:
    """Rewrites one traced network. `linear` holds every node known to be a convolution and not yet taken into a larger one."""

    def __init__(self, network: fx.GraphModule) -> None:
        self.network = network
        self.nodes = list(network.graph.nodes)
        self.order = {node: i for i, node in enumerate(self.nodes)}
        self.modules = dict(network.named_modules())
        self.calls = Counter(node.target for node in self.nodes if node.op == "call_module")
        self.linear: dict[fx.Node, _Linear] = {}
        self.placed: dict[tuple[str, ...], tuple[int, Merge]] = {}

    def merge(self) -> tuple[Merge, ...]:
        for node in self.nodes:
            if _is_sum(node):
                if not (len(node.users) == 1 and _is_sum(*node.users)):
                    self._visit_sum(node)
            elif node.op == "call_module" and len(node.args) == 1 and not node.kwargs and isinstance(node.args[0], fx.Node):
                self._visit_module(node, node.args[0])
        for node, linear in self.linear.items():
            if linear.convs and len(linear.nodes) > 1:
                node.replace_all_uses_with(self._place(linear))
                self._erase(linear.nodes)
        return tuple(merge for _, merge in sorted(self.placed.values(), key=lambda placed: placed[0]))

    def _visit_module(self, node: fx.Node, read: fx.Node) -> None:
        path, module = str(node.target), self.modules[str(node.target)]
        if _is_plain(module, nn.Conv2d):
            try:
                form = conv_form(module)
            except MergeError:
                return  # no form, so it stays
            self.linear[node] = _Linear(read, form, (_in_words(form, path),), (path,), (node,))
        elif isinstance(module, nn.Identity | _DropoutNd) and not _has_hooks(module):
            node.replace_all_uses_with(read)
            self._erase((node,))
        elif isinstance(module, _BatchNorm) and module.running_mean is None:
            raise MergeError(
                f"BatchNorm {path!r} keeps no running statistics: it normalises by the batch it sees, which no kernel can. "
                "Build it with track_running_stats=True and run some training batches through it"
            )
        elif _is_plain(module, nn.BatchNorm2d) or _is_plain(module, nn.SyncBatchNorm):
            before = self._taken(read)
            if before is None:
                alone = fold_batchnorm(identity_form(module.num_features), module)
                self.linear[node] = _Linear(read, alone, (f"BatchNorm {path}",), (), (node,))
            else:
                del self.linear[read]
                words = tuple(f"{branch} + BatchNorm {path}" for branch in before.branches)
                folded = fold_batchnorm(before.form, module)
                self.linear[node] = replace(before, form=folded, branches=words, nodes=(*before.nodes, node))

    def _visit_sum(self, root: fx.Node) -> None:
        sums, terms = _flattened(root)
        united, kept = self._united(terms)
        taken = [node for linear in united for node in linear.nodes]
        if not united or not self._is_safe(root, {*sums, *taken}):
            return
        for node in taken:
            self.linear.pop(node, None)
        if len(united) == 1 and not kept:
            self.linear[root] = replace(united[0], nodes=self._in_order([*taken, *sums]))
            return
        total, *others = [*(self._place(linear) for linear in united), *kept]
        with self.network.graph.inserting_before(root):
            for other in others:
                total = self.network.graph.call_function(operator.add, (total, other))
        root.replace_all_uses_with(total)
        self._erase([*taken, *sums])

    def _united(self, terms: Sequence[fx.Node]) -> tuple[list[_Linear], list[fx.Node]]:
        """The terms of a sum: those that unite into convolutions, and those that stay as they are."""
        taken = [self._taken(term) for term in terms]
        channels = {linear.source: linear.form.in_channels for linear in taken if linear}
        branches, kept = [], []
        for term, linear in zip(terms, taken, strict=True):
            if linear:
                branches.append(linear)
            elif term in channels:
                branches.append(_Linear(term, identity_form(channels[term]), ("identity",), (), ()))
            else:
                kept.append(term)
        # Convolutions first and the densest before all: it hosts what can be expanded for nothing.
        branches.sort(key=lambda b: (not b.convs, -b.form.macs))
        united: list[_Linear] = []
        for branch in branches:
            for i, host in enumerate(united):
                both = self._joined(host, branch)
                if both:
                    united[i] = both
                    break
            else:
                united.append(branch)
        kept += [linear.value for linear in united if linear in branches]
        return [linear for linear in united if linear not in branches], kept

    def _joined(self, host: _Linear, branch: _Linear) -> _Linear | None:
        if host.source is not branch.source or not host.convs:
            return None
        try:
            form = add(host.form, branch.form)
        except MergeError:
            return None
        if not _is_free(host.form, branch.form, form):
            return None
        words, convs = host.branches + branch.branches, host.convs + branch.convs
        return _Linear(host.source, form, words, convs, self._in_order(host.nodes + branch.nodes))

    def _taken(self, node: fx.Node) -> _Linear | None:
        """The convolution that a node computes, if the value is read only once and so may vanish."""
        return self.linear.get(node) if len(node.users) == 1 else None

    def _is_safe(self, root: fx.Node, inside: set[fx.Node]) -> bool:
        """Whether no in-place operator changes what is read between the first and the last of the nodes that become one."""
        for node in self.nodes[min(self.order[n] for n in inside) : self.order[root] + 1]:
            if not _writes_in_place(node, self.modules):
                continue
            if node in inside:  # an in-place sum: nothing else may have to see what it writes
                written = node.args[0]
                if not isinstance(written, fx.Node) or not inside.issuperset(written.users):
                    return False
            elif not all(n in self.linear and inside.isdisjoint(n.users) for n in node.all_input_nodes):
                return False  # only a layer's fresh output, read elsewhere, is surely no view of what is read here
        return True

    def _place(self, linear: _Linear) -> fx.Node:
        """The new convolution, called where the first of its nodes is; the graph keeps that node's argument current."""
        first = linear.nodes[0]
        if linear.branches not in self.placed:
            self.placed[linear.branches] = self.order[first], self._build(linear)
        with self.network.graph.inserting_before(first):
            return self.network.graph.call_module(self.placed[linear.branches][1].name, (first.args[0],))

    def _build(self, linear: _Linear) -> Merge:
        name = self._name(linear.convs)
        weight = self.modules[linear.convs[0]].weight
        assert isinstance(weight, Tensor)
        try:
            conv = to_conv(linear.form, weight.dtype, weight.device)
        except MergeError as e:
            raise MergeError(f"{name!r}, merged from {'; '.join(linear.branches)}: {e}") from e
        self.network.add_submodule(name, conv)
        before = {str(node.target) for node in linear.nodes if node.op == "call_module"}
        return Merge(name, linear.branches, sum(_params(self.modules[path]) for path in before), _params(conv))

    def _name(self, convs: Sequence[str]) -> str:
        """A folded convolution keeps its path; several become `merged` in the module that holds them all."""
        if len(convs) == 1 and self.calls[convs[0]] == 1:
            return convs[0]
        parents = itertools.takewhile(lambda at: len(set(at)) == 1, zip(*(path.split(".")[:-1] for path in convs), strict=False))
        wanted = ".".join([*(at[0] for at in parents), "merged"])
        names = {*self.modules, *(merge.name for _, merge in self.placed.values())}
        return next(n for n in itertools.chain([wanted], (f"{wanted}_{i}" for i in itertools.count(1))) if n not in names)

    def _in_order(self, nodes: Iterable[fx.Node]) -> tuple[fx.Node, ...]:
        return tuple(sorted(set(nodes), key=self.order.__getitem__))

    def _erase(self, nodes: Iterable[fx.Node]) -> None:
        for node in reversed(self._in_order(nodes)):
            self.network.graph.erase_node(node)


class _Proxy(fx.Proxy):
    """Records `x += y` as what it is; torch.fx takes it for x + y, which is another network where x is read again."""

    def __iadd__(self, other: object) -> fx.Proxy:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: object) -> fx.Proxy:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: object) -> fx.Proxy:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: object) -> fx.Proxy:
        return self._in_place(operator.itruediv, other)

    def _in_place(self, function: Callable[..., object], other: object) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})


class _Tracer(fx.Tracer):
    """Keeps in-place operators, and a user's subclass of a layer whole where it computes what the layer computes."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        plain = any(_is_plain(m, kind) for kind in (nn.Conv2d, nn.BatchNorm2d, nn.SyncBatchNorm))
        return plain or super().is_leaf_module(m, module_qualified_name)


def _trace(module: nn.Module) -> fx.GraphModule:
    network = copy.deepcopy(module).eval()
    try:
        return fx.GraphModule(network, _Tracer().trace(network), type(module).__name__)
    except Exception as e:
        raise MergeError(
            f"{type(module).__name__} can't be traced by torch.fx ({e}), so its branches can't be found. Make its forward free "
            "of Python control flow on tensors, or call torch.fx.wrap on the function that needs it"
        ) from e


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module computes what `kind` computes: the same forward, and no hooks that might change it."""
    same = all(getattr(type(module), f, None) is getattr(kind, f, None) for f in ("forward", "_conv_forward"))
    return isinstance(module, kind) and same and not _has_hooks(module)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _is_free(a: ConvForm, b: ConvForm, both: ConvForm) -> bool:
    """Whether one convolution costs no more than two: kernels may be padded, but not groups or dilations expanded at a cost."""
    same_grid = all(f.dilation[i] == both.dilation[i] or f.size[i] == 1 for f in (a, b) for i in (0, 1))
    return (a.groups == b.groups and same_grid) or both.macs <= a.macs + b.macs


def _is_sum(node: fx.Node) -> bool:
    """An addition of two values, or of a value to the 0 that Python's sum() starts from."""
    function = node.op == "call_function" and node.target in (operator.add, operator.iadd, torch.add)
    method = node.op == "call_method" and node.target in ("add", "add_")
    if not (function or method) or len(node.args) != 2 or node.kwargs:
        return False
    values = [arg for arg in node.args if isinstance(arg, fx.Node)]
    return len(values) == 2 or (len(values) == 1 and any(type(arg) in (int, float) and arg == 0 for arg in node.args))


def _flattened(root: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
    """The additions under a sum whose values nothing else reads, and the terms that they add."""
    sums, terms = [root], []
    for arg in root.args:
        if isinstance(arg, fx.Node):
            inner, leaves = _flattened(arg) if _is_sum(arg) and len(arg.users) == 1 else ([], [arg])
            sums += inner
            terms += leaves
    return sums, terms


def _writes_in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    operators = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem)
    # A True among the arguments may be `inplace=True`: taken for it, since that only leaves something unmerged.
    flagged = "out" in node.kwargs or any(arg is True for arg in (*node.args, *node.kwargs.values()))
    return name.endswith("_") or node.target in operators or flagged


def _in_words(form: ConvForm, path: str) -> str:
    height, width = form.size
    grouped = "" if form.groups == 1 else "depthwise " if form.groups == form.in_channels else f"{form.groups}-group "
    return f"{height}x{width} {grouped}conv {path}"


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from (t for value in output.values() for t in _tensors(value))
    elif isinstance(output, list | tuple):
        yield from (t for value in output for t in _tensors(value))


def _relative_error(wanted: Tensor, got: Tensor) -> float:
    difference = (wanted - got).abs()
    if not difference.numel() or bool((difference == 0).all()):
        return 0.0
    return float(difference.max() / wanted.abs().max())
