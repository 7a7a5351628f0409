"""Which configurations of a sweep are meant: by their numbers, or by the values of their settings."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bufferlab.api.overrides import settings_by_path
from bufferlab.experiments.errors import UserError
from bufferlab.protocol.naming import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

Select = Mapping[str, Any] | Sequence[int] | int
"""Numbers of configurations, or values by setting, one or several: ``{"protocol.sizing.tokens": [512, 2048]}``."""


def chosen(table: pd.DataFrame, select: Select | None) -> pd.DataFrame:
    """The rows of a sweep's table that are of these configurations; all of them without a selection.

    Raises UserError for what the sweep does not have.
    """
    if select is None:
        return table
    if not isinstance(select, Mapping):
        return _numbered(table, [select] if isinstance(select, int) else list(select))
    from bufferlab.experiments.figures.curves import swept_columns

    swept = swept_columns(table)
    for field, values in settings_by_path(select).items():
        if field not in swept:
            hint = did_you_mean(field, swept)
            raise UserError(f"select names {field}{hint}, it must be a setting that was swept: {', '.join(swept)}")
        rows = [_alike(table[field], field, value) for value in (values if isinstance(values, list) else [values])]
        if not rows:
            raise UserError(f"select has no values for {field}, it must have at least one")
        table = table[functools.reduce(operator.or_, rows)]
    return table


def _alike(column: pd.Series[Any], field: str, value: Any) -> pd.Series[bool]:
    """Where a setting has this value. A class in a file may go by what a key calls it."""
    from bufferlab.experiments.figures.curves import without_folder

    found = column.isna() if value is None else column == value
    if not found.any() and isinstance(value, str):
        found = column.map(str).map(without_folder) == without_folder(value)
    if not found.any():
        known = ", ".join("none" if one != one else str(one) for one in column.unique())
        raise UserError(f"select has {field} {value!r}, it must be one of {known}")
    return found


def _numbered(table: pd.DataFrame, numbers: Sequence[Any]) -> pd.DataFrame:
    count = table["configuration"].nunique()
    for number in numbers:
        if isinstance(number, bool) or number not in table["configuration"].to_numpy():
            raise UserError(f"select has the configuration {number!r}, it must be a number from 1 to {count}")
    if not numbers:
        raise UserError("select is empty, it must name at least one configuration")
    return table[table["configuration"].isin(numbers)]
