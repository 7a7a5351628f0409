"""Measures the validation campaign on this machine, predicts it, and scores the prediction.

    python tools/campaign.py FOLDER [--rounds 9] [--cases NAMES] [--page FILE] [--only-score]
    python tools/campaign.py --rescore --page FILE

About 17 minutes on a machine with two cores, which should do nothing else meanwhile. An interrupted campaign goes on
where it stopped. FOLDER/runs has the run directories, FOLDER/profile.toml the link profile that was fitted to the
calibrating ones, FOLDER/validation everything that `bufferlab validate` writes for the others. --page puts the tables,
with the date and the machine, between the marks of a page, and beside it the figure of the errors, the scores of all
cases (.csv) and the figures of every single run (-rounds.csv).

--rescore measures and predicts nothing: it judges the figures of every round anew that stand beside the page.

Exit status: 0, 1 when something cannot be measured or fitted, 2 for bad input, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import io
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec import structs

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bufferlab.experiments.calibration.command import calibrate
from bufferlab.experiments.calibration.here import CALIBRATING, run_folder
from bufferlab.experiments.errors import RunFailedError, UserError
from bufferlab.experiments.figures.pages import MarkedPage, check_place
from bufferlab.experiments.figures.style import save
from bufferlab.experiments.files import disk_errors, write_atomically, write_bytes, write_text
from bufferlab.experiments.progress import bar
from bufferlab.experiments.runs.environment import describe_host
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.stats.intervals import quantile
from bufferlab.experiments.validation import (
    CaseScore,
    Decision,
    FrozenProfile,
    decide,
    freeze,
    score_case,
    write_report,
)
from bufferlab.experiments.validation.campaign import (
    PROFILE,
    RATES,
    calibration_runs,
    chosen_cases,
    cpu_usage_runs,
    measure,
)
from bufferlab.experiments.validation.figures import bias_figure
from bufferlab.experiments.validation.pairing import pair_run
from bufferlab.experiments.validation.rescoring import (
    BARRED,
    case_table,
    choice_table,
    choices_from,
    count_line,
    read_rounds,
    replaced,
    rescored,
    rows_of,
)
from bufferlab.experiments.validation.scores import LATENCY_FIGURES
from bufferlab.experiments.validation.tolerances import TOLERANCES
from bufferlab.sim.host.costs import HostCosts

FIGURES = ("p50", "p99", "throughput")
ON_LARGER_HOSTS = ("default-1024", "load-high", "ranks-1x2", "ranks-2x2")
"""Cases of which the page says what more processors would do."""
BEGIN, END = "<!-- campaign: begin -->\n", "\n<!-- campaign: end -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, fit, predict, score, write."""
    parser = argparse.ArgumentParser(prog="campaign", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=9, help="of every case")
    parser.add_argument("--cases", default="", metavar="NAMES", help="only cases whose names begin so, comma-separated")
    parser.add_argument("--page", type=Path, help="put the tables between the marks of this file")
    parser.add_argument("--only-score", action="store_true", help="measure nothing")
    parser.add_argument("--rescore", action="store_true", help="only judge the rounds beside the page anew")
    chosen = parser.parse_args(arguments)
    if chosen.rescore:
        return rescore(parser, chosen.page)
    if chosen.folder is None:
        parser.error("FOLDER is missing")
    try:
        if chosen.rounds < 2:
            raise UserError(f"--rounds is {chosen.rounds}, it must be at least 2")
        cases = chosen_cases(chosen.cases)
        marked = None if chosen.page is None else MarkedPage(chosen.page, BEGIN, END, "--page")
        if marked is not None:
            marked.check()
            for beside in beside_page(chosen.page):
                check_place(beside, "the file beside --page")
        check_folder(chosen.folder, only_score=chosen.only_score)
        if not chosen.only_score:
            total = (len(CALIBRATING) + len(cases)) * chosen.rounds
            with bar("measure", total, "runs") as shown:
                measure(chosen.folder, cases, chosen.rounds, shown.step)
        profile = fitted(chosen.folder, chosen.rounds)
        scores = []
        with bar("score", len(cases), "cases") as shown:
            for one in cases:
                runs = [run_folder(chosen.folder, one.name, number) for number in range(chosen.rounds)]
                scores.append(score_case(runs, profile))
                shown.step(one.name)
        decision = decide(scores)
        shutil.rmtree(chosen.folder / "validation", ignore_errors=True)
        write_report(scores, decision, profile, chosen.folder / "validation")
        tables = page(chosen.folder, scores, decision, profile, chosen.rounds)
        tables += larger_hosts(chosen.folder, scores, profile, chosen.rounds)
        tables += all_reduces(chosen.folder, [case.name for case in scores], chosen.rounds)
        print(tables)
        if marked is not None:
            marked.put(tables)
            png, csv_file, rounds_file = beside_page(chosen.page)
            copy_whole(chosen.folder / "validation" / "figures" / "errors.png", png)
            copy_whole(chosen.folder / "validation" / "cases.csv", csv_file)
            write_rounds(scores, rounds_file)
    except UserError as error:
        print(f"campaign: {error}.", file=sys.stderr)
        return 2
    except RunFailedError as error:
        print(f"campaign: {error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("campaign: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


def beside_page(page: Path) -> tuple[Path, Path, Path]:
    """The figure of a page, the table of its cases, and that of all rounds."""
    return page.with_suffix(".png"), page.with_suffix(".csv"), page.with_name(f"{page.stem}-rounds.csv")


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all."""
    with disk_errors(target):
        write_bytes(target, source.read_bytes())


def check_folder(folder: Path, *, only_score: bool) -> None:
    """Raise UserError where nothing can be kept, or where what was measured shall be scored and there is nothing."""
    where = f"FOLDER is {str(folder)!r}"
    if only_score and not (folder / RATES).is_file():
        raise UserError(f"{where}, which holds no campaign to score; leave out --only-score to measure one")
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"{where}, it must be a folder that can be written")


def rescore(parser: argparse.ArgumentParser, target: Path | None) -> int:
    """Judge the rounds beside a page anew: its tables of cases and choices, the verdicts of its CSV, its figure."""
    if target is None:
        parser.error("--rescore needs --page")
    try:
        cases, rounds = read_rounds(target)
        rows = rescored(cases, rounds)
        text = target.read_text(encoding="utf-8")
        text = re.sub(r"\nOf \d+ figures: [^\n]*\n", "", text)
        text = replaced(text, "| case |", [*case_table(rows), "", count_line(rows)])
        text = replaced(text, "| setting |", choice_table(choices_from(cases, rounds)))
    except (UserError, OSError, ValueError) as error:
        print(f"campaign: {error}.", file=sys.stderr)
        return 2
    for case in cases:
        for name, one in rows[case["case"]].items():
            case |= {
                f"{name}_bias_low": str(one.bias["low"]), f"{name}_bias_high": str(one.bias["high"]),
                f"{name}_verdict": one.verdict or "",
            }  # fmt: skip
    names = [name.replace("_allowed", "_tolerance") for name in cases[0]]
    figure, cases_file, _ = beside_page(target)
    made = io.StringIO(newline="")
    table = csv.writer(made, lineterminator="\n")
    table.writerow(names)
    for case in cases:
        for name in BARRED:
            tolerance_name = next(one for one in (f"{name}_allowed", f"{name}_tolerance") if one in case)
            case[tolerance_name] = str(TOLERANCES[name])
        table.writerow(case.values())
    try:
        with disk_errors(target):
            write_text(cases_file, made.getvalue())
            write_text(target, text)
        save(bias_figure(rows), figure)
    except RunFailedError as error:
        print(f"campaign: {error}.", file=sys.stderr)
        return 1
    print(count_line(rows))
    return 0


def fitted(folder: Path, rounds: int) -> FrozenProfile:
    """The profile of this machine, fitted once."""
    path = folder / PROFILE
    if not path.exists():
        # Where the kernel does not count the time of threads there is no CPU usage, and every thread has a processor.
        usages = [run for run in cpu_usage_runs(folder, rounds) if StoredRun(run).usage]
        calibrate(calibration_runs(folder, rounds), usages=usages, out=path, command="tools/campaign.py")
    return freeze(path)


# --- the page ---


def page(
    folder: Path,
    scores: Sequence[CaseScore],
    decision: Decision,
    profile: FrozenProfile,
    rounds: int,
) -> str:
    """The tables in Markdown."""
    host = describe_host()
    rates = json.loads((folder / RATES).read_text(encoding="utf-8"))
    link = profile.link
    lines = [
        f"{datetime.datetime.now(datetime.UTC):%d %B %Y}, {host['cpu']}, {host['cpus']} cores; {rounds} rounds. A "
        f"closed loop of 16 requests reached {rates['capacity_rps']:.1f} a second; low, medium and high load are "
        f"{rates['low']:.1f}, {rates['medium']:.1f} and {rates['high']:.1f}.",
        "",
        f"Profile: latency {1e6 * link.latency_s:.0f} µs, {1e6 * link.per_segment_s:.1f} µs a segment, "
        f"{link.bandwidth_Bps / 1e9:.2f} GB/s, control message {1e6 * link.control_latency_s:.0f} µs, copies "
        f"{link.copy_bandwidth_Bps / 1e9:.1f} GB/s.",
        *host_line(link.host),
        "",
        *case_table(rows_of(scores)),
        "",
        count_line(rows_of(scores)),
        "",
        *choice_table(decision),
    ]
    return "\n".join(lines)


def host_line(host: HostCosts | None) -> list[str]:
    """What the software costs the processors, in words."""
    if host is None:
        return []
    return [
        "",
        f"Processors: an input or an iteration takes {1e6 * host.input_s:.0f} µs of one, a message "
        f"{1e6 * host.message_s:.0f}, a command {1e6 * host.command_s:.0f}; a write keeps {host.write_processors:.2f} "
        f"busy, an all-reduce {host.collective_processors:.2f} on each rank for "
        f"{1e6 * host.collective_s(0.5):.0f} µs (median; {1e3 * host.collective_s(0.9):.1f} ms at 90 %).",
    ]


def larger_hosts(folder: Path, scores: Sequence[CaseScore], profile: FrozenProfile, rounds: int) -> str:
    """What the same software would do with more processors: predicted, in Markdown."""
    host = profile.link.host
    chosen = [case.name for case in scores if case.name in ON_LARGER_HOSTS]
    if host is None or not chosen:
        return ""
    counts = [host.processors * factor for factor in (1, 2, 4)] + [math.inf]
    heads = [f"{count:g} processors" if math.isfinite(count) else "enough" for count in counts]
    lines = ["", "", f"| predicted p50 / p99, ms | {' | '.join(heads)} |", "|---|" + "--:|" * len(counts)]
    for name in chosen:
        columns = []
        for count in counts:
            larger = structs.replace(profile.link, host=structs.replace(host, processors=count))
            runs = [run_folder(folder, name, number) for number in range(rounds)]
            values = predicted_figures(runs, dataclasses.replace(profile, link=larger))
            columns.append(f"{values['p50']:.3g} / {values['p99']:.3g}")
        lines.append(f"| {name} | {' | '.join(columns)} |")
    return "\n".join(lines)


def all_reduces(folder: Path, names: Sequence[str], rounds: int) -> str:
    """How long the groups' all-reduces took where they were measured, and what gloo spent on them, in Markdown."""
    lines = []
    for name in (*(planned.name for planned in CALIBRATING), *names):
        runs = [StoredRun(run_folder(folder, name, number)) for number in range(rounds)]
        ranks = [one for run in runs for usage in run.usage for one in usage.values() if one["collectives"]]
        if ranks:
            steps = np.array([one["collective_quantiles_s"] for one in ranks])
            lasts_s = float(np.mean((steps[:, 1:] + steps[:, :-1]) / 2))
            spent_s = float(np.mean([one["collective_cpu_s"] / one["collectives"] for one in ranks]))
            lines.append(f"| {name} | {1e3 * lasts_s:.2f} | {1e3 * spent_s:.2f} |")
    head = ["", "", "| all-reduces, measured | mean, ms | gloo's processor time, ms |", "|---|--:|--:|"]
    return "\n".join([*head, *lines]) if lines else ""


def predicted_figures(runs: Sequence[Path], profile: FrozenProfile) -> dict[str, float]:
    """p50 and p99 of what is predicted for these runs' requests, in ms: means over the runs."""
    latencies_s = [repeat.latencies_s[1] for run in runs for repeat in pair_run(StoredRun(run), profile)]
    return {
        name: 1e3 * float(np.mean([quantile(share)(one) for one in latencies_s]))
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }


def write_rounds(scores: Sequence[CaseScore], path: Path) -> None:
    """What was measured in every round of every case, and what was predicted for it, as a table."""
    with disk_errors(path), write_atomically(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["case", "round", "requests", "figure", "measured", "predicted"])
        for case in scores:
            for number, repeat in enumerate(case.repeats):
                sides = repeat.latencies_s
                for name, statistic in LATENCY_FIGURES.items():
                    values = [f"{statistic(side):.6g}" for side in sides]
                    table.writerow([case.name, number, len(sides[0]), f"{name}_s", *values])


if __name__ == "__main__":
    sys.exit(main())
