"""Measures the validation campaign on this machine, predicts it, and scores the prediction.

    python tools/campaign.py FOLDER [--rounds 9] [--cells NAMES] [--page FILE] [--only-score]

About 15 minutes on a machine with two cores, which should do nothing else meanwhile. An interrupted campaign goes on
where it stopped. FOLDER/runs has the run directories, FOLDER/profile.toml the link profile that was fitted to the
calibrating ones, FOLDER/validation everything that `bufferlab validate` writes for the others. --page puts the tables,
with the date and the machine, between the marks of a page, and the figure of the errors and
the scores of all cells (.csv) beside it.

Exit status: 0, 1 when something cannot be measured or fitted, 2 for bad input, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.calibration.command import calibrate
from experiments.environment import describe_host
from experiments.errors import RunFailedError, UserError
from experiments.validation import CellScore, Decision, FrozenProfile, decide, freeze, score_cell, write_report
from experiments.validation.campaign import (
    CALIBRATION,
    CALIBRATION_ROUNDS,
    PROFILE,
    RATES,
    calibration_runs,
    chosen_cells,
    measure,
    run_folder,
)

FIGURES = ("p50", "p99", "throughput")
BEGIN, END = "<!-- campaign: begin -->", "<!-- campaign: end -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, fit, predict, score, write."""
    parser = argparse.ArgumentParser(prog="campaign", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=9, help="of every cell")
    parser.add_argument("--cells", default="", metavar="NAMES", help="only cells whose names begin so, comma-separated")
    parser.add_argument("--page", type=Path, help="put the tables between the marks of this file")
    parser.add_argument("--only-score", action="store_true", help="measure nothing")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.rounds < 2:
            raise UserError(f"--rounds is {chosen.rounds}, it must be at least 2")
        cells = chosen_cells(chosen.cells)
        if not chosen.only_score:
            total = len(cells) * chosen.rounds + len(CALIBRATION) * min(CALIBRATION_ROUNDS, chosen.rounds)
            with tqdm(total=total, unit="run", disable=None) as bar:

                def progress(name: str) -> None:
                    bar.set_postfix_str(name)
                    bar.update()

                measure(chosen.folder, cells, chosen.rounds, progress)
        profile = fitted(chosen.folder, chosen.rounds)
        scores = [
            score_cell([run_folder(chosen.folder, one.name, number) for number in range(chosen.rounds)], profile)
            for one in tqdm(cells, unit="cell", disable=None)
        ]
        decision = decide(scores)
        shutil.rmtree(chosen.folder / "validation", ignore_errors=True)
        write_report(scores, decision, profile, chosen.folder / "validation")
    except UserError as error:
        print(f"campaign: {error}.", file=sys.stderr)
        return 2
    except RunFailedError as error:
        print(f"campaign: {error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("campaign: interrupted; the same command goes on", file=sys.stderr)
        return 130
    tables = page(chosen.folder, scores, decision, profile, chosen.rounds)
    print(tables)
    if chosen.page is not None:
        put(chosen.page, tables)
        shutil.copy(chosen.folder / "validation" / "figures" / "errors.png", chosen.page.with_suffix(".png"))
        shutil.copy(chosen.folder / "validation" / "cells.csv", chosen.page.with_suffix(".csv"))
    return 0


def fitted(folder: Path, rounds: int) -> FrozenProfile:
    """The profile of this machine, fitted once."""
    path = folder / PROFILE
    if not path.exists():
        calibrate(calibration_runs(folder, rounds), out=path, command="tools/campaign.py")
    return freeze(path)


# --- the page ---


def page(
    folder: Path,
    scores: Sequence[CellScore],
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
        f"Profile: latency {1e6 * link.latency_s:.0f} µs, {1e6 * link.per_piece_s:.1f} µs a piece, "
        f"{link.bandwidth_Bps / 1e9:.2f} GB/s, control message {1e6 * link.control_latency_s:.0f} µs, copies "
        f"{link.copy_bandwidth_Bps / 1e9:.1f} GB/s.",
        "",
        "| cell | p50, ms | error | noise | p99, ms | error | noise | throughput, /s | error | noise |",
        "|---|" + "--:|" * 9,
    ]
    for cell in scores:
        columns = [cell.name]
        for name in FIGURES:
            figure = next(one for one in cell.scores.figures if one.name == name)
            measured = figure.measured if name == "throughput" else 1e3 * figure.measured
            floor = f"{100 * figure.noise.mean:.1f} %" if figure.noise is not None else "–"
            mark = "" if figure.verdict != "miss" else " **miss**"
            columns += [f"{measured:.3g}", f"{100 * (figure.bias['value'] or 0.0):+.1f} %{mark}", floor]
        lines.append("| " + " | ".join(columns) + " |")
    lines += [
        "",
        "| setting | by | measured best | simulator's choice | regret | noise | Kendall |",
        "|---|---|---|---|--:|--:|--:|",
    ]
    for one in decision.choices:
        noise = "–" if one.noise is None else f"{100 * one.noise:.1f} %"
        rank = "–" if one.kendall is None else f"{one.kendall:.2f}"
        lines.append(
            f"| `{one.setting}` ({len(one.candidates)}) | {one.objective} | {one.best} | {one.picked} | "
            f"{100 * one.regret:.1f} % | {noise} | {rank} |"
        )
    return "\n".join(lines)


def put(path: Path, tables: str) -> None:
    """Replace what is between the marks. Raises ValueError where they are missing."""
    text = path.read_text(encoding="utf-8")
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"{path} lacks the marks {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
