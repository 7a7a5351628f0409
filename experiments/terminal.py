"""What a terminal or a file cannot show in its encoding is shown by what is nearest to it; no output breaks on it."""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata

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
