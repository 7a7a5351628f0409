"""Fields of link profiles that had another name in the last release: the old one still works, and is warned of."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from bufferlab.protocol.naming import Renamed

OLD_FIELDS = {"per_piece_s": "per_segment_s"}
"""Old name → new name. An entry leaves with the release after the one in which it came."""

OLD_HOST_FIELDS = {"turn_s": "iteration_s", "order_s": "command_s"}
"""The same for a profile's table of its host."""


def with_new_names(table: Mapping[str, Any], *, host: str, profile: str) -> dict[str, Any]:
    """A copy of a profile's ``table`` in which every field has its new name; ``host`` is the name of its host's table.

    Warns, in one sentence, of those that had their old one. Raises ValueError if a field has both.
    """
    renamed: list[str] = []
    copied = _renamed(table, OLD_FIELDS, renamed)
    if isinstance(copied.get(host), Mapping):
        copied[host] = _renamed(copied[host], OLD_HOST_FIELDS, renamed)
    if renamed:
        works = "the old name works" if len(renamed) == 1 else "the old names work"
        warnings.warn(
            f"link profile {profile}: {', '.join(renamed)}; {works} until the next release", Renamed, stacklevel=3
        )
    return copied


def _renamed(table: Mapping[str, Any], old_names: Mapping[str, str], renamed: list[str]) -> dict[str, Any]:
    for old, new in old_names.items():
        if old in table and new in table:
            raise ValueError(f"{new} is there, and {old}, its old name; it must have only {new}")
        if old in table:
            renamed.append(f"{old} is called {new} now")
    return {old_names.get(name, name): value for name, value in table.items()}
