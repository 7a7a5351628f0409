"""``bufferlab demo``: the seed scenarios, simulated and over Mooncake side by side; then a mixed workload of which
every row is predicted, with a profile of this host that is measured first, before it is measured."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bufferlab.experiments.calibration.here import STEPS, fit_here, measure_here
from bufferlab.experiments.calibration.profiles import NoProfileError
from bufferlab.experiments.calibration.report import busy_text
from bufferlab.experiments.commands.demonstration.figure import plot_forecast
from bufferlab.experiments.commands.demonstration.forecast import (
    ALLOWED,
    FIGURES,
    Forecast,
    content,
    forecast,
    outcome_table,
    outcomes,
    run_folder,
    verdicts,
)
from bufferlab.experiments.errors import RunFailedError
from bufferlab.experiments.files import Claim, require_empty_folder, write_json
from bufferlab.experiments.progress import bar
from bufferlab.experiments.runs.busy import Busy, BusyWatch, together
from bufferlab.experiments.runs.equality import compare_runs
from bufferlab.experiments.runs.measure import run_measured
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.experiments.validation.cases import cases_of, score_case
from bufferlab.experiments.validation.frozen import FrozenProfile, freeze
from bufferlab.experiments.validation.others import told_of_others
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.recording import Event
from bufferlab.protocol.topology import Side
from bufferlab.sim.streams import stream

if TYPE_CHECKING:
    from bufferlab.experiments.config.schema import Config

SEEDS = ("seed-small", "seed-resume", "seed-failure")
DEFAULTS = (256, 512, 1024, 2048, 4096, 8192)
SHOWN_DEFAULT = 1024
REQUESTS, ROUNDS = 100, 3
"""Of every row, and how often it is measured: short runs, since all of it is to take less than three minutes."""
SHIPPED = "tcp-loopback"


def run_demo(
    out: Path,
    *,
    requests: int | None = None,
    defaults: Sequence[int] = DEFAULTS,
    rounds: int = ROUNDS,
    profile: str | None = None,
) -> dict[str, Any]:
    """Run the demo into the new folder ``out`` and return its figures; tables go to stdout, progress to stderr.

    This host is measured first, unless ``profile`` names a link profile of it. Then every row is predicted, and only
    then measured, ``rounds`` times. Where the real backend is missing, the simulator runs alone and ``real`` says why.
    ``passed`` is False when a world's status paths differ, a byte arrived wrong or an invariant was violated.
    """
    require_empty_folder(out)
    frozen = None if profile is None else freeze(profile)
    with Claim(out):
        return _demo(out, requests, defaults, rounds, profile, frozen)


def _demo(
    out: Path,
    requests: int | None,
    defaults: Sequence[int],
    rounds: int,
    profile: str | None,
    frozen: FrozenProfile | None,
) -> dict[str, Any]:
    started_s = time.perf_counter()
    missing = why_no_real()
    if missing:
        print(f"The simulator runs alone: {missing}\n")
    worlds = ["sim"] if missing else ["sim", "real"]
    out.mkdir(parents=True, exist_ok=True)
    seeds = _seeds(out, worlds)
    figure = out / "demo.png"
    if missing:
        mixed = _simulated(out, requests, defaults, profile or SHIPPED, figure)
    else:
        mixed = _predicted(out, requests or REQUESTS, defaults, rounds, frozen, figure)
    passed = all(seed["equal"] is not False for seed in seeds.values()) and not mixed.pop("violations")
    shown = [str(path) for world in worlds for path in sorted(out.glob(f"{world}-{SHOWN_DEFAULT}*"))]
    print(f"\nPlot: {figure}")
    for path in shown:
        print(f"Run directory: {path}")
    print(f"All run directories: {out}; {time.perf_counter() - started_s:.0f} s in all")
    return {"passed": passed, "real": missing or "tcp", "seeds": seeds, **mixed, "plot": str(figure), "runs": shown}


def why_no_real() -> str:
    """Why the real backend cannot run here, in one sentence with what mends it; empty when it can."""
    from bufferlab.experiments.runs.diagnosis import examine_real

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


# --- the mixed workload: the simulator alone ---


def _simulated(out: Path, requests: int | None, defaults: Sequence[int], profile: str, figure: Path) -> dict[str, Any]:
    from bufferlab.experiments.figures.runs import plot_defaults

    base = [f"link.profile={profile}", *([] if requests is None else [f"workload.requests={requests}"])]
    count = _announce(load("demo", base))
    print(f"Simulated with the link profile {profile}, which is not of this host; latency in ms\n")
    print(f"{'default':>8}{'p50':>8}{'p99':>8}{'resumed':>9}{'wasted':>8}")
    rows: dict[str, Any] = {}
    for tokens in defaults:
        with bar(f"default {tokens}", count, "requests") as shown:
            config = load("demo", [*base, f"protocol.sizing.tokens={tokens}"])
            rows[str(tokens)] = {"sim": _run("sim", config, out / f"sim-{tokens}", shown.add)}
        print(f"{tokens:>8}{_cells(rows[str(tokens)]['sim'], ('p50', 'p99'))}", flush=True)
    plot_defaults([out / f"sim-{tokens}" for tokens in defaults], figure)
    return {"mixed": rows, "violations": sum(row["sim"]["invariant_violations"] for row in rows.values())}


# --- the mixed workload: predicted, then measured ---


def _predicted(
    out: Path,
    requests: int,
    defaults: Sequence[int],
    rounds: int,
    frozen: FrozenProfile | None,
    figure: Path,
) -> dict[str, Any]:
    here = None
    if frozen is None:
        frozen, here = _measure_host(out)
    base = [f"link.profile={frozen.name}", f"workload.requests={requests}"]
    configs = {tokens: load("demo", [*base, f"protocol.sizing.tokens={tokens}"]) for tokens in defaults}
    count = _announce(configs[defaults[0]])
    print(f"Predicted with {frozen.name}, before any of it is measured; latency in ms\n")
    print(f"{'default':>8}{''.join(f'{name:>8}' for name in FIGURES)}{'resumed':>9}{'wasted':>8}")
    forecasts: dict[int, Forecast] = {}
    summaries: dict[int, dict[str, Any]] = {}
    for tokens, config in configs.items():
        with bar(f"default {tokens}, simulated", count, "requests") as shown:
            summaries[tokens] = _run("sim", config, out / f"sim-{tokens}", shown.add)
        forecasts[tokens] = forecast(config, frozen, [run_folder(out, tokens, one).name for one in range(rounds)])
        figures = "".join(f"{1e3 * forecasts[tokens].figure_s(name):>8.1f}" for name in FIGURES)
        print(f"{tokens:>8}{figures}{_cells(summaries[tokens], ())}", flush=True)
    write_json(
        out / "predictions.json",
        {
            "profile": {"name": frozen.name, "sha256": frozen.digest},
            "rows": {str(one): {name: made.figure_s(name) for name in FIGURES} for one, made in forecasts.items()},
        },
    )
    measured, busy = _measure_rows(out, configs, rounds, count)
    runs = {tokens: [StoredRun(run_folder(out, tokens, number)) for number in range(rounds)] for tokens in defaults}
    named = cases_of([run for some in runs.values() for run in some])  # as validate names them
    cases = {
        tokens: score_case(members, frozen, name=name, tolerances=ALLOWED)
        for tokens in defaults
        for name, members in named.items()
        if members[0].path == runs[tokens][0].path
    }
    rows = {tokens: outcomes(forecasts[tokens], cases[tokens]) for tokens in defaults}
    print(f"\nMeasured over Mooncake, {rounds} times each, in turn; latency in ms; error: predicted / measured - 1")
    print("draws: lowest and highest of single simulations, of which predicted is the mean")
    print("noise: what one measurement is off by as a prediction of the others\n")
    print(outcome_table(rows))
    print()
    for sentence in verdicts(rows):
        print(f"{sentence}.")
    met = together([one.busy for one in cases.values() if one.busy is not None]) or busy
    print(f"\nO{told_of_others(met, frozen.busy)[1:]}.")
    plot_forecast(rows, figure)
    command = f"{shlex.quote(str(out))}/real-[0-9]* --profile {shlex.quote(frozen.name)}"
    print(f"The same with stages and choices: bufferlab validate {command} --stages")
    return {
        "profile": frozen.name,
        "busy": {"measuring_host": here, "measuring_rows": busy.content()},
        "mixed": {
            str(tokens): {
                **{name: content(one) for name, one in row.items()}, "sim": summaries[tokens], "real": measured[tokens],
            }
            for tokens, row in rows.items()
        },
        "violations": sum(
            one["invariant_violations"] for tokens in defaults for one in (summaries[tokens], *measured[tokens])
        ),
    }  # fmt: skip


def _measure_host(out: Path) -> tuple[FrozenProfile, dict[str, Any]]:
    """A profile of this host in ``out``, and what others did with its processors meanwhile.

    Of a host that is too busy another one is tried, and the one counts that others disturbed less. Where none can be
    made, as of a host on which nothing takes the same time twice, it is the shipped one, and that is told.
    """
    print("\nMeasuring this host, about half a minute: link, one request at a time, closed loop", flush=True)
    made: list[tuple[Busy, Path]] = []
    busy, why = None, ""
    for name in ("host", "host-again"):
        folder, target = out / name, out / f"{name}.toml"
        folder.mkdir()
        with bar("measuring this host", STEPS, "steps") as shown:
            busy = measure_here(folder, shown.step)
        try:
            fit_here(folder, busy, out=target, base=SHIPPED, seed=0, command="bufferlab demo")
            made.append((busy, target))
        except NoProfileError as error:
            why = str(error)
        if not busy.too_busy:
            break
        if name == "host":
            print(f"This host is busy: {busy}. It is measured once more, in case that was a moment.", flush=True)
    if made:
        busy, target = min(made, key=lambda one: one[0].taken)
        print(f"Profile of this host: {target}; {busy_text(busy.content())}")
        return freeze(target), busy.content()
    assert busy is not None
    state = f"THIS HOST IS TOO BUSY TO BE MEASURED: {busy}" if busy.too_busy else "This host could not be measured"
    print(
        f"{state}. No profile can be made of it ({why}).\nThe shipped profile {SHIPPED} predicts instead, which is of "
        "another host: what it is off by below says nothing of the simulator. Run the demo again when this one is idle."
    )
    return freeze(SHIPPED), busy.content()


def _measure_rows(
    out: Path, configs: Mapping[int, Config], rounds: int, count: int
) -> tuple[dict[int, list[dict[str, Any]]], Busy]:
    """Measure every row ``rounds`` times; in each round in an order drawn anew, so what disturbs one disturbs all."""
    summaries: dict[int, list[dict[str, Any]]] = {tokens: [] for tokens in configs}
    tokens_of = list(configs)
    watch = BusyWatch()
    with bar("measuring", count * len(configs) * rounds, "requests") as shown:
        for number in range(rounds):
            for place in stream(0, number, "demo-order").permutation(len(configs)):
                tokens = tokens_of[place]
                summary = _run("real", configs[tokens], run_folder(out, tokens, number), shown.add)
                summaries[tokens].append(summary)
    return summaries, watch.so_far()


def _announce(config: Config) -> int:
    """Say what is asked for in every row; how many requests that is."""
    count = len(config_requests(config))
    print(f"\n{count} mixed requests at {config.workload.rate_rps:g}/s, the same ones in every row.", flush=True)
    return count


def _cells(summary: dict[str, Any], quantiles: Sequence[str]) -> str:
    def value(estimate: Any) -> float | None:
        return estimate["value"] if isinstance(estimate, dict) else estimate

    cells = ""
    for quantile in quantiles:
        seconds = value(summary["latency_s"][quantile])
        cells += f"{'-' if seconds is None else format(seconds * 1e3, '.1f'):>8}"
    resumed, wasted = value(summary["resume"]["rate"]), value(summary["language_pool"]["wasted_fraction"])
    cells += f"{'-' if resumed is None else format(resumed, '.0%'):>9}"
    return cells + f"{'-' if wasted is None else format(wasted, '.0%'):>8}"


# --- both ---


def config_requests(config: Config) -> Sequence[Any]:
    """The requests of the configuration's first replication."""
    from bufferlab.experiments.workloads.requests import make_requests

    return list(make_requests(config, 0))


def _run(world: str, config: Config, target: Path, progress: Any) -> dict[str, Any]:
    run = run_sim if world == "sim" else run_measured
    try:
        return run(config, target, progress=progress)
    except RunFailedError as error:
        raise RunFailedError(f"{target.name}: {error}") from error
