"""Which kind of directory a path is, and what of it a report needs; one sentence for everything that is none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.rundir import SUMMARY_SCHEMA
from bufferlab.experiments.sweeps.journal import SWEEP_SCHEMA
from bufferlab.experiments.tuning.folder import TUNE_SCHEMA
from bufferlab.experiments.validation.report import SCHEMA as VALIDATION_SCHEMA

FILES = {"tune": "tune.json", "sweep": "sweep.json", "validation": "validation.json", "run": "summary.json"}
SCHEMAS = {"tune": TUNE_SCHEMA, "sweep": SWEEP_SCHEMA, "validation": VALIDATION_SCHEMA, "run": SUMMARY_SCHEMA}
NEEDED = {
    "tune": (
        "verdict",
        "changes",
        "chosen",
        "best",
        "objective",
        "over",
        "cheaper",
        "certainty",
        "indifference",
        "sure",
        "slo",
        "capacity",
        "traffic",
        "space",
        "settings",
        "front",
        "what_if",
        "sensitivity",
        "commands",
    ),
    "sweep": ("plan", "configurations", "environment", "lowest"),
    "validation": ("profile", "cases", "misses", "decision", "no_choice"),
    "run": ("kind", "requests", "latency_s", "ttft_s", "slo", "utilisation", "capacity", "failures", "replications"),
}
TABLES = {"run": ("requests.parquet",), "sweep": ("sweep.parquet", "quantiles.parquet"), "tune": ()}
"""The tables of those that have a finish; a validation has none."""
OF_A_CONFIGURATION = ("configuration", "settings", "requests", "latency_s", "ttft_s", "slo", "utilisation", "capacity")


@dataclass(frozen=True)
class Source:
    """A directory that was recognised, and the content of its JSON file."""

    path: Path
    kind: str
    content: Mapping[str, Any]

    @property
    def file(self) -> str:
        """The name of that file."""
        return FILES[self.kind]

    @property
    def name(self) -> str:
        """What the directory is called."""
        return self.path.absolute().name

    @property
    def told(self) -> str:
        """Its kind as the page and ``--json`` say it: sim, real, sweep, validation or tune."""
        return str(self.content["kind"]) if self.kind == "run" else self.kind


def read_source(path: Path) -> Source:
    """Recognise a directory by its files. Raises UserError: one sentence that says what it must be."""
    where = f"RUN is {str(path)!r}"
    kind = next((kind for kind, name in FILES.items() if (path / name).is_file()), None)
    if kind is None:
        raise UserError(f"{where}, it must be the directory of a finished run, sweep, validation or tuning")
    name = FILES[kind]
    content = read_json(path / name, where)
    schema = str(content.get("schema", "")) if isinstance(content, dict) else ""
    if not schema.startswith("bufferlab-"):
        raise UserError(f"{where}, whose {name} was not written by bufferlab")
    if schema != SCHEMAS[kind]:
        raise UserError(f"{where}, whose {name} has the schema {schema}, it must be {SCHEMAS[kind]}")
    if kind in TABLES and not content.get("finished", kind == "run"):
        raise UserError(f"{where}, a {kind} that is not finished; the command that began it goes on with it")
    _require(content, NEEDED[kind], where, name)
    if kind == "sweep":
        for one in content["configurations"]:
            _require(one, OF_A_CONFIGURATION, where, name)
    if kind in {"run", "tune"} and not (path / "config.toml").is_file():
        raise UserError(f"{where}, it must be a finished {kind} directory (it has no config.toml)")
    for name in TABLES.get(kind, ()):
        _check_table(path / name, where)
    return Source(path, kind, content)


def _check_table(path: Path, where: str) -> None:
    """Raise UserError for a table that is missing or torn."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        raise UserError(f"{where}, whose {path.name} cannot be read") from None


def read_json(path: Path, where: str) -> Any:
    """The content of a JSON file. Raises UserError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{where}, whose {path.name} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{where}, whose {path.name} is not JSON") from None


def environment_of(source: Source) -> Mapping[str, Any]:
    """What a directory says it ran on; nothing where it does not."""
    if source.kind == "sweep":
        found = source.content["environment"]
    elif (source.path / "environment.json").is_file():
        found = read_json(source.path / "environment.json", f"RUN is {str(source.path)!r}")
    else:
        found = {}
    return found if isinstance(found, Mapping) else {}


def _require(content: Mapping[str, Any], names: Sequence[str], where: str, file: str) -> None:
    missing = [name for name in names if name not in content]
    if missing:
        raise UserError(f"{where}, whose {file} is of an older version: it has no {missing[0]}; run it again")
