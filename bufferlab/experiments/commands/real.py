"""``bufferlab real``: one configuration between real processes, all on this host or one rank of a run on several."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bufferlab.experiments.commands.common.options import (
    DryRunOption,
    EventsOption,
    ForceOption,
    JsonOption,
    OutOption,
    PlotsOption,
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
from bufferlab.experiments.commands.common.unused import refuse_unused
from bufferlab.experiments.options import transport_names, transports_with_devices, unused_device

if TYPE_CHECKING:
    from bufferlab.experiments.config.schema import Config


@command(
    place=30,
    example="bufferlab real seed-resume",
    note="On several hosts: docs/several-hosts.md.",
    names={"--transport": transport_names},
)
def real(
    context: typer.Context,
    config: Annotated[
        str | None, typer.Argument(metavar="CONFIG", help="As for sim; not needed with --role.", show_default=False)
    ] = None,
    transport: Annotated[str | None, typer.Option("--transport", help="Overrides real.transport.")] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="Overrides real.device; with --role for this rank.")
    ] = None,
    bootstrap: Annotated[
        str | None,
        typer.Option(
            "--bootstrap",
            metavar="HOST:PORT",
            help="Several hosts: where the coordinator, which is the process without --role, waits for its ranks.",
        ),
    ] = None,
    role: Annotated[
        str | None, typer.Option("--role", metavar="encode|language", help="Be one rank of this side of the run.")
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option("--rank", metavar="N", help="Which one, over all instances of its side: instance × tp + rank."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--host", metavar="ADDRESS", help="This rank's own address. [default: that towards the coordinator]"
        ),
    ] = None,
    wait_s: Annotated[
        float | None,
        typer.Option(
            "--wait", metavar="SECONDS", help="How long to wait at --bootstrap for those not yet there. [default: 60]"
        ),
    ] = None,
    token: Annotated[
        Path | None,
        typer.Option(
            "--token",
            metavar="FILE",
            help="The run's token, without which nobody is listened to; the coordinator makes a new one.",
        ),
    ] = None,
    expose: Annotated[
        bool,
        typer.Option("--expose", help="Let other hosts reach the ports of the sglang wire, which know no token."),
    ] = False,
    out: OutOption = None,
    settings: SetOption = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    plots: PlotsOption = True,
    events: EventsOption = True,
    timeline: TimelineOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """The same configuration over a real transport, a process a rank: all on this host, or each where it is started."""
    from bufferlab.experiments.errors import UserError
    from bufferlab.experiments.runs.backend import warm_up
    from bufferlab.experiments.runs.hosts import WAIT_S, Meeting, Part, take_part

    is_rank = any(one is not None for one in (role, rank, host))
    if bootstrap is None and (is_rank or wait_s is not None or token is not None or expose):
        raise UserError(
            "--role, --rank, --host, --wait, --token and --expose are for several hosts, they need --bootstrap"
        )
    meeting = None
    if bootstrap is not None:
        meeting = Meeting(bootstrap, WAIT_S if wait_s is None else wait_s, token, expose)
    overrides = list(settings or ())
    # As TOML strings, so that a device called 1 stays a name.
    overrides += [f"real.transport={json.dumps(transport)}"] if transport is not None else []
    if meeting is not None and is_rank:
        if role is None or rank is None:
            raise UserError("--role and --rank must both be given for a rank")
        if expose:
            raise UserError("--expose is not allowed with --role: the coordinator decides it")
        if out is not None or force or as_json:
            raise UserError("--out, --force and --json are not allowed with --role: the coordinator writes the run")
        refuse_unused(
            context,
            {"--no-plots", "--plots", "--no-events", "--events", "--timeline", "--dry-run"},
            "with --role: give it to the coordinator, who writes the run",
        )
        if config is None and (overrides or seed is not None):
            raise UserError("--set, --seed and --transport are not allowed with --role unless CONFIG is given, too")
        own = None if config is None else _own_configuration(config, overrides, seed, device or "")
        part = Part(role=role, number=rank, host=host, device=device or "")
        take_part(own, meeting, part, lambda line: print(line, file=sys.stderr))
        return
    if config is None:
        raise UserError("CONFIG is missing, only a rank with --role needs none")
    refuse_force_without_out(context, out)
    refuse_timeline_without_events(timeline=timeline, events=events)
    asked = _asked_for(config, overrides, seed, device, expose=expose)
    if dry_run:
        from bufferlab.experiments.commands.planning.plans import plan_of_run

        tell_plan(plan_of_run("real", asked, out, force=force, here=meeting is None), as_json=as_json)
        return
    if meeting is None:
        warm_up()  # while what follows is imported here
    from bufferlab.experiments.figures.directory import drawing
    from bufferlab.experiments.runs.measure import run_measured

    execute = functools.partial(
        run_measured, meeting=meeting, events=events, draw=drawing(plots=plots, timeline=timeline)
    )
    run_into_directory("real", execute, asked, out, force=force, as_json=as_json, timeline=timeline)


def _own_configuration(source: str, overrides: list[str], seed: str | None, device: str) -> Config:
    """The configuration that a rank is started with: it must be the run's, and its device must have an effect."""
    from bufferlab.experiments.errors import UserError

    own = load_config(source, overrides, seed, measured=True)
    if wrong := unused_device("--device", device, own.real.transport):
        raise UserError(wrong)
    return own


def _asked_for(source: str, overrides: list[str], seed: str | None, device: str | None, *, expose: bool) -> Config:
    """The configuration of the whole run, for which the options must have an effect."""
    from bufferlab.experiments.errors import UserError

    overrides = overrides + ([f"real.device={json.dumps(device)}"] if device is not None else [])
    asked = load_config(source, overrides, seed, measured=True)
    option = "real.device" if device is None else "--device"
    if wrong := unused_device(option, asked.real.device, asked.real.transport):
        raise UserError(f"{wrong}; give --transport {transports_with_devices()}, or leave the device out")
    if expose and asked.protocol.wire != "sglang":
        raise UserError(
            f"--expose has no effect with protocol.wire = {asked.protocol.wire!r}, whose ports know the run's token; "
            "it is for 'sglang'"
        )
    return asked
