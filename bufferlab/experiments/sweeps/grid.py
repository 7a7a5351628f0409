"""The configurations of a sweep: grids and lists of settings are crossed, and each combination is checked as a whole.

A grid gives values to fields, and every combination is a configuration; the last field changes fastest. A list names
the settings of each configuration. With both, every listed configuration is crossed with the grid, which is how fields
that belong together (a workload and its rate) meet fields that are free (the default allocation).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli_w

from bufferlab.experiments.config.build import NAME_DIGITS, digest_of, fingerprint_of
from bufferlab.experiments.config.overrides import Override, anchor_files, apply_override
from bufferlab.experiments.config.problems import shown
from bufferlab.experiments.config.renamed import with_new_tables
from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.configurations import Source
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.naming import did_you_mean, flat

MAX_CONFIGURATIONS = 100_000
OWN_OPTIONS = {"run.replications": "--replications", "run.name": "--out"}
"""Settings that cannot tell configurations apart, and the option that is meant for them."""

Settings = dict[str, Any]
"""Values of configuration fields by their path, such as ``{"protocol.sizing.tokens": 512}``."""


@dataclass(frozen=True)
class Configuration:
    """One configuration of a sweep; its replications are the tasks."""

    number: int
    """From 1, in the order of the grid or list."""
    settings: Settings
    """The settings in which it differs from the other configurations."""
    config: Config
    fingerprint: str
    """A digest of the configuration and the content of its input files, the same for any number of replications."""

    @property
    def digest(self) -> str:
        """The part of the fingerprint that names the configuration."""
        return self.fingerprint[:NAME_DIGITS]

    def value(self, field: str) -> Any:
        """What the field resolves to, None where this configuration does not have it."""
        found: Any = self._tree
        for part in field.split("."):
            if isinstance(found, list) and part.isdigit() and int(part) < len(found):
                found = found[int(part)]
            elif isinstance(found, dict) and part in found:
                found = found[part]
            else:
                return None
        return found

    def title(self) -> str:
        """Its number and settings, as a sentence names it."""
        return configuration_title(self.number, self.settings)

    @cached_property
    def workload(self) -> str:
        """The same text for all configurations that are asked for the same requests in every replication."""
        return json.dumps([self._tree["workload"], self.config.run.seed], sort_keys=True)

    @cached_property
    def _tree(self) -> dict[str, Any]:
        return self.config.tree()


def telling_fields(fields: Iterable[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields in which configurations differ, of those that are swept; ``settings``: of each configuration."""
    return [name for name in fields if len({plain(one[name]) if name in one else None for one in settings}) > 1]


def configuration_title(number: int, settings: Mapping[str, Any]) -> str:
    """How a sentence names a configuration."""
    return f"configuration {number} ({settings_text(settings)})" if settings else f"configuration {number}"


def settings_text(settings: Mapping[str, Any]) -> str:
    """``protocol.sizing.tokens=512, protocol.discipline=window``."""
    return ", ".join(f"{field}={plain(value)}" for field, value in settings.items())


def parse_grid(options: Iterable[str], name: str = "--grid") -> dict[str, list[Any]]:
    """The grid of ``FIELD=VALUE,VALUE,…`` options called ``name``. Values are TOML, or else bare text.

    Raises UserError for an option that does not look like that, a field given twice and a value given twice.
    """
    grid: dict[str, list[Any]] = {}
    for option in options:
        field, sign, text = option.partition("=")
        field = field.strip()
        values = [part.strip() for part in _split(text)]
        if not sign or not all(field.split(".")) or not all(values):
            raise UserError(f"{name} is {option!r}, it must look like protocol.sizing.tokens=512,1024,2048")
        if field in grid:
            raise UserError(f"{name} names {field} twice, it must name all of its values at once")
        grid[field] = [_typed(value) for value in values]
    _check_grid(grid, name)
    return grid


def parse_setting(option: str, name: str) -> tuple[str, Any]:
    """Field and value of one ``FIELD=VALUE`` given to the option ``name``. Raises UserError."""
    field, sign, text = option.partition("=")
    if not sign or not all(field.strip().split(".")) or not text.strip():
        likely = option if option.isascii() and option.isdigit() else "1024"
        raise UserError(f"{name} is {option!r}, it must look like protocol.sizing.tokens={likely}")
    return field.strip(), _typed(text.strip())


def parse_settings(option: str, name: str) -> Settings:
    """Several settings in one option, ``FIELD=VALUE,FIELD=VALUE``. Raises UserError."""
    settings: Settings = {}
    for part in _split(option):
        field, value = parse_setting(part, name)
        if field in settings:
            raise UserError(f"{name} is {option!r}, which names {field} twice")
        settings[field] = value
    return settings


def read_configurations(path: Path) -> tuple[list[Settings], dict[str, list[Any]]]:
    """The listed configurations and the grid of a file; file names in it are relative to it.

    A TOML file has a table ``[sweep.grid]`` of lists, or tables ``[[sweep.configurations]]`` of settings, or both. A
    JSON file is a list of objects. Fields are written as in a configuration, nested or with their path in quotes.
    Raises UserError: one sentence with the file and what is wrong in it.
    """
    where = f"--configurations is {str(path)!r}, "
    try:
        text = path.read_text(encoding="utf-8")
        content: Any = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise UserError(f"{where}which cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{where}which is not UTF-8 text") from None
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{where}which is not {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from None
    if isinstance(content, list):
        content = {"sweep": {"configurations": content}}
    table = content.get("sweep") if isinstance(content, dict) else None
    if isinstance(table, dict):
        table = with_new_tables(table)
    if not isinstance(table, dict) or set(content) != {"sweep"} or not table or set(table) - {"grid", "configurations"}:
        raise UserError(
            f"{where}it must hold [sweep.grid] or [[sweep.configurations]] and nothing else (or a JSON list)"
        )
    listed, grid = table.get("configurations", []), table.get("grid", {})
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise UserError(f"{where}in which configurations must be a list of tables")
    if not isinstance(grid, dict):
        raise UserError(f"{where}in which grid must be a table of lists")
    folder = path.parent
    configurations = [{field: anchored(field, value, folder) for field, value in flat(one)} for one in listed]
    if not all(configurations):
        raise UserError(
            f"{where}in which configuration {configurations.index({}) + 1} is empty, it must have at least one setting"
        )
    flat_grid: dict[str, list[Any]] = {}
    for field, values in flat(grid):
        if not isinstance(values, list):
            raise UserError(f"{where}in which grid.{field} is {shown(values)}, it must be a list of values")
        flat_grid[field] = [anchored(field, value, folder) for value in values]
    _check_grid(flat_grid, f"{where}whose grid")
    return configurations, flat_grid


def joined(first: Mapping[str, list[Any]], second: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Two grids as one. Raises UserError for a field that both name."""
    for field in second:
        if field in first:
            raise UserError(f"{field} is in the grid of --configurations and of --grid, it must be in only one of them")
    return {**first, **second}


def cross(listed: Sequence[Mapping[str, Any]], grid: Mapping[str, Sequence[Any]]) -> list[Settings]:
    """Every listed configuration with every combination of the grid; a grid alone where nothing is listed.

    Raises UserError for a field that both name, since one would silently win.
    """
    for configuration in listed:
        both = [field for field in configuration if field in grid]
        if both:
            raise UserError(f"{both[0]} is in the grid and in a listed configuration, it must be in only one of them")
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [{**configuration, **combination} for configuration in listed or [{}] for combination in combinations]


def make_configurations(
    source: str | Source, common: Sequence[Override], configurations: Sequence[Settings]
) -> list[Configuration]:
    """Checked configurations: the configuration ``source`` with the ``common`` overrides and each configuration's
    settings.

    Raises UserError naming the configuration: for a configuration that is not allowed, a workload that cannot be
    simulated, and two configurations that are the same.
    """
    from bufferlab.experiments.workloads.requests import check_requests

    if not configurations:
        raise UserError(
            "the sweep has no configurations, it must have at least one value of --grid or one of --configurations"
        )
    if len(configurations) > MAX_CONFIGURATIONS:
        raise UserError(
            f"the sweep has {len(configurations)} configurations, it must have at most {MAX_CONFIGURATIONS}"
        )
    made: list[Configuration] = []
    digests: dict[Path, str] = {}
    seen: dict[str, Configuration] = {}
    for number, settings in enumerate(configurations, 1):
        try:
            config = load(source, [*common, *(as_override(field, value) for field, value in settings.items())])
            check_requests(config, "sim")
        except UserError as error:
            if not made and _is_common(str(error), source, common):
                raise
            raise UserError(f"{configuration_title(number, settings)}: {error}") from None
        configuration = Configuration(number, dict(settings), config, fingerprint(config, digests))
        twin = seen.setdefault(configuration.digest, configuration)
        if twin.fingerprint != configuration.fingerprint:
            raise UserError(
                f"{configuration.title()} and {twin.title()} are different configurations that chance "
                f"gives the same name, {configuration.digest}; put them into two sweeps"
            )
        if twin is not configuration:
            raise UserError(
                f"{configuration.title()} is the same configuration as {twin.title()}, each must be another"
            )
        made.append(configuration)
    return made


def swept_fields(configurations: Iterable[Configuration]) -> list[str]:
    """The fields the configurations set, in the order in which they first appear."""
    return list(dict.fromkeys(field for configuration in configurations for field in configuration.settings))


def find_baselines(configurations: Sequence[Configuration], chosen: Sequence[tuple[str, Any]]) -> dict[int, int]:
    """The configuration each configuration is compared with, by number; configurations without one, and baselines
    themselves, are left out.

    ``chosen`` are the baseline's values: a configuration's baseline has them and is like it in all other swept fields.
    Without any, it is the first configuration that is asked for the same requests. Raises UserError for a value that no
    configuration has.
    """
    fields = swept_fields(configurations)
    for field, value in chosen:
        if field not in fields:
            raise UserError(
                f"--baseline names {field}, which is not swept{did_you_mean(field, fields)}; swept: {', '.join(fields)}"
            )
        known = list(dict.fromkeys(plain(configuration.value(field)) for configuration in configurations))
        if not any(_same(configuration, field, value) for configuration in configurations):
            raise UserError(
                f"--baseline is {field}={plain(value)}, no configuration has that; there are {', '.join(known)}"
            )
    baselines: dict[str, Configuration] = {}
    fixed = [field for field in fields if field not in dict(chosen)]

    def key(configuration: Configuration) -> str:
        return json.dumps([configuration.value(field) for field in fixed]) if chosen else configuration.workload

    for configuration in configurations:
        if all(_same(configuration, field, value) for field, value in chosen):
            baselines.setdefault(key(configuration), configuration)
    found = {
        configuration.number: baselines.get(key(configuration), configuration).number
        for configuration in configurations
    }
    return {number: baseline for number, baseline in found.items() if number != baseline}


def _same(configuration: Configuration, field: str, value: Any) -> bool:
    """Whether the configuration has the value, as it was written or as it resolves (5ms is 0.005)."""
    return value in (configuration.settings.get(field), configuration.value(field))


def _is_common(problem: str, source: str | Source, common: Sequence[Override]) -> bool:
    """Whether the configuration has this problem without any configuration, so that no configuration is to blame."""
    try:
        load(source, common)
    except UserError as error:
        return str(error) == problem
    return False


def fingerprint(config: Config, digests: dict[Path, str] | None = None) -> str:
    """The fingerprint that a resolved configuration has whatever the number of its replications.

    ``digests`` holds those of input files that are known already, and is added to.
    """
    known = {} if digests is None else digests
    tree = config.tree()
    tree["run"]["replications"] = 1
    files = config.input_files()
    known |= {path: digest_of(path) for path in files if path not in known}
    return fingerprint_of(tree, {str(path): known[path] for path in files})


def identity(configurations: Iterable[Configuration]) -> str:
    """SHA-256 of what the sweep is of: its configurations in order, and the content of their input files."""
    text = json.dumps(
        [[configuration.fingerprint, configuration.settings] for configuration in configurations], sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _check_grid(grid: Mapping[str, Sequence[Any]], where: str) -> None:
    for field, values in grid.items():
        if not values:
            raise UserError(f"{where} has no values for {field}, it must have at least one")
        for number, value in enumerate(values):
            if any(value == other and type(value) is type(other) for other in values[:number]):
                raise UserError(f"{where} has {field}={plain(value)} twice, every value must be another")


def _split(text: str) -> list[str]:
    """Split at the commas outside of quotes and brackets."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += char
    return parts


def _typed(text: str) -> Any:
    """The value as ``--set`` reads it."""
    tree: dict[str, Any] = {}
    apply_override(tree, f"value={text}")
    return tree["value"]


def as_override(field: str, value: Any) -> str:
    """The ``--set`` option that puts the value into a configuration. Raises UserError for what no option can say."""
    if field in OWN_OPTIONS:
        raise UserError(f"{field} is swept, which is not allowed: {OWN_OPTIONS[field]} gives it to all configurations")
    try:
        return f"{field}={_toml(value)}"
    except TypeError:
        raise UserError(
            f"{field} is {shown(value)}, it must be a number, text, true, false or a list of them"
        ) from None


def as_option(field: str, values: Sequence[Any]) -> str:
    """``FIELD=VALUE,VALUE,…`` as a user would write it. Raises UserError for what no option can say."""
    texts = []
    for value in values:
        text = as_override(field, value).partition("=")[2]
        # Quotes where a text would be taken for something else, or cut at a comma.
        is_bare = isinstance(value, str) and not set(value) & set(",\"'[]{}") and _typed(value) == value
        texts.append(value if is_bare else text)
    return f"{field}={','.join(texts)}"


def _toml(value: Any) -> str:
    """The TOML of a value in one line. Raises TypeError for a table and what TOML does not have."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        raise TypeError("a table is no value")
    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()


def anchored(field: str, value: Any, folder: Path) -> Any:
    """A file name made absolute, anything else as it is."""
    section, _, key = field.partition(".")
    tree: dict[str, Any] = {section: {key: value}}
    anchor_files(tree, folder)
    return tree[section][key]


def plain(value: Any) -> str:
    """A value as text, without the quotes of a string."""
    return value if isinstance(value, str) else json.dumps(value)
