"""Draws docs/u_shape.png: latency against the default allocation for three workloads at the same pool memory.

    python tools/readme_figures.py [--workload NAME=LOAD ...] [--pool-blocks N] [--requests N] [--replications N]

A workload is a preset and how busy it keeps the prefill of the language side (a share of the time): its rate is chosen
so, from the prefill times of 20,000 of its requests, which makes workloads of very different lengths comparable. All
else is the shipped example ``ustudy``. The sweep goes to --sweep DIR (default: a folder of its own in runs/) and can be
interrupted; the same command goes on.

Exit status: 0, 1 if a run breaks, 2 for bad input, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bufferlab.experiments.errors import RunFailedError, UserError
from bufferlab.experiments.figures.pages import check_figure
from bufferlab.experiments.figures.style import save
from bufferlab.experiments.figures.sweeps import plot_u_shape
from bufferlab.experiments.progress import bar
from bufferlab.experiments.sweeps.plan import make_plan
from bufferlab.experiments.sweeps.sweep import run_sweep
from bufferlab.experiments.sweeps.text import plan_text, sweep_text
from bufferlab.experiments.workloads.loading import load
from bufferlab.experiments.workloads.requests import make_requests

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "ustudy"
WORKLOADS = ("text-only=0.5", "single-image-chat=0.5", "multi-image-documents=0.5")
SIZES = tuple(128 * 2**power for power in range(9))
SAMPLE_REQUESTS = 20_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, run the study and write the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workload", action="append", metavar="NAME=LOAD", help=f"default: {' '.join(WORKLOADS)}")
    parser.add_argument("--pool-blocks", type=int, default=320, help="blocks of 128 tokens on the language side")
    parser.add_argument("--requests", type=int, default=2000, help="of one replication")
    parser.add_argument("--replications", type=int, default=10)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="default allocations in tokens")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", help="overrides a setting")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--sweep", type=Path, metavar="DIR", help="where the runs are kept")
    parser.add_argument("--relative", action="store_true", help="percent above each workload's lowest, paired")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "u_shape.png")
    options = parser.parse_args(arguments)
    common = [f"language.pool_blocks={options.pool_blocks}", f"workload.requests={options.requests}", *options.set]
    try:
        check_figure(options.out, "--out")
        sizes = [int(size) for size in options.sizes.split(",")]
        workloads = [_workload(text) for text in options.workload or WORKLOADS]
        configurations = [
            {"workload.preset": name, "workload.rate_rps": rate_for(name, busy, options.set)}
            for name, busy in workloads
        ]
        plan = make_plan(
            CONFIG,
            configurations=configurations,
            grid={"protocol.sizing.tokens": sizes},
            settings=common,
            replications=options.replications,
        )
        target = options.sweep or plan.target()
        with bar("sweep", len(plan.tasks), "runs") as shown:

            def begin(finished: int) -> None:
                shown.say(plan_text(plan), sys.stdout)
                shown.begin_with(finished)

            sweep = run_sweep(plan, target, jobs=options.jobs, begin=begin, progress=shown.add)
    except (UserError, RunFailedError, ValueError) as error:
        print(f"readme_figures: {error}", file=sys.stderr)
        return 1 if isinstance(error, RunFailedError) else 2
    except KeyboardInterrupt:
        print("readme_figures: interrupted; the same command goes on", file=sys.stderr)
        return 130
    print(sweep_text(sweep.report))
    print(f"wrote {save(plot_u_shape(sweep.table, relative=options.relative), options.out)}")
    return 0


def rate_for(preset: str, busy: float, settings: Sequence[str]) -> float:
    """Requests a second that keep one prefill busy for the share ``busy`` of the time; two significant digits."""
    sample = [f"workload.preset={preset}", "workload.rate_rps=1", f"workload.requests={SAMPLE_REQUESTS}"]
    config = load(CONFIG, [*settings, *sample])
    services = config.scenario().services
    busy_s = [services.prefill_base_s + services.prefill_s(one.total_tokens) for one in make_requests(config, 0)]
    return float(f"{busy * SAMPLE_REQUESTS / sum(busy_s):.2g}")


def _workload(text: str) -> tuple[str, float]:
    name, sign, share = text.partition("=")
    try:
        busy = float(share)
    except ValueError:
        busy = 0.0
    if not sign or not 0 < busy < 1:
        raise UserError(f"--workload is {text!r}, it must look like text-only=0.6, with a load above 0 and below 1")
    return name, busy


if __name__ == "__main__":
    sys.exit(main())
