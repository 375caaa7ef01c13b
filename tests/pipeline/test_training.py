from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_net
from torch import nn

from paceline.errors import ConfigError, StoreError
from paceline.pipeline import training
from paceline.pipeline.supernet import StrictFair, Uniform, derive, recalibrate, space_of, train_supernet
from paceline.pipeline.tasks import Task, digits
from paceline.pipeline.training import accuracy, train


class Killed(BaseException):
    """As abrupt as an exception can be."""


def killer(after: int):
    def progress(done: int, total: int, note: str = "") -> None:
        if done == after:
            raise Killed

    return progress


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def fixed_net() -> nn.Module:
    net = small_net()
    return derive(net, space_of(net).sample(np.random.default_rng(0)))


def test_supernet_loss_falls_and_its_networks_have_learned() -> None:
    task = digits(0, size=8)
    net = small_net()
    losses = train_supernet(net, StrictFair(), task, epochs=3, batch=32, lr=0.3, seed=1, shared="mean")
    assert losses[-1] < losses[0] - 0.5
    network = derive(net, space_of(net).sample(np.random.default_rng(1)))
    recalibrate(network, task.batches("train", 128))
    assert accuracy(network, task, "val") > 0.4


def test_training_one_network() -> None:
    task = digits(0, size=8)
    net = fixed_net()
    losses = train(net, task, epochs=6, batch=32, lr=0.2, seed=1, label_smoothing=0.1)
    assert losses[-1] < losses[0]
    assert accuracy(net, task, "test") > 0.7


@pytest.mark.parametrize("seed", range(3))
def test_resumed_after_a_kill_at_any_step_is_the_undisturbed_run_bit_for_bit(
    seed: int, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs, batch = 3, 256
    undisturbed = small_net()
    expected = train_supernet(undisturbed, Uniform(2), task, epochs=epochs, batch=batch, lr=0.05, seed=7)
    checkpoint = tmp_path / "deep" / "supernet.pt"
    step = random.Random(seed).randrange(1, epochs * task.steps(batch))
    monkeypatch.setitem(training.optimise.__kwdefaults__, "checkpoint_s", 0.0 if seed else 1e9)  # each step, or each epoch only
    with pytest.raises(Killed):
        train_supernet(
            small_net(),
            Uniform(2),
            task,
            epochs=epochs,
            batch=batch,
            lr=0.05,
            seed=7,
            checkpoint=checkpoint,
            progress=killer(step),
        )
    torch.manual_seed(seed)  # whatever state the next process has
    resumed = small_net(seed=99 if checkpoint.exists() else 3)
    done: list[int] = []
    losses = train_supernet(
        resumed,
        Uniform(2),
        task,
        epochs=epochs,
        batch=batch,
        lr=0.05,
        seed=7,
        checkpoint=checkpoint,
        progress=lambda i, n, note="": done.append(i),
    )
    assert losses == expected
    assert same(resumed, undisturbed)
    assert done[0] > (step - 1 if seed else 0)
    assert (
        train_supernet(
            resumed, Uniform(2), task, epochs=epochs, batch=batch, lr=0.05, seed=7, checkpoint=checkpoint, progress=killer(1)
        )
        == expected
    )  # nothing left to do


def test_with_own_batches_and_in_bf16_it_resumes_bit_for_bit_too(task: Task, tmp_path: Path) -> None:
    settings = {"epochs": 2, "batch": 256, "lr": 0.05, "seed": 7, "distinct_batches": True, "precision": "bf16"}
    undisturbed, resumed = small_net(), small_net()
    expected = train_supernet(undisturbed, Uniform(2), task, **settings)
    with pytest.raises(Killed):
        train_supernet(small_net(), Uniform(2), task, **settings, checkpoint=tmp_path / "c.pt", progress=killer(6))
    assert train_supernet(resumed, Uniform(2), task, **settings, checkpoint=tmp_path / "c.pt") == expected
    assert same(resumed, undisturbed)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_learns_about_the_same_and_keeps_weights_in_fp32(precision: str, task: Task) -> None:
    losses = {}
    for p in (None, "fp32", precision):
        net, seen = fixed_net(), set()
        net.classifier.register_forward_hook(lambda m, inputs, output, seen=seen: seen.add(output.dtype))
        losses[p] = train(net, task, epochs=2, batch=64, lr=0.2, seed=1, precision=p)
        assert seen == {{"bf16": torch.bfloat16, "fp16": torch.float16}.get(p, torch.float32)}
        assert {v.dtype for v in net.state_dict().values()} == {torch.float32, torch.int64}
    assert losses["fp32"] == losses[None]  # the CPU's
    assert losses[precision] != losses["fp32"]
    assert losses[precision] == pytest.approx(losses["fp32"], rel=0.1)


class Memory:
    """Changes between epochs, by what it has become."""

    def __init__(self) -> None:
        self.state = 1

    def after_epoch(self, epochs: int) -> None:
        self.state = self.state * 3 + epochs

    def state_dict(self) -> dict[str, int]:
        return {"state": self.state}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.state = state["state"]


def test_what_changes_between_epochs_is_part_of_the_checkpoint(task: Task, tmp_path: Path) -> None:
    def run(memory: Memory, **settings: object) -> list[float]:
        net = fixed_net()

        def losses(images: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator) -> Iterator[torch.Tensor]:
            yield nn.functional.cross_entropy(net(images), labels) * memory.state

        about = {"epochs": 3, "batch": 512, "lr": 0.01, "seed": 1, "weight_decay": 0.0, "between": memory}
        return training.optimise(net, losses, task, **about, **settings)

    memory, killed, resumed = Memory(), Memory(), Memory()
    expected = run(memory)
    assert memory.state == ((1 * 3 + 1) * 3 + 2) * 3 + 3
    for step in (3, 5):  # a checkpoint after the first, then after the second epoch
        with pytest.raises(Killed):
            run(killed, checkpoint=tmp_path / "c.pt", progress=killer(step))
    assert run(resumed, checkpoint=tmp_path / "c.pt") == expected
    assert resumed.state == memory.state


def test_a_single_network_resumes_too(task: Task, tmp_path: Path) -> None:
    settings = {"epochs": 2, "batch": 256, "lr": 0.1, "seed": 3}
    undisturbed, resumed = fixed_net(), fixed_net()
    expected = train(undisturbed, task, **settings)
    with pytest.raises(Killed):
        train(fixed_net(), task, **settings, checkpoint=tmp_path / "c.pt", progress=killer(6))
    assert train(resumed, task, **settings, checkpoint=tmp_path / "c.pt") == expected
    assert same(resumed, undisturbed)


def test_global_generators_neither_matter_nor_move(task: Task) -> None:
    nets = [fixed_net(), fixed_net()]
    for seed, net in enumerate(nets):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        train(net, task, epochs=1, batch=512, lr=0.1, seed=3)
        assert torch.equal(torch.get_rng_state(), state)
    assert same(*nets)


def test_checkpoints_that_can_not_be_used(task: Task, tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.pt"
    train(fixed_net(), task, epochs=1, batch=512, lr=0.1, seed=3, checkpoint=checkpoint)
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]
    with pytest.raises(ConfigError, match="of another training"):
        train(fixed_net(), task, epochs=1, batch=512, lr=0.2, seed=3, checkpoint=checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(StoreError, match="remove it to start anew"):
        train(fixed_net(), task, epochs=1, batch=512, lr=0.1, seed=3, checkpoint=checkpoint)


def test_a_full_disk_leaves_the_old_checkpoint(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = tmp_path / "c.pt"
    with pytest.raises(Killed):
        train(fixed_net(), task, epochs=2, batch=512, lr=0.1, seed=3, checkpoint=checkpoint, progress=killer(3))
    before = checkpoint.read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        train(fixed_net(), task, epochs=2, batch=512, lr=0.1, seed=3, checkpoint=checkpoint)
    assert checkpoint.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_divergence_and_senseless_settings_are_errors(task: Task) -> None:
    net = fixed_net()
    nn.init.constant_(net.classifier.weight, float("nan"))
    with pytest.raises(ConfigError, match="diverged"):
        train(net, task, epochs=1, batch=512, lr=0.1, seed=3)
    with pytest.raises(ConfigError, match="batch=0"):
        train(net, task, epochs=1, batch=0, lr=0.1, seed=3)


def test_accuracy_counts_every_image_and_keeps_the_mode(task: Task) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.eye(10)[3])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training
            return self.logits.expand(len(x), 10)

    net = Constant()
    assert accuracy(net, task, "val", batch=7) == float((task.val.labels == 3).double().mean())
    assert net.training
