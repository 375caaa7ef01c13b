"""The shell text around a command on a phone: what it printed is only believed between two marks, and nothing outlives it.

adb itself hides a cut link (adb 29 exits with 0 after half of the output) and loses exit codes on old phones, so the command's
exit code travels in the output, after its last byte, on both streams.
"""

from __future__ import annotations

import math
import re
import secrets
import shlex
from dataclasses import dataclass, field

from paceline.devices.transports.transport import Completed

_GRACE_S = 5
_GONE = """\
gone() {{
  kill -s KILL -- -$$ 2>/dev/null
  left=
  for file in $(grep -l '{pattern}' /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null); do
    file=${{file#/proc/}}; left="$left ${{file%/*}}"
  done
  sh -c "kill -KILL $left" 2>/dev/null
}}
trap gone HUP INT TERM
"""
# adbd makes the shell the leader of a group: the first line ends all, the shell too. The others are for daemons that don't,
# by the mark in the environment of all that was started; by a shell that isn't among them, or it would end before the rest.

_SCRIPT = """\
export PACELINE_RUN={id}
{merge}printf '{id}:begin\\n'; {err_begin}
{gone}( exec >/dev/null 2>&1; sleep {seconds}; gone ) </dev/null &
sh -c {command} </dev/null &
wait $!
code=$?
printf '{id}:end %d\\n' $code; {err_end}
gone"""

_INTERACTIVE = """\
export PACELINE_RUN={id}
{gone}exec 3<&0
sh -c {command} <&3 3<&- &
exec 3<&- </dev/null
wait $!
exit $?"""

_END = """\
for i in 1 2 3 4 5 6 7 8 9 10; do
  found=$(grep -l '{pattern}' /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null)
  [ -n "$found" ] || exit 0
  for file in $found; do file=${{file#/proc/}}; kill -KILL ${{file%/*}} 2>/dev/null; done
done
echo $found; exit 1"""


@dataclass(frozen=True)
class RemoteCommand:
    """A command line that ends by itself after `timeout_s`, even with nobody listening.

    `merged` is for phones before Android 7, whose adbd has one stream for both outputs.
    """

    command: str
    timeout_s: float
    merged: bool = False
    id: str = field(default_factory=lambda: f"paceline-{secrets.token_hex(8)}")

    @property
    def text(self) -> str:
        return _SCRIPT.format(
            id=self.id,
            merge="exec 2>&1\n" if self.merged else "",
            err_begin=":" if self.merged else f"printf '{self.id}:begin\\n' >&2",
            err_end=":" if self.merged else f"printf '{self.id}:end %d\\n' $code >&2",
            seconds=math.ceil(self.timeout_s) + _GRACE_S,
            gone=_gone(self.id),
            command=shlex.quote(self.command),
        )

    def completed(self, out: bytes, err: bytes) -> Completed | None:
        """What the command printed, without what adb printed itself. None where anything is missing."""
        said = self._between(out)
        complained = (said[0] if said else 0, b"") if self.merged else self._between(err)
        if said is None or complained is None or said[0] != complained[0]:
            return None
        return Completed(said[0], said[1], complained[1])

    def _between(self, stream: bytes) -> tuple[int, bytes] | None:
        start = stream.find(self._begin)
        ends = list(re.finditer(rb"%s:end (\d+)\n" % self.id.encode(), stream))
        if start < 0 or not ends:
            return None
        return int(ends[-1][1]), stream[start + len(self._begin) : ends[-1].start()]

    @property
    def _begin(self) -> bytes:
        return f"{self.id}:begin\n".encode()


def interactive(command: str, id: str) -> str:
    """A program with its streams connected, and killed with all that it started when the other end hangs up."""
    return _INTERACTIVE.format(id=id, gone=_gone(id), command=shlex.quote(command))


def end_of(id: str) -> str:
    """Kills every process that the run `id` left, by the mark in their environment; exit code 1 where one survives."""
    return _END.format(pattern=_pattern(id))


def _gone(id: str) -> str:
    return _GONE.format(pattern=_pattern(id))


def _pattern(id: str) -> str:
    """Matches the mark, but not itself."""
    return f"[{id[0]}]{id[1:]}"
