"""A PostgreSQL server of one's own, for tests and benchmarks of farms."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from paceline.errors import StoreError


@dataclass(frozen=True)
class PostgresServer:
    """A running server, reached through a socket in `folder`. `process` may be killed: that is what some tests want."""

    folder: Path
    process: subprocess.Popen[bytes]

    def new_place(self) -> str:
        """A URL for a store: that of a new, empty schema. (A database of its own would be 300 files.)"""
        import psycopg

        name = f"paceline_{next(_NUMBERS)}"
        with psycopg.connect(host=str(self.folder), user="paceline", dbname="postgres", autocommit=True) as db:
            db.execute(f"CREATE SCHEMA {name}".encode())
        return f"postgresql+psycopg://paceline@/postgres?host={self.folder}&options=-csearch_path%3D{name}"


_NUMBERS = count()


def postgres_programs() -> Path | None:
    """The folder of initdb and postgres: Debian's newest, or that of PATH. None where PostgreSQL isn't installed."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    found = str(debian[-1]) if debian else shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@contextmanager
def postgres_server(wait_s: float = 30.0) -> Iterator[PostgresServer]:
    """A new server with nothing in it, without network, gone with all its data at the end. Raises StoreError where there is none.

    PostgreSQL refuses to run as root: then it runs as `postgres` or `nobody`.
    """
    programs = postgres_programs()
    if programs is None:
        raise StoreError("PostgreSQL isn't installed: apt install postgresql")
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="paceline-pg-"))  # short: a socket's path has at most 107 bytes
    try:
        if user is not None:
            shutil.chown(folder, user)
        data = folder / "data"
        command = [
            f"{programs}/initdb",
            "-D",
            str(data),
            "-U",
            "paceline",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]
        made = subprocess.run(command, user=user, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if made.returncode:
            raise StoreError(f"initdb failed: {made.stderr.strip()}")
        settings = ["listen_addresses=", f"unix_socket_directories={folder}", "fsync=off", "max_connections=200"]
        server = [f"{programs}/postgres", "-D", str(data), *(word for setting in settings for word in ("-c", setting))]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(server, user=user, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            _wait_until_ready(programs, folder, process, wait_s)
            yield PostgresServer(folder, process)
        finally:
            process.send_signal(signal.SIGQUIT)  # "immediate shutdown": nothing of it is needed any more
            process.wait(wait_s)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(programs: Path, folder: Path, process: subprocess.Popen[bytes], wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    ask = [f"{programs}/pg_isready", "-q", "-h", str(folder)]
    while subprocess.run(ask, stdin=subprocess.DEVNULL).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise StoreError(f"PostgreSQL didn't start: {(folder / 'log').read_text(errors='replace').strip()}")
        time.sleep(0.05)


def _user() -> str | None:
    """None: as who we are."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
