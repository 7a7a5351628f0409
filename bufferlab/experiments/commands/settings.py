"""``bufferlab settings``: what can be set, from the sections themselves."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from bufferlab.experiments.commands.common.options import JsonOption
from bufferlab.experiments.commands.common.output import tell
from bufferlab.experiments.commands.common.registry import command

if TYPE_CHECKING:
    from bufferlab.experiments.config.reference import Setting

WIDTH = 100
FIRST = 70
"""Characters of the first sentence of a setting in the list of all."""


@command(place=125, example="bufferlab settings pool")
def settings(
    key: Annotated[
        str | None,
        typer.Argument(metavar="KEY", help="A setting, or a part of its name; without it all are listed."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Lists all settings of a configuration, or explains those with KEY in their name."""
    from bufferlab.experiments.config import reference
    from bufferlab.experiments.errors import UserError

    if key is None:
        found = reference.settings()
        keys, defaults = max(len(one.key) for one in found), max(len(one.default) for one in found)
        lines = [f"{one.key.ljust(keys)}  {one.default.ljust(defaults)}  {_first(one.meaning)}" for one in found]
        text = "\n".join([*lines, "", "bufferlab settings KEY tells all of those with KEY in their name."])
    else:
        try:
            found = reference.matching(key)
        except ValueError as error:
            raise UserError(f"KEY is {key!r}, which {error}") from None
        text = "\n\n".join(map(_explained, found))
    tell({"settings": [one.content() for one in found]}, text, as_json=as_json)


def _first(meaning: str) -> str:
    """The first sentence, or as much of it as a line has room for."""
    text = meaning.partition(". ")[0].removesuffix(".")
    return text if len(text) <= FIRST else f"{text[: FIRST - 1].rpartition(' ')[0]} …"


def _explained(one: Setting) -> str:
    runs = "" if one.world == "both" else f"; in {one.world} runs only"
    unit = f" {one.unit}" if one.unit and one.default.replace(".", "").isdigit() else ""
    lines = [one.key, f"default: {one.default}{unit}{runs}"]
    lines += textwrap.wrap(f"allowed: {one.allowed}", WIDTH - 2, break_on_hyphens=False, subsequent_indent="  ")
    lines += textwrap.wrap(one.meaning, WIDTH - 2, break_on_hyphens=False)
    return "\n  ".join(lines)
