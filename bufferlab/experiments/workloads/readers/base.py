"""What a reader of workload files is, and the list of all of them.

A format is one class in a module of its own: it says by which columns it is known, what ``workload.options`` may hold
for it, and turns a file into requests. ``register`` adds it to those that ``find_reader`` asks in turn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.readers.names import plain_name
from bufferlab.sim.workload import Option

if TYPE_CHECKING:
    from bufferlab.sim.workload import Columns

Gives = Literal["requests", "lengths", "clients"]
"""What a format yields: requests with their times, lengths that requests are drawn from, or clients to replay."""


class ColumnsOption(Option, frozen=True, kw_only=True):
    """Which column of a file is which field: a table of texts."""

    def wrong(self, value: Any) -> str:
        """Say what ``value`` should have been, as the end of a sentence; empty if it is right."""
        if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
            return ""
        return 'must be a table of names such as {total_tokens = "my column"}'


TIME_UNIT = Option(
    default="auto",
    choices=("auto", "s", "ms", "us", "ns"),
    help="the unit of times that are numbers; auto takes what the format or the column's name says",
)
COLUMNS = ColumnsOption(default="", help='which column is which field, such as {total_tokens = "my column"}')
TICKS = Option(
    default="spread",
    choices=("spread", "kept"),
    help="requests that share a coarse time stamp are spread evenly until the next, or all come at once",
)
TABLE_OPTIONS: dict[str, Option] = {"time_unit": TIME_UNIT, "columns": COLUMNS}


@dataclass(frozen=True)
class Head:
    """What readers recognise a file by: its kind, and the names of its columns as ``plain_name`` writes them."""

    path: Path
    container: str
    """csv, jsonl, parquet or folder."""
    columns: frozenset[str] = frozenset()

    def has(self, *names: str) -> bool:
        """Whether all of these columns are there."""
        return self.columns.issuperset(names)


@dataclass(frozen=True)
class Reading:
    """The requests of a file in order of arrival, and what a user must know about how they were read."""

    columns: Columns
    rows: int
    """Rows of the file, those that were left out included."""
    notes: tuple[str, ...] = ()


class Reader(ABC):
    """One format of workload files."""

    title: ClassVar[str]
    """What such a file is, as a sentence names it."""
    gives: ClassVar[Gives] = "requests"
    options: ClassVar[Mapping[str, Option]] = {}
    """What ``workload.options`` may hold for it."""

    @classmethod
    @abstractmethod
    def matches(cls, head: Head) -> bool:
        """Whether a file is of this format."""

    def read(self, path: Path, options: Mapping[str, Any]) -> Reading:
        """Its requests. Raises UserError naming the file, its column and line, and what is wrong."""
        raise UserError(f"workload.file is {str(path)!r}, {self.title}, which holds no requests")


Kind = TypeVar("Kind", bound=type[Reader])

_READERS: list[type[Reader]] = []


def register(reader: Kind) -> Kind:
    """Make a format known; used as a decorator of its class."""
    _READERS.append(reader)
    return reader


def readers() -> tuple[type[Reader], ...]:
    """All formats that are known."""
    return tuple(_READERS)


def mapped(columns: frozenset[str], mapping: Any) -> frozenset[str]:
    """The columns without those that ``workload.options.columns`` gives to a field, and with these fields."""
    if not isinstance(mapping, Mapping):
        return columns
    names = {plain_name(str(text)) for pair in mapping.items() for text in pair}
    return (columns - names) | {plain_name(str(field)) for field in mapping}
