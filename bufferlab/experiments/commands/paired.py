"""``bufferlab paired``: the differences of two runs of the same requests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bufferlab.experiments.commands.common.options import JsonOption
from bufferlab.experiments.commands.common.output import tell
from bufferlab.experiments.commands.common.registry import command


@command(place=60, example="bufferlab paired runs/tokens-1024 runs/tokens-4096")
def paired(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="Another one, of the same requests.")],
    as_json: JsonOption = False,
) -> None:
    """What a setting changes: the differences of two runs of the same requests, with their intervals."""
    from bufferlab.experiments.progress import bar
    from bufferlab.experiments.runs.paired import compare_paired, paired_text
    from bufferlab.experiments.runs.rundir import count_records

    with bar("paired", count_records(first, second), "events") as shown:
        result = compare_paired(first, second, progress=shown.add)
    tell(result, paired_text(result), as_json=as_json)
