"""``bufferlab check``: the protocol's interleavings and faults, explored."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bufferlab.experiments.commands.common.exits import CHECK_FAILED, DONE
from bufferlab.experiments.commands.common.options import JsonOption
from bufferlab.experiments.commands.common.output import tell
from bufferlab.experiments.commands.common.registry import command
from bufferlab.experiments.commands.common.unused import refuse_unused_in_mode

if TYPE_CHECKING:
    from bufferlab.protocol.checker.bounds import Bound

SEARCH = "a search, which has none of --list, --grid, --random and --replay"
USES: Mapping[str, Collection[str]] = {
    SEARCH: {"--bound", "--discipline", "--only", "--budget-s", "--states", "--jobs", "--out", "--verbose"},
    "--list": {"--bound", "--discipline", "--only"},
    "--grid": {"--jobs"},
    "--random": {"--seed", "--jobs"},
    "--replay": set(),
}
"""What each mode looks at."""


@command(place=100, example="bufferlab check --discipline alloc_then_free")
def check(
    context: typer.Context,
    suite: Annotated[
        str, typer.Option("--bound", metavar="quick|standard|deep", help="How much is explored.")
    ] = "standard",
    discipline: Annotated[
        str | None, typer.Option("--discipline", metavar="NAME", help="Only this buffer discipline.")
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="TEXT", help="Only configurations with this in their name.")
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the configurations and explore nothing.")] = False,
    budget_s: Annotated[
        float | None, typer.Option("--budget-s", metavar="SECONDS", help="Stop all searches after this long.")
    ] = None,
    most_states: Annotated[
        int | None, typer.Option("--states", metavar="NUMBER", help="Stop each search at this many states.")
    ] = None,
    grid: Annotated[
        int | None,
        typer.Option("--grid", metavar="REQUESTS", help="Count deadlocks over a grid of up to 2, 3 or 4 requests."),
    ] = None,
    random: Annotated[
        int | None,
        typer.Option("--random", metavar="SEEDS", help="Run this many seeds with random faults on the simulator."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="NUMBER", help="The first seed of --random.")] = 0,
    replay: Annotated[
        Path | None, typer.Option("--replay", metavar="FILE", help="Carry out a saved schedule on the cores.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", metavar="NUMBER", help="Searches at once. [default: one a core]")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where counterexamples are saved, if there are any.")
    ] = Path("runs/check"),
    verbose: Annotated[bool, typer.Option("--verbose", help="A line for every configuration.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Explores the protocol's interleavings and fault schedules; prints the smallest counterexample there is."""
    from bufferlab.experiments.commands.checking.parallel import default_jobs
    from bufferlab.experiments.errors import UserError

    numbers = {"--budget-s": budget_s, "--states": most_states, "--random": random, "--jobs": jobs}
    for name, value in numbers.items():
        if value is not None and not value > 0:
            raise UserError(f"{name} is {value}, it must be more than 0")
    if seed < 0:
        raise UserError(f"--seed is {seed}, it must be at least 0")
    if grid is not None and grid not in (2, 3, 4):
        raise UserError(f"--grid is {grid}, it must be 2, 3 or 4")
    if sum(mode is not None for mode in (grid, random, replay)) > 1:
        raise UserError("only one of --grid, --random and --replay may be given")
    modes = {"--grid": grid, "--random": random, "--replay": replay}
    mode = next((name for name, value in modes.items() if value is not None), "--list" if show_list else SEARCH)
    if show_list and mode != "--list":
        raise UserError(f"--list has no effect with {mode}: it is for the configurations of a search")
    refuse_unused_in_mode(context, mode, USES)
    if jobs is None:
        jobs = default_jobs()
    if replay is not None:
        held = _replay(replay, as_json=as_json)
    elif grid is not None:
        held = _count_deadlocks(grid, jobs, as_json=as_json)
    elif random is not None:
        held = _run_faults(random, seed, jobs, as_json=as_json)
    else:
        from bufferlab.experiments.commands.checking.searches import chosen_bounds

        bounds = chosen_bounds(suite, discipline, only)
        if show_list:
            _list(bounds, as_json=as_json)
            return
        held = _search(bounds, jobs, most_states, budget_s, out, verbose=verbose, as_json=as_json)
    raise typer.Exit(DONE if held else CHECK_FAILED)


# Each mode tells what it found and returns whether all that it looked at holds.


def _replay(path: Path, *, as_json: bool) -> bool:
    from bufferlab.experiments.commands.checking.replays import replay_file, replay_text

    done = replay_file(path)
    tell(done, replay_text(done), as_json=as_json)
    return not done["violations"]


def _count_deadlocks(most_requests: int, jobs: int, *, as_json: bool) -> bool:
    from bufferlab.experiments.commands.checking.deadlocks import (
        check_grid,
        count_grid,
        grid_text,
        unexpected_deadlocks,
    )
    from bufferlab.experiments.progress import bar

    with bar("check", count_grid(most_requests), "cases") as shown:
        report = check_grid(most_requests, jobs=jobs, progress=shown.step)
    tell(report, grid_text(report), as_json=as_json)
    return not unexpected_deadlocks(report)


def _run_faults(count: int, seed: int, jobs: int, *, as_json: bool) -> bool:
    from bufferlab.experiments.commands.checking.chaos import check_random, random_text
    from bufferlab.experiments.progress import bar

    with bar("check", count, "seeds") as shown:
        report = check_random(count, seed, jobs=jobs, progress=shown.step)
    tell(report, random_text(report), as_json=as_json)
    return not report["violations"]


def _list(bounds: Sequence[Bound], *, as_json: bool) -> None:
    from bufferlab.experiments.commands.checking.searches import list_text

    listed = [{"name": bound.name, "hazards": list(bound.hazards)} for bound in bounds]
    tell({"configurations": listed}, list_text(bounds), as_json=as_json)


def _search(
    bounds: Sequence[Bound],
    jobs: int,
    most_states: int | None,
    budget_s: float | None,
    out: Path,
    *,
    verbose: bool,
    as_json: bool,
) -> bool:
    from bufferlab.experiments.commands.checking.searches import check as explore_all
    from bufferlab.experiments.commands.checking.searches import report_text, write_schedules
    from bufferlab.experiments.progress import bar

    with bar("check", len(bounds), "configurations") as shown:
        report = explore_all(bounds, jobs=jobs, most_states=most_states, budget_s=budget_s, progress=shown.step)
    try:
        write_schedules(report, out)
    finally:  # counterexamples that cannot be written are shown all the same
        tell(report, report_text(report, verbose=verbose), as_json=as_json)
    return not report["violations"]
