"""Does what `bufferlab tune` recommends keep its promise where it is measured?

    python tools/held_out.py FOLDER [--rounds 9] [--requests 150] [--page FILE]

This host is measured first, for a link profile of its own (FOLDER/host.toml). With that profile `bufferlab tune` says
what to set for each of three workloads (FOLDER/tune/NAME), and only then are the recommendation and a default of 8,192
tokens measured over the real transport, in turn, with the same requests in each round and others in the next. What was
measured stands beside what the simulator predicts for the very same requests. It takes about ten minutes on a machine
with two cores, which should do nothing else meanwhile; an interrupted command goes on where it stopped. --page puts the
table between the marks of a page.

Exit status: 0, 1 when something cannot be measured, 2 for bad input, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bufferlab.experiments.calibration.here import STEPS, fit_here, measure_here  # noqa: E402 - from this checkout
from bufferlab.experiments.errors import RunFailedError, UserError  # noqa: E402
from bufferlab.experiments.figures.pages import MarkedPage  # noqa: E402
from bufferlab.experiments.files import disk_errors, write_text  # noqa: E402
from bufferlab.experiments.progress import bar  # noqa: E402
from bufferlab.experiments.runs.busy import BusyWatch  # noqa: E402
from bufferlab.experiments.runs.environment import describe_host  # noqa: E402
from bufferlab.experiments.runs.measure import run_measured  # noqa: E402
from bufferlab.experiments.runs.rundir import StoredRun  # noqa: E402
from bufferlab.experiments.stats.intervals import Estimate, across_replications, quantile  # noqa: E402
from bufferlab.experiments.sweeps.grid import as_override  # noqa: E402
from bufferlab.experiments.validation.frozen import FrozenProfile, freeze  # noqa: E402
from bufferlab.experiments.validation.pairing import pair_run  # noqa: E402
from bufferlab.experiments.workloads.loading import load  # noqa: E402
from bufferlab.sim.streams import stream  # noqa: E402

EXAMPLE = "demo"
WORKLOADS = {
    "chat, one image": ("workload.preset=single-image-chat", "workload.rate_rps=30"),
    "mixed": ("workload.preset=mixed", "workload.rate_rps=30"),
    "text": ("workload.preset=text-only", "workload.rate_rps=40"),
}
"""The example demo (a loop of 15 ms, 12,288 tokens of language memory) with other requests."""
TODAY = {"protocol.sizing.policy": "fixed", "protocol.sizing.tokens": 8192}
SPACE = (
    "protocol.sizing.tokens=256,512,1024,2048,4096,8192",
    "protocol.sizing.policy=fixed,quantile",
    "protocol.discipline=window",
    "protocol.block_tokens=128",
    "language.pool_blocks=96",
    "encode.transfer_workers=1",
)
"""What is chosen from: what a serving stack lets its users set."""
OBJECTIVE = "latency_mean"
TUNED_REQUESTS = 1000
FIGURES: dict[str, Callable[[Any], float]] = {"mean": lambda one: float(np.mean(one)), "p90": quantile(0.9)}
BEGIN, END = "<!-- held out: begin -->\n", "\n<!-- held out: end -->"


class Compared(NamedTuple):
    """8,192 less the recommendation: of one figure, as predicted and as measured, in seconds."""

    predicted: Estimate
    measured: Estimate


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the host, ask, measure what was answered, write the table."""
    parser = argparse.ArgumentParser(prog="held_out", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=9, help="of every workload and setting")
    parser.add_argument("--requests", type=int, default=150, help="of one measured run")
    parser.add_argument("--page", type=Path, help="put the table between the marks of this file")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.rounds < 2:
            raise UserError(f"--rounds is {chosen.rounds}, it must be at least 2")
        marked = None if chosen.page is None else MarkedPage(chosen.page, BEGIN, END, "--page")
        if marked is not None:
            marked.check()
        chosen.folder.mkdir(parents=True, exist_ok=True)
        profile = _profile(chosen.folder)
        answers = {name: _answer(chosen.folder, name) for name in WORKLOADS}
        busy = _measure(chosen.folder, answers, chosen.rounds, chosen.requests)
        text = _page(chosen.folder, answers, profile, chosen.rounds, chosen.requests, busy)
        print(text)
        if marked is not None:
            marked.put(text)
    except (UserError, RunFailedError) as error:
        print(f"held_out: {error}.", file=sys.stderr)
        return 1 if isinstance(error, RunFailedError) else 2
    except KeyboardInterrupt:
        print("held_out: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


def _profile(folder: Path) -> FrozenProfile:
    """The link profile of this host, measured once."""
    target = folder / "host.toml"
    if not target.exists():
        place = folder / "host"
        place.mkdir(exist_ok=True)
        with bar("measuring this host", STEPS, "steps") as shown:
            busy = measure_here(place, shown.step)
        fit_here(place, busy, out=target, base="tcp-loopback", seed=0, command="tools/held_out.py")
    return freeze(target)


def _answer(folder: Path, name: str) -> dict[str, Any]:
    """What `bufferlab tune` says for a workload, as its --json has it."""
    settings = [
        *WORKLOADS[name],
        f"link.profile={folder.resolve() / 'host.toml'}",
        f"workload.requests={TUNED_REQUESTS}",
    ]
    command = [
        sys.executable, "-m", "bufferlab", "tune", EXAMPLE, "--json", "--no-plots", "--objective", OBJECTIVE,
        "--out", str(folder / "tune" / _slug(name)),
        *(part for one in settings for part in ("--set", one)),
        *(part for one in SPACE for part in ("--space", one)),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=Path.cwd(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailedError(f"tune of {name}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _slug(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def _settings(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"recommended": {**TODAY, **answer["recommendation"]}, "8192": TODAY}


def _run_folder(folder: Path, name: str, setting: str, number: int) -> Path:
    return folder / "runs" / _slug(name) / setting / f"{number:02d}"


def _measure(folder: Path, answers: dict[str, dict[str, Any]], rounds: int, requests: int) -> str:
    """Measure what is missing, in each round in an order drawn anew; say what others did with the processors."""
    plan = [(name, setting) for name, answer in answers.items() for setting in _settings(answer)]
    watch, measured = BusyWatch(), False
    with bar("measuring", len(plan) * rounds, "runs") as shown:
        for number in range(rounds):
            for place in stream(0, number, "held-out-order").permutation(len(plan)):
                name, setting = plan[place]
                target = _run_folder(folder, name, setting, number)
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    fields = _settings(answers[name])[setting]
                    common = [*WORKLOADS[name], f"workload.requests={requests}", f"run.seed={100 + number}"]
                    measured = True
                    run_measured(load(EXAMPLE, [*common, *(as_override(*one) for one in fields.items())]), target)
                shown.step(f"{name}, {setting}")
    so_far, kept = watch.so_far(), folder / "busy.txt"
    if measured:
        said = f"but {so_far}" if so_far.too_busy else "nobody else used the processors"
        with disk_errors(kept):
            write_text(kept, said)
    return kept.read_text(encoding="utf-8")


def _compare(folder: Path, name: str, profile: FrozenProfile, rounds: int) -> dict[str, Compared]:
    """Every figure's difference, from the requests that were delivered in both worlds."""
    sides: dict[str, list[tuple[Any, Any]]] = {}
    for setting in ("recommended", "8192"):
        runs = [StoredRun(_run_folder(folder, name, setting, number)) for number in range(rounds)]
        sides[setting] = [next(iter(pair_run(run, profile))).latencies_s for run in runs]
    found = {}
    for figure, statistic in FIGURES.items():
        measured, predicted = (
            across_replications(
                [
                    statistic(today[side]) - statistic(best[side])
                    for today, best in zip(sides["8192"], sides["recommended"], strict=True)
                ]
            )
            for side in (0, 1)
        )
        found[figure] = Compared(predicted, measured)
    return found


def _page(
    folder: Path, answers: dict[str, dict[str, Any]], profile: FrozenProfile, rounds: int, requests: int, busy: str
) -> str:
    host = describe_host()
    lines = [
        f"{datetime.datetime.now(datetime.UTC):%d %B %Y}, {host['cpu']}, {host['cpus']} cores; {rounds} rounds of "
        f"{requests} requests; {busy}.",
        "",
        "| workload | recommended | figure | 8,192 less the recommendation, predicted, ms | measured, ms |",
        "|---|---|---|--:|--:|",
    ]
    signs = told = 0
    for name, answer in answers.items():
        for figure, one in _compare(folder, name, profile, rounds).items():
            signs += ((one.predicted["value"] or 0.0) > 0) == ((one.measured["value"] or 0.0) > 0)
            told += all(_told(side) for side in one)
            lines.append(
                f"| {name} | {_fields(answer)} | {figure} | {_shown(one.predicted)} | {_shown(one.measured)} |"
            )
    count = len(answers) * len(FIGURES)
    return "\n".join(
        [
            *lines,
            "",
            f"Prediction and measurement have the same sign in {signs} of {count} figures; in {told} both leave out 0.",
        ]
    )


def _fields(answer: dict[str, Any]) -> str:
    """What there was to choose."""
    fields = {field: value for field, value in answer["recommendation"].items() if len(answer["space"][field]) > 1}
    return ", ".join(f"`{field}={value}`" for field, value in fields.items())


def _told(one: Estimate) -> bool:
    """Whether the interval leaves out 0."""
    low, high = one["low"] or 0.0, one["high"] or 0.0
    return low > 0 or high < 0


def _shown(one: Estimate) -> str:
    value, low, high = one["value"], one["low"], one["high"]
    if value is None or low is None or high is None:
        return "–"
    return f"{1e3 * value:+.1f} ({1e3 * low:+.1f} .. {1e3 * high:+.1f})"


if __name__ == "__main__":
    sys.exit(main())
