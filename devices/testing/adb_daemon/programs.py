"""What stands in a phone's /system/bin: Android's commands, answered by the daemon, and this machine's toybox."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from paceline.devices.testing.adb_daemon.commands import Reply
from paceline.devices.testing.adb_daemon.isolation import find_shell
from paceline.errors import DeviceError

NOT_TOYBOX = frozenset(
    {"mount", "umount", "login", "su", "reboot", "halt", "poweroff", "taskset", "insmod", "rmmod", "[", "test"}
)

_CLIENT = """#!{bash}
# asks the phone that this folder belongs to
exec 3<>/dev/tcp/127.0.0.1/{port} || exit 1
printf '%s\\0' "$#" "${{0##*/}}" "$@" >&3
read -r code <&3
if [ "$code" -eq 0 ]; then cat <&3; else cat <&3 >&2; fi
exit "$code"
"""

_TASKSET = """#!{bash}
# taskset [-ap] [MASK] [PID | COMMAND...]: the phone's CPUs by turns on those of this machine
options=() allowed=({allowed})
while [[ ${{1-}} == -* ]]; do options+=("$1"); shift; done
if [[ "${{options[*]}}" == *p* && $# -lt 2 ]]; then exec {taskset} "${{options[@]}}" "$@"; fi
mask=$((16#${{1#0x}} & {all_cpus})) host=0; shift
if [ "$mask" -eq 0 ]; then echo "taskset: sched_setaffinity: Invalid argument" >&2; exit 1; fi
for ((cpu = 0; mask >> cpu; cpu++)); do
    if ((mask >> cpu & 1)); then ((host |= 1 << allowed[cpu % ${{#allowed[@]}}])); fi
done
exec {taskset} "${{options[@]}}" "$(printf %x "$host")" "$@"
"""


def write_programs(folder: Path, names: Sequence[str], port: int, cpus: int) -> None:
    """Fills /system/bin. `port` is where `serve_programs` listens, `cpus` how many the phone has."""
    bash = shutil.which("bash")
    if bash is None:
        raise DeviceError("the phone's commands are bash scripts, and there is no bash here: install it")
    for link in folder.iterdir():
        link.unlink()
    toybox = shutil.which("toybox")
    if toybox is not None:
        applets = subprocess.run([toybox], capture_output=True, text=True, check=True, timeout=30).stdout.split()
        for applet in {*applets, "toybox"} - NOT_TOYBOX:
            (folder / applet).symlink_to(toybox)
    (folder / "sh").unlink(missing_ok=True)
    (folder / "sh").symlink_to(find_shell())
    scripts = dict.fromkeys(names, _CLIENT.format(bash=bash, port=port))
    taskset = shutil.which("taskset")
    if taskset is not None:
        allowed = " ".join(map(str, sorted(os.sched_getaffinity(0))))
        scripts["taskset"] = _TASKSET.format(bash=bash, taskset=taskset, allowed=allowed, all_cpus=(1 << cpus) - 1)
    for name, script in scripts.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text(script, encoding="utf-8")
        (folder / name).chmod(0o755)


async def serve_programs(run: Callable[[Sequence[str]], Reply]) -> asyncio.Server:
    """Listens on a loopback port for what the scripts ask: the number of arguments, the program's name, the arguments."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            count = int((await reader.readuntil(b"\0"))[:-1])
            argv = [(await reader.readuntil(b"\0"))[:-1].decode(errors="replace") for _ in range(count + 1)]
            reply = run(argv)
            writer.write(f"{reply.code}\n{reply.text}".encode())
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the program was ended
        finally:
            writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)
