"""Opens a text file as what it is: packed or not, UTF-8 or UTF-16, with a byte order mark or without."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TextIO


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """The text of a file, its lines with the ends that they have."""
    packed = path.suffix.lower() == ".gz"
    with path.open("rb") as file, gzip.open(file, "rb") if packed else nullcontext(file) as opened:
        raw: Any = opened
        start = raw.read(2)
        raw.seek(0)
        encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        yield io.TextIOWrapper(raw, encoding=encoding, newline="")
