"""Names of settings and figures: their paths in nested tables, and what a misspelt one may have meant.

Drivers and studies share it, which is why it stands in the lowest layer.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any


class Renamed(UserWarning):
    """Something has the name of before the last release: it is accepted, and the sentence says the new one."""


SHORTEST = 3
"""Characters of a beginning that says anything."""


def nearest(value: object, known: Iterable[str]) -> str:
    """The one of ``known`` that ``value`` is a near miss of, else nothing."""
    return next(iter(difflib.get_close_matches(str(value), list(known), 1)), "")


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """`` (did you mean x?)`` for a near miss, or for what ``value`` begins with or begins; else nothing."""
    names = list(known)
    close = nearest(value, names) or _by_beginning(str(value), names)
    return f" (did you mean {close}?)" if close else ""


def _by_beginning(text: str, names: list[str]) -> str:
    longer = [name for name in names if len(text) >= SHORTEST and name.startswith(text)]
    shorter = [name for name in names if len(name) >= SHORTEST and text.startswith(name)]
    # The longest beginning says most; of several endings none is nearer.
    return max(shorter, key=len, default=longer[0] if len(longer) == 1 else "")


def flat(
    table: Mapping[str, Any], is_value: Callable[[Mapping[str, Any]], bool] = lambda _: False
) -> Iterator[tuple[str, Any]]:
    """(path, value) of every value in nested tables, such as ``("latency_s.p99", 0.1)``, in their order.

    ``is_value`` says which tables are values themselves.
    """
    for name, value in table.items():
        if isinstance(value, Mapping) and not is_value(value):
            yield from ((f"{name}.{path}", inner) for path, inner in flat(value, is_value))
        else:
            yield name, value


def put(table: dict[str, Any], path: Iterable[str], value: Any) -> None:
    """Put ``value`` where the names of ``path`` lead, making the tables on the way."""
    *sections, last = path
    for name in sections:
        table = table.setdefault(name, {})
    table[last] = value
