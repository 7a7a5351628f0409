"""``bufferlab workload``: what a workload looks like, and its requests as a file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from bufferlab.experiments.commands.common.options import JsonOption, SeedOption, SetOption
from bufferlab.experiments.commands.common.output import tell
from bufferlab.experiments.commands.common.registry import command
from bufferlab.experiments.commands.common.unused import refuse_unused


@command(place=110, example="bufferlab workload azure-like --buffer 2048 --buffer 8192")
def workload(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE",
            help="A preset, a trace, a file of lengths, a folder of clients or a configuration.",
            show_default=False,
        ),
    ] = None,
    requests: Annotated[
        int | None, typer.Option("--requests", metavar="NUMBER", help="How many. [default: 20000 of a preset]")
    ] = None,
    rate_rps: Annotated[
        float | None, typer.Option("--rate", metavar="RPS", help="Mean arrivals a second. [default: as in the data]")
    ] = None,
    seed: SeedOption = None,
    buffers: Annotated[
        list[int] | None,
        typer.Option("--buffer", metavar="TOKENS", help="A buffer size; several may be given. [default: 1024, 8192]"),
    ] = None,
    replications: Annotated[
        int | None, typer.Option("--replications", metavar="NUMBER", help="Draws behind each interval. [default: 5]")
    ] = None,
    settings: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the requests to this .csv, .csv.gz or .parquet instead."),
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option("--template", metavar="FILE", help="Write a small table to fill: a workload file."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --out or --template.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Describes a workload (lengths, burstiness, share above a buffer size), or writes its requests to a file."""
    from bufferlab.experiments.errors import UserError
    from bufferlab.experiments.progress import bar
    from bufferlab.experiments.workloads import describe
    from bufferlab.experiments.workloads.readers.writing import write_template

    if template is not None:
        if source is not None or out is not None:
            raise UserError("--template writes an example of a workload file, it stands alone")
        unused = {"--requests", "--rate", "--seed", "--buffer", "--replications", "--set"}
        refuse_unused(context, unused, "with --template, which writes the same example of a workload file every time")
        write_template(template, force=force)
        told = f"wrote {template}; fill it, then: bufferlab workload {shlex.quote(str(template))}"
        tell({"path": str(template)}, told, as_json=as_json)
        return
    if source is None:
        raise UserError("Missing argument 'NAME|FILE': it must be a preset, a workload file or a configuration")
    if out is None:
        refuse_unused(context, {"--force"}, "without --out or --template, whose file it lets replace")
    else:
        unused = {"--buffer", "--replications"}
        refuse_unused(context, unused, "with --out, which writes the requests and describes nothing; leave --out out")
    overrides = [*(settings or ()), *([] if seed is None else [f"run.seed={seed}"])]
    config = describe.configure(source, requests=requests, rate_rps=rate_rps, settings=overrides)
    if out is not None:
        written = describe.write(config, out, force=force)
        tell(written, f"wrote {written['requests']} requests to {out}", as_json=as_json)
        return
    with bar("workload", describe.count_draws(config, replications), "draws") as shown:
        described = describe.describe(config, buffers or describe.DEFAULT_BUFFERS, replications, progress=shown.step)
    tell(described, "" if as_json else describe.description_text(config, described), as_json=as_json)
