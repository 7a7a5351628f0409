"""What a sweep runs: its cells and their baselines, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.build import NAME_DIGITS
from experiments.errors import UserError
from experiments.runs.environment import describe
from experiments.sweeps.folder import (
    SWEEP_SCHEMA,
    code_digest,
)
from experiments.sweeps.grid import (
    Cell,
    Settings,
    cross,
    find_baselines,
    identity,
    make_cells,
    swept_fields,
)

if TYPE_CHECKING:
    from experiments.workloads.traffic import Traffic


@dataclass(frozen=True)
class Plan:
    """What a sweep runs; everything in it has been checked."""

    name: str
    cells: tuple[Cell, ...]
    replications: int
    seed: int
    baselines: Mapping[int, int]
    """Number of the cell that each cell is compared with."""

    @property
    def fields(self) -> list[str]:
        """The swept fields."""
        return swept_fields(self.cells)

    @property
    def tasks(self) -> list[tuple[Cell, int]]:
        """Every cell and replication, in the order of the rows."""
        return [(cell, replication) for cell in self.cells for replication in range(self.replications)]

    @cached_property
    def identity(self) -> str:
        """Names the cells, whatever the number of replications, so that a sweep can be given more of them."""
        return identity(self.cells)

    @cached_property
    def requests(self) -> int:
        """Requests of all runs together."""
        from experiments.workloads.requests import count_requests

        counts = {cell.workload: 0 for cell in self.cells}
        for cell in self.cells:
            counts[cell.workload] = counts[cell.workload] or count_requests(cell.config)
        return self.replications * sum(counts[cell.workload] for cell in self.cells)

    @cached_property
    def traffics(self) -> list[Traffic]:
        """What the cells ask for, each workload once."""
        from experiments.workloads.traffic import traffic_of

        return [traffic_of(cell.config) for cell in {cell.workload: cell for cell in reversed(self.cells)}.values()][
            ::-1
        ]

    def target(self) -> Path:
        """Where the sweep goes when nothing else is said."""
        return Path("runs") / f"{self.name}-sweep-{self.identity[:NAME_DIGITS]}"

    def record(self) -> dict[str, Any]:
        """The plan as sweep.json has it, with what the figures depend on."""
        inputs: dict[str, str] = {}
        for cell in self.cells:
            if not all(str(path) in inputs for path in cell.config.input_files()):
                inputs.update(cell.config.input_digests())
        return {
            "schema": SWEEP_SCHEMA,
            "plan": {
                "identity": self.identity,
                "name": self.name,
                "fields": self.fields,
                "cells": len(self.cells),
                "replications": self.replications,
                "seed": self.seed,
                "requests": self.requests,
                "workloads": [traffic.content() for traffic in self.traffics],
            },
            "code": code_digest(),
            "inputs": inputs,
            "environment": describe(),
        }


def make_plan(
    source: str,
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    cells: Sequence[Settings] = (),
    settings: Iterable[str] = (),
    replications: int | None = None,
    seed: int | None = None,
    baseline: Sequence[tuple[str, Any]] = (),
) -> Plan:
    """Check all cells of a sweep of the configuration ``source`` (a file, run directory or shipped example).

    ``settings`` are ``key.path=value`` overrides for every cell. Raises UserError: one sentence that names the cell.
    """
    common = list(settings)
    if replications is not None:
        common.append(f"run.replications={replications}")
    if seed is not None:
        common.append(f"run.seed={seed}")
    made = make_cells(source, common, cross(cells, grid or {}) if cells or grid else [])
    first = made[0].config.run
    for cell in made:
        if cell.config.run.replications != first.replications:
            raise UserError(
                f"{made[0].title()} has {first.replications} replications and {cell.title()} "
                f"{cell.config.run.replications}, because a file has the same requests in each; --replications "
                f"gives all cells the same number"
            )
    return Plan(first.name, tuple(made), first.replications, first.seed, find_baselines(made, baseline))
