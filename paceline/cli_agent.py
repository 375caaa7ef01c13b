"""`paceline agent` brings this host's devices into a farm; `paceline farm` runs the farm, secures it, and shows who is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from paceline.devices.farm.farm import Member

Address = Annotated[str, typer.Option("--farm", help="Where the farm is: tls://HOST:8786.")]
TlsFolder = Annotated[
    Path | None,
    typer.Option("--tls", help="Folder with ca.pem, node.pem, node-key.pem. Without: this host alone."),
]
farm = typer.Typer(
    help="The farm that agents on other hosts join: its scheduler, its certificates, its devices.", no_args_is_help=True
)


def agent(
    address: Address,
    devices: Annotated[Path | None, typer.Option(help="A devices.toml. Without: this machine is the device.")] = None,
    tls: TlsFolder = None,
    name: Annotated[str, typer.Option(help="What this host is called in the farm. Default: its host name.")] = "",
    host: Annotated[str, typer.Option(help="The address at which the farm reaches this host. Default: found out.")] = "",
) -> None:
    """Bring this host's devices into a farm, and serve them until stopped."""
    from paceline.devices.farm.dask import configure
    from paceline.devices.farm.local import LocalFarm
    from paceline.devices.farm.tls import Tls, check_address
    from paceline.devices.kinds import load_devices

    secured = Tls(tls) if tls else None
    check_address(address, secured)  # before any phone is touched
    configure()
    from paceline.devices.farm.agent import run_agent

    with LocalFarm.of(load_devices(devices), claim=True) as held:
        run_agent(address, held, secured, name, host, _say)


@farm.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on. Any but 127.0.0.1 needs --tls.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8786,
    tls: TlsFolder = None,
) -> None:
    """Run the farm's scheduler until stopped."""
    from paceline.devices.farm.dask import configure
    from paceline.devices.farm.tls import Tls

    configure()
    from paceline.devices.farm.agent import run_scheduler

    run_scheduler(host, port, Tls(tls) if tls else None, _say)


@farm.command()
def certificates(
    folder: Annotated[Path, typer.Argument(help="Made where it isn't there.")],
    days: Annotated[int, typer.Option(min=1, help="How long the hosts' key is valid.")] = 730,
) -> None:
    """Make the keys of a farm, or a new key for its hosts where FOLDER has the authority already."""
    from paceline.devices.farm.tls import make_certificates

    made = make_certificates(folder, days)
    for_hosts = ", ".join(path.name for path in (made.authority, made.certificate, made.key))
    _say(f"copy {for_hosts} from {folder} to a folder on every host of the farm, and keep ca-key.pem to yourself")


@farm.command("devices")
def farm_devices(
    address: Address,
    selector: Annotated[str, typer.Argument(help='Which: "model=Pixel 8", "rack=2", …')] = "all",
    tls: TlsFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list instead of a table.")] = False,
) -> None:
    """The devices in a farm, and what is wrong with those that can't be used."""
    from paceline.devices.farm.remote import DaskFarm
    from paceline.devices.farm.tls import Tls
    from paceline.devices.selection import parse_selector

    wanted = parse_selector(selector)
    with DaskFarm(address, Tls(tls) if tls else None) as opened:
        members = wanted.of(opened.members())
    if as_json:
        print(json.dumps([_row(member) for member in members]))
        return
    table = Table("device", "kind", "model", "labels", "agent", "state")
    for row in map(_row, members):
        model = row["facts"].get("model", "")
        table.add_row(
            *(escape(str(text)) for text in (row["id"], row["kind"], model, ", ".join(row["labels"]), row["agent"])),
            escape(row["trouble"] or "ready"),
        )
    Console().print(table)


def _row(member: Member) -> dict[str, Any]:
    info = member.info
    return {
        "id": member.id,
        "kind": info.kind if info else "",
        "simulated": info.simulated if info else None,
        "fingerprint": info.fingerprint if info else "",
        "facts": dict(info.facts) if info else {},
        "delegates": list(info.delegates) if info else [],
        "labels": list(member.labels),
        "agent": member.agent,
        "trouble": member.trouble,
    }


def _say(line: str) -> None:
    Console(stderr=True).print(escape(line), soft_wrap=True, highlight=False)
