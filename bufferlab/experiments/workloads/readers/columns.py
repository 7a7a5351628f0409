"""Which column of a file is which field of a request, and what is said of the columns that are none."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.readers.names import (
    ALIASES,
    OTHERS,
    STATUSES,
    TIME_STEMS,
    names_of,
    plain_name,
    time_stem_of,
    time_unit_of,
)
from bufferlab.experiments.workloads.readers.times import read_times
from bufferlab.protocol.naming import did_you_mean, nearest

if TYPE_CHECKING:
    from bufferlab.experiments.workloads.readers.cells import Column, Table
    from bufferlab.experiments.workloads.readers.times import Times

OPTION = "workload.options.columns"
TIME = "arrival_s"
"""The field of the time, which many names of columns may stand for."""
ANY_ORIGIN = "timestamp_s"
"""The same for times that count from any moment."""
FIELDS = (TIME, ANY_ORIGIN, *ALIASES)
KNOWN = names_of(*ALIASES)
MAX_TOKENS = 10**8
FIRST_ERROR, LAST_ERROR = 400, 600
"""The codes by which HTTP says that a request failed."""
HELP = "bufferlab workload --template FILE.csv writes a file that is read"


class Fields:
    """The columns of a table by field; remembers which were used."""

    def __init__(self, table: Table, mapping: Mapping[str, str] | None = None) -> None:
        self.table = table
        self._used: dict[str, str] = {}
        self._passed: dict[str, str] = {}
        self._missing: list[str] = []
        self._mapped = self._map(mapping or {})

    # --- finding ---

    def named(self, name: str, field: str) -> Column | None:
        """The column whose plain name is ``name``, used as ``field``; a mapped column goes first."""
        if field in self._mapped:
            return self.use(self._mapped[field], field)
        found = [column for column in self.free() if plain_name(column.name) == name]
        if len(found) > 1:
            raise UserError(
                f"workload.file {self.table.path.name} has the column {found[0].shown_name} {len(found)} times, "
                f"it must have it once"
            )
        return self.use(found[0], field) if found else None

    def find(self, field: str) -> Column | None:
        """The column of a field under its own name or one of its aliases; None if there is none.

        Raises UserError if several could be meant.
        """
        own = self.named(field, field)
        others = [name for name in ALIASES[field] if self._has(name)]
        if own is None:
            return self._only(field, others)
        if field in self._mapped:
            return own
        for other in [column for column in self.free() if plain_name(column.name) in others]:
            if other.texts() != own.texts():
                raise UserError(
                    f"workload.file {self.table.path.name}: {own.shown_name} and {other.shown_name} may both be "
                    f'{field}, and differ; say which with {OPTION}.{field} = "{other.name}"'
                )
            self.passed_over(other, f"the same as {own.name}")
        return own

    def time(self) -> Column | None:
        """The column of the time: ``arrival_s``, ``timestamp_s``, or another name of times."""
        for name in (TIME, ANY_ORIGIN):
            found = self.named(name, name)
            if found is not None:
                return found
        names = [plain_name(column.name) for column in self.free() if time_stem_of(column.name)]
        stems = [time_stem_of(name) or "" for name in names]
        # Of several, the one that says arrival, then the one that is a time stamp.
        for chosen in ("arrival", "timestamp"):
            best = [name for name, stem in zip(names, stems, strict=True) if chosen in stem]
            if best:
                return self._only(TIME, best)
        if not names:
            # The index of a table of pandas has no name of its own.
            typed = [column for column in self.free() if column.is_typed_time]
            return self.use(typed[0], TIME) if len(typed) == 1 else None
        return self._only(TIME, names)

    def read_time(self, column: Column, chosen: str) -> Times:
        """The times of the column that ``time`` found, by its own name or that of the field it was given to."""
        field = self._used[column.name]
        given = column in self._mapped.values()
        unit = time_unit_of(column.name) or ("s" if given else None)
        from_start = field == TIME and (given or (time_stem_of(column.name) == "arrival" and unit is not None))
        return read_times(column, chosen=chosen, named=unit, from_start=from_start)

    def lacks(self, what: str) -> None:
        """Remember that something is missing; ``check`` raises for all of it at once."""
        self._missing.append(what)

    def check(self) -> None:
        """Raise UserError naming all that is missing, the columns that are there, and the nearest known names."""
        if not self._missing:
            return
        unused = [(column, self._meant(column)) for column in self.table.columns if column.name not in self._used]
        meant = [f"{column.shown_name} (did you mean {field}?)" for column, field in unused if field]
        few = "the column" if len(self._missing) == 1 else "the columns"
        guess = f"; not used: {', '.join(meant)}" if meant else ""
        wanted = [(column, field) for column, field in unused if field and any(field in one for one in self._missing)]
        example = "".join(f", as in --set {OPTION}.{field}={as_given(column.name)}" for column, field in wanted[:1])
        raise UserError(
            f"workload.file {self.table.path.name} lacks {few} {' and '.join(self._missing)}; its columns are "
            f"{self.table.names()}{guess}; {OPTION} says which column is which{example}, and {HELP}"
        )

    def ignore(self, *names: str) -> None:
        """These columns belong to the format and mean nothing to a request; they are named as unused all the same."""
        self._passed.update(dict.fromkeys(names, ""))

    def passed_over(self, column: Column, why: str) -> None:
        """A column that could have been a field, and why it is not."""
        self._used.pop(column.name, None)
        self._passed[plain_name(column.name)] = why

    def notes(self) -> list[str]:
        """What a user must know: columns under other names, and those that are not used."""
        renamed = [f"{name} is {field}" for name, field in self._used.items() if plain_name(name) not in ("", field)]
        notes = [f"columns: {', '.join(renamed)}"] if renamed else []
        unused = [self._unused(column) for column in self.table.columns if column.name not in self._used]
        return notes + ([f"columns not used: {', '.join(unused)}"] if unused else []) + self._refused()

    def _refused(self) -> list[str]:
        """Rows that a server answered with an error: whether they took its time, only the user knows."""
        notes = []
        for column in self.table.columns:
            if column.name in self._used or plain_name(column.name) not in STATUSES:
                continue
            codes, bad = column.numbers()
            failed = ~bad & (codes >= FIRST_ERROR) & (codes < LAST_ERROR)
            if failed.any():
                few = "1 row" if failed.sum() == 1 else f"{failed.sum():,} rows"
                notes.append(
                    f"{few} with {column.shown_name} of {FIRST_ERROR} or more, such as {int(codes[failed][0])}, are "
                    f"requests like the others; take them out of the file if they were turned away before any work"
                )
        return notes

    # --- cells ---

    def whole(
        self, column: Column, least: int, most: int = MAX_TOKENS, *, keep: np.ndarray | None = None
    ) -> np.ndarray:
        """Its cells as whole numbers from ``least`` to ``most``; only the rows of ``keep`` are looked at."""
        wanted = f"a whole number from {least} to {most}"
        column.check_whole(wanted)
        numbers, _ = column.numbers()
        with np.errstate(invalid="ignore"):
            good = (numbers >= least) & (numbers <= most) & (numbers % 1 == 0)
        bad = ~good if keep is None else ~good & keep
        if bad.any():
            raise column.refuse(int(bad.argmax()), wanted)
        return np.where(good, numbers, 0).astype(np.int64)

    def positive(self, column: Column) -> np.ndarray:
        """Its cells as finite numbers of at least 0."""
        numbers, _ = column.numbers()
        with np.errstate(invalid="ignore"):
            bad = ~((numbers >= 0) & (numbers < np.inf))
        if bad.any():
            raise column.refuse(int(bad.argmax()), "a number of at least 0")
        return numbers.astype(float)

    # --- helpers ---

    def free(self) -> list[Column]:
        """The columns that the user did not give to a field."""
        return [column for column in self.table.columns if column not in self._mapped.values()]

    def _has(self, name: str) -> bool:
        return any(plain_name(column.name) == name for column in self.free())

    def is_mapped(self, field: str) -> bool:
        """Whether the user said which column it is."""
        return field in self._mapped

    def use(self, column: Column, field: str) -> Column:
        """Take a column for a field."""
        self._used[column.name] = field
        return column

    def _only(self, field: str, names: list[str]) -> Column | None:
        if len(names) > 1 and len(set(names)) == len(names):
            raise UserError(
                f"workload.file {self.table.path.name}: {' and '.join(names)} may all be {field}; say which with "
                f'{OPTION}.{field} = "{names[0]}"'
            )
        return self.named(names[0], field) if names else None

    def _map(self, mapping: Mapping[str, str]) -> dict[str, Column]:
        """The columns that the user gives to fields; the pair may be written either way round."""
        found: dict[str, Column] = {}
        by_name = {column.name: column for column in self.table.columns}
        plain = {plain_name(column.name): column for column in self.table.columns}
        for key, value in mapping.items():
            field, name = (key, value) if key in FIELDS else (value, key)
            if field not in FIELDS:
                raise UserError(
                    f"{OPTION} has {key} = {value!r}, one of which must be a field{did_you_mean(key, FIELDS)}: "
                    f"{', '.join(FIELDS)}"
                )
            column = by_name.get(name) or plain.get(plain_name(name))
            if column is None:
                raise UserError(
                    f"{OPTION}.{field} is {name!r}{did_you_mean(name, by_name)}, it must be a column of "
                    f"{self.table.path.name}: {self.table.names()}"
                )
            twice = next((other for other, one in found.items() if one is column), None)
            if twice is not None:
                raise UserError(f"{OPTION} has {column.shown_name} for {twice} and {field}, it must be one of them")
            found[field] = column
        return found

    def _unused(self, column: Column) -> str:
        why = self._passed.get(plain_name(column.name))
        if why:
            return f"{column.shown_name} ({why})"
        field = self._meant(column)
        return column.shown_name + (f" (did you mean {field}?)" if field else "")

    def _meant(self, column: Column) -> str:
        """The field that a name is nearest to, nothing for names that mean something else or are far from any."""
        name = plain_name(column.name)
        if name in OTHERS or name in self._passed or name in KNOWN:
            return ""  # a known name of a field that the format does not have is no misspelling of another
        used = set(self._used.values())
        used |= {TIME, ANY_ORIGIN} if used & {TIME, ANY_ORIGIN} else {ANY_ORIGIN}
        free = [field for field in FIELDS if field not in used]
        return nearest_field(name, free)


def nearest_field(name: str, fields: Iterable[str]) -> str:
    """The field one of whose names is near ``name``, or nothing."""
    known: dict[str, str] = {}
    for field in fields:
        names: tuple[str, ...] = TIME_STEMS if field == TIME else ALIASES[field]
        known.update(dict.fromkeys((*names, field), field))
    return known.get(nearest(name, known), "")


def as_given(name: str) -> str:
    """The name of a column as a shell takes it."""
    return shlex.quote(name if name.isidentifier() else json.dumps(name, ensure_ascii=False))


def texts_of(column: Column | None, rows: int) -> list[str]:
    """The cells of a column of texts, nothing where there is no such column."""
    return [""] * rows if column is None else column.texts()


def options_for_columns(options: Mapping[str, Any]) -> Mapping[str, str]:
    """What ``workload.options.columns`` says."""
    found = options.get("columns") or {}
    return found if isinstance(found, Mapping) else {}
