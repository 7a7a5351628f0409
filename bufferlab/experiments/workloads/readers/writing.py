"""Writes the plain table, which ``read_trace`` reads again."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bufferlab.experiments.config.inputs import suffix_of
from bufferlab.experiments.errors import RunFailedError, UserError
from bufferlab.experiments.files import FULL, Claim, cannot_be_written, reason, write_atomically

if TYPE_CHECKING:
    import pandas as pd

    from bufferlab.sim.workload import Columns

WRITTEN = {".csv": "csv", ".csv.gz": "csv", ".parquet": "parquet"}
FIELDS = (
    "arrival_s", "total_tokens", "text_tokens", "images", "image_tokens_hint", "image_squares", "encode_factor",
    "prefill_factor",
)  # fmt: skip
TEMPLATE = {
    "arrival_s": [0.0, 0.25, 1.5, 1.5, 2.75],
    "total_tokens": [1307, 85, 2562, 640, 1310],
    "text_tokens": [85, 85, 120, 640, 88],
    "images": [1, 0, 2, 0, 1],
    "client": ["alice", "bob", "alice", "carol", "bob"],
}
"""What ``--template`` writes: requests with and without images, two of them at once."""


def write_trace(columns: Columns, path: Path) -> None:
    """Write a table that ``read_trace`` reads again, every number as it was; it appears when it is complete.

    Raises UserError if ``path`` cannot be written or has another suffix than .csv, .csv.gz or .parquet.
    """
    import pandas as pd

    names = np.asarray(columns.clients, dtype=object)
    told = {name: getattr(columns, name) for name in FIELDS}
    _write(pd.DataFrame({**told, "client": names[columns.client]}), path, "--out")


def write_template(path: Path, *, force: bool = False) -> None:
    """Write a small table with the usual columns, to be filled. Raises UserError if the file exists (no ``force``)."""
    import pandas as pd

    if path.exists() and not (force and path.is_file()):
        raise UserError(f"--template is {str(path)!r}, which exists; give a new name, or --force to replace a file")
    _write(pd.DataFrame(TEMPLATE), path, "--template")


def _write(frame: pd.DataFrame, path: Path, option: str) -> None:
    kind = WRITTEN.get(suffix_of(path))
    if kind is None:
        raise UserError(f"{option} is {str(path)!r}, its name must end in .csv, .csv.gz or .parquet")
    try:
        with Claim(path, option, make_parents=False), write_atomically(path) as part:
            if kind == "parquet":
                frame.to_parquet(part, index=False)
            elif path.suffix == ".gz":
                # Without a time and a name inside, the same table gives the same bytes.
                with part.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
                    frame.to_csv(packed, index=False)
            else:
                frame.to_csv(part, index=False, compression=None)
    except OSError as error:
        if error.errno in FULL:
            raise RunFailedError(cannot_be_written(path, error)) from None
        raise UserError(f"{option} is {str(path)!r}, which cannot be written: {reason(error)}") from None
