"""``bl.paired``: what differs between two runs of the same requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bufferlab.api.drawing import Colour, Named, Plots, on_axes_of_times
from bufferlab.api.results import PathLike, Place, Result, bar_of
from bufferlab.api.runs import Quantity, Run
from bufferlab.api.speech import must_be, spoken
from bufferlab.experiments.runs.paired import compare_paired, paired_text
from bufferlab.experiments.runs.rundir import StoredRun, count_records

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from bufferlab.experiments.figures.sweeps import Curve
    from bufferlab.experiments.reports.page import Part


@spoken
def paired(first: Run | PathLike, second: Run | PathLike, *, progress: bool = False) -> Paired:
    """What a setting changes: the differences of two runs of the same requests, as ``bufferlab paired`` has them.

    Replications are matched by their number and requests by theirs, so that what chance does to both drops out.
    ``progress`` shows a bar. Raises UserError unless both ran the same requests and kept their events.
    """
    runs = (_run("first", first), _run("second", second))
    folders = [run.path for run in runs]
    with bar_of("paired", count_records(*folders), "events", progress=progress) as shown:
        content = compare_paired(folders[0], folders[1], progress=shown.add)
    return Paired(runs, content)


def _run(name: str, run: Run | PathLike) -> Run:
    must_be(name, run, (Run, str, Path), "a run (bl.Run) or the folder of one")
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
        of the difference). NaN and <NA> stand for what cannot be told; ``table[table.significant]`` leaves those out.
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
        table = pd.DataFrame(rows, columns=columns).astype({"significant": "boolean"})
        return table.set_index("figure")

    @property
    def text(self) -> str:
        """The table that the command prints."""
        return paired_text(self.content)

    @property
    def plot(self) -> PairedPlots:
        """Its pictures."""
        return PairedPlots(self._runs, self.content)

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
        difference = "difference (of shares in percentage points, pp)"
        return ["figure", "first", "second", difference, "95 % interval", "significant"], rows

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


class PairedPlots(Plots):
    """Pictures of both runs. Each is drawn on ``ax`` where that is given, in its next colours, and returns the axes.

    ``labels``: what a key calls the two; ``colors``: their colours.
    """

    def __init__(self, runs: tuple[Run, Run], content: Mapping[str, Any]) -> None:
        self._runs = runs
        self._content = content

    @property
    def labels(self) -> list[str]:
        """What a key calls the runs unless it is told: their names or, where these are the same, what differs."""
        names = [run.config.run.name for run in self._runs]
        if names[0] != names[1]:
            return names
        return told_apart(self._content["settings"]) or ["first", "second"]

    def ecdf(
        self,
        ax: Axes | None = None,
        *,
        quantity: Quantity = "latency_s",
        labels: Sequence[str] | None = None,
        colors: Sequence[Colour] | None = None,
    ) -> Axes:
        """The share of the delivered requests within a time, a curve for each run."""
        from bufferlab.experiments.figures.sweeps import draw_body

        curves, given = self._curves(quantity, labels, colors)
        return on_axes_of_times(ax, draw_body, curves, given, quantity)

    def tail(
        self,
        ax: Axes | None = None,
        *,
        quantity: Quantity = "latency_s",
        labels: Sequence[str] | None = None,
        colors: Sequence[Colour] | None = None,
    ) -> Axes:
        """The share of the delivered requests beyond a time, which shows the slow ones."""
        from bufferlab.experiments.figures.sweeps import draw_tail

        curves, given = self._curves(quantity, labels, colors)
        return on_axes_of_times(ax, draw_tail, curves, given, quantity)

    def _curves(
        self, quantity: str, labels: Sequence[str] | None, colors: Sequence[Colour] | None
    ) -> tuple[list[Curve], list[Colour | None]]:
        from bufferlab.experiments.figures.sweeps import distributions

        named = Named(self.labels, labels, colors)
        stored = [StoredRun(run.path) for run in self._runs]
        return distributions(stored, labels=named.labels, quantity=quantity), named.colours


MOST_TOLD = 3
"""Settings that a key names of two that differ in many."""


def told_apart(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of two sides by the settings in which they differ: ``tokens 512``, ``policy quantile``."""
    from bufferlab.experiments.figures.curves import without_folder

    # What one of the two does not have follows from another setting: the options of a policy.
    both = [one for one in settings if one["first"] is not None and one["second"] is not None] or list(settings)
    names = []
    for side in ("first", "second"):
        parts = []
        for one in both[:MOST_TOLD]:
            value, last = one[side], one["name"].rpartition(".")[2]
            shown = "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
            parts.append(without_folder(shown) if last == "policy" else f"{last} {without_folder(shown)}")
        names.append(", ".join(parts))
    return names if names and names[0] != names[1] else []
