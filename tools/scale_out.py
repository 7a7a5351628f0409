"""Measures what many runs cost: tiny ones on a dask cluster of this machine's processes, or without.

    python tools/scale_out.py                          100,000 runs that do nothing on 2 dask workers
    python tools/scale_out.py --executor local         the same on 2 processes
    python tools/scale_out.py --run-ms 5 --runs 4000   runs of 5 ms of processor time; parallel efficiency too
    python tools/scale_out.py --kills 5 --run-ms 5     and five workers are killed on the way
    python tools/scale_out.py --sweep --runs 10000     a real sweep, of ten replications of runs of two requests

Parallel efficiency is the time of all runs one after the other in this process, divided by the number of workers times
the time they take together, once workers are warm. Peak memory is that of the client, of the scheduler, which is a
process of its own, and of the largest worker. What a sweep costs is what the command's own process takes, without the
runs themselves: its memory, its processor time while runs come in and at the end, and what it leaves on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bufferlab.experiments.sweeps.executor import open_workers
from bufferlab.experiments.sweeps.plan import make_plan
from bufferlab.experiments.sweeps.sweep import run_sweep

ROOT = Path(__file__).resolve().parent.parent
START_S = 60
RESULT = [float(number) for number in range(200)]
"""As large as what a run of a sweep comes to."""


def work(number: int, run_ms: float) -> tuple[int, list[float], int]:
    ends_s = time.process_time() + run_ms / 1e3
    while time.process_time() < ends_s:
        pass
    return number, RESULT, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def usage(process: int) -> tuple[float, float]:
    """Processor seconds and peak MB of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    status = Path(f"/proc/{process}/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(peak.split()[1]) / 1024


def start(kind: str, *arguments: str, code: Path = ROOT) -> subprocess.Popen[bytes]:
    """A scheduler or worker as a process of its own, which runs the code in a folder."""
    command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--no-dashboard", *arguments]
    path = os.pathsep.join([str(code), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command, cwd=code, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def end(running: list[subprocess.Popen[bytes]]) -> None:
    for process in reversed(running):
        process.kill()
        process.wait()


def wait_for(file: Path, scheduler: subprocess.Popen[bytes]) -> None:
    """Until the scheduler has written where it is; raises RuntimeError if it ends or takes too long."""
    deadline_s = time.monotonic() + START_S
    while not file.exists() or not file.read_text().endswith("}"):
        if scheduler.poll() is not None:
            raise RuntimeError(f"the scheduler ended with status {scheduler.returncode} before it said where it is")
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"the scheduler did not say where it is in {START_S} s")
        time.sleep(0.05)


@contextmanager
def cluster(workers: int) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """The address of a scheduler, and its process and those of its workers."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file = Path(folder) / "scheduler.json"
        running: list[subprocess.Popen[bytes]] = []
        stack.callback(end, running)
        running.append(start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file)))
        wait_for(file, running[0])
        for _ in range(workers):
            running.append(new_worker(file))
        yield str(file), running


def new_worker(file: Path | str, code: Path = ROOT) -> subprocess.Popen[bytes]:
    return start("worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", code=code)


def sweep_rows(runs: int, replications: int, workers: int, executor: str, address: str | None) -> list[tuple[str, Any]]:
    """What a sweep of so many runs of two requests costs."""
    began_s, moments = time.perf_counter(), [time.process_time()]

    def took_s() -> float:
        moments.append(time.process_time())
        return moments[-1] - moments[-2]

    plan = make_plan(
        "quickstart",
        grid={"protocol.timeout_s": [5 + number / 1000 for number in range(max(runs // replications, 1))]},
        settings=["workload.requests=2"],
        replications=replications,
    )
    count, ended = len(plan.tasks), 0

    def progress(number: int) -> None:
        nonlocal ended
        ended += number
        if ended == count:
            rows.append(("processor time a run while runs come in, ms", f"{took_s() / count * 1e3:.2f}"))
            rows.append(("memory of the command by then, MB", f"{usage(os.getpid())[1]:.0f}"))

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        rows: list[tuple[str, Any]] = [
            ("workers", f"{workers} ({executor})"),
            ("runs", f"{count:,}, of {len(plan.configurations):,} configurations"),
            ("processor time a run before the first, ms", f"{took_s() / count * 1e3:.2f}"),
            ("memory of the command with the plan, MB", f"{usage(os.getpid())[1]:.0f}"),
        ]
        run_sweep(plan, out, jobs=workers, executor=executor, address=address, progress=progress)
        rows.append(("processor time a run at the end, ms", f"{took_s() / count * 1e3:.2f}"))
        rows.append(("peak memory of the command, MB", f"{usage(os.getpid())[1]:.0f}"))
        rows.append(("seconds in all", f"{time.perf_counter() - began_s:.0f}"))
        for path in sorted(out.iterdir()):
            rows.append((f"{path.name}, MB", f"{path.stat().st_size / 1e6:.1f}"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--run-ms", type=float, default=0.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executor", choices=("dask", "local"), default="dask")
    parser.add_argument("--kills", type=int, default=0, help="workers to kill on the way, each replaced by another")
    parser.add_argument("--sweep", action="store_true", help="runs of a real sweep")
    parser.add_argument("--replications", type=int, default=10, help="of each configuration of the sweep")
    options = parser.parse_args()

    with ExitStack() as stack:
        address: str | None = None
        running: list[subprocess.Popen[bytes]] = []
        if options.executor == "dask":
            file, running = stack.enter_context(cluster(options.workers))
            address = json.loads(Path(file).read_text())["address"]
        if options.sweep:
            show(sweep_rows(options.runs, options.replications, options.workers, options.executor, address))
            return
        workers = stack.enter_context(open_workers(jobs=options.workers, executor=options.executor, address=address))
        warm = len(list(workers.run(work, [(number, 200.0) for number in range(4 * options.workers)])))
        before_s = usage(running[0].pid)[0] if running else 0.0
        draws = random.Random(1)
        moments = set(draws.sample(range(options.runs // 10, options.runs), options.kills))
        began_s, seen, peak = time.perf_counter(), bytearray(options.runs), 0
        for done, (index, (number, _, kilobytes)) in enumerate(
            workers.run(work, [(number, options.run_ms) for number in range(options.runs)])
        ):
            assert number == index, "a run has the result of another"
            assert not seen[index], "a run came twice"
            seen[index] = 1
            peak = max(peak, kilobytes)
            if done in moments and len(running) > 1:
                place = draws.randrange(1, len(running))
                running[place].send_signal(signal.SIGKILL)
                running[place].wait()
                running[place] = new_worker(file)
        wall_s = time.perf_counter() - began_s
        assert all(seen), "a run is missing"
        rows: list[tuple[str, Any]] = [
            ("workers", f"{options.workers} ({options.executor})"),
            ("runs", f"{options.runs:,} of {options.run_ms:g} ms (and {warm} before, to warm up)"),
            ("runs a second", f"{options.runs / wall_s:,.0f}"),
            ("peak memory of the client, MB", f"{usage(os.getpid())[1]:.0f}"),
            ("peak memory of a worker, MB", f"{peak / 1024:.0f}"),
        ]
        if running:
            cpu_s, megabytes = usage(running[0].pid)
            rows.append(("peak memory of the scheduler, MB", f"{megabytes:.0f}"))
            rows.append(("processor time of the scheduler a run, µs", f"{(cpu_s - before_s) / options.runs * 1e6:.0f}"))
        rows.append(("workers lost, runs handed out again", f"{workers.lost}, {workers.handed_again}"))
    if options.run_ms:
        began_s = time.perf_counter()
        for number in range(options.runs):
            work(number, options.run_ms)
        serial_s = time.perf_counter() - began_s
        rows.append(("seconds one after the other, together", f"{serial_s:.1f}, {wall_s:.1f}"))
        rows.append(("parallel efficiency", f"{serial_s / (options.workers * wall_s):.2f}"))
    show(rows)


def show(rows: list[tuple[str, Any]]) -> None:
    for label, value in rows:
        print(f"{label:<45} {value}")


if __name__ == "__main__":
    main()
