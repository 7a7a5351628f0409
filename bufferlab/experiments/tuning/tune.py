"""From a question to an answer: screen by arithmetic, race what is left on the same requests, decide, and say so."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.capacity import POOLS
from bufferlab.experiments.runs.environment import describe
from bufferlab.experiments.runs.recorder import Notice, Progress
from bufferlab.experiments.stats.intervals import Estimate
from bufferlab.experiments.sweeps.configuration import SHARED
from bufferlab.experiments.sweeps.executor import check_executor, lost_text, open_workers
from bufferlab.experiments.sweeps.sweep import workers_for
from bufferlab.experiments.tuning.answer import Nearest, Told, answer_of, unserved
from bufferlab.experiments.tuning.asking import FRESH, LEAST_FRESH, Question
from bufferlab.experiments.tuning.contest import Result, Runs, race
from bufferlab.experiments.tuning.decision import (
    SLO_MISSED,
    Decision,
    all_missed,
    candidates,
    decide,
    nothing_to_choose,
    without_limits,
)
from bufferlab.experiments.tuning.estimates import difference, estimate
from bufferlab.experiments.tuning.floor import floor_of, out_of_reach
from bufferlab.experiments.tuning.folder import Row, TuneFolder
from bufferlab.experiments.tuning.relief import relieve
from bufferlab.experiments.tuning.screening import overloaded, screen
from bufferlab.experiments.tuning.search import run_search
from bufferlab.experiments.tuning.sensitivity import examine, sensitivity_text
from bufferlab.experiments.tuning.text import answer_text
from bufferlab.experiments.tuning.what_if import STAGE as WHAT_IF_STAGE
from bufferlab.experiments.tuning.what_if import answers, what_if_text


def run_tune(
    question: Question,
    out: Path | None,
    *,
    jobs: int | None = None,
    executor: str = "local",
    address: str | None = None,
    force: bool = False,
    plots: bool = True,
    begin: Callable[[int], object] | None = None,
    progress: Progress | None = None,
    more: Callable[[int], object] | None = None,
    notice: Notice | None = None,
) -> Told:
    """Run what the answer takes, and return it; without ``out`` nothing is kept.

    ``begin`` is called when nothing can be refused any more, with the number of runs that are finished already.
    ``more`` is told of runs that are to come, ``progress`` of those that finish. Raises UserError before anything runs,
    RunFailedError if a run breaks.
    """
    check_executor(executor, address)
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs is {jobs}, it must be at least 1")
    started_s = time.perf_counter()
    folder = None if out is None else TuneFolder(out)
    # By what the whole of it takes at least.
    least = len(question.settings) * question.first + (0 if question.search is None else question.search.trials)
    wanted = jobs or workers_for(least * question.demand.requests)
    inputs = question.base.config.input_digests()
    with (
        contextlib.nullcontext() if folder is None else folder,
        open_workers(jobs=wanted, executor=executor, address=address, inputs=inputs, notice=notice) as workers,
        SHARED,
    ):
        workers.check()
        if folder is not None:
            environment = describe(inputs=inputs, workload=question.traffic.content())
            folder.open(question.record(), question.base.config, environment, force=force)
        if begin is not None:
            begin(0 if folder is None else len(folder.rows))

        def execute(function: Callable[..., Any], tasks: Sequence[Sequence[Any]]) -> Any:
            if more is not None:
                more(len(tasks))
            # Runs of one replication see the same requests, which a worker draws once.
            made = workers.run(function, tasks, group=lambda task: task[1], name=lambda task: task[2])
            with closing(made) as done:
                yield from done

        runs = Runs(dict(question.settings), execute, folder, progress, notice)
        question = _searched(question, runs)
        content = _otherwise(question, runs, _answered(question, runs))
        if notice is not None and workers.lost:
            notice(lost_text(workers))
        content["wall_s"] = time.perf_counter() - started_s
        words = answer_text(content, [what_if_text(content), sensitivity_text(content)])
        told = Told(content, f"{words}, {content['wall_s']:.1f} s")
        if folder is not None:
            folder.finish(told.content, told.text)
            if plots:
                from bufferlab.experiments.figures.tuning import plot_tune

                plot_tune(told.content, folder.folder, f"{question.base.config.run.name}: {question.objective.title}")
    return told


def _searched(question: Question, runs: Runs) -> Question:
    """The question whose settings are the finalists of its search and the baselines; as it is where there is none."""
    if question.search is None:
        return question
    search, space = run_search(
        question.search, runs, objective=question.objective, limits=question.limits, demand=question.demand,
        kind=question.kind,
    )  # fmt: skip
    return replace(question, search=search, space=space)


def _otherwise(question: Question, runs: Runs, told: Mapping[str, Any]) -> dict[str, Any]:
    """The same answer with the what-ifs and the sensitivity that were asked for."""

    def ask(other: Question, name: str) -> dict[str, Any]:
        marks = {"stage": WHAT_IF_STAGE, "what_if": name}
        made = Runs(other.settings, runs.execute, runs.folder, runs.progress, runs.notice, marks)
        found = _answered(other, made)
        if found["verdict"] == SLO_MISSED:
            found["floor"] = floor_of(other, made)
        return {**found, "relief": _relieved(other, made, found, name)}

    chosen = question.settings.get(told["chosen"])
    content = {**told, "floor": floor_of(question, runs)}
    content["relief"] = _relieved(question, runs, content)
    content["what_if"] = answers(question, question.what_ifs, content, ask)
    if question.sensitivity and chosen is not None:
        content["sensitivity"] = examine(question, runs, told)
    return content


def _relieved(
    question: Question, runs: Runs, told: Mapping[str, Any], what_if: str | None = None
) -> dict[str, Any] | None:
    """Which stages hold back what is recommended, or what comes nearest; None where nothing is amiss.

    A limit that is missed without any waiting is none that servers could keep.
    """
    lost = told["not_served"]
    number = told["chosen"] or (lost and lost["nearest"]) or told["over"][0]["number"]
    keeps = told["chosen"] is not None and told["verdict"] != SLO_MISSED
    if number is None or (keeps and told["capacity"]["verdict"] != "over"):
        return None
    reachable = not any(out_of_reach(told, limit) for limit in told["slo"]["limits"])
    return relieve(question, runs, question.settings[number], what_if, reachable=reachable)


def _answered(question: Question, runs: Runs) -> dict[str, Any]:
    space, settings, demand = question.space, question.settings, question.demand
    compared = [number for _, number, _ in space.baselines if number is not None]
    eligible = [one for one in space.settings if one.eligible]
    out = screen(eligible, demand, spared=frozenset(compared))
    numbers = [one.number for one in eligible if one.number not in out]
    today = compared[0]
    above = overloaded([settings[number] for number in numbers], demand)
    first = range(question.first)
    if above:
        # Arithmetic says it of all of them; the simulator is asked about those that matter to the user.
        runs.get([(number, replication) for replication in first for number in compared], "baseline")
        over = [number for number in compared if _is_over(question, runs, number)]
        if len(over) == len(compared):
            stage = _bottleneck(question, runs, over) or next(iter(above))
            return answer_of(question, runs, out, None, nothing_to_choose(None, over=True), {}, stage)
    runs.get([(number, replication) for replication in first for number in numbers], "race")
    if numbers and all(_is_over(question, runs, number) for number in numbers):
        decision = nothing_to_choose(None, over=True)
        return answer_of(question, runs, out, None, decision, {}, _bottleneck(question, runs, numbers))
    if not numbers:  # so that there are figures of what is set today
        runs.get([(number, replication) for replication in first for number in compared], "baseline")
    raced = _raced(question, runs, numbers)
    result = without_limits(raced)
    differences = _to_the_best(question, runs, result)
    found = candidates(question.base, settings, result, differences)
    if found is None:
        # Who cannot keep up loses requests: that is no matter of what they were waiting for when they were given up.
        late = [number for number in numbers if _is_over(question, runs, number, in_stretches=True)]
        decision = nothing_to_choose(result, over=bool(late) and len(late) == len(numbers))
        return answer_of(question, runs, out, result, decision, differences, _bottleneck(question, runs, numbers))
    both = dict.fromkeys([found.main, found.cheaper])
    told = _told(question, runs, both)
    runs.get([(number, one) for one in told for number in dict.fromkeys([*both, *compared])], "baseline")
    path = question.objective.path

    def differ(one: int, other: int) -> Estimate | None:
        if not settings[one].eligible or one in result.missed or unserved(runs, one):
            return None
        ones, others = (runs.values(number, path, told) for number in (one, other))
        return difference(ones, others, question.replicates, runs.parts([one, other], path))

    decision = decide(
        settings, result, candidates=found, today=today, differ=differ, exact=question.replicates is None
    )  # fmt: skip
    if result is not raced:
        decision = all_missed(decision)
    nearest = _nearest(question, runs, result, decision, today, told) if decision.choice else {}
    return answer_of(question, runs, out, result, decision, differences, None, told, nearest)


def _nearest(
    question: Question, runs: Runs, result: Result, decision: Decision, today: int, told: Sequence[int]
) -> dict[str, Nearest]:
    """By the figure of every limit the setting that comes nearest to it, and its difference to today's.

    The lowest of many looks lower than it is, so that is told by the replications that tell what a change brings.
    """
    found = {}
    for path in dict.fromkeys(limit.of.path for limit in question.limits):
        if path == question.objective.path:
            number = result.best if decision.chosen in (None, today) else decision.chosen
        else:
            number = _lowest(question, runs, result.numbers, path)
        if number is None:
            continue
        runs.get([(number, one) for one in told], "baseline")
        change = None
        if not unserved(runs, today):
            ones, others = (runs.values(one, path, told) for one in (today, number))
            change = difference(ones, others, question.replicates, runs.parts([today, number], path))
        found[path] = Nearest(number, change)
    return found


def _lowest(question: Question, runs: Runs, numbers: Iterable[int], path: str) -> int | None:
    """The setting with the lowest figure over the replications that all have: others say less of who has had luck."""
    values = {
        number: estimate(path, runs.values(number, path, range(question.first)), question.replicates)["value"]
        for number in numbers
        if not unserved(runs, number)
    }
    known = {number: value for number, value in values.items() if value is not None}
    return min(known, key=lambda one: (known[one], one), default=None)


def _told(question: Question, runs: Runs, numbers: Iterable[int]) -> list[int]:
    """The replications that tell what settings bring: others than they were chosen by, where there are others."""
    count = max(len(runs.rows(number)) for number in numbers)
    return [*range(FRESH, FRESH + max(count, LEAST_FRESH))] if question.kind == "independent" else [*range(count)]


def _to_the_best(question: Question, runs: Runs, result: Result) -> dict[int, Estimate]:
    """Setting − best of all that raced, by number."""
    best, path = result.best, question.objective.path
    if best is None:
        return {}
    own = runs.values(best, path)
    return {
        number: difference(own, runs.values(number, path), question.replicates, runs.parts([best, number], path))
        for number in result.numbers
    }


def _raced(question: Question, runs: Runs, numbers: Sequence[int]) -> Result:
    options: dict[str, Any] = {
        "objective": question.objective, "limits": question.limits, "indifference": question.indifference,
    }  # fmt: skip
    if question.replicates is None:
        from bufferlab.experiments.tuning.single import compare

        return compare(runs, numbers, **options)
    return race(
        runs, numbers, certainty=question.certainty, replicates=question.replicates, first=question.first,
        most=question.most, **options,
    )  # fmt: skip


def _judged(question: Question, runs: Runs, number: int) -> list[Row]:
    """The runs that a verdict on the capacity rests on: of a file, that of the file alone."""
    rows = runs.rows(number)
    return rows[:1] if question.kind == "resampled" else rows


def _is_over(question: Question, runs: Runs, number: int, *, in_stretches: bool = False) -> bool:
    """Whether a setting cannot keep up with the traffic in most of its replications: as a whole, or in stretches."""
    rows = _judged(question, runs, number)
    over = [row["capacity.verdict"] == "over" and (in_stretches or not row["capacity.in_stretches"]) for row in rows]
    return bool(over) and 2 * sum(over) > len(over)


def _bottleneck(question: Question, runs: Runs, numbers: Sequence[int]) -> str | None:
    """The stage that holds most of the runs back that are over capacity, be it in stretches of the traffic.

    A server before a pool: where one setting is held back by its pool and another by what comes behind it, another
    setting is all that the pool needs.
    """
    rows = (row for number in numbers for row in _judged(question, runs, number))
    stages = (row["capacity.bottleneck"] for row in rows if row["capacity.verdict"] == "over")
    counts = Counter(stage for stage in stages if stage is not None)
    servers = Counter({stage: count for stage, count in counts.items() if stage not in POOLS})
    return next((stage for stage, _ in (servers or counts).most_common(1)), None)
