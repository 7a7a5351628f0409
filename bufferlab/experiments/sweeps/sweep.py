"""Sweeps: one simulated run for every configuration of a grid or list of settings and every replication.

Configurations are asked for the same requests (common random numbers) unless the swept fields are about the requests or
the seed, so the difference between two configurations is taken replication by replication: most of what chance does to
both drops out of it. A sweep leaves

* ``sweep.parquet``: one row per configuration and replication. ``configuration`` (from 1), ``digest``, ``seed``,
  ``replication`` (from 0), the swept fields as they resolve (5ms is 0.005), then every figure of ``summary.json`` under
  its path, such as ``latency_s.p99``; see ``summary`` for what each means. It holds no wall-clock time, so a sweep
  repeats it byte for byte, on any number of cores.
* ``quantiles.parquet``: for the same rows, ``latency_s`` and ``transfer_s`` at each ``share`` of the delivered
  requests, which is all that distribution plots need.
* ``sweep.json``: the plan, versions, and for every configuration its figures with 95 % intervals across replications,
  as in a run's ``summary.json``, the differences from its baseline, and per workload the configurations that may be the
  best. Only the fields called ``wall_s`` differ when a sweep is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bufferlab.experiments.config.renamed import OLD_KEYS, with_new_keys
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.environment import usable_cpus
from bufferlab.experiments.runs.recorder import Notice, Progress
from bufferlab.experiments.sweeps.comparison import Comparison
from bufferlab.experiments.sweeps.configuration import SHARED, Finished, flat_figures, run_name, run_task
from bufferlab.experiments.sweeps.executor import Where, Workers, check_executor, lost_text, open_workers
from bufferlab.experiments.sweeps.folder import (
    QUANTILES_FILE,
    TABLE_FILE,
    SweepFolder,
    read_plan,
)
from bufferlab.experiments.sweeps.journal import Journal
from bufferlab.experiments.sweeps.plan import Plan
from bufferlab.experiments.sweeps.tables import Figures, Keys, Shares

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


SHOWN_VIOLATIONS = 3
REQUESTS_OF_A_WORKER = 5_000
"""A process takes half a second to start, in which another one simulates some thousand requests to ten thousand."""


@dataclass(frozen=True)
class Sweep:
    """A finished sweep: the rows, the distributions, and the content of sweep.json."""

    rows: pa.Table
    read_curves: Callable[[], pa.Table]
    report: dict[str, Any]

    @cached_property
    def curves(self) -> pa.Table:
        """The distributions, which of many runs are large: they are read when somebody asks for them."""
        return self.read_curves()

    @cached_property
    def table(self) -> pd.DataFrame:
        """sweep.parquet."""
        return self._with_kinds(self.rows.to_pandas())

    @cached_property
    def quantiles(self) -> pd.DataFrame:
        """quantiles.parquet."""
        return self._with_kinds(self.curves.to_pandas())

    def _with_kinds(self, table: pd.DataFrame) -> pd.DataFrame:
        """The same table, which says of its configurations what their replications are to one another."""
        kinds = {
            one["configuration"]: one["replicates"] for one in self.report["configurations"] if one.get("replicates")
        }
        table.attrs = {"replicates": kinds} if kinds else {}
        return table


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
    finished: Callable[[dict[str, Any]], None] | None = None,
) -> Sweep:
    """Run what is not finished yet and return the whole sweep; without ``out`` nothing is kept.

    ``jobs``: runs at once; unless given, one a core where there is enough to do (``workers_for``). ``force`` starts
    again over another sweep in ``out``; one that stands in the plan's own default folder and was made by older code is
    replaced without it. ``begin`` is called when nothing can be refused any more, with the number of runs that are
    finished already, and ``progress`` with that of those that finish then. ``finished`` is told the report before
    anything is drawn. Raises UserError before anything runs, RunFailedError if a run breaks.
    """
    check_executor(executor, address)
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs is {jobs}, it must be at least 1")
    record = plan.record()
    store = None if out is None else SweepFolder(out)
    where: Where = {"executor": executor, "address": address, "inputs": record["inputs"], "notice": notice}
    with ExitStack() as stack:
        workers: Workers | None = None
        if address is not None and (store is None or not store.has_all(record) or force):
            # Before anything is written, since it may be refused.
            workers = stack.enter_context(open_workers(jobs=1, **where))
            workers.check()
        if store is not None:
            stack.enter_context(store)
            store.open(record, force=force, replace_old_code=out == plan.target())
        journal = Journal() if store is None else store.journal
        tasks = plan.tasks
        pending = [index for index in plan.order() if (tasks[index][0].fingerprint, tasks[index][1]) not in journal]
        if begin is not None:
            begin(len(tasks) - len(pending))
        if pending:
            if workers is None:
                wanted = jobs or workers_for(plan.requests_of(tasks[index][0] for index in pending))
                workers = stack.enter_context(open_workers(jobs=min(wanted, len(pending)), **where))
            with closing(_run(plan, pending, workers)) as done:
                for index, run in done:
                    configuration, replication = tasks[index]
                    journal.add((configuration.fingerprint, replication), run.line)
                    if notice is not None:
                        for line in run.violations[:SHOWN_VIOLATIONS]:
                            notice(f"violation in {configuration.title()}: {line}")
                    if progress is not None:
                        progress(1)
            if notice is not None and workers.lost:
                notice(lost_text(workers))
        return _finish(plan, record, journal, store, plots=plots, finished=finished)


def _run(plan: Plan, pending: Sequence[int], workers: Workers) -> Generator[tuple[int, Finished]]:
    """Run these tasks of a plan: the index of each and what it came to, as they finish."""
    tasks = plan.tasks
    calls = [
        (configuration.config, replication, configuration.title(), configuration.fingerprint)
        for configuration, replication in (tasks[index] for index in pending)
    ]
    workloads = {configuration.fingerprint: configuration.workload for configuration in plan.configurations}
    done = workers.run(
        run_task,
        calls,
        group=lambda task: (workloads[task[3]], task[1]),  # what its requests are drawn from
        name=lambda task: run_name(task[2], task[1]),
    )
    with closing(done), SHARED:
        for number, result in done:
            yield pending[number], result


def workers_for(requests: int) -> int:
    """How many processes are worth their start, which takes as long as some thousand requests."""
    return max(min(usable_cpus(), requests // REQUESTS_OF_A_WORKER), 1)


def read_sweep(folder: Path | str) -> Sweep:
    """A finished sweep directory, of the last release as well. Raises UserError if it is not one."""
    path = Path(folder)
    report = read_plan(path)
    if report is None or not report.get("finished"):
        raise UserError(f"SWEEP is {str(path)!r}, it must be the directory of a finished sweep (with a sweep.parquet)")
    for name in (TABLE_FILE, QUANTILES_FILE):
        if not (path / name).is_file():
            raise UserError(f"SWEEP is {str(path)!r}, in which {name} is missing")
    return Sweep(_read(path / TABLE_FILE), partial(_read, path / QUANTILES_FILE), with_new_keys(report))


def _read(path: Path) -> pa.Table:
    """A table, under the names of today."""
    import pyarrow.parquet as pq

    found = pq.read_table(path)
    return found.rename_columns([OLD_KEYS.get(name, name) for name in found.column_names])


def _finish(
    plan: Plan,
    record: dict[str, Any],
    journal: Journal,
    store: SweepFolder | None,
    *,
    plots: bool,
    finished: Callable[[dict[str, Any]], None] | None,
) -> Sweep:
    """Read all results once, in the order of the plan, and keep of each what the tables and the report have of it."""
    import pyarrow as pa

    figures, keys, comparison = Figures(), Keys(plan), Comparison(plan)
    groups: list[pa.Table] = []
    with ExitStack() as stack:
        write = groups.append if store is None else stack.enter_context(store.writing_table(QUANTILES_FILE))
        shares = Shares(keys, write)
        for configuration in plan.configurations:
            fingerprint = configuration.fingerprint
            results = [journal.load((fingerprint, replication)) for replication in range(plan.replications)]
            for result in results:
                figures.add(flat_figures(result["summary"]))
                shares.add(result)
            comparison.add(configuration, results)
        shares.flush()
    rows = pa.table({**keys.of(range(len(plan.tasks))), **figures.columns()})
    report = {**record, "finished": True, **comparison.report(figures)}
    made = Sweep(rows, partial(pa.concat_tables, groups), report)
    if store is not None:
        store.write_table(TABLE_FILE, rows)
        made = Sweep(rows, partial(_read, store.folder / QUANTILES_FILE), report)
    if finished is not None:
        finished(report)
    if store is not None:
        if plots:
            from bufferlab.experiments.figures.sweeps import plot_sweep

            plot_sweep(made.table, lambda: made.quantiles, store.folder)
        store.write_plan(report)
    return made
