"""The measuring worker, seen from here: one request, one answer, a deadline, and an end that always works."""

from __future__ import annotations

import contextlib
import io
import json
import os
import selectors
import signal
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

_PACKAGE = "paceline/devices/measuring_worker"
_START = "from paceline.devices.measuring_worker.__main__ import main\n\nmain()\n"
_KEPT = 1 << 14
_GRACE_S = 5.0
_OLDEST = (1980, 1, 1, 0, 0, 0)


class WorkerEndedError(Exception):
    """The worker crashed or was ended at its deadline. The text says which, with the last lines that it printed."""


def zipapp(engine: Path | None = None) -> bytes:
    """The worker as one file for `python3 FILE`, the same bytes everywhere. `engine` is a further engine, named as its file."""
    source = Path(__file__).parents[1] / "measuring_worker"
    files = {f"{_PACKAGE}/{path.relative_to(source).as_posix()}": path.read_bytes() for path in source.rglob("*.py")}
    files |= {"__main__.py": _START.encode(), "paceline/__init__.py": b"", "paceline/devices/__init__.py": b""}
    if engine is not None:
        files[f"{_PACKAGE}/engines/{engine.stem}.py"] = engine.read_bytes()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _OLDEST)
            entry.create_system = 3  # Unix, wherever it is written
            file.writestr(entry, files[name])
    return archive.getvalue()


class WorkerProcess:
    """A worker that was started as `process`; it ends with its standard input: on the device, too.

    `hello` is what it says about itself. Raises WorkerEndedError where it says nothing for `timeout_s` seconds.
    """

    def __init__(self, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process, self._requests = process, process.stdin
        self._answers, self._errors = process.stdout.fileno(), process.stderr.fileno()
        self._streams = selectors.DefaultSelector()
        for stream in (self._answers, self._errors):
            os.set_blocking(stream, False)
            self._streams.register(stream, selectors.EVENT_READ)
        self._pending, self._printed = b"", b""
        self.hello = self._answer(timeout_s)

    @property
    def alive(self) -> bool:
        """As far as can be seen from here."""
        return self._process.poll() is None

    def request(self, do: str, timeout_s: float, /, **arguments: Any) -> dict[str, Any]:
        """The worker's answer. Raises WorkerEndedError after a crash, or after `timeout_s` seconds, when it ends the worker."""
        try:
            self._requests.write(json.dumps({"do": do, "timeout_s": timeout_s, "with": arguments}).encode() + b"\n")
            self._requests.flush()
        except (BrokenPipeError, ValueError):  # ended, or closed
            raise WorkerEndedError(self._obituary()) from None
        return self._answer(timeout_s)

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while True:
            line, end, rest = self._pending.partition(b"\n")
            if end:
                self._pending = rest
                with contextlib.suppress(json.JSONDecodeError):
                    answer = json.loads(line)
                    if isinstance(answer, dict):
                        return answer
                self._keep(line + b"\n")  # of a login shell, say, before the worker began
                continue
            ready = self._streams.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                self.close()
                raise WorkerEndedError(f"no answer within {timeout_s:g} s, the worker was ended{self._last_words()}")
            for stream, _ in ready:
                self._read(stream.fd)

    def _read(self, stream: int) -> None:
        chunk = os.read(stream, 1 << 16)
        if not chunk:
            self._streams.unregister(stream)
            if stream == self._answers:
                raise WorkerEndedError(self._obituary())
        elif stream == self._answers:
            self._pending += chunk
        else:
            self._keep(chunk)

    def _keep(self, printed: bytes) -> None:
        self._printed = (self._printed + printed)[-_KEPT:]

    def _obituary(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        assert self._process.stderr is not None
        if not self._process.stderr.closed:
            self._keep(self._process.stderr.read() or b"")
        self.close()
        code = self._process.returncode
        number = -code if code < 0 else code - 128
        name = signal.Signals(number).name if number in set(signal.Signals) else ""
        return f"the worker ended with {f'signal {name}' if name else f'exit code {code}'}{self._last_words()}"

    def _last_words(self) -> str:
        printed = self._printed.decode(errors="replace").strip().splitlines()[-3:]
        return f", its last words: {' | '.join(printed)}" if printed else ""

    def close(self) -> None:
        """Ends the worker. May be called again."""
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        try:
            self._process.wait(_GRACE_S)  # a hung one is ended by the transport's own watch: it must not disturb the next
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._streams.close()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
