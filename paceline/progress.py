"""Progress of long jobs: a bar on a terminal, a plain line every few seconds elsewhere. Both on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from paceline.measurement import Progress

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """A Progress that draws `title` while the block runs."""
    console = Console(stderr=True)
    if console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task(title, total=None, note="")
            yield lambda done, total, note="": bar.update(task, completed=done, total=total, note=note)
    else:
        yield _Lines(title)


def _bar(console: Console) -> Bar:
    # two refreshes a second: drawing must not disturb what is being measured
    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Bar(TextColumn("{task.description:<18}"), *columns, console=console, refresh_per_second=2)


class _Lines:
    """At most one line every few seconds, and always the last."""

    def __init__(self, title: str) -> None:
        self._title, self._start, self._printed = title, time.monotonic(), 0.0

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if done >= total or now - self._printed >= _SECONDS_BETWEEN_LINES:
            self._printed = now
            print(f"{self._title} {done}/{total} {now - self._start:.0f} s {note}".rstrip(), file=sys.stderr, flush=True)
