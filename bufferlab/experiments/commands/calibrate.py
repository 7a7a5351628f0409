"""``bufferlab calibrate``: from measurements to a link profile."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from bufferlab.experiments.commands.common.options import JsonOption
from bufferlab.experiments.commands.common.output import tell
from bufferlab.experiments.commands.common.registry import command
from bufferlab.experiments.commands.common.unused import refuse_unused


@command(place=80, example="bufferlab calibrate runs/bench-link --out my-link.toml")
def calibrate(
    context: typer.Context,
    measurements: Annotated[
        list[Path] | None,
        typer.Argument(metavar="MEASUREMENTS…", help="CSV tables, bench-link output, or run directories."),
    ] = None,
    here: Annotated[
        bool, typer.Option("--here", help="Measure this host first, about half a minute, and fit what was measured.")
    ] = False,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="DIR", help="With --here: a new folder in which the measured runs stay."),
    ] = None,
    holdout: Annotated[
        str, typer.Option("--holdout", metavar="odd|even|none", help="Rows of each table to predict and not to fit.")
    ] = "none",
    tables: Annotated[
        list[str] | None, typer.Option("--table", metavar="NAME", help="Fit only this table; several may be given.")
    ] = None,
    predicted: Annotated[
        list[str] | None, typer.Option("--predict", metavar="NAME", help="Predict this table from the fitted ones.")
    ] = None,
    cpu_usage: Annotated[
        list[Path] | None,
        typer.Option(
            "--cpu-usage", metavar="RUN", help="A run that only says what processors do; several may be given."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PROFILE.toml", help="Write one profile for all that is fitted.")
    ] = None,
    base: Annotated[
        str, typer.Option("--base", metavar="PROFILE", help="Where a profile takes what was not measured from.")
    ] = "tcp-loopback",
    seed: Annotated[int, typer.Option("--seed", metavar="NUMBER", help="Of the residuals drawn for intervals.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Fits the link, and the software around it, to measurements; writes a profile with its uncertainties."""
    from bufferlab.experiments.calibration.command import calibrate as fit_measurements
    from bufferlab.experiments.calibration.profiles import NoProfileError
    from bufferlab.experiments.calibration.report import report_text
    from bufferlab.experiments.errors import UserError
    from bufferlab.experiments.progress import bar

    if out is None:
        refuse_unused(context, {"--base"}, "without --out: it is where the profile takes what was not measured from")
    if here:
        given = {"MEASUREMENTS": measurements, "--table": tables, "--predict": predicted, "--cpu-usage": cpu_usage}
        for name, value in given.items():
            if value:
                raise UserError(f"{name} is given with --here, which measures all that it fits")
        if holdout != "none":
            raise UserError(f"--holdout is {holdout!r}, with --here it must be none")
        _calibrate_here(out, keep, base, seed, as_json=as_json)
        return
    if keep is not None:
        raise UserError("--keep is given without --here, it is for the runs that --here measures")
    if not measurements:
        raise UserError("MEASUREMENTS are missing; to measure this host now: bufferlab calibrate --here --out my.toml")
    try:
        with bar("calibrate", len(measurements), "steps") as shown:
            result = fit_measurements(
                measurements, holdout=holdout, tables=tables or (), predicted=predicted or (),
                usages=cpu_usage or (), out=out, base=base, seed=seed,
                command=shlex.join(["bufferlab", *sys.argv[1:]]), more=shown.more, progress=shown.step,
            )  # fmt: skip
    except NoProfileError as error:
        tell(error.report, "" if as_json else report_text(error.report), as_json=as_json)
        raise
    tell(result, "" if as_json else report_text(result), as_json=as_json)


def _calibrate_here(out: Path | None, keep: Path | None, base: str, seed: int, *, as_json: bool) -> None:
    from bufferlab.experiments.calibration.here import STEPS, calibrate_here
    from bufferlab.experiments.calibration.profiles import NoProfileError
    from bufferlab.experiments.calibration.report import report_text
    from bufferlab.experiments.progress import bar

    try:
        with bar("measuring this host", STEPS, "steps") as shown:
            result = calibrate_here(
                out=out, keep=keep, base=base, seed=seed, command=shlex.join(["bufferlab", *sys.argv[1:]]),
                progress=shown.step,
            )  # fmt: skip
    except NoProfileError as error:
        tell(error.report, "" if as_json else report_text(error.report), as_json=as_json)
        raise
    tell(result, "" if as_json else report_text(result), as_json=as_json)
