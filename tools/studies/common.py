"""What all studies share: their sweeps, estimates with intervals, and how figures are written down."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.progress import bar
from bufferlab.experiments.stats.intervals import Estimate, across_replications
from bufferlab.experiments.stats.paired import Difference, paired
from bufferlab.experiments.stats.selection import possibly_lowest
from bufferlab.experiments.sweeps.grid import read_configurations
from bufferlab.experiments.sweeps.plan import make_plan
from bufferlab.experiments.sweeps.sweep import run_sweep

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SETTINGS = "settings.toml"


@dataclass(frozen=True)
class Scale:
    """How much is run. None: what the study's own files say."""

    requests: int | None = None
    replications: int | None = None
    jobs: int | None = None
    seed: int | None = None

    def settings(self) -> list[str]:
        """The same as settings of a configuration."""
        given = {"workload.requests": self.requests, "run.replications": self.replications, "run.seed": self.seed}
        return [f"{field}={value}" for field, value in given.items() if value is not None]


@dataclass(frozen=True)
class Outcome:
    """What a study comes to: a row for every setting, its picture, and sentences that can be quoted."""

    rows: list[dict[str, Any]]
    """For the CSV file: what was set, then figures; of an estimate its value, low and high."""
    columns: Mapping[str, Callable[[dict[str, Any]], str]]
    """The columns of the table on the page, and what stands in them."""
    figure: Figure
    answer: str


@dataclass(frozen=True)
class Study:
    """A question, and how it is answered from the files of its folder."""

    name: str
    title: str
    run: Callable[[Path, Path, Scale], Outcome]
    """From the folder of the study and a folder in which runs are kept."""


def swept(folder: Path, runs: Path, scale: Scale, config: str = "study.toml") -> pd.DataFrame:
    """The rows of the sweep of ``config`` over the study's settings; what is finished in ``runs`` is not run again."""
    configurations, grid = read_configurations(folder / SETTINGS)
    plan = make_plan(str(folder / config), grid=grid, configurations=configurations, settings=scale.settings())
    with bar(Path(config).stem, len(plan.tasks), "runs") as shown:
        out = runs / f"{Path(config).stem}-{plan.identity[:8]}"
        sweep = run_sweep(plan, out, jobs=scale.jobs, begin=shown.begin_with, progress=shown.add, force=not _same(out))
    return sweep.table


def _same(out: Path) -> bool:
    """Whether a sweep that stands there may be gone on with; one of older code is begun again."""
    from bufferlab.experiments.sweeps.folder import code_digest, read_plan

    record = read_plan(out)
    return record is None or record.get("code") == code_digest()


def chosen(table: pd.DataFrame, **settings: Any) -> pd.DataFrame:
    """The rows in which fields (with ``__`` for a dot) have these values."""
    for name, value in settings.items():
        table = table[table[name.replace("__", ".")] == value]
    return table


def values(table: pd.DataFrame, figure: str) -> list[float | None]:
    """A figure of every replication, in their order; None where there is none."""
    ordered = table.sort_values("replication")
    return [None if math.isnan(value) else float(value) for value in ordered[figure].astype(float)]


def estimate(table: pd.DataFrame, figure: str) -> Estimate:
    """Mean of a figure over the replications with its 95 % interval."""
    return across_replications(values(table, figure))


def difference(first: pd.DataFrame, second: pd.DataFrame, figure: str) -> Difference:
    """second − first, replication by replication."""
    return paired(values(first, figure), values(second, figure))


def whole(table: pd.DataFrame) -> bool:
    """Whether every request was delivered, in every replication."""
    return bool((table["requests.succeeded"] == table["requests.offered"]).all())


def lowest(candidates: Mapping[Any, pd.DataFrame], figure: str) -> tuple[Any, list[Any]]:
    """Which has the lowest mean of those that delivered everything, and all that may have it in truth (95 %).

    Raises UserError where none delivered everything.
    """
    able = {name: values(table, figure) for name, table in candidates.items() if whole(table)}
    samples = [[float(value or 0.0) for value in one] for one in able.values()]
    if not samples:
        raise UserError("no setting of the study delivered every request: --requests is too small or the load too high")
    means = [sum(one) for one in samples]
    names = list(able)
    return names[means.index(min(means))], [names[index] for index in possibly_lowest(samples)]


def flat(name: str, one: Estimate | Difference) -> dict[str, float | None]:
    """An estimate as three columns."""
    return {name: one["value"], f"{name}_low": one["low"], f"{name}_high": one["high"]}


def shown(row: Mapping[str, Any], name: str, scale: float = 1.0, unit: str = "") -> str:
    """An estimate of a row, with half of its interval."""
    return with_half(row[name], row[f"{name}_low"], row[f"{name}_high"], scale, unit)


def with_half(value: float | None, low: float | None, high: float | None, scale: float = 1.0, unit: str = "") -> str:
    """``12.3 ± 0.4`` with as many digits as the half width is worth."""
    if value is None or math.isnan(value):
        return "–"
    after = f" {unit}" if unit else ""
    if low is None or high is None:
        return f"{value * scale:.3g}{after}"
    half = (high - low) / 2 * scale
    digits = max(0, 1 - math.floor(math.log10(half))) if half > 0 else 1
    return f"{value * scale:.{digits}f} ± {half:.{digits}f}{after}"


def interval(one: Estimate | Difference, scale: float = 1.0, unit: str = "") -> str:
    """``12.3 ± 0.4 ms`` of an estimate or a difference."""
    return with_half(one["value"], one["low"], one["high"], scale, unit)


def milliseconds(one: Estimate | Difference) -> str:
    """An estimate in seconds, written in milliseconds."""
    return interval(one, 1e3, "ms")


def longer(one: Difference, scale: float = 1e3, unit: str = "ms") -> str:
    """A difference in seconds as ``12.3 ± 0.4 ms longer`` or ``shorter``; one that leaves 0 in as ``as long``."""
    value, low, high = one["value"], one["low"], one["high"]
    if value is None or low is None or high is None:
        return f"{interval(one, scale, unit)} longer"
    if low <= 0 <= high:
        return f"as long ({interval(one, scale, unit)})"
    return f"{with_half(abs(value), low, high, scale, unit)} {'longer' if value > 0 else 'shorter'}"


def listed(names: Iterable[Any], last: str = "and") -> str:
    """``a, b and c``."""
    texts = [f"{name:,}" if isinstance(name, int) else str(name) for name in names]
    return f" {last} ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def markdown(rows: Sequence[dict[str, Any]], columns: Mapping[str, Callable[[dict[str, Any]], str]]) -> str:
    """The table of a page."""
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(write(row) for write in columns.values())} |" for row in rows]
    return "\n".join(lines)


def draw_estimates(
    axes: Axes, places: Sequence[float], estimates: Sequence[Estimate], *, label: str, colour: str, scale: float = 1.0,
    line: str = "-",
) -> None:  # fmt: skip
    """Means with their intervals as bars, joined by a line; what has no mean is left out."""
    known = [
        (place, value * scale, _half(one) * scale)
        for place, one in zip(places, estimates, strict=True)
        if (value := one["value"]) is not None
    ]
    axes.errorbar(
        [one[0] for one in known], [one[1] for one in known], yerr=[one[2] for one in known],
        marker="o", markersize=4, elinewidth=1.0, color=colour, label=label, linestyle=line,
    )  # fmt: skip


def _half(one: Estimate) -> float:
    low, high = one["low"], one["high"]
    return 0.0 if low is None or high is None else (high - low) / 2
