"""``bufferlab compare``: the histories of two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bufferlab.experiments.commands.common.exits import CHECK_FAILED, DONE
from bufferlab.experiments.commands.common.options import JsonOption
from bufferlab.experiments.commands.common.output import print_json
from bufferlab.experiments.commands.common.registry import command

SHOWN_DIFFERENCES = 20


@command(place=50, example="bufferlab compare runs/sim-run runs/real-run")
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="Another one, usually of the other kind.")],
    as_json: JsonOption = False,
) -> None:
    """Whether two runs have the same history of every room on every rank; exit status 1 if they differ."""
    from bufferlab.experiments.progress import bar
    from bufferlab.experiments.runs.equality import compare_runs
    from bufferlab.experiments.runs.rundir import count_records

    with bar("compare", count_records(first, second), "events") as shown:
        result = compare_runs(first, second, progress=shown.add)
    if as_json:
        print_json(result)
    else:
        lines = result["differences"]
        for line in lines[:SHOWN_DIFFERENCES]:
            print(line)
        if len(lines) > SHOWN_DIFFERENCES:
            print(f"and {len(lines) - SHOWN_DIFFERENCES} more")
        for note in result["notes"]:
            print(note)
        print(f"{result['histories']} histories compared, {len(lines)} different")
    raise typer.Exit(DONE if result["equal"] else CHECK_FAILED)
