"""A farm of many hosts, seen by the one who measures: a client of dask.distributed that notices what is gone."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from paceline.devices.farm import dask
from paceline.devices.farm.farm import DeviceExecutor, Member
from paceline.devices.farm.parcels import MissingArtifactError, pack
from paceline.devices.farm.tls import Tls, check_address
from paceline.errors import TransientDeviceError
from paceline.measurement import Artifact, DeviceInfo

if TYPE_CHECKING:
    from distributed import Client

_LOOK_S = 1.0


class DaskFarm:
    """The Farm that `paceline farm serve` runs at `address`. Raises DeviceError for an address that isn't safe,
    TransientDeviceError where nothing answers there within `timeout_s`.

    A dask job whose worker is gone waits for ever. Here its future ends with a TransientDeviceError, seconds after the agent was
    last heard of.
    """

    def __init__(self, address: str, tls: Tls | None = None, timeout_s: float = 10.0) -> None:
        self.address = check_address(address, tls)
        dask.configure()
        self._client = _connect(self.address, tls, timeout_s)
        self._agents: dict[str, _RemoteAgent] = {}
        self._members: tuple[Member, ...] = ()
        self._homes: dict[str, str] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._look()
        self._watch = threading.Thread(target=self._keep_looking, name="farm", daemon=True)
        self._watch.start()

    def members(self) -> Sequence[Member]:
        """As of the last second. None while the farm doesn't answer."""
        return self._members

    def on(self, device: str) -> DeviceExecutor:
        with self._lock:
            agent = self._agents.get(self._homes.get(device, ""))
        if agent is None:
            there = ", ".join(member.id for member in self._members[:8]) or "none"
            raise TransientDeviceError(f"no device {device!r} in the farm {self.address} now; there are: {there}")
        return _OneDevice(agent, device)

    def close(self) -> None:
        self._ending.set()
        self._watch.join()
        for agent in self._agents.values():
            agent.lose("the farm was closed")
        self._client.close()

    def __enter__(self) -> DaskFarm:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _keep_looking(self) -> None:
        while not self._ending.wait(_LOOK_S):
            self._look()

    def _look(self) -> None:
        try:
            workers: Mapping[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, TimeoutError, ValueError):  # ValueError: dask's word for a client that lost its scheduler
            workers = {}
        now = time.monotonic()
        members: dict[str, Member] = {}
        homes: dict[str, str] = {}
        silent = set()
        for address, worker in workers.items():
            if not any(name.startswith(dask.resource("")) for name in worker["resources"]):
                continue
            agent = self._agents.get(address)
            if agent is None:
                agent = _RemoteAgent(self._client, address)
                with self._lock:
                    self._agents[address] = agent
            if not agent.heard(worker["last_seen"], now):
                silent.add(address)
                continue
            for told in worker["metrics"].get("devices", ()):
                member = _member(told)
                if member.id not in members:
                    members[member.id], homes[member.id] = member, address
        with self._lock:
            gone = [self._agents[address] for address in self._agents if address not in workers or address in silent]
            for agent in gone:
                if agent.address not in workers:
                    del self._agents[agent.address]
            self._members, self._homes = tuple(sorted(members.values(), key=lambda member: member.id)), homes
        for agent in gone:
            agent.lose("its agent is gone")


class _RemoteAgent:
    """One agent: what it has been sent, and the calls that it has not answered."""

    def __init__(self, client: Client, address: str) -> None:
        self.address = address
        self._client = client
        self._lock = threading.Lock()
        self._stored: dict[str, Any] = {}
        self._asked: set[str] | None = None
        self._open: dict[Future[Any], tuple[str, Any]] = {}
        self._last_seen, self._heard_at, self._lost = 0.0, 0.0, ""

    def heard(self, last_seen: float, now: float) -> bool:
        """By this host's clock alone: clocks of hosts differ."""
        if last_seen != self._last_seen:
            self._last_seen, self._heard_at, self._lost = last_seen, now, ""
        return now - self._heard_at < dask.SILENCE_S

    def submit(self, device: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Future[Any]:
        from paceline.devices.farm.agent import call

        parcel, artifacts = pack(function, args, kwargs)
        promise: Future[Any] = Future()
        key = f"call-{uuid.uuid4().hex}"
        stored = self._store(artifacts)
        answer = self._client.submit(call, key, device, parcel, stored, workers=[self.address], key=key, retries=0)
        with self._lock:
            self._open[promise] = (device, answer)
            lost = self._lost
        promise.add_done_callback(self._forget)
        if lost:  # since the caller asked for it
            self.lose(lost)
        loop: Any = self._client.loop
        loop.add_callback(self._fetch, promise, answer)
        return promise

    def lose(self, reason: str) -> None:
        with self._lock:
            self._lost = reason
            lost = list(self._open.items())
        for promise, (device, _) in lost:
            _settle(promise, error=TransientDeviceError(f"device {device!r} is lost: {reason}"))

    def _store(self, artifacts: Mapping[str, Artifact]) -> list[Any]:
        """What a call has to wait for, so that its artifacts are there. Each is sent once."""
        from paceline.devices.farm.agent import artifact_names, keep

        if self._asked is None:
            try:
                self._asked = self._client.run(artifact_names, workers=[self.address])[self.address]
            except (OSError, TimeoutError, KeyError) as e:
                raise TransientDeviceError(f"the agent at {self.address} is gone: {e}") from e
        with self._lock:
            known = self._asked
            missing = {name: a for name, a in artifacts.items() if name not in known and name not in self._stored}
            if missing:
                content = {name: artifact.path.read_bytes() for name, artifact in missing.items()}
                sent = self._client.submit(keep, content, workers=[self.address], pure=False)
                self._stored |= dict.fromkeys(missing, sent)
            waits = {self._stored[name].key: self._stored[name] for name in artifacts if name in self._stored}
        return list(waits.values())

    async def _fetch(self, promise: Future[Any], answer: Any) -> None:
        """On the client's own loop: an answer that is lost with its host must not hold up the others."""
        result: Any = None
        error: BaseException | None = None
        try:
            result = await answer
        except (CancelledError, asyncio.CancelledError):
            error = TransientDeviceError("the call was given up")
        except Exception as e:
            error = TransientDeviceError(f"the agent is gone: {e}") if type(e).__module__.startswith("distributed") else e
            with self._lock:
                self._stored = {name: sent for name, sent in self._stored.items() if sent.status in ("pending", "finished")}
                if isinstance(error, MissingArtifactError):
                    self._asked, self._stored = set(), {}
        _settle(promise, result, error)

    def _forget(self, promise: Future[Any]) -> None:
        with self._lock:
            _, answer = self._open.pop(promise)
        if not answer.done():
            with suppress(OSError, TimeoutError):
                answer.cancel()


class _OneDevice(DeviceExecutor):
    def __init__(self, agent: _RemoteAgent, device: str) -> None:
        self._agent, self._device = agent, device

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._agent.submit(self._device, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """The farm outlives its executors."""


def _connect(address: str, tls: Tls | None, timeout_s: float) -> Client:
    from distributed import Client

    try:
        return Client(address, timeout=timeout_s, security=dask.security(tls), set_as_default=False)
    except (OSError, TimeoutError) as e:
        raise TransientDeviceError(f"no farm answers at {address}: {e}. Start one there with: paceline farm serve") from e


def _member(told: Mapping[str, Any]) -> Member:
    info = told["info"]
    known = DeviceInfo(**(dict(info) | {"delegates": tuple(info["delegates"])})) if info else None
    return Member(told["id"], tuple(told["labels"]), known, told["agent"], told["trouble"])


def _settle(promise: Future[Any], result: Any = None, error: BaseException | None = None) -> None:
    with suppress(Exception):  # InvalidStateError: it was settled or cancelled before
        if error is not None:
            promise.set_exception(error)
        else:
            promise.set_result(result)
