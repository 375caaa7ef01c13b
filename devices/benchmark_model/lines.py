"""The syntax that all of benchmark_model's output shares: log prefixes, numbers, lines of statistics."""

from __future__ import annotations

import re

from paceline.errors import TransientDeviceError
from paceline.measurement import Summary

NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d{1,2})?"  # two digits of exponent at most: no figure of the tool is infinite

_PREFIX = re.compile(
    r"""
    (?:\d\d-\d\d\s+\d\d:\d\d:\d\d\.\d+\s+(?:\d+\s+\d+\s+)?)?      # logcat's time, process and thread
    (?:[VDIWEF](?:/|\s+)(?:tflite|litert)\b\s*(?:\(\s*\d+\))?:\s?  # logcat's priority and tag, in its brief form I/tflite ( 123):
      |(?:VERBOSE|INFO|WARNING|WARN|ERROR|FATAL):\s?
      |[IWEF]\d{4}\s[^\]]*\]\s?                                    # glog
      |\[[\w./-]+:\d+\]\s?                                         # LiteRT's file and line
    )
    """,
    re.VERBOSE,
)
_ERROR = re.compile(r"^(?:.*\sE tflite\s*:|E/tflite.*?:|ERROR:|FATAL:|E\d{4}\s)")
_COUNT = re.compile(rf"count=(?P<count>\d+)(?: first={NUMBER})? curr=(?P<curr>{NUMBER})(?P<rest>.*)$")
_FIGURE = re.compile(rf"(?<!\S)(min|max|avg|std|p5|median|p95)=({NUMBER})(?!\S)")


def messages(text: str) -> list[str]:
    """The lines of `text` without the prefixes of logcat, glog, TFLite and LiteRT. Tabs inside a line are kept.

    A last line without its end is left out: it may be cut in the middle of a number.
    """
    whole = text[: text.rfind("\n") + 1]
    return [_without_prefix(line) for line in whole.splitlines()]


def errors(text: str) -> list[str]:
    """The messages that were logged as errors."""
    return [message for line in text.splitlines() if _ERROR.match(line) and (message := _without_prefix(line).strip())]


def _without_prefix(line: str) -> str:
    while found := _PREFIX.match(line):
        line = line[found.end() :]
    return line


def statistics(line: str) -> Summary | None:
    """A line `count=… first=… curr=… min=… max=… avg=… std=…` in milliseconds, the tool's own unit being microseconds.

    A run whose invokes all took the same has only `curr`. None where the line isn't such a line, or a batch of no invoke.
    Raises TransientDeviceError where its figures contradict each other: it was damaged on its way.
    """
    found = _COUNT.fullmatch(line.strip())
    if found is None or int(found["count"]) == 0:
        return None
    figures = {name: float(value) / 1000 for name, value in _FIGURE.findall(found["rest"])}
    count, rest = int(found["count"]), found["rest"].strip()
    if "avg" not in figures and (count == 1 or rest.startswith("(all same)")):
        same = float(found["curr"]) / 1000
        figures = {"min": same, "avg": same, "max": same, "std": 0.0} | figures
    if not figures.keys() >= {"min", "avg", "max", "std"}:
        return None
    summary = Summary(count, **figures)
    if not consistent(summary):
        raise TransientDeviceError(f"benchmark_model's statistics contradict themselves, measure again: {line.strip()!r}")
    return summary


def consistent(summary: Summary) -> bool:
    """Whether minimum, average, maximum and percentiles are in order; averages are printed with six digits."""
    slack = 1e-5 * abs(summary.avg) + 1e-9
    percentiles = [p for p in (summary.p5, summary.median, summary.p95) if p is not None]
    return (
        0 <= summary.min <= summary.avg + slack <= summary.max + 2 * slack
        and summary.std >= 0
        and percentiles == sorted(percentiles)
        and all(summary.min <= p <= summary.max for p in percentiles)
    )
