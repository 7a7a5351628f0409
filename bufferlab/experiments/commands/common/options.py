"""Arguments and options that mean the same in every command that takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A TOML file, a run directory, or the name of a shipped example.")
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="The run directory to write. [default: runs/NAME-KIND-HASH]"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Overrides any setting; may be given several times."),
]
SeedOption = Annotated[str | None, typer.Option("--seed", metavar="NUMBER", help="Overrides run.seed.")]
ReplicationsOption = Annotated[
    str | None, typer.Option("--replications", metavar="NUMBER", help="Overrides run.replications.")
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs", metavar="NUMBER", help="Runs at once. [default: one a core, fewer where there are few runs]"
    ),
]
ExecutorOption = Annotated[str, typer.Option("--executor", metavar="local|dask", help="Where the runs take place.")]
AddressOption = Annotated[str | None, typer.Option("--address", metavar="HOST:PORT", help="The cluster's scheduler.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace a finished run in --out.")]
PlotsOption = Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the figures in plots/.")]
ReportOption = Annotated[
    bool, typer.Option("--report", help="Write the page about it as well: RUN.report.html, beside the directory.")
]
EventsOption = Annotated[
    bool,
    typer.Option(
        "--events/--no-events",
        help="Keep every event in events.parquet, of which the timeline and the pools' figure are drawn, and which "
        "compare, paired, validate and calibrate read.",
    ),
]
TimelineOption = Annotated[
    bool, typer.Option("--timeline", help="Write timeline.json of the first replication, which Perfetto opens.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print what would run, where to, and about how long it takes; do nothing.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
