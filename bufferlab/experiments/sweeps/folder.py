"""The directory of a sweep. Finished replications stay in it, so an interrupted sweep goes on where it stopped.

``sweep.json`` is written first, with the plan, and again at the end, with the figures. ``runs.jsonl.gz`` gets a line
when a run is finished (``journal``), which holds the whole fingerprint of its configuration, so that it cannot be
mistaken for another's. ``sweep.parquet`` and ``quantiles.parquet`` appear at the end. Every other file is written under
another name and then renamed, so none is ever half there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from bufferlab import experiments, protocol, sim
from bufferlab.experiments.config.renamed import OLD_KEYS
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.files import LOCK, Claim, disk_errors, write_atomically, write_json
from bufferlab.experiments.runs.environment import package_version
from bufferlab.experiments.sweeps.journal import SWEEP_SCHEMA, Journal

if TYPE_CHECKING:
    import pyarrow as pa

PLAN_FILE, TABLE_FILE, QUANTILES_FILE = "sweep.json", "sweep.parquet", "quantiles.parquet"
RUNS_FILE, PLOTS_FOLDER = "runs.jsonl.gz", "plots"
OLD_FOLDER = "configurations"
"""Had a file for every finished run."""
OLD_DIGITS = 8
"""The length of digests in sweeps of an older version, so short that two configurations could have the same one."""
OWN_NAMES = {PLAN_FILE, TABLE_FILE, QUANTILES_FILE, RUNS_FILE, OLD_FOLDER, PLOTS_FOLDER}

_DECIDING_WINGS = ("config", "runs", "stats", "workloads")
"""Folders of experiments/ that a simulated figure depends on; the others show, compare or hand out work. Of what is in
config/examples every sweep keeps the settings themselves."""


def code_digest(*more: str) -> str:
    """SHA-256 of all code and data a simulated figure depends on, and of NumPy's version, which draws the numbers.

    ``more``: further folders of experiments/ on which what is kept depends.
    """
    own = Path(str(experiments.__file__)).parent
    folders = [Path(str(package.__file__)).parent for package in (protocol, sim)]
    return digest_of_folders([*folders, *(own / wing for wing in (*_DECIDING_WINGS, *more))], left_out="examples")


def digest_of_folders(folders: Iterable[Path], *, left_out: str) -> str:
    """SHA-256 of NumPy's version and of all files of some folders but those below a folder called ``left_out``."""
    digest = hashlib.sha256((package_version("numpy") or "").encode())
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            below = path.relative_to(folder)
            if path.is_file() and path.suffix != ".pyc" and left_out not in below.parts:
                digest.update(f"{folder.name}/{below.as_posix()}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


class Begun(NamedTuple):
    """What tells whether work that stands in a folder is the work that is asked for."""

    identity: str | None
    inputs: Mapping[str, str]
    """Digests of the files that it reads."""
    code: str | None
    older: bool = False
    """Whether it was begun by a version that names things otherwise."""


def goes_on_in(
    folder: Path,
    what: str,
    asked: Begun,
    read: Callable[[Path], Begun | None],
    *,
    force: bool,
    replace_old_code: bool = False,
) -> bool:
    """Whether ``asked`` goes on with what stands in ``folder``; else it may begin there, anew where ``force`` is given.

    ``what``: what it is called. ``read``: tells what stands there, None where that is something else. Raises UserError,
    and changes nothing, if it can neither go on nor begin.
    """
    where = f"--out is {str(folder)!r}, which"
    if not folder.exists():
        parent = next(one for one in folder.absolute().parents if one.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise UserError(f"{where} cannot be made, it must be in a folder that can be written")
        return False
    if not folder.is_dir():
        raise UserError(f"{where} is a file, it must be a folder")
    if not any(path.name != LOCK and path.suffix != ".partial" for path in folder.iterdir()):
        return False
    found = read(folder)
    if found is None:
        raise UserError(f"{where} holds other files, it must be a new or empty folder or one of this {what}")
    if force:
        return False
    mended = "; give a new folder, or --force to start again"
    if found.older:
        raise UserError(f"{where} holds a {what} of an older version, which names configurations otherwise{mended}")
    if found.identity != asked.identity:
        changed = [path for path, digest in asked.inputs.items() if found.inputs.get(path, digest) != digest]
        if changed:
            raise UserError(f"{where} holds a {what} begun before the input file {changed[0]} changed{mended}")
        raise UserError(f"{where} holds another {what}{mended}")
    if found.code != asked.code:
        if replace_old_code:
            return False
        raise UserError(f"{where} holds this {what}, but begun with another version of the code{mended}")
    return True


def remove_own(folder: Path, names: Iterable[str]) -> None:
    """Remove the files and folders of these names, as far as they are there."""
    for name in names:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class SweepFolder:
    """The files of one sweep at ``folder``, as a context manager; from ``open`` on, no other command may use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._claim: Claim | None = None
        self._journal: Journal | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal is not None:
            self._journal.close()
        if self._claim is not None:
            self._claim.release()

    def open(self, plan: dict[str, Any], *, force: bool = False, replace_old_code: bool = False) -> bool:
        """Prepare the directory for the sweep of this plan; whether it goes on with one that was begun before.

        ``plan`` has the sweep's ``identity``, its ``inputs`` (digests of the files it reads) and the ``code`` digest.
        ``force`` removes another sweep that stands there, ``replace_old_code`` one of the same plan by other code.
        Raises UserError, and changes nothing, if anything else stands there.
        """
        self.check(plan, force=force, replace_old_code=replace_old_code)
        self._claim = Claim(self.folder, inside=True)
        goes_on = self.check(plan, force=force, replace_old_code=replace_old_code)  # now that nobody else is at it
        with disk_errors(self.folder):
            if not goes_on:
                remove_own(self.folder, OWN_NAMES)
            # First of all, so that whatever else is there is known to be ours.
            self.write_plan({**plan, "finished": False})
            for half in self.folder.glob("*.partial"):
                half.unlink()
            self._journal = Journal(self.folder / RUNS_FILE)
        return goes_on

    def check(self, plan: dict[str, Any], *, force: bool, replace_old_code: bool) -> bool:
        """Whether it goes on with what stands there. Raises UserError, and changes nothing, if it cannot begin."""
        asked = Begun(plan["plan"]["identity"], plan["inputs"], plan["code"])
        return goes_on_in(self.folder, "sweep", asked, _begun, force=force, replace_old_code=replace_old_code)

    def has_all(self, plan: dict[str, Any]) -> bool:
        """Whether the sweep of this plan stands here finished, so that there is nothing to run."""
        found = read_plan(self.folder) or {}
        begun, replications = found.get("plan", {}), plan["plan"]["replications"]
        same = begun.get("identity") == plan["plan"]["identity"] and found.get("code") == plan["code"]
        return bool(same and found.get("finished") and begun.get("replications", 0) >= replications)

    def write_plan(self, content: dict[str, Any]) -> None:
        """Write sweep.json."""
        with disk_errors(self.folder):
            write_json(self.folder / PLAN_FILE, content)

    @property
    def journal(self) -> Journal:
        """The finished runs; from ``open`` on."""
        if self._journal is None:
            raise ValueError(f"the folder {self.folder} is not open")
        return self._journal

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file; the same table gives the same bytes."""
        with self.writing_table(name) as write:
            write(table)

    @contextmanager
    def writing_table(self, name: str) -> Iterator[Callable[[pa.Table], None]]:
        """What takes the row groups of a Parquet file, which is there when the block is through."""
        import pyarrow.parquet as pq

        with ExitStack() as stack:
            stack.enter_context(disk_errors(self.folder))
            partial = stack.enter_context(write_atomically(self.folder / name))
            file: pq.ParquetWriter | None = None

            def write(table: pa.Table) -> None:
                nonlocal file
                if file is None:
                    file = stack.enter_context(pq.ParquetWriter(partial, table.schema, compression="zstd"))
                file.write_table(table)

            yield write


def read_plan(folder: Path) -> dict[str, Any] | None:
    """The content of sweep.json, None where there is no sweep."""
    try:
        content = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("schema") == SWEEP_SCHEMA else None


def _begun(folder: Path) -> Begun | None:
    """What sweep.json says was begun there."""
    found = read_plan(folder)
    if found is None:
        return None
    plan = found.get("plan", {})
    older = len(str(plan.get("identity"))) == OLD_DIGITS or bool(OLD_KEYS.keys() & plan.keys())
    code = None if (folder / OLD_FOLDER).is_dir() else found.get("code")
    return Begun(plan.get("identity"), found.get("inputs", {}), code, older)
