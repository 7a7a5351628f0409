"""``bl.load``: a checked configuration, from a file or a shipped example and what is said otherwise."""

from __future__ import annotations

import copy
import html
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from pydantic import PrivateAttr

from bufferlab.api.overrides import Overrides, Sections, listed
from bufferlab.api.results import html_table, told
from bufferlab.api.speech import must_be, spoken
from bufferlab.experiments.config.build import name_digits
from bufferlab.experiments.config.schema import Config as CheckedConfig
from bufferlab.experiments.config.sections.base import own_names
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.configurations import Source, read_source
from bufferlab.experiments.workloads.loading import load as load_config
from bufferlab.protocol.naming import flat

if TYPE_CHECKING:
    from bufferlab.experiments.config.overrides import Override


class _Short(type(CheckedConfig)):  # type: ignore[misc]
    """What help() lists of the class: the sections and what is ours."""

    def __dir__(cls) -> list[str]:
        return [*cls.model_fields, *own_names(cls)]


class Config(CheckedConfig, metaclass=_Short):
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

    @spoken
    def with_(self, overrides: Overrides | None = None, **sections: Unpack[Sections]) -> Config:
        """The same configuration with other settings, as if they were written in the file that it came from.

        ``overrides`` and ``sections`` are as in ``bufferlab.load``. Raises UserError, in one sentence, for what is not
        allowed.
        """
        return load_with(self, listed(overrides, sections))

    def measured(self) -> CheckedConfig:
        """The configuration as a measured run has it: one replication of a file of which nobody said how many."""
        return load_config(self.source, measured=True)

    def _said(self) -> dict[str, Any]:
        """What has been said since it was read, by path."""
        said: dict[str, Any] = {}
        for layer in self.source.layers:
            said.update(one for one in layer if not isinstance(one, str))
        return said

    def __repr__(self) -> str:
        said = self._said()
        return f"Config({self.source.name!r}{f', {said!r}' if said else ''})"

    def _repr_html_(self) -> str:
        said = self._said()
        settings = list(flat(self.tree()))
        head = f"<p><strong>{html.escape(self.source.name)}</strong>, configuration{' with' if said else ''}</p>"
        whole = html_table(["setting", "value"], [[path, repr(value)] for path, value in settings])
        more = f"<details><summary>all {len(settings)} settings</summary>{whole}</details>"
        changed = html_table(["setting", "value"], [[path, repr(value)] for path, value in said.items()])
        return f"{head}{changed if said else ''}{more}"

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
            return
        raise UserError(f"a configuration never changes; config.with_({name}=…) makes another one")

    __str__ = __repr__


ConfigLike = Config | Path | str
"""A configuration, or where to find one: a TOML file, a run directory, the name of a shipped example."""


@spoken
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
    must_be("CONFIG", source, (str, Path, Config), WHAT_A_CONFIG_IS)
    if isinstance(source, Config) and not said:
        return source
    before = source if isinstance(source, Config) else None
    read = source.source if isinstance(source, Config) else read_source(os.fspath(source))
    made = _made(_said(read, said))
    tell_what_was_dropped(made, before)
    return made


WHAT_A_CONFIG_IS = "the name of an example, a file, a run directory or a configuration (bl.Config)"


def _said(source: Source, overrides: tuple[Override, ...]) -> Source:
    return replace(source, layers=(*source.layers, overrides)) if overrides else source


def _made(source: Source) -> Config:
    """The configuration of a source, which remembers it."""
    found = load_config(source)
    fields: Mapping[str, Any] = {name: getattr(found, name) for name in type(found).model_fields}
    made = Config.model_construct(found.model_fields_set, **fields)
    made._set_aside, made._replications_by_default = found.set_aside, found.replications_by_default
    made._source = source
    return made


def tell_what_was_dropped(config: CheckedConfig, before: CheckedConfig | None = None) -> None:
    """Say which options went with the sizing policy that they belonged to."""
    known = () if before is None else before.set_aside
    gone = [one for one in config.set_aside if one.startswith("protocol.") and one not in known]
    if gone:
        told(f"left out, since the policy {config.protocol.sizing.policy} has no such option: {', '.join(gone)}")


NOT_OPTIONS = ("protocol.sizing.policy", "protocol.sizing.tokens")


def config_in(sweep: Mapping[str, Any], folder: Path, number: int, base: Config | None = None) -> Config:
    """A configuration of a sweep. ``sweep``: the content of sweep.json in ``folder``; ``base``: what the sweep is of,
    where that is known. Raises UserError for a number that there is not, or what cannot be made of what is kept."""
    import tomli_w

    from bufferlab.experiments.sweeps.grid import fingerprint

    entries = {one["configuration"]: one for one in sweep["configurations"]}
    if isinstance(number, bool) or number not in entries:
        raise UserError(f"configuration is {number!r}, it must be a number from 1 to {len(entries)}")
    entry, plan = entries[number], sweep["plan"]
    settings = {**entry["settings"], "run.replications": plan["replications"]}
    if base is None:
        if "base" not in plan:
            raise UserError(f"{str(folder)!r} does not keep its configurations, as sweeps of older versions")
        # The first configuration as it resolves; options that it was given for its policy are its own.
        tree = copy.deepcopy(plan["base"])
        for field in entries[1]["settings"]:
            if field.startswith("protocol.sizing.") and field not in settings and field not in NOT_OPTIONS:
                tree["protocol"]["sizing"].pop(field.rpartition(".")[2], None)
        base = _made(Source(str(folder), tomli_w.dumps(tree), folder / "sweep.json", folder))
    made = _made(_said(base.source, listed(settings, {})))
    if name_digits(fingerprint(made)) != entry["digest"]:
        raise UserError(
            f"configuration {number} of {str(folder)!r} cannot be made again as it was: an input file has changed, or "
            f"it is of an older version"
        )
    return made
