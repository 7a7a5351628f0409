"""``bufferlab doctor``: what is installed and what really works."""

from __future__ import annotations

import sys

import typer

from experiments.commands.common.exits import CHECK_FAILED, DONE
from experiments.commands.common.options import JsonOption
from experiments.commands.common.output import print_json
from experiments.commands.common.registry import command


@command(place=130, example="bufferlab doctor")
def doctor(as_json: JsonOption = False) -> None:
    """What is installed, which transports really work here, and the exact command that mends what is missing."""
    from experiments.runs.diagnosis import examine, report_text

    found = examine(lambda step: print(f"checking {step} ...", file=sys.stderr))
    if as_json:
        print_json(found)
    else:
        print(report_text(found))
    raise typer.Exit(DONE if found["simulator"]["works"] else CHECK_FAILED)
