"""``bufferlab runs``: the results below a folder: what there is, side by side, and away with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bufferlab.experiments.commands.common.exits import CHECK_FAILED, DONE
from bufferlab.experiments.commands.common.options import JsonOption
from bufferlab.experiments.commands.common.output import tell
from bufferlab.experiments.commands.common.registry import command
from bufferlab.experiments.commands.common.unused import refuse_unused_in_mode

if TYPE_CHECKING:
    from bufferlab.experiments.commands.folders.finding import Found

DEFAULT = Path("runs")
LIST, COMPARE, CLEAN = "runs", "runs compare", "runs clean"
USES = {LIST: {"--kind", "--sort"}, COMPARE: set[str](), CLEAN: {"--unfinished", "--yes"}}


@command(
    place=98,
    example="bufferlab runs --sort p99",
    note="bufferlab runs compare RUN RUN: their figures side by side. bufferlab runs clean FOLDER: removes results.",
)
def runs(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[compare|clean] FOLDER|RUN…",
            help="Nothing or a folder lists what lies below it. [default: runs]",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", metavar="sim|real|sweep|tune|validation|unfinished", help="List only these."),
    ] = None,
    sort: Annotated[
        str, typer.Option("--sort", metavar="when|name|p99|size", help="The newest, lowest or largest first.")
    ] = "when",
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Clean: only what was begun and not finished.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Clean: do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Lists runs, sweeps, tunings and validations; compare shows runs side by side, clean removes what is ours."""
    from bufferlab.experiments.starting import load_numpy

    load_numpy()
    given = list(words or ())
    mode = {"compare": COMPARE, "clean": CLEAN}.get(given[0] if given else "", LIST)
    refuse_unused_in_mode(context, mode, USES)
    paths = [Path(one) for one in given[0 if mode == LIST else 1 :]]
    if mode == COMPARE:
        from bufferlab.experiments.commands.folders.listing import compared, compared_text

        summaries = compared(paths)
        tell({"runs": summaries}, "" if as_json else compared_text(summaries), as_json=as_json)
    elif mode == CLEAN:
        _clean(paths or [one for one in (DEFAULT,) if one.exists()], unfinished=unfinished, yes=yes, as_json=as_json)
    else:
        _list(paths, kind, sort, as_json=as_json)


def _list(paths: list[Path], kind: str | None, sort: str, *, as_json: bool) -> None:
    from bufferlab.experiments.commands.folders.finding import KINDS, find
    from bufferlab.experiments.commands.folders.listing import ORDERS, list_text, ordered
    from bufferlab.experiments.errors import UserError
    from bufferlab.protocol.naming import did_you_mean

    for option, value, known in (("--kind", kind, KINDS), ("--sort", sort, ORDERS)):
        if value is not None and value not in known:
            hint = did_you_mean(value, known)
            raise UserError(f"{option} is {value!r}, it must be one of {', '.join(known)}{hint}")
    if len(paths) > 1:
        raise UserError(f"FOLDER is given {len(paths)} times, runs lists one; runs compare takes several runs")
    folder = paths[0] if paths else DEFAULT
    found = [] if not paths and not folder.exists() else list(find(folder))
    shown = ordered([one for one in found if kind is None or one.kind == kind], sort)
    tell({"folder": str(folder), "runs": [one.content() for one in shown]}, list_text(shown, folder), as_json=as_json)


def _clean(paths: list[Path], *, unfinished: bool, yes: bool, as_json: bool) -> None:
    from bufferlab.experiments.commands.folders.cleaning import removable, remove
    from bufferlab.experiments.errors import UserError
    from bufferlab.experiments.units import format_size

    found, kept = removable(paths, unfinished=unfinished)
    told = sys.stderr if as_json else sys.stdout
    for one in found:
        print(f"{one.kind:<10}  {format_size(one.size_bytes):>10}  {one.path}", file=told)
    for sentence in kept:
        print(sentence, file=sys.stderr)
    if found and not yes:
        if not sys.stdin.isatty():
            raise UserError("nobody can be asked here; give --yes to remove what is listed")
        size = format_size(sum(one.size_bytes for one in found))
        if not typer.confirm(f"Remove these {len(found)}, {size}?", err=True):
            kept, found = [*kept, *(str(one.path) for one in found)], []
    removed: list[Found] = []
    failed: list[Found] = []
    for one, why in remove(found):
        (failed if why else removed).append(one)
        if why:
            print(why, file=sys.stderr)
    freed = sum(one.size_bytes for one in removed)
    content = {
        "removed": [str(one.path) for one in removed],
        "kept": [*kept, *(str(one.path) for one in failed)],
        "freed_bytes": freed,
    }
    tell(content, f"{len(removed)} removed, {format_size(freed)} freed", as_json=as_json)
    raise typer.Exit(CHECK_FAILED if failed else DONE)
