"""``bufferlab demo``: the shortest way to see both worlds side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bufferlab.experiments.commands.common.exits import CHECK_FAILED, DONE
from bufferlab.experiments.commands.common.options import DryRunOption, JsonOption
from bufferlab.experiments.commands.common.output import print_json, stdout_kept_for_json, tell_plan
from bufferlab.experiments.commands.common.registry import command

QUICK_REQUESTS, QUICK_DEFAULTS, QUICK_ROUNDS = 40, (512, 1024, 4096), 2


@command(place=10, example="bufferlab demo")
def demo(
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="A new folder for the runs. [default: runs/demo]")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer requests, buffer sizes and repeats.")] = False,
    profile: Annotated[
        str | None,
        typer.Option("--profile", metavar="PROFILE", help="The profile that predicts. [default: measure this host]"),
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """The seed's scenarios in both worlds, and a small mixed workload: predicted, then measured over Mooncake."""
    from bufferlab.experiments.commands.demonstration.both_worlds import run_demo
    from bufferlab.experiments.files import free_name

    target = free_name(Path("runs/demo")) if out is None else out
    if dry_run:
        from bufferlab.experiments.commands.demonstration.both_worlds import DEFAULTS, REQUESTS, ROUNDS
        from bufferlab.experiments.commands.planning.plans import plan_of_demo

        requests, rounds = (QUICK_REQUESTS, QUICK_ROUNDS) if quick else (REQUESTS, ROUNDS)
        plan = plan_of_demo(target, requests, rounds, QUICK_DEFAULTS if quick else DEFAULTS, profile)
        tell_plan(plan, as_json=as_json)
        return
    with stdout_kept_for_json(as_json):
        if quick:
            result = run_demo(
                target, requests=QUICK_REQUESTS, defaults=QUICK_DEFAULTS, rounds=QUICK_ROUNDS, profile=profile
            )
        else:
            result = run_demo(target, profile=profile)
    if as_json:
        print_json(result)
    raise typer.Exit(DONE if result.get("passed", True) else CHECK_FAILED)
