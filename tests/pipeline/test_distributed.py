from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed, nn

from paceline.arch import Space
from paceline.errors import ConfigError
from paceline.pipeline.distributed import average_gradients, from_first, processes, shard, world
from paceline.pipeline.supernet import Mixed, StrictFair, train_supernet
from paceline.pipeline.supernet.mixed import Path as Weights
from paceline.pipeline.tasks import Task


def forked(folder: Path, work: Callable[[int], Any], size: int = 2) -> list[Any]:
    """What `work(rank)` gives in each of `size` processes."""
    pids = []
    for rank in range(size):
        pid = os.fork()
        if pid == 0:
            try:
                (folder / f"{rank}.pickle").write_bytes(pickle.dumps(work(rank)))
                os._exit(0)
            except BaseException as e:
                (folder / f"{rank}.error").write_text(repr(e))
                os._exit(1)
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert codes == [0] * size, [p.read_text() for p in folder.glob("*.error")]
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(size)]


def together(folder: Path, work: Callable[[int], Any], size: int = 2) -> list[Any]:
    """The same with the processes in one group."""

    def in_a_group(rank: int) -> Any:
        store = distributed.FileStore(str(folder / "meeting"), size)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
        found = work(rank)
        distributed.barrier()  # leaving while the other still joins would look like a crash
        distributed.destroy_process_group()
        return found

    return forked(folder, in_a_group, size)


def net_without_norms(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [
            Mixed(f"layer{i}", {f"k{k}": nn.Conv2d(c, 6, k, padding=k // 2) for k in kernels})
            for i, (c, kernels) in enumerate([(1, (1, 3, 5)), (6, (3, 5))])
        ]
        return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))


class First:
    """A policy that never uses some options."""

    def paths(self, space: Space, rng: np.random.Generator) -> list[Weights]:
        return [{c.name: torch.eye(len(c.options))[0] for c in space.choices}]


@pytest.mark.parametrize(
    ("policy", "distinct"), [(StrictFair(), False), (First(), False), (StrictFair(), True)], ids=["fair", "unused", "distinct"]
)
def test_two_processes_train_as_one_with_the_whole_batch(policy: Any, distinct: bool, task: Task, tmp_path: Path) -> None:
    settings = {"distinct_batches": distinct}
    if distinct:
        settings["batch"] = 384  # 64 images for each path in each process

    def work(rank: int) -> tuple[dict, list[float]]:
        net = net_without_norms(seed=rank)  # what counts is the first process's
        losses = train_supernet(net, policy, task, **{"epochs": 1, "batch": 256, "lr": 0.05, "seed": 1, **settings})
        return {k: v.numpy() for k, v in net.state_dict().items()}, losses

    alone = net_without_norms()
    expected = train_supernet(alone, policy, task, **{"epochs": 1, "batch": 256, "lr": 0.05, "seed": 1, **settings})
    start = net_without_norms().state_dict()
    (one, losses), (other, same_losses) = together(tmp_path, work)
    assert losses == same_losses
    assert losses == pytest.approx(expected, rel=1e-5)
    for name, weight in alone.state_dict().items():
        assert np.array_equal(one[name], other[name])
        np.testing.assert_allclose(one[name], weight.numpy(), rtol=1e-4, atol=1e-6)
        unused = (
            isinstance(policy, First) and ".options." in name and not name.split(".options.")[1].startswith(("k1", "k3.") * 1)
        )
        if unused:
            assert np.array_equal(one[name], start[name].numpy())  # no gradient, so no weight decay and no momentum either


def test_gradients_are_averaged_and_absent_ones_stay_absent(tmp_path: Path) -> None:
    def work(rank: int) -> list[list[float] | None]:
        p = [nn.Parameter(torch.zeros(2)) for _ in range(4)]
        p[0].grad = torch.tensor([1.0, 2.0]) * (rank + 1)
        if rank == 1:
            p[1].grad = torch.tensor([4.0, 8.0])
        p[3].requires_grad_(False)
        average_gradients(p)
        return [None if q.grad is None else q.grad.tolist() for q in p]

    assert together(tmp_path, work) == [[[1.5, 3.0], [2.0, 4.0], None, None]] * 2


def test_a_batch_that_can_not_be_shared_equally_is_refused(tmp_path: Path) -> None:
    def work(rank: int) -> tuple[str, list[int]]:
        with pytest.raises(ConfigError, match="choose a multiple of 2") as e:
            shard(torch.zeros(5, 1), torch.zeros(5))
        return str(e.value), shard(torch.zeros(4, 1), torch.arange(4))[1].tolist()

    assert [mine for _, mine in together(tmp_path, work)] == [[0, 1], [2, 3]]


def test_killed_processes_resume_from_the_first_ones_checkpoint(task: Task, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def run(rank: int, folder: Path, kill: bool) -> tuple[list[float], float]:
        net = nn.Sequential(net_without_norms()[:3], nn.BatchNorm2d(6), *net_without_norms()[3:], nn.Dropout(0.2))
        checkpoint = folder / ("0" if rank == 0 else "elsewhere") / "supernet.pt"  # only the first process has a checkpoint

        def progress(done: int, total: int, note: str = "") -> None:
            if kill and done == 6:
                raise Killed

        settings = {"epochs": 2, "batch": 256, "lr": 0.05, "seed": 1}
        losses = train_supernet(net, StrictFair(), task, **settings, checkpoint=checkpoint, progress=progress)
        return losses, float(sum(v.double().abs().sum() for v in net.state_dict().values()))

    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    expected = together(tmp_path / "whole", lambda rank: run(rank, tmp_path / "whole", kill=False))
    with pytest.raises(AssertionError, match="Killed"):
        together(tmp_path / "parts", lambda rank: run(rank, tmp_path / "parts", kill=True))
    assert (tmp_path / "parts" / "0" / "supernet.pt").exists()
    (tmp_path / "parts" / "meeting").unlink()
    assert together(tmp_path / "parts", lambda rank: run(rank, tmp_path / "parts", kill=False)) == expected


def test_without_torchrun_there_is_one_process() -> None:
    with processes() as device:
        assert world() == (0, 1)
        assert device.type in ("cpu", "cuda")


def test_torchruns_processes_become_a_group(tmp_path: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])

    def work(rank: int) -> tuple[tuple[int, int], int]:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        with processes():
            return world(), from_first(7 - rank)

    assert forked(tmp_path, work) == [((0, 2), 7), ((1, 2), 7)]
    assert world() == (0, 1)
