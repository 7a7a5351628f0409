"""The run directory of a tune. Finished runs stay in it, so an interrupted tune goes on where it stopped.

``tune.json`` is written first, with the question, and again at the end, with the answer. ``ledger.jsonl`` gets a line
when a run is finished; at the end all of them are the rows of ``ledger.parquet``, and it goes. No run is ever made
twice: one is known by the fingerprint of its configuration and its replication, not by its place in a race.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.files import Claim, disk_errors, json_text, write_atomically, write_json, write_text
from bufferlab.experiments.sweeps.folder import Begun, goes_on_in, remove_own
from bufferlab.experiments.sweeps.tables import column

TUNE_SCHEMA = "bufferlab-tune/1"
ANSWER_FILE, TEXT_FILE, CONFIG_FILE, ENVIRONMENT_FILE = "tune.json", "answer.txt", "config.toml", "environment.json"
LEDGER_FILE, JOURNAL_FILE, PLOTS_FOLDER = "ledger.parquet", "ledger.jsonl", "plots"
SEARCH_FILE = "search.journal"
"""Optuna's own file of a search."""
OWN_NAMES = frozenset(
    {ANSWER_FILE, TEXT_FILE, CONFIG_FILE, ENVIRONMENT_FILE, LEDGER_FILE, JOURNAL_FILE, PLOTS_FOLDER, SEARCH_FILE}
)

Row = dict[str, Any]
"""One run: setting, fingerprint, replication, stage, requests, what became of its capacity, and its figures by path."""
Key = tuple[str, int]
KEYS = ("setting", "fingerprint", "replication", "stage", "requests")


class TuneFolder:
    """The files of one tune at ``folder``, as a context manager; from ``open`` on, no other command may use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[Key, Row] = {}
        self._claim: Claim | None = None
        self._journal: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal is not None:
            self._journal.close()
        if self._claim is not None:
            self._claim.release()

    def open(self, record: Mapping[str, Any], config: Config, environment: Mapping[str, Any], *, force: bool) -> bool:
        """Prepare the directory for this question; whether it goes on with one that was begun before.

        ``record`` has the question's ``identity``, the digests of its ``inputs`` and of the ``code``. ``force`` starts
        again over another tune. Raises UserError, and changes nothing, if anything else stands there.
        """
        self.check(record, force=force)
        self._claim = Claim(self.folder, inside=True)
        goes_on = self.check(record, force=force)  # now that nobody else is at it
        with disk_errors(self.folder):
            if not goes_on:
                remove_own(self.folder, OWN_NAMES)
            else:
                self.rows = {(row["fingerprint"], row["replication"]): row for row in self._kept()}
            # First of all, so that whatever else is there is known to be ours.
            write_json(self.folder / ANSWER_FILE, {**record, "finished": False})
            write_text(self.folder / CONFIG_FILE, _toml(config))
            write_json(self.folder / ENVIRONMENT_FILE, environment)
            for half in self.folder.glob(".*.partial"):
                half.unlink()
            self._mend_journal()
            self._journal = (self.folder / JOURNAL_FILE).open("a", encoding="utf-8")
        return goes_on

    def check(self, record: Mapping[str, Any], *, force: bool) -> bool:
        """Whether it goes on with what stands there. Raises UserError, and changes nothing, if it cannot begin."""
        asked = Begun(record["identity"], record["inputs"], record["code"])
        return goes_on_in(self.folder, "tune", asked, _begun, force=force)

    def _kept(self) -> Iterator[Row]:
        """The runs of before: those of a tune that was finished, and those of one that was not."""
        path = self.folder / LEDGER_FILE
        if path.is_file():
            import pyarrow.parquet as pq

            yield from pq.read_table(path).to_pylist()
        for line in self._journal_lines():
            yield json.loads(line)

    def _journal_lines(self) -> list[str]:
        try:
            text = (self.folder / JOURNAL_FILE).read_text(encoding="utf-8")
        except OSError:
            return []
        # The last line may have been cut off where it was written.
        return [line for line in text.split("\n")[:-1] if line]

    def _mend_journal(self) -> None:
        lines = self._journal_lines()
        write_text(self.folder / JOURNAL_FILE, "".join(f"{line}\n" for line in lines))

    def add(self, row: Row) -> None:
        """Keep a finished run."""
        self.rows[row["fingerprint"], row["replication"]] = row
        with disk_errors(self.folder):
            self._journal.write(json_text(row, indent=None) + "\n")
            self._journal.flush()

    def finish(self, answer: Mapping[str, Any], text: str) -> None:
        """Write the ledger, the text of the answer, and the answer itself last of all."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = sorted(self.rows.values(), key=lambda row: (row["setting"], row["replication"], row["fingerprint"]))
        with disk_errors(self.folder):
            if rows:
                names = list(dict.fromkeys([*KEYS, *(name for row in rows for name in row)]))
                table = pa.table({name: column([row.get(name) for row in rows]) for name in names})
                with write_atomically(self.folder / LEDGER_FILE) as partial:
                    pq.write_table(table, partial, compression="zstd")
            self._journal.close()
            (self.folder / JOURNAL_FILE).unlink(missing_ok=True)
            write_text(self.folder / TEXT_FILE, text + "\n")
            write_text(self.folder / ANSWER_FILE, json_text({**answer, "finished": True}) + "\n")


def read_answer(folder: Path | str) -> dict[str, Any] | None:
    """The content of tune.json, None where there is no tune."""
    try:
        content = json.loads((Path(folder) / ANSWER_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    good = isinstance(content, dict) and content.get("schema") == TUNE_SCHEMA
    return content if good else None


def _begun(folder: Path) -> Begun | None:
    """What tune.json says was begun there."""
    found = read_answer(folder)
    return None if found is None else Begun(found.get("identity"), found.get("inputs", {}), found.get("code"))


def _toml(config: Config) -> str:
    import tomli_w

    return tomli_w.dumps(config.tree())
