"""Where a phone's programs run: on this machine, in a folder that they take for the phone's file system.

With Linux namespaces (as root, or where users may make namespaces) the phone has its own process ids, its own /data, /sdcard,
/storage, /system, /vendor and /sys, and the rest of this machine read-only. Without them, paths in commands are rewritten. That
does for most commands, but a program that reads such a path from a file sees this machine's, and a command may write anywhere.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal, Protocol

from paceline.errors import DeviceError

Mode = Literal["auto", "namespaces", "rewriting"]
OWN = ("data", "sdcard", "storage", "system", "vendor", "sys")  # folders of the phone's own
_LINKS_AT_MOST = 40
_OWN_PATH = re.compile(
    r"""(?<![\w./-])/(?=(?:data|sdcard|storage|system|vendor|sys/class|sys/devices|proc/cpuinfo|proc/loadavg)(?:[/\s"';|&)<>:*,]|$))"""
)

# $1: mount point, $2: the phone's folder, $3: the shell to be /bin/sh or nothing, $4: whether everything else must be read-only,
# then the names of this machine's top folders, "--", and the files below /proc that are the phone's own
_SET_UP = """
set -eu
view=$1 root=$2 shell=$3 strict=$4; shift 4
mount -t tmpfs phone "$view"
while [ "$1" != -- ]; do
    if [ -h "/$1" ]; then cp -P "/$1" "$view/$1"; else
        mkdir "$view/$1"; mount --rbind "/$1" "$view/$1"
        mount -o remount,bind,ro "$view/$1" 2>/dev/null || [ "$strict" = no ]
    fi
    shift
done; shift
while read -r _ point _; do
    case $point in "$view"/*) mount -o remount,bind,ro "$point" 2>/dev/null || :;; esac
done </proc/self/mounts
for own in $OWN; do mkdir "$view/$own"; mount --bind "$root/$own" "$view/$own"; done
mkdir "$view/dev"; mount --rbind /dev "$view/dev"
mkdir "$view/proc"; mount -t proc proc "$view/proc"
for file; do mount --bind "$root/proc/$file" "$view/proc/$file"; done
if [ "$shell" ]; then mount --bind "$shell" "$view/$(readlink -f /bin/sh)"; fi
exec chroot "$view" "$BASH" -c 'echo ready; exec >&-; read -r _'
"""


def find_shell() -> str:
    """Android's own shell, mksh, where it is installed."""
    return shutil.which("mksh") or "/bin/sh"


def default_shell_is_replaced() -> bool:
    """Whether /bin/sh becomes mksh where there are namespaces. Only dash does: bash may be what other things run in."""
    return os.path.realpath("/bin/sh").endswith("/dash") and find_shell() != "/bin/sh"


class Isolation(Protocol):
    """How commands and paths of a phone become commands and paths of this machine."""

    name: str
    home: Path  # where programs are started

    def argv(self, command: str) -> list[str]:
        """The program to start for a shell command; the login shell for an empty one."""

    def program(self, argv: list[str]) -> list[str]:
        """The program to start for another one."""

    def path(self, remote: str, follow: bool = True) -> Path:
        """This machine's path of a file. Links are the phone's, and followed there; the last one where `follow` says so."""

    def printed(self, data: bytes) -> bytes:
        """What a program printed, without this machine's paths."""

    def environment(self) -> dict[str, str]: ...

    def hang_up(self, pid: int) -> None:
        """SIGHUP to the shell that was started as `pid`."""

    def kill_all(self) -> None:
        """Every process on the phone is gone, and new ones may be started."""

    def close(self) -> None: ...


def isolate(root: Path, own_proc: tuple[str, ...], mode: Mode) -> Isolation:
    """Namespaces where they can be had. Raises DeviceError where `mode` asks for them and they can't."""
    for name in (*OWN, "proc", "data/local/tmp", "system/bin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    if mode == "rewriting":
        return Rewriting(root)
    try:
        return Namespaces(root, own_proc)
    except DeviceError:
        if mode == "namespaces":
            raise
        return Rewriting(root)  # `Isolation.name` says so


def _resolve(root: Path, remote: str, outside: Path, follow: bool) -> Path:
    """`remote` below `root` where it is the phone's own, else below `outside`, without leaving either by a link."""
    todo = [part for part in remote.split("/") if part not in ("", ".")][::-1]
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            done = done[:-1]
            continue
        here = _below(root, outside, [*done, part])
        if here.is_symlink() and (todo or follow) and links < _LINKS_AT_MOST:
            links += 1
            target = os.readlink(here)
            if target.startswith(f"{root}/"):  # made by a rewritten command
                target = target[len(str(root)) :]
            done = [] if target.startswith("/") else done
            todo += [piece for piece in target.split("/") if piece not in ("", ".")][::-1]
        else:
            done.append(part)
    return _below(root, outside, done)


def _below(root: Path, outside: Path, parts: list[str]) -> Path:
    return (root if parts and parts[0] in OWN else outside).joinpath(*parts)


class Namespaces:
    """A mount and a process namespace, held by a process that ends with this one."""

    name = "namespaces"

    def __init__(self, root: Path, own_proc: tuple[str, ...] = ()) -> None:
        self.root = root.resolve()
        self.home = Path("/")
        self.own_proc = own_proc
        self._view = self.root / ".view"
        self._view.mkdir(exist_ok=True)
        self._as_root = os.geteuid() == 0
        self._keeper: subprocess.Popen[bytes] | None = None
        self.init = 0
        self._open()

    def _open(self) -> None:
        bash = shutil.which("bash")
        missing = [tool for tool in ("bash", "unshare", "nsenter", "chroot", "mount") if shutil.which(tool) is None]
        if bash is None or missing:
            raise DeviceError(f"no namespaces without {', '.join(missing)}: install bash, coreutils, mount and util-linux")
        hidden = [p for p in (sys.executable, sys.prefix, sys.base_prefix) if Path(p).parts[1] in OWN]
        if hidden:
            raise DeviceError(f"no namespaces with this Python: {hidden[0]} is where the phone has a folder of its own")
        tops = [name for name in sorted(os.listdir("/")) if name not in (*OWN, "proc", "dev") and Path("/", name).is_dir()]
        shell = find_shell() if default_shell_is_replaced() else ""
        users = [] if self._as_root else ["--user", "--map-root-user"]
        arguments = [str(self._view), str(self.root), shell, "yes" if self._as_root else "no", *tops, "--", *self.own_proc]
        self._keeper = subprocess.Popen(
            ["unshare", *users, "--mount", "--pid", "--fork", "--propagation", "private", bash, "-c", _SET_UP, bash, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=dict(os.environ, OWN=" ".join(OWN)),
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stderr is not None
        if self._keeper.stdout.readline() != b"ready\n":
            reason = self._keeper.stderr.read().decode(errors="replace").strip()
            self.close()
            raise DeviceError(f"no namespaces here: {reason}")
        self.init = children(self._keeper.pid)[0]

    def program(self, argv: list[str]) -> list[str]:
        users = [] if self._as_root else ["--user", "--preserve-credentials"]
        return ["nsenter", "--target", str(self.init), *users, "--mount", "--pid", "--root", "--wd", "--", *argv]

    def argv(self, command: str) -> list[str]:
        return self.program(["/system/bin/sh", *(["-c", command] if command else [])])

    def path(self, remote: str, follow: bool = True) -> Path:
        return _resolve(self.root, remote, Path(f"/proc/{self.init}/root"), follow)

    def printed(self, data: bytes) -> bytes:
        return data

    def environment(self) -> dict[str, str]:
        return phone_environment("", "/")

    def hang_up(self, pid: int) -> None:
        shells = children(pid)  # nsenter's only child
        for shell in shells:
            _signal(shell, signal.SIGHUP)

    def kill_all(self) -> None:
        self.close()
        self._open()

    def close(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        if self.init:
            _signal(self.init, signal.SIGKILL)  # and with it all processes of its namespace
        else:
            keeper.kill()
        keeper.wait()
        self.init = 0
        for pipe in (keeper.stdin, keeper.stdout, keeper.stderr):
            if pipe is not None:
                pipe.close()


class Rewriting:
    """No namespaces: the phone's paths in commands are replaced by those of its folder."""

    name = "rewriting"

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.home = self.root
        self._mark = secrets.token_hex(8)
        self._shell = find_shell()

    def program(self, argv: list[str]) -> list[str]:
        return argv

    def argv(self, command: str) -> list[str]:
        return [self._shell, "-c", _OWN_PATH.sub(lambda _: f"{self.root}/", command)] if command else [self._shell]

    def path(self, remote: str, follow: bool = True) -> Path:
        return _resolve(self.root, remote, self.root, follow)

    def printed(self, data: bytes) -> bytes:
        return data.replace(str(self.root).encode(), b"")

    def environment(self) -> dict[str, str]:
        return phone_environment(str(self.root), str(self.root)) | {"PACELINE_PHONE": self._mark}

    def hang_up(self, pid: int) -> None:
        if self._shell.endswith("/mksh"):
            _signal(pid, signal.SIGHUP)
        else:  # other shells do not pass it on to what they run
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGHUP)

    def kill_all(self) -> None:
        """By the mark in their environment."""
        mark = f"PACELINE_PHONE={self._mark}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes():
                    _signal(int(folder.name), signal.SIGKILL)

    def close(self) -> None:
        self.kill_all()


def phone_environment(prefix: str, home: str) -> dict[str, str]:
    """As adbd sets it. This machine's programs come after the phone's."""
    return {
        "PATH": f"{prefix}/system/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": home,
        "TMPDIR": f"{prefix}/data/local/tmp",
        "ANDROID_DATA": "/data",
        "ANDROID_ROOT": "/system",
        "LANG": "C.UTF-8",
    }


def children(pid: int) -> list[int]:
    """The living children of a process; none where it is gone itself."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return []


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, of its living descendants, and of its children that ended."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        ticks = sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime
        return ticks / os.sysconf("SC_CLK_TCK") + sum(map(cpu_seconds, children(pid)))
    return 0.0


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
