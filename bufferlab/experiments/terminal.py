"""What a terminal or a file cannot show in its encoding is shown by what is nearest to it; no output breaks on it."""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata
from typing import Any

HANDLER = "bufferlab-nearest"
NEAREST = {
    "×": "x", "–": "-", "—": "-", "−": "-", "µ": "u", "μ": "u", "…": "...", "→": "->", "←": "<-", "±": "+/-",
    "·": ".", "≤": "<=", "≥": ">=", "≈": "~", "√": "sqrt", "“": '"', "”": '"', "„": '"',
    "\N{LEFT SINGLE QUOTATION MARK}": "'", "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{NO-BREAK SPACE}": " ", "\N{NARROW NO-BREAK SPACE}": " ", "█": "#",
}  # fmt: skip
_UNDECODED = range(0xDC80, 0xDD00)
"""How Python keeps the bytes of a file's name that are no text in its encoding."""


def nearest(character: str) -> str:
    """The ASCII characters that stand for one of others: x for ×, e for é; ? where nothing is near."""
    if character in NEAREST:
        return NEAREST[character]
    parts = unicodedata.normalize("NFKD", character)
    return "".join(one for one in parts if one.isascii()) or "?"


def _shown(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if ord(character) in _UNDECODED:
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return nearest(character), error.start + 1


def show_what_can_be_shown() -> None:
    """From now on standard output and standard error write what is nearest, where they raised an error."""
    codecs.register_error(HANDLER, _shown)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what notebooks have in its place takes every character
            stream.reconfigure(errors=HANDLER)


class _UntilNobodyReads(io.RawIOBase):
    """Writes to a pipe as long as somebody reads it, and then nowhere: what is being done is done all the same."""

    def __init__(self, stream: io.FileIO, owner: io.TextIOWrapper) -> None:
        self._stream = stream
        self._owner = owner  # which closes the stream when nobody has it any more

    def write(self, data: Any, /) -> int | None:
        try:
            return self._stream.write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            return len(data)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()


def write_whether_read_or_not() -> None:
    """From now on whoever stops reading what we print, as ``head`` does, ends nothing and loses nothing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue  # what notebooks and tests have in its place
        buffered = isinstance(stream.buffer, io.BufferedWriter)
        file = stream.buffer.raw if isinstance(stream.buffer, io.BufferedWriter) else stream.buffer
        if not isinstance(file, io.FileIO):
            continue
        stream.flush()
        lasting = _UntilNobodyReads(file, stream)
        wrapped = io.TextIOWrapper(
            io.BufferedWriter(lasting) if buffered else lasting,  # type: ignore[type-var]
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=not buffered,  # as PYTHONUNBUFFERED has it
        )
        setattr(sys, name, wrapped)


def open_closed_streams() -> None:
    """Let streams that were closed before we started lead nowhere; a file opened later would be taken for them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
