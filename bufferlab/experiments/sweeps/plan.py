"""What a sweep runs: its configurations and their baselines, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bufferlab.experiments.config.build import NAME_DIGITS, digest_of
from bufferlab.experiments.config.overrides import Override
from bufferlab.experiments.config.renamed import new_field, with_new_fields
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.environment import describe
from bufferlab.experiments.stats.replicates import Replicates
from bufferlab.experiments.sweeps.folder import code_digest
from bufferlab.experiments.sweeps.grid import (
    Configuration,
    Settings,
    cross,
    find_baselines,
    identity,
    make_configurations,
    swept_fields,
)
from bufferlab.experiments.sweeps.journal import SWEEP_SCHEMA
from bufferlab.experiments.workloads.configurations import Source

if TYPE_CHECKING:
    from bufferlab.experiments.workloads.traffic import Traffic


@dataclass(frozen=True)
class Plan:
    """What a sweep runs; everything in it has been checked."""

    name: str
    configurations: tuple[Configuration, ...]
    replications: int
    seed: int
    baselines: Mapping[int, int]
    """Number of the configuration that each configuration is compared with."""

    @property
    def fields(self) -> list[str]:
        """The swept fields."""
        return swept_fields(self.configurations)

    @property
    def tasks(self) -> list[tuple[Configuration, int]]:
        """Every configuration and replication, in the order of the rows."""
        return [
            (configuration, replication)
            for configuration in self.configurations
            for replication in range(self.replications)
        ]

    def order(self) -> list[int]:
        """In which order to run the tasks: those that see the same requests come one after the other."""
        workloads: dict[str, int] = {}
        places = [
            (workloads.setdefault(configuration.workload, len(workloads)), replication)
            for configuration, replication in self.tasks
        ]
        return sorted(range(len(places)), key=places.__getitem__)

    @cached_property
    def identity(self) -> str:
        """Names the configurations, whatever the number of replications, so that a sweep can be given more of them."""
        return identity(self.configurations)

    @property
    def requests(self) -> int:
        """Requests of all runs together."""
        return self.requests_of(configuration for configuration, _ in self.tasks)

    def requests_of(self, configurations: Iterable[Configuration]) -> int:
        """Requests of one replication of each of these configurations."""
        return sum(self._counts[configuration.workload] for configuration in configurations)

    @cached_property
    def _counts(self) -> dict[str, int]:
        """Requests of a replication, by workload."""
        from bufferlab.experiments.workloads.requests import count_requests

        one_of_each = {configuration.workload: configuration for configuration in self.configurations}
        return {workload: count_requests(configuration.config) for workload, configuration in one_of_each.items()}

    @cached_property
    def replicates(self) -> dict[str, Replicates]:
        """What the replications of each workload are to one another."""
        from bufferlab.experiments.workloads.requests import replicates_of

        one_of_each = {configuration.workload: configuration for configuration in self.configurations}
        return {workload: replicates_of(configuration.config) for workload, configuration in one_of_each.items()}

    @cached_property
    def traffics(self) -> list[Traffic]:
        """What the configurations ask for, each workload once."""
        from bufferlab.experiments.workloads.traffic import traffic_of

        return [
            traffic_of(configuration.config)
            for configuration in {
                configuration.workload: configuration for configuration in reversed(self.configurations)
            }.values()
        ][::-1]

    @property
    def replication_kind(self) -> str | None:
        """What all replications are to one another; None for one of each, and where workloads differ in it."""
        kinds = {one.kind for one in self.replicates.values()}
        return kinds.pop() if self.replications > 1 and len(kinds) == 1 else None

    def target(self) -> Path:
        """Where the sweep goes when nothing else is said."""
        return Path("runs") / f"{self.name}-sweep-{self.identity[:NAME_DIGITS]}"

    def record(self) -> dict[str, Any]:
        """The plan as sweep.json has it, with what the figures depend on. ``base`` is the first configuration as it
        resolves: with the settings of another one it is that one, so the sweep can be repeated from its directory."""
        files = dict.fromkeys(path for one in self.configurations for path in one.config.input_files())
        return {
            "schema": SWEEP_SCHEMA,
            "plan": {
                "identity": self.identity,
                "name": self.name,
                "fields": self.fields,
                "configurations": len(self.configurations),
                "replications": self.replications,
                "replication_kind": self.replication_kind,
                "seed": self.seed,
                "requests": self.requests,
                "workloads": [traffic.content() for traffic in self.traffics],
                "base": self.configurations[0].config.resolved().tree(),
            },
            "code": code_digest(),
            "inputs": {str(path): digest_of(path) for path in files},
            "environment": describe(),
        }


def _as_often(made: list[Configuration]) -> list[Configuration]:
    """The same configurations: files of which nobody said how often they are run are run as often as all others."""
    chosen = {one.config.run.replications for one in made if not one.config.replications_by_default}
    by_default = [one.config.run.replications for one in made if one.config.replications_by_default]
    if not by_default or len(chosen) > 1 or (chosen and 1 in by_default):
        return made
    number = chosen.pop() if chosen else min(by_default)
    return [
        replace(one, config=one.config.with_replications(number, by_default=True))
        if one.config.replications_by_default
        else one
        for one in made
    ]


def make_plan(
    source: str | Source,
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    configurations: Sequence[Settings] = (),
    settings: Iterable[Override] = (),
    replications: int | None = None,
    seed: int | None = None,
    baseline: Sequence[tuple[str, Any]] = (),
) -> Plan:
    """Check all configurations of a sweep of the configuration ``source`` (a file, run directory or shipped example).

    ``settings`` are overrides for every configuration. Raises UserError: one sentence that names the
    configuration.
    """
    common = list(settings)
    if replications is not None:
        common.append(f"run.replications={replications}")
    if seed is not None:
        common.append(f"run.seed={seed}")
    listed = [with_new_fields(one, f"configuration {number}") for number, one in enumerate(configurations, 1)]
    crossed = with_new_fields(grid or {}, "the grid")
    made = make_configurations(source, common, cross(listed, crossed) if listed or crossed else [])
    made = _as_often(made)
    chosen = [(new_field(field), value) for field, value in baseline]
    first = made[0].config.run
    for configuration in made:
        if configuration.config.run.replications != first.replications:
            raise UserError(
                f"{made[0].title()} has {first.replications} replications and {configuration.title()} "
                f"{configuration.config.run.replications}; --replications gives all configurations the same number, "
                f"which must be 1 where a file cannot be resampled"
            )
    return Plan(first.name, tuple(made), first.replications, first.seed, find_baselines(made, chosen))
