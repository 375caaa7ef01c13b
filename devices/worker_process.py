"""The parent's handle on a worker process: one request, one answer, a deadline, and an end that always works."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any


class WorkerEndedError(Exception):
    """The worker crashed or was killed after its deadline. The text says which, with the last lines that it printed."""


class WorkerProcess:
    """Starts `paceline.devices.worker`, pinned to `cpus` (empty: not pinned)."""

    def __init__(self, cpus: tuple[int, ...] = ()) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker)
        replies, reply_fd = os.pipe()
        command = [sys.executable, "-m", "paceline.devices.worker", str(reply_fd), ",".join(map(str, cpus))]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=self._log, stderr=self._log, pass_fds=(reply_fd,), start_new_session=True
            )
        finally:
            os.close(reply_fd)
        self._replies = replies
        self._pending = b""

    def request(self, do: str, timeout_s: float, /, **arguments: Any) -> dict[str, Any]:
        """The worker's answer. Raises WorkerEndedError after a crash, or after `timeout_s` seconds, when it kills the worker."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, "with": arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerEndedError(self._obituary()) from None
        return self._answer(time.monotonic() + timeout_s, timeout_s)

    def _answer(self, deadline: float, timeout_s: float) -> dict[str, Any]:
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._replies], [], [], left)[0]:
                self.close()
                raise WorkerEndedError(f"no answer within {timeout_s:g} s, the worker was killed")
            chunk = os.read(self._replies, 1 << 16)
            if not chunk:
                raise WorkerEndedError(self._obituary())
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _obituary(self) -> str:
        code = self._process.wait()
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        printed = self.printed().strip().splitlines()[-3:]
        return f"the worker ended with {cause}" + (f", its last words: {' | '.join(printed)}" if printed else "")

    def printed(self) -> str:
        """What the native libraries printed so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), 1 << 14, max(0, size - (1 << 14))).decode(errors="replace")

    def close(self) -> None:
        """Ends the worker and everything it started. May be called again."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            os.close(self._replies)
            self._log.close()
