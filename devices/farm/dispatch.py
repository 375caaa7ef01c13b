"""Jobs onto the devices of a farm: shared out, kept together by group, handed on when a device is lost.

A lane is the jobs of one group for one device. Every job is a lane of its own unless it has a group; a selector that asks for
three devices makes three lanes of each. A lane is bound to the device that takes its first job; as long as none of its jobs has
been measured it may move to another one, afterwards its jobs wait for that device.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace

from paceline.devices.farm.farm import Farm, Member, take
from paceline.devices.farm.job import Job, Result
from paceline.devices.selection import Selector, parse_selector
from paceline.errors import DeviceError, TransientDeviceError
from paceline.measurement import DeviceInfo, Failure, Measurement, Progress, TransientFailure, silent

_IN_FLIGHT = 2
"""Jobs at a device: one that runs, one that waits there, so that it never idles while results travel."""
_LOOK_S = 1.0
_FIRST_REST_S, _LONGEST_REST_S = 1.0, 60.0
_Future = Future[tuple[DeviceInfo, list[Measurement]]]


@dataclass(frozen=True)
class Patience:
    """How much to bear with devices.

    A job that was handed back `attempts` times is given up; on the only device that may do it, not before `wait_s` seconds.
    Jobs for which there is no usable device are given up after `wait_s`, one without any answer after `job_s`.
    """

    attempts: int = 4
    wait_s: float = 60.0
    job_s: float = 3600.0


def measure_on(
    farm: Farm, selector: str | Selector, jobs: Iterable[Job], progress: Progress = silent, patience: Patience | None = None
) -> Iterator[Result]:
    """The results of `jobs` as they come: for each job, one per device that the selector asks for. None is lost or doubled.

    A device that is lost or in trouble hands its jobs back; others take them where the selector allows it. What can't be measured
    is a Result with a failure. Raises ConfigError for a selector that makes no sense, DeviceError where no device fits it.
    """
    selector = parse_selector(selector) if isinstance(selector, str) else selector
    return _Dispatch(farm, selector, list(jobs), progress, patience or Patience()).results()


@dataclass(eq=False)
class _Work:
    job: Job
    handed_back: int = 0
    first_back: float = 0.0


@dataclass(eq=False)
class _Lane:
    works: deque[_Work]
    siblings: list[_Lane]
    only: str | None = None
    device: str | None = None
    measured: bool = False
    in_flight: int = 0
    queued: bool = True
    refused: dict[str, str] = field(default_factory=dict)
    stranded: float | None = None

    @property
    def movable(self) -> bool:
        return self.only is None and not self.measured and self.in_flight == 0

    def may_run_on(self, device: str) -> bool:
        if self.device is not None or self.only is not None:
            return device in (self.device, self.only)
        return device not in self.refused and all(device != lane.device for lane in self.siblings)


@dataclass(eq=False)
class _Slot:
    """What is going on at a device."""

    id: str
    member: Member | None = None
    lanes: deque[_Lane] = field(default_factory=deque)
    running: dict[_Future, tuple[_Lane, _Work, float]] = field(default_factory=dict)
    rest_until: float = 0.0
    faults: int = 0
    last_trouble: str = "not there"

    @property
    def usable(self) -> bool:
        return self.member is not None and not self.member.trouble

    def rest(self) -> None:
        """For longer every time in a row that it fails."""
        self.faults += 1
        self.rest_until = time.monotonic() + min(_LONGEST_REST_S, _FIRST_REST_S * 2.0 ** (self.faults - 1))


class _Dispatch:
    def __init__(self, farm: Farm, selector: Selector, jobs: list[Job], progress: Progress, patience: Patience) -> None:
        self._farm, self._selector, self._progress, self._patience = farm, selector, progress, patience
        chosen = selector.of(farm.members())
        self._slots = {member.id: _Slot(member.id, member) for member in chosen}
        self._shared: deque[_Lane] = deque()
        self._ended: queue.SimpleQueue[tuple[_Slot, _Future]] = queue.SimpleQueue()
        self._results: deque[Result] = deque()
        groups: dict[object, list[Job]] = {}
        for job in jobs:
            groups.setdefault(job.group or object(), []).append(job)
        targets = [member.id for member in chosen] if selector.count is None else [None] * selector.count
        for group in groups.values():
            siblings: list[_Lane] = []
            for only in targets:
                lane = _Lane(deque(_Work(job) for job in group), siblings, only)
                siblings.append(lane)
                (self._shared if only is None else self._slots[only].lanes).append(lane)
        self._total = len(jobs) * len(targets)

    def results(self) -> Iterator[Result]:
        done = 0
        look_at = 0.0
        self._progress(done, self._total)
        try:
            while done < self._total:
                if time.monotonic() >= look_at:
                    self._look()
                    look_at = time.monotonic() + _LOOK_S
                self._assign()
                self._wait(min(_LOOK_S, max(0.0, look_at - time.monotonic())))
                while self._results:
                    result = self._results.popleft()
                    done += 1
                    self._progress(done, self._total, result.device)
                    yield result
        finally:
            for slot in self._slots.values():
                for future in slot.running:
                    future.cancel()

    # ---- giving jobs to devices

    def _assign(self) -> None:
        """One more job for every device that has none, then for every device that has one."""
        now = time.monotonic()
        for depth in range(1, _IN_FLIGHT + 1):
            for slot in self._slots.values():
                # a device that failed lately has to prove itself with one job
                if slot.usable and now >= slot.rest_until and len(slot.running) < (depth if slot.faults == 0 else 1):
                    lane = self._lane_for(slot)
                    if lane is not None:
                        self._start(slot, lane)

    def _lane_for(self, slot: _Slot) -> _Lane | None:
        if slot.lanes:
            return slot.lanes[0]
        for at, lane in enumerate(self._shared):
            if lane.may_run_on(slot.id):
                del self._shared[at]
                slot.lanes.append(lane)
                lane.device = slot.id
                return lane
        return None

    def _start(self, slot: _Slot, lane: _Lane) -> None:
        work = lane.works.popleft()
        if not lane.works:
            slot.lanes.remove(lane)
            lane.queued = False
        lane.in_flight += 1
        lane.stranded = None
        try:
            future: _Future = self._farm.on(slot.id).submit(take, work.job)
        except TransientDeviceError as e:
            future = Future()
            future.set_exception(e)
        slot.running[future] = (lane, work, time.monotonic())
        future.add_done_callback(lambda ended: self._ended.put((slot, ended)))

    # ---- what comes back

    def _wait(self, seconds: float) -> None:
        try:
            self._handle(*self._ended.get(timeout=seconds))
            while True:
                self._handle(*self._ended.get_nowait())
        except queue.Empty:
            return

    def _handle(self, slot: _Slot, future: _Future) -> None:
        if future not in slot.running:
            return  # given up before
        lane, work, _ = slot.running.pop(future)
        lane.in_flight -= 1
        try:
            info, found = future.result()
        except (TransientDeviceError, CancelledError) as e:
            self._hand_back(slot, lane, work, str(e) or "its agent is gone")
        except DeviceError as e:
            self._refuse(slot, lane, work, str(e))
        except Exception as e:  # the agent's own fault: one job's reason, not the end of thousands of others
            self._finish(slot, work, failure=Failure(f"{slot.id}: {type(e).__name__}: {e}"))
        else:
            lost = [m.failure.reason for m in found if isinstance(m.failure, TransientFailure)]
            if found and len(lost) == len(found):
                if work.handed_back + 1 < self._patience.attempts:
                    self._hand_back(slot, lane, work, lost[-1])
                    return
            else:
                slot.faults = 0
                lane.measured = True
            agent = slot.member.agent if slot.member else ""
            told = [replace(m, context={**m.context, "farm_device": slot.id, "agent": agent}) for m in found]
            self._finish(slot, work, info, told)

    def _finish(
        self,
        slot: _Slot | None,
        work: _Work,
        info: DeviceInfo | None = None,
        found: Iterable[Measurement] = (),
        failure: Failure | None = None,
    ) -> None:
        self._results.append(Result(work.job, slot.id if slot else "", info, tuple(found), failure))

    def _hand_back(self, slot: _Slot, lane: _Lane, work: _Work, reason: str) -> None:
        slot.last_trouble = reason
        slot.rest()
        self._call_back(slot)
        if self._given_up(slot, lane, work):
            text = f"handed back {work.handed_back + 1} times, at last by {slot.id}: {reason}"
            self._finish(slot, work, failure=TransientFailure(text))
            return
        work.first_back = work.first_back or time.monotonic()
        work.handed_back += 1
        self._put_back(slot, lane, work)

    def _call_back(self, slot: _Slot) -> None:
        """What waits at a device in trouble needn't share its fate. If it has just begun, it is done twice, and counts once."""
        for future, (lane, work, _) in list(slot.running.items()):
            if not future.done():
                del slot.running[future]
                future.cancel()
                lane.in_flight -= 1
                self._put_back(slot, lane, work)

    def _given_up(self, slot: _Slot, lane: _Lane, work: _Work) -> bool:
        if work.handed_back + 1 < self._patience.attempts:
            return False
        elsewhere = lane.movable and any(s.usable and s is not slot and s.id not in lane.refused for s in self._slots.values())
        return elsewhere or time.monotonic() - work.first_back >= self._patience.wait_s

    def _refuse(self, slot: _Slot, lane: _Lane, work: _Work, reason: str) -> None:
        """This device can't do it: another one may, unless the job has to be done here."""
        lane.refused[slot.id] = reason
        others = [s for s in self._slots.values() if s.member is not None and s.id not in lane.refused]
        if lane.only is None and not lane.measured and others:
            self._put_back(slot, lane, work)
            return
        self._finish(slot, work, failure=Failure(f"{slot.id}: {reason}"))
        lane.refused.clear()

    def _put_back(self, slot: _Slot, lane: _Lane, work: _Work) -> None:
        lane.works.appendleft(work)
        if not lane.queued:
            slot.lanes.appendleft(lane)
            lane.queued = True
        if lane.movable and lane.device is not None:
            self._release(slot, lane)

    def _release(self, slot: _Slot, lane: _Lane) -> None:
        slot.lanes.remove(lane)
        lane.device = None
        self._shared.appendleft(lane)

    # ---- who is there

    def _look(self) -> None:
        """Once a second: devices that came or went, jobs that nobody can do, jobs without an answer."""
        there = {member.id: member for member in self._farm.members() if self._selector.matches(member)}
        if self._selector.count is not None:
            for name in there.keys() - self._slots.keys():
                self._slots[name] = _Slot(name)
        for slot in self._slots.values():
            slot.member = there.get(slot.id)
            if slot.member is not None and slot.member.trouble:
                slot.last_trouble = slot.member.trouble
            elif slot.member is None and slot.last_trouble == "not there":
                slot.last_trouble = "gone from the farm"
            if not slot.usable:
                for lane in [lane for lane in slot.lanes if lane.movable]:
                    self._release(slot, lane)
            self._give_up_hung(slot)
        self._give_up_stranded()

    def _give_up_hung(self, slot: _Slot) -> None:
        now = time.monotonic()
        for future, (lane, work, since) in list(slot.running.items()):
            if now - since > self._patience.job_s:
                del slot.running[future]
                future.cancel()
                lane.in_flight -= 1
                slot.rest()
                text = f"no answer from {slot.id} within {self._patience.job_s:g} s"
                self._finish(slot, work, failure=TransientFailure(text))

    def _give_up_stranded(self) -> None:
        now = time.monotonic()
        usable = [slot.id for slot in self._slots.values() if slot.usable]
        for lanes, slot in [(self._shared, None), *((slot.lanes, slot) for slot in self._slots.values())]:
            if slot is not None and slot.usable:
                continue
            for lane in list(lanes):
                if any(lane.may_run_on(name) for name in usable):
                    lane.stranded = None
                    continue
                lane.stranded = lane.stranded or now
                if now - lane.stranded >= self._patience.wait_s:
                    lanes.remove(lane)
                    lane.queued = False
                    for work in lane.works:
                        self._finish(slot, work, failure=TransientFailure(self._why(lane)))
                    lane.works.clear()

    def _why(self, lane: _Lane) -> str:
        bound = lane.only or lane.device
        slots = [self._slots[bound]] if bound else list(self._slots.values())
        states = [lane.refused.get(s.id) or s.last_trouble for s in slots]
        told = "; ".join(f"{s.id}: {state}" for s, state in list(zip(slots, states, strict=True))[:5])
        return f"no device for it within {self._patience.wait_s:g} s ({told})"
