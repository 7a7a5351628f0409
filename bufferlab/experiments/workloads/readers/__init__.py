"""Readers of workload files: one class a format, found by what a file's columns are.

``find_reader`` says which format a file has, ``read_trace`` reads the requests of one. A new format is a module here
with a class that is ``register``-ed, and nothing else: all modules of this folder are imported below.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bufferlab.experiments.config.inputs import why_unreadable
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.readers import lengths
from bufferlab.experiments.workloads.readers.base import Head, Reader, Reading, mapped, readers
from bufferlab.experiments.workloads.readers.plain import PlainTable
from bufferlab.experiments.workloads.readers.tables import read_head
from bufferlab.experiments.workloads.servegen import is_folder_of_clients, read_service

if TYPE_CHECKING:
    from bufferlab.sim.workload import Columns, Mix

__all__ = [
    "Head",
    "Reader",
    "Reading",
    "find_reader",
    "read_lengths",
    "read_requests",
    "read_trace",
    "readers",
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def find_reader(path: Path, options: Mapping[str, Any] | None = None) -> Reader:
    """The reader of a workload file or folder. Raises UserError if it cannot be read."""
    if path.is_dir():
        if not is_folder_of_clients(path):
            read_service(path)  # says what is missing
        head = Head(path, "folder")
    else:
        head = _head(path, _modified(path))
        head = Head(path, head.container, mapped(head.columns, (options or {}).get("columns")))
    return next((reader for reader in readers() if reader.matches(head)), PlainTable)()


def read_requests(path: Path, options: Mapping[str, Any] | None = None) -> Reading:
    """The requests of a file in order of arrival, and how they were read. Raises UserError naming what is wrong."""
    # A run asks several times: to check, to count and once per replication.
    return _read(path, _modified(path), json.dumps(dict(options or {}), sort_keys=True))


def read_trace(path: Path, options: Mapping[str, Any] | None = None) -> Columns:
    """The requests of a file in order of arrival."""
    return read_requests(path, options).columns


def read_lengths(path: Path, options: Mapping[str, Any] | None = None) -> Mix:
    """The mix of a file of lengths."""
    return _read_lengths(path, _modified(path), json.dumps(dict(options or {}), sort_keys=True))


@lru_cache(maxsize=8)
def _head(path: Path, _modified_ns: int) -> Head:
    return read_head(path)


@lru_cache(maxsize=4)
def _read(path: Path, _modified_ns: int, options: str) -> Reading:
    chosen = json.loads(options)
    return find_reader(path, chosen).read(path, chosen)


@lru_cache(maxsize=4)
def _read_lengths(path: Path, _modified_ns: int, options: str) -> Mix:
    return lengths.LengthsFile().mix(path, json.loads(options))


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        raise UserError(
            f"workload.file is {str(path)!r}, it must be a file that can be read{why_unreadable(path)}"
        ) from None
