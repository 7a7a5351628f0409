"""Reads what a calibration is given: tables, the output of bench-link, run directories."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bufferlab.experiments.calibration.bench_link import CSV_FILE, JSON_FILE
from bufferlab.experiments.calibration.host.host import CpuUsage, cpu_usages_of, tells_inputs, why_unfit
from bufferlab.experiments.calibration.input.rows import MICRO, LeftOut, Row, read_rows, unknown_columns
from bufferlab.experiments.calibration.input.runs import Observed, observe
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.progress import Step
from bufferlab.experiments.runs.busy import Busy, read_busy
from bufferlab.experiments.runs.rundir import StoredRun, is_finished_run


@dataclass
class Inputs:
    """What the measurements hold: rows and what is wrong with others, runs, first contacts of bench-link (seconds),
    and which transports are known to have been measured. ``busy``: what others took of the processors meanwhile, of the
    measurements that tell."""

    rows: list[Row] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    seen: Observed = field(default_factory=Observed)
    first_contacts_s: list[float] = field(default_factory=list)
    transports: set[str] = field(default_factory=set)
    busy: list[Busy] = field(default_factory=list)
    not_used: dict[str, list[str]] = field(default_factory=dict)
    """Columns of a file that nothing is read from."""

    @property
    def transport(self) -> str | None:
        """The transport of all measurements; None where that is not known of any, or it is more than one."""
        return next(iter(self.transports)) if len(self.transports) == 1 else None


def read_inputs(paths: Sequence[Path], progress: Step = lambda _: None) -> Inputs:
    """Read all measurements. Raises UserError for one that cannot be used, or if no row of any can.

    ``progress`` is told of each when it is about to be read.
    """
    from bufferlab.real.engine.registry import engines

    found = Inputs()
    for path in paths:
        progress(path.name)
        if is_finished_run(path):
            run = StoredRun(path)
            observe(run, found.seen)
            if run.kind == "real":
                found.transports.add(run.transport)
                found.busy += [] if run.busy is None else [run.busy]
            continue
        if path.is_dir():
            # What bench-link leaves; its JSON knows more than its CSV.
            known = [path / name for name in (JSON_FILE, CSV_FILE) if (path / name).is_file()]
            if not known:
                raise UserError(
                    f"MEASUREMENTS has {str(path)!r}, it must be a CSV file, bench-link output or a run directory"
                )
            path = known[0]
        rows, left_out = read_rows(path)
        found.rows.extend(rows)
        found.transports |= {row.link for row in rows} & engines().keys()
        found.left_out.extend(left_out)
        if unknown := unknown_columns(path, rows):
            found.not_used[path.name] = unknown
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
            contact_us, busy = content.get("first_contact_us"), read_busy(content.get("busy"))
            found.busy += [] if busy is None else [busy]
            if isinstance(contact_us, int | float):
                found.first_contacts_s.append(contact_us * MICRO)
    for alone in sorted(name for name in found.transports if not engines()[name].resembles_networks):
        if others := " and ".join(sorted(found.transports - {alone})):
            raise UserError(
                f"MEASUREMENTS were made over {others} and over {alone}, which resembles no other: they must all be of "
                f"one transport, since a profile is the law of one"
            )
    if not found.rows and not found.seen.runs:
        first = found.left_out[0]
        raise UserError(f"no row can be used: {first.file} row {first.row}, {first.reason}")
    return found


def read_cpu_usages(asked: Sequence[Path], measurements: Sequence[Path]) -> list[CpuUsage]:
    """The CPU usage of the processes of measured runs: of those in ``asked``, or else of the runs in
    ``measurements``.

    Raises UserError for a run in ``asked`` that keeps none, and where all of them together tell no costs.
    """
    if not asked:
        return [one for path in measurements if is_finished_run(path) for one in cpu_usages_of(StoredRun(path))]
    found = []
    for path in asked:
        if not is_finished_run(path):
            raise UserError(f"--cpu-usage has {str(path)!r}, it must be a finished run directory (with a summary.json)")
        run = StoredRun(path)
        reason = why_unfit(run)
        if reason is not None:
            raise UserError(f"--cpu-usage has {str(path)!r}, {reason}")
        found += cpu_usages_of(run)
    if not any(map(tells_inputs, found)):
        raise UserError(
            "--cpu-usage has only runs whose groups have several ranks, it must have one with encode.tp = 1 and "
            "language.tp = 1 as well: only that tells what an input costs"
        )
    return found
