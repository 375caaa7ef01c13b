"""`paceline devices`: which there are, what they are, what is wrong with them, what happened to them."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paceline.cli_options import DEFAULT_STORE, DevicesFile, Json, StorePlace, existing

if TYPE_CHECKING:
    from paceline.devices.doctor import Checkup

devices = typer.Typer(help="The devices that can be measured here: list, inspect, doctor, log.", invoke_without_command=True)
Name = Annotated[str, typer.Argument(help="A device's id, label, or another selector.")]


@devices.callback()
def _without_command(context: typer.Context, devices: DevicesFile = None, as_json: Json = False) -> None:
    if context.invoked_subcommand is None:
        list_devices(devices, as_json)


@devices.command("list")
def list_devices(devices: DevicesFile = None, as_json: Json = False) -> None:
    """The devices of this host, and whether they are fit to be measured."""
    found = [_row(checkup) for checkup in _checkups(devices, "all")]
    if as_json:
        print(json.dumps(found))
        return
    table = Table("device", "kind", "what it is", "delegates", "state")
    for row in found:
        facts = row["facts"]
        what = facts.get("processor") or " ".join(filter(None, (facts.get("brand"), facts.get("model"), facts.get("soc"))))
        name = row["name"] + (" (simulated)" if row["simulated"] else "")
        state = "ready" if row["ready"] else "\n".join(row["advice"])
        table.add_row(escape(name), escape(row["kind"]), escape(what), "\n".join(row["delegates"]), escape(state))
    Console().print(table)


@devices.command()
def inspect(name: Name = "local", devices: DevicesFile = None, as_json: Json = False) -> None:
    """All that is known of a device: its facts, which make its fingerprint, and its condition now."""
    found = [_row(checkup) for checkup in _checkups(devices, name)]
    if as_json:
        print(json.dumps(found))
        return
    for row in found:
        table = Table("", "", show_header=False, title=escape(f"{row['name']} {row['fingerprint']}"))
        for group in ("facts", "condition"):
            for key, value in row[group].items():
                table.add_row(escape(key), escape(value))
            table.add_section()
        table.add_row("delegates", ", ".join(row["delegates"]))
        table.add_row("state", escape("ready" if row["ready"] else "; ".join(row["advice"])))
        Console().print(table)


@devices.command()
def doctor(
    name: Annotated[str, typer.Argument(help="A device's id, label, or another selector.")] = "all",
    release: Annotated[bool, typer.Option("--release", help="End its quarantine, and put back settings left changed.")] = False,
    devices: DevicesFile = None,
    as_json: Json = False,
) -> None:
    """Explain each device's state, and what to do."""
    found = _checkups(devices, name, release)
    if as_json:
        print(json.dumps([_row(checkup) for checkup in found]))
        return
    console = Console()
    for checkup in found:
        console.print(f"[bold]{escape(checkup.name)}[/] ({escape(checkup.kind)}, {escape(checkup.address or 'no address')})")
        for check in checkup.checks:
            mark = "[green]ok[/]  " if check.good else "[bold red]bad[/] "
            remedy = f" → {check.remedy}" if check.remedy else ""
            console.print(f"  {mark} {escape(check.what)}: {escape(check.found + remedy)}", soft_wrap=True)
    if name == "all":
        _tell_phones(console, {checkup.address for checkup in found})


@devices.command()
def log(
    name: Annotated[str | None, typer.Argument(help="A fingerprint, an address or a device's name. Default: all.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many lines, the last ones.")] = 40,
    store: StorePlace = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """What happened to devices: measured, failed, quarantined."""
    from paceline.store import Store

    with Store(existing(store)) as opened:
        known = opened.devices()
        events = []
        for device in [name] if name is None else [name, *(f for f, info in known.items() if info.name == name)]:
            events += opened.events(device, limit)
    events = sorted(events, key=lambda event: event.at)[-limit:]
    names = {fingerprint: info.name for fingerprint, info in known.items()}
    if as_json:
        print(json.dumps([asdict(event) | {"name": names.get(event.device)} for event in events]))
        return
    table = Table("when", "device", "what", "", "by")
    for event in events:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at))
        table.add_row(when, escape(names.get(event.device, event.device)), event.kind, escape(event.text), escape(event.by))
    Console().print(table)


def _tell_phones(console: Console, known: set[str]) -> None:
    """What adb sees beyond what devices.toml names."""
    from paceline.devices.transports.adb_client import devices_found
    from paceline.errors import DeviceError

    try:
        phones = [phone for phone in devices_found() if f"adb:{phone.serial}" not in known]
    except DeviceError as e:
        console.print(f"[bold]adb[/]: {escape(str(e))}", soft_wrap=True)
        return
    for phone in phones:
        what = " ".join(value for _, value in phone.labels)
        todo = phone.remedy or f'add it to devices.toml: kind = "adb", serial = "{phone.serial}", benchmark_model = "…"'
        console.print(
            f"[bold]adb sees {escape(phone.serial)}[/] ({escape(phone.state)}) {escape(what)} → {escape(todo)}", soft_wrap=True
        )


def _checkups(devices: DevicesFile, selector: str, release: bool = False) -> list[Checkup]:
    from paceline.devices.doctor import examine
    from paceline.devices.farm.farm import Member
    from paceline.devices.hosted import candidates, entries_of
    from paceline.devices.selection import parse_selector

    entries = candidates(entries_of(devices), selector)
    found = {entry.id: examine(entry, release) for entry in entries}
    members = [Member(entry.id, entry.labels, found[entry.id].info) for entry in entries]
    return [found[member.id] for member in parse_selector(selector).of(members)]


def _row(checkup: Checkup) -> dict[str, Any]:
    info, health = checkup.info, checkup.health
    return {
        "name": checkup.name,
        "kind": checkup.kind,
        "address": checkup.address,
        "simulated": info.simulated if info else None,
        "fingerprint": info.fingerprint if info else "",
        "facts": dict(info.facts) if info else {},
        "delegates": list(info.delegates) if info else [],
        "ready": checkup.ready,
        "condition": health.facts if health else {},
        "advice": [f"{c.found} → {c.remedy}" if c.remedy else c.found for c in checkup.checks if not c.good],
        "checks": [asdict(check) for check in checkup.checks],
    }
