"""``bufferlab compare``: the histories of two runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bufferlab.experiments.commands.common.exits import CHECK_FAILED, DONE
from bufferlab.experiments.commands.common.options import JsonOption
from bufferlab.experiments.commands.common.output import print_json
from bufferlab.experiments.commands.common.registry import command

if TYPE_CHECKING:
    from bufferlab.experiments.runs.rundir import StoredRun

SHOWN_DIFFERENCES = 20


@command(place=50, example="bufferlab compare runs/sim-run runs/real-run")
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="Another one, usually of the other kind.")],
    timeline: Annotated[
        Path | None,
        typer.Option(
            "--timeline",
            metavar="FILE.json",
            help="Write both runs' first replication as one trace, simulated above measured, which Perfetto opens.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Whether two runs have the same history of every room on every rank; exit status 1 if they differ."""
    from bufferlab.experiments.progress import bar
    from bufferlab.experiments.runs.equality import compare_runs
    from bufferlab.experiments.runs.rundir import count_records

    if timeline is not None:
        from bufferlab.experiments.figures.timeline import check_timeline

        check_timeline(timeline, "--timeline")
    with bar("compare", count_records(first, second), "events") as shown:
        result = compare_runs(first, second, progress=shown.add)
    drawn = None if timeline is None else _draw(timeline, first, second)
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
        if drawn is not None:
            print(drawn)
    raise typer.Exit(DONE if result["equal"] else CHECK_FAILED)


def _draw(path: Path, first: Path, second: Path) -> str:
    """Write the timeline of two runs; a line that says what it shows and how to open it."""
    from bufferlab.experiments.figures.timeline import HOW_TO_OPEN, runs_timeline, write_timeline
    from bufferlab.experiments.files import Claim, disk_errors
    from bufferlab.experiments.runs.rundir import StoredRun

    made = runs_timeline([StoredRun(first), StoredRun(second)])
    with Claim(path, "--timeline"), disk_errors(path):
        write_timeline(made, path)
    notes = [made.note] if made.note else []
    notes += _misfits(StoredRun(first), StoredRun(second))
    return "\n".join([*notes, f"timeline: {path}; {HOW_TO_OPEN}"])


def _misfits(first: StoredRun, second: StoredRun) -> list[str]:
    """Why the times of a simulated run cannot be those of the measured one that is drawn below it."""
    from bufferlab.experiments.validation.frozen import freeze
    from bufferlab.experiments.validation.lacks import lacks

    simulated, measured = sorted((first, second), key=lambda run: run.kind != "sim")
    if (simulated.kind, measured.kind) != ("sim", "real"):
        return []
    profile = simulated.config.link.profile
    return [f"{simulated.path} was simulated with {profile}: {one}" for one in lacks(measured, freeze(profile))]
