"""What adb can rely on, as small checks that run against our own adb daemon and against AOSP's adbd alike.

Each check gets a `Target` and asserts. What only the client decides is left out.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

import adb_contract_files
from adb_target import EVERY_BYTE, PATIENCE_S, Target, eventually, exactly, received, unique_sleep

# shell


def check_state_is_device(t: Target) -> None:
    assert t.run("get-state") == (0, "device")


def check_features_of_a_modern_device(t: Target) -> None:
    assert {"shell_v2", "stat_v2", "ls_v2", "cmd"} <= set(t.run("features")[1].split())


def check_exit_code_and_separate_streams(t: Target) -> None:
    done = t.adb.run("-s", t.serial, "shell", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def check_signal_becomes_128_plus_its_number(t: Target) -> None:
    assert t.run("shell", "kill -9 $$")[0] == 137
    assert t.run("shell", "kill -15 $$")[0] == 143


def check_missing_program_is_127(t: Target) -> None:
    assert t.run("shell", "/nonexistent/program")[0] == 127


def check_stdin_reaches_the_command_with_its_end(t: Target) -> None:
    assert t.run("shell", "wc -c", stdin=b"x" * 300_000) == (0, "300000")


def check_output_is_binary(t: Target) -> None:
    done = t.adb.run("-s", t.serial, "shell", "cat", stdin=EVERY_BYTE)
    assert done.stdout == EVERY_BYTE


def check_large_output_is_whole(t: Target) -> None:
    assert len(t.adb.run("-s", t.serial, "shell", "head -c 3000000 /dev/zero").stdout) == 3_000_000


def check_login_shell_reads_commands(t: Target) -> None:
    assert t.run("shell", stdin=b"echo one\necho two\nexit 5\n") == (5, "one\ntwo")


def check_terminal_on_request(t: Target) -> None:
    done = t.adb.run("-s", t.serial, "shell", "-t", "-t", "test -t 0 && test -t 1 && echo terminal; exit 3")
    assert (done.returncode, done.stdout) == (3, b"terminal\r\n")


def check_no_terminal_otherwise(t: Target) -> None:
    assert t.run("shell", "test -t 1 || echo none") == (0, "none")


def check_temporary_folder_is_named(t: Target) -> None:
    assert t.run("shell", "echo ${TMPDIR}") == (0, "/data/local/tmp")


def check_background_program_does_not_hold_the_shell(t: Target) -> None:
    sleep = unique_sleep()
    assert t.run("shell", f"{sleep} >/dev/null 2>&1 </dev/null & echo done") == (0, "done")
    assert t.is_running(sleep)
    t.run("shell", f"pkill -f '{sleep[:-1]}[{sleep[-1]}]'")


def check_many_shells_at_once(t: Target) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: t.run("shell", f"echo {i}; exit {i}"), range(24)))
    assert found == [(i, str(i)) for i in range(24)]


def check_old_shell_has_one_raw_stream(t: Target) -> None:
    with t.service("shell:test -t 1 && echo terminal; echo err >&2; exit 3") as link:
        assert received(link) == b"terminal\nerr\n"


def check_exec_out_is_binary(t: Target) -> None:
    remote = t.push(EVERY_BYTE)
    assert t.adb.run("-s", t.serial, "exec-out", f"cat {remote}").stdout == EVERY_BYTE


# what is left behind


def check_shell_command_ends_with_its_client(t: Target) -> None:
    if not t.hangs_up:
        pytest.skip("the device's shell is not mksh: install mksh, and run where namespaces can be made")
    for command in ("{}", "cd / && V=1 {}", "{}; echo", "exec {}"):
        sleep = unique_sleep()
        client = t.adb.start("-s", t.serial, "shell", command.format(sleep))
        assert eventually(lambda: t.is_running(sleep)), command  # noqa: B023
        client.kill()
        client.communicate()
        assert eventually(lambda: not t.is_running(sleep)), command  # noqa: B023


def check_exec_out_command_outlives_its_client(t: Target) -> None:
    sleep = unique_sleep()
    client = t.adb.start("-s", t.serial, "exec-out", sleep)
    assert eventually(lambda: t.is_running(sleep))
    client.kill()
    client.communicate()
    time.sleep(0.5)
    assert t.is_running(sleep)
    t.run("shell", f"pkill -f '{sleep[:-1]}[{sleep[-1]}]'")


def check_time_out_on_the_device_ends_a_command(t: Target) -> None:
    assert t.run("shell", f"exec timeout -k 1 0.5 {unique_sleep()}")[0] in (124, 143)  # coreutils and toybox differ


# connections


@contextmanager
def echo_server() -> Iterator[int]:
    """Says what it hears, in capitals."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    link, _ = server.accept()
                except OSError:
                    return
                with link:
                    while data := link.recv(65536):
                        link.sendall(data.upper())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(PATIENCE_S)


def hears(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as link:
        link.sendall(data)
        return exactly(link, len(data))


def check_forward_leads_to_the_device(t: Target) -> None:
    with echo_server() as port:
        code, text = t.run("forward", "tcp:0", f"tcp:{port}")
        assert code == 0
        assert hears(int(text), b"abc" * 50_000) == b"ABC" * 50_000
    t.run("forward", "--remove", f"tcp:{text}")


def check_forward_to_nobody_is_closed(t: Target) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        _, text = t.run("forward", "tcp:0", f"tcp:{unused.getsockname()[1]}")
    with socket.create_connection(("127.0.0.1", int(text)), timeout=PATIENCE_S) as link:
        assert link.recv(1) == b""
    t.run("forward", "--remove", f"tcp:{text}")


def check_reverse_leads_to_the_host(t: Target) -> None:
    with echo_server() as port:
        code, device_port = t.run("reverse", "tcp:0", f"tcp:{port}")
        assert code == 0
        assert hears(int(device_port), b"abc" * 50_000) == b"ABC" * 50_000
        assert f"tcp:{device_port} tcp:{port}" in t.run("reverse", "--list")[1]
    assert t.run("reverse", "--remove", f"tcp:{device_port}") == (0, "")
    assert t.run("reverse", "--list")[1] == ""


def check_reverse_errors(t: Target) -> None:
    code, text = t.run("reverse", "--remove", "tcp:9")
    assert (code, "listener 'tcp:9' not found" in text) == (1, True)
    _, port = t.run("reverse", "tcp:0", "tcp:9")
    code, text = t.run("reverse", "--no-rebind", f"tcp:{port}", "tcp:10")
    assert (code, "cannot rebind" in text) == (1, True)
    assert t.run("reverse", f"tcp:{port}", "tcp:11")[0] == 0
    assert f"tcp:{port} tcp:11" in t.run("reverse", "--list")[1]
    assert t.run("reverse", "--remove-all")[0] == 0


CHECKS = [
    check for names in (globals(), vars(adb_contract_files)) for name, check in list(names.items()) if name.startswith("check_")
]
