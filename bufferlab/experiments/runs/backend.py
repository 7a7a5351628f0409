"""The door to the real backend: what its errors mean to a user, and how much memory it may take of this host."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from bufferlab.experiments.errors import RunFailedError, UserError
from bufferlab.experiments.installing import REAL, install_command

REAL_MEMORY_SHARE = 0.7
"""Pools of a measured run may take this share of the host's memory; copies and the processes need the rest."""


@contextmanager
def real_errors(notice: Callable[[str], None] | None = None) -> Iterator[None]:
    """Turn what the real backend raises into errors a user can read; an absent package names what mends it.

    Before it is imported, variables that are not for it are taken out of the environment, which ``notice`` is told;
    one that is for it and of no use is refused.
    """
    from bufferlab.real.engine import variables

    if wrong := variables.useless(os.environ):
        raise UserError(wrong)
    removed = variables.clean_here()
    if notice is not None and (line := variables.notice(removed)):
        notice(line)
    try:
        from bufferlab.real.errors import EngineError, EngineMissing, EngineStartError
    except ImportError as error:
        raise UserError(_missing(error)) from None
    try:
        yield
    except (EngineMissing, EngineStartError) as error:
        raise UserError(str(error)) from None
    except EngineError as error:
        raise RunFailedError(str(error)) from None
    except ImportError as error:
        raise UserError(_missing(error)) from None


def warm_up() -> None:
    """Let what ranks on this host import be imported from now on, beside whatever is to be done before they start."""
    from bufferlab.real.hosts import processes

    with suppress(OSError):  # then it begins with the first rank, or says there why it cannot
        processes.warm_up()


def _missing(error: ImportError) -> str:
    package = error.name or str(error)
    return f"the real backend needs {package}, which is not installed; run: {install_command(*REAL)}"
