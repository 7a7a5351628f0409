"""What a process recorded, on disk until the run ends: a long run does not fill the memory of who collects it.

What the disk has no room for stays in memory: the run is broken off, and what was recorded until then is not lost."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from io import RawIOBase

import msgspec

from bufferlab.protocol.recording import Record
from bufferlab.protocol.topology import RankId
from bufferlab.real.run.commands import RecordPayload

_LENGTH_BYTES = 8

_AT_ONCE = 1000
"""Records are written in parts of at least this size: most come in a few at a time."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[RecordPayload])


class Spool:
    """The records of one process, in order; in a temporary file that disappears with this object."""

    def __init__(self, rank_id: RankId) -> None:
        self._rank_id = rank_id
        self._file: RawIOBase | None = None
        self._end = 0
        self._rest: list[RecordPayload] = []
        self._is_full = False

    def add(self, told: list[RecordPayload]) -> None:
        """Keep more records. Raises OSError, once, when they cannot be written; they are kept all the same."""
        self._rest += told
        if len(self._rest) >= _AT_ONCE and not self._is_full:
            self._write()

    def close(self) -> None:
        """Let go of the file, and of everything in it."""
        if self._file is not None:
            self._file.close()

    def _write(self) -> None:
        part = _encoder.encode(self._rest)
        left = memoryview(len(part).to_bytes(_LENGTH_BYTES, "big") + part)
        try:
            if self._file is None:  # without a buffer, in which what could not be written would be tried again
                self._file = tempfile.TemporaryFile(buffering=0, prefix="bufferlab-records-")  # noqa: SIM115 - it stays
            self._file.seek(self._end)
            while left:
                left = left[self._file.write(left) or 0 :]
        except OSError as error:
            self._is_full = True
            # The file has no name, so it is told where it lies.
            raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from error
        self._end += _LENGTH_BYTES + len(part)
        self._rest = []

    def __iter__(self) -> Iterator[Record]:
        """All records so far; several may read at a time."""
        place = 0
        while self._file is not None and place < self._end:
            self._file.seek(place)
            length = int.from_bytes(self._file.read(_LENGTH_BYTES), "big")
            part = self._file.read(length)
            place += _LENGTH_BYTES + length
            yield from self._records(_decoder.decode(part))
        yield from self._records(list(self._rest))

    def _records(self, told: list[RecordPayload]) -> Iterator[Record]:
        for time_s, room, event, status, tokens, size, detail in told:
            yield Record(time_s, self._rank_id, room, event, status, tokens, size, detail)
