"""``bufferlab examples``: the shipped configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bufferlab.experiments.commands.common.options import JsonOption
from bufferlab.experiments.commands.common.output import print_json
from bufferlab.experiments.commands.common.registry import command


@command(place=120, example="bufferlab examples --show quickstart")
def examples(
    show: Annotated[str | None, typer.Option("--show", metavar="NAME", help="Print this example.")] = None,
    write: Annotated[
        tuple[str, Path] | None, typer.Option("--write", metavar="NAME PATH", help="Write this example to a new file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Lists the shipped example configurations, shows one, or writes one to a file."""
    from bufferlab.experiments.config.renamed import new_example
    from bufferlab.experiments.config.shipped import example_names, example_text, example_title
    from bufferlab.experiments.errors import UserError

    if show is not None and write is not None:
        raise UserError("--show and --write are both given, only one of them is allowed")
    if write is not None:
        name, path = write
        text = example_text(new_example(name))
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise UserError(f"--write is {str(path)!r}, it must be a file that does not exist yet") from None
        except OSError as error:
            raise UserError(f"--write is {str(path)!r}, which cannot be written: {error.strerror}") from None
        if as_json:
            print_json({"name": name, "path": str(path)})
        else:
            print(f"wrote {path}; run it with: bufferlab sim {path}")
    elif show is not None:
        text = example_text(new_example(show))
        if as_json:
            print_json({"name": show, "text": text})
        else:
            print(text, end="")
    elif as_json:
        print_json({"examples": [{"name": name, "title": example_title(name)} for name in example_names()]})
    else:
        width = max(map(len, example_names()))
        for name in example_names():
            print(f"{name.ljust(width)}  {example_title(name)}")
