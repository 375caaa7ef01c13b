"""The tables of benchmark_model's operator profile, for the stand-in of that tool."""

from __future__ import annotations

from collections.abc import Sequence

Row = tuple[str, float, float, float, str]  # type; start and average in ms; memory in KB; name

_COLUMNS = ("[node type]", 24), ("[start]", 17), ("[first]", 9), ("[avg ms]", 9), ("[%]", 8), ("[cdf%]", 8), ("[mem KB]", 10)
_SUMMARY = ("[Node type]", 24), ("[count]", 9), ("[avg ms]", 10), ("[avg %]", 11), ("[cdf %]", 11), ("[mem KB]", 10)


def report(
    times: Sequence[tuple[str, float, bool]], left: Sequence[str], kernels: Sequence[str], allocate_ms: float, csv: bool
) -> str:
    """The whole profile. `times`: name, milliseconds and whether a delegate ran it, per operator in execution order; `left` and
    `kernels` name the nodes outside of delegates and the delegates' own. A kernel takes the sum of what runs inside of it.
    """
    rows: list[Row] = []
    inner: list[Row] = []
    nodes, delegates = iter(left), iter(kernels)
    start, in_kernel = 0.0, False
    for i, (name, ms, delegated) in enumerate(times):
        if delegated:
            inner.append(("DelegateOpInvoke", start, ms, 0.0, f"Delegate/{name}:{len(inner)}"))
        if delegated and in_kernel:
            kind, at, total, memory, kernel = rows[-1]
            rows[-1] = (kind, at, total + ms, memory, kernel)
        elif delegated:
            rows.append(("TfLiteXNNPackDelegate", start, ms, 0.0, next(delegates, f"[{name}]:{i}")))
        else:
            rows.append((name, start, ms, 0.0, next(nodes, f"[{name}]:{i}")))
        start, in_kernel = start + ms, delegated
    lines = ["Profiling Info for Benchmark Initialization:"]
    lines += _section([("AllocateTensors", 0.0, allocate_ms, 0.0, "AllocateTensors/0")], csv)
    lines += ["", "", "Operator-wise Profiling Info for Regular Benchmark Runs:", *_section(rows, csv)]
    if inner:
        lines += ["Delegate internal: ", *_section(inner, csv)]
    return "\n".join([*lines, ""])


def _section(rows: Sequence[Row], csv: bool) -> list[str]:
    slowest = sorted(rows, key=lambda row: -row[2])[:10]
    total_us = round(1e3 * sum(row[2] for row in rows))
    return [
        *_table("Run Order", rows, csv),
        *_table("Top by Computation Time", slowest, csv),
        f"Number of nodes executed: {len(rows)}",
        *_by_kind(rows, csv),
        f"Timings (microseconds): count=1 curr={total_us}",
        "Memory (bytes): count=0",
        f"{len(rows)} nodes observed",
        "",
    ]


def _title(title: str) -> str:
    return f"{'=' * 30} {title} {'=' * 30}"


def _table(title: str, rows: Sequence[Row], csv: bool) -> list[str]:
    """The profiler gives averages: an average stands for the first call too."""
    total, sofar = sum(row[2] for row in rows) or 1.0, 0.0
    head = "".join(f"\t{name:>{width}}" for name, width in _COLUMNS) + "\t[times called]\t[Name]"
    lines = [_title(title), "node type, start, first, avg_ms, %, cdf%, mem KB, times called, name" if csv else head]
    for kind, start, ms, memory, name in rows:
        sofar += ms
        share, cdf = 100 * ms / total, 100 * sofar / total
        if csv:
            figures = f"{start:.6g}, {ms:.6g}, {ms:.6g}, {share:.6g}%, {cdf:.6g}%, {memory:g}, 1"
            lines.append(f"{kind}, {figures}, " + name.replace(",", "\t"))
        else:
            figures = f"{start:>17.3f}\t{ms:>9.3f}\t{ms:>9.3f}\t{share:>7.3f}%\t{cdf:>7.3f}%\t{memory:>10.3f}\t{1:>9}"
            lines.append(f"\t{kind:>24}\t{figures}\t{name}")
    return [*lines, ""]


def _by_kind(rows: Sequence[Row], csv: bool) -> list[str]:
    total, sofar = sum(row[2] for row in rows) or 1.0, 0.0
    of = {kind: [row[2] for row in rows if row[0] == kind] for kind in dict.fromkeys(row[0] for row in rows)}
    head = "".join(f"\t{name:>{width}}" for name, width in _SUMMARY) + "\t[times called]"
    lines = [_title("Summary by node type"), "node type, count, avg_ms, avg %, cdf %, mem KB, times called" if csv else head]
    for kind, times in sorted(of.items(), key=lambda item: -sum(item[1])):
        ms = sum(times)
        sofar += ms
        share, cdf, n = 100 * ms / total, 100 * sofar / total, len(times)
        if csv:
            lines.append(f"{kind}, {n}, {ms:.6g}, {share:.6g}%, {cdf:.6g}%, 0, {n}")
        else:
            lines.append(f"\t{kind:>24}\t{n:>9}\t{ms:>10.3f}\t{share:>10.3f}%\t{cdf:>10.3f}%\t{0:>10.3f}\t{n:>9}")
    return [*lines, ""]
