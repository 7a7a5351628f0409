"""What all results have in common: files in a folder, which goes with the result unless it was given a place."""

from __future__ import annotations

import html
import inspect
import os
import warnings
import weakref
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bufferlab.api.speech import must_be, one_of, spoken
from bufferlab.api.temporary import new_folder, remove
from bufferlab.experiments.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from bufferlab.experiments.progress import Bar
    from bufferlab.experiments.reports.page import Part

PathLike = Path | str


class Place:
    """The folder of a result: one that was asked for, or a temporary one, which lives as long as this object."""

    def __init__(self, out: PathLike | None, name: str = "") -> None:
        self.is_temporary = out is None
        if out is not None:
            must_be("out", out, (str, Path), "a path")
            self.path = Path(os.path.abspath(out))  # noqa: PTH100 - resolve() would follow a link
            return
        folder = new_folder()
        weakref.finalize(self, remove, folder, os.getpid())
        self.path = folder / name


class Result:
    """A finished result, and the folder with its files."""

    def __init__(self, place: Place, content: Mapping[str, Any]) -> None:
        self._place = place
        self._content = content

    @property
    def path(self) -> Path:
        """Its folder, with the files that the command writes; without ``out`` a temporary one, which goes with this
        object."""
        return self._place.path

    @property
    def content(self) -> Mapping[str, Any]:
        """All that is known, as its JSON file holds it."""
        return self._content

    def _called(self) -> str:
        """What a sentence calls it where its folder says nothing."""
        return f"the {type(self).__name__.lower()}"

    @cached_property
    def table(self) -> pd.DataFrame:
        """Its numbers as a table."""
        raise NotImplementedError

    @spoken
    def report(self, out: PathLike | None = None) -> Path:
        """Write one self-contained HTML page about it, as ``bufferlab report`` does, and return where that is.

        ``out``: a file whose name ends in .html; without it ``NAME.report.html`` beside the folder. Raises UserError
        where that cannot be written, or where something stands that is no report.
        """
        from bufferlab.experiments.reports.command import write_report

        return write_report(self._folders(), None if out is None else Path(out)).path

    def _folders(self) -> list[Path]:
        """The folders that its page is about."""
        return [self.path]

    def __repr__(self) -> str:
        raise NotImplementedError

    def _head(self) -> Part:
        """The words and the few numbers that its page begins with."""
        from bufferlab.experiments.reports.command import head_of
        from bufferlab.experiments.reports.sources import read_source

        return head_of(read_source(self.path))

    def _rows(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows of the small table that a notebook shows."""
        figures = self._head().figures
        return ["figure", "value", ""], [[one.label, one.cell.text, one.cell.interval] for one in figures]

    def _repr_html_(self) -> str:
        head = self._head()
        verdict = f" — {head.verdict_words}" if head.verdict is not None else ""
        said = [f"<p><strong>{html.escape(f'{head.title}, {head.kicker}{verdict}')}</strong></p>"]
        said += [f"<p><strong>{html.escape(f'{one.word}: {one.text}')}</strong></p>" for one in head.notices]
        said += [f"<p>{html.escape(sentence)}</p>" for sentence in head.answer]
        names, rows = self._rows()
        return "".join([*said, html_table(names, rows) if rows else ""])


def html_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A small table; everything in it is escaped."""
    cells = "".join(f"<th>{html.escape(one)}</th>" for one in head)
    lines = "".join(f"<tr>{''.join(f'<td>{html.escape(one)}</td>' for one in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>"


def bar_of(title: str, total: int | None, unit: str, *, progress: bool) -> AbstractContextManager[Bar]:
    """A bar for whoever asked for one."""
    from bufferlab.experiments.progress import bar

    return bar(title, total, unit, shown=progress)


def refuse_jobs_of_a_cluster(jobs: int | None, executor: str, address: str | None) -> None:
    """Raise UserError for what is no number of processes or no executor, and if a number is given where a cluster that
    runs already decides on that."""
    if jobs is not None:
        must_be("jobs", jobs, int, "a whole number of processes")
    one_of("executor", executor, ("local", "dask"))
    if jobs is not None and executor == "dask" and address is not None:
        raise UserError("jobs has no effect with address: the cluster decides how many runs it has at once")


def told(line: str) -> None:
    """What must not be overlooked of a run that goes on: a line that a command prints beside its bar."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).startswith("bufferlab."):
        level, frame = level + 1, frame.f_back
    warnings.warn(line, stacklevel=level)  # the line that is shown is that of whoever called us
