"""A POSIX shell script that stands beside a command, on this host or at the far end of a link, and lets nothing outlive it.

What a command printed is only believed between two marks on each of its streams; the second one carries the exit code, and is
printed when everything that the command started is gone. The script ends the command at its deadline, and as soon as its own
standard input is closed: that happens when whoever asked for the command hangs up, dies or loses the link (sshd sends no signal).
"Everything" is the command's process group and, on Linux, whatever has the run's mark in its environment: a program that makes a
session of its own is found too, one that also clears its environment is not.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import selectors
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO

from paceline.devices.transports.transport import CommandTimeoutError, Completed
from paceline.errors import TransientDeviceError

_GRACE_S = 5.0
"""How long a command that was ended may take to be gone."""
_MESSAGE_CHARACTERS = 80

_COMMON = r"""
exec 3<&0 4>&2 </dev/null 2>/dev/null
pl_end_all() {
    kill -9 "-$pl_pid"
    for pl_round in 1 2 3 4 5 6 7 8 9 10; do
        pl_found=$(grep -ls "PACELINE_RUN=[^=]*$pl_id" /proc/[0-9]*/environ)
        [ -n "$pl_found" ] || break
        for pl_entry in $pl_found; do
            pl_entry=${pl_entry#/proc/}
            kill -9 "${pl_entry%/environ}"
        done
    done
}
trap 'pl_why=late; pl_end_all' USR1
trap 'pl_why=cut; pl_end_all' USR2 HUP INT TERM
pl_apart= pl_why=
if command -v setsid >/dev/null; then pl_apart=setsid; else set -m; fi
"""

# A background job's standard input is /dev/null in a shell unless it is named: hence <&3. Streams are closed by `exec` inside of
# ( ), since some shells keep a copy of what is closed for { }. A watcher that finds the script gone ends the command itself.
_RUN = (
    _COMMON
    + r"""
printf ':%s:' "$pl_id"
printf ':%s:' "$pl_id" >&4
PACELINE_RUN="$PACELINE_RUN $pl_id" $pl_apart sh -c "$pl_command" </dev/null 2>&4 3<&- 4>&- &
pl_pid=$!
( exec >/dev/null 3<&- 4>&-; trap 'kill $!; exit' TERM; sleep "$pl_limit" & wait $!; kill -USR1 $$ || pl_end_all ) &
pl_timer=$!
( exec >/dev/null 4>&-; cat <&3; kill -USR2 $$ || pl_end_all ) &
pl_link=$!
exec 3<&-
wait "$pl_pid"
pl_code=$?
pl_end_all
kill "$pl_timer" "$pl_link"
printf ':%s=%s:' "$pl_id" "${pl_why:-$pl_code}" >&4
printf ':%s=%s:' "$pl_id" "${pl_why:-$pl_code}"
"""
)

# The program's input goes through a pump, which sees its end. A named pipe, since a shell waits for the whole of `a | b`;
# opened for both first, since an end alone would wait for the other.
_PROGRAM = (
    _COMMON
    + r"""
pl_folder=$(mktemp -d 2>&4) && mkfifo "$pl_folder/input" 2>&4 || exit 125
exec 5<>"$pl_folder/input" 6<"$pl_folder/input" 7>"$pl_folder/input" 5>&-
rm -r "$pl_folder"
PACELINE_RUN="$PACELINE_RUN $pl_id" $pl_apart sh -c "$pl_command" <&6 2>&4 3<&- 4>&- 6<&- 7>&- &
pl_pid=$!
(
    exec >&7 4>&- 6<&- 7>&-
    cat <&3
    exec >&- 3<&-
    trap 'kill $!; exit' TERM
    sleep "$pl_limit" &
    wait $!
    kill -USR2 $$ || pl_end_all
) &
pl_pump=$!
exec 3<&- 6<&- 7>&-
wait "$pl_pid"
pl_code=$?
pl_end_all
kill "$pl_pump"
exit "$pl_code"
"""
)


def program(command: str, grace_s: int = 1) -> str:
    """The script of a program whose streams are the script's. After the end of its input it has `grace_s` seconds to end."""
    return _settings(secrets.token_hex(8), command, grace_s) + _PROGRAM


def run(argv: Callable[[str], list[str]], command: str, timeout_s: float, address: str) -> Completed:
    """Runs `command` by the script, which `argv` turns into the arguments of a process here. `address` is for messages."""
    deadline = time.monotonic() + timeout_s
    mark = secrets.token_hex(8)
    limit_s = math.ceil(timeout_s + _GRACE_S)
    script = _settings(mark, command, limit_s) + _RUN
    process = subprocess.Popen(
        argv(script), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    out, err = MarkedStream(process.stdout, mark), MarkedStream(process.stderr, mark)
    try:
        read([out, err], deadline)
        late = not (out.ended and err.ended) and time.monotonic() >= deadline
        if late:
            process.stdin.close()
            read([out, err], time.monotonic() + _GRACE_S)
    finally:
        end(process)
    what = _brief(command)
    if late and not (out.ended and err.ended):
        there = f"{address} doesn't answer, and ends it by itself {limit_s} s after its start"
        raise CommandTimeoutError(f"{what} took longer than {timeout_s:.3g} s; {there}")
    if late or "late" in (out.ending, err.ending):
        raise CommandTimeoutError(f"{what} took longer than {timeout_s:.3g} s on {address} and was ended there")
    if not (out.ended and err.ended) or "cut" in (out.ending, err.ending):
        reason = last_line(err.tail) or "no reason given"
        raise TransientDeviceError(f"the link to {address} was lost during {what}: {reason}")
    return Completed(int(out.ending), out.content, err.content)


def last_line(text: bytes) -> str:
    return (text.decode(errors="replace").strip().splitlines() or [""])[-1]


def end(process: subprocess.Popen[bytes], grace_s: float = 1.0) -> None:
    """Closes a process's streams, which ends what it started (see above); kills it where it stays on."""
    if process.stdin:
        with contextlib.suppress(OSError):  # unsent input of a process that is gone
            process.stdin.close()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()


@dataclass
class MarkedStream:
    """What came through a pipe. `ended` once the second mark was seen."""

    pipe: IO[bytes]
    mark: str
    received: bytearray = field(default_factory=bytearray)
    _end: re.Match[bytes] | None = None

    def feed(self, chunk: bytes) -> None:
        start = max(0, len(self.received) - 64)
        self.received += chunk
        self._end = self._end or re.compile(rb":%s=(\w+):" % self.mark.encode()).search(self.received, start)

    @property
    def ended(self) -> bool:
        return self._end is not None

    @property
    def ending(self) -> str:
        """What the second mark carries."""
        return self._end[1].decode() if self._end else ""

    @property
    def content(self) -> bytes:
        """What stands between the marks."""
        return self._after_begin[: self._end.start() - len(self.received)] if self._end else b""

    @property
    def before(self) -> bytes:
        """What came before the first mark: what login scripts print."""
        return bytes(self.received.partition(self._begin)[0])

    @property
    def tail(self) -> bytes:
        """What came after the first mark: where the second never came, the reason may stand there."""
        return self._after_begin if self._begin in self.received else bytes(self.received)

    @property
    def _begin(self) -> bytes:
        return f":{self.mark}:".encode()

    @property
    def _after_begin(self) -> bytes:
        return bytes(self.received.partition(self._begin)[2])


def read(streams: list[MarkedStream], deadline: float) -> None:
    """Reads until every stream has ended, by its mark or by itself, at most until `deadline` (time.monotonic)."""
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            if not stream.ended:
                selector.register(stream.pipe, selectors.EVENT_READ, stream)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                chunk = os.read(key.fd, 1 << 16)
                key.data.feed(chunk)
                if not chunk or key.data.ended:
                    selector.unregister(key.fileobj)


def _brief(command: str) -> str:
    """A command for a message."""
    line = " ".join(command.split())
    return repr(line if len(line) <= _MESSAGE_CHARACTERS else f"{line[:_MESSAGE_CHARACTERS]}…")


def _settings(mark: str, command: str, limit_s: int) -> str:
    return f"pl_id={mark} pl_limit={limit_s} pl_command={shlex.quote(command)}\n"
