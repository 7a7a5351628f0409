"""What a process recorded, on disk until the run ends: a long run does not fill the memory of who collects it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from protocol.recording import Record
from protocol.topology import RankId
from real.run.orders import Told

_LENGTH_BYTES = 8

_AT_ONCE = 1000
"""Records are written in parts of at least this size: most come in a few at a time."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Told])


class Spool:
    """The records of one process, in order; in a temporary file that disappears with this object."""

    def __init__(self, rank_id: RankId) -> None:
        self._rank_id = rank_id
        self._file: BinaryIO = tempfile.TemporaryFile(prefix="bufferlab-records-")  # noqa: SIM115 - lives as long as this
        self._end = 0
        self._rest: list[Told] = []

    def add(self, told: list[Told]) -> None:
        """Keep more records."""
        self._rest += told
        if len(self._rest) >= _AT_ONCE:
            self._write()

    def _write(self) -> None:
        if not self._rest:
            return
        part = _encoder.encode(self._rest)
        self._rest = []
        self._file.seek(self._end)
        try:
            self._file.write(len(part).to_bytes(_LENGTH_BYTES, "big") + part)
            self._file.flush()
        except OSError as error:  # the file has no name, so it is told where it lies
            raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from error
        self._end = self._file.tell()

    def __iter__(self) -> Iterator[Record]:
        """All records so far; several may read at a time."""
        self._write()
        place = 0
        while place < self._end:
            self._file.seek(place)
            length = int.from_bytes(self._file.read(_LENGTH_BYTES), "big")
            part = self._file.read(length)
            place += _LENGTH_BYTES + length
            for time_s, room, event, status, tokens, size, detail in _decoder.decode(part):
                yield Record(time_s, self._rank_id, room, event, status, tokens, size, detail)
