"""``bl.sweep``: many settings on the same requests, and what a sweep is to its user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Unpack

from bufferlab.api.configuration import Config, ConfigLike, config_in, tell_what_was_dropped
from bufferlab.api.drawing import Colour, Named, Plots, next_colours, on_axes, on_axes_of_times
from bufferlab.api.overrides import Overrides, Sections, plain, settings_by_path
from bufferlab.api.results import PathLike, Place, Result, bar_of, refuse_jobs_of_a_cluster, told
from bufferlab.api.runs import asked_for
from bufferlab.api.selection import Select, chosen
from bufferlab.api.speech import must_be, one_of, spoken
from bufferlab.experiments.config.problems import shown
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.figures.curves import DEFAULT_TOKENS, is_numeric, lines_of, swept_columns, without_folder
from bufferlab.experiments.sweeps.plan import make_plan
from bufferlab.experiments.sweeps.sweep import Sweep as SweepTables
from bufferlab.experiments.sweeps.sweep import read_sweep, run_sweep

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from bufferlab.experiments.figures.sweeps import Curve


@spoken
def sweep(
    config: ConfigLike,
    grid: Mapping[str, Sequence[Any]] | None = None,
    *,
    configurations: Sequence[Overrides] = (),
    overrides: Overrides | None = None,
    replications: int | None = None,
    seed: int | None = None,
    baseline: Mapping[str, Any] | None = None,
    jobs: int | None = None,
    executor: Literal["local", "dask"] = "local",
    address: str | None = None,
    out: PathLike | None = None,
    force: bool = False,
    plots: bool = True,
    progress: bool = False,
    **sections: Unpack[Sections],
) -> Sweep:
    """Simulate a grid or list of settings, each with all replications, on the same requests, as ``bufferlab sweep``.

    ``grid``: a list of values by setting, all of which are crossed: ``{"protocol.sizing.tokens": [512, 2048]}``.
    ``configurations``: a list of settings that belong together, crossed with the grid where there is one.
    ``config``, ``overrides`` and ``sections`` (as in ``bufferlab.load``) are common to all of them. ``baseline``: the
    setting each is compared with (the first one unless given). ``jobs``: processes at once; ``executor`` and
    ``address`` are those of the command. ``out``: the folder to write, in which an interrupted sweep goes on when the
    same call is made again; ``force`` starts again over another one. Without ``out`` the sweep lies in a temporary
    folder that goes with the result. ``progress`` shows a bar.

    Raises UserError before anything runs, for every combination that is not allowed, RunFailedError if a run breaks.
    """
    refuse_jobs_of_a_cluster(jobs, executor, address)
    base = asked_for(config, overrides, seed, replications, sections)
    plan = make_plan(
        base.source,
        grid=_flat_grid(grid or {}),
        configurations=[settings_by_path(one) for one in configurations],
        baseline=list(settings_by_path(baseline or {}).items()),
    )
    for one in plan.configurations:
        tell_what_was_dropped(one.config, base)
    place = Place(out, plan.name)
    with bar_of("sweep", len(plan.tasks), "runs", progress=progress) as shown:
        run_sweep(
            plan,
            place.path,
            jobs=jobs,
            executor=executor,
            address=address,
            force=force,
            plots=plots and out is not None,
            begin=shown.begin_with,
            progress=shown.add,
            notice=told,
        )
    return Sweep(place, base)


def _flat_grid(grid: Mapping[str, Any], before: str = "") -> dict[str, list[Any]]:
    """A grid by paths. Raises UserError for what is no list of values."""
    must_be("grid", grid, Mapping, "a dictionary such as {'protocol.sizing.tokens': [512, 2048]}")
    found: dict[str, list[Any]] = {}
    for name, values in grid.items():
        known = plain(values)
        if isinstance(known, Mapping):
            found |= _flat_grid(known, f"{before}{name}.")
        elif isinstance(known, list) and known:
            found |= {f"{before}{name}": known}
        else:
            raise UserError(
                f"the grid has {before}{name} {shown(values)}, it must be a list of values such as [512, 2048]"
            )
    return found


def _figures_of(table: pd.DataFrame) -> list[str]:
    """Those of which low is good: times, and shares of requests, memory and stages."""
    settings = {*swept_columns(table), "configuration", "seed", "replication"}
    numbers = [name for name in table.columns if name not in settings and table[name].dtype.kind in "if"]
    shares = ("rate", "fraction", "occupancy")
    return [
        name for name in numbers if "_s." in name or name.endswith(("_s", *shares)) or name.startswith("utilisation.")
    ]


def _refuse_what_is_no_axis(table: pd.DataFrame, x: str, lines: Sequence[str] | None) -> None:
    swept = swept_columns(table)
    numeric = [name for name in swept if is_numeric(table, name)]
    if x not in numeric:
        none = f"no number was swept, only {', '.join(swept)}; plot.ecdf() and plot.tail() draw any sweep"
        raise UserError(f"x is {x!r}, it must be a number that was swept: {', '.join(numeric)}" if numeric else none)
    for name in lines or ():
        one_of("lines", name, swept)


class Sweep(Result):
    """A finished sweep.

    A notebook shows what came of it in words; ``table`` and ``quantiles`` are tables, ``plot`` draws.
    """

    def __init__(self, place: Place, base: Config | None = None) -> None:
        self._base = base
        self._sweep: SweepTables = read_sweep(place.path)
        super().__init__(place, self._sweep.report)

    @property
    def table(self) -> pd.DataFrame:
        """sweep.parquet: a row for each configuration and replication.

        ``configuration`` (from 1), ``digest``, ``seed``, ``replication`` (from 0), the swept settings by their paths,
        then every figure of a run's summary by its path: ``latency_s.p99`` in seconds, rates from 0 to 1.
        """
        return self._sweep.table

    @property
    def quantiles(self) -> pd.DataFrame:
        """quantiles.parquet: for the same rows ``latency_s`` and ``transfer_s`` (seconds) at each ``share`` (0 to 1) of
        the delivered requests."""
        return self._sweep.quantiles

    @cached_property
    def summary(self) -> pd.DataFrame:
        """A row for each configuration: its settings, then its figures over all replications.

        Index ``configuration`` (from 1). A figure such as ``latency_s.p99`` has its value under its path and its 95 %
        interval under ``latency_s.p99.low`` and ``latency_s.p99.high``.
        """
        import pandas as pd

        from bufferlab.experiments.runs.estimates import FIGURES

        rows = []
        for one in self.content["configurations"]:
            row: dict[str, Any] = {"configuration": one["configuration"], **one["settings"]}
            for figure in FIGURES:
                found: Any = one
                for name in figure.path:
                    found = found[name]
                row |= {figure.name: found["value"]}
                row |= {f"{figure.name}.{bound}": found[bound] for bound in ("low", "high")}
            rows.append(row)
        return pd.DataFrame(rows).set_index("configuration")

    @cached_property
    def differences(self) -> pd.DataFrame:
        """What each configuration changes against its baseline, configuration − baseline on the same requests.

        A row for each configuration but the baselines and each figure; index ``configuration`` (from 1) and ``figure``
        (the path in summary.json, whose ending is the unit). Columns: ``baseline`` (its number), ``difference`` and its
        95 % interval ``low`` and ``high``, ``significant`` (whether that leaves out 0; False where there is none),
        ``baseline_value`` and ``value`` of the two sides, ``pairs`` and ``variance_reduction`` as in a comparison.
        Times are compared in the replications in which both sides delivered every request; NaN stands for what cannot
        be told. Requests that differ, as at another rate, are not compared.
        """
        import pandas as pd

        rows = [
            {
                "configuration": one["configuration"],
                "figure": figure,
                "baseline": one["baseline"],
                "baseline_value": found["first"],
                "value": found["second"],
                "difference": found["value"],
                "low": found["low"],
                "high": found["high"],
                "significant": bool(found["significant"]),
                "pairs": found["pairs"],
                "variance_reduction": found["variance_reduction"],
            }
            for one in self.content["configurations"]
            for figure, found in one.get("differences", {}).items()
        ]
        numbers = ["baseline_value", "value", "difference", "low", "high", "variance_reduction"]
        columns = ["configuration", "figure", "baseline", "difference", "low", "high", "significant"]
        table = pd.DataFrame(rows, columns=[*columns, "baseline_value", "value", "pairs", "variance_reduction"])
        return table.astype(dict.fromkeys(numbers, float)).set_index(["configuration", "figure"])

    @spoken
    def config(self, configuration: int) -> Config:
        """A configuration of the sweep by its number (from 1), to look at or to run: ``bl.simulate(sweep.config(3))``
        simulates again what the sweep did, with its replications, and gives a run that has requests and events.

        Raises UserError for a number that there is not, or where it cannot be made from what the sweep keeps.
        """
        return config_in(self.content, self.path, configuration, self._base)

    @property
    def plot(self) -> SweepPlots:
        """Its pictures."""
        return SweepPlots(self, self._sweep)

    def __repr__(self) -> str:
        plan = self.content["plan"]
        return (
            f"Sweep({plan['name']!r}: {plan['configurations']} configurations × {plan['replications']} replications of "
            f"{', '.join(plan['fields'])})"
        )

    def _rows(self) -> tuple[list[str], list[list[str]]]:
        from bufferlab.experiments.reports.page import setting_text
        from bufferlab.experiments.reports.readings import kind_of, value_text
        from bufferlab.experiments.sweeps.grid import telling_fields

        settings = [one["settings"] for one in self.content["configurations"]]
        fields = telling_fields(self.content["plan"]["fields"], settings)
        figures = ("latency_s.mean", "latency_s.p99", "resume.rate", "language_pool.wasted_fraction")
        rows = []
        for one in self.content["configurations"][:MOST_ROWS]:
            cells = [
                without_folder(setting_text(one["settings"][field])) if field in one["settings"] else "–"
                for field in fields
            ]
            for path in figures:
                head, _, last = path.partition(".")
                cells.append(value_text(one[head][last], kind_of(path)))
            rows.append(cells)
        return [*fields, "mean latency", "p99 latency", "resumed", "held but empty"], rows


MOST_ROWS = 20
"""Configurations that a notebook shows of a sweep; ``table`` and ``summary`` have all of them."""


class SweepPlots(Plots):
    """Pictures of a sweep. Each is drawn on ``ax`` where that is given, in its next colours, and returns the axes.

    ``select``: the configurations to draw, by their numbers, ``[1, 3]``, or by the values of their settings,
    ``{"protocol.sizing.tokens": [512, 2048]}``; all of them unless given. ``labels``: what a key calls the curves, and
    ``colors``, in the order in which they would be drawn.
    """

    def __init__(self, owner: Sweep, sweep: SweepTables) -> None:
        self._owner = owner  # with which its files would go
        self._sweep = sweep

    def u_shape(
        self,
        ax: Axes | None = None,
        *,
        figure: str = "latency_s.p99",
        x: str = DEFAULT_TOKENS,
        lines: Sequence[str] | None = None,
        relative: bool = False,
        select: Select | None = None,
        labels: Sequence[str] | None = None,
        colors: Sequence[Colour] | None = None,
    ) -> Axes:
        """A time in seconds, or a share, against the default allocation (tokens), with 95 % bands.

        ``figure``: a column of ``table``, such as ``ttft_s.p99``, ``resume.rate``, ``language_pool.wasted_fraction``.

        ``x``: another numeric setting that was swept. ``lines``: the settings that tell the curves apart, all that
        differ unless given. A star marks the lowest mean, filled points those that may be the lowest in truth, crosses
        those at which requests failed. ``relative`` draws how far each is above its curve's lowest one, in percent.
        Raises UserError for more curves than can be told apart.
        """
        from bufferlab.experiments.figures.sweeps import draw_u_shape

        table = chosen(self._sweep.table, select)
        _refuse_what_is_no_axis(table, x, lines)
        one_of("figure", figure, _figures_of(table))
        named = Named([name for name, _ in lines_of(table, x, lines)], labels, colors)

        def draw(axes: Axes) -> None:
            draw_u_shape(
                axes, table, x=x, lines=lines, name=figure, relative=relative,
                colours=next_colours(axes, named.colours), labels=named.labels, seconds=True,
            )  # fmt: skip

        return on_axes(ax, draw)

    def tradeoff(
        self,
        ax: Axes | None = None,
        *,
        x: str = DEFAULT_TOKENS,
        lines: Sequence[str] | None = None,
        select: Select | None = None,
        labels: Sequence[str] | None = None,
        colors: Sequence[Colour] | None = None,
    ) -> Axes:
        """Resumed requests (percent) against held memory left empty (percent), a point for each default allocation."""
        from bufferlab.experiments.figures.sweeps import draw_tradeoff

        table = chosen(self._sweep.table, select)
        _refuse_what_is_no_axis(table, x, lines)
        named = Named([name for name, _ in lines_of(table, x, lines)], labels, colors)

        def draw(axes: Axes) -> None:
            colours = next_colours(axes, named.colours)
            draw_tradeoff(axes, table, x=x, lines=lines, colours=colours, labels=named.labels)

        return on_axes(ax, draw)

    def ecdf(
        self,
        ax: Axes | None = None,
        *,
        quantity: Literal["latency_s", "transfer_s"] = "latency_s",
        select: Select | None = None,
        labels: Sequence[str] | None = None,
        colors: Sequence[Colour] | None = None,
    ) -> Axes:
        """The share of the delivered requests within a time, a curve for each configuration, with 95 % bands.

        Raises UserError for more configurations than can be told apart.
        """
        from bufferlab.experiments.figures.sweeps import draw_body

        curves, given = self._curves(quantity, select, labels, colors)
        return on_axes_of_times(ax, draw_body, curves, given, quantity)

    def tail(
        self,
        ax: Axes | None = None,
        *,
        quantity: Literal["latency_s", "transfer_s"] = "latency_s",
        select: Select | None = None,
        labels: Sequence[str] | None = None,
        colors: Sequence[Colour] | None = None,
    ) -> Axes:
        """The share of the delivered requests beyond a time, which shows the slow ones; as ``ecdf`` otherwise."""
        from bufferlab.experiments.figures.sweeps import draw_tail

        curves, given = self._curves(quantity, select, labels, colors)
        return on_axes_of_times(ax, draw_tail, curves, given, quantity)

    def _curves(
        self,
        quantity: str,
        select: Select | None,
        labels: Sequence[str] | None,
        colors: Sequence[Colour] | None,
    ) -> tuple[list[Curve], list[Colour | None]]:
        from bufferlab.experiments.figures.sweeps import distributions

        one_of("quantity", quantity, ("latency_s", "transfer_s"))
        table = chosen(self._sweep.quantiles, select)
        named = Named([name for name, _ in lines_of(table, "")], labels, colors)
        return distributions(table, labels=named.labels, quantity=quantity), named.colours
