"""Removes results of ours, and nothing that is not: a folder in which anything else lies stays as it is."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from bufferlab.experiments.commands.folders.finding import LEFT, UNFINISHED, Found, find
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.files import LOCK, BusyError, Claim
from bufferlab.experiments.runs.rundir import EVENTS, REQUESTS
from bufferlab.experiments.sweeps.folder import OWN_NAMES as OF_SWEEPS
from bufferlab.experiments.tuning.folder import OWN_NAMES as OF_TUNES

OF_RUNS = {"config.toml", "environment.json", "summary.json", "timeline.json", EVENTS, REQUESTS, "plots"}
OF_VALIDATIONS = {"validation.json", "cases.csv", "*.png", "*.timeline.json", "timelines"}
PICTURES = {"*.png", "*.svg", "*.pdf"}
"""What may lie in plots/."""


def foreign(one: Found) -> list[str]:
    """The files in a result that are none of ours."""
    if LEFT.fullmatch(one.path.name):
        return []
    own = {"sweep": OF_SWEEPS, "tune": OF_TUNES, "validation": OF_VALIDATIONS}.get(one.kind, OF_RUNS)
    if one.kind == UNFINISHED:
        own = OF_SWEEPS | OF_TUNES
    names = []
    for entry in sorted(os.scandir(one.path), key=lambda entry: entry.name):
        if entry.name == LOCK or LEFT.fullmatch(entry.name):
            continue
        if not any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in own):
            names.append(entry.name)
        elif entry.name == "plots" and entry.is_dir(follow_symlinks=False):
            pictures = [path.name for path in os.scandir(entry.path)]
            names += [
                f"plots/{name}"
                for name in sorted(pictures)
                if not LEFT.fullmatch(name) and not any(fnmatch.fnmatchcase(name, pattern) for pattern in PICTURES)
            ]
    return names


def removable(paths: Sequence[Path], *, unfinished: bool) -> tuple[list[Found], list[str]]:
    """What may be removed at or below ``paths``, and a sentence for everything that stays. ``unfinished``: no more than
    what was not finished. Raises UserError for a path that is no folder."""
    found: dict[Path, Found] = {}
    for path in paths:
        if path.is_symlink():
            raise UserError(f"RUN is {str(path)!r}, a link; name the folder itself")
        found |= {one.path.absolute(): one for one in find(path)}
    taken, kept = [], []
    for one in found.values():
        if unfinished and one.kind != UNFINISHED:
            continue
        if one.path.is_mount():
            kept.append(f"{one.path} stays: a file system is mounted there")
        elif others := foreign(one):
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            kept.append(f"{one.path} stays: {', '.join(others[:3])}{more} is not of bufferlab")
        else:
            taken.append(one)
    return taken, kept


def remove(found: Sequence[Found]) -> Iterator[tuple[Found, str]]:
    """Remove them one by one: each with why it stayed all the same, or nothing."""
    for one in found:
        try:
            with _claimed(one):
                if one.path.is_dir():
                    shutil.rmtree(one.path)
                else:
                    one.path.unlink(missing_ok=True)
        except BusyError:
            yield one, f"{one.path} stays: it is being written"
        except OSError as error:
            yield one, f"{one.path} stays: {error.strerror}"
        else:
            yield one, ""


@contextlib.contextmanager
def _claimed(one: Found) -> Iterator[None]:
    """Nobody else writes there meanwhile. Claiming the place of a run removes what was left half written for it."""
    left = LEFT.fullmatch(one.path.name)
    target = one.path.with_name(left["name"] or left["file"]) if left else one.path
    inside = left is None and one.kind in ("sweep", "tune", UNFINISHED)
    with Claim(target, "RUN", inside=inside, make_parents=False):
        yield
