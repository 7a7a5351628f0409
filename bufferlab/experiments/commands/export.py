"""``bufferlab export``: tables of finished directories as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bufferlab.experiments.commands.common.options import JsonOption
from bufferlab.experiments.commands.common.output import print_json
from bufferlab.experiments.commands.common.registry import command


@command(place=97, example="bufferlab export runs/my-run --out requests.csv")
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a run, a sweep or a tuning.")],
    table: Annotated[
        str | None,
        typer.Option(
            "--table",
            metavar="requests|events|runs|quantiles|settings",
            help="requests or events of a run, runs or quantiles of a sweep, settings or runs of a tuning. [default: "
            "the first of them]",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A .csv or .csv.gz file. [default: print the rows]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --out.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Writes the requests or events of a run, the runs of a sweep, or the settings of a tuning as CSV."""
    from bufferlab.experiments.commands.folders.exporting import export as write
    from bufferlab.experiments.errors import UserError

    if out is None and as_json:
        raise UserError("--json needs --out: without it the rows themselves are printed")
    written = write(run, out=out, table=table, force=force)
    content = {"file": str(out), "table": written.table, "rows": written.rows, "columns": list(written.columns)}
    if as_json:
        print_json(content)
    elif out is not None:
        print(f"{written.rows} rows of {written.table} written to {out}")
