"""What ``sim`` and ``real`` do alike: load a configuration, run it into its directory, and tell its summary."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bufferlab.experiments.commands.common.exits import CHECK_FAILED, DONE
from bufferlab.experiments.commands.common.output import print_json, say
from bufferlab.experiments.commands.common.unused import refuse_unused

if TYPE_CHECKING:
    from bufferlab.experiments.config.schema import Config


def load_config(
    source: str,
    settings: Sequence[str] | None,
    seed: str | None,
    replications: str | None = None,
    *,
    measured: bool = False,
) -> Config:
    """The configuration that CONFIG, ``--set``, ``--seed`` and ``--replications`` ask for.

    ``measured``: for a measured run.
    """
    from bufferlab.experiments.starting import load_numpy

    load_numpy()
    from bufferlab.experiments.workloads.loading import load

    # As settings, so that a wrong number is refused as any other is.
    overrides = list(settings or ())
    overrides += [] if seed is None else [f"run.seed={seed}"]
    overrides += [] if replications is None else [f"run.replications={replications}"]
    return load(source, overrides, measured=measured)


def refuse_force_without_out(context: typer.Context, out: Path | None) -> None:
    """Raise UserError for ``--force`` where no folder is named: a run without ``--out`` replaces itself."""
    if out is None:
        refuse_unused(context, {"--force"}, "without --out, whose finished run it lets replace")


def refuse_timeline_without_events(*, timeline: bool, events: bool) -> None:
    """Raise UserError where a timeline is asked for and what it is drawn of is not kept."""
    if timeline and not events:
        from bufferlab.experiments.errors import UserError

        raise UserError("--timeline is drawn of the events, which --no-events does not keep; give one of the two")


def all_requests(kind: str, config: Config) -> int:
    """How many requests a run has: of a file that is resampled, other numbers in each replication."""
    from bufferlab.experiments.workloads.requests import count_requests, replicates_of

    number = config.run.replications
    if number == 1 or kind != "sim" or not replicates_of(config).resampled:
        return count_requests(config) * number
    return sum(count_requests(config, replication) for replication in range(number))


def run_into_directory(
    kind: str,
    execute: Callable[..., dict[str, Any]],
    config: Config,
    out: Path | None,
    *,
    force: bool,
    as_json: bool,
    timeline: bool = False,
) -> None:
    """Run a configuration, print its summary, and leave with the exit status of what it states.

    ``timeline``: whether ``execute`` draws one, of which it is then said how to open it.
    """
    from bufferlab.experiments.errors import RunFaultedError
    from bufferlab.experiments.figures.text import summary_text
    from bufferlab.experiments.progress import bar
    from bufferlab.experiments.runs.rundir import claim_target

    with ExitStack() as stack:
        claim = stack.enter_context(claim_target(config, kind, out, force=force))
        shown = stack.enter_context(bar(kind, all_requests(kind, config), "requests"))
        faulted: RunFaultedError | None = None

        def begin(plan: str) -> None:
            shown.say(plan, sys.stderr if as_json else sys.stdout)

        try:
            summary = execute(config, claim, begin=begin, progress=shown.add, notice=shown.say)
        except RunFaultedError as error:
            faulted, summary = error, error.summary
    if as_json:
        print_json(summary)
    else:
        say(summary_text(summary))
        print(f"run directory: {claim.target}")
        if timeline:
            from bufferlab.experiments.figures.timeline import FILE, HOW_TO_OPEN

            print(f"timeline: {claim.target / FILE}; {HOW_TO_OPEN}")
    if faulted is not None:
        raise faulted
    # The invariants are checks that every run states it keeps.
    raise typer.Exit(CHECK_FAILED if summary["invariant_violations"] else DONE)
