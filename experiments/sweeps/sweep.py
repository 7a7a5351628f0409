"""Sweeps: one simulated run for every cell of a grid or list of settings and every replication.

Cells are asked for the same requests (common random numbers) unless the swept fields are about the requests or the
seed, so the difference between two cells is taken replication by replication: most of what chance does to both drops
out of it. A sweep leaves

* ``sweep.parquet``: one row per cell and replication. ``cell`` (from 1), ``digest``, ``seed``, ``replication`` (from
  0), the swept fields as they resolve (5ms is 0.005), then every figure of ``summary.json`` under its path, such as
  ``latency_s.p99``; see ``summary`` for what each means. It holds no wall-clock time, so a sweep repeats it byte for
  byte, on any number of cores.
* ``quantiles.parquet``: for the same rows, ``latency_s`` and ``transfer_s`` at each ``share`` of the delivered
  requests, which is all that distribution plots need.
* ``sweep.json``: the plan, versions, and for every cell its figures with 95 % intervals across replications, as in a
  run's ``summary.json``, the differences from its baseline, and per workload the cells that may be the best. Only the
  fields called ``wall_s`` differ when a sweep is repeated.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.config.build import NAME_DIGITS
from experiments.config.schema import Config
from experiments.errors import RunFailedError, UserError
from experiments.runs.capacity import combined
from experiments.runs.environment import describe, usable_cpus
from experiments.runs.failures import counted
from experiments.runs.recorder import Notice, Progress
from experiments.runs.simulate import simulate_one
from experiments.runs.summary import FIGURES, Replication, summarise
from experiments.stats.intervals import Estimate, Samples, across_replications, shares_across, wilson, within
from experiments.stats.paired import Difference, paired_each
from experiments.stats.quantiles import LEVELS, at_levels
from experiments.stats.selection import possibly_lowest
from experiments.sweeps.executor import check_executor, run_tasks
from experiments.sweeps.folder import (
    QUANTILES_FILE,
    SWEEP_SCHEMA,
    TABLE_FILE,
    Result,
    SweepFolder,
    code_digest,
    column,
    read_plan,
)
from experiments.sweeps.grid import (
    Cell,
    Settings,
    cross,
    find_baselines,
    identity,
    make_cells,
    swept_fields,
)
from protocol.naming import flat

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from experiments.workloads.traffic import Traffic

RANKED_FIGURES = ("latency_s.p99", "latency_s.mean")
"""Figures for which a sweep names the cells that may be the lowest."""
NOT_FIGURES = frozenset(
    {"schema", "kind", "transport", "faults", "ended_early", "wall_s", "requests_per_wall_s", "workload"}
)
NOT_COLUMNS = frozenset({"failures", "slo.limits", "capacity"})
"""Parts of a summary that are no figures; some have other fields in every run."""
TIMES = ("latency_s", "transfer_s")
OF_SERVED = (*TIMES, "ttft_s")
TOLD_LAWS = 3

_FIGURES = {figure.name: figure for figure in FIGURES}


@dataclass(frozen=True)
class Plan:
    """What a sweep runs; everything in it has been checked."""

    name: str
    cells: tuple[Cell, ...]
    replications: int
    seed: int
    baselines: Mapping[int, int]
    """Number of the cell that each cell is compared with."""

    @property
    def fields(self) -> list[str]:
        """The swept fields."""
        return swept_fields(self.cells)

    @property
    def tasks(self) -> list[tuple[Cell, int]]:
        """Every cell and replication, in the order of the rows."""
        return [(cell, replication) for cell in self.cells for replication in range(self.replications)]

    @cached_property
    def identity(self) -> str:
        """Names the cells, whatever the number of replications, so that a sweep can be given more of them."""
        return identity(self.cells)

    @cached_property
    def requests(self) -> int:
        """Requests of all runs together."""
        from experiments.workloads.requests import count_requests

        counts = {cell.workload: 0 for cell in self.cells}
        for cell in self.cells:
            counts[cell.workload] = counts[cell.workload] or count_requests(cell.config)
        return self.replications * sum(counts[cell.workload] for cell in self.cells)

    @cached_property
    def traffics(self) -> list[Traffic]:
        """What the cells ask for, each workload once."""
        from experiments.workloads.traffic import traffic_of

        return [traffic_of(cell.config) for cell in {cell.workload: cell for cell in reversed(self.cells)}.values()][
            ::-1
        ]

    def target(self) -> Path:
        """Where the sweep goes when nothing else is said."""
        return Path("runs") / f"{self.name}-sweep-{self.identity[:NAME_DIGITS]}"

    def record(self) -> dict[str, Any]:
        """The plan as sweep.json has it, with what the figures depend on."""
        inputs: dict[str, str] = {}
        for cell in self.cells:
            if not all(str(path) in inputs for path in cell.config.input_files()):
                inputs.update(cell.config.input_digests())
        return {
            "schema": SWEEP_SCHEMA,
            "plan": {
                "identity": self.identity,
                "name": self.name,
                "fields": self.fields,
                "cells": len(self.cells),
                "replications": self.replications,
                "seed": self.seed,
                "requests": self.requests,
                "workloads": [traffic.content() for traffic in self.traffics],
            },
            "code": code_digest(),
            "inputs": inputs,
            "environment": describe(),
        }


@dataclass(frozen=True)
class Sweep:
    """A finished sweep: the rows, the distributions, and the content of sweep.json."""

    table: pd.DataFrame
    quantiles: pd.DataFrame
    report: dict[str, Any]


def make_plan(
    source: str,
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    cells: Sequence[Settings] = (),
    settings: Iterable[str] = (),
    replications: int | None = None,
    seed: int | None = None,
    baseline: Sequence[tuple[str, Any]] = (),
) -> Plan:
    """Check all cells of a sweep of the configuration ``source`` (a file, run directory or shipped example).

    ``settings`` are ``key.path=value`` overrides for every cell. Raises UserError: one sentence that names the cell.
    """
    common = list(settings)
    if replications is not None:
        common.append(f"run.replications={replications}")
    if seed is not None:
        common.append(f"run.seed={seed}")
    made = make_cells(source, common, cross(cells, grid or {}) if cells or grid else [])
    first = made[0].config.run
    for cell in made:
        if cell.config.run.replications != first.replications:
            raise UserError(
                f"{made[0].title()} has {first.replications} replications and {cell.title()} "
                f"{cell.config.run.replications}, because a file has the same requests in each; --replications "
                f"gives all cells the same number"
            )
    return Plan(first.name, tuple(made), first.replications, first.seed, find_baselines(made, baseline))


def run_sweep(
    plan: Plan,
    out: Path | None = None,
    *,
    jobs: int | None = None,
    executor: str = "local",
    address: str | None = None,
    force: bool = False,
    plots: bool = False,
    begin: Callable[[int], None] | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> Sweep:
    """Run what is not finished yet and return the whole sweep; without ``out`` nothing is kept.

    ``jobs``: runs at once, one a core unless given. ``force`` starts again over another sweep in ``out``; one that
    stands in the plan's own default folder and was made by older code is replaced without it. ``begin`` is called when
    nothing can be refused any more, with the number of runs that are finished already, and ``progress`` with that of
    those that finish then. Raises UserError before anything runs, RunFailedError if a run breaks.
    """
    check_executor(executor, address)
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs is {jobs}, it must be at least 1")
    workers = usable_cpus() if jobs is None else jobs
    record = plan.record()
    store = None if out is None else SweepFolder(out)
    with contextlib.nullcontext() if store is None else store:
        if store is not None:
            store.open(record, force=force, replace_old_code=out == plan.target())
        tasks = plan.tasks
        kept = [store.load(cell.fingerprint, number) if store is not None else None for cell, number in tasks]
        results = [None if one is None else _packed(one) for one in kept]
        pending = [index for index, result in enumerate(results) if result is None]
        if begin is not None:
            begin(len(tasks) - len(pending))
        calls = [(tasks[index][0].config, tasks[index][1], tasks[index][0].title()) for index in pending]
        with closing(run_tasks(_task, calls, jobs=workers, executor=executor, address=address)) as finished:
            for number, result in finished:
                index = pending[number]
                cell, replication = tasks[index]
                if store is not None:
                    store.save(cell.fingerprint, replication, result)
                results[index] = _packed(result)
                if notice is not None:
                    for line in result["broken"][:TOLD_LAWS]:
                        notice(f"broken law in {cell.title()}: {line}")
                if progress is not None:
                    progress(1)
        return _finish(plan, record, [result for result in results if result is not None], store, plots=plots)


def read_sweep(folder: Path | str) -> Sweep:
    """A finished sweep directory. Raises UserError if it is not one."""
    import pandas as pd

    path = Path(folder)
    report = read_plan(path)
    if report is None or not report.get("finished"):
        raise UserError(f"SWEEP is {str(path)!r}, it must be the directory of a finished sweep (with a sweep.parquet)")
    return Sweep(pd.read_parquet(path / TABLE_FILE), pd.read_parquet(path / QUANTILES_FILE), report)


# --- one run ---


def run_cell(config: Config, replication: int) -> Result:
    """Simulate one replication: its summary, its quantiles at ``LEVELS``, the laws it broke, the seconds it took."""
    started_s = time.perf_counter()
    one, broken = simulate_one(config, replication)
    return {
        "summary": _summary(one),
        "latency_s": _quantiles(one.latencies_s()),
        "transfer_s": _quantiles(one.transfers_s()),
        "broken": broken,
        "wall_s": time.perf_counter() - started_s,
    }


def figures(replication: Replication) -> dict[str, float | None]:
    """Every figure of one replication under its path in summary.json, such as ``latency_s.p99``."""
    return flat_figures(_summary(replication))


def flat_figures(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Figures by their path; of an estimate its value."""
    values = {path: value["value"] if isinstance(value, dict) else value for path, value in flat(summary, _is_estimate)}
    return {
        path: value
        for path, value in values.items()
        if (value is None or isinstance(value, bool | int | float)) and _is_column(path)
    }


def _is_column(path: str) -> bool:
    return not any(path.startswith(f"{part}.") for part in NOT_COLUMNS)


def _is_estimate(table: Mapping[str, Any]) -> bool:
    return table.keys() == Estimate.__annotations__.keys()


def _task(config: Config, replication: int, title: str) -> Result:
    try:
        return run_cell(config, replication)
    except Exception as error:
        # Whoever reads it needs to know which run it was; the type tells more than the text alone.
        raise RunFailedError(f"{title}, replication {replication}: {type(error).__name__}: {error}") from error


def _summary(replication: Replication) -> dict[str, Any]:
    whole = summarise([replication], kind="sim", transport="", wall_s=0.0)
    return {name: value for name, value in whole.items() if name not in NOT_FIGURES}


def _quantiles(samples: Samples) -> list[float] | None:
    return at_levels(samples).tolist() if len(samples) else None


def _packed(result: Result) -> Result:
    """The same with its quantiles as arrays, so that tens of thousands of results fit into memory."""
    packed = {name: None if result[name] is None else np.array(result[name]) for name in TIMES}
    return {**result, **packed}


# --- all runs together ---


def _finish(
    plan: Plan, record: dict[str, Any], results: list[Result], store: SweepFolder | None, *, plots: bool
) -> Sweep:
    table, quantiles = _tables(plan, results)
    report = {**record, "finished": True, **_figures(plan, results)}
    made = Sweep(table.to_pandas(), quantiles.to_pandas(), report)
    if store is not None:
        store.write_table(TABLE_FILE, table)
        store.write_table(QUANTILES_FILE, quantiles)
        if plots:
            from experiments.figures.sweeps import plot_sweep

            plot_sweep(made.table, made.quantiles, store.folder)
        store.write_plan(report)
    return made


def _tables(plan: Plan, results: list[Result]) -> tuple[pa.Table, pa.Table]:
    import pyarrow as pa

    tasks = plan.tasks
    keys: dict[str, pa.Array] = {
        "cell": pa.array([cell.number for cell, _ in tasks], pa.int32()),
        "digest": pa.array([cell.digest for cell, _ in tasks]),
        "seed": pa.array([cell.config.run.seed for cell, _ in tasks], pa.int64()),
        "replication": pa.array([replication for _, replication in tasks], pa.int32()),
    }
    for field in plan.fields:
        by_cell = {cell.number: cell.value(field) for cell in plan.cells}
        keys[field] = column([by_cell[cell.number] for cell, _ in tasks])
    rows = [flat_figures(result["summary"]) for result in results]
    columns = {name: column(_numbers([row[name] for row in rows])) for name in rows[0]}
    where = np.repeat(np.arange(len(tasks)), len(LEVELS))
    nothing = np.full(len(LEVELS), np.nan)
    curves = {
        name: pa.array(
            np.concatenate([nothing if result[name] is None else result[name] for result in results]), from_pandas=True
        )
        for name in TIMES
    }
    shares = pa.array(np.tile(LEVELS, len(tasks)))
    repeated = {name: values.take(pa.array(where)) for name, values in keys.items()}
    return pa.table({**keys, **columns}), pa.table({**repeated, "share": shares, **curves})


def _numbers(values: list[Any]) -> list[Any]:
    """Figures as numbers of one type: a column that has nothing but None is one of floats."""
    if all(isinstance(value, bool) for value in values) or all(type(value) is int for value in values):
        return values
    return [None if value is None else float(value) for value in values]


def _figures(plan: Plan, results: list[Result]) -> dict[str, Any]:
    parts = {
        cell.number: results[first : first + plan.replications]
        for cell, first in zip(plan.cells, range(0, len(results), plan.replications), strict=True)
    }
    summaries = {number: [one["summary"] for one in part] for number, part in parts.items()}
    cells = []
    for cell in plan.cells:
        entry: dict[str, Any] = {"cell": cell.number, "digest": cell.digest, "settings": cell.settings}
        entry |= _combined(summaries[cell.number])
        entry["wall_s"] = sum(one["wall_s"] for one in parts[cell.number])
        baseline = plan.baselines.get(cell.number)
        entry["baseline"] = baseline
        if baseline is not None:
            entry["differences"] = dict(_differences(summaries[cell.number], summaries[baseline]))
        cells.append(entry)
    return {"wall_s": sum(entry["wall_s"] for entry in cells), "cells": cells, "lowest": list(_lowest(plan, summaries))}


def _combined(summaries: Sequence[Any], path: str = "") -> Any:
    """The figures of a cell from those of its replications, as ``summary.summarise`` would put them together."""
    first = summaries[0]
    if path == "failures":
        return counted(sum(map(Counter, summaries), Counter()))
    if path == "capacity":
        return combined(summaries)
    if isinstance(first, dict):
        if _is_estimate(first):
            # A single replication keeps the interval that its batches gave it.
            return first if len(summaries) == 1 else _across(path, [one["value"] for one in summaries])
        return {name: _combined([one[name] for one in summaries], f"{path}.{name}".lstrip(".")) for name in first}
    if isinstance(first, bool):
        return any(summaries)
    if isinstance(first, int):
        return sum(summaries)
    if isinstance(first, float):
        return across_replications(summaries)["value"]
    return first


def _across(path: str, values: Sequence[float | None]) -> Estimate:
    if path == "deadlock_rate":
        return wilson(sum(value == 1 for value in values), len(values))
    figure = _FIGURES.get(path)
    across = shares_across if figure is not None and figure.share else across_replications
    return within(across(values), 0.0, figure.highest if figure is not None else math.inf)


def _differences(summaries: Sequence[Any], baseline: Sequence[Any]) -> Iterator[tuple[str, Difference]]:
    """Path and paired difference, cell less baseline, of every figure that has an interval.

    Times are compared only in replications in which both delivered every request: a setting that fails the long ones
    would look fast otherwise.
    """
    pairs = [(flat_figures(one), flat_figures(other)) for one, other in zip(baseline, summaries, strict=True)]
    whole = [pair for pair in pairs if all(_all_delivered(one) for one in pair)]
    values = []
    for figure in FIGURES:
        used = whole if figure.path[0] in OF_SERVED else pairs
        values.append(([one[figure.name] for one, _ in used], [other[figure.name] for _, other in used]))
    yield from zip((figure.name for figure in FIGURES), paired_each(values), strict=True)


def _all_delivered(figures: Mapping[str, float | None]) -> bool:
    return figures["requests.succeeded"] == figures["requests.offered"]


def _lowest(plan: Plan, summaries: Mapping[int, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """For the cells of every workload, which has the lowest latency and which others may have it in truth.

    Cells that did not deliver every request are left out: the slowest requests are missing from their latencies.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in plan.cells:
        whole = all(_all_delivered(flat_figures(one)) for one in summaries[cell.number])
        groups.setdefault(cell.workload, []).extend([cell] if whole else [])
    for group in groups.values():
        for path in RANKED_FIGURES if len(group) > 1 else ():
            samples = [[float(flat_figures(one)[path] or 0.0) for one in summaries[cell.number]] for cell in group]
            means = [sum(one) for one in samples]
            yield {
                "figure": path,
                "of": [cell.number for cell in group],
                "cell": group[means.index(min(means))].number,
                "possibly": [group[index].number for index in possibly_lowest(samples)],
            }
