"""``bl.paired``: what differs between two runs of the same requests."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bufferlab.api.drawing import on_axes
from bufferlab.api.results import PathLike, Place, Result, bar_of
from bufferlab.api.runs import Quantity, Run
from bufferlab.experiments.runs.paired import compare_paired, paired_text
from bufferlab.experiments.runs.rundir import StoredRun, count_records

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from bufferlab.experiments.reports.page import Part


def paired(first: Run | PathLike, second: Run | PathLike, *, progress: bool = False) -> Paired:
    """What a setting changes: the differences of two runs of the same requests, as ``bufferlab paired`` has them.

    Replications are matched by their number and requests by theirs, so that what chance does to both drops out.
    ``progress`` shows a bar. Raises UserError unless both ran the same requests and kept their events.
    """
    runs = (_run(first), _run(second))
    folders = [run.path for run in runs]
    with bar_of("paired", count_records(*folders), "events", progress=progress) as shown:
        content = compare_paired(folders[0], folders[1], progress=shown.add)
    return Paired(runs, content)


def _run(run: Run | PathLike) -> Run:
    return run if isinstance(run, Run) else Run(Place(run))


class Paired(Result):
    """The differences of two runs, second − first. A notebook shows them in words; ``table`` has all of them."""

    def __init__(self, runs: tuple[Run, Run], content: Mapping[str, Any]) -> None:
        self._runs = runs
        super().__init__(Place(runs[0].path), content)

    @property
    def runs(self) -> tuple[Run, Run]:
        """The two runs."""
        return self._runs

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each figure: ``first``, ``second``, ``difference`` (second − first) and its 95 % interval.

        The index ``figure`` is the path in summary.json, whose ending is the unit (``latency_s.p99`` in seconds).
        Further columns: ``low`` and ``high`` (the interval), ``significant`` (whether it leaves out 0), ``pairs`` (from
        how many replications or batches it comes), ``variance_reduction`` (by what factor pairing lowers the variance
        of the difference). NaN and None stand for what cannot be told.
        """
        import pandas as pd

        from bufferlab.experiments.runs.estimates import FIGURES

        rows = []
        for figure in FIGURES:
            found: Any = self.content["differences"]
            for name in figure.path:
                found = found[name]
            rows.append({"figure": figure.name, "difference": found["value"], **{name: found[name] for name in SHOWN}})
        columns = ["figure", "first", "second", "difference", *SHOWN[2:]]
        return pd.DataFrame(rows, columns=columns).set_index("figure")

    @property
    def text(self) -> str:
        """The table that the command prints."""
        return paired_text(self.content)

    @property
    def plot(self) -> PairedPlots:
        """Its pictures."""
        return PairedPlots(self._runs)

    def _folders(self) -> list[Path]:
        return [run.path for run in self._runs]

    def _head(self) -> Part:
        from bufferlab.experiments.reports.compared import paired_head
        from bufferlab.experiments.reports.sources import read_source

        return paired_head([read_source(path) for path in self._folders()], self.content, self.plot.labels)

    def _rows(self) -> tuple[list[str], list[list[str]]]:
        from bufferlab.experiments.reports.compared import SHOWN as FIGURES
        from bufferlab.experiments.reports.readings import interval_text, kind_of, value_text
        from bufferlab.experiments.reports.wording import at, figure_name

        rows = []
        for path in FIGURES:
            one, kind = at(self.content["differences"], path), kind_of(path)
            if one["value"] is None:
                continue
            sides = [value_text({"value": one[side], "low": None, "high": None}, kind) for side in ("first", "second")]
            difference, interval = value_text(one, kind, signed=True), interval_text(one, kind, signed=True)
            rows.append([figure_name(path), *sides, difference, interval, "*" if one["significant"] else ""])
        return ["figure", "first", "second", "difference", "95 % interval", "significant"], rows

    def __repr__(self) -> str:
        from bufferlab.experiments.units import format_duration

        one = self.content["differences"]["latency_s"]["p99"]
        names = " and ".join(repr(run.config.run.name) for run in self._runs)
        requests = self.content["requests"]["compared"]
        if one["value"] is None:
            return f"Paired({names}, {requests} requests compared)"
        sign = "-" if one["value"] < 0 else "+"
        clear = "" if one["significant"] else ", which may be none"
        return f"Paired({names}, {requests} requests: p99 latency {sign}{format_duration(abs(one['value']))}{clear})"


SHOWN = ("first", "second", "low", "high", "significant", "pairs", "variance_reduction")


class PairedPlots:
    """Pictures of both runs. Each is drawn on ``ax`` where that is given, and returns the axes."""

    def __init__(self, runs: tuple[Run, Run]) -> None:
        self._runs = runs

    def _stored(self) -> list[StoredRun]:
        return [StoredRun(run.path) for run in self._runs]

    @property
    def labels(self) -> list[str]:
        """What a key calls the runs: their names, where these differ."""
        names = [run.config.run.name for run in self._runs]
        return names if names[0] != names[1] else ["first", "second"]

    def ecdf(self, ax: Axes | None = None, *, quantity: Quantity = "latency_s") -> Axes:
        """The share of the delivered requests within a time, a curve for each run."""
        from bufferlab.experiments.figures.sweeps import distributions, draw_body

        curves = distributions(self._stored(), labels=self.labels, quantity=quantity)
        return on_axes(ax, lambda axes: draw_body(axes, curves, quantity=quantity))

    def tail(self, ax: Axes | None = None, *, quantity: Quantity = "latency_s") -> Axes:
        """The share of the delivered requests beyond a time, which shows the slow ones."""
        from bufferlab.experiments.figures.sweeps import distributions, draw_tail

        curves = distributions(self._stored(), labels=self.labels, quantity=quantity)
        return on_axes(ax, lambda axes: draw_tail(axes, curves, quantity=quantity))
