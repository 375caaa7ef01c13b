"""A farm under fire: simulated phones on agents of their own processes, agents killed (-9), phones lost and disturbed at random.

Checks that every job ends with one result or one reason and that the store holds each result once; exits with 1 where not. Prints
what scheduling costs beside device time, how soon the jobs of a killed agent run elsewhere, and what an agent weighs.
The phones take real time (--real-time 1), so device time is real. A job is one network of some milliseconds and the reference,
measured by the usual Bench: about two seconds on a device.

    python benchmarks/farm.py                                   # 100 phones, 10 agents, 10,000 jobs: about 6 minutes
    python benchmarks/farm.py --phones 6 --agents 2 --jobs 60 --kills 1 --real-time 0.05
    python benchmarks/farm.py --store postgresql+psycopg://user@host/name       # or --postgres: with a server of its own
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paceline.devices.farm.dispatch import Patience, measure_on
from paceline.devices.farm.farm import Member
from paceline.devices.farm.job import Job, Result, plan
from paceline.devices.farm.remote import DaskFarm
from paceline.devices.state import DeviceState
from paceline.exporters.operator_models import write_operator
from paceline.graph import OpSpec, TensorSpec, attrs
from paceline.measurement import Artifact, Bench
from paceline.progress import progress
from paceline.seeds import Seeds
from paceline.store import Store
from paceline.store.testing import postgres_server

PROFILES = ("simulated-mid", "simulated-wide")
BENCH = Bench("simulated", "xnnpack", affinity=(5,))  # a fast core of both
FAULTS = {"offline": 1e-4, "reboot": 1e-4, "disconnect_push": 2e-4, "disconnect_run": 2e-4, "corrupt_result": 1e-4, "hang": 2e-5}
"""Per operation of a phone; a job is some forty of them."""


@dataclass
class Hosts:
    """The scheduler and the agents, each a process."""

    folder: Path
    agents: int
    phones: int
    real_time: float
    seeds: Seeds
    dead: frozenset[int]
    env: dict[str, str] = field(default_factory=dict)
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    address: str = ""
    heaviest_mib: float = 0.0

    def start(self) -> None:
        self.env = os.environ | {"PACELINE_STATE": str(self.folder / "state"), "OMP_NUM_THREADS": "1"}
        os.environ["PACELINE_STATE"] = self.env["PACELINE_STATE"]
        log = self.folder / "scheduler.log"
        self._scheduler = self._program(log, "farm", "serve", "--port", "0")
        while not (found := re.search(r"farm at (\S+);", log.read_text())):
            if self._scheduler.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.05)
        self.address = found[1]
        for agent in range(self.agents):
            self.start_agent(agent)

    def start_agent(self, agent: int) -> None:
        """Like a supervisor: the same devices again."""
        devices = self.folder / f"agent-{agent}.toml"
        devices.write_text("".join(self._entry(phone) for phone in self.phones_of(agent)))
        env = {"XDG_CACHE_HOME": str(self.folder / f"cache-{agent}")}
        arguments = ("agent", "--farm", self.address, "--devices", str(devices), "--name", f"agent-{agent}")
        self.running[agent] = self._program(self.folder / f"agent-{agent}.log", *arguments, env=env)

    def kill_agent(self, agent: int) -> None:
        self._weigh(agent)
        self.running[agent].send_signal(signal.SIGKILL)
        self.running[agent].wait()

    def phones_of(self, agent: int) -> list[int]:
        return list(range(agent, self.phones, self.agents))

    def end(self) -> None:
        for agent in self.running:
            self._weigh(agent)
        for process in (*self.running.values(), self._scheduler):
            process.terminate()
        for process in (*self.running.values(), self._scheduler):
            process.wait()

    def _program(self, log: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            command = [sys.executable, "-m", "paceline", *arguments]
            return subprocess.Popen(command, env=self.env | (env or {}), stdout=out, stderr=out)

    def _entry(self, phone: int) -> str:
        # a phone that dies: gone for good from some moment on; its clock starts anew with its agent
        faults = FAULTS | ({"offline_s": 1e9, "schedule": [[60.0 * self.real_time, "offline"]]} if phone in self.dead else {})
        values = {"profile": PROFILES[phone % 2], "seed": self.seeds.seed(f"phone {phone}") % 2**31, "real_time": self.real_time}
        lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
        table = ", ".join(f"{name} = {json.dumps(value)}" for name, value in faults.items())
        return "\n".join([f'[[device]]\nid = "phone-{phone}"\nkind = "simulated"', *lines, f"faults = {{ {table} }}\n\n"])

    def _weigh(self, agent: int) -> None:
        try:
            status = Path(f"/proc/{self.running[agent].pid}/status").read_text()
        except OSError:
            return
        found = re.search(r"VmHWM:\s+(\d+)", status)
        if found:
            self.heaviest_mib = max(self.heaviest_mib, int(found[1]) / 1024)


class Recorder:
    """The farm, and a record of who was given which job when, and what was lost."""

    def __init__(self, farm: DaskFarm) -> None:
        self._farm = farm
        self.open: dict[str, dict[str, Job]] = defaultdict(dict)
        self.broken: dict[str, list[float]] = defaultdict(list)
        self.given: Counter[str] = Counter()

    def members(self) -> Sequence[Member]:
        return self._farm.members()

    def on(self, device: str) -> Any:
        executor = self._farm.on(device)
        recorder = self

        class Recording:
            def submit(self, fn: Any, job: Job) -> Future[Any]:
                future = executor.submit(fn, job)
                recorder.open[device][job.artifacts[0].sha256] = job
                recorder.given[job.artifacts[0].sha256] += 1
                future.add_done_callback(lambda ended: recorder.ended(device, job, ended))
                return future

        return Recording()

    def ended(self, device: str, job: Job, future: Future[Any]) -> None:
        self.open[device].pop(job.artifacts[0].sha256, None)
        if future.cancelled() or future.exception() is not None or any(m.failure for m in future.result()[1]):
            self.broken[device].append(time.time())

    def close(self) -> None: ...


@dataclass
class Kill:
    at: float
    agent: int
    jobs: frozenset[str]


class Chaos:
    """Kills agents when so many jobs are done; starts them again later; mends phones that went into quarantine."""

    def __init__(self, hosts: Hosts, recorder: Recorder, at: Sequence[int], restart_s: float, rng: np.random.Generator) -> None:
        self._hosts, self._recorder, self._rng = hosts, recorder, rng
        self._at, self._restart_s = sorted(at), restart_s
        self._down: dict[int, float] = {}
        self._ending = threading.Event()
        self._mender = threading.Thread(target=self._mend, daemon=True)
        self._mender.start()
        self.kills: list[Kill] = []
        self.mended = 0

    def after(self, done: int) -> None:
        now = time.time()
        for agent, at in list(self._down.items()):
            if now - at >= self._restart_s:
                del self._down[agent]
                self._hosts.start_agent(agent)
        while self._at and done >= self._at[0]:
            self._at = self._at[1:]
            up = [agent for agent in self._hosts.running if agent not in self._down]
            if len(up) > 1:
                agent = int(self._rng.choice(up))
                devices = [f"phone-{phone}" for phone in self._hosts.phones_of(agent)]
                jobs = frozenset(sha256 for device in devices for sha256 in list(self._recorder.open[device]))
                self._hosts.kill_agent(agent)
                self._down[agent] = time.time()
                self.kills.append(Kill(time.time(), agent, jobs))

    def end(self) -> None:
        self._ending.set()
        self._mender.join()

    def _mend(self) -> None:
        """As a person would who looks after the phones now and then."""
        while not self._ending.wait(5.0):
            for phone in set(range(self._hosts.phones)) - self._hosts.dead:
                state = DeviceState(f"simulated:phone-{phone}")
                if state.quarantine:
                    state.release()
                    self.mended += 1


def networks(count: int, folder: Path, rng: np.random.Generator) -> list[Artifact]:
    """Different ones of about 3 to 5 ms on the phones: a 3x3 convolution of 16 channels on some 50,000 pixels."""
    sizes = [(h, w) for h in range(180, 290) for w in range(180, 290)]
    return [write_operator(_conv(*sizes[i]), folder) for i in rng.permutation(len(sizes))[:count]]


def _conv(h: int, w: int) -> OpSpec:
    shape = TensorSpec((1, h, w, 16))
    named = attrs(stride=(1, 1), dilation=(1, 1), padding="SAME", activation="RELU6")
    return OpSpec("CONV_2D", (shape, TensorSpec((16, 3, 3, 16)), TensorSpec((16,))), (shape,), named, (1, 2))


def gaps(results: Sequence[Result], broken: dict[str, list[float]], until: float) -> tuple[float, float, int]:
    """Seconds that devices idled between two jobs although nothing was wrong with them; seconds that jobs took, and how many.

    Up to the moment from which on there were fewer jobs left than places at devices.
    """
    spans = defaultdict(list)
    for result in results:
        if result.measurements:
            context = result.measurements[0].context
            at = float(context["taken_at"])
            spans[result.device].append((at, at + float(context["took_s"])))
    idle = busy = 0.0
    count = 0
    for device, found in spans.items():
        found.sort()
        for (start, end), (following, _) in itertools.pairwise(found):
            busy += end - start
            count += 1
            if following < until and not any(start <= at <= following + 0.5 for at in broken[device]):
                idle += following - end
    return idle, busy, count


def moved(kills: Sequence[Kill], results: Sequence[Result], given: Counter[str]) -> list[float]:
    """Seconds from a kill until its agent's jobs ran elsewhere; without jobs that were lost once more there."""
    taken = {
        result.job.artifacts[0].sha256: float(result.measurements[0].context["taken_at"])
        for result in results
        if result.measurements and given[result.job.artifacts[0].sha256] == 2
    }
    return [taken[job] - kill.at for kill in kills for job in kill.jobs if taken.get(job, 0.0) > kill.at]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phones", type=int, default=100)
    parser.add_argument("--agents", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=12, help="agents killed, spread over the jobs")
    parser.add_argument("--restart-s", type=float, default=20.0, help="a killed agent is started again after that")
    parser.add_argument("--dead", type=int, default=3, help="phones that die for good")
    parser.add_argument("--real-time", type=float, default=1.0, help="real seconds per second of a phone")
    parser.add_argument("--store", default="", help="a file or an SQLAlchemy URL; default: a temporary file")
    parser.add_argument("--postgres", action="store_true", help="a store on a PostgreSQL server started for it")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="paceline-farm-") as name, ExitStack() as stack:
        if options.postgres:
            options.store = stack.enter_context(postgres_server()).new_place()
        return _run(options, Path(name))


def _run(options: argparse.Namespace, folder: Path) -> int:
    seeds = Seeds(options.seed)
    rng = seeds.rng("chaos")
    dead = frozenset(int(phone) for phone in rng.choice(options.phones, min(options.dead, options.phones - 1), replace=False))
    reference, *models = networks(options.jobs + 1, folder / "models", seeds.rng("models"))
    jobs = [Job((model,), BENCH, reference) for model in models]
    hosts = Hosts(folder, options.agents, options.phones, options.real_time, seeds, dead)
    hosts.start()
    results: list[Result] = []
    plenty_until = 0.0
    patience = Patience(attempts=6)
    kill_at = rng.integers(options.jobs // 10, max(options.jobs * 9 // 10, options.jobs // 10 + 1), options.kills).tolist()
    try:
        with Store(options.store or folder / "store.sqlite") as store, DaskFarm(hosts.address) as farm, progress("jobs") as show:
            while len(farm.members()) < options.phones:
                time.sleep(0.1)
            recorder = Recorder(farm)
            chaos = Chaos(hosts, recorder, kill_at, options.restart_s, rng)
            started = time.monotonic()
            for result in measure_on(recorder, "any", jobs, show, patience):
                results.append(result)
                if result.info is not None:
                    store.add_device(result.info)
                    store.add(result.measurements)
                chaos.after(len(results))
                if len(results) <= options.jobs - 2 * options.phones:
                    plenty_until = time.time()
            seconds = time.monotonic() - started
            chaos.end()
            prints = {r.info.fingerprint for r in results if r.info}
            lacking = plan(store, jobs, sorted(prints))
            rows = sum(len(store.find([m.sha256 for m in models], each, BENCH)) for each in prints)
    finally:
        hosts.end()
    return _report(options, hosts, recorder, chaos, jobs, results, rows, len(lacking), seconds, plenty_until)


def _report(
    options: argparse.Namespace,
    hosts: Hosts,
    recorder: Recorder,
    chaos: Chaos,
    jobs: Sequence[Job],
    results: Sequence[Result],
    rows: int,
    lacking: int,
    seconds: float,
    plenty_until: float,
) -> int:
    figures = [r for r in results if r.measurements and r.measurements[0].failure is None]
    kept = [r for r in results if r.measurements and type(r.measurements[0].failure).__name__ != "TransientFailure"]
    reasons = [r for r in results if not r.measurements or r.measurements[0].failure is not None]
    each = Counter(id(r.job) for r in results)
    once = len(each) == len(jobs) and set(each.values()) <= {1}
    idle, busy, jobs_timed = gaps(results, recorder.broken, plenty_until)
    waits = moved(chaos.kills, results, recorder.given)
    lost = sum(len(at) for at in recorder.broken.values())
    place = "PostgreSQL" if options.store.startswith("postgresql") else "SQLite"
    used = sum(float(r.measurements[0].context["took_s"]) for r in figures) / (options.phones * seconds)
    print(f"{options.phones} phones on {options.agents} agents, {len(jobs)} jobs, {seconds:.0f} s, store {place}")
    print(f"agents killed {len(chaos.kills)}, phones dead {len(hosts.dead)}, calls lost {lost}, quarantines ended {chaos.mended}")
    print(f"results {len(figures)}, reasons {len(reasons)}, rows in the store {rows}, still to be planned {lacking}")
    for reason, count in Counter(_reason(r) for r in reasons).most_common(8):
        print(f"    {count} x {reason}")
    print(f"device time {busy / max(1, jobs_timed):.2f} s a job; idle between jobs {idle / max(busy, 1e-9):.2%} of device time")
    print(f"time of all phones that went into results {used:.0%}: the rest are phones and agents that were away, the last jobs")
    if waits:
        middle, longest = np.median(waits), max(waits)
        print(f"{len(waits)} jobs of killed agents ran elsewhere after {middle:.1f} s (median), {longest:.1f} s (longest)")
    print(f"an agent's peak memory {hosts.heaviest_mib:.0f} MiB")
    checks = {
        "every job ended once": once,
        "the store holds each result once": rows == len(kept) and lacking == len(jobs) - len(kept),
    }
    for check, good in checks.items():
        print(f"{'yes' if good else 'NO'}: {check}")
    return 0 if all(checks.values()) else 1


def _reason(result: Result) -> str:
    failure = result.failure or result.measurements[0].failure
    return re.sub(r"\d+", "N", failure.reason if failure else "")[:120]


if __name__ == "__main__":
    sys.exit(main())
