"""The whole loop for many seeds: is the limit kept, is the prediction true?

    python benchmarks/loop.py [--seeds 10] [--budget small|default] [--limit-quantile 0.2 …]

Every seed is a run of its own with a store of its own, so that every table and every prediction is measured anew. The
`small` budget trains less (which does not touch latency): supernet 1 epoch, 12 x 5 architectures searched, 3 epochs of
retraining. A run's limit is drawn from the space: its quantile is random per seed between 10 % and 70 %, unless given.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from paceline.seeds import Seeds

BUDGETS = {
    "small": "[supernet]\nepochs = 1\n[search]\npopulation = 12\ngenerations = 5\n[retrain]\nepochs = 3\n",
    "default": "",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--budget", choices=BUDGETS, default="small")
    parser.add_argument("--limit-quantile", type=float)
    options = parser.parse_args()
    shown = Table("seed", "quantile", "limit ms", "predicted ms", "measured ms", "pred. error", "kept", "noise", "accuracy", "s")
    kept = close = 0
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        quantile = options.limit_quantile or round(float(Seeds(seed).rng("quantile").uniform(0.1, 0.7)), 3)
        start = time.monotonic()
        s = run(f"seed = {seed}\nlimit_quantile = {quantile}\n" + BUDGETS[options.budget])
        error = s["predicted_ms"] / s["measured_ms"] - 1
        kept += s["measured_ms"] <= s["limit_ms"]
        close += abs(error) <= 0.05
        figures = [f"{s[name]:.4f}" for name in ("limit_ms", "predicted_ms", "measured_ms")]
        yes = "yes" if s["measured_ms"] <= s["limit_ms"] else "NO"
        took = f"{time.monotonic() - start:.0f}"
        shown.add_row(
            str(seed), str(quantile), *figures, f"{error:+.2%}", yes, f"{s['noise_floor']:.2%}", f"{s['accuracy']:.1%}", took
        )
        print(
            f"seed {seed}: measured {figures[2]} of {figures[0]} ms, predicted {figures[1]}, {took} s",
            file=sys.stderr,
            flush=True,
        )
    Console(width=110).print(shown)
    print(f"measured <= limit: {kept} of {options.seeds}; |predicted - measured| / measured <= 5 %: {close} of {options.seeds}")


def run(config: str) -> dict[str, float]:
    """The summary of one `paceline run` in a folder of its own."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "config.toml").write_text(config)
        command = [sys.executable, "-m", "paceline", "run", "config.toml", "--json"]
        done = subprocess.run(command, cwd=place, check=True, stdout=subprocess.PIPE)
        summary: dict[str, float] = json.loads(done.stdout)
        return summary


if __name__ == "__main__":
    main()
