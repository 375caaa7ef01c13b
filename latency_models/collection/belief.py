"""What is known so far of the operators that may be measured, and what the next measurement would teach.

A Gaussian process on the logarithm of milliseconds (Rasmussen & Williams 2006, chapter 2), around rates per group of operators:
operators of one kind and group err alike, the more so the nearer their shapes. Whole networks are linear in it: a relative error
of an operator counts by its share of the network. What networks cost beyond their operators is a few more unknowns: a common
factor, one for each kind, one for the launches. So rows of operators and of networks teach the same belief.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from scipy import sparse
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import nnls

from paceline.graph import OpSpec
from paceline.latency_models.features import amounts, group_of, kind_of, shapes
from paceline.latency_models.model import Floats, Network

_RATES = np.array([2e-3, 0.1, 0.1, 0.1, 1.0])
"""Milliseconds for an operator, a million MACs, a megabyte of weights, one of activations, a million runs, where nothing
is known."""

_FEW = 6
"""Rows from which on a group has rates of its own."""


@dataclass(frozen=True)
class Prior:
    """Standard deviations of logarithms of milliseconds, before anything is measured.

    `device`: how fast it is; `kind`, `group`: how these differ; `shape`: how much shapes of a group do, over `length` (of
    standardised features); `own`: what no other operator tells. `noise` is that of one row, `network` what networks have of
    their own, `context` and `context_kind` the factors inside networks.
    """

    device: float = 0.7
    kind: float = 0.7
    group: float = 0.4
    shape: float = 0.3
    length: float = 1.5
    own: float = 0.05
    noise: float = 0.015
    network: float = 0.02
    context: float = 0.15
    context_kind: float = 0.1
    launch: float = 0.7


_PRIOR = Prior()
_LENGTHS, _SHAPES, _OWN = (0.7, 1.5, 3.0), (0.05, 0.15, 0.4), (0.01, 0.03, 0.08)
_MOST = 400
"""So many rows are enough to choose among them."""

_CONTEXTS, _NETWORKS = (1.0, 3.0, 6.0), (0.02, 0.04, 0.08)
"""Networks are little more than their operators, or much else where a runtime fuses what it can; alike, or each its own."""


class Belief:
    """Of `operators`, each once, and of networks made of them."""

    def __init__(self, operators: Sequence[OpSpec], prior: Prior | None = None) -> None:
        self.operators, self.prior = tuple(operators), prior or _PRIOR
        self.index = {spec: i for i, spec in enumerate(self.operators)}
        self._amounts = amounts(self.operators)
        self._groups = np.unique([group_of(spec) for spec in self.operators], return_inverse=True)[1]
        kinds, self._kinds = np.unique([kind_of(spec) for spec in self.operators], return_inverse=True)
        features = shapes(self.operators)
        self._features = features / np.maximum(features.std(axis=0), 0.1)
        self._unknowns = len(self.operators) + len(kinds) + 2  # operators, factor of each kind, common factor, launches
        self._blocks: dict[int, tuple[np.ndarray, Floats]] = {}
        self._log_rates = np.log(self._amounts @ _RATES)
        self.kinds_seen = frozenset[str]()
        self._start()

    # ---- learning

    def learn(self, rows: Mapping[OpSpec, float], networks: Sequence[tuple[Network, float]]) -> None:
        """Anew from measured milliseconds of operators and of networks."""
        self.kinds_seen = frozenset(spec.kind for spec in rows)
        measured = np.array([self.index[spec] for spec in rows], int)
        logs = np.log(np.array(list(rows.values()), float))
        self._log_rates = self._rates_of(measured, logs)
        if len(rows) >= 4 * _FEW:
            self._choose_prior(measured, logs - self._log_rates[measured])
        self._start()
        if len(rows):
            picks = sparse.csr_matrix((np.ones(len(measured)), (np.arange(len(measured)), measured)), (len(rows), self._unknowns))
            self._observe(picks, logs - self._log_rates[measured])
        self.launch_ms = 0.9 * float(np.min(self.ms)) if len(rows) else 0.0
        self._observe_networks(networks)

    def _rates_of(self, measured: np.ndarray, logs: Floats) -> Floats:
        """Logarithms of milliseconds at the rates of the group, where it has enough rows, else of the kind, else of all."""
        found = np.log(self._amounts @ _RATES)
        if len(measured):
            found += float(np.median(logs - found[measured]))
        for labels in (self._kinds, self._groups):
            for label in np.unique(labels[measured]):
                mine = measured[labels[measured] == label]
                if len(mine) < _FEW:
                    continue
                ms = np.exp(logs[labels[measured] == label])
                rates, _ = nnls(self._amounts[mine] / ms[:, None], np.ones(len(ms)))
                rates = np.maximum(rates, 1e-3 * np.exp(np.median(np.log(ms) - np.log(self._amounts[mine] @ _RATES))) * _RATES)
                found[labels == label] = np.log(self._amounts[labels == label] @ rates)
        return np.asarray(found)

    def _choose_prior(self, measured: np.ndarray, residuals: Floats) -> None:
        """Of a few lengths and sizes those under which the rows are likeliest."""
        chosen, y = measured[:_MOST], residuals[:_MOST]
        best = (-np.inf, self.prior)
        for length, shape, own in product(_LENGTHS, _SHAPES, _OWN):
            prior = replace(self.prior, device=0.3, kind=0.3, group=0.3, length=length, shape=shape, own=own)
            covariance = self._covariance(chosen, chosen, prior)
            covariance[np.diag_indices(len(y))] += prior.own**2 + prior.noise**2
            likelihood = _likelihood(covariance, y)[1]
            if likelihood > best[0]:
                best = (likelihood, prior)
        self.prior = best[1]
        self._blocks.clear()

    # ---- what is believed

    @property
    def ms(self) -> Floats:
        """Of each operator alone, shape (operators,)."""
        return np.asarray(np.exp(self._log_rates + self._mean[: len(self.operators)]))

    def predict(self, networks: Sequence[Network]) -> Floats:
        """Milliseconds of whole networks, shape (networks,)."""
        return np.asarray(np.exp([self.functional(network)[1] for network in networks]))

    def functional(self, network: Network) -> tuple[sparse.csr_matrix, float]:
        """What the logarithm of a network's milliseconds is linear in, shape (1, unknowns), and that logarithm as believed."""
        mine = np.array([self.index[spec] for spec in network], int)
        alone = self.ms[mine]
        inside = np.maximum(alone - self.launch_ms, 0.05 * alone)  # every operator alone pays for an invoke
        total = float(inside.sum()) + self.launch_ms
        count, kinds = len(self.operators), self._unknowns - len(self.operators) - 2
        weights = np.zeros(self._unknowns)
        np.add.at(weights, mine, inside / total)
        np.add.at(weights, count + self._kinds[mine], inside / total)
        weights[count + kinds] = 1.0
        weights[count + kinds + 1] = min(1.0, self.launch_ms * len(mine) / total)
        return sparse.csr_matrix(weights), float(np.log(total) + weights[count:] @ self._mean[count:])

    def columns(self, functionals: sparse.csr_matrix) -> Floats:
        """Covariances of every unknown with linear functionals of them, shape (unknowns, functionals)."""
        known = np.asarray((functionals @ self._known).T)
        return np.asarray(self._prior_columns(functionals) - self._known @ known)

    def column(self, operator: int) -> Floats:
        """Covariances of every unknown with one operator's logarithm, shape (unknowns,)."""
        members, block = self._block(int(self._kinds[operator]))
        found = np.zeros(self._unknowns)
        found[: len(self.operators)] = self.prior.device**2
        found[members] += block[np.searchsorted(members, operator)]
        return np.asarray(found - self._known @ self._known[operator])

    @property
    def variance(self) -> Floats:
        """Of the logarithm of each operator alone, shape (operators,)."""
        return np.asarray(np.maximum(self._variance[: len(self.operators)], 0.0))

    # ---- conditioning; `_known` holds a factor of what is known: posterior = prior - _known @ _known.T

    def _start(self) -> None:
        self._known = np.zeros((self._unknowns, 0))
        self._mean = np.zeros(self._unknowns)
        p, n = self.prior, len(self.operators)
        alone = p.device**2 + p.kind**2 + p.group**2 + p.shape**2 + p.own**2
        self._variance = np.concatenate([np.full(n, alone), self._context(p)])
        self.launch_ms = 0.0

    def _observe(self, functionals: sparse.csr_matrix, values: Floats) -> None:
        columns = self._prior_columns(functionals)
        lower = cholesky(np.asarray(functionals @ columns) + np.eye(len(values)) * self.prior.noise**2, lower=True)
        self._learned(columns, lower, values)

    def _observe_networks(self, networks: Sequence[tuple[Network, float]]) -> None:
        """All at once, under the context and noise that make them likeliest."""
        if not networks:
            return
        count = len(self.operators)
        functionals, expected = zip(*(self.functional(network) for network, _ in networks), strict=True)
        every = sparse.vstack(functionals).tocsr()
        surprise = np.log([ms for _, ms in networks]) - np.array(expected)
        columns, inside = self.columns(every), every[:, count:].toarray()
        shared = np.asarray(every[:, :count] @ columns[:count])
        best = -np.inf
        for factor, noise in product(_CONTEXTS, _NETWORKS):
            prior = replace(self.prior, context=factor * _PRIOR.context, context_kind=factor * _PRIOR.context_kind, network=noise)
            covariance = shared + (inside * self._context(prior)) @ inside.T + noise**2 * np.eye(len(networks))
            lower, likelihood = _likelihood(covariance, surprise)
            if likelihood > best:
                best, chosen, factors = likelihood, prior, lower
        self.prior = chosen
        columns[count:] = self._context(chosen)[:, None] * inside.T
        self._variance[count:] = self._context(chosen)
        self._learned(columns, factors, surprise)

    def _learned(self, columns: Floats, lower: Floats, surprise: Floats) -> None:
        known = solve_triangular(lower, columns.T, lower=True).T
        self._mean = self._mean + known @ solve_triangular(lower, surprise, lower=True)
        self._known = np.hstack([self._known, known])
        self._variance = self._variance - np.einsum("ij,ij->i", known, known)

    def _context(self, p: Prior) -> Floats:
        """Prior variances of what networks have besides their operators: a factor for each kind, a common one, launches."""
        kinds = self._unknowns - len(self.operators) - 2
        return np.concatenate([np.full(kinds, p.context_kind**2), [p.context**2, p.launch**2]])

    # ---- the prior covariance, a block for each kind

    def _prior_columns(self, functionals: sparse.csr_matrix) -> Floats:
        """Prior covariances with every unknown, shape (unknowns, functionals)."""
        n, p = len(self.operators), self.prior
        by_operator = functionals[:, :n].tocsc()
        found = np.zeros((self._unknowns, functionals.shape[0]))
        found[:n] = p.device**2 * np.asarray(by_operator.sum(axis=1)).T
        for kind in np.unique(self._kinds):
            members, block = self._block(int(kind))
            found[members] += np.asarray((by_operator[:, members] @ block).T)
        found[n:] = functionals[:, n:].toarray().T * self._context(p)[:, None]
        return found

    def _block(self, kind: int) -> tuple[np.ndarray, Floats]:
        if kind not in self._blocks:
            members = np.flatnonzero(self._kinds == kind)
            block = (
                self._covariance(members, members, self.prior) - self.prior.device**2 + np.eye(len(members)) * self.prior.own**2
            )
            self._blocks[kind] = (members, block)
        return self._blocks[kind]

    def _covariance(self, first: np.ndarray, second: np.ndarray, p: Prior) -> Floats:
        """Of operators by their indices, what is their own apart."""
        a, b = self._features[first] / p.length, self._features[second] / p.length
        squares = np.maximum((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T, 0.0) / a.shape[1]
        distance = np.sqrt(3 * squares)
        near = (1 + distance) * np.exp(-distance)  # Matérn 3/2
        same_kind = self._kinds[first][:, None] == self._kinds[second][None, :]
        same_group = self._groups[first][:, None] == self._groups[second][None, :]
        # across the groups of a kind, shapes matter half as much
        return np.asarray(
            p.device**2 + same_kind * (p.kind**2 + 0.5 * p.shape**2 * near) + same_group * (p.group**2 + 0.5 * p.shape**2 * near)
        )


def _likelihood(covariance: Floats, values: Floats) -> tuple[Floats, float]:
    """The lower Cholesky factor, and the logarithm of how likely the values are (a constant apart)."""
    lower = np.asarray(cholesky(covariance, lower=True))
    white = solve_triangular(lower, values, lower=True)
    return lower, -0.5 * float(white @ white) - float(np.log(np.diag(lower)).sum())
