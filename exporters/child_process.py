"""Runs one of this package's programs in a process of its own, because native code may crash, hang or print."""

from __future__ import annotations

import subprocess
import sys

from paceline.errors import ExportError

_LAST_LINES = 5


def run_program(module: str, arguments: list[str], timeout_s: float, doing: str) -> None:
    """`python -m module arguments`, silently. Raises ExportError, which says what failed while `doing`."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        raise ExportError(f"{doing} did not finish in {timeout_s:g} s; raise timeout_s") from e
    if done.returncode:
        how = f"was killed by signal {-done.returncode}" if done.returncode < 0 else "failed"
        words = [line for line in done.stderr.strip().splitlines() if line.strip()][-_LAST_LINES:]
        raise ExportError(f"{doing} {how}; the last words:\n" + "\n".join(words))
