"""`paceline spaces`: the search spaces that come with Paceline."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from paceline.cli_options import Json

if TYPE_CHECKING:
    from paceline.pipeline.spaces import Entry


def spaces(
    name: Annotated[str | None, typer.Argument(help="Show this one layer by layer. Default: list them all.")] = None,
    as_json: Json = False,
) -> None:
    """The search spaces that recipes and configs name: their choices, how many architectures they hold, their sources."""
    from paceline.pipeline.spaces import SPACES, find_space

    if name is None:
        if as_json:
            print(json.dumps([_as_json(entry) for entry in SPACES.values()]))
        else:
            _print_all(list(SPACES.values()))
        return
    entry = find_space(name)
    if as_json:
        print(json.dumps(_as_json(entry) | {"choices": {c.name: list(c.options) for c in entry.chain.space().choices}}))
    else:
        _print_one(entry)


def _as_json(entry: Entry) -> dict[str, Any]:
    chain = entry.chain
    return {
        "name": entry.name,
        "layers": len(chain.slots),
        "size": chain.space().size,
        "in_channels": chain.in_channels,
        "image_size": chain.image_size,
        "classes": chain.classes,
        "paper": entry.source and {"system": entry.source.system, "venue": entry.source.venue, "arxiv": entry.source.arxiv},
        "reconstructed": list(entry.reconstructed),
    }


def _print_all(entries: list[Entry]) -> None:
    table = Table(Column("name", no_wrap=True), "layers", "size", "images", "paper", "arXiv")
    for entry in entries:
        paper = (entry.source.system, entry.source.arxiv) if entry.source else ("own", "")
        table.add_row(entry.name, str(len(entry.chain.slots)), _large(entry.chain.space().size), _image(entry), *paper)
    Console().print(table)


def _print_one(entry: Entry) -> None:
    chain = entry.chain
    title = f"{entry.source.system}, {entry.source.venue}, arXiv {entry.source.arxiv}" if entry.source else "Paceline's own"
    table = Table("layer", "channels", "stride", "options", title=f"{entry.name}: {escape(title)}")
    for slot in chain.slots:
        table.add_row(
            *(slot.name, f"{slot.c_in} → {slot.c_out}", str(slot.stride)),
            "\n".join(_in_words(c.name.removeprefix(slot.name), c.options, c.at_least, c.at_most) for c in slot.choices),
        )
    console = Console()
    console.print(table)
    stem = f"stem {chain.stem.channels}" if chain.stem else "no stem"
    stem += f", separable {chain.stem.separable}" if chain.stem and chain.stem.separable else ""
    tail = f"head {chain.tail.channels}" if chain.tail.channels else "no head"
    tail += f", {chain.tail.second}" if chain.tail.second else ""
    console.print(f"{stem}; {tail}; images {_image(entry)}, {chain.classes} classes")
    console.print(f"{chain.space().size} architectures, {_large(chain.space().size)}")
    for sentence in entry.reconstructed:
        console.print(escape(sentence), soft_wrap=True)


def _image(entry: Entry) -> str:
    return f"{entry.chain.image_size}x{entry.chain.image_size}x{entry.chain.in_channels}"


def _large(number: int) -> str:
    return f"{number:.2g}".replace("e+", "e")


def _in_words(name: str, options: tuple[str, ...], at_least: int, at_most: int) -> str:
    several = "" if at_least == at_most == 1 else f" ({at_least} to {at_most} of them)"
    return escape(f"{name.strip('_')}: " if name else "") + " ".join(options) + several
