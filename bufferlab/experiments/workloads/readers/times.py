"""Times of any form as seconds: numbers in any unit, from the run's start or since 1970, dates, durations.

What a number means is decided by what says so (``workload.options.time_unit``, the end of the column's name, the
format's own documentation) and by what cannot be otherwise (a count since 1970 is of this century in one unit only).
Where nothing decides it, the file is refused in a sentence that names the option.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.units import format_span
from bufferlab.experiments.workloads.readers.limits import YEAR_S, check_arrivals

if TYPE_CHECKING:
    from bufferlab.experiments.workloads.readers.cells import Column

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
OPTION = "workload.options.time_unit"
CHOICES = 'say workload.options.time_unit = "s", "ms", "us" or "ns"'
EARLIEST_S, LATEST_S = 946_684_800, 4_102_444_800
"""Counts since 1970 that are moments of this century: 2000 to 2100."""
FEW_REQUESTS = 20
"""So few may be far apart in any service."""
SLOWEST_RPS, FASTEST_RPS = 0.002, 1000.0
"""Between them are the rates of services; a count that is a moment of this century only by chance has others."""
HALF_DAY_S = 43_200
IN_ORDER = 0.8
"""A file is in order of time if so many of its steps are; logs are written when requests end, so not all are."""
FEW_DAYS = 4
"""So few requests may all come at midnight."""
LATE_S, FAR_BACK_S = 60.0, 3600.0
MOST_ROUNDED_S = 0.01
DATED_TIME = "a date with its time of day, such as 2024-10-15T12:00:00.25Z"
FRACTION = re.compile(r"(:\d{2}),(\d)")
ZONE = re.compile(r"(Z|UTC|[T ][\d:.,]+\s*[+-](?P<ahead>\d{2}:?(\d{2})?))$", re.IGNORECASE)
DAY = re.compile(r"\d{4}-\d{2}(-\d{2})?")
CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?")


@dataclass(frozen=True)
class Documented:
    """What is published about the times of a format."""

    unit: str
    by: str
    """Whose documentation says so, as part of a sentence: ``because Mooncake's are``."""
    whole: bool = False
    """Whether the times are whole numbers by the documentation; fractions then mean that the file counts seconds."""
    slowest_rps: float = 0.0
    fastest_rps: float = np.inf
    """The highest plausible rate. Beyond it the file more likely counts in another unit."""


@dataclass
class Times:
    """Seconds, and what a user must know about how they were found."""

    seconds: np.ndarray
    notes: list[str] = field(default_factory=list)


def read_times(
    column: Column,
    *,
    chosen: str = "auto",
    named: str | None = None,
    documented: Documented | None = None,
    from_start: bool = False,
) -> Times:
    """The times of a column, in the unit that the user chose, that its name says or that its format is documented to
    have. ``from_start``: numbers count from the run's start, others from any moment.

    Raises UserError for a cell that is no time, for numbers whose unit nothing says, and for times that no service has.
    """
    moments = _typed(column)
    if moments is None:
        numbers, bad = column.numbers()
        if not bad.any():
            wrong = ~np.isfinite(numbers) | (numbers < 0)
            if wrong.any():
                raise column.refuse(int(wrong.argmax()), "a number of at least 0")
            unit, notes = _unit(column, numbers, chosen, named, documented)
            _refuse_rounded(column, numbers, unit)
            found = _of_numbers(numbers, (unit, notes), from_start=from_start)
            check_arrivals(found.seconds, _subject(column), f"; {CHOICES} if it is another unit")
            return found
        if bad.all() or not _is_number(column, 0, bad):
            moments = _of_texts(column)
        else:
            raise column.refuse(int(bad.argmax()), "a number, as in the rows before")
    if chosen != "auto":
        raise UserError(
            f"{OPTION} is {chosen!r}, which is only for times that are numbers; {column.shown_name} of "
            f"{column.path.name} holds {'dates' if moments.dated else 'durations'}"
        )
    found = moments.times(column, from_start=from_start)
    check_arrivals(found.seconds, _subject(column))
    return found


def _subject(column: Column) -> str:
    return f"workload.file {column.path.name}: the times in {column.shown_name}"


def _is_number(column: Column, row: int, bad: np.ndarray) -> bool:
    return not bad[row] or column.told(row) == "empty"


# --- dates and durations -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Moments:
    """Whole counts of ``per_second`` parts since some moment; ``first`` names the earliest where they are dates."""

    counts: np.ndarray
    per_second: int
    first: str = ""
    notes: tuple[str, ...] = ()

    @property
    def dated(self) -> bool:
        return bool(self.first)

    def times(self, column: Column, *, from_start: bool) -> Times:
        low = int(self.counts.min()) if len(self.counts) else 0
        if self.dated:
            note = f"times are dates from {self.first} on, moved so that the first is at 0"
            return Times((self.counts - low) / self.per_second, [note])
        if low < 0:
            raise column.refuse(int(self.counts.argmin()), "a time that is not negative")
        if from_start or low == 0:
            return Times(self.counts / self.per_second, [*self.notes])
        return Times((self.counts - low) / self.per_second, [*self.notes, _moved(low / self.per_second)])


def _moved(by_s: float) -> str:
    return f"times moved by {format_span(by_s)} so that the first is at 0"


def _typed(column: Column) -> _Moments | None:
    """The times of a column whose type says what they are, None for any other."""
    if column.type is None:
        return None
    import pyarrow as pa
    import pyarrow.types as kinds

    values, kind = column.values, column.type
    if kinds.is_dictionary(kind):
        values = values.cast(kind.value_type)
        kind = values.type
    if kinds.is_date(kind) and len(values):
        raise column.refuse(0, DATED_TIME)
    if not (kinds.is_timestamp(kind) or kinds.is_duration(kind) or kinds.is_time(kind)):
        return None
    missing = values.is_null().to_numpy()
    if missing.any():
        raise column.refuse(int(missing.argmax()), "a time")
    whole = pa.int32() if kinds.is_time32(kind) else pa.int64()
    counts = values.cast(whole).cast(pa.int64()).to_numpy()
    if kinds.is_time(kind):
        _refuse_midnight(column, counts / PER_SECOND[kind.unit])
    if kinds.is_timestamp(kind):
        _refuse_days(column, counts, PER_SECOND[kind.unit])
    first = str(np.datetime64(int(counts.min()), kind.unit)) if kinds.is_timestamp(kind) and len(counts) else ""
    return _Moments(counts, PER_SECOND[kind.unit], first.replace("T", " "))


def _refuse_midnight(column: Column, seconds: np.ndarray) -> None:
    """Times of day that pass midnight begin again at 0, and those of two days look like one, which is no order."""
    steps = np.diff(seconds)
    if not len(steps) or seconds.max() == seconds.min():
        return
    # Newest first is an order as well.
    ascending = bool(np.mean(steps >= 0) >= IN_ORDER)
    if ascending or np.mean(steps <= 0) >= IN_ORDER:
        against = -steps if ascending else steps
        span_s = float(seconds.max() - seconds.min())
        far = np.flatnonzero(against > max(min(span_s / 2, FAR_BACK_S), LATE_S))
        if len(far):
            row = int(far[0])
            why = "pass midnight" if against[row] > HALF_DAY_S else f"go back by {format_span(float(against[row]))}"
            raise column.refuse(row + 1, f"a time with its date, since these {why}")
    if not ascending and np.diff(np.sort(seconds)).max() > HALF_DAY_S:
        back = np.flatnonzero(steps < -HALF_DAY_S)
        raise column.refuse(int(back[0]) + 1 if len(back) else 0, "a time with its date, since these pass midnight")


def _refuse_days(column: Column, counts: np.ndarray, per_second: int) -> None:
    """Days without a time of day: requests of a whole day would come at once."""
    if len(counts) >= FEW_DAYS and len(np.unique(counts)) > 1 and not (counts % (86_400 * per_second)).any():
        raise column.refuse(0, DATED_TIME)


def _refuse_rounded(column: Column, numbers: np.ndarray, unit: str) -> None:
    """Raise UserError for numbers of 32 bits that are so large that neighbouring ones are far apart."""
    import pyarrow.types as kinds

    kind = column.type
    if kind is None or not (kinds.is_float32(kind) or kinds.is_float16(kind)):
        return
    like = np.float32 if kinds.is_float32(kind) else np.float16
    apart_s = float(np.spacing(like(np.abs(numbers).max()))) / PER_SECOND[unit]
    if apart_s > MOST_ROUNDED_S:
        raise column.refuse(
            int(numbers.argmax()),
            f"a number of 64 bits: those of {32 if like is np.float32 else 16} are {format_span(apart_s)} apart at "
            f"this size, so the times are lost",
        )


def _of_texts(column: Column) -> _Moments:
    """Dates and times as ISO 8601 writes them, or durations such as 00:01:30, 1.5s and 0 days 00:00:02."""
    import pandas as pd

    texts = column.texts()
    wanted = "a date and time as ISO 8601 writes it, such as 2024-10-15T12:00:00.25Z"
    if not texts[0]:
        raise column.refuse(0, "a time")
    if CLOCK.fullmatch(texts[0]) or not _is_date(texts[0]):
        filled = [f"{text}:00" if text.count(":") == 1 and CLOCK.fullmatch(text) else text for text in texts]
        # A bare number is no duration for us, though pandas takes it for nanoseconds.
        durations = pd.to_timedelta(pd.Series(filled, dtype=object), errors="coerce").astype("timedelta64[ns]")
        bare = np.fromiter((text.replace(".", "", 1).isdigit() for text in texts), dtype=bool, count=len(texts))
        missing = durations.isna().to_numpy() | bare
        if missing[0]:
            raise column.refuse(0, wanted + _unit_hint(texts[0]))
        if missing.any():
            raise column.refuse(int(missing.argmax()), "a duration, as in the rows before")
        counts = durations.to_numpy().astype(np.int64)
        notes = []
        if CLOCK.fullmatch(texts[0]):
            _refuse_midnight(column, counts / 1e9)
        if any(text.count(":") == 1 for text in texts):
            notes.append(
                f"times such as {texts[0]} in {column.name} read as hours and minutes; write seconds as well "
                f"(0:01:30) if they are minutes and seconds"
            )
        return _Moments(counts, 10**9, notes=tuple(notes))
    days = [row for row, text in enumerate(texts) if DAY.fullmatch(text)]
    if days:
        raise column.refuse(days[0], DATED_TIME)
    # Logs write a comma before fractions, and the zone's name; a date and a time are a moment of UTC without it.
    written = [FRACTION.sub(r"\1.\2", text.removesuffix("UTC").rstrip()) for text in texts]
    moments = pd.to_datetime(pd.Series(written, dtype=object), utc=True, format="ISO8601", errors="coerce")
    bare = np.fromiter((text.isdigit() for text in texts), dtype=bool, count=len(texts))
    missing = moments.isna().to_numpy() | bare
    if missing.any():
        raise column.refuse(int(missing.argmax()), wanted)
    zones = [ZONE.search(text) for text in texts]
    # A time without a zone is one of UTC, unless its neighbours have another zone.
    if any(zone is not None and zone["ahead"] and zone["ahead"].strip("0:") for zone in zones) and not all(zones):
        like = "with its zone" if zones[0] else "without a zone"
        row = next(row for row, zone in enumerate(zones) if (zone is None) is not (zones[0] is None))
        raise column.refuse(row, f"a time {like}, as in the rows before")
    try:
        counts = moments.dt.tz_localize(None).astype("datetime64[ns]").to_numpy().astype(np.int64)
    except ValueError:  # pandas' own error for what nanoseconds cannot hold
        raise UserError(f"{_subject(column)} must lie between the years 1678 and 2262") from None
    _refuse_days(column, counts, 10**9)
    return _Moments(counts, 10**9, str(moments.min().tz_localize(None)))


def _is_date(text: str) -> bool:
    return re.match(r"\d{4}-\d{2}(-\d{2})?|\d{8}T", text) is not None


def _unit_hint(text: str) -> str:
    return "; if it is a day and a month, write the year first" if re.match(r"\d{1,2}[/.]\d{1,2}[/.]\d", text) else ""


# --- numbers -----------------------------------------------------------------------------------------------------


def _of_numbers(numbers: np.ndarray, decided: tuple[str, list[str]], *, from_start: bool) -> Times:
    unit, notes = decided
    low = numbers.min()
    if low == 0 or (from_start and float(low) / PER_SECOND[unit] <= YEAR_S):
        return Times(numbers / PER_SECOND[unit], notes)
    return Times((numbers - low) / PER_SECOND[unit], [*notes, _moved(float(low) / PER_SECOND[unit])])


def _unit(
    column: Column, numbers: np.ndarray, chosen: str, named: str | None, documented: Documented | None
) -> tuple[str, list[str]]:
    """The unit of some numbers, and the note that says why."""
    if chosen != "auto":
        return chosen, [f"times read as {UNIT_NAMES[chosen]}, as {OPTION} says"]
    low, high = float(numbers.min()), float(numbers.max())
    since_1970 = [one for one, per in PER_SECOND.items() if low / per >= EARLIEST_S and high / per <= LATEST_S]
    if named is not None:
        if low / PER_SECOND[named] > YEAR_S and named not in since_1970:
            meant = f"; they are of this century as {UNIT_NAMES[since_1970[0]]} since 1970" if since_1970 else ""
            raise UserError(f"{_in_first(column)}, which is no time in {UNIT_NAMES[named]}{meant}; {CHOICES}")
        if named not in since_1970 and since_1970 and SLOWEST_RPS <= _rate(numbers, since_1970[0]) <= FASTEST_RPS:
            raise UserError(
                f"{_in_first(column)}, which is of this century as {UNIT_NAMES[since_1970[0]]} since 1970, but its "
                f"name says {UNIT_NAMES[named]}; {CHOICES} ({_rates(numbers)})"
            )
        return named, []
    if documented is not None:
        return _documented(column, numbers, documented, since_1970)
    if since_1970 and (len(numbers) < FEW_REQUESTS or not 0 < _rate(numbers, since_1970[0]) < SLOWEST_RPS):
        return since_1970[0], [f"times read as {UNIT_NAMES[since_1970[0]]} since 1970, which puts them in this century"]
    if low == high:
        return "s", []  # all at once, in whatever unit
    raise UserError(
        f"{_in_first(column)}, and nothing says in which unit; {CHOICES} ({_rates(numbers)}), "
        f"or end the column's name in _s, _ms, _us or _ns"
    )


def _in_first(column: Column) -> str:
    return f"{column.where(0)}: {column.shown_name} is {column.told(0)}"


def _rates(numbers: np.ndarray) -> str:
    """What the rate would be in the units in which it is not absurd."""
    found = {unit: _rate(numbers, unit) for unit in PER_SECOND}
    likely = {unit: rate for unit, rate in found.items() if 1e-4 <= rate <= 1e4} or found
    return ", ".join(f"as {unit}: {rate:.3g} requests a second" for unit, rate in likely.items())


def _rate(numbers: np.ndarray, unit: str) -> float:
    span = float(numbers.max() - numbers.min())
    return (len(numbers) - 1) / span * PER_SECOND[unit] if span > 0 else 0.0


def _documented(
    column: Column, numbers: np.ndarray, documented: Documented, since_1970: list[str]
) -> tuple[str, list[str]]:
    """The unit that a format is said to have, unless the numbers speak against it."""
    unit = documented.unit

    def likely(one: str) -> bool:
        rate = _rate(numbers, one)
        slow = rate < documented.slowest_rps and len(numbers) >= FEW_REQUESTS
        return rate == 0 or (rate <= documented.fastest_rps and not slow)

    fractions = documented.whole and numbers.dtype == float and bool((numbers % 1 != 0).any())
    if fractions:
        if likely("s") and not likely(unit):
            return "s", [
                f"times read as seconds, because they have fractions and {documented.by} whole {UNIT_NAMES[unit]}"
            ]
        against = "which has a fraction"
    elif since_1970 and unit not in since_1970:
        against = f"which is of this century as {UNIT_NAMES[since_1970[0]]} since 1970"
    elif not likely(unit):
        against = f"which would be {_rate(numbers, unit):.3g} requests a second"
    else:
        return unit, []
    row = int((numbers % 1 != 0).argmax()) if fractions else 0
    raise UserError(
        f"{column.where(row)}: {column.shown_name} is {column.told(row)}, {against}, but {documented.by} "
        f"{'whole ' if documented.whole else ''}{UNIT_NAMES[unit]}; {CHOICES} ({_rates(numbers)})"
    )
