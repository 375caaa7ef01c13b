"""What `paceline table` says of bundles: as JSON, and in a terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paceline.graph import OpSpec, tensor_text

if TYPE_CHECKING:
    from paceline.latency_models.bundle.bundle import Bundle
    from paceline.latency_models.bundle.diff import Change, Difference
    from paceline.latency_models.bundle.merge import Contradiction
    from paceline.latency_models.bundle.rows import MeasuredRow


def bundle_json(bundle: Bundle) -> dict[str, Any]:
    return {
        "device": bundle.device.name,
        "fingerprint": bundle.device.fingerprint,
        "kind": bundle.device.kind,
        "simulated": bundle.device.simulated,
        "facts": dict(bundle.device.facts),
        "bench": asdict(bundle.bench),
        "versions": dict(bundle.versions),
        "licence": bundle.licence,
        "origin": bundle.origin,
        "usual_ms": dict(bundle.usual_ms),
        "model": bool(bundle.saved),
        "fusion": bundle.fusion,
        "rows": [_row_json(row) for row in bundle.measured],
        "failed": [{"subject": row.subject, "reason": row.reason, "measured_at": row.measured_at} for row in bundle.failed],
    }


def difference_json(found: Difference, before: Bundle, after: Bundle) -> dict[str, Any]:
    return {
        "before": {"device": before.device.name, "fingerprint": before.device.fingerprint, "bench": asdict(before.bench)},
        "after": {"device": after.device.name, "fingerprint": after.device.fingerprint, "bench": asdict(after.bench)},
        **asdict(found),
        "typical": None if found.typical != found.typical else found.typical,
    }


def print_bundle(bundle: Bundle, name: str, limit: int, console: Console) -> None:
    """What it is, and its slowest rows."""
    about = Table("", "", show_header=False, title=escape(name))
    about.columns[1].overflow = "fold"
    for what, value in _about(bundle):
        about.add_row(what, escape(value))
    console.print(about)
    rows = sorted(bundle.measured, key=lambda row: -row.ms)[:limit]
    if rows:
        table = Table("row", "ms", "spread", "flags", title=f"the slowest {len(rows)} of {len(bundle.measured)} rows")
        table.columns[0].overflow = "fold"
        for column in (1, 2):
            table.columns[column].justify = "right"
        for row in rows:
            spread = "" if row.spread is None else f"{row.spread:.1%}"
            table.add_row(escape(title_of(row.subject, row.operators)), f"{row.ms:.4g}", spread, "\n".join(row.flags))
        console.print(table)
    print_failures(bundle, limit, console)


def print_failures(bundle: Bundle, limit: int, console: Console) -> None:
    for failed in bundle.failed[:limit]:
        title = escape(title_of(failed.subject, failed.operators))
        console.print(f"[bold red]no figure[/] for {title}: {escape(failed.reason)}", soft_wrap=True)
    if len(bundle.failed) > limit:
        console.print(f"… and {len(bundle.failed) - limit} more without a figure")


def print_difference(found: Difference, limit: int, everything: bool, console: Console) -> None:
    changed = [c for c in found.changes if c.verdict != "not shown"]
    rows = (list(found.changes) if everything else changed)[:limit]
    if rows:
        table = Table(
            "row", "ms before", "after", "ratio", "interval", "", title=f"{len(changed)} of {len(found.changes)} rows changed"
        )
        table.columns[0].overflow = "fold"
        for c in rows:
            figures = (f"{c.before_ms:.4g}", f"{c.after_ms:.4g}", f"{c.ratio:.3f}", f"{c.low:.3f} – {c.high:.3f}")
            table.add_row(escape(title_of(c.subject)), *figures, _verdict(c))
        console.print(table)
    for line in _conclusions(found, len(changed), limit, everything):
        console.print(line, soft_wrap=True)
    for subject, reason in found.failing:
        console.print(f"[bold red]fails now[/]: {escape(title_of(subject))}: {escape(reason)}", soft_wrap=True)


def print_contradictions(found: Sequence[Contradiction], console: Console) -> None:
    for c in found:
        console.print(
            f"[yellow]contradiction[/] on {escape(title_of(c.subject))}: {escape(c.kept)} kept, {escape(c.dropped)} dropped"
        )


def brief(spec: OpSpec) -> str:
    """An operator in few words: CONV_2D 5x5/2 1x56x56x24 → 1x28x28x40 RELU6."""
    window = stride = ""
    if spec.kind in ("CONV_2D", "DEPTHWISE_CONV_2D") and len(spec.inputs) > 1:
        window = " " + "x".join(map(str, spec.inputs[1].shape[1:3]))
        steps = spec.attr("stride")
        stride = f"/{steps[0]}" if isinstance(steps, tuple) and steps[0] != 1 else ""
    activation = spec.attr("activation", "NONE")
    data = " ".join(tensor_text(t) for i, t in enumerate(spec.inputs) if i not in spec.constants)
    results = " ".join(tensor_text(t) for t in spec.outputs)
    return f"{spec.kind}{window}{stride} {data} → {results}" + ("" if activation == "NONE" else f" {activation}")


def _row_json(row: MeasuredRow) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in ("subject", "kind", "ms", "spread", "count", "std_ms", "measured_at")}
    return values | {"flags": list(row.flags), "operators": [spec.key for spec in row.operators]}


def _about(bundle: Bundle) -> list[tuple[str, str]]:
    device, bench = bundle.device, bundle.bench
    name = device.name + (" (simulated)" if device.simulated else "")
    kinds = [f"{n} {kind}{'s' * (n != 1)}" for kind, n in Counter(row.kind for row in bundle.measured).items()]
    threads = f"{bench.threads} thread{'s' * (bench.threads != 1)}"
    times = [row.measured_at for row in bundle.measured if row.measured_at]
    when = [time.strftime("%Y-%m-%d %H:%M", time.gmtime(t)) for t in (min(times), max(times))] if times else []
    found = [
        ("device", f"{name} {device.fingerprint}"),
        ("facts", ", ".join(f"{k}: {v}" for k, v in device.facts.items())),
        ("measured with", f"{device.runtime_of(bench)}, {bench.delegate}, {threads}, {bench.precision}"),
        ("measured", " to ".join(dict.fromkeys(when)) + " UTC" if when else ""),
        ("rows", ", ".join(kinds) + (f", {len(bundle.failed)} without a figure" if bundle.failed else "")),
        ("versions", ", ".join(f"{k} {v}" for k, v in bundle.versions.items())),
        ("origin", bundle.origin),
        ("licence", bundle.licence),
        ("also holds", ", ".join(["a fitted model"] * bool(bundle.saved) + ["fusions"] * (bundle.fusion is not None))),
    ]
    return [(what, value) for what, value in found if value]


def title_of(subject: str, operators: Sequence[OpSpec] = ()) -> str:
    """Operators in few words instead of their keys."""
    if len(operators) == 1 and operators[0].key == subject:
        return brief(operators[0])
    if " -> " in subject and not operators:
        from paceline.errors import ExportError

        try:
            return brief(OpSpec.parse(subject))
        except ExportError:
            return subject
    return subject


def _verdict(change: Change) -> str:
    return {"slower": "[red]slower[/]", "faster": "[green]faster[/]"}.get(change.verdict, change.verdict)


def _conclusions(found: Difference, changed: int, limit: int, everything: bool) -> list[str]:
    lines = []
    if not found.changes:
        lines.append("there is no row that both have")
    elif not changed:
        lines.append(f"no difference shown in {len(found.changes)} rows")
    if (len(found.changes) if everything else changed) > limit:
        lines.append(f"the largest {limit} are shown; --limit shows more, --json all")
    if found.changes:
        lines.append(f"typical ratio {found.typical:.3f}; sessions differ by {found.session_noise:.1%} in a row")
    for name, pace in found.pace.items():
        lines.append(f"the device's pace is taken out: its reference ({name[:16]}) takes {pace:.3f} times as long")
    if found.changes and not found.pace:
        lines.append("not of the same device and settings, or without a reference: the device's pace is not taken out")
    for what, subjects in (("before", found.only_before), ("after", found.only_after)):
        if subjects:
            lines.append(
                f"{len(subjects)} rows only {what}: {escape(title_of(subjects[0]))}" + (", …" if len(subjects) > 1 else "")
            )
    return lines
