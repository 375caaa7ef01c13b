"""The part of the adb contract that is about files."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import time
import uuid
from pathlib import Path

import pytest

from adb_target import Target, eventually, exactly


def check_push_stores_the_content(t: Target) -> None:
    data = os.urandom(300_001)
    remote = t.push(data)
    assert t.run("shell", f"sha256sum < {remote}")[1].split()[0] == hashlib.sha256(data).hexdigest()


def check_push_gives_the_owners_rights_to_all(t: Target) -> None:
    modes = [t.run("shell", f"stat -c %a {t.push(b'x', mode=mode)}")[1] for mode in (0o644, 0o755, 0o600, 0o444)]
    assert modes == ["666", "777", "666", "444"]


def check_push_keeps_the_time(t: Target) -> None:
    path = t.file(b"x")
    os.utime(path, (1_500_000_000, 1_500_000_000))
    t.run("push", str(path), f"{t.remote}/dated")
    assert t.run("shell", f"stat -c %Y {t.remote}/dated") == (0, "1500000000")


def check_push_makes_folders(t: Target) -> None:
    remote = t.push(b"deep", f"{uuid.uuid4().hex}/b/c")
    assert t.run("shell", f"cat {remote}") == (0, "deep")


def check_push_into_a_folder(t: Target) -> None:
    path = t.file(b"x")
    assert t.run("push", str(path), t.remote)[0] == 0
    assert t.run("shell", f"cat {t.remote}/{path.name}") == (0, "x")


def check_push_replaces(t: Target) -> None:
    remote = t.push(b"something long", "replaced")
    t.push(b"short", "replaced")
    assert t.pull(remote) == b"short"


def check_push_replaces_a_link_not_its_target(t: Target) -> None:
    target = t.push(b"kept", "target")
    t.run("shell", f"ln -sf {target} {t.remote}/link")
    t.push(b"new", "link")
    assert (t.pull(target), t.pull(f"{t.remote}/link")) == (b"kept", b"new")


def check_push_of_a_folder(t: Target) -> None:
    folder = t.local / uuid.uuid4().hex
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a").write_bytes(b"a")
    (folder / "b").write_bytes(b"b")
    assert t.run("push", str(folder), t.remote)[0] == 0
    assert t.run("shell", f"cd {t.remote}/{folder.name} && cat inner/a b") == (0, "ab")


def check_transfer_of_nothing(t: Target) -> None:
    assert t.pull(t.push(b"")) == b""


def check_transfer_of_much(t: Target) -> None:
    data = os.urandom(6_000_000)
    assert t.pull(t.push(data)) == data


def check_names_with_spaces_and_quotes(t: Target) -> None:
    remote = t.push(b"x", "a 'b' \"c\" ä $d")
    assert t.pull(remote) == b"x"


def check_pull_of_what_is_missing_fails(t: Target) -> None:
    path = t.local / uuid.uuid4().hex
    code, text = t.run("pull", f"{t.remote}/none", str(path))
    assert code == 1
    assert "does not exist" in text or "No such file" in text
    assert not path.exists()


def check_pull_of_a_folder(t: Target) -> None:
    name = uuid.uuid4().hex
    t.push(b"a", f"{name}/inner/a")
    t.push(b"b", f"{name}/b")
    assert t.run("pull", f"{t.remote}/{name}", str(t.local))[0] == 0
    assert [(t.local / name / part).read_bytes() for part in ("inner/a", "b")] == [b"a", b"b"]


def check_pull_follows_links(t: Target) -> None:
    target = t.push(b"behind a link")
    t.run("shell", f"ln -sf {target} {t.remote}/absolute; ln -sf {Path(target).name} {t.remote}/relative")
    assert t.pull(f"{t.remote}/absolute") == t.pull(f"{t.remote}/relative") == b"behind a link"


def check_list_of_a_folder(t: Target) -> None:
    name = uuid.uuid4().hex
    t.push(b"abc", f"{name}/file")
    lines = t.run("ls", f"{t.remote}/{name}")[1].splitlines()
    assert sorted(line.split()[-1] for line in lines) == [".", "..", "file"]
    (entry,) = [line.split() for line in lines if line.endswith("file")]
    assert (int(entry[0], 16), int(entry[1], 16)) == (0o100666, 3)


# the file service below what today's client asks


def request(kind: bytes, path: str) -> bytes:
    return struct.pack("<4sI", kind, len(path.encode())) + path.encode()


def check_old_status_of_a_file(t: Target) -> None:
    remote = t.push(b"12345")
    with t.service("sync:") as link:
        link.sendall(request(b"STAT", remote) + request(b"STAT", f"{t.remote}/none"))
        kind, mode, size, modified = struct.unpack("<4sIII", exactly(link, 16))
        assert (kind, mode, size, modified > 0) == (b"STAT", 0o100666, 5, True)
        assert exactly(link, 16) == b"STAT" + bytes(12)


def check_new_status_of_a_file(t: Target) -> None:
    remote = t.push(b"12345")
    t.run("shell", f"ln -sf {remote} {t.remote}/pointer")
    with t.service("sync:") as link:
        link.sendall(b"".join(request(k, p) for k in (b"STA2", b"LST2") for p in (f"{t.remote}/pointer", f"{t.remote}/none")))
        answers = [struct.unpack("<4sIQQIIIIQqqq", exactly(link, 72)) for _ in range(4)]
    found = [(kind, error, stat.S_IFMT(mode)) for kind, error, _, _, mode, *_ in answers]
    assert found == [(b"STA2", 0, stat.S_IFREG), (b"STA2", 2, 0), (b"LST2", 0, stat.S_IFLNK), (b"LST2", 2, 0)]
    assert answers[0][8] == 5


def check_old_list_of_a_folder(t: Target) -> None:
    name = uuid.uuid4().hex
    t.push(b"abc", f"{name}/file")
    found = {}
    with t.service("sync:") as link:
        link.sendall(request(b"LIST", f"{t.remote}/{name}"))
        while True:
            kind, mode, size, _, length = struct.unpack("<4sIIII", exactly(link, 20))
            if kind == b"DONE":
                break
            found[exactly(link, length)] = (mode, size)
        link.sendall(request(b"LIST", f"{t.remote}/none"))
        assert exactly(link, 20)[:4] == b"DONE"
    assert found.keys() == {b".", b"..", b"file"}
    assert found[b"file"] == (0o100666, 3)


def check_stores_links(t: Target) -> None:
    with t.service("sync:") as link:
        link.sendall(request(b"SEND", f"{t.remote}/stored,{0o120777}"))
        link.sendall(struct.pack("<4sI", b"DATA", 7) + b"target\0" + struct.pack("<4sI", b"DONE", 1_500_000_000))
        assert exactly(link, 8) == b"OKAY" + bytes(4)
    assert t.run("shell", f"readlink {t.remote}/stored") == (0, "target")


def refusal(t: Target, *requests: bytes) -> str:
    with t.service("sync:") as link:
        link.sendall(b"".join(requests))
        kind, size = struct.unpack("<4sI", exactly(link, 8))
        assert kind == b"FAIL"
        text = exactly(link, size).decode()
        assert link.recv(1) == b""  # and the service ends
    return text


def check_refuses_unknown_requests(t: Target) -> None:
    assert refusal(t, request(b"WHAT", "/")) == "unknown command 54414857"


def check_refuses_long_paths(t: Target) -> None:
    assert refusal(t, struct.pack("<4sI", b"STAT", 1025)) == "path too long"


def check_refuses_to_receive_without_mode(t: Target) -> None:
    assert refusal(t, request(b"SEND", f"{t.remote}/nomode")) == "missing , in ID_SEND"


def check_refuses_to_send_folders_and_what_is_missing(t: Target) -> None:
    assert refusal(t, request(b"RECV", t.remote)) == "read failed: Is a directory"
    assert refusal(t, request(b"RECV", f"{t.remote}/none")) == "open failed: No such file or directory"


def check_refuses_to_store_below_a_file(t: Target) -> None:
    end = struct.pack("<4sI", b"DONE", 0)
    assert refusal(t, request(b"SEND", f"{t.push(b'x')}/y,{0o100644}"), end) == "couldn't create file: Not a directory"
    assert refusal(t, request(b"SEND", f"{t.push(b'x')}/y/z,{0o100644}"), end) == "couldn't create file: Not a directory"
    assert refusal(t, request(b"SEND", f"{t.remote},{0o100644}"), end) == "couldn't create file: Is a directory"


def check_part_of_a_push_is_removed(t: Target) -> None:
    with t.service("sync:") as link:
        link.sendall(request(b"SEND", f"{t.remote}/part,{0o100644}") + struct.pack("<4sI", b"DATA", 1000) + bytes(500))
        time.sleep(0.1)
    assert eventually(lambda: t.run("shell", f"ls {t.remote}/part")[0] != 0)


def check_unknown_services_are_closed(t: Target) -> None:
    with pytest.raises(ConnectionRefusedError, match="closed"), t.service("nonsense:"):
        pass
