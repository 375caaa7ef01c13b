"""Reads damaged and hostile `.tflite` files: each must end soon, as a Model or as an ExportError.

    python benchmarks/fuzz_tflite.py FILES… [--mutations 10000] [--seed 0]

Mutations: truncation, flipped bits, random bytes, swapped and redirected offsets, inflated lengths, on the files in turn. A file
that still reads is inspected and written again too. Prints counts, the slowest case and the growth of memory; exit code 1 where
anything but an ExportError came out, a case took over 5 s, or memory grew by over 500 MB.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from paceline.errors import ExportError
from paceline.exporters import tflite
from paceline.exporters.inspect import inspect

Mutation = Callable[[bytearray, np.random.Generator], bytearray]
_MOST_SECONDS, _MOST_GROWTH_MB = 5.0, 500.0


def truncated(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: int(rng.integers(len(data)))]


def flipped(data: bytearray, rng: np.random.Generator) -> bytearray:
    for at in _places(data, rng, 8):
        data[at] ^= 1 << int(rng.integers(8))
    return data


def randomised(data: bytearray, rng: np.random.Generator) -> bytearray:
    at, size = _places(data, rng, 1)[0], int(rng.integers(1, 32))
    data[at : at + size] = rng.bytes(min(size, len(data) - at))
    return data


def swapped(data: bytearray, rng: np.random.Generator) -> bytearray:
    for _ in range(int(rng.integers(1, 4))):
        a, b = (4 * int(place // 4) for place in _places(data, rng, 2, exactly=True))
        data[a : a + 4], data[b : b + 4] = data[b : b + 4], data[a : a + 4]
    return data


def redirected(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Offsets that lead elsewhere in the file, so that parts are shared."""
    for place in _places(data, rng, 4):
        at = 4 * (place // 4)
        _put(data, at, int(rng.integers(max(len(data) - at, 1))))
    return data


def inflated(data: bytearray, rng: np.random.Generator) -> bytearray:
    sizes = (0, 255, 65535, len(data) // 4, len(data), 2**31 - 1, 2**31, 2**32 - 1)
    for place in _places(data, rng, 4):
        _put(data, 4 * (place // 4), int(rng.choice(sizes)))
    return data


MUTATIONS: tuple[Mutation, ...] = (truncated, flipped, randomised, swapped, redirected, inflated)


def _places(data: bytearray, rng: np.random.Generator, most: int, exactly: bool = False) -> list[int]:
    """Some places, mostly outside large constants: near the start, or near the end."""
    count = most if exactly else int(rng.integers(1, most + 1))
    span = min(len(data), 1 << int(rng.integers(6, 25)))
    start = 0 if rng.random() < 0.5 else len(data) - span
    return [int(at) for at in rng.integers(start, start + span, count)]


def _put(data: bytearray, at: int, value: int) -> None:
    if at + 4 <= len(data):
        data[at : at + 4] = value.to_bytes(4, "little")


def outcome(data: bytes) -> str:
    """What reading, inspecting and writing `data` again leads to."""
    try:
        model = tflite.read(data)
    except ExportError:
        return "refused"
    inspect(data)
    try:
        tflite.write(model)
    except ExportError:
        return "read, not writable"
    return "read and written"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--mutations", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    files = [path.read_bytes() for path in options.files]
    for data in files:
        outcome(data)
    before, counts = _peak_mb(), Counter[str]()
    slowest, escaped = (0.0, ""), list[str]()
    for i in range(options.mutations):
        rng = np.random.default_rng((options.seed, i))
        mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
        name = f"case {i}: {mutation.__name__} {options.files[i % len(files)].name}"
        data = bytes(mutation(bytearray(files[i % len(files)]), rng))
        start = time.perf_counter()
        try:
            counts[outcome(data)] += 1
        except Exception as e:  # the point of it all: nothing else may come out
            counts["escaped"] += 1
            escaped.append(f"{name}: {type(e).__name__}: {e}")
        slowest = max(slowest, (time.perf_counter() - start, name))
    growth = _peak_mb() - before
    print("\n".join(escaped[:20]))
    print(f"{options.mutations} mutations of {len(files)} files: " + ", ".join(f"{n} {what}" for what, n in counts.most_common()))
    print(f"slowest: {slowest[0]:.3f} s, {slowest[1]}; memory grew by {growth:.0f} MB")
    return int(bool(escaped) or slowest[0] > _MOST_SECONDS or growth > _MOST_GROWTH_MB)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    raise SystemExit(main())
