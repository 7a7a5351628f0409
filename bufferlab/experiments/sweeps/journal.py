"""What the runs of a sweep came to: a file of lines that only grows, of which only the places are held in memory.

Every line is a gzip member of its own, written at once, so that the whole is a file that ``zcat`` reads. A member says
how long it is and has a checksum: one that was cut off where it was written is seen, and its run is made again.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from bufferlab.experiments.files import disk_errors

Result = dict[str, Any]
"""What one replication of a configuration came to; see ``configuration.run_configuration``."""
Key = tuple[str, int]
"""The fingerprint of a configuration, and a replication."""

SWEEP_SCHEMA = "bufferlab-sweep/1"
GZIP = zlib.MAX_WBITS | 16
PIECE_BYTES = 4096
"""Read at once where all is read: what comes after a member is copied, so it is kept short."""


class _Head(msgspec.Struct):
    """What is looked at of every line."""

    schema: str
    fingerprint: str
    replication: int


def line_of(fingerprint: str, replication: int, result: Mapping[str, Any]) -> bytes:
    """The line of a finished run, as a journal keeps it. A number that is none (NaN, infinity) is null."""
    content = {"schema": SWEEP_SCHEMA, "fingerprint": fingerprint, "replication": replication, **result}
    return gzip.compress(msgspec.json.encode(content, enc_hook=_plain) + b"\n", 1, mtime=0)


def _plain(value: Any) -> Any:
    """NumPy's numbers."""
    if hasattr(value, "item") and hasattr(value, "dtype"):
        return value.item()
    raise TypeError(f"{type(value).__name__} is nothing that JSON has")


class Journal:
    """The finished runs in a file, which may be there already; without a path they are kept in memory."""

    def __init__(self, path: Path | None = None) -> None:
        """Take note of what is kept. What stands behind a line that cannot be read is cut off."""
        self._places: dict[Key, tuple[int, int]] = {}
        self._end = 0
        self._file: BinaryIO = io.BytesIO()
        self._folder = Path() if path is None else path.parent
        if path is not None:
            self._file = cast(BinaryIO, path.open("a+b", buffering=0))
            with path.open("rb") as whole:
                self._read_all(whole)
            self._file.truncate(self._end)

    def _read_all(self, file: BinaryIO) -> None:
        for start, end, line in _members(file):
            self._end = end
            with suppress(msgspec.MsgspecError):  # it is no line of a sweep
                head = msgspec.json.decode(line, type=_Head)
                if head.schema == SWEEP_SCHEMA:
                    self._places[head.fingerprint, head.replication] = (start, end)

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, key: Key, line: bytes) -> None:
        """Keep a finished run."""
        with disk_errors(self._folder):
            self._file.seek(self._end)
            left = memoryview(line)
            while left:  # a disk that is nearly full takes a part, and refuses the rest
                left = left[self._file.write(left) :]
        self._places[key] = (self._end, self._end + len(line))
        self._end += len(line)

    def load(self, key: Key) -> Result:
        """What a finished run came to."""
        start, end = self._places[key]
        self._file.seek(start)
        result: Result = msgspec.json.decode(zlib.decompress(self._file.read(end - start), GZIP))
        for name in _Head.__struct_fields__:
            del result[name]
        return result

    def close(self) -> None:
        """Nothing is added or loaded any more."""
        self._file.close()


def _members(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Where each member begins and ends, and what it holds, as far as they are whole."""
    start, piece = 0, b""
    while True:
        member, content, read = zlib.decompressobj(GZIP), [], 0
        while not member.eof:
            piece = piece or file.read(PIECE_BYTES)
            if not piece:
                return
            read += len(piece)
            try:
                content.append(member.decompress(piece))
            except zlib.error:
                return
            piece = b""
        piece = member.unused_data
        end = start + read - len(piece)
        yield start, end, b"".join(content)
        start = end
