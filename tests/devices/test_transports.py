"""The local and the ssh transport: the suite, and what is their own."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from paceline.devices.testing.sshd import Sshd, new_key, why_not
from paceline.devices.testing.transports import TransportTestSuite
from paceline.devices.transports import supervisor
from paceline.devices.transports.local import LocalTransport
from paceline.devices.transports.ssh import SshTransport, _in_any_shell
from paceline.devices.transports.transport import CommandTimeoutError, Completed
from paceline.errors import DeviceError, TransientDeviceError

_WAIT_S = 30.0
needs_sshd = pytest.mark.skipif(why_not() is not None, reason=f"no ssh server: {why_not()}")


def installed(*shells: str) -> list[str]:
    return [shell for shell in shells if shutil.which(shell)]


class TestLocalTransport(TransportTestSuite):
    test_a_lost_link_is_transient = None  # there is none to lose

    @pytest.fixture
    def transport(self, tmp_path: Path) -> LocalTransport:
        return LocalTransport(tmp_path / "copies")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


def connect(server: Sshd, folder: Path, **others: object) -> SshTransport:
    settings = {
        "host": server.host,
        "user": server.user,
        "port": server.port,
        "identity": server.identity,
        "known_hosts": server.known_hosts,
        "folder": str(folder),
        "options": ("GlobalKnownHostsFile=/dev/null",),
    }
    return SshTransport(**(settings | others))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def board(server: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshTransport]:
    with connect(server, tmp_path_factory.mktemp("board") / "it's $HOME") as transport:
        yield transport


@needs_sshd
class TestSshTransport(TransportTestSuite):
    @pytest.fixture
    def transport(self, board: SshTransport) -> SshTransport:
        return board

    @pytest.fixture
    def cut(self, server: Sshd) -> Callable[[], None]:
        return server.cut


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


_HANGS = """
import sys
from pathlib import Path
from paceline.devices.transports.{module} import {name}
transport = {name}({arguments})
command = f"echo $$ >{{sys.argv[1]}}.new; mv {{sys.argv[1]}}.new {{sys.argv[1]}}; trap '' HUP INT TERM; sleep 300; sleep 300"
{call}
"""


@pytest.mark.parametrize("call", ["transport.run(command, 300)", "transport.start(command).wait()"], ids=["run", "start"])
@pytest.mark.parametrize("kind", ["local", pytest.param("ssh", marks=needs_sshd)])
def test_nothing_runs_on_when_we_are_killed(kind: str, call: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    arguments, connections = "", list[int]
    if kind == "ssh":
        server: Sshd = request.getfixturevalue("server")
        connections = server.connections
        paths = f"Path({str(server.identity)!r}), Path({str(server.known_hosts)!r})"
        arguments = f"{server.host!r}, {server.user!r}, {server.port}, {paths}"
    names = {"local": "LocalTransport", "ssh": "SshTransport"}
    script = _HANGS.format(module=kind, name=names[kind], arguments=arguments, call=call)
    note = tmp_path / "pid"
    before = connections()
    with (
        tempfile.TemporaryDirectory() as left_behind,  # a killed process can't tidy up
        subprocess.Popen([sys.executable, "-c", script, str(note)], env={**os.environ, "TMPDIR": left_behind}) as caller,
    ):
        wait_until(note.exists)
        pid = int(note.read_text())
        assert alive(pid)
        caller.send_signal(signal.SIGKILL)
    wait_until(lambda: not alive(pid))
    wait_until(lambda: set(connections()) <= set(before))


def test_a_local_disk_that_is_full_is_named(tmp_path: Path) -> None:
    with full_disk(tmp_path / "disk") as disk:
        model = tmp_path / "model.tflite"
        model.write_bytes(os.urandom(2_000_000))
        with pytest.raises(DeviceError, match=r"model\.tflite to .*disk.*No space"):
            LocalTransport(disk).push(model)
        assert list(disk.iterdir()) == []


def test_a_local_temporary_folder_ends_with_its_transport(tmp_path: Path) -> None:
    transport = LocalTransport()
    (tmp_path / "a").write_bytes(b"a")
    copy = Path(transport.push(tmp_path / "a"))
    assert copy.exists()
    del transport
    assert not copy.exists()


@needs_sshd
class TestSshAlone:
    def test_a_full_disk_is_named_with_what_is_free(self, server: Sshd, tmp_path: Path) -> None:
        model = tmp_path / "model.tflite"
        model.write_bytes(os.urandom(2_000_000))
        with full_disk(tmp_path / "disk") as disk, connect(server, disk) as transport:
            with pytest.raises(DeviceError, match=r"model\.tflite \(2\.0 MB\) doesn't fit .*: 1\.\d MB free in .*disk"):
                transport.push(model)
            assert list(disk.iterdir()) == []
            model.write_bytes(b"small")
            assert transport.pull(transport.push(model), _WAIT_S) == b"small"

    def test_a_link_cut_in_mid_push_leaves_nothing(self, server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = tmp_path / "model"
        model.write_bytes(os.urandom(1_000_000))
        with connect(server, tmp_path / "files") as transport:
            real = subprocess.Popen.communicate

            def cut_half_way(process: subprocess.Popen[bytes], content: bytes, timeout: float) -> tuple[bytes, bytes]:
                assert process.stdin
                process.stdin.write(content[: len(content) // 2])
                process.stdin.flush()
                wait_until(lambda: list((tmp_path / "files").glob(".*")))
                server.cut()
                return real(process, timeout=timeout)

            monkeypatch.setattr(subprocess.Popen, "communicate", cut_half_way)
            with pytest.raises(TransientDeviceError, match="didn't reach"):
                transport.push(model)
            monkeypatch.undo()
            wait_until(lambda: not list((tmp_path / "files").iterdir()))
            assert transport.pull(transport.push(model), _WAIT_S) == model.read_bytes()

    def test_a_host_that_is_unknown(self, server: Sshd, tmp_path: Path) -> None:
        with pytest.raises(DeviceError, match=r"isn't known.*ssh -p \d+ ") as raised:
            connect(server, tmp_path, known_hosts=tmp_path / "empty").run("true", _WAIT_S)
        assert not isinstance(raised.value, TransientDeviceError)

    def test_a_host_whose_key_has_changed(self, server: Sshd, tmp_path: Path) -> None:
        other = new_key(tmp_path / "other").with_suffix(".pub").read_text()
        (tmp_path / "known").write_text(f"[{server.host}]:{server.port} {other}")
        with pytest.raises(DeviceError, match=r"has changed.*ssh-keygen -R '\[127\.0\.0\.1\]:\d+'") as raised:
            connect(server, tmp_path, known_hosts=tmp_path / "known").run("true", _WAIT_S)
        assert not isinstance(raised.value, TransientDeviceError)

    def test_a_key_that_is_not_let_in(self, server: Sshd, tmp_path: Path) -> None:
        with pytest.raises(DeviceError, match=r"doesn't accept the key.*ssh-copy-id") as raised:
            connect(server, tmp_path, identity=new_key(tmp_path / "stranger")).run("true", _WAIT_S)
        assert not isinstance(raised.value, TransientDeviceError)

    def test_nobody_listens(self, server: Sshd, tmp_path: Path) -> None:
        with pytest.raises(TransientDeviceError, match="refuses connections"):
            connect(server, tmp_path, port=1).run("true", _WAIT_S)

    def test_nobody_answers(self, server: Sshd, tmp_path: Path) -> None:
        deaf = ("ProxyCommand=sleep 60",)
        with pytest.raises(TransientDeviceError, match="doesn't answer within 1 s"):
            connect(server, tmp_path, options=deaf).run("true", 1)

    def test_a_link_that_hangs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(supervisor, "_GRACE_S", 1.0)
        note = tmp_path / "pid"
        with Sshd(tmp_path / "sshd") as server, connect(server, tmp_path) as transport:
            transport.run("true", _WAIT_S)
            losing = threading.Timer(0.5, lambda: [os.kill(pid, signal.SIGSTOP) for pid in server.connections()])
            losing.start()
            with pytest.raises(CommandTimeoutError, match=r"doesn't answer, and ends it by itself 3 s after"):
                transport.run(f"echo $$ >{note}; trap '' HUP INT TERM; sleep 300; sleep 300", 2)
            losing.join()
            wait_until(lambda: not alive(int(note.read_text())))  # with nobody to tell it: the connection still hangs

    def test_a_server_that_went_and_came_back(self, server: Sshd, tmp_path: Path) -> None:
        with connect(server, tmp_path) as transport:
            assert transport.run("echo 1", _WAIT_S).text == "1"
            server.stop()
            wait_until(lambda: transport._connection is None or transport._connection.process.poll() is not None)
            with pytest.raises(TransientDeviceError, match="refuses"):
                transport.run("echo 2", _WAIT_S)
            server.start()
            assert transport.run("echo 3", _WAIT_S).text == "3"

    def test_one_connection_serves_all_and_ends(self, server: Sshd, tmp_path: Path) -> None:
        server.cut()
        wait_until(lambda: not server.connections())
        with connect(server, tmp_path) as transport:
            transport.run("true", _WAIT_S)
            one = server.connections()
            for _ in range(3):
                transport.run("true", _WAIT_S)
            assert one
            assert server.connections() == one
        wait_until(lambda: not server.connections())

    def test_settings_that_cannot_be(self, server: Sshd, tmp_path: Path) -> None:
        with pytest.raises(DeviceError, match="no host name"):
            connect(server, tmp_path, host="-oProxyCommand=touch x")
        with pytest.raises(DeviceError, match="no private key"):
            connect(server, tmp_path, identity=tmp_path / "none")
        with pytest.raises(DeviceError, match=r"(?i)teleport"):
            connect(server, tmp_path, options=("Teleport=yes",))
        address = f"ssh:{server.user}@127.0.0.1:{server.port}"
        assert connect(server, tmp_path, host="board", options=("HostName=127.0.0.1",)).address == address

    def test_login_scripts_that_print(self, tmp_path: Path) -> None:
        noisy = tmp_path / "noisy"
        noisy.write_text('#!/bin/sh\necho Welcome to the board!\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n')
        noisy.chmod(0o755)
        with Sshd(tmp_path / "sshd", [f"ForceCommand {noisy}"]) as server, connect(server, tmp_path) as transport:
            assert transport.run("echo mine", _WAIT_S).out == b"mine\n"
            with pytest.raises(DeviceError, match=r"login scripts .* print .*Welcome"):
                transport.start("cat")

    def test_an_account_without_a_shell(self, tmp_path: Path) -> None:
        with Sshd(tmp_path / "sshd", ["ForceCommand exit 1"]) as server:
            transport = connect(server, tmp_path)
            with pytest.raises(DeviceError, match=r"exit code 1 .* login shell"):
                transport.run("true", _WAIT_S)


@pytest.mark.parametrize("shell", installed("bash", "busybox", "mksh"))
def test_any_posix_shell_will_do(shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's sh, dash, is in the suite already."""
    (tmp_path / "sh").symlink_to(shutil.which(shell) or shell)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    transport = LocalTransport(tmp_path)
    assert transport.run("printf out; printf err >&2; exit 7", _WAIT_S) == Completed(7, b"out", b"err")
    assert transport.run("kill -9 $$", _WAIT_S) == Completed(137, b"", b"")
    with pytest.raises(CommandTimeoutError):
        transport.run(f"echo $$ >{tmp_path}/pid; trap '' TERM; sleep 300; sleep 300", 1)
    assert not alive(int((tmp_path / "pid").read_text()))
    with transport.start("cat; echo end; exit 3") as program:
        assert program.communicate(b"in ", _WAIT_S) == (b"in end\n", b"")
        assert program.returncode == 3


@pytest.mark.parametrize("shell", installed("sh", "bash", "dash", "zsh", "fish", "tcsh", "mksh"))
def test_any_login_shell_passes_the_script_on(shell: str) -> None:
    text = 'it\'s $HOME "quoted" \\ `x` !! 100 % é\n* end'
    done = subprocess.run([shell, "-c", _in_any_shell(f"printf %s {shlex.quote(text)}")], capture_output=True)
    assert done.stdout.decode() == text
    assert done.stderr == b""


@contextmanager
def full_disk(folder: Path) -> Iterator[Path]:
    """A file system of one megabyte and a half."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1536k", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this user can't mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
