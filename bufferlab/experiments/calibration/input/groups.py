"""Which rows belong together: one table, one system, one operation, one quantity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bufferlab.experiments.calibration.input.rows import Row

PARTS = ("system", "link", "op", "quantity")


@dataclass(frozen=True)
class Group:
    """Rows that one law can be asked to describe, in the order of their file."""

    name: str
    rows: tuple[Row, ...]


def split(rows: Iterable[Row]) -> list[Group]:
    """The groups of ``rows``, in the order in which they begin.

    A table that mixes systems, links, operations or quantities is several groups, named by what tells them apart:
    ``table [p5en.48xlarge … GPU-to-GPU, write]``.
    """
    found: dict[str, dict[tuple[str, ...], list[Row]]] = {}
    for row in rows:
        key = (row.kind, *(getattr(row, part) for part in PARTS))
        found.setdefault(row.table, {}).setdefault(key, []).append(row)
    return [
        Group(name, tuple(members))
        for table, groups in found.items()
        for name, members in zip(_names(table, list(groups)), groups.values(), strict=True)
    ]


def _names(table: str, keys: Sequence[tuple[str, ...]]) -> list[str]:
    if len(keys) == 1:
        return [table]
    columns = [column for column in zip(*keys, strict=True) if len(set(column)) > 1]
    # The link and the kind say again what system and quantity have said.
    columns = [column for place, column in enumerate(columns) if not _said_by(column, columns[:place])]
    shortened = [_without_common_start(column) for column in columns]
    return [f"{table} [{', '.join(parts)}]" for parts in zip(*shortened, strict=True)]


def _said_by(column: Sequence[str], earlier: Sequence[Sequence[str]]) -> bool:
    return any(len(set(zip(column, other, strict=True))) == len(set(other)) for other in earlier)


def _without_common_start(column: Sequence[str]) -> list[str]:
    words = [text.split(" ") for text in column]
    shared = 0
    while all(len(one) > shared + 1 and one[shared] == words[0][shared] for one in words):
        shared += 1
    return [" ".join(one[shared:]) or "none" for one in words]
