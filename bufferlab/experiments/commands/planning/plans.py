"""The plan of each command that can be asked for one: everything that the command would refuse is refused here too."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bufferlab.experiments.commands.planning.estimate import HOST_S, START_S, Estimate, measured, simulated
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.units import format_span

if TYPE_CHECKING:
    from bufferlab.experiments.config.schema import Config
    from bufferlab.experiments.sweeps.plan import Plan as SweepPlan
    from bufferlab.experiments.tuning.asking import Question

MOST_TRIED = 3
"""Configurations of a sweep of which some requests are tried."""
LONG_S = 10.0
"""What takes longer says so before it begins."""


@dataclass(frozen=True)
class Plan:
    """What would be done. ``runs`` and ``requests`` are the least and the most, where the work itself decides."""

    text: str
    runs: tuple[int, int]
    requests: tuple[int, int]
    target: Path | None
    estimate: Estimate
    notes: tuple[str, ...] = field(default=())

    def told(self) -> str:
        """As a terminal shows it."""
        lines = [self.text, *(f"  {note}" for note in self.notes)]
        if self.target is not None:
            there = ", where something stands already" if self.target.exists() else ""
            lines.append(f"  into {self.target}{there}")
        lines += [f"  takes {self.estimate.text}", "a dry run: nothing was written"]
        return "\n".join(lines)

    def content(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "dry_run": True,
            "runs": {"least": self.runs[0], "most": self.runs[1]},
            "requests": {"least": self.requests[0], "most": self.requests[1]},
            "target": None if self.target is None else str(self.target),
            "exists": self.target is not None and self.target.exists(),
            "time": self.estimate.content(),
            "plan": self.text,
        }


def plan_of_run(kind: str, config: Config, out: Path | None, *, force: bool, here: bool = True) -> Plan:
    """Of ``sim`` or ``real``. ``here``: whether all ranks of a measured run are on this host."""
    from bufferlab.experiments.commands.common.running import all_requests
    from bufferlab.experiments.runs.rundir import choose_target
    from bufferlab.experiments.workloads.requests import check_requests, count_requests
    from bufferlab.experiments.workloads.traffic import traffic_of

    if kind == "real":
        _check_real(config, here=here)
    check_requests(config, kind)
    target = choose_target(config, kind, out, force=force)
    above = next(folder for folder in target.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"--out is {str(target)!r}, it must be in a folder that can be written")
    number, count = config.run.replications, all_requests(kind, config)
    own = count_requests(config)
    once = "1 request" if own == 1 else f"{own:,} requests"
    times = once if number == 1 else f"{number} replications × {once} = {count:,} requests"
    estimate = measured(config) if kind == "real" else simulated([config], (count, count))
    traffic = traffic_of(config, measured=kind == "real").text.splitlines()
    text = f"{kind} of {config.run.name}: {times}"
    return Plan(text, (number, number), (count, count), target, estimate, tuple(traffic))


def _check_real(config: Config, *, here: bool) -> None:
    from bufferlab.experiments.runs.backend import REAL_MEMORY_SHARE
    from bufferlab.experiments.runs.diagnosis import examine_real
    from bufferlab.experiments.runs.environment import memory_bytes

    config.check_real((int(memory_bytes() * REAL_MEMORY_SHARE) or 2**63) if here else None)
    missing = examine_real(config.real.transport)
    if missing:
        raise UserError(missing)


def plan_of_sweep(plan: SweepPlan, target: Path, jobs: int | None, *, force: bool) -> Plan:
    """Of ``sweep``; runs that are finished in its folder already are counted."""
    from bufferlab.experiments.sweeps.folder import SweepFolder
    from bufferlab.experiments.sweeps.text import plan_text

    SweepFolder(target).check(plan.record(), force=force, replace_old_code=target == plan.target())
    runs, requests = len(plan.tasks), plan.requests
    estimate = estimate_of_sweep(plan, jobs)
    return Plan(plan_text(plan), (runs, runs), (requests, requests), target, estimate)


def plan_of_tune(question: Question, target: Path, jobs: int | None, *, force: bool) -> Plan:
    """Of ``tune``, which decides while it goes on how often a setting is run."""
    from bufferlab.experiments.tuning.effort import effort_of
    from bufferlab.experiments.tuning.folder import TuneFolder
    from bufferlab.experiments.tuning.text import plan_text

    TuneFolder(target).check(question.record(), force=force)
    once, effort = question.demand.requests, effort_of(question)
    runs = effort.runs
    requests = (runs[0] * once, runs[1] * once)
    (least, most), asked = effort.answer, question.what_ifs
    notes = [f"{least:,} to {most:,} runs of {once:,} requests for the answer itself"]
    if asked:
        what = "1 what-if" if len(asked) == 1 else f"{len(asked)} what-ifs"
        notes.append(f"{effort.what_ifs[0]:,} to {effort.what_ifs[1]:,} more for {what}")
    if question.sensitivity:
        least, most = effort.sensitivity
        notes.append(f"{least:,} to {most:,} more for the sensitivity, where a setting is recommended")
    return Plan(plan_text(question), runs, requests, target, estimate_of_tune(question, jobs), tuple(notes))


def estimate_of_tune(question: Question, jobs: int | None, finished: int = 0) -> Estimate:
    """How long it takes when so many of its runs are finished already."""
    from bufferlab.experiments.sweeps.sweep import workers_for
    from bufferlab.experiments.tuning.effort import effort_of

    once = question.demand.requests
    least, most = (max(number - finished, 0) * once for number in effort_of(question).runs)
    return simulated([question.base.config], (least, most), jobs or workers_for(least))


def estimate_of_sweep(plan: SweepPlan, jobs: int | None, finished: int = 0) -> Estimate:
    """How long it takes when so many of its runs are finished already."""
    from bufferlab.experiments.sweeps.sweep import workers_for

    configurations, runs = plan.configurations, len(plan.tasks)
    requests = round(plan.requests * (runs - finished) / runs) if runs else 0
    tried = {round(at * (len(configurations) - 1) / (MOST_TRIED - 1)) for at in range(MOST_TRIED)}
    workers = max(min(jobs or workers_for(requests), runs - finished), 1)
    return simulated([configurations[one].config for one in sorted(tried)], (requests, requests), workers)


def long_text(estimate: Estimate) -> str:
    """A line about how long it takes, for a plan that is carried out; empty where nobody has to wait for long."""
    return f"\n  takes {estimate.text}" if estimate.high_s > LONG_S else ""


def plan_of_validation(paths: Sequence[Path], profile: str, out: Path | None) -> Plan:
    """Of ``validate``: every measured replication is simulated once."""
    from bufferlab.experiments.runs.rundir import StoredRun
    from bufferlab.experiments.validation.cases import cases_of
    from bufferlab.experiments.validation.frozen import freeze

    frozen = freeze(profile)
    cases = cases_of([StoredRun(path) for path in paths])
    runs = [run for repeats in cases.values() for run in repeats]
    for run in runs:
        _ = run.events_path  # which a validation needs
    number = sum(run.config.run.replications for run in runs)
    requests = sum(run.summary["requests"]["offered"] for run in runs)
    estimate = simulated([runs[0].config], (requests, requests))
    notes = [f"{name}: {len(repeats)} {'run' if len(repeats) == 1 else 'runs'}" for name, repeats in cases.items()]
    count = f"{len(cases)} {'case' if len(cases) == 1 else 'cases'}"
    measured_text = "1 measured replication" if number == 1 else f"{number} measured replications"
    text = f"validation of {frozen.name}: {count}, {measured_text}, {requests:,} requests to predict"
    return Plan(text, (number, number), (requests, requests), out, estimate, tuple(notes))


def plan_of_demo(out: Path, requests: int, rounds: int, defaults: Sequence[int], profile: str | None) -> Plan:
    """Of ``demo``; where the real backend is missing, of its simulated part alone."""
    from bufferlab.experiments.commands.demonstration.both_worlds import SEEDS, SHIPPED, why_no_real
    from bufferlab.experiments.files import require_empty_folder
    from bufferlab.experiments.validation.frozen import freeze
    from bufferlab.experiments.workloads.loading import load

    require_empty_folder(out)
    if profile is not None:
        freeze(profile)
    missing = why_no_real()
    base = [f"link.profile={profile or SHIPPED}", f"workload.requests={requests}"]
    configs = [load("demo", [*base, f"protocol.sizing.tokens={tokens}"]) for tokens in defaults]
    count = requests * len(defaults)
    what = f"{len(SEEDS)} scenarios; {requests} mixed requests with {len(defaults)} default sizes"
    if missing:
        estimate = simulated(configs[:1], (count, count))
        runs = len(SEEDS) + len(defaults)
        return Plan(f"demo: {what}, simulated alone: {missing}", (runs, runs), (count, count), out, estimate)
    row = measured(configs[0])
    low_s, high_s = (rounds * len(defaults) * one for one in (row.low_s, row.high_s))
    host_s = 0.0 if profile is not None else HOST_S
    start_s = START_S * len(SEEDS)
    how = f", {format_span(HOST_S)} to measure this host first" if profile is None else ""
    basis = f"{rounds * len(defaults)} runs: {row.basis}{how}"
    estimate = Estimate(host_s + low_s, host_s + high_s + start_s, basis)
    runs = 2 * len(SEEDS) + len(defaults) * (1 + rounds)
    total = count * (1 + rounds)
    text = f"demo: {what}, predicted and then measured {rounds} times"
    return Plan(text, (runs, runs), (total, total), out, estimate)
