"""How fast the simulator is: requests a second, beside a bare SimPy loop in the same process.

Every row of the table is a process of its own, so that its peak memory is its own too. The requests are those of the
smallest interesting case: 2,000 tokens over a default of 1,024, so two chunks, an acknowledgement from every rank and a
resume each. All protocol cores run in full. Times are CPU times of one core; the reference is the cost of one event of
a SimPy process that does nothing but wait for timeouts, measured before and after in the same process.

* code: compiled (where it is built, see tools/compile_core.py), then the same sources interpreted
* ranks: of the two sides; "h": on a host whose threads share its processors (sim/cluster/shared.py)
* events: calls on the virtual clock per request
* µs/event: CPU time per event
* × SimPy: CPU time per event over that of a bare timeout
* peak MiB: the process's largest resident set, interpreter and libraries included
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bufferlab.protocol.compiled import VARIABLE, state  # noqa: E402 - of this tree, whatever is installed

SHAPES = {"1x1": (1, 1), "2x2": (2, 2), "4x8": (4, 8)}
HOSTED = {"1x1h": (1, 1), "2x2h": (2, 2)}
HOST = {
    "processors": 4,
    "input_s": 10e-6,
    "iteration_s": 10e-6,
    "message_s": 5e-6,
    "command_s": 10e-6,
    "fill_bandwidth_Bps": 50e9,
    "write_processors": 0.5,
    "collective_processors": 0.5,
    "collective_quantiles_s": [20e-6, 40e-6, 80e-6],
}
"""Small enough that nothing is overloaded at ``RATE_RPS``."""
RATE_RPS = 500.0
TIMEOUTS = 200_000
WARM_UP_REQUESTS = 100
QUICK = (10_000, 100_000)
FULL = (10_000, 100_000, 1_000_000)
RECORDINGS = ("off", "events", "all")
"""Nothing; events.parquet; what `bufferlab sim` does: events and requests, every invariant, the run's figures."""


def main() -> int:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(prog="bench", description="Time the simulator beside a bare SimPy loop.")
    parser.add_argument("--full", action="store_true", help="1,000,000 requests for every shape, not only 1x1")
    parser.add_argument("--quick", action="store_true", help="10,000 requests for every shape and nothing more")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else there")
    parser.add_argument("--row", nargs=3, metavar=("SHAPE", "REQUESTS", "RECORDING"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.row is not None:
        print(json.dumps(measure(chosen.row[0], int(chosen.row[1]), chosen.row[2])))
        return 0
    codes = ("1", "0") if state().folder is not None else ("0",)
    if len(codes) == 1:
        print(f"bench: {state()}", file=sys.stderr)
    rows = []
    if not chosen.json:
        print(HEADER)
    for code in codes:
        for arguments in plan(full=chosen.full, quick=chosen.quick):
            rows.append(in_a_process(arguments, code))
            if not chosen.json:
                print(line(rows[-1]), flush=True)
    if chosen.json:
        print(json.dumps({"rows": rows}, indent=2))
    return 0


def plan(*, full: bool, quick: bool) -> Iterator[tuple[str, int, str]]:
    """The rows: shape, requests, recording."""
    for shape in SHAPES:
        counts = QUICK[:1] if quick else FULL if full or shape == "1x1" else QUICK
        for count in counts:
            yield shape, count, "off"
    for shape in HOSTED:
        yield shape, QUICK[0], "off"
    for recording in RECORDINGS[1:]:
        for count in QUICK[:1] if quick else QUICK:
            yield "1x1", count, recording


HEADER = (
    "code         ranks   requests  recording  requests/s  events  µs/event  × SimPy  peak MiB\n"
    "-----------  -----  ---------  ---------  ----------  ------  --------  -------  --------"
)


def line(row: dict[str, Any]) -> str:
    """One line of the table."""
    return (
        f"{row['code']:<11}  {row['ranks']:<5}  {row['requests']:>9,}  {row['recording']:<9}  "
        f"{row['requests_per_s']:>10,.0f}  "
        f"{row['events_per_request']:>6.1f}  {row['us_per_event']:>8.2f}  {row['ratio_to_simpy']:>7.1f}  "
        f"{row['peak_MiB']:>8.0f}"
    )


def in_a_process(arguments: tuple[str, int, str], code: str) -> dict[str, Any]:
    """One row, measured with compiled cores if ``code`` is "1"."""
    command = [sys.executable, __file__, "--row", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, VARIABLE: code})
    row: dict[str, Any] = json.loads(done.stdout)
    return row


# --- one row -------------------------------------------------------------------------------------------------------


def measure(shape: str, requests: int, recording: str) -> dict[str, Any]:
    """Run ``requests`` through ranks of ``shape`` in this process."""
    from bufferlab.experiments.config.schema import parse

    encode_tp, language_tp = (SHAPES | HOSTED)[shape]
    host = HOST if shape in HOSTED else None
    tree: dict[str, Any] = {
        "workload": {"lengths": [2000], "requests": WARM_UP_REQUESTS, "rate_rps": RATE_RPS},
        "protocol": {"sizing": {"tokens": 1024}},
        "encode": {"tp": encode_tp, "pool_blocks": 1024},
        "language": {"tp": language_tp, "pool_blocks": 1024},
        "link": {"profile": "cx7-400g"},
    }
    with tempfile.TemporaryDirectory() as folder:
        run(parse(tree), recording, Path(folder) / "run", host)  # everything is imported then
    tree["workload"]["requests"] = requests
    config = parse(tree)
    before_s = timeout_s()
    with tempfile.TemporaryDirectory() as folder:
        started_s = time.process_time()
        events = run(config, recording, Path(folder) / "run", host)
        took_s = time.process_time() - started_s
    bare_s = (before_s + timeout_s()) / 2
    return {
        "code": "interpreted" if state().folder is None else "compiled",
        "ranks": shape,
        "requests": requests,
        "recording": recording,
        "requests_per_s": requests / took_s,
        "events_per_request": events / requests,
        "us_per_event": took_s / events * 1e6,
        "ratio_to_simpy": took_s / events / bare_s,
        "bare_timeout_us": bare_s * 1e6,
        "peak_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def run(config: Any, recording: str, target: Path, host: dict[str, Any] | None) -> int:
    """Simulate, on a host if one is given; return the number of events on the clock."""
    from msgspec import structs

    from bufferlab.experiments.runs.recorder import RunRecorder
    from bufferlab.experiments.runs.rundir import RunWriter
    from bufferlab.experiments.workloads.requests import make_requests
    from bufferlab.sim.host.costs import host_from
    from bufferlab.sim.network.link import load_profile
    from bufferlab.sim.run import simulate

    scenario, link = config.scenario(), load_profile(config.link.profile)
    if host is not None:
        link = structs.replace(link, host=host_from(host))
    requests = make_requests(config, 0)
    if recording == "off":
        outcome = simulate(scenario, requests, link)
    else:
        with RunWriter(target, config) as writer:
            writer.begin(0)
            if recording == "events":
                outcome = simulate(scenario, requests, link, recorder=writer.event)
            else:
                account = RunRecorder(config, writer)
                outcome = simulate(scenario, requests, link, recorder=account.recorder, announce=account.expect)
    if outcome.unfinished or outcome.failed:
        raise RuntimeError(f"{outcome.failed} requests failed and {outcome.unfinished} are unfinished")
    return outcome.events


def timeout_s() -> float:
    """CPU time of one timeout of a bare SimPy process: the best of three."""
    from simpy import Environment

    def wait(environment: Environment) -> Iterator[Any]:
        for _ in range(TIMEOUTS):
            yield environment.timeout(1.0)

    best_s = float("inf")
    for _ in range(3):
        environment = Environment()
        environment.process(wait(environment))  # type: ignore[arg-type]
        started_s = time.process_time()
        environment.run()
        best_s = min(best_s, time.process_time() - started_s)
    return best_s / TIMEOUTS


if __name__ == "__main__":
    sys.exit(main())
