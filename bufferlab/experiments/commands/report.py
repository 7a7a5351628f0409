"""``bufferlab report``: one HTML file about what was run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bufferlab.experiments.commands.common.options import JsonOption
from bufferlab.experiments.commands.common.output import tell
from bufferlab.experiments.commands.common.registry import command


@command(place=95, example="bufferlab report runs/my-sweep")
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN…", help="Directories of runs, sweeps, validations or tunings."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.html", help="The file to write. [default: RUN.report.html beside it]"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """One self-contained HTML file about runs: the answer in words, tables, figures, and how to repeat them."""
    from bufferlab.experiments.starting import load_numpy

    load_numpy()
    from bufferlab.experiments.reports.command import write_report

    written = write_report(runs, out)
    tell(written.content(), written.told, as_json=as_json)
