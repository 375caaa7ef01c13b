"""Reads damaged outputs of benchmark_model: no number may come out that isn't in the text, nor any error but a DeviceError.

    python benchmarks/fuzz_benchmark_model.py FILES… [--mutations 10000] [--seed 0]

Mutations: truncation, lines deleted, doubled, shuffled and joined, a piece lost in the middle, characters replaced, on the files
in turn. Besides, the statistics of the warm-up may never pass for those of the timed runs. Prints counts and the slowest case;
exit code 1 where one of this was violated.
"""

from __future__ import annotations

import argparse
import re
import string
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path

import numpy as np

from paceline.devices.benchmark_model.output import BenchmarkOutput, parse
from paceline.errors import DeviceError

Mutation = Callable[[str, np.random.Generator], str]
_CHARACTERS = string.digits + string.ascii_letters + string.punctuation + " \t\n"


def truncated(text: str, rng: np.random.Generator) -> str:
    return text[: int(rng.integers(len(text)))]


def truncated_line(text: str, rng: np.random.Generator) -> str:
    """Cut within a line, and the line ended all the same, as a shell's prompt or another process would do."""
    return truncated(text, rng) + "\n"


def line_deleted(text: str, rng: np.random.Generator) -> str:
    lines = text.splitlines(keepends=True)
    for _ in range(int(rng.integers(1, 4))):
        del lines[int(rng.integers(len(lines)))]
        if not lines:
            break
    return "".join(lines)


def line_doubled(text: str, rng: np.random.Generator) -> str:
    lines = text.splitlines(keepends=True)
    for _ in range(int(rng.integers(1, 4))):
        lines.insert(int(rng.integers(len(lines))), lines[int(rng.integers(len(lines)))])
    return "".join(lines)


def shuffled(text: str, rng: np.random.Generator) -> str:
    lines = text.splitlines(keepends=True)
    order = rng.permutation(len(lines))
    if rng.random() < 0.7:  # only a piece of it
        start = int(rng.integers(len(lines)))
        order = np.concatenate([np.arange(start), start + rng.permutation(min(6, len(lines) - start))])
        order = np.concatenate([order, np.arange(len(order), len(lines))])
    return "".join(lines[int(i)] for i in order)


def joined(text: str, rng: np.random.Generator) -> str:
    ends = [i for i, c in enumerate(text) if c == "\n"]
    at = ends[int(rng.integers(len(ends)))]
    return text[:at] + text[at + 1 :]


def piece_lost(text: str, rng: np.random.Generator) -> str:
    start = int(rng.integers(len(text)))
    return text[:start] + text[start + int(rng.integers(1, 400)) :]


def characters_replaced(text: str, rng: np.random.Generator) -> str:
    letters = list(text)
    for _ in range(int(rng.integers(1, 12))):
        letters[int(rng.integers(len(letters)))] = _CHARACTERS[int(rng.integers(len(_CHARACTERS)))]
    return "".join(letters)


MUTATIONS: tuple[Mutation, ...] = (
    truncated,
    truncated_line,
    line_deleted,
    line_doubled,
    shuffled,
    joined,
    piece_lost,
    characters_replaced,
)


def figures(output: BenchmarkOutput) -> Iterator[float]:
    """Every time, memory, count and index of `output`."""
    for summary in (output.inference, output.warmup):
        yield from (float(v) for v in astuple(summary) if v is not None) if summary else ()
    for row in (*output.operators, *output.internal, *output.initialization):
        shown = (
            row.index,
            row.start_ms,
            row.first_ms,
            row.avg_ms,
            row.times_called,
            row.subgraph,
            row.runs if row.runs > 1 else 0,
        )
        yield from (float(v) for v in shown if v is not None)
    values = vars(output).values()
    yield from (v for v in values if isinstance(v, float))


def strays(output: BenchmarkOutput, text: str) -> list[float]:
    """The numbers of `output` that aren't in `text`, neither as they are nor in thousandths (microseconds to milliseconds).

    Zero is no stray: it is what a spread is where all were the same, and the first subgraph.
    """
    shown = {float(n) for pattern in (r"\d+", r"\d+\.\d+", r"\d+(?:\.\d+)?e[+-]?\d\d?") for n in re.findall(pattern, text)}
    allowed = {0.0} | shown | {n / 1000 for n in shown}
    found = [value for value in figures(output) if abs(value) not in allowed]
    taken = sum(int(n) for n in re.findall(r"Replacing (\d+)", text))
    kernels = sum(int(n) for n in re.findall(r"(?:yielding|w/) (\d+)", text)) + len(output.operators)
    for delegation in output.delegations:  # several subgraphs are added up, kernels in the profile are counted
        found += [delegation.delegated] if (delegation.delegated or 0) > taken and delegation.delegated else []
        found += [delegation.partitions] if delegation.partitions > max(kernels, 1) else []
    return found


def violation(text: str, original: BenchmarkOutput | None) -> str:
    """What reading `text` violates, or nothing. `original` is what the undamaged text says."""
    try:
        output = parse(text)
    except DeviceError as e:
        return "" if str(e) else "an error without a message"
    if found := strays(output, text):
        return f"not in the text: {found}"
    before = original.warmup if original else None
    if original and before and output.inference == before != original.inference:
        return "the warm-up passes for the timed runs"
    return ""


def undamaged(text: str) -> BenchmarkOutput | None:
    try:
        return parse(text)
    except DeviceError:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--mutations", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    texts = [path.read_text(encoding="utf-8") for path in options.files]
    originals = [undamaged(text) for text in texts]
    counts, escaped, slowest = Counter[str](), list[str](), (0.0, "")
    for i in range(options.mutations):
        rng = np.random.default_rng((options.seed, i))
        mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
        name = f"case {i}: {mutation.__name__} {options.files[i % len(texts)].name}"
        text = mutation(texts[i % len(texts)], rng)
        start = time.perf_counter()
        try:
            found = violation(text, originals[i % len(texts)])
        except Exception as e:  # the point of it all: nothing else may come out
            found = f"{type(e).__name__}: {e}"
        slowest = max(slowest, (time.perf_counter() - start, name))
        counts["violated" if found else "kept"] += 1
        escaped += [f"{name}: {found}"] if found else []
    print("\n".join(escaped[:20]))
    print(f"{options.mutations} mutations of {len(texts)} files: " + ", ".join(f"{n} {what}" for what, n in counts.most_common()))
    print(f"slowest: {slowest[0]:.3f} s, {slowest[1]}")
    return int(bool(escaped))


if __name__ == "__main__":
    raise SystemExit(main())
