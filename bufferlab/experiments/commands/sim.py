"""``bufferlab sim``: one configuration on the simulator."""

from __future__ import annotations

import functools

import typer

from bufferlab.experiments.commands.common.options import (
    ConfigArgument,
    DryRunOption,
    EventsOption,
    ForceOption,
    JsonOption,
    OutOption,
    PlotsOption,
    ReplicationsOption,
    SeedOption,
    SetOption,
    TimelineOption,
)
from bufferlab.experiments.commands.common.output import tell_plan
from bufferlab.experiments.commands.common.registry import command
from bufferlab.experiments.commands.common.running import (
    load_config,
    refuse_force_without_out,
    refuse_timeline_without_events,
    run_into_directory,
)


@command(place=20, example="bufferlab sim quickstart --set protocol.sizing.tokens=2048")
def sim(
    context: typer.Context,
    config: ConfigArgument,
    out: OutOption = None,
    settings: SetOption = None,
    replications: ReplicationsOption = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    plots: PlotsOption = True,
    events: EventsOption = True,
    timeline: TimelineOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """One simulated run, with its replications, into a run directory."""
    refuse_force_without_out(context, out)
    refuse_timeline_without_events(timeline=timeline, events=events)
    asked = load_config(config, settings, seed, replications)
    if dry_run:
        from bufferlab.experiments.commands.planning.plans import plan_of_run

        tell_plan(plan_of_run("sim", asked, out, force=force), as_json=as_json)
        return
    from bufferlab.experiments.figures.directory import drawing
    from bufferlab.experiments.runs.simulate import run_sim

    execute = functools.partial(run_sim, events=events, draw=drawing(plots=plots, timeline=timeline))
    run_into_directory("sim", execute, asked, out, force=force, as_json=as_json, timeline=timeline)
