"""Writes bufferlab/api/fields.py: the settings of each section as keyword arguments have them, for type checkers.

    python tools/api_fields.py [--check]

With --check nothing is written.

Exit status: 0, 1 with --check if the file is out of date.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BeforeValidator

from bufferlab.experiments.config.sections.base import Section, duration
from bufferlab.experiments.config.sections.protocol import Sizing
from bufferlab.experiments.config.sections.whole import Sections

FILE = Path(__file__).resolve().parent.parent / "bufferlab" / "api" / "fields.py"
FILES = {"file", "profile"}
"""Settings that may name a file, and so may be a path."""
HEAD = '''"""The settings of each section as keyword arguments, for type checkers; ``tools/api_fields.py`` writes it.

A key that is none of these is an error of theirs. What a value may be in full, and what it means, is in
docs/settings.md. None stands for a setting that need not be there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, SupportsFloat, SupportsIndex, TypedDict

Whole = SupportsIndex
"""A whole number, NumPy's as well."""
Number = SupportsFloat | SupportsIndex
"""A number, NumPy's as well."""
Text = str
"""A text; with a unit where it stands for a number: "5ms", "4GiB"."""
File = str | PathLike[str]
"""A file, or a name that stands for one."""
'''


def content() -> str:
    """The whole file."""
    made: dict[type[Section], str] = {}
    fields = {name: field_text(name, field.annotation, made) for name, field in Sections.model_fields.items()}
    whole = _class("SectionFields", "The sections of a configuration as keyword arguments.", fields)
    return "\n\n".join([HEAD, *made.values(), whole])


def field_text(name: str, annotation: Any, made: dict[type[Section], str], marks: Sequence[Any] = ()) -> str:
    """The type of a setting. Sections that it needs are added to ``made``."""
    kinds = list(dict.fromkeys(_kinds(name, annotation, made, marks)))
    return " | ".join(sorted(kinds, key=lambda kind: kind == "None"))


def _kinds(name: str, annotation: Any, made: dict[type[Section], str], marks: Sequence[Any]) -> Iterator[str]:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from _kinds(name, inner[0], made, [*marks, *inner[1:]])
    elif origin in (typing.Union, types.UnionType):
        for one in inner:
            yield from _kinds(name, one, made, marks)
    elif origin is tuple:
        if Ellipsis in inner:
            yield f"Sequence[{field_text(name, inner[0], made, [])}]"
        else:
            yield "Sequence[Any]"
    elif origin is typing.Literal:
        yield from ("Text" if isinstance(one, str) else _plain(type(one)) for one in inner)
    elif annotation is type(None):
        yield "None"
    elif inspect.isclass(annotation) and issubclass(annotation, Section):
        yield _section(annotation, made)
    elif name in FILES and annotation is str:
        yield "File"
    else:
        checks = [mark.func for mark in marks if isinstance(mark, BeforeValidator)]
        yield _plain(annotation)
        if annotation is float and duration in checks:
            yield "Text"


def _plain(kind: Any) -> str:
    if typing.get_origin(kind) is dict or kind is dict:
        return "Mapping[str, Any]"
    return {bool: "bool", int: "Whole", float: "Number", str: "Text"}.get(kind, "Any")


def _section(section: type[Section], made: dict[type[Section], str]) -> str:
    if section is Sizing:  # what else it has are the options of its policy, which may be anybody's
        return "Mapping[str, Any] | None"
    name = f"{section.__name__}Fields"
    if section not in made:
        fields = {key: field_text(key, one.annotation, made, one.metadata) for key, one in section.model_fields.items()}
        made[section] = _class(name, _first_sentence(section), fields)
    return name


def _first_sentence(section: type[Section]) -> str:
    first, stop, _ = " ".join((section.__doc__ or "").split()).partition(". ")
    return f"{first}." if stop else first


def _class(name: str, what: str, fields: dict[str, str]) -> str:
    lines = [f"class {name}(TypedDict, total=False):", f'    """{what}"""', ""]
    return "\n".join([*lines, *(f"    {key}: {kind}" for key, kind in fields.items())]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, then write or compare the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if the file is out of date")
    options = parser.parse_args(arguments)
    wanted = content()
    if options.check:
        stale = not FILE.is_file() or FILE.read_text(encoding="utf-8") != wanted
        if stale:
            print(f"api_fields: {FILE.name} is out of date; run python tools/api_fields.py", file=sys.stderr)
        return int(stale)
    FILE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
