"""Tables that a tool writes between two marks of a page, which is looked at before the long work and not after it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.files import disk_errors, write_text


@dataclass(frozen=True)
class MarkedPage:
    """A page with one place for a table: what stands between ``begin`` and ``end`` is replaced.

    ``option`` is what its user calls it.
    """

    path: Path
    begin: str
    end: str
    option: str = "the page"

    def check(self) -> None:
        """Raise UserError where a table could not be put: before it is made."""
        self._around()
        folder = self.path.absolute().parent
        if not os.access(self.path, os.W_OK) or not os.access(folder, os.W_OK):
            raise UserError(f"{self._where}, it must be a file that can be written, in such a folder")

    def with_table(self, table: str) -> str:
        """The text of the page with ``table`` in its place. Raises UserError as ``check``."""
        before, after = self._around()
        return f"{before}{self.begin}{table}{self.end}{after}"

    def put(self, table: str) -> None:
        """Write the page with ``table`` in its place. Raises UserError as ``check``, RunFailedError for a full disk."""
        with disk_errors(self.path):
            write_text(self.path, self.with_table(table))

    def make(self) -> None:
        """Write the page with nothing but its place, and the folder for it, where there is none yet."""
        if not self.path.exists():
            with disk_errors(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_text(self.path, f"{self.begin}{self.end}\n")

    @property
    def _where(self) -> str:
        return f"{self.option} is {str(self.path)!r}"

    def _around(self) -> tuple[str, str]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"{self._where}, which cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise UserError(f"{self._where}, which is not UTF-8 text") from None
        before, begun, rest = text.partition(self.begin)
        _, ended, after = rest.partition(self.end)
        if not begun or not ended:
            raise UserError(f"{self._where}, it must have the marks {self.begin.strip()} and {self.end.strip()}")
        return before, after


def check_figure(path: Path, option: str) -> None:
    """Raise UserError, which names ``option``, where no figure can be written."""
    if path.suffix != ".png":
        raise UserError(f"{option} is {str(path)!r}, it must be the name of a .png file")
    check_place(path, option)


def check_place(path: Path, option: str) -> None:
    """Raise UserError, which names ``option``, where no file can be written."""
    there = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir() or not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"{option} is {str(path)!r}, it must be a file in a folder that can be written")
