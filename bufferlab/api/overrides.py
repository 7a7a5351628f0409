"""Overrides as Python has them, nested or by their path, turned into the ones that a configuration takes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bufferlab.api.fields import SectionFields as Sections
from bufferlab.experiments.config.overrides import Override
from bufferlab.experiments.errors import UserError

__all__ = ["Overrides", "Sections", "listed", "plain", "settings_by_path"]

Overrides = Mapping[str, Any]
"""Settings by their paths or nested: ``{"protocol.sizing.tokens": 2048, "workload": {"requests": 300}}``."""


def listed(overrides: Overrides | None, sections: Mapping[str, Any]) -> tuple[Override, ...]:
    """All of them, as paths and values, in their order. File names in them become absolute.

    Raises UserError for what has no path.
    """
    from bufferlab.experiments.sweeps.grid import anchored

    given = [*_flat("", {} if overrides is None else overrides), *_flat("", sections)]
    return tuple((path, value if value is None else anchored(path, value, Path())) for path, value in given)


def _flat(before: str, table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if not isinstance(table, Mapping):
        raise UserError(f"overrides are {table!r}, they must be a dictionary such as {{'run': {{'seed': 1}}}}")
    for name, value in table.items():
        if not isinstance(name, str):
            raise UserError(f"an override is called {name!r}, it must be a path such as 'protocol.block_tokens'")
        path = f"{before}{name}"
        if isinstance(value, Mapping):
            yield from _flat(f"{path}.", value)
        else:
            yield path, plain(value)


def settings_by_path(settings: Overrides) -> dict[str, Any]:
    """Settings by their paths, of Python's own types."""
    return dict(_flat("", settings))


def plain(value: Any) -> Any:
    """The same without what only Python has: paths are texts, numbers of NumPy numbers, tuples lists, and the class of
    a sizing policy is its place."""
    if isinstance(value, type):
        return _place(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, Sequence | range) and not isinstance(value, str | bytes):
        return [plain(one) for one in value]
    return value


def _place(value: type) -> Any:
    from bufferlab.protocol.sizing import POLICIES, SizingPolicy
    from bufferlab.protocol.sizing.places import place_of

    shipped = next((name for name, kind in POLICIES.items() if kind is value), None)
    return shipped or (place_of(value) if issubclass(value, SizingPolicy) else value)
