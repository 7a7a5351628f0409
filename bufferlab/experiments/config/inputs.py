"""What the files are called that a configuration may name: the tables of a run, a folder of clients, workload files.

The names stand here, below everything that reads or writes such files, and this module imports nothing of ours.
"""

from __future__ import annotations

from pathlib import Path

RUN_CONFIG, RUN_REQUESTS, RUN_SUMMARY = "config.toml", "requests.parquet", "summary.json"
"""Files of a run directory: what was run, the requests, which can be a workload again, and the figures."""

SUFFIXES = {
    ".csv": "csv", ".csv.gz": "csv", ".tsv": "csv", ".tsv.gz": "csv", ".parquet": "parquet",
    ".jsonl": "jsonl", ".jsonl.gz": "jsonl", ".ndjson": "jsonl", ".ndjson.gz": "jsonl",
}  # fmt: skip
"""Ends of the names of workload files, and what is in such a file."""


def suffix_of(path: Path) -> str:
    """The end of its name that says what is in it, lower case, ``.gz`` together with what is before it."""
    ends = [suffix.lower() for suffix in path.suffixes[-2:]]
    return "".join(ends) if ends[-1:] == [".gz"] else "".join(ends[-1:])


def is_workload(path: Path) -> bool:
    """Whether a file of this name is a workload file rather than a configuration."""
    return suffix_of(path) in SUFFIXES


def why_unreadable(path: Path) -> str:
    """The end of a sentence about a file that cannot be read: that there is none, or that it is a folder."""
    return "; it is a folder" if path.is_dir() else "" if path.exists() else "; there is no such file"


def config_beside(table: Path) -> Path | None:
    """The configuration of the run that ``table`` is of, if it lies in its directory."""
    path = table.parent / RUN_CONFIG
    return path if table.name == RUN_REQUESTS and path.is_file() else None


def client_files(folder: Path) -> list[Path]:
    """All files of a folder of ServeGen's clients in a fixed order."""
    return sorted([*folder.glob("chunk-*-trace.csv"), *folder.glob("chunk-*-dataset.json")])
