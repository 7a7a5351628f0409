"""The errors a user can cause. Each message is one sentence that can be shown as it is."""

from __future__ import annotations

from typing import Any


class UserError(Exception):
    """Bad input: says what, its value and what is allowed. Nothing was run and nothing written."""


class RunFailedError(Exception):
    """The input was fine but the run could not be carried through."""


class RunFaultedError(RunFailedError):
    """A measured run met what nobody planned. What it did until then and in spite of it is in its run directory, and
    ``summary`` is the summary of that."""

    def __init__(self, message: str, summary: dict[str, Any]) -> None:
        super().__init__(message)
        self.summary = summary
        self.run: Any = None
        """What ``bufferlab.measure`` gives of it: a ``bufferlab.Run``."""
