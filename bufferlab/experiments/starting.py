"""How a process that runs something of ours sets up Python."""

from __future__ import annotations

import gc
import os

COLLECTED_AFTER = (50_000, 20, 50)
"""When the garbage collector looks. Modules stay once they are loaded, and runs leave hardly any cycles: with Python's
own numbers a tenth of a short command's time goes into looking at all of them again and again."""
THREADS = "OPENBLAS_NUM_THREADS"


def collect_seldom() -> None:
    """Let the garbage collector look as seldom as it has something to find."""
    gc.set_threshold(*COLLECTED_AFTER)


def load_numpy() -> None:
    """Import NumPy without a pool of threads for linear algebra, unless the user says how many there should be.

    They spend more processor time on being started than a short run takes, and nothing here is large enough for them.
    The variable is only set while NumPy is loaded, so that no process that is started inherits it.
    """
    if THREADS in os.environ:
        return
    os.environ[THREADS] = "1"
    try:
        import numpy  # noqa: F401
    finally:
        del os.environ[THREADS]
