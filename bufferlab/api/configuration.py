"""``bl.load``: a checked configuration, from a file or a shipped example and what is said otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from pydantic import PrivateAttr

from bufferlab.api.overrides import Overrides, Sections, listed
from bufferlab.experiments.config.schema import Config as CheckedConfig
from bufferlab.experiments.workloads.configurations import Source, read_source
from bufferlab.experiments.workloads.loading import load as load_config

if TYPE_CHECKING:
    from bufferlab.experiments.config.overrides import Override


class Config(CheckedConfig):
    """A whole configuration, checked and with every default written out: ``config.protocol.sizing.tokens``.

    It never changes; ``with_`` makes another one. The sections are those of a configuration file (run, workload,
    protocol, encode, language, link, model, faults, incidents, random_faults, slo, real), and each setting is explained
    by ``type(config.protocol).explained()``. Times are in seconds, memory in blocks, lengths in tokens.
    """

    _source: Source = PrivateAttr()

    @property
    def source(self) -> Source:
        """What it was read from, and what has been said since."""
        return self._source

    def with_(self, overrides: Overrides | None = None, **sections: Unpack[Sections]) -> Self:
        """The same configuration with other settings, as if they were written in the file that it came from.

        ``overrides`` and ``sections`` are as in ``bufferlab.load``. Raises UserError, in one sentence, for what is not
        allowed.
        """
        return _made(type(self), _said(self.source, listed(overrides, sections)))

    def measured(self) -> CheckedConfig:
        """The configuration as a measured run has it: one replication of a file of which nobody said how many."""
        return load_config(self.source, measured=True)

    def __repr__(self) -> str:
        said: dict[str, Any] = {}
        for layer in self.source.layers:
            said.update(one for one in layer if not isinstance(one, str))
        return f"Config({self.source.name!r}{f', {said!r}' if said else ''})"

    __str__ = __repr__


ConfigLike = Config | Path | str
"""A configuration, or where to find one: a TOML file, a run directory, the name of a shipped example."""


def load(source: ConfigLike, overrides: Overrides | None = None, **sections: Unpack[Sections]) -> Config:
    """Read and check a configuration.

    ``source``: a TOML file, a run directory, the name of a shipped example (``bufferlab examples`` lists them), or a
    configuration that was loaded before. ``overrides``: settings by their path or nested, and ``sections`` the same as
    keywords; what comes later wins::

        bl.load("quickstart", {"protocol.sizing.tokens": 2048, "workload": {"requests": 300}})
        bl.load("quickstart", protocol={"sizing": {"tokens": 2048}}, workload={"requests": 300})

    Values are as in a file: numbers, texts with units such as ``"4GiB"`` and ``"5ms"``, lists; None takes a setting
    away that a configuration need not have. Arrays and numbers of NumPy, paths and tuples are taken as well. File names
    in overrides are relative to the current folder.

    Raises UserError, whose text is one sentence, if anything is not allowed.
    """
    return load_with(source, listed(overrides, sections))


def load_with(source: ConfigLike, said: tuple[Override, ...]) -> Config:
    """The same, with overrides as the command takes them."""
    if isinstance(source, Config):
        return _made(Config, _said(source.source, said)) if said else source
    return _made(Config, _said(read_source(os.fspath(source)), said))


def _said(source: Source, overrides: tuple[Override, ...]) -> Source:
    return replace(source, layers=(*source.layers, overrides)) if overrides else source


Made = TypeVar("Made", bound=Config)


def _made(kind: type[Made], source: Source) -> Made:
    """The configuration of a source, which remembers it."""
    found = load_config(source)
    fields: Mapping[str, Any] = {name: getattr(found, name) for name in type(found).model_fields}
    made = kind.model_construct(found.model_fields_set, **fields)
    made._set_aside, made._replications_by_default = found.set_aside, found.replications_by_default
    made._source = source
    return made
