"""The configuration of a run: what it may hold, what it means, and what is wrong with it in one sentence.

A configuration is a TOML file with the sections of ``experiments.config.sections``. The same file drives the simulator
and the real backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import PrivateAttr, ValidationError, model_validator

from bufferlab.experiments.config.build import digests_of, fingerprint_of, name_digits, scenario_of
from bufferlab.experiments.config.checks import check_fit
from bufferlab.experiments.config.limits import check_measurable
from bufferlab.experiments.config.problems import first_of, sentence
from bufferlab.experiments.config.renamed import with_new_names
from bufferlab.experiments.config.sections.link import Model
from bufferlab.experiments.config.sections.whole import Sections
from bufferlab.experiments.config.sections.workload import DEFAULT_REQUESTS
from bufferlab.experiments.errors import UserError
from bufferlab.protocol.emulation.scenario import Scenario


class Config(Sections):
    """A whole run, whose sections fit each other."""

    _set_aside: tuple[str, ...] = PrivateAttr(default=())
    _replications_by_default: bool = PrivateAttr(default=False)

    @property
    def set_aside(self) -> tuple[str, ...]:
        """Settings that do not apply to the workload or the policy given in their place, as ``key = value``."""
        return self._set_aside

    def having_set_aside(self, settings: tuple[str, ...]) -> Self:
        """The same configuration, which remembers what was left out of it."""
        made = self.model_copy()
        made._set_aside = settings
        return made

    @property
    def replications_by_default(self) -> bool:
        """Whether nobody said how many replications there are, and its workload file decided it."""
        return self._replications_by_default

    def with_replications(self, number: int, *, by_default: bool) -> Self:
        """The same configuration with so many replications."""
        made = self.model_copy(update={"run": self.run.model_copy(update={"replications": number})})
        made._replications_by_default = by_default
        return made

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_fit(self)
        return self

    def resolved(self) -> Config:
        """The same configuration with every default and conversion written out; resolving again changes nothing."""
        tree = self.tree()
        for name, section in (("encode", self.encode), ("language", self.language)):
            tree[name]["pool_blocks"] = self.blocks(section)
        workload = tree["workload"]
        if "requests" not in workload and self.workload.file is None:
            workload["requests"] = len(self.workload.lengths or self.workload.request or ()) or DEFAULT_REQUESTS
        if self.model == Model():
            tree["model"] = {"name": "qwen2.5-vl-7b"}
        return parse(tree)

    def scenario(self) -> Scenario:
        """What both drivers are given."""
        return scenario_of(self)

    def input_digests(self) -> dict[str, str]:
        """SHA-256 of every input file."""
        return digests_of(self)

    def fingerprint(self) -> str:
        """SHA-256 of this configuration and the content of its input files: no two of them have the same."""
        return fingerprint_of(self.resolved().tree(), self.input_digests())

    def digest(self) -> str:
        """The part of the fingerprint that names run directories and configurations."""
        return name_digits(self.fingerprint())

    def check_real(self, memory_bytes: int | None) -> None:
        """Raise UserError if a real run cannot do it, or not on this host with ``memory_bytes`` for its pools.

        None: its ranks are on several hosts.
        """
        check_measurable(self, memory_bytes)


def parse(tree: Mapping[str, Any]) -> Config:
    """The configuration in ``tree``. Raises UserError: one sentence with the field, its value and what is allowed."""
    try:
        return Config.model_validate(with_new_names(tree))
    except ValidationError as error:
        raise UserError(sentence(first_of(error.errors(), Config), Config)) from None
