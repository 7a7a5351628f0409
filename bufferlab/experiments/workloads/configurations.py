"""From a CONFIG argument and ``--set`` options to a checked configuration.

This stands above ``config``, because what of a configuration applies depends on what the workload file given in its
place holds.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bufferlab.experiments.config.inputs import RUN_CONFIG, RUN_REQUESTS, RUN_SUMMARY, is_workload, why_unreadable
from bufferlab.experiments.config.overrides import (
    Override,
    anchor_files,
    apply_override,
    drop_options_of_another_policy,
    key_of,
    takes_away,
)
from bufferlab.experiments.config.problems import shown
from bufferlab.experiments.config.renamed import new_example, with_new_names
from bufferlab.experiments.config.schema import Config, parse
from bufferlab.experiments.config.sections.workload import WORKLOAD_SOURCES
from bufferlab.experiments.config.shipped import example_names, example_text
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.readers import find_reader
from bufferlab.protocol.naming import did_you_mean

KEPT_WITH_A_FILE = ("service_log_sd",)
"""Settings of a workload that are about the servers rather than the requests, and stay when a file is given."""

ONLY_OF_PRESETS = frozenset({"options", "order", "repeat_probability", "hint"})
"""Settings of a workload that lengths cannot have."""


BINARY_TABLES = frozenset({".parquet", ".gz"})
"""Names of files that are no text end with these."""


@dataclass(frozen=True)
class Source:
    """A configuration as it was written when it was read, and what has been said since."""

    name: str
    """As CONFIG names it."""
    text: str
    path: Path
    folder: Path
    """File names in the text are relative to it."""
    layers: tuple[tuple[Override, ...], ...] = ()
    """Overrides, those of each layer as if the layers before it stood in the text."""


def _of_traffic(name: str) -> str:
    return (
        f"CONFIG is {name!r}, which holds requests and no configuration; give one that they are put into, as in "
        f"quickstart --set workload.file={name}"
    )


def read_source(source: str) -> Source:
    """Read a file, the configuration of a run directory or a shipped example. Raises UserError."""
    if not Path(source).exists():
        source = new_example(source)
    path = Path(source)
    # A file wins over an example of its name; a name that looks like a path is never an example.
    if path.is_file():
        if path.suffix in BINARY_TABLES:
            raise UserError(_of_traffic(source))
        return Source(source, _read(path), path, path.parent)
    if path.is_dir() and (path / RUN_CONFIG).is_file():
        return Source(source, _read(path / RUN_CONFIG), path / RUN_CONFIG, path)
    if source in example_names():
        return Source(source, example_text(source), path, Path())
    if path.suffix or len(path.parts) > 1 or path.exists():
        raise UserError(
            f"CONFIG is {source!r}, it must be a file that can be read or the name of a shipped example"
            f"{why_unreadable(path)}"
        )
    hint = did_you_mean(source, example_names())
    raise UserError(
        f"CONFIG is {source!r}{hint}, it must be a file or one of the shipped examples {', '.join(example_names())}"
    )


def read_config(
    source: str | Source, overrides: Iterable[Override] = (), *, measured: bool = False
) -> tuple[Config, bool]:
    """The resolved configuration of a file or a shipped example, with overrides applied.

    Also whether it says how many replications it has. File names in a configuration file are relative to it, those in
    overrides to the current folder. ``measured``: what a simulated run made of a file does not count for one that
    measures. Raises UserError before anything else happens.
    """
    read = read_source(source) if isinstance(source, str) else source
    path = read.path
    try:
        tree = with_new_names(tomllib.loads(read.text))
    except tomllib.TOMLDecodeError as error:
        if is_workload(path):
            raise UserError(_of_traffic(read.name)) from None
        raise UserError(f"{read.name} is not TOML: {error}") from None
    anchor_files(tree, read.folder)
    layers = [*read.layers, tuple(overrides)]
    set_aside = tuple(setting for layer in layers for setting in apply_overrides(tree, layer))
    keys = [key_of(one) for layer in layers for one in layer]
    run = tree.setdefault("run", {})
    if isinstance(run, dict):
        run.setdefault("name", _name_of(path))
        if measured and _are_resamples(path) and "run.replications" not in keys:
            run.pop("replications", None)
    said = isinstance(run, dict) and run.get("replications") is not None
    config = parse(tree).resolved().having_set_aside(set_aside)
    for file in config.input_files():
        if not file.is_file():
            raise UserError(
                f"the configuration names {str(file)!r}, it must be a file that can be read{why_unreadable(file)}"
            )
    return config, said


def _are_resamples(path: Path) -> bool:
    """Whether a configuration is that of a simulated run whose replications are resamples of a file."""
    summary = path.with_name(RUN_SUMMARY)
    if path.name != RUN_CONFIG or not summary.is_file():
        return False
    told: Any = json.loads(summary.read_text(encoding="utf-8"))
    return isinstance(told, dict) and told.get("replication_kind") == "resampled"


def apply_overrides(tree: dict[str, Any], overrides: Iterable[Override]) -> tuple[str, ...]:
    """Put overrides into ``tree``; file names in them are relative to the current folder.

    A workload file among them is used as it is: what the configuration says of its own requests (how many, at which
    rate, the options of its preset, how often it is repeated) does not apply to it unless it is among the overrides,
    too. Listed requests replace all of that, too, and lengths what only a preset has; another sizing policy leaves the
    options out that it does not have. Returns these settings as ``key = value``.
    """
    listed = list(overrides)
    given = {key_of(one) for one in listed if not takes_away(one)}
    sources = [name for name in WORKLOAD_SOURCES if f"workload.{name}" in given]
    if len(sources) > 1:
        raise UserError(
            f"--set gives workload.{' and '.join(reversed(sources))}, it must give only one of "
            f"{', '.join(WORKLOAD_SOURCES)}"
        )
    set_aside = _make_room(tree, given)
    for override in listed:
        apply_override(tree, override)
    anchor_files(tree, Path())
    set_aside += [f"{name} = {shown(value)}" for name, value in drop_options_of_another_policy(tree, given).items()]
    workload = tree.get("workload")
    chosen = {"workload", "workload.file"} & given
    if chosen and isinstance(workload, dict) and isinstance(workload.get("file"), str):
        set_aside += _of_another_source(tree, Path(workload["file"]), given)
    return tuple(set_aside)


def _make_room(tree: dict[str, Any], given: set[str]) -> list[str]:
    """Take out of a configuration what its own workload needs and a file that is given instead has no use for."""
    workload = tree.get("workload")
    if not isinstance(workload, dict):
        return []
    if {"workload.rate_rps", "workload.rate_scale"} & given:
        for name in ("rate_rps", "rate_scale"):
            workload.pop(name, None)
    if {"workload.file", "workload.request"} & given:
        # Whoever says how many requests are under way at a time means the loop of the configuration.
        kept = {*KEPT_WITH_A_FILE, *(["loop"] if "workload.concurrency" in given else [])}
        leaving = set(workload) - kept
    elif "workload.lengths" in given:
        leaving = set(workload) & ONLY_OF_PRESETS
    else:
        leaving = {"options"} & set(workload) if "workload.preset" in given else set()
    gone = {name: workload.pop(name) for name in list(workload) if name in leaving}
    sources = (*WORKLOAD_SOURCES, "text_tokens")
    told = [(name, value) for name, value in gone.items() if name not in sources and f"workload.{name}" not in given]
    return [f"workload.{name} = {shown(value)}" for name, value in told]


def _of_another_source(tree: dict[str, Any], path: Path, given: set[str]) -> list[str]:
    """Take out what a file with requests of its own cannot have, once it is known which file that is."""
    gone = []
    workload, run = tree["workload"], tree.get("run")
    own = {"workload", "workload.service_log_sd"} & given
    if path.name == RUN_REQUESTS and not own and "service_log_sd" in workload:
        gone.append(f"workload.service_log_sd = {shown(workload.pop('service_log_sd'))}")
    repeated = isinstance(run, dict) and run.get("replications", 1) != 1 and "run.replications" not in given
    # A distribution is drawn from anew in every replication; requests of a file are the same ones each time.
    if isinstance(run, dict) and repeated and path.exists() and find_reader(path).gives != "lengths":
        gone.append(f"run.replications = {run.pop('replications')}")
    return gone


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        if isinstance(error, UnicodeDecodeError) and is_workload(path):
            reason = f"{reason}; a workload file is given as --set workload.file={path}"
        raise UserError(f"CONFIG is {str(path)!r}, which cannot be read: {reason}") from None


def _name_of(path: Path) -> str:
    stem = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in path.stem)
    return stem.lstrip("._-")[:80] or "run"
