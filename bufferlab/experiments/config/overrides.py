"""Changes to the tree of a configuration before it is checked: ``key.path=value``, and file names made absolute."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from bufferlab.experiments.config.inputs import RUN_REQUESTS
from bufferlab.experiments.config.renamed import new_path
from bufferlab.experiments.config.sections.workload import WORKLOAD_SOURCES
from bufferlab.experiments.errors import UserError
from bufferlab.protocol.sizing.registry import absolute


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Put one ``key.path=value`` into ``tree``. The value is TOML, or bare text where it is no TOML."""
    key, sign, text = override.partition("=")
    parts = key.strip().split(".")
    if not sign or not all(parts):
        raise UserError(f"--set is {override!r}, it must look like protocol.block_tokens=128")
    parts = new_path(parts)
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


def _item(items: list[Any], part: str, override: str) -> Any:
    if not part.isdigit() or int(part) >= len(items):
        raise UserError(f"--set is {override!r}, but {part!r} is not a number from 0 to {len(items) - 1}")
    return items[int(part)]


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
