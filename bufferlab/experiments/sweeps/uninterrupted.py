"""Loaded first of all by the workers of a cluster that is started here: they leave Ctrl-C to the process that did."""

import signal


def dask_setup(_worker: object) -> None:
    """What dask calls in a worker before anything else."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
