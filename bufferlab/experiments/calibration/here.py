"""Measures this host for a link profile, in about half a minute: ``bufferlab calibrate --here``.

* the *link*: a few cases of ``bench-link``, which tell what a first contact costs and what the link does by itself;
* *one request at a time*, with blocks of two sizes, which tells latencies. One loop iterates every millisecond, the
  other like a decode step: what a thread does after a sound sleep takes longer. The threads of a run sleep, wake up and
  wait for each other, which no benchmark of a link does, so its writes decide the law of the profile;
* *two language ranks*, again one request at a time: how long all-reduces take;
* a *closed loop* of 16 requests, twice: what the software costs the processors when they have no time.

The validation campaign calibrates on the same runs, more of them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bufferlab.experiments.calibration.command import BASE, calibrate, check_target
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.files import Claim, new_folder
from bufferlab.experiments.runs.busy import Busy, BusyWatch
from bufferlab.experiments.runs.diagnosis import examine_real
from bufferlab.experiments.runs.measure import run_measured
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.workloads.loading import load

EXAMPLE = "validation-case"
LINK = "link"
"""The folder of bench-link's files beside those of the runs."""


def of_blocks(tokens: int) -> tuple[str, ...]:
    """Blocks of another size, in pools of the same memory."""
    return (
        f"protocol.block_tokens={tokens}",
        f"encode.pool_blocks={512 * 128 // tokens}",
        f"language.pool_blocks={256 * 128 // tokens}",
    )


@dataclass(frozen=True)
class Planned:
    """One measured run. ``overrides``: settings in which it differs from the example ``validation-case``.

    ``load``: a key of the campaign's loads; None where ``overrides`` say how requests come. ``requests``: so many that
    a run takes 1 to 4 s. ``processors``: how many of the host's the run may use; None for all.
    """

    name: str
    study: str
    overrides: tuple[str, ...] = ()
    load: str | None = "medium"
    requests: int = 100
    processors: int | None = None


LENGTHS = (150, 300, 500, 800, 1000, 1500, 2200, 3500)
"""Tokens of the requests of the runs that tell latencies: each several times, so that a size has a median."""


def _one_at_a_time(rps: float) -> tuple[str, ...]:
    """Requests that hardly ever meet, at any time of a loop's period, with a pass long enough to fall asleep in."""
    return (
        "encode.base_s=10ms", f"workload.lengths={list(LENGTHS)}", f"workload.rate_rps={rps}", "workload.cv=0.25",
        "run.seed=7",
    )  # fmt: skip


QUICK, SLOW, GROUP, CAPACITY = "calibrate-32", "calibrate-128", "calibrate-1x2", "capacity"
CALIBRATING = (
    Planned(QUICK, "calibrate", (*of_blocks(32), *_one_at_a_time(30.0)), load=None, requests=60),
    Planned(
        SLOW,
        "calibrate",
        (*of_blocks(128), *_one_at_a_time(20.0), "language.poll_interval_s=15ms"),
        load=None,
        requests=50,
    ),
    Planned(GROUP, "calibrate", ("language.tp=2", *_one_at_a_time(15.0)), load=None, requests=30),
    Planned(
        CAPACITY, "calibrate", ("workload.loop=closed", "workload.concurrency=16", "run.seed=7"), load=None,
        requests=200,
    ),
)  # fmt: skip
ALONE = (QUICK, SLOW)
"""One request at a time: they tell latencies."""
USAGES = (CAPACITY, GROUP)
"""Of these only the CPU usage of the processes is used."""

HERE = ((QUICK, 0), (CAPACITY, 0), (SLOW, 0), (GROUP, 0), (CAPACITY, 1))
"""What is measured for a profile of this host, in order: name and number of each run."""


def run_folder(folder: Path, name: str, number: int) -> Path:
    """Where a run of round ``number`` lies."""
    return folder / "runs" / name / f"{number:02d}"


def measure_one(folder: Path, planned: Planned, number: int, rates_rps: Mapping[str, float]) -> None:
    """Measure one run into its place in ``folder``, if it is not there. Raises what ``run_measured`` raises."""
    target = run_folder(folder, planned.name, number)
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    loaded = [] if planned.load is None else [f"workload.rate_rps={rates_rps[planned.load]!r}"]
    overrides = [
        f'run.name="{planned.name}"', *planned.overrides, *loaded, f"workload.requests={planned.requests}"
    ]  # fmt: skip
    with on_processors(planned.processors):
        run_measured(load(EXAMPLE, overrides), target)


@contextmanager
def on_processors(count: int | None) -> Iterator[None]:
    """Within it this thread, and what it starts, may use only ``count`` of the processors; all for None."""
    if count is None:
        yield
        return
    all_of_them = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(all_of_them)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_of_them)


STEPS = 1 + len(HERE)
"""Of ``measure_here``: the link and the runs."""


def measure_here(folder: Path, progress: Callable[[str], object] = lambda _: None) -> Busy:
    """Measure the link and all runs into ``folder``, which exists; what others did with the processors meanwhile.

    ``progress`` is told what comes next. Raises UserError where the real backend is missing, RunFailedError when
    something breaks.
    """
    watch = BusyWatch()
    progress("the link")
    _measure_link(folder / LINK)
    planned = {one.name: one for one in CALIBRATING}
    said = {
        QUICK: "one request at a time", SLOW: "one request at a time, slow loop", GROUP: "two language ranks",
        CAPACITY: "closed loop",
    }  # fmt: skip
    for name, number in HERE:
        progress(said[name])
        measure_one(folder, planned[name], number, {})
    return watch.so_far()


def fit_here(folder: Path, busy: Busy, *, out: Path | None, base: str, seed: int, command: str) -> dict[str, Any]:
    """What ``measure_here`` left in ``folder``, fitted; the profile ``out`` if one is asked for."""
    alone = [run_folder(folder, name, number) for name, number in HERE if name in ALONE]
    usages = [run_folder(folder, name, number) for name, number in HERE if name in USAGES]
    # Where the kernel does not count the time of threads there is no CPU usage, and every thread has a processor.
    kept = [run for run in usages if StoredRun(run).usage]
    return calibrate(
        [folder / LINK, *alone], usages=kept if out is not None else (), out=out, base=base, seed=seed,
        command=command, runs_decide=True, busy=busy.content(),
    )  # fmt: skip


def calibrate_here(
    *,
    out: Path | None = None,
    keep: Path | None = None,
    base: str = BASE,
    seed: int = 0,
    command: str = "",
    progress: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Measure this host and fit a profile to it; the result is that of ``calibrate``, and ``busy``.

    ``keep``: a new folder in which the runs stay; they are removed otherwise. Raises UserError for bad input and where
    the real backend is missing, before anything is measured, and RunFailedError when something breaks.
    """
    check_target("none", seed, out, base)
    if keep is not None and keep.exists():
        raise UserError(f"--keep is {str(keep)!r}, it must be a folder that does not exist yet")
    missing = examine_real()
    if missing:
        raise UserError(f"--here measures over Mooncake, but {missing}")
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="bufferlab-here-") as temporary:
            folder = Path(temporary)
            return fit_here(folder, measure_here(folder, progress), out=out, base=base, seed=seed, command=command)
    # What was measured is there as a whole or not at all, and stays where no law describes it.
    with Claim(keep, "--keep"), new_folder(keep) as folder:
        busy = measure_here(folder, progress)
    return fit_here(keep, busy, out=out, base=base, seed=seed, command=command)


def _measure_link(folder: Path) -> None:
    from bufferlab.experiments.calibration.bench_link import FEWEST_ROUNDS, make_sweep, run_sweep, write_files

    sweep = make_sweep(
        block="64KiB,1MiB", batch="1,8", threads="1", rounds=FEWEST_ROUNDS, transport="tcp", device="", seed=0,
        min_gbps=None,
    )  # fmt: skip
    write_files(run_sweep(sweep, show=lambda _: None, progress=lambda: None), folder)
