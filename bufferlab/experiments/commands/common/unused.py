"""Options that a command would take and never look at are refused: whoever gives one expects that it does something."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import typer

from bufferlab.experiments.errors import UserError


def given(context: typer.Context) -> list[str]:
    """The options of the command line, as they are written there and in the order of the command's help."""
    found = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        # By its name: typer brings its own copy of click in some versions.
        if source is not None and source.name == "COMMANDLINE" and parameter.opts[0].startswith("-"):
            turned_off = parameter.secondary_opts and context.params[parameter.name or ""] is False
            found.append(parameter.secondary_opts[0] if turned_off else parameter.opts[0])
    return found


def refuse_unused(context: typer.Context, options: Collection[str], why: str) -> None:
    """Raise UserError if any of ``options`` is given. ``why``: why it has no effect and what would give it one."""
    unused = [option for option in given(context) if option in options]
    if unused:
        raise UserError(f"{' and '.join(unused)} {'has' if len(unused) == 1 else 'have'} no effect {why}")


def refuse_jobs_of_a_cluster(context: typer.Context, executor: str, address: str | None) -> None:
    """Raise UserError if --jobs is given where a cluster that runs already decides on that."""
    if executor == "dask" and address is not None:
        refuse_unused(context, {"--jobs"}, "with --address: the cluster decides how many runs it has at once")


def refuse_unused_in_mode(context: typer.Context, mode: str, uses: Mapping[str, Collection[str]]) -> None:
    """Raise UserError for an option that only other modes of a command look at.

    ``uses``: the options of each mode. A mode that an option chooses has the name of that option.
    """
    known = set().union(*uses.values())
    for option in given(context):
        if option in known and option not in uses[mode]:
            others = " or ".join(other for other in uses if option in uses[other])
            where = "with" if mode.startswith("--") else "in"
            raise UserError(f"{option} has no effect {where} {mode}; it is for {others}")
