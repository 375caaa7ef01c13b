"""Options that several commands share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from paceline.errors import StoreError
from paceline.measurement import Progress, silent
from paceline.progress import progress

DEFAULT_STORE = "runs/store.sqlite"
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables; progress is off.")]
StorePlace = Annotated[str, typer.Option("--store", help="Where measurements are kept: a file, or an SQLAlchemy URL.")]
DevicesFile = Annotated[
    Path | None,
    typer.Option(
        "--devices",
        envvar="PACELINE_DEVICES",
        help="The devices of this host. Default: devices.toml in this folder, if it is there.",
    ),
]


def existing(store: str) -> str:
    """The place of a store that is to be read. Raises StoreError where there is none."""
    if "://" not in store and not Path(store).exists():
        raise StoreError(f"no store at {store}; `paceline run` and `paceline bench` make one, or name another with --store")
    return store


def shown(off: bool) -> Any:
    """Progress by title: a bar or plain lines, nothing where `off`."""

    def show(title: str) -> AbstractContextManager[Progress]:
        return nullcontext(silent) if off else progress(title)

    return show
