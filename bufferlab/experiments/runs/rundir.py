"""A run directory: written beside its final place, complete when it appears there, and read back.

``config.toml`` is fully resolved: running it again gives the same run. ``environment.json`` tells where it ran.
``events.parquet`` and ``requests.parquet`` are the run itself and hold no wall-clock time, so a simulated run repeats
them byte for byte. ``summary.json`` has the figures.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import tomli_w

from bufferlab.experiments.config.incidents import parse_rank
from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.errors import RunFailedError, UserError
from bufferlab.experiments.files import (
    DISK,
    Claim,
    cannot_be_written,
    claim_free,
    disk_errors,
    free_name,
    put_in_place,
    require_empty_folder,
    start_folder,
    write_json,
    write_text,
)
from bufferlab.experiments.runs.busy import Busy, read_busy, together
from bufferlab.experiments.runs.tables import EventTable, RequestTable, groups_with
from bufferlab.protocol.faults import KINDS
from bufferlab.protocol.recording import Event, Record, Recorder
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SUMMARY_SCHEMA = "bufferlab-summary/1"
EVENTS, REQUESTS = "events.parquet", "requests.parquet"

OLD_COUNTS = {"turns": "iterations", "pieces": "segments"}
"""Names that fields of ``real.run.usage.Usage`` have in runs that were measured before the last release."""


class RunWriter:
    """Gathers one run in a hidden folder beside ``target`` and moves it there when it is complete.

    A context: leaving it without ``publish`` removes everything that was written. ``events``: whether they are kept.
    """

    def __init__(self, target: Path | str | Claim, config: Config, *, events: bool = True) -> None:
        self._claim = target if isinstance(target, Claim) else Claim(target)
        self.target = self._claim.target
        try:
            with disk_errors(self.target):
                self.folder = start_folder(self.target)
        except BaseException:
            self._claim.release()
            raise
        self._tables: list[EventTable | RequestTable] = []
        self._events: EventTable | None = None
        try:
            with disk_errors(self.target):
                write_text(self.folder / "config.toml", tomli_w.dumps(config.tree()))
                (self.folder / "plots").mkdir()
                if events:
                    self._events = EventTable(self.folder / EVENTS)
                    self._tables.append(self._events)
                self._requests = RequestTable(self.folder / REQUESTS)
                self._tables.append(self._requests)
        except BaseException:
            self._remove()
            raise
        self.event: Recorder | None = None if self._events is None else self._events.rows
        """Adds a row to events.parquet; None where events are not kept."""
        self.requests = self._requests.rows
        """Takes what becomes a row of requests.parquet."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()
        if isinstance(error, OSError) and error.errno in DISK:
            raise RunFailedError(cannot_be_written(self.target, error)) from error

    def _remove(self) -> None:
        for table in self._tables:
            with contextlib.suppress(Exception):
                table.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._claim.release()

    def begin(self, replication: int) -> None:
        """All that comes now belongs to this replication."""
        for table in self._tables:
            table.begin(replication)

    def finish(self, summary: dict[str, Any], environment: dict[str, Any]) -> None:
        """Write the last files. The directory is complete then, and stays where it is until ``publish``."""
        for table in self._tables:
            table.close()
        write_json(self.folder / "environment.json", environment)
        write_json(self.folder / "summary.json", summary)

    def publish(self) -> None:
        """Move the finished directory to its place, in one step; a run that stands there gives way."""
        put_in_place(self.folder, self.target)


def is_finished_run(path: Path) -> bool:
    """Whether a complete run of ours stands at ``path``."""
    try:
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and summary.get("schema") == SUMMARY_SCHEMA and (path / "config.toml").is_file()


def claim_target(config: Config, kind: str, out: Path | None, *, force: bool) -> Claim:
    """The place of a run, claimed. Raises UserError if it is taken (see ``choose_target``) or cannot be written."""
    while True:
        target = choose_target(config, kind, out, force=force)
        # A measured run without a place of its own takes the next number; two of one simulated run are one too many.
        claim = claim_free(target) if out is None and kind == "real" else Claim(target)
        try:
            if choose_target(config, kind, out, force=force) == target or claim.target != target:
                return claim
        except BaseException:
            claim.release()
            raise
        claim.release()  # somebody has finished a run there meanwhile


def choose_target(config: Config, kind: str, out: Path | None, *, force: bool) -> Path:
    """Where a run goes. Raises UserError if that place is taken.

    Without ``out`` it is ``runs/NAME-KIND-HASH``. A simulated run replaces one of the same configuration, which is the
    same run; a measured run is never lost that way and takes the next free number.
    """
    if out is None:
        target = Path("runs") / f"{config.run.name}-{kind}-{config.digest()}"
        if kind == "sim" and (not target.exists() or _is_of(target, config)):
            return target
        return free_name(target)
    out = Path(os.path.abspath(out))  # noqa: PTH100 - resolve() would follow a link that the user wants to keep
    if is_finished_run(out) and not out.is_mount():
        if force:
            return out
        raise UserError(
            f"--out is {str(out)!r}, which holds a finished run; give a new folder, or --force to replace it"
        )
    require_empty_folder(out)
    return out


def _is_of(path: Path, config: Config) -> bool:
    """Whether the finished run at ``path`` is of this configuration: a name is only a part of its fingerprint."""
    if not is_finished_run(path):
        return False
    try:
        return StoredRun(path).config.fingerprint() == config.fingerprint()
    except UserError:
        return False


# --- reading ---

MOST_NAMED = 3
"""Runs in a folder that a refusal of that folder names."""


def _runs_inside(folder: Path) -> str:
    """The end of a sentence about a folder that is no run: the runs in it, or that it is not there."""
    if not folder.exists():
        return "; there is no such folder"
    names = sorted(one.parent.name for one in folder.glob("*/summary.json"))
    if not names:
        return ""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"; in it are {', '.join(names[:MOST_NAMED])}{more}"


class StoredRun:
    """A finished run directory."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not is_finished_run(self.path):
            raise UserError(
                f"RUN is {str(path)!r}, it must be a finished run directory (with a summary.json)"
                f"{_runs_inside(self.path)}"
            )
        self.summary: dict[str, Any] = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))

    @property
    def kind(self) -> str:
        """sim or real."""
        return str(self.summary["kind"])

    @property
    def transport(self) -> str:
        """What carried the data of a measured run, by its proof; of a simulated one, its link profile."""
        return str(self.summary["transport"])

    @property
    def config(self) -> Config:
        """What was run."""
        from bufferlab.experiments.workloads.loading import load

        return load(str(self.path / "config.toml"))

    @property
    def usage(self) -> list[dict[str, Any]]:
        """By replication and process ("router", "encode0.0", …), where its processor time went and what it did (the
        fields of ``real.run.usage.Usage``); empty of a simulated run and of one before that was measured."""
        usage: list[dict[str, Any]] = self._environment.get("usage", [])
        return [
            {
                process: {OLD_COUNTS.get(name, name): value for name, value in one.items()}
                for process, one in run.items()
            }
            for run in usage
        ]

    @property
    def busy(self) -> Busy | None:
        """What others took of the processors while the requests of a measured run were under way; None where that is
        not known, as of ranks on several hosts and of runs from before it was watched."""
        found = map(read_busy, self._environment.get("busy", []))
        return together([one for one in found if one is not None])

    @property
    def code(self) -> str:
        """The digest of what simulated it; empty where that was not written down."""
        return str(self._environment.get("code", ""))

    @property
    def inputs(self) -> dict[str, str]:
        """The digests that its input files had."""
        return dict(self._environment.get("inputs", {}))

    def quarantined(self, replication: int) -> set[tuple[int, RankId]]:
        """Rooms of which a rank still held blocks in quarantine when a measured run ended."""
        told = self._environment.get("quarantined", [])
        return {(one["room"], parse_rank(one["rank"])) for one in told if one["replication"] == replication}

    @property
    def has_restart(self) -> bool:
        """Whether instances were restarted in it, as its configuration wants it."""
        return any(KINDS[one.kind].starts_processes for one in self.config.incidents)

    @property
    def processors(self) -> int | None:
        """How many it could use; None where that is not known."""
        count = self._environment.get("host", {}).get("cpus")
        return None if count is None else int(count)

    @property
    def date(self) -> str:
        """When a measured run ended, as ``2026-12-01``; "" of a simulated one and of one that did not write it down."""
        return str(self._environment.get("date", ""))[:10]

    @property
    def versions(self) -> dict[str, str]:
        """Of Python and of the packages that it ran with, by name; empty of a run that did not write them down."""
        told = {"python": self._environment.get("python"), **self._environment.get("packages", {})}
        return {name: version for name, version in told.items() if version}

    @cached_property
    def _environment(self) -> dict[str, Any]:
        path = self.path / "environment.json"
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return found

    @property
    def keeps_events(self) -> bool:
        """Whether events.parquet is there."""
        return (self.path / EVENTS).is_file()

    @property
    def events_path(self) -> Path:
        """The file of its events. Raises UserError if the run did not keep them."""
        if not self.keeps_events:
            raise UserError(f"RUN is {str(self.path)!r}, which kept no events; repeat that run without --no-events")
        return self.path / EVENTS

    @property
    def requests_path(self) -> Path:
        """The file of its requests."""
        return self.path / REQUESTS

    def requests(self, *columns: str) -> pd.DataFrame:
        """requests.parquet: some of its columns, or all."""
        import pandas as pd

        return pd.read_parquet(self.requests_path, columns=list(columns) or None)

    def events(self) -> pd.DataFrame:
        """events.parquet."""
        import pandas as pd

        return pd.read_parquet(self.events_path)

    def records(self, replication: int | None = None) -> Iterator[tuple[int, Record]]:
        """(replication, record) of every event, in the order recorded, a row group at a time.

        With ``replication``, row groups that have no event of it are passed over.
        """
        import pyarrow.parquet as pq

        file = pq.ParquetFile(self.events_path)
        for group in groups_with(file, replication):
            table: pa.Table = file.read_row_group(group)
            columns: Sequence[list[Any]] = [column.to_pylist() for column in table.columns]
            for row in zip(*columns, strict=True):
                yield row[0], _record(row)


def count_records(*paths: Path) -> int | None:
    """How many events these runs have together; None if one of them cannot be read, which its reader will say."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return sum(pq.read_metadata(path / EVENTS).num_rows for path in paths)
    except (OSError, pa.ArrowException):
        return None


_EVENTS = {event.value: event for event in Event}
_SIDES = {side.value: side for side in Side}


def _record(row: tuple[Any, ...]) -> Record:
    _, time_s, side, instance, rank, room, event, status, tokens, bytes_, detail = row
    return Record(
        time_s,
        RankId(_SIDES[side], instance, rank),
        room,
        _EVENTS[event],
        None if status is None else Status[status],
        tokens,
        bytes_,
        detail,
    )


def _with_new_names(counts: dict[str, Any]) -> dict[str, Any]:
    return {OLD_COUNTS.get(name, name): value for name, value in counts.items()}
