"""What every transport must do, as tests: subclass `TransportTestSuite` and give it a transport."""

from __future__ import annotations

import hashlib
import shlex
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paceline.devices.transports.transport import CommandTimeoutError, Transport
from paceline.errors import DeviceError, TransientDeviceError

_PATIENCE_S = 30.0
"""A deadline for what takes no time: far off, for busy machines."""
_NEVER_S = 300
_INHERITED = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
_PRINTABLE = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\t"), max_size=60)


class TransportTestSuite:
    """Override `transport`, and `cut` where the link can be lost: it loses it now, and the next command may connect again."""

    @pytest.fixture
    def transport(self) -> Transport:
        raise NotImplementedError

    @pytest.fixture
    def cut(self) -> Callable[[], None]:
        pytest.skip("this link can't be cut")

    @pytest.fixture
    def scratch(self, transport: Transport, tmp_path: Path) -> str:
        """A prefix for paths of files on the device that nothing else uses."""
        return transport.push(_file(tmp_path / "scratch", _content(8))) + ".scratch"

    def test_has_an_address(self, transport: Transport) -> None:
        assert transport.address
        assert transport.address == transport.address.strip()

    @pytest.mark.parametrize("code", [0, 1, 77, 126, 255])
    def test_exit_codes_are_values(self, transport: Transport, code: int) -> None:
        assert transport.run(f"exit {code}", _PATIENCE_S).code == code

    def test_a_signal_is_an_exit_code_above_128(self, transport: Transport) -> None:
        assert transport.run("kill -9 $$", _PATIENCE_S).code == 137
        assert transport.run("sh -c 'kill -15 $$'", _PATIENCE_S).code == 143

    def test_an_unknown_command_is_an_exit_code(self, transport: Transport) -> None:
        assert transport.run("no-such-command-here", _PATIENCE_S).code == 127

    def test_the_two_streams_are_apart(self, transport: Transport) -> None:
        done = transport.run("printf out; printf err >&2; exit 3", _PATIENCE_S)
        assert (done.code, done.out, done.err) == (3, b"out", b"err")
        assert transport.run(":", _PATIENCE_S).out == b""

    def test_standard_input_is_empty(self, transport: Transport) -> None:
        assert transport.run("cat; echo end", _PATIENCE_S).out == b"end\n"

    def test_a_megabyte_of_any_bytes_comes_whole(self, transport: Transport, tmp_path: Path) -> None:
        content = bytes(range(256)) * 2048 + _content(1 << 19)
        remote = shlex.quote(transport.push(_file(tmp_path / "big", content)))
        done = transport.run(f"cat {remote}; cat {remote} >&2", _PATIENCE_S)
        assert done.code == 0
        assert done.out == content
        assert done.err == content

    @settings(max_examples=15, deadline=None, suppress_health_check=_INHERITED)
    @given(text=_PRINTABLE)
    def test_any_text_survives(self, transport: Transport, text: str) -> None:
        done = transport.run(f"printf %s {shlex.quote(text)}", _PATIENCE_S)
        assert (done.code, done.out.decode()) == (0, text)

    def test_a_command_of_several_lines(self, transport: Transport) -> None:
        command = "# a comment\nfor i in 1 2; do\n  cat <<END\n$i of 2\nEND\ndone\n"
        assert transport.run(command, _PATIENCE_S).text == "1 of 2\n2 of 2"

    def test_after_the_deadline_nothing_is_left(self, transport: Transport, scratch: str) -> None:
        child = 'sh -c \'echo $$ >>"$PIDS"; trap "" HUP INT TERM; while :; do sleep 1; done\''
        apart = f"if command -v setsid; then setsid {child} & fi"
        with pytest.raises(CommandTimeoutError, match=r"2 s"):
            transport.run(
                f'PIDS={shlex.quote(scratch)}.late; export PIDS; echo $$ >"$PIDS"; {child} & {apart}; sleep {_NEVER_S}', 2
            )
        found = transport.pull(f"{scratch}.late", _PATIENCE_S).split()
        assert len(found) >= 2
        assert not [pid for pid in found if _alive(transport, int(pid))]

    def test_after_the_command_nothing_is_left(self, transport: Transport) -> None:
        done = transport.run(f"sleep {_NEVER_S} & echo $!", _PATIENCE_S)
        assert done.code == 0
        assert not _alive(transport, int(done.out))

    def test_output_before_the_deadline_is_no_result(self, transport: Transport) -> None:
        with pytest.raises(CommandTimeoutError):
            transport.run(f"echo 12.5; sleep {_NEVER_S}", 1)
        assert transport.run("echo on", _PATIENCE_S).text == "on"

    def test_a_pushed_file_comes_back_exactly(self, transport: Transport, tmp_path: Path) -> None:
        content = _content(3_000_001)
        assert transport.pull(transport.push(_file(tmp_path / "some.tflite", content)), _PATIENCE_S) == content
        assert transport.pull(transport.push(_file(tmp_path / "empty", b"")), _PATIENCE_S) == b""

    def test_push_goes_by_content(self, transport: Transport, tmp_path: Path) -> None:
        one, other = _content(1000), _content(1000)
        path = _file(tmp_path / "it's a $model.tflite", one)
        first = transport.push(path)
        assert transport.push(path) == first
        path.write_bytes(other)
        second = transport.push(path)
        assert second != first
        assert transport.pull(first, _PATIENCE_S) == one
        assert transport.pull(second, _PATIENCE_S) == other
        assert hashlib.sha256(one).hexdigest()[:16] in first

    def test_push_mends_what_is_damaged(self, transport: Transport, tmp_path: Path) -> None:
        content = _content(1000)
        remote = transport.push(_file(tmp_path / "model", content))
        assert transport.run(f"printf x >{shlex.quote(remote)}", _PATIENCE_S).code == 0
        assert transport.push(tmp_path / "model") == remote
        assert transport.pull(remote, _PATIENCE_S) == content

    def test_push_leaves_no_other_files(self, transport: Transport, tmp_path: Path) -> None:
        remote = transport.push(_file(tmp_path / "model", _content(1000)))
        around = f"ls -A {shlex.quote(remote.rsplit('/', 1)[0])}"
        before = transport.run(around, _PATIENCE_S).out.splitlines()
        new = transport.push(_file(tmp_path / "model", _content(1000)))
        after = transport.run(around, _PATIENCE_S).out.splitlines()
        assert {name.decode() for name in after} - {name.decode() for name in before} == {new.rsplit("/", 1)[1]}

    def test_an_executable_runs(self, transport: Transport, tmp_path: Path) -> None:
        program = _file(tmp_path / "program", b"#!/bin/sh\necho runs: $1\n#" + _content(8).hex().encode() + b"\n")
        remote = transport.push(program, executable=True)
        assert transport.run(f"{shlex.quote(remote)} well", _PATIENCE_S).text == "runs: well"

    def test_what_was_pushed_becomes_executable(self, transport: Transport, tmp_path: Path) -> None:
        program = _file(tmp_path / "program", b"#!/bin/sh\necho runs\n#" + _content(8).hex().encode() + b"\n")
        transport.push(program)
        remote = transport.push(program, executable=True)
        assert transport.run(shlex.quote(remote), _PATIENCE_S).text == "runs"

    def test_missing_files_are_errors_that_name_them(self, transport: Transport, tmp_path: Path, scratch: str) -> None:
        with pytest.raises(DeviceError, match=r"\.missing") as pulled:
            transport.pull(f"{scratch}.missing", _PATIENCE_S)
        assert not isinstance(pulled.value, TransientDeviceError)
        with pytest.raises(DeviceError, match="nowhere"):
            transport.push(tmp_path / "nowhere")

    def test_a_program_answers_and_ends(self, transport: Transport) -> None:
        with transport.start("while read -r line; do echo \"got $line\"; done; printf '\\0\\377\\r\\n'; echo why >&2") as program:
            assert program.stdin
            assert program.stdout
            assert program.stderr
            for word in (b"one", b"two"):
                program.stdin.write(word + b"\n")
                program.stdin.flush()
                assert program.stdout.readline() == b"got " + word + b"\n"
            program.stdin.close()
            assert program.stdout.read() == b"\0\xff\r\n"
            assert program.stderr.read() == b"why\n"
            program.wait(_PATIENCE_S)

    def test_a_program_takes_any_bytes(self, transport: Transport) -> None:
        content = bytes(range(256)) * 2048
        with transport.start("cat") as program:
            assert program.communicate(content, _PATIENCE_S)[0] == content

    @pytest.mark.parametrize("way", ["close", "terminate", "kill"])
    def test_a_program_that_hangs_ends_with_its_streams(self, transport: Transport, way: str) -> None:
        with transport.start(f"trap '' HUP INT TERM; echo $$; sleep {_NEVER_S} & echo $!; sleep {_NEVER_S}") as program:
            assert program.stdout
            assert program.stdin
            pids = [int(program.stdout.readline()), int(program.stdout.readline())]
            assert all(_alive(transport, pid) for pid in pids)
            program.stdin.close() if way == "close" else getattr(program, way)()
            program.wait(_PATIENCE_S)
        deadline = time.monotonic() + _PATIENCE_S
        while any(_alive(transport, pid) for pid in pids):
            assert time.monotonic() < deadline, "it still runs"
            time.sleep(0.1)

    def test_several_threads_at_once(self, transport: Transport, tmp_path: Path) -> None:
        path = _file(tmp_path / "model", _content(100_000))

        def work(number: int) -> bytes:
            remote = shlex.quote(transport.push(path))
            return transport.run(f"sleep 0; cat {remote}; echo {number}; exit {number}", _PATIENCE_S).out

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(work, range(12)))
        assert found == [path.read_bytes() + f"{number}\n".encode() for number in range(12)]

    def test_a_lost_link_is_transient(self, transport: Transport, cut: Callable[[], None], scratch: str) -> None:
        flag = shlex.quote(f"{scratch}.flag")
        losing = threading.Timer(1.0, cut)
        losing.start()
        try:
            with pytest.raises(TransientDeviceError) as lost:
                transport.run(f"echo $$ >{flag}; echo 12.5; sleep {_NEVER_S}", _PATIENCE_S)
        finally:
            losing.join()
        assert not isinstance(lost.value, CommandTimeoutError)
        pid = int(_again(lambda: transport.pull(f"{scratch}.flag", _PATIENCE_S)))
        deadline = time.monotonic() + _PATIENCE_S
        while _alive(transport, pid):
            assert time.monotonic() < deadline, "it still runs"
            time.sleep(0.1)


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _content(size: int) -> bytes:
    """Bytes that no test has used before: a device may keep what is pushed."""
    return np.random.default_rng().bytes(size)


def _alive(transport: Transport, pid: int) -> bool:
    """Whether a process runs on the device; one that only waits for its parent's attention doesn't."""
    return transport.run(f"kill -0 {pid} && ! grep -q 'State:.*Z' /proc/{pid}/status", _PATIENCE_S).code == 0


def _again(attempt: Callable[[], bytes]) -> bytes:
    """A link that was lost may need a moment."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return attempt()
        except TransientDeviceError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
