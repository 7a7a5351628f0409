"""What differs between two stored runs of the same requests, with intervals.

Replications are matched by their number and requests by theirs. Latencies and transfer times are compared over the
requests that both runs delivered: a setting that fails the long requests would look fast otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.estimates import FIGURES, Figure
from bufferlab.experiments.runs.matching import only_resampled, only_the_file
from bufferlab.experiments.runs.replication import Grid, Replication
from bufferlab.experiments.stats.paired import Difference, paired, paired_in_run
from bufferlab.experiments.stats.replicates import INDEPENDENT, Replicates
from bufferlab.experiments.text import table
from bufferlab.experiments.units import format_duration
from bufferlab.protocol.naming import flat, put

if TYPE_CHECKING:
    import pandas as pd

    from bufferlab.experiments.runs.rundir import StoredRun

SAME_COLUMNS = ("arrival_s", "total_tokens", "text_tokens", "images")
"""What two requests must have in common to be the same request; in two closed loops all but the first, which is what
the runs make of it."""


def compare_paired(first: Path, second: Path, *, progress: Callable[[int], object] | None = None) -> dict[str, Any]:
    """The differences of two run directories, second − first, figure by figure.

    ``differences`` has the places of summary.json, with a ``paired.Difference`` in each. ``requests``: how many were
    compared, and how many only one of the runs delivered. ``workload``: what the first says of them.
    ``settings``: where the two configurations differ. ``notes``: what is left out, a sentence each.
    ``progress`` is told how many more events were read.
    Raises UserError, in one sentence, unless both ran the same requests.
    """
    from bufferlab.experiments.runs.replay import replications_of
    from bufferlab.experiments.runs.rundir import StoredRun

    runs = StoredRun(first), StoredRun(second)
    resampled = only_resampled(*runs)
    common = None if resampled is None else 1
    _check_same_requests(*runs, common)
    replications = [replications_of(run, progress=progress)[:common] for run in runs]
    pairs = [_matched(one, other) for one, other in zip(*replications, strict=False)]
    delivered = [[one.delivered() for one in side] for side in replications]
    only = [
        sum(int(np.count_nonzero(a & ~b)) for a, b in zip(mine, others, strict=False))
        for mine, others in (delivered, delivered[::-1])
    ]
    differences: dict[str, Any] = {}
    for figure in FIGURES:
        put(differences, figure.path, _difference(figure, pairs))
    return {
        "first": str(first),
        "second": str(second),
        "workload": runs[0].summary.get("workload"),
        "replications": len(pairs),
        "requests": {
            "compared": sum(len(one.rooms()) for one, _ in pairs),
            "delivered_only_by_first": only[0],
            "delivered_only_by_second": only[1],
        },
        "settings": list(_settings(*runs)),
        "notes": [] if resampled is None else [only_the_file(resampled)],
        "differences": differences,
    }


def paired_text(result: Mapping[str, Any]) -> str:
    """The differences as a table for a terminal."""
    requests = result["requests"]
    count = result["replications"]
    lines = [
        f"{requests['compared']} requests in {count} replication{'s' if count > 1 else ''}, the same in both runs",
        *([result["workload"]["sentence"]] if result["workload"] else []),
        f"first:  {result['first']}",
        f"second: {result['second']}",
        *(f"{one['name']}: {one['first']} -> {one['second']}" for one in result["settings"]),
        *result["notes"],
        "",
    ]
    rows: list[tuple[str, ...]] = [("", "first", "second", "difference", "95 % interval", "", "variance")]
    for figure in FIGURES:
        found: Any = result["differences"]
        for name in figure.path:
            found = found[name]
        if figure.path[0] == "slo" and found["first"] is None and found["second"] is None:
            continue  # nothing was promised
        rows.append(_row(figure.name, found))
    lines.append(table(rows))
    lines += [
        "",
        "difference: second - first. *: its interval leaves out 0, which happens by chance in 5 % of all differences.",
        "variance: by what factor pairing the same requests lowers that of the difference.",
    ]
    for name in ("first", "second"):
        alone = requests[f"delivered_only_by_{name}"]
        if alone:
            lines.append(f"left out of latencies, transfers and resumes: {alone} requests that only {name} delivered")
    return "\n".join(lines)


def _matched(first: Replication, second: Replication) -> tuple[Replication, Replication]:
    common = first.delivered() & second.delivered()
    return first.only(common), second.only(common)


def _difference(figure: Figure, pairs: list[tuple[Replication, Replication]]) -> Difference:
    if len(pairs) == 1:
        ((first, second),) = pairs
        grid = _common_grid(first, second)
        difference = paired_in_run(figure.of(first, grid), figure.of(second, grid))
    else:
        firsts, seconds = ([figure.value(one) for one in side] for side in zip(*pairs, strict=True))
        replicates = _replicates(pairs)
        parts = [figure.parts(one) for one in pairs[0]] if replicates.resampled else []
        known = [part for part in parts if part is not None]
        difference = paired(firsts, seconds, replicates, min(known) if known else None, positive=figure.positive)
        return figure.of_difference(difference, replicates)
    return figure.of_difference(difference)


def _replicates(pairs: list[tuple[Replication, Replication]]) -> Replicates:
    """What the replications of two runs are to one another: nothing is known of both that is not of each."""
    kinds = [one.replicates for one in pairs[0]]
    return next((one for one in kinds if one.resampled), INDEPENDENT)


def _common_grid(first: Replication, second: Replication) -> Grid | None:
    """The longer steps of the two, as many as both runs have."""
    grids = [grid for grid in (first.grid(), second.grid()) if grid is not None]
    if len(grids) < 2:
        return None
    step_s = max(grid.step_s for grid in grids)
    return Grid(step_s, min(int(grid.steps * grid.step_s // step_s) for grid in grids))


def _check_same_requests(first: StoredRun, second: StoredRun, most: int | None) -> None:
    """Of the replications that both have, ``most`` at most, if any number is given."""
    tables = [_requests(run) for run in (first, second)]
    closed = all(run.config.workload.loop == "closed" for run in (first, second))
    same = SAME_COLUMNS[1:] if closed else SAME_COLUMNS
    counts = [int(one["replication"].nunique()) for one in tables]
    problem = f"RUN is {str(second.path)!r}, it must have the same requests as {str(first.path)!r}"
    for number in range(min(counts))[:most]:
        mine, other = (one[one["replication"] == number].reset_index(drop=True) for one in tables)
        if len(mine) != len(other):
            raise UserError(f"{problem}, but replication {number} has {len(other)} of them instead of {len(mine)}")
        for name in ("room", *same):
            unequal = np.flatnonzero(mine[name].to_numpy() != other[name].to_numpy())
            if len(unequal):
                row = int(unequal[0])
                raise UserError(
                    f"{problem}, but request {mine['room'][row]} of replication {number} has {name} "
                    f"{other[name][row]} instead of {mine[name][row]}"
                )
    warmups = [run.config.run.warmup_requests for run in (first, second)]
    if warmups[0] != warmups[1]:
        raise UserError(
            f"RUN is {str(second.path)!r} with run.warmup_requests {warmups[1]}, it must be {warmups[0]} as in "
            f"{str(first.path)!r}"
        )


def _requests(run: StoredRun) -> pd.DataFrame:
    columns = run.requests("replication", "room", *SAME_COLUMNS)
    return columns.sort_values(["replication", "room"], ignore_index=True)


def _settings(first: StoredRun, second: StoredRun) -> Iterator[dict[str, Any]]:
    trees = [dict(flat(run.config.tree())) for run in (first, second)]
    for name in dict.fromkeys([*trees[0], *trees[1]]):
        one, other = (tree.get(name) for tree in trees)
        if one != other and name not in ("run.name", "run.replications"):
            yield {"name": name, "first": one, "second": other}
    if first.kind != second.kind:
        yield {"name": "kind", "first": first.kind, "second": second.kind}


def _row(name: str, found: Difference) -> tuple[str, ...]:
    def show(value: float | None, sign: str = "") -> str:
        if value is None:
            return "-"
        if not name.endswith("_s") and "_s." not in name:
            return f"{value:{sign}.4g}"
        shown = format_duration(abs(value))
        return f"-{shown}" if value < 0 else f"{sign}{shown}"

    low, high, less = found["low"], found["high"], found["variance_reduction"]
    return (
        name,
        show(found["first"]),
        show(found["second"]),
        show(found["value"], "+"),
        "" if low is None or high is None else f"{show(low, '+')} .. {show(high, '+')}",
        "*" if found["significant"] else "",
        "" if less is None else f"/ {less:.3g}",
    )
