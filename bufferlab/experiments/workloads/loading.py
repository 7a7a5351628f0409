"""From a CONFIG argument and ``--set`` options to a checked configuration that says how often it is run."""

from __future__ import annotations

from collections.abc import Iterable

from bufferlab.experiments.config.overrides import Override
from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.configurations import Source, read_config
from bufferlab.experiments.workloads.requests import default_replications


def load(source: str | Source, overrides: Iterable[Override] = (), *, measured: bool = False) -> Config:
    """The resolved configuration of a file or a shipped example, with overrides applied.

    File names in a configuration file are relative to it, those in overrides to the current folder. A workload file of
    which nobody says how often it is run has as many replications as it is worth. ``measured``: but one where it is to
    be measured, which can meet it again but not resample it. Raises UserError before anything else happens.
    """
    config, said = read_config(source, overrides, measured=measured)
    if said or measured or config.workload.file is None:
        return config
    try:
        return config.with_replications(default_replications(config), by_default=True)
    except UserError:  # its file is looked at again before anything runs, and refused then
        return config
