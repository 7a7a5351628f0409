"""``bufferlab completion``: what a shell needs to complete the commands, options and values of ``bufferlab``."""

from __future__ import annotations

from typing import Annotated

import typer

from bufferlab.experiments.commands.common.options import JsonOption
from bufferlab.experiments.commands.common.output import tell
from bufferlab.experiments.commands.common.registry import command


@command(
    place=140,
    example="bufferlab completion bash",
    note="The first line of each script says where it belongs.",
)
def completion(
    shell: Annotated[
        str | None, typer.Argument(metavar="bash|zsh|fish", help="The shell to print the script of.")
    ] = None,
    line: Annotated[
        str | None,
        typer.Option(
            "--line", metavar="TEXT", help="In place of a shell: print what a line may go on with, up to the cursor."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Prints the script with which a shell completes commands, options, settings and names."""
    from bufferlab.experiments.commands.completing.line import complete, parse_line
    from bufferlab.experiments.commands.completing.scripts import SCRIPTS
    from bufferlab.experiments.errors import UserError
    from bufferlab.protocol.naming import did_you_mean

    if (shell is None) is (line is None):
        raise UserError(f"the shell is missing, it must be one of {', '.join(SCRIPTS)}; or give --line in its place")
    if line is not None:
        found = complete(parse_line(line))
        lines = "\n".join(f"{one.word}\t{one.help}" if one.help else one.word for one in found)
        tell({"words": [one._asdict() for one in found]}, lines, as_json=as_json)
    elif shell is not None:
        if shell not in SCRIPTS:
            hint = did_you_mean(shell, list(SCRIPTS))
            raise UserError(f"the shell is {shell!r}, it must be one of {', '.join(SCRIPTS)}{hint}")
        tell({"shell": shell, "script": SCRIPTS[shell]}, SCRIPTS[shell].rstrip("\n"), as_json=as_json)
