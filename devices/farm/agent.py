"""An agent: the devices of a host as a dask worker with one resource per device. And the scheduler that agents join."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from distributed.diagnostics.plugin import WorkerPlugin

from paceline.devices.device import Device
from paceline.devices.farm.dask import PLUGIN, configure, resource, security
from paceline.devices.farm.farm import Member
from paceline.devices.farm.local import LocalFarm
from paceline.devices.farm.parcels import ArtifactCache
from paceline.devices.farm.tls import Tls, check_address, is_loopback
from paceline.errors import DeviceError, StoreError, TransientDeviceError

if TYPE_CHECKING:
    from distributed import Worker

_RETRY_S = 2.0
_CALLS = 1000
"""That an agent takes in at once. They don't cost a thread each: they wait in the queue of their device."""
Say = Callable[[str], None]


class Agent(WorkerPlugin):
    """What calls find on the worker: its devices and its artifacts."""

    name = PLUGIN

    def __init__(self, devices: LocalFarm, cache: ArtifactCache) -> None:
        self.devices, self.cache = devices, cache
        self._writing = threading.Lock()

    def members(self, label: str) -> list[Member]:
        return [replace(member, agent=label) for member in self.devices.members()]

    def keep(self, content: Mapping[str, bytes]) -> None:
        try:
            with self._writing:
                self.cache.keep(content)
        except StoreError as e:
            raise TransientDeviceError(f"agent on {socket.gethostname()} can't keep artifacts: {e}") from e

    async def call(self, device: str, parcel: bytes, wanted: Callable[[], bool]) -> Any:
        """Queued by device. When its turn comes, it is only made if it is still `wanted`."""
        function, args, kwargs = self.cache.unpack(parcel)

        def made(opened: Device) -> Any:
            return function(opened, *args, **kwargs) if wanted() else None

        return await asyncio.wrap_future(self.devices.on(device).submit(made))


def run_agent(farm: str, devices: LocalFarm, tls: Tls | None, name: str = "", host: str = "", say: Say = print) -> None:
    """Serves `devices` to the farm at `farm` until it is interrupted; joins again whenever the farm was away.

    `host` is the address at which the farm reaches this host (default: found out). Raises DeviceError for an unsafe address, and
    where another agent holds one of the devices in this farm.
    """
    address = check_address(farm, tls)
    configure()
    label = name or socket.gethostname()
    agent = Agent(devices, ArtifactCache())
    asyncio.run(_until_stopped(_serve_devices(address, agent, tls, label, host, say)))


def run_scheduler(host: str, port: int, tls: Tls | None, say: Say = print) -> None:
    """The farm that agents join and clients ask. Raises DeviceError for an address that isn't safe, or that is taken."""
    check_address(f"{host}:{port}", tls)
    configure(connect_s=1.5)  # answers to all callers are held up while it tries to fetch one from an agent that has just died
    asyncio.run(_until_stopped(_schedule(host, port, tls, say)))


async def _until_stopped(work: Any) -> None:
    """A signal to end ends it in good order."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task


async def _schedule(host: str, port: int, tls: Tls | None, say: Say) -> None:
    from distributed import Scheduler

    try:
        scheduler = await Scheduler(
            host=host,
            port=port,
            protocol="tls" if tls else "tcp",
            security=security(tls),
            dashboard=False,
            dashboard_address="127.0.0.1:0",
        )
    except OSError as e:
        raise DeviceError(f"can't listen on {host}:{port}: {e}. Choose another --host or --port.") from e
    async with scheduler:
        say(f"farm at {scheduler.address}; agents join with: paceline agent --farm {scheduler.address}")
        await scheduler.finished()


async def _serve_devices(address: str, agent: Agent, tls: Tls | None, label: str, host: str, say: Say) -> None:
    started, waiting = time.time(), False
    while True:
        try:
            worker = await _join(address, agent, tls, label, host, started)
        except (TimeoutError, OSError, RuntimeError) as e:
            if isinstance(e, RuntimeError) and not isinstance(e.__cause__, OSError | TimeoutError):
                raise
            if not waiting:
                say(f"farm {address} doesn't answer; trying again every {_RETRY_S:.0f} s")
            waiting = True
            await asyncio.sleep(_RETRY_S)
            continue
        waiting = False
        try:
            await _check_alone(worker, agent, started)
            for member in agent.devices.members():
                say(f"device {member.id}: {member.trouble or 'ready'}")
            say(f"{label} serves {len(agent.devices.members())} devices to {address}")
            await worker.finished()
        finally:
            await worker.close(timeout=30)  # what is being measured comes to its end
        say(f"lost the farm {address}; joining again")


async def _join(address: str, agent: Agent, tls: Tls | None, label: str, host: str, started: float) -> Worker:
    from distributed import Worker

    ids = [member.id for member in agent.devices.members()]
    worker: Worker = await Worker(
        address,
        name=f"{label}-{os.getpid()}-{uuid.uuid4().hex[:4]}",
        nthreads=_CALLS,
        resources={resource(name): 1.0 for name in ids},
        memory_limit=0,
        local_directory=tempfile.gettempdir(),
        security=security(tls),
        host=host or (urlsplit(address).hostname if is_loopback(urlsplit(address).hostname or "") else None),
        dashboard=False,
        dashboard_address="127.0.0.1:0",
        heartbeat_interval="500ms",
        death_timeout=10,
        plugins=(agent,),
        startup_information={"agent": lambda worker: {"label": label, "started": started}},
        metrics={"devices": lambda worker: [asdict(member) for member in agent.members(label)]},
    )
    return worker


async def _check_alone(worker: Worker, agent: Agent, started: float) -> None:
    """Who joined first keeps a device."""
    identity = await worker.scheduler.identity(n_workers=-1)
    own = {resource(member.id): member.id for member in agent.devices.members()}
    for address, other in identity["workers"].items():
        both = own.keys() & other["resources"].keys()
        rank = (other.get("agent", {}).get("started", 0.0), address)
        if both and address != worker.address and rank < (started, worker.address):
            name = own[min(both)]
            holder = other.get("agent", {}).get("label", address)
            raise DeviceError(
                f"device {name!r} is in the farm already, held by agent {holder} at {address};"
                " end that agent, or give this device another id"
            )


def artifact_names(dask_worker: Worker) -> set[str]:
    """Called on a worker (by `Client.run`): the artifacts that it has."""
    return _agent(dask_worker).cache.names()


def keep(content: Mapping[str, bytes]) -> None:
    """Called on a worker: takes artifacts in."""
    _agent(_this_worker()).keep(content)


async def call(key: str, device: str, parcel: bytes, stored: object) -> Any:
    """Called on a worker: the call in `parcel`, with the device, after all in `stored` is there. `key` is the call's in dask."""
    worker = _this_worker()

    def wanted() -> bool:  # dask lets a coroutine go on whose call was cancelled
        task = worker.state.tasks.get(key)
        return task is not None and task.state == "executing"

    return await _agent(worker).call(device, parcel, wanted)


def _this_worker() -> Worker:
    from distributed import get_worker

    return get_worker()


def _agent(worker: Worker) -> Agent:
    found = worker.plugins.get(PLUGIN)
    if not isinstance(found, Agent):
        raise TransientDeviceError("this worker is not an agent of Paceline; start it with: paceline agent")
    return found
