"""Changes to the tree of a configuration before it is checked: settings of a command line or of Python, and file names
made absolute."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from bufferlab.experiments.config.inputs import RUN_REQUESTS
from bufferlab.experiments.config.renamed import new_path
from bufferlab.experiments.config.sections.protocol import Sizing, options_of
from bufferlab.experiments.config.sections.workload import WORKLOAD_SOURCES
from bufferlab.experiments.errors import UserError
from bufferlab.protocol.sizing.places import absolute

Override = str | tuple[str, Any]
"""``key.path=value`` as a command line has it, whose value is TOML or bare text; or the path and the value itself."""


def key_of(override: Override) -> str:
    """The path of the setting."""
    return (override.partition("=")[0] if isinstance(override, str) else override[0]).strip()


def takes_away(override: Override) -> bool:
    """Whether it says that a setting has no value, which only Python can say."""
    return not isinstance(override, str) and override[1] is None


def apply_override(tree: dict[str, Any], override: Override) -> None:
    """Put one setting into ``tree``."""
    parts = key_of(override).split(".")
    if not all(parts) or (isinstance(override, str) and "=" not in override):
        raise UserError(f"--set is {told(override)!r}, it must look like protocol.block_tokens=128")
    parts = new_path(parts)
    table: Any = tree
    for depth, part in enumerate(parts[:-1]):
        table = table.setdefault(part, {}) if isinstance(table, dict) else _item(table, part, override)
        if not isinstance(table, dict | list):
            raise UserError(
                f"--set is {told(override)!r}, but {'.'.join(parts[: depth + 1])} is a value, not a section"
            )
    value = _value(override.partition("=")[2].strip()) if isinstance(override, str) else override[1]
    if isinstance(table, list):
        _item(table, parts[-1], override)
        table[int(parts[-1])] = value
        return
    if value is None and (isinstance(table.get(parts[-1]), dict | list) or _is_option(parts)):
        table.pop(parts[-1], None)
        return
    if parts[0] == "workload" and len(parts) == 2 and parts[1] in WORKLOAD_SOURCES and value is not None:
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


def _is_option(parts: list[str]) -> bool:
    """Whether a setting is an option of a policy or of a preset, of which none has to be there."""
    return parts[:2] == ["workload", "options"] or (
        parts[:2] == ["protocol", "sizing"] and len(parts) == 3 and parts[2] not in Sizing.model_fields
    )


def drop_options_of_another_policy(tree: dict[str, Any], given: set[str]) -> dict[str, Any]:
    """Take out of ``tree`` the options that belonged to another policy than the one that is ``given``.

    Those that are given beside it stay, and so do those that both policies have. Returns what went.
    """
    protocol = tree.get("protocol")
    sizing = protocol.get("sizing") if isinstance(protocol, dict) else None
    if "protocol.sizing.policy" not in given or not isinstance(sizing, dict):
        return {}
    try:
        known = {*Sizing.model_fields, *options_of(sizing["policy"])}
    except (ValueError, TypeError, AttributeError, KeyError):
        return {}  # no policy at all, which is said when the configuration is checked
    unknown = [name for name in sizing if name not in known and f"protocol.sizing.{name}" not in given]
    return {f"protocol.sizing.{name}": sizing.pop(name) for name in unknown}


def anchor_files(tree: dict[str, Any], folder: Path) -> None:
    """Make file names in ``tree`` absolute; a profile is a file name if it has a suffix or a folder."""
    for section, key in (("workload", "file"), ("encode", "profile"), ("language", "profile"), ("link", "profile")):
        table = tree.get(section)
        if not isinstance(table, dict) or not isinstance(table.get(key), str):
            continue
        if not table[key].strip():
            raise UserError(f"{section}.{key} is empty, it must be {'a file or folder' if key == 'file' else 'a name'}")
        name = Path(table[key])
        looks_like_file = key == "file" or len(name.parts) > 1 or name.suffix in {".toml", ".json"}
        if looks_like_file and not name.is_absolute():
            table[key] = str((folder / name).resolve())
        if key == "file" and (Path(table[key]) / RUN_REQUESTS).is_file():
            table[key] = str(Path(table[key]) / RUN_REQUESTS)
    protocol = tree.get("protocol")
    sizing = protocol.get("sizing") if isinstance(protocol, dict) else None
    if isinstance(sizing, dict) and isinstance(sizing.get("policy"), str):
        sizing["policy"] = absolute(sizing["policy"], folder)


def told(override: Override) -> str:
    """How a sentence shows it."""
    return override if isinstance(override, str) else f"{override[0]}={override[1]}"


def _item(items: list[Any], part: str, override: Override) -> Any:
    if not part.isdigit() or int(part) >= len(items):
        raise UserError(f"--set is {told(override)!r}, but {part!r} is not a number from 0 to {len(items) - 1}")
    return items[int(part)]


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
