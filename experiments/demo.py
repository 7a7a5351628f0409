"""``bufferlab demo``: the seed scenarios and a mixed workload, simulated and over Mooncake side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.equality import compare_runs
from experiments.errors import RunFailedError, UserError
from experiments.loading import load
from experiments.progress import bar
from experiments.rundir import StoredRun
from experiments.runner import run_measured, run_sim
from protocol.recording import Event
from protocol.topology import Side

if TYPE_CHECKING:
    from experiments.config import Config

SEEDS = ("seed-small", "seed-resume", "seed-failure")
DEFAULTS = (256, 512, 1024, 2048, 4096, 8192)
SHOWN_DEFAULT = 1024

Worlds = dict[str, dict[str, Any]]


def run_demo(out: Path, *, requests: int | None = None, defaults: Sequence[int] = DEFAULTS) -> dict[str, Any]:
    """Run the demo into the new folder ``out`` and return its figures; tables go to stdout, progress to stderr.

    Where the real backend is missing, the simulator runs alone and ``real`` says why. ``passed`` is False when a
    world's status paths differ, a byte arrived wrong or a law was broken.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out is {str(out)!r}, it must be a new or empty folder")
    started_s = time.perf_counter()
    missing = why_no_real()
    if missing:
        print(f"The simulator runs alone: {missing}\n")
    worlds = ["sim"] if missing else ["sim", "real"]
    seeds = _seeds(out, worlds)
    mixed = _mixed(out, worlds, requests, defaults)
    figure = out / "demo.png"
    _plot(out, worlds, defaults, figure)
    shown = [str(out / f"{world}-{SHOWN_DEFAULT}") for world in worlds if SHOWN_DEFAULT in defaults]
    passed = all(seed["equal"] is not False for seed in seeds.values())
    passed &= all(not row[world]["invariant_violations"] for row in mixed.values() for world in worlds)
    print(f"\nPlot: {figure}")
    for path in shown:
        print(f"Run directory: {path}")
    print(f"All run directories: {out}; {time.perf_counter() - started_s:.0f} s in all")
    return {
        "passed": passed,
        "real": missing or "tcp",
        "seeds": seeds,
        "mixed": {str(tokens): row for tokens, row in mixed.items()},
        "plot": str(figure),
        "runs": shown,
    }


def why_no_real() -> str:
    """Why the real backend cannot run here, in one sentence with what mends it; empty when it can."""
    from experiments.doctor import examine_real

    return examine_real()


# --- the seed scenarios ---


def _seeds(out: Path, worlds: Sequence[str]) -> dict[str, Any]:
    print("The seed scenarios: status of the room on the language side (sent_tokens of each offer)\n")
    found: dict[str, Any] = {}
    width = len("WaitingForInput → Transferring → Success (0, 1024)")
    header = {"sim": "simulator", "real": "Mooncake"}
    print(f"{'scenario':<14}" + "".join(f"{header[world]:<{width + 2}}" for world in worlds) + "same history")
    for name in SEEDS:
        config = load(name)
        paths: dict[str, str] = {}
        for world in worlds:
            target = out / f"{world}-{name}"
            with bar(f"{name} {world}", len(config_requests(config)), "requests") as shown:
                _run(world, config, target, shown.add)
            paths[world] = status_path(StoredRun(target))
        equal: bool | None = None
        if len(worlds) == 2:
            equal = compare_runs(out / f"sim-{name}", out / f"real-{name}")["equal"]
        verdict = {True: "yes", False: "NO", None: "-"}[equal]
        print(f"{name:<14}" + "".join(f"{paths[world]:<{width + 2}}" for world in worlds) + verdict)
        found[name] = {"paths": paths, "equal": equal}
    return found


def status_path(run: StoredRun) -> str:
    """The first room's statuses on language rank 0 and the sent_tokens of its offers, in one line."""
    statuses: list[str] = []
    sent: list[int] = []
    for _, record in run.records():
        if record.rank_id.side is not Side.LANGUAGE or record.rank_id.rank or record.room != 1:
            continue
        if record.event in (Event.OFFERED, Event.RESUMED):
            sent.append(record.tokens)
        if record.status is not None and record.status.name not in (*statuses, "Bootstrapping"):
            statuses.append(record.status.name)
    return f"{' → '.join(statuses)} ({', '.join(map(str, sent))})"


# --- the mixed workload ---


def _mixed(out: Path, worlds: Sequence[str], requests: int | None, defaults: Sequence[int]) -> dict[int, Worlds]:
    base = [] if requests is None else [f"workload.requests={requests}"]
    config = load("demo", base)
    count = len(config_requests(config))
    print(f"\n{count} mixed requests at {config.workload.rate_rps:g}/s, the same ones in every row; latency in ms\n")
    columns = f"{'p50':>8}{'p99':>8}{'resumed':>9}{'wasted':>8}"
    print(f"{'':>8}" + "".join(f"{' ' + name + ' ':-^{len(columns)}}   " for name in _titles(worlds)))
    print(f"{'default':>8}" + "   ".join([columns] * len(worlds)))
    rows: dict[int, Worlds] = {}
    for tokens in defaults:
        row: Worlds = {}
        for world in worlds:
            one = load("demo", [*base, f"protocol.sizing.tokens={tokens}"])
            with bar(f"default {tokens} {world}", count, "requests") as shown:
                row[world] = _run(world, one, out / f"{world}-{tokens}", shown.add)
        print(f"{tokens:>8}" + "   ".join(_cells(row[world]) for world in worlds), flush=True)
        rows[tokens] = row
    return rows


def _titles(worlds: Sequence[str]) -> list[str]:
    return [{"sim": "simulated", "real": "Mooncake"}[world] for world in worlds]


def _cells(summary: dict[str, Any]) -> str:
    def value(estimate: Any) -> float | None:
        return estimate["value"] if isinstance(estimate, dict) else estimate

    latency = summary["latency_s"]
    cells = ""
    for quantile in ("p50", "p99"):
        seconds = value(latency[quantile])
        cells += f"{'-' if seconds is None else format(seconds * 1e3, '.1f'):>8}"
    resumed, wasted = value(summary["resume"]["rate"]), value(summary["language_pool"]["wasted_fraction"])
    cells += f"{'-' if resumed is None else format(resumed, '.0%'):>9}"
    return cells + f"{'-' if wasted is None else format(wasted, '.0%'):>8}"


def _plot(out: Path, worlds: Sequence[str], defaults: Sequence[int], figure: Path) -> None:
    from experiments.plots import plot_defaults

    plot_defaults([out / f"{world}-{tokens}" for world in worlds for tokens in defaults], figure)


# --- both ---


def config_requests(config: Config) -> Sequence[Any]:
    """The requests of the configuration's first replication."""
    from experiments.workload import make_requests

    return list(make_requests(config, 0))


def _run(world: str, config: Config, target: Path, progress: Any) -> dict[str, Any]:
    run = run_sim if world == "sim" else run_measured
    try:
        return run(config, target, progress=progress, plots=False)
    except RunFailedError as error:
        raise RunFailedError(f"{target.name}: {error}") from error
