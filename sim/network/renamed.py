"""Fields of link profiles that had another name in the last release: the old one still works, and is warned of."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from protocol.naming import Renamed

OLD_FIELDS = {"per_piece_s": "per_segment_s"}
"""Old name → new name. An entry leaves with the release after the one in which it came."""

OLD_HOST_FIELDS = {"turn_s": "iteration_s", "order_s": "command_s"}
"""The same for a profile's table of its host."""


def with_new_names(table: Mapping[str, Any], old_names: Mapping[str, str], *, profile: str) -> dict[str, Any]:
    """A copy of ``table`` in which every field has its new name. Warns of those that had their old one.

    Raises ValueError if a field has both.
    """
    renamed = {old: new for old, new in old_names.items() if old in table}
    for old, new in renamed.items():
        if new in table:
            raise ValueError(f"{new} is there, and {old}, its old name; it must have only {new}")
    if renamed:
        names = ", ".join(f"{old} is called {new} now" for old, new in renamed.items())
        works = "the old name works" if len(renamed) == 1 else "the old names work"
        warnings.warn(f"link profile {profile}: {names}; {works} until the next release", Renamed, stacklevel=3)
    return {renamed.get(name, name): value for name, value in table.items()}
