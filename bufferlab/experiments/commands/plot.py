"""``bufferlab plot``: the pictures of finished directories, drawn again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bufferlab.experiments.commands.common.options import JsonOption
from bufferlab.experiments.commands.common.output import tell
from bufferlab.experiments.commands.common.registry import command


@command(place=96, example="bufferlab plot runs/my-sweep --format svg")
def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Directories of runs, sweeps or tunings.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The folder to write to. [default: plots/ of each RUN]")
    ] = None,
    form: Annotated[str, typer.Option("--format", metavar="png|svg|pdf", help="What to write.")] = "png",
    title: Annotated[
        str | None,
        typer.Option("--title", metavar="TEXT", help='Above every picture; "" for none. [default: what was run]'),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draws again what runs, sweeps and tunings have drawn: in another format, in another place, with a title."""
    from bufferlab.experiments.starting import load_numpy

    load_numpy()
    from bufferlab.experiments.commands.folders.plotting import plot as draw

    made = draw(runs, out=out, form=form, title=title)
    tell({"pictures": [str(path) for path in made]}, "\n".join(map(str, made)) or "nothing to draw", as_json=as_json)
