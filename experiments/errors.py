"""The errors a user can cause. Each message is one sentence that can be shown as it is."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: says what, its value and what is allowed. Nothing was run and nothing written."""


class RunFailedError(Exception):
    """The input was fine but the run could not be carried through."""
