"""From a CONFIG argument and ``--set`` options to a checked configuration."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from experiments.config.problems import shown
from experiments.config.schema import WORKLOAD_SOURCES, Config, parse
from experiments.errors import UserError
from experiments.workloads.recorded import TABLE
from protocol.naming import did_you_mean
from protocol.sizing.registry import absolute

KEPT_WITH_A_FILE = ("service_log_sd",)
"""Settings of a workload that are about the servers rather than the requests, and stay when a file is given."""

ONLY_OF_PRESETS = frozenset({"options", "order", "repeat_probability", "hint"})
"""Settings of a workload that lengths cannot have."""


def example_names() -> list[str]:
    """Names of the shipped examples."""
    folder = resources.files("experiments.config") / "examples"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def example_text(name: str) -> str:
    """The commented TOML text of a shipped example. Raises UserError for an unknown one."""
    if name not in example_names():
        hint = did_you_mean(name, example_names())
        raise UserError(f"there is no example {name!r}{hint}, the shipped ones are {', '.join(example_names())}")
    return (resources.files("experiments.config") / "examples" / f"{name}.toml").read_text(encoding="utf-8")


def example_title(name: str) -> str:
    """The first comment line of an example."""
    return example_text(name).splitlines()[0].lstrip("# ").strip()


def load(source: str, overrides: Iterable[str] = ()) -> Config:
    """The resolved configuration of a file or a shipped example, with ``key.path=value`` overrides applied.

    File names in a configuration file are relative to it, those in overrides to the current folder.
    Raises UserError before anything else happens.
    """
    path = Path(source)
    # A file wins over an example of its name; a name that looks like a path is never an example.
    if path.is_file():
        text, folder = _read(path), path.parent
    elif path.is_dir() and (path / "config.toml").is_file():
        text, folder, path = _read(path / "config.toml"), path, path / "config.toml"
    elif source in example_names():
        text, folder = example_text(source), Path()
    elif path.suffix or len(path.parts) > 1 or path.exists():
        raise UserError(f"CONFIG is {source!r}, it must be a file that can be read or the name of a shipped example")
    else:
        hint = did_you_mean(source, example_names())
        raise UserError(
            f"CONFIG is {source!r}{hint}, it must be a file or one of the shipped examples {', '.join(example_names())}"
        )
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        meant = f"; a workload file is given as --set workload.file={source}" if _is_workload(path) else ""
        raise UserError(f"{source} is not TOML: {error}{meant}") from None
    anchor_files(tree, folder)
    set_aside = apply_overrides(tree, overrides)
    run = tree.setdefault("run", {})
    if isinstance(run, dict):
        run.setdefault("name", _name_of(path))
    config = parse(tree).resolved().having_set_aside(set_aside)
    for file in config.input_files():
        if not file.is_file():
            raise UserError(f"the configuration names {str(file)!r}, it must be a file that can be read")
    return config


def apply_overrides(tree: dict[str, Any], overrides: Iterable[str]) -> tuple[str, ...]:
    """Put ``key.path=value`` overrides into ``tree``; file names in them are relative to the current folder.

    A workload file among them is used as it is: what the configuration says of its own requests (how many, at which
    rate, the options of its preset, how often it is repeated) does not apply to it unless it is among the overrides,
    too. Listed requests replace all of that, too, and lengths what only a preset has. Returns these settings as
    ``key = value``.
    """
    listed = list(overrides)
    given = {override.partition("=")[0].strip() for override in listed}
    set_aside = _make_room(tree, given)
    for override in listed:
        apply_override(tree, override)
    anchor_files(tree, Path())
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
    if path.name == TABLE and not own and "service_log_sd" in workload:
        gone.append(f"workload.service_log_sd = {shown(workload.pop('service_log_sd'))}")
    repeated = isinstance(run, dict) and run.get("replications", 1) != 1 and "run.replications" not in given
    if isinstance(run, dict) and repeated and path.exists():
        from experiments.workloads.readers import find_reader

        # A distribution is drawn from anew in every replication; requests of a file are the same ones each time.
        if find_reader(path).gives != "lengths":
            gone.append(f"run.replications = {run.pop('replications')}")
    return gone


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Put one ``key.path=value`` into ``tree``. The value is TOML, or bare text where it is no TOML."""
    key, sign, text = override.partition("=")
    parts = key.strip().split(".")
    if not sign or not all(parts):
        raise UserError(f"--set is {override!r}, it must look like protocol.block_tokens=128")
    table: Any = tree
    for depth, part in enumerate(parts[:-1]):
        table = table.setdefault(part, {}) if isinstance(table, dict) else _item(table, part, override)
        if not isinstance(table, dict | list):
            raise UserError(f"--set is {override!r}, but {'.'.join(parts[: depth + 1])} is a value, not a section")
    value = _value(text.strip())
    if isinstance(table, list):
        _item(table, parts[-1], override)
        table[int(parts[-1])] = value
        return
    if parts[0] == "workload" and len(parts) == 2 and parts[1] in WORKLOAD_SOURCES:
        # The sources are alternatives, so choosing one drops the other, and what only belonged to it.
        for other in WORKLOAD_SOURCES:
            if other != parts[1]:
                table.pop(other, None)
        if parts[1] != "lengths":
            table.pop("text_tokens", None)
    if parts == ["workload", "loop"] and value == "open":
        table.pop("concurrency", None)
    if parts == ["model", "name"]:
        table.clear()
    if parts == ["model", "hidden"]:
        table.pop("name", None)
    table[parts[-1]] = value


def anchor_files(tree: dict[str, Any], folder: Path) -> None:
    """Make file names in ``tree`` absolute; a profile is a file name if it has a suffix or a folder."""
    for section, key in (("workload", "file"), ("encode", "profile"), ("language", "profile"), ("link", "profile")):
        table = tree.get(section)
        if not isinstance(table, dict) or not isinstance(table.get(key), str):
            continue
        name = Path(table[key])
        looks_like_file = key == "file" or len(name.parts) > 1 or name.suffix in {".toml", ".json"}
        if looks_like_file and not name.is_absolute():
            table[key] = str((folder / name).resolve())
        if key == "file" and (Path(table[key]) / TABLE).is_file():
            table[key] = str(Path(table[key]) / TABLE)
    protocol = tree.get("protocol")
    sizing = protocol.get("sizing") if isinstance(protocol, dict) else None
    if isinstance(sizing, dict) and isinstance(sizing.get("policy"), str):
        sizing["policy"] = absolute(sizing["policy"], folder)


def _item(items: list[Any], part: str, override: str) -> Any:
    if not part.isdigit() or int(part) >= len(items):
        raise UserError(f"--set is {override!r}, but {part!r} is not a number from 0 to {len(items) - 1}")
    return items[int(part)]


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _is_workload(path: Path) -> bool:
    from experiments.workloads.readers.tables import SUFFIXES, suffix_of

    return suffix_of(path) in SUFFIXES


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        if isinstance(error, UnicodeDecodeError) and _is_workload(path):
            reason = f"{reason}; a workload file is given as --set workload.file={path}"
        raise UserError(f"CONFIG is {str(path)!r}, which cannot be read: {reason}") from None


def _name_of(path: Path) -> str:
    stem = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in path.stem)
    return stem.lstrip("._-")[:80] or "run"
