"""What a report asks of the directory of a sweep: its configurations, their names, and which may be the best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.figures.curves import DEFAULT_TOKENS
from bufferlab.experiments.figures.distributions import Distribution, distribution_of, level_steps
from bufferlab.experiments.reports.page import setting_text
from bufferlab.experiments.reports.sources import Source
from bufferlab.experiments.reports.wording import at
from bufferlab.experiments.stats.quantiles import LEVELS
from bufferlab.experiments.sweeps.grid import telling_fields


class StoredSweep:
    """What a report asks of a sweep's directory."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.plan: Mapping[str, Any] = source.content["plan"]
        self.configurations: list[Mapping[str, Any]] = list(source.content["configurations"])
        self.fields: list[str] = list(self.plan["fields"])
        self.replications = int(self.plan["replications"])
        self.workloads: list[Mapping[str, Any]] = list(self.plan.get("workloads") or ())
        self.lowest: list[Mapping[str, Any]] = list(source.content["lowest"])

    @cached_property
    def by_number(self) -> dict[int, Mapping[str, Any]]:
        """The configurations by their numbers."""
        return {one["configuration"]: one for one in self.configurations}

    def ranked(self, figure: str) -> tuple[set[int], set[int]]:
        """Numbers of the configurations that have the lowest value of a figure, and of those that may have it."""
        found = [one for one in self.lowest if one["figure"] == figure]
        return {one["configuration"] for one in found}, {number for one in found for number in one["possibly"]}

    def resampled(self, number: int) -> bool:
        """Whether the replications of a configuration are a file and resamples of it."""
        return self.by_number[number].get("replication_kind") == "resampled"

    def intervals(self, paths: Iterable[str]) -> str:
        """What the intervals of these figures are, in words; nothing where no configuration has one."""
        names = list(paths)
        kinds = [
            self.resampled(one["configuration"])
            for one in self.configurations
            if any(at(one, path)["low"] is not None for path in names)
        ]
        if not kinds:
            return ""
        if self.replications < 2:
            return "95 % intervals from batches of one run"
        if not any(kinds):
            return "95 % intervals over the replications"
        of_files = "95 % intervals from the resamples of the file"
        return of_files if all(kinds) else f"{of_files}, where it is one, else over the replications"

    @cached_property
    def telling(self) -> list[str]:
        """The swept fields in which configurations differ."""
        return telling_fields(self.fields, [one["settings"] for one in self.configurations])

    def title(self, number: int, fields: Sequence[str] | None = None) -> str:
        """What a configuration is called: the values of its swept fields that differ between configurations."""
        settings = self.by_number[number]["settings"]
        wanted = self.telling if fields is None else fields
        parts = [
            setting_text(settings[field])
            if isinstance(settings[field], str)
            else f"{self.heading(field)} {setting_text(settings[field])}"
            for field in wanted
            if field in settings
        ]
        return ", ".join(parts) or f"configuration {number}"

    def heading(self, field: str) -> str:
        """The short name of a field, where no other swept one is called so."""
        last = field.rpartition(".")[2]
        return last if sum(one.rpartition(".")[2] == last for one in self.fields) == 1 else field

    def whole(self, one: Mapping[str, Any]) -> bool:
        """Whether a configuration served every request."""
        requests = one["requests"]
        return bool(requests["succeeded"] == requests["offered"])

    @cached_property
    def prefilled(self) -> bool:
        """Whether any configuration has a time to the first token of its own."""
        return any(one["ttft_s"] != one["latency_s"] for one in self.configurations)

    @cached_property
    def promised(self) -> bool:
        """Whether limits were set."""
        return any(one["slo"]["all"]["value"] is not None for one in self.configurations)

    def values(self, field: str) -> list[Any]:
        """The values of a field, in the order of the configurations."""
        found = [one["settings"][field] for one in self.configurations if field in one["settings"]]
        return list({repr(value): value for value in found}.values())

    @cached_property
    def x(self) -> str | None:
        """The field that latencies are drawn against: the default allocation, else one with numbers, else the first."""
        varied = [field for field in self.fields if len(self.values(field)) > 1]
        if DEFAULT_TOKENS in varied:
            return DEFAULT_TOKENS
        numbers = [field for field in varied if is_number(self.values(field)) and not field.startswith("workload.")]
        return next(iter([*numbers, *varied]), None)

    def distributions(self, numbers: Sequence[int]) -> dict[int, Distribution]:
        """The distribution of the latency of some configurations. Raises UserError where it cannot be read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.source.path / "quantiles.parquet"
        try:
            table = pq.read_table(path, columns=["configuration", "latency_s"])
        except (OSError, pa.ArrowException):
            raise UserError(f"RUN is {str(self.source.path)!r}, whose {path.name} cannot be read") from None
        configuration, latency = table["configuration"].to_numpy(), table["latency_s"].to_numpy()
        found = {}
        for number in numbers:
            values = latency[configuration == number]
            steps = level_steps(values.reshape(-1, len(LEVELS)))
            one = distribution_of(steps, resampled=self.resampled(number))
            if one is not None:
                found[number] = one
        return found


def is_number(values: Sequence[Any]) -> bool:
    """Whether all of them are numbers."""
    return bool(values) and all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)
