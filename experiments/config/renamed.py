"""Settings that had another name in the last release: the old one still works, and one line names the new one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from experiments.errors import UserError

OLD_NAMES = {
    ("encode", "turn_s"): "poll_interval_s",
    ("language", "turn_s"): "poll_interval_s",
}
"""(section, old name) → new name. An entry leaves with the release after the one in which it came."""


class RenamedSetting(UserWarning):
    """A configuration has a setting by its old name."""


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


def _warn(section: str, old: str, new: str) -> None:
    message = f"{section}.{old} is called {section}.{new} now; the old name works until the next release"
    warnings.warn(message, RenamedSetting, stacklevel=3)
