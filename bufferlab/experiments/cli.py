"""The command line of ``bufferlab``: collects the commands, and turns errors into sentences and exit statuses.

What holds for all commands: exit status 0 done, 1 a stated check failed, 2 bad input (one sentence on stderr, nothing
run, nothing written), 130 interrupted, 143 by SIGTERM. ``--json`` prints one JSON object on stdout and nothing else
there. Each command is a module of ``experiments/commands/``, found there by its name.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, TextIO

import typer
import typer.core

from bufferlab.experiments.commands.common.exits import BAD_INPUT, CHECK_FAILED, DONE, INTERRUPTED, TERMINATED
from bufferlab.experiments.commands.common.registry import all_commands, find_command
from bufferlab.experiments.config.renamed import with_new_options
from bufferlab.experiments.starting import collect_seldom
from bufferlab.experiments.terminal import open_closed_streams, show_what_can_be_shown, write_whether_read_or_not
from bufferlab.experiments.termination import termination_like_interrupt
from bufferlab.protocol.compiled import VARIABLE, state
from bufferlab.protocol.naming import Renamed

_showwarning = warnings.showwarning
_told: set[str] = set()
"""The old names this command has warned of: a profile is read in many places, a setting may be given in several."""

# typer brings its own copy of click in some versions; the base of its errors is the same class in all of them.
UsageProblem: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


class _Commands(typer.core.TyperGroup):
    """Shows every command in full with its example, where click would cut the sentence short; knows near misses.

    A command's module is imported when the command is named; all of them are for the list.
    """

    def list_commands(self, _ctx: Any) -> list[str]:
        """The names of all commands, in the order of the list."""
        return [one.name for one in all_commands()]

    def get_command(self, _ctx: Any, name: str) -> Any:
        """The command of this name, or None."""
        found = find_command(name)
        return None if found is None else found.parser

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is meant; a wrong name is refused with the one that it may have meant."""
        try:
            return super().resolve_command(ctx, args)
        except UsageProblem:
            if args[0].startswith("-"):
                raise
            from bufferlab.protocol.naming import did_you_mean

            names = self.list_commands(ctx)
            hint = did_you_mean(args[0], names)
            raise UsageProblem(f"No such command {args[0]!r}{hint}; the commands are {', '.join(names)}") from None

    def format_commands(self, _ctx: Any, formatter: Any) -> None:
        """Write the list of commands."""
        # From what they registered: making a parser of each would take longer than all else that help does.
        rows = [(one.name, f"{one.summary} Example: {one.example}") for one in all_commands()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


app = typer.Typer(
    name="bufferlab",
    help="How many tokens to preallocate for an embedding of unknown length: simulate it, then measure it.",
    cls=_Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and whether it runs compiled, and leave.")
    ] = False,
) -> None:
    if version:
        from bufferlab.experiments.runs.environment import package_version

        print(f"bufferlab {package_version('bufferlab') or '(from a source tree)'} ({state()})")
        raise typer.Exit(DONE)
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; SIGTERM ends it in order as Ctrl-C does."""
    collect_seldom()
    with termination_like_interrupt() as termination:
        status = _run(arguments)
        return TERMINATED if termination.came and status == INTERRUPTED else status


def _one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning for a user is one line without a place in our code, once a command; others are shown as Python does."""
    if not issubclass(category, Renamed):
        _showwarning(message, category, filename, lineno, file, line)
    elif str(message) not in _told:
        _told.add(str(message))
        print(f"bufferlab: {message}", file=sys.stderr)


def _run(arguments: Sequence[str] | None) -> int:
    open_closed_streams()
    write_whether_read_or_not()
    show_what_can_be_shown()
    _told.clear()
    warnings.showwarning = _one_line
    command = typer.main.get_command(app)
    try:
        if os.environ.get(VARIABLE):
            from bufferlab.experiments.runs.environment import check_compiled

            check_compiled()
        status = command.main(
            args=with_new_options(sys.argv[1:] if arguments is None else arguments),
            prog_name="bufferlab",
            standalone_mode=False,
        )
        sys.stdout.flush()
        if status == INTERRUPTED:  # what typer makes of Ctrl-C within a command
            raise KeyboardInterrupt
    except (typer.Abort, KeyboardInterrupt):
        print("bufferlab: interrupted", file=sys.stderr)
        return INTERRUPTED
    except UsageProblem as error:
        return _refuse(error.format_message())  # type: ignore[attr-defined]
    except Exception as error:
        from bufferlab.experiments.errors import RunFailedError, UserError
        from bufferlab.experiments.files import DISK, reason

        if isinstance(error, UserError):
            return _refuse(str(error))
        if isinstance(error, RunFailedError):
            _refuse(str(error))
            return CHECK_FAILED
        if isinstance(error, OSError) and error.errno in DISK:
            if error.filename is None:  # what has no name is what we print to
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _refuse(f"{error.filename or 'standard output'} cannot be read or written: {reason(error)}")
            return CHECK_FAILED
        raise
    if status == INTERRUPTED:  # typer turns Ctrl-C into this by itself
        print("bufferlab: interrupted", file=sys.stderr)
    return status if isinstance(status, int) else DONE


def _refuse(message: str) -> int:
    sentence = " ".join(message.split()).rstrip(".")
    print(f"bufferlab: {sentence}.", file=sys.stderr)
    return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
