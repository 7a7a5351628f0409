"""What the software of a measured run costs in processor time: µs a request, by whose they are.

    python tools/real_cost.py [--beside CHECKOUT] [--rounds 5] [--requests 300]

Every round runs the same small configuration once on each transport and with each number of ranks; with ``--beside``
those of another checkout (a ``git worktree``) in turn with ours, so that what else the machine does falls on both. A
process says itself where its time went (``usage`` in environment.json). Ours is all of it but the making of test
content, the copying out of it, and the engine's own threads, whose work depends on the bytes alone. Printed are the
medians over the rounds, and of the ratio of both checkouts the median over rounds, the lowest and the highest.

Exit status: 0, 1 if a run fails, 2 for bad input.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

CONFIG = """
[workload]
preset = "single-image-chat"
requests = {requests}
rate_rps = 20.0

[run]
replications = 1

[encode]
tp = {encode_tp}
pool_blocks = 512
per_token_s = "1us"

[language]
tp = {language_tp}
pool_blocks = 256

[model]
hidden = 2048

[real]
transport = "{transport}"
verify = false
"""
"""Fields that every version knows; what they leave out is the same in all."""
TRANSPORTS = ("tcp", "socket")
RANKS = ((1, 1), (2, 2))
OWN = ("main_cpu_s", "writer_cpu_s", "control_cpu_s", "collective_cpu_s", "other_cpu_s")
NOT_OURS = ("fill_cpu_s", "copy_cpu_s")
PARTS = ("router", "encode", "language")

Cost = dict[str, float]
"""µs a request: of the router, of all encode ranks, of all language ranks; ``all`` of them, and ``engine``."""


class RunError(Exception):
    """A run did not end well; what it said."""


def cost_of(usage: dict[str, dict[str, Any]], requests: int) -> Cost:
    """The cost by ``usage``, of every process of a run."""
    found: Cost = defaultdict(float)
    for process, one in usage.items():
        part = next(part for part in PARTS if process.startswith(part))
        ours_s = sum(one[name] for name in OWN) - sum(one[name] for name in NOT_OURS)
        found[part] += ours_s / requests * 1e6
        found["all"] += ours_s / requests * 1e6
        found["engine"] += one["engine_cpu_s"] / requests * 1e6
    return dict(found)


def measured(checkout: Path, transport: str, ranks: tuple[int, int], requests: int) -> Cost | None:
    """One run; None where the checkout has no such transport."""
    with tempfile.TemporaryDirectory() as name:
        config, out = Path(name) / "case.toml", Path(name) / "run"
        config.write_text(
            CONFIG.format(requests=requests, transport=transport, encode_tp=ranks[0], language_tp=ranks[1]), "utf-8"
        )
        command = [sys.executable, "-m", "bufferlab", "real", str(config), "--no-plots", "--out", str(out)]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 2 and "transport" in done.stderr:
            return None
        if done.returncode:
            raise RunError(f"{checkout}, {transport}, {ranks[0]}x{ranks[1]}: {done.stderr.strip()}")
        (usage,) = json.loads((out / "environment.json").read_text("utf-8"))["usage"]
        return cost_of(usage, requests)


def measure(checkouts: list[Path], requests: int, rounds: int, tell: Callable[[str], None]) -> None:
    """Run every round and print the table, a line for each transport, number of ranks and checkout."""
    costs: dict[tuple[str, tuple[int, int]], list[list[Cost | None]]] = defaultdict(list)
    for number in range(rounds):
        for transport in TRANSPORTS:
            for ranks in RANKS:
                in_turn = checkouts if number % 2 == 0 else checkouts[::-1]
                taken = [measured(checkout, transport, ranks, requests) for checkout in in_turn]
                costs[transport, ranks].append(taken if number % 2 == 0 else taken[::-1])
                tell(f"round {number + 1} of {rounds}: {transport} {ranks[0]}x{ranks[1]}")
    print("transport  ranks  checkout         router  encode  language     all  (engine)  ratio of all")
    print("---------  -----  ---------------  ------  ------  --------  ------  --------  ----------------")
    for (transport, ranks), taken_s in costs.items():
        for place, checkout in enumerate(checkouts):
            known = [one for taken in taken_s if (one := taken[place]) is not None]
            if not known:
                continue
            median = {part: statistics.median(one[part] for one in known) for part in (*PARTS, "all", "engine")}
            ratios = [
                ours["all"] / other["all"]
                for ours, other in ((taken[0], taken[place]) for taken in taken_s)
                if ours is not None and other is not None and place
            ]
            told = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})" if ratios else ""
            print(
                f"{transport:<9}  {f'{ranks[0]}x{ranks[1]}':<5}  {checkout.name[-15:]:<15}  {median['router']:>6.0f}  "
                f"{median['encode']:>6.0f}  {median['language']:>8.0f}  {median['all']:>6.0f}  "
                f"{median['engine']:>8.0f}  {told}".rstrip()
            )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="real_cost", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT", help="another checkout of this project")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=300)
    chosen = parser.parse_args()
    for name, least in (("rounds", 1), ("requests", 1)):
        if getattr(chosen, name) < least:
            print(f"real_cost: --{name} is {getattr(chosen, name)}, it must be at least {least}", file=sys.stderr)
            return 2
    if chosen.beside is not None and not (chosen.beside / "experiments" / "__main__.py").is_file():
        print(f"real_cost: --beside is {str(chosen.beside)!r}, it must be a checkout of this project", file=sys.stderr)
        return 2
    checkouts = [ROOT, *([chosen.beside.resolve()] if chosen.beside is not None else [])]
    try:
        measure(checkouts, chosen.requests, chosen.rounds, lambda line: print(line, file=sys.stderr))
    except RunError as error:
        print(f"real_cost: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
