"""TFLite's native `benchmark_model` on a device: no Python there, one process a batch."""

from __future__ import annotations

import hashlib
import secrets
import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from paceline.devices.benchmark_model import result_proto
from paceline.devices.benchmark_model.flags import arguments, delegates, known_flags, tool_of
from paceline.devices.benchmark_model.output import BenchmarkOutput, Tool, parse
from paceline.devices.runners.runner import Batch
from paceline.devices.transports.transport import CommandTimeoutError, Completed, Transport
from paceline.errors import DeviceError, TransientDeviceError
from paceline.measurement import Artifact, Bench, Delegation, Failure, OpTime, Summary, TransientFailure

RUNTIME = "benchmark_model"
_CPU = ("xnnpack", "builtin")
_HELP_S = 30.0
_RESULT = b"\n-- paceline: result file --\n"
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_AGREE = 0.01
_FALLBACK = "Disallowed CPU fallback"


@dataclass(frozen=True)
class _Program:
    """benchmark_model where it lies on the device. `libraries` are paths there by their file names."""

    path: str
    libraries: dict[str, str]
    flags: frozenset[str]
    tool: Tool


class BenchmarkModelRunner:
    """Runs `binary`, a benchmark_model built for the device: the classic tool or LiteRT's of the same name.

    `libraries` (a delegate, the Hexagon libraries, libLiteRt.so) are put where it finds them; an option of the Bench that is the
    file name of one becomes its path on the device. Raises DeviceError where `binary` isn't there or hasn't the hash `sha256`.
    """

    runtime = RUNTIME
    formats = ("tflite",)

    def __init__(self, transport: Transport, binary: Path, sha256: str | None = None, libraries: Sequence[Path] = ()) -> None:
        self._transport, self._binary, self._libraries = transport, binary, tuple(libraries)
        self._sha256 = _sha256(binary)
        if sha256 is not None and sha256.lower() != self._sha256:
            raise DeviceError(f"{binary} isn't the program that was asked for: its SHA-256 is {self._sha256}, not {sha256}")
        self._hashes = [_sha256(library)[:16] for library in self._libraries]
        self._program: _Program | None = None
        self._result = f"result-{secrets.token_hex(6)}.pb"

    def facts(self) -> dict[str, str]:
        found = {"runtime": RUNTIME, "tool": self._ready().tool, "binary": self._sha256[:16]}
        return found | ({"libraries": " ".join(self._hashes)} if self._hashes else {})

    def delegates(self) -> tuple[str, ...]:
        return delegates(self._ready().flags)

    def session(self, bench: Bench) -> BenchmarkModelSession:
        if bench.runtime != RUNTIME:
            raise DeviceError(f"runtime {bench.runtime!r} isn't what this device runs; use {RUNTIME!r}")
        self._command(bench, "checked", profile=False)
        self._lay_out()  # again: a phone is emptied now and then
        return BenchmarkModelSession(self, bench)

    def profile(self, artifact: Artifact, bench: Bench) -> list[OpTime]:
        said = self.measured(artifact, bench, profile=True)
        if isinstance(said, Failure):
            raise DeviceError(f"no operator profile of {artifact.path}: {said.reason}")
        if not said.operators:
            raise DeviceError(f"no operator profile of {artifact.path}: this benchmark_model ({said.tool}) prints none")
        if not said.operators_complete:
            raise DeviceError(
                f"the operator profile of {artifact.path} is incomplete; raise the option max_profiling_buffer_entries"
            )
        rows = list(said.operators)
        kernels = [i for i, row in enumerate(rows) if row.delegated]
        if len(kernels) == 1 and said.internal:
            rows[kernels[0] : kernels[0] + 1] = said.internal
        return [OpTime(row.kind, row.run_ms, row.delegated) for row in rows]

    def close(self) -> None:
        self._program = None

    def measured(self, artifact: Artifact, bench: Bench, profile: bool) -> BenchmarkOutput | Failure:
        """One run of the tool. Its statistics are those of the result file where it writes one."""
        command = self._command(bench, self._transport.push(artifact.path), profile)
        try:
            done = self._transport.run(command, bench.timeout_s)
        except CommandTimeoutError as e:
            return TransientFailure(f"benchmark_model was ended: {e}")
        text, _, result = done.out.partition(_RESULT)
        done = replace(done, out=text)
        failed = _ended(done)
        if failed:
            return failed
        try:
            said = parse(f"{done.out.decode(errors='replace')}\n{done.err.decode(errors='replace')}")
            failed = _left(said, bench) or _refused(said, done)
            if failed:
                return failed
            said = replace(said, inference=_agreed(said.inference, result_proto.decode(result).inference)) if result else said
            return _useless(said, bench) or said
        except TransientDeviceError as e:
            return TransientFailure(str(e))

    def _command(self, bench: Bench, model: str, profile: bool) -> str:
        """Runs in the binary's folder; the result file follows the output."""
        program = self._ready()
        options = tuple((name, program.libraries.get(value, value)) for name, value in bench.options)
        own = f"./{self._result}"
        words = arguments(
            replace(bench, options=options),
            model,
            profile=profile,
            tool=program.tool,
            known_flags=program.flags,
            result_file=None if profile else own,
        )
        pinned = f"taskset {sum(1 << cpu for cpu in set(bench.affinity)):x} " if bench.affinity else ""
        folder, name = program.path.rsplit("/", 1)
        mark = _RESULT.decode().encode("unicode_escape").decode()
        return (
            f"cd {shlex.quote(folder)} && rm -f {own}; {_environment(program)}{pinned}./{shlex.quote(name)} {shlex.join(words)}; "
            f"code=$?; [ -f {own} ] && printf '{mark}' && cat {own} && rm -f {own}; "
            "exit $code"
        )

    def _ready(self) -> _Program:
        if self._program is None:
            path, libraries = self._lay_out()
            bare = _Program(path, libraries, frozenset(), "tflite")
            said = self._transport.run(f"{_environment(bare)}{shlex.quote(path)} --help", _HELP_S)
            if said.code in (126, 127):
                raise DeviceError(
                    f"{self._binary} can't be started on {self._transport.address}, is it built for it? {said.printed}"
                )
            flags = known_flags(said.printed)
            self._program = _Program(path, libraries, flags, tool_of(flags))
        return self._program

    def _lay_out(self) -> tuple[str, dict[str, str]]:
        """Program and libraries on the device; sent only where they aren't there."""
        path = self._transport.push(self._binary, executable=True)
        return path, self._shelved(path.rsplit("/", 1)[0])

    def _shelved(self, folder: str) -> dict[str, str]:
        """The libraries in a folder of their own under their own names, by which loaders look for them."""
        if not self._libraries:
            return {}
        shelf = f"{folder}/libraries-{hashlib.sha256(' '.join(self._hashes).encode()).hexdigest()[:16]}"
        paths = {library.name: f"{shelf}/{library.name}" for library in self._libraries}
        copies = [f"cp -f {shlex.quote(self._transport.push(x))} {shlex.quote(paths[x.name])}" for x in self._libraries]
        done = self._transport.run(" && ".join([f"mkdir -p {shlex.quote(shelf)}", *copies]), _HELP_S)
        if done.code != 0:
            raise DeviceError(f"can't put the libraries of benchmark_model to {shelf}: {done.printed}")
        return paths


class BenchmarkModelSession:
    """A Session of BenchmarkModelRunner. Nothing stays loaded between batches."""

    def __init__(self, runner: BenchmarkModelRunner, bench: Bench) -> None:
        self._runner, self._bench = runner, bench
        self._delegations: dict[str, Delegation | None] = {}

    def batch(self, artifact: Artifact) -> Batch | Failure:
        said = self._runner.measured(artifact, self._bench, profile=False)
        if isinstance(said, Failure):
            return said
        own = Delegation("builtin", 0, 0) if self._bench.delegate == "builtin" else None
        self._delegations[artifact.sha256] = own or said.delegation(self._bench.delegate)
        return Batch(summary=said.inference)

    def delegation(self, artifact: Artifact) -> Delegation | None:
        return self._delegations.get(artifact.sha256)

    def close(self) -> None:
        self._delegations = {}


def _ended(done: Completed) -> Failure | None:
    """What a signal, or a shell that couldn't start the program, means."""
    if done.code in (126, 127):
        raise DeviceError(f"the device can't run benchmark_model: {done.printed[-300:]}")
    if done.code <= 128:
        return None
    number = done.code - 128
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number in _FROM_OUTSIDE:
        return TransientFailure(f"benchmark_model was killed ({name}), the system may have run out of memory")
    return Failure(f"benchmark_model crashed ({name}): {_last_line(done)}")


def _refused(said: BenchmarkOutput, done: Completed) -> Failure | None:
    if said.failure is not None:
        return Failure(f"benchmark_model: {said.failure}")
    if done.code != 0:
        return Failure(f"benchmark_model ended with exit code {done.code}: {_last_line(done)}")
    return Failure("benchmark_model printed no statistics of the timed runs") if said.inference is None else None


def _left(said: BenchmarkOutput, bench: Bench) -> Failure | None:
    """A figure of an accelerator must be one."""
    if bench.delegate in _CPU:
        return None
    taken = said.delegation(bench.delegate)
    if said.failure is not None and said.failure.startswith(_FALLBACK) and taken is None:
        return Failure(f"delegate {bench.delegate!r} left operators to the CPU: {said.failure}")
    if taken is None or taken.state != "none":
        return None
    why = f" ({'; '.join(said.unsupported[:3])})" if said.unsupported else ""
    return Failure(f"delegate {bench.delegate!r} took no operator: silent fallback to the CPU{why}")


def _useless(said: BenchmarkOutput, bench: Bench) -> Failure | None:
    """A figure that is none, or nobody knows whose."""
    if said.inference is None or said.inference.low <= 0:
        return Failure("it takes less than a microsecond, the unit of benchmark_model's clock; repeat it within a larger model")
    if bench.delegate in _CPU or said.delegation(bench.delegate) is not None:
        return None
    return Failure(f"benchmark_model doesn't say whether delegate {bench.delegate!r} ran the model")


def _agreed(printed: Summary | None, written: Summary) -> Summary:
    if printed is None or printed.count != written.count or abs(printed.avg - written.avg) > _AGREE * written.avg:
        raise TransientDeviceError(f"benchmark_model printed {printed}, but wrote {written} to its result file; measure again")
    return written


def _environment(program: _Program) -> str:
    """Where the loader and Hexagon's loader look for libraries."""
    folders = sorted({path.rsplit("/", 1)[0] for path in program.libraries.values()})
    if not folders:
        return ""
    return f"LD_LIBRARY_PATH={shlex.quote(':'.join(folders))} ADSP_LIBRARY_PATH={shlex.quote(';'.join(folders))} "


def _last_line(done: Completed) -> str:
    return (done.printed.splitlines() or ["it printed nothing"])[-1][-300:]


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as e:
        raise DeviceError(f"can't read {path}: {e.strerror}. Name a benchmark_model built for the device.") from e
