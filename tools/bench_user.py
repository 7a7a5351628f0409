"""What a user gets: CPU time a request of what the commands do, as a number of timeouts of a bare SimPy process.

`tools/bench.py` times the bare core. A command also draws requests, takes figures of them, and writes tables and
pictures; here all of that counts. Every row is a process of its own, the reference is measured in it before and after.

* sim: `bufferlab sim quickstart`, one replication: events.parquet, requests.parquet, summary.json, figures
* sim, no plots; sim, figures only: the same without pictures, and without events.parquet as well
* configuration: one replication of one configuration of a sweep of ustudy with all its figures
* sweep: `bufferlab sweep ustudy` with 16 configurations x 3 replications x 200 requests, the whole command with its
  start and its tables, on one core
* tune: `bufferlab tune ustudy` among 6 defaults, with at most 10 replications x 1000 requests: the whole command with
  its start, its race and its answer, on one core; a request counts whichever run it was in
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parent
sys.path[:0] = [str(TOOLS.parent), str(TOOLS)]

from bench import timeout_s  # type: ignore[import-not-found]  # noqa: E402 - beside this file

from bufferlab.protocol.compiled import VARIABLE, state  # noqa: E402 - of this tree, whatever is installed

COUNT, QUICK_COUNT = 10_000, 2_000
SWEPT = (16, 3, 200)
"""Configurations, replications and requests of the whole sweep."""
TUNED_SIZES, TUNED = "512,1024,2048,4096,8192,16384", (10, 1000)
"""Defaults that a tune chooses from, and the most replications and requests of one."""
WARM_UP_REQUESTS = 100
SIM = {"sim": (True, True), "sim, no plots": (True, False), "sim, figures only": (False, False)}
"""Whether events are kept and pictures drawn."""
ROWS = (*SIM, "configuration", "sweep", "tune")
HEADER = (
    "code         what a user runs    requests  µs/request  × SimPy  peak MiB\n"
    "-----------  -----------------  ---------  ----------  -------  --------"
)


def main() -> int:
    """Measure and print every row."""
    parser = argparse.ArgumentParser(prog="bench_user", description="Time what the commands do, beside a bare SimPy.")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_COUNT} requests instead of {COUNT}")
    parser.add_argument("--full", action="store_true", help="no difference; as tools/bench.py takes it")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else there")
    parser.add_argument("--row", nargs=2, metavar=("WHAT", "REQUESTS"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.row is not None:
        print(json.dumps(measure(chosen.row[0], int(chosen.row[1]))))
        return 0
    if not chosen.json:
        print(HEADER)
    rows = []
    for code in ("1", "0") if state().folder is not None else ("0",):
        for what in ROWS:
            command = [sys.executable, __file__, "--row", what, str(QUICK_COUNT if chosen.quick else COUNT)]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | {VARIABLE: code}
            )
            rows.append(json.loads(done.stdout))
            if not chosen.json:
                print(line(rows[-1]), flush=True)
    if chosen.json:
        print(json.dumps({"rows": rows}, indent=2))
    return 0


def line(row: dict[str, Any]) -> str:
    """One line of the table."""
    return (
        f"{row['code']:<11}  {row['what']:<17}  {row['requests']:>9,}  {row['us_per_request']:>10.1f}  "
        f"{row['timeouts_per_request']:>7.0f}  {row['peak_MiB']:>8.0f}"
    )


def measure(what: str, requests: int) -> dict[str, Any]:
    """One row, in this process."""
    before_s = timeout_s()
    with tempfile.TemporaryDirectory() as folder:
        if what == "sweep":
            requests = SWEPT[0] * SWEPT[1] * SWEPT[2]
            took_s, peak = whole_sweep(Path(folder) / "sweep")
        elif what == "tune":
            took_s, peak, requests = whole_tune(Path(folder) / "tune")
        else:
            run(what, WARM_UP_REQUESTS, Path(folder) / "first")  # everything is imported then
            started_s = time.process_time()
            run(what, requests, Path(folder) / "run")
            took_s, peak = time.process_time() - started_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bare_s = (before_s + timeout_s()) / 2
    return {
        "code": "interpreted" if state().folder is None else "compiled",
        "what": what,
        "requests": requests,
        "us_per_request": took_s / requests * 1e6,
        "timeouts_per_request": took_s / requests / bare_s,
        "bare_timeout_us": bare_s * 1e6,
        "peak_MiB": peak / 1024,
    }


def run(what: str, requests: int, target: Path) -> None:
    """What a command does with one replication of so many requests."""
    from bufferlab.experiments.figures.directory import drawing
    from bufferlab.experiments.runs.simulate import run_sim
    from bufferlab.experiments.sweeps.configuration import run_configuration
    from bufferlab.experiments.workloads.loading import load

    settings = [f"workload.requests={requests}", "run.replications=1"]
    if what == "configuration":
        # The first replication is watched for violations, the others are not.
        run_configuration(load("ustudy", settings), 1)
    else:
        events, plots = SIM[what]
        run_sim(load("quickstart", settings), target, events=events, draw=drawing(plots=plots))


def whole_sweep(target: Path) -> tuple[float, int]:
    """CPU seconds and largest resident set (KiB) of a sweep's command."""
    configurations, replications, requests = SWEPT
    pools = ",".join(str(2048 + number) for number in range(configurations))
    return whole_command(
        "sweep", "ustudy", "--grid", f"encode.pool_blocks={pools}", "--set", f"workload.requests={requests}",
        "--replications", str(replications), "--out", str(target),
    )  # fmt: skip


def whole_tune(target: Path) -> tuple[float, int, int]:
    """The same of a tune's, and the requests of all its runs."""
    replications, requests = TUNED
    space = {
        "protocol.sizing.policy": "fixed", "protocol.sizing.tokens": TUNED_SIZES, "protocol.discipline": "window",
        "protocol.block_tokens": "128", "language.pool_blocks": "320", "encode.transfer_workers": "1",
    }  # fmt: skip
    took_s, peak = whole_command(
        "tune", "ustudy", *(part for field, values in space.items() for part in ("--space", f"{field}={values}")),
        "--set", f"workload.requests={requests}", "--replications", str(replications), "--out", str(target),
    )  # fmt: skip
    return took_s, peak, int(json.loads((target / "tune.json").read_text(encoding="utf-8"))["requests"])


def whole_command(*arguments: str) -> tuple[float, int]:
    """CPU seconds and largest resident set (KiB) of a command on one core."""
    command = [sys.executable, "-m", "bufferlab", *arguments, "--jobs", "1", "--no-plots"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=TOOLS.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, after.ru_maxrss


if __name__ == "__main__":
    sys.exit(main())
