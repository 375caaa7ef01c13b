"""The protocol `phones`: whole CNNs on phone GPUs, from what the delegate's profiler says about single operators.

Data: float GPU rows of Li, Paolieri and Golubchik (EdgeSys 2024), in `latency_mobile_ml_benchmark`; see `phones_data`. Two tests:

- `networks`: ten folds of the networks by name, shuffled by seed. A model learns from the operators and the whole networks of
  nine folds and predicts the tenth's whole networks from their operators alone; a seed's figures are those of all networks.
- `device`: a phone of which ten whole networks are measured, picked by seed, and no operators. The others are predicted from
  all networks on the other phones.

Nine of ten networks have relatives (other widths, other depths) among those learned from: `family_share` says how many.
`noise_floor` is the mean over the networks of the standard deviation of repeated inferences, relative to their mean. It says how
far single inferences differ; means of many, which are what is predicted, differ less.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.model_selection import KFold

from paceline.errors import DataError
from paceline.graph import macs_of
from paceline.latency_models.costs.regressed import RegressedCost
from paceline.latency_models.defaults import default_model, macs_model
from paceline.latency_models.features import AMOUNTS, RateFeatures, ShapeFeatures, amounts, group_of
from paceline.latency_models.leaderboard.parallel import each
from paceline.latency_models.leaderboard.phones_data import PhoneNetwork, devices_of, read_networks
from paceline.latency_models.leaderboard.result import Result, summarised
from paceline.latency_models.metrics import Accuracy, accuracy_of
from paceline.latency_models.model import Floats
from paceline.latency_models.network_latency import NetworkLatency
from paceline.latency_models.network_residual import described, part_of, parts
from paceline.latency_models.regressors.gaussian_process import GaussianProcessRegressor
from paceline.latency_models.regressors.kernel import Kernel
from paceline.latency_models.regressors.linear import LinearRegressor, ProportionalRegressor
from paceline.latency_models.regressors.mlp import MlpRegressor
from paceline.latency_models.regressors.trees import TreesRegressor
from paceline.measurement import Progress

FOLDS = 10
MEASURED = 10
"""Networks that are measured on a new device."""

TRANSFERRED = "transfer"


@dataclass(frozen=True)
class _Job:
    networks: tuple[PhoneNetwork, ...]
    device: str
    seed: int


class PhonesProtocol:
    name = "phones"

    def results(self, data: Path, seeds: int, devices: Sequence[str], progress: Progress) -> list[Result]:
        networks = tuple(read_networks(data))
        known = devices_of(networks)
        chosen = [device for device in known if not devices or device in devices]
        if len(networks) < 2 * FOLDS:
            raise DataError(f"{data}: the protocol phones needs at least {2 * FOLDS} networks, there are {len(networks)}")
        jobs = [_Job(networks, device, seed) for device in chosen for seed in range(seeds)]
        done = each(_both_tests, jobs, progress)
        default = default_model(0).name
        results = []
        for i, device in enumerate(chosen):
            of_seeds = done[i * seeds : (i + 1) * seeds]
            floor = float(np.mean([network.noise[device] for network in networks]))
            for test, k, best in (("networks", len(networks) * (FOLDS - 1) // FOLDS, default), ("device", MEASURED, TRANSFERRED)):
                for name in of_seeds[0][test]:
                    accuracies = [found[test][name] for found in of_seeds]
                    results.append(summarised(self.name, test, device, k, name, name == best, accuracies, floor))
        return results


PROTOCOL = PhonesProtocol()


def models(seed: int) -> dict[str, NetworkLatency]:
    """What is compared by the test `networks`; the last is the default. The MLP and the trees are smaller than a product's would
    be, so that 800 fits of each take minutes; they lose little by it."""
    costs = {
        "fitted table": RegressedCost(LinearRegressor(relative=True), RateFeatures(), "linear"),
        "trees": RegressedCost(
            TreesRegressor(True, n_estimators=100, learning_rate=0.12, random_state=seed), ShapeFeatures(), "trees"
        ),
        "mlp": RegressedCost(MlpRegressor(True, members=2, epochs=30, batch_size=128, random_state=seed), ShapeFeatures(), "mlp"),
    }
    compared = {name: NetworkLatency(cost, folds=0) for name, cost in costs.items()}
    default = default_model(seed)
    return {"macs only": macs_model(folds=0), **compared, default.name: default}


def predicted(networks: Sequence[PhoneNetwork], device: str, seed: int) -> dict[str, Floats]:
    """By model, milliseconds of every network and the ends of their intervals, each predicted by a model that saw nothing of it,
    shape (3, networks)."""
    found: dict[str, Floats] = {}
    for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(networks):
        rows = [row for i in train for row in networks[i].rows(device)] + [networks[i].row(device) for i in train]
        unseen = [networks[i].operators for i in test]
        for name, model in models(seed).items():
            said = model.fit(rows).predict(unseen)
            found.setdefault(name, np.zeros((3, len(networks))))[:, test] = said.ms, said.low, said.high
    return found


def transferred(networks: Sequence[PhoneNetwork], device: str, seed: int) -> tuple[dict[str, Floats], Floats]:
    """By model, milliseconds of the networks that were not measured on the new device, and what they really take."""
    order = np.random.default_rng(seed).permutation(len(networks))
    some, rest = order[:MEASURED], order[MEASURED:]
    ms = np.array([network.ms[device] for network in networks])
    macs = np.array([[macs_of(network.operators)] for network in networks], float)
    groups = sorted({group_of(spec) for network in networks for spec in network.operators})
    table = np.array([_amounts_by_group(network, groups) for network in networks])
    found = {
        "macs only": ProportionalRegressor(relative=True).fit(macs[some], ms[some]).predict(macs[rest]),
        "fitted table": LinearRegressor(relative=True).fit(table[some], ms[some]).predict(table[rest]),
    }
    others = [other for other in devices_of(networks) if other != device]
    if others:
        elsewhere = np.exp(np.mean([[np.log(network.ms[other]) for other in others] for network in networks], axis=1))
        features = described(_parts_elsewhere(networks, others), elsewhere)
        process = _ratios(features.shape[1]).fit(features[some], ms[some] / elsewhere[some])
        found[TRANSFERRED] = elsewhere[rest] * process.predict(features[rest])
    return found, ms[rest]


def _ratios(features: int) -> GaussianProcessRegressor:
    """For how much slower networks are on a new phone than on the known ones: between phones, ratios differ by some 15 % from
    network to network."""
    near, linear = (2.0,) * features, ((features / 0.05) ** 0.5,) * features
    kernel = Kernel(near, near, linear, shared=0.02, own=0.0, own_rough=0.0, shared_linear=0.0, constant=0.3, noise=0.002)
    return GaussianProcessRegressor(relative=True, kernel=kernel)


def _parts_elsewhere(networks: Sequence[PhoneNetwork], others: Sequence[str]) -> Floats:
    """What the networks consist of, by the operators' milliseconds on the other phones (see `network_residual.parts`)."""
    names = sorted({part_of(spec) for network in networks for spec in network.operators})
    sums = []
    for network in networks:
        ms = np.zeros(len(network.operators))
        ms[list(network.measured)] = np.mean([network.operator_ms[other] for other in others], axis=0)
        sums.append(parts(network.operators, ms, names).sum(axis=0))
    return np.array(sums)


def _amounts_by_group(network: PhoneNetwork, groups: Sequence[str]) -> Floats:
    index = {group: i for i, group in enumerate(groups)}
    sums = np.zeros((len(groups), len(AMOUNTS)))
    np.add.at(sums, [index[group_of(spec)] for spec in network.operators], amounts(network.operators))
    return sums.ravel()


def _both_tests(job: _Job) -> dict[str, dict[str, Accuracy]]:
    ms = np.array([network.ms[job.device] for network in job.networks])
    found = predicted(job.networks, job.device, job.seed)
    on_networks = {name: accuracy_of(name, said, ms, (low, high)) for name, (said, low, high) in found.items()}
    elsewhere, rest = transferred(job.networks, job.device, job.seed)
    return {"networks": on_networks, "device": {name: accuracy_of(name, said, rest) for name, said in elsewhere.items()}}


def family_of(name: str) -> str:
    """The name of a network without its width, depth and size: mobilenetv2_w3d4 is of the family mobilenetv2."""
    words = [
        word for word in name.split("_") if not re.fullmatch(r"w[d\d]+|v\d|\d+x\d+d|small|medium|large|b|cpu|gpu|mobile\d*", word)
    ]
    return re.sub(r"(?<=[a-z])\d+.*$", "", words[0]) if not words[0].startswith("mobilenet") else words[0]


def family_share(networks: Sequence[PhoneNetwork], seed: int) -> float:
    """The share of networks that have a relative among those that their fold's models learn from."""
    related = 0
    for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(networks):
        seen = {family_of(networks[i].name) for i in train}
        related += sum(family_of(networks[i].name) in seen for i in test)
    return related / len(networks)
