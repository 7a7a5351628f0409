"""``bufferlab validate``: how far predictions are off what was measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bufferlab.experiments.commands.common.exits import CHECK_FAILED, DONE
from bufferlab.experiments.commands.common.options import DryRunOption, JsonOption
from bufferlab.experiments.commands.common.output import tell, tell_plan
from bufferlab.experiments.commands.common.registry import command


@command(place=90, example="bufferlab validate runs/real-1 runs/real-2 --profile my-link.toml --out runs/validation")
def validate(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN…", help="Measured run directories; those of one configuration are repeats."),
    ],
    profile: Annotated[
        str,
        typer.Option("--profile", metavar="PROFILE", help="The link profile that predicts: a name or a .toml file."),
    ],
    max_error: Annotated[
        str | None,
        typer.Option("--max-error", metavar="p50=0.05,…", help="Fail where a figure is off these tolerances."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="A new folder for validation.json, cases.csv, figures.")
    ] = None,
    stages: Annotated[
        bool, typer.Option("--stages", help="Print where the time of a request goes, stage by stage.")
    ] = False,
    timelines: Annotated[
        bool, typer.Option("--timeline", help="Write a trace per case, simulated above measured, which Perfetto opens.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", metavar="NUMBER", help="Of the resamples behind intervals.")] = 0,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Predicts measured runs with a frozen link profile and scores the prediction beside the measurement's noise."""
    from bufferlab.experiments.progress import bar
    from bufferlab.experiments.validation.command import check_options
    from bufferlab.experiments.validation.command import validate as validate_runs

    if dry_run:
        from bufferlab.experiments.commands.planning.plans import plan_of_validation

        check_options(max_error=max_error, out=out, timelines=timelines, seed=seed)
        tell_plan(plan_of_validation(runs, profile, out), as_json=as_json)
        return
    with bar("validate", len(runs), "runs") as shown:
        result = validate_runs(
            runs, profile, max_error=max_error, out=out, timelines=timelines, seed=seed, progress=shown.step
        )
    tell(result.content() if as_json else None, "" if as_json else result.text(stages=stages), as_json=as_json)
    if not as_json and out is not None:
        print(f"written to: {out}")
    if as_json and not result.passed:
        for line in result.missed():
            print(line, file=sys.stderr)
    raise typer.Exit(DONE if result.passed else CHECK_FAILED)
