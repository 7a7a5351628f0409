"""Settings, options and examples that had another name in the last release: the old one works, a line names the new."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from bufferlab.experiments.errors import UserError
from bufferlab.protocol.naming import Renamed

OLD_NAMES = {
    ("encode", "turn_s"): "poll_interval_s",
    ("language", "turn_s"): "poll_interval_s",
}
"""(section, old name) → new name. An entry leaves with the release after the one in which it came."""


OLD_OPTIONS = {
    ("sweep", "--cells"): "--configurations",
    ("calibrate", "--accounts"): "--cpu-usage",
}
"""(command, old name) → new name."""

OLD_EXAMPLES = {"validation-cell": "validation-case"}

OLD_TABLES = {"cells": "configurations"}
"""Of [sweep] in the file of a sweep."""

OLD_KEYS = {"cells": "configurations", "cell": "configuration"}
"""In the files of finished sweeps."""


def new_path(parts: list[str]) -> list[str]:
    """The path of a setting by its new name; ``parts`` is a path such as ``encode.turn_s`` split at its points."""
    new = OLD_NAMES.get((parts[0], parts[1])) if len(parts) == 2 else None
    if new is None:
        return parts
    _warn(parts[0], parts[1], new)
    return [parts[0], new]


def with_new_names(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``tree`` in which every setting has its new name. Warns of each that had its old one.

    Raises UserError if a setting has both.
    """
    copied = dict(tree)
    for (section, old), new in OLD_NAMES.items():
        table = copied.get(section)
        if not isinstance(table, dict) or old not in table:
            continue
        if new in table:
            raise UserError(f"{section} has {new} and {old}, its old name; it must have only {new}")
        _warn(section, old, new)
        copied[section] = {new if name == old else name: value for name, value in table.items()}
    return copied


def with_new_fields(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A copy of ``settings``, whose keys are paths such as ``encode.turn_s``, in which every path has its new name.

    Raises UserError, which begins with ``where``, if a setting has both names.
    """
    renamed: dict[str, Any] = {}
    for field, value in settings.items():
        new = new_field(field)
        if new in renamed or (new != field and new in settings):
            raise UserError(f"{where} has {new} and its old name; it must have only {new}")
        renamed[new] = value
    return renamed


def new_field(field: str) -> str:
    """The path of a setting, such as ``encode.turn_s``, by its new name."""
    return ".".join(new_path(field.split(".")))


def with_new_options(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, its name first, in which every option has its new name."""
    command = arguments[0] if arguments else ""
    named = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        new = OLD_OPTIONS.get((command, option))
        if new is not None:
            _say(f"{command} {option}", f"{command} {new}")
        named.append(f"{new or option}{equals}{value}")
    return named


def new_example(name: str) -> str:
    """The name that an example has now."""
    new = OLD_EXAMPLES.get(name)
    if new is None:
        return name
    _say(f"the example {name}", new)
    return new


def with_new_tables(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the [sweep] table of a file of configurations in which every table has its new name.

    Raises UserError if a table has both names.
    """
    for old, new in OLD_TABLES.items():
        if old in sweep and new in sweep:
            raise UserError(f"sweep has {new} and {old}, its old name; it must have only {new}")
        if old in sweep:
            _say(f"sweep.{old}", f"sweep.{new}")
    return {OLD_TABLES.get(name, name): value for name, value in sweep.items()}


def with_new_keys(content: Any) -> Any:
    """A copy of what sweep.json holds in which every key has its new name. Nobody wrote them, so none is told."""
    if isinstance(content, Mapping):
        return {OLD_KEYS.get(name, name): with_new_keys(value) for name, value in content.items()}
    return [with_new_keys(one) for one in content] if isinstance(content, list) else content


def _warn(section: str, old: str, new: str) -> None:
    _say(f"{section}.{old}", f"{section}.{new}")


def _say(old: str, new: str) -> None:
    warnings.warn(f"{old} is called {new} now; the old name works until the next release", Renamed, stacklevel=3)
