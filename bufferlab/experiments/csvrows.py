"""Rows of CSV files and their headers: what is one too many is refused, unless there is nothing in it."""

from __future__ import annotations

from collections.abc import Sequence

from bufferlab.experiments.errors import UserError


def check_names(where: str, header: Sequence[str]) -> None:
    """Raise UserError for a header that has a name twice."""
    for name in header:
        if name and header.count(name) > 1:
            raise UserError(f"{where} has the column {name} {header.count(name)} times, it must have it once")


def fit(row: list[str], header: Sequence[str], where: str, *, short: bool = False) -> list[str]:
    """A row with as many fields as its header; surplus ones at its end that are empty are cut off.

    ``short``: those that are missing at its end are empty, too. Raises UserError for any other row.
    """
    width = len(header)
    if len(row) > width and not any(field.strip() for field in row[width:]):
        return row[:width]
    if len(row) < width and short:
        return [*row, *[""] * (width - len(row))]
    if len(row) != width:
        raise UserError(
            f"{where} has {len(row)} field{'s' if len(row) != 1 else ''}, its header has {width}: "
            f"{', '.join(header)[:80]}"
        )
    return row
