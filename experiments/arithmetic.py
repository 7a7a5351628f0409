"""NumPy as a command wants it."""

from __future__ import annotations

import os

THREADS = "OPENBLAS_NUM_THREADS"


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
