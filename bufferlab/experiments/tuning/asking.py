"""The question of a tune, with everything in it checked before anything runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bufferlab.experiments.config.build import NAME_DIGITS
from bufferlab.experiments.config.overrides import Override, key_of, told
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.installing import install_command
from bufferlab.experiments.stats.racing import LEAST
from bufferlab.experiments.stats.replicates import INDEPENDENT, Replicates, ReplicationKind
from bufferlab.experiments.sweeps.folder import code_digest
from bufferlab.experiments.sweeps.grid import as_override
from bufferlab.experiments.tuning.base import Asked, Base, make_base
from bufferlab.experiments.tuning.bounds import Demand, demand_of
from bufferlab.experiments.tuning.changes import WhatIf, check_what_ifs
from bufferlab.experiments.tuning.folder import TUNE_SCHEMA
from bufferlab.experiments.tuning.question import (
    DEFAULT_CERTAINTY,
    DEFAULT_INDIFFERENCE,
    Indifference,
    Limit,
    Objective,
    objective_of,
    parse_certainty,
    parse_indifference,
)
from bufferlab.experiments.tuning.search import Search, plan_search
from bufferlab.experiments.tuning.space import Fields, Setting, Space, make_space
from bufferlab.experiments.workloads.requests import check_requests, is_random, replicates_of, resampling_of
from bufferlab.experiments.workloads.resampling import NoResampling
from bufferlab.experiments.workloads.traffic import Traffic, traffic_of

FIRST = {"independent": 4, "resampled": 8}
"""Replications of every setting before the first look."""
DEFAULT_MOST = {"independent": 30, "resampled": 16}
"""Resamples of a file make its error better known and no smaller: 15 of them have bounds 5 % wider than 29 have."""
LEAST_FRESH, FRESH = 10, 1000
"""How many replications the candidate and the baselines get that had no part in its choice, at least; and the number
of the first of these."""


@dataclass(frozen=True)
class Question:
    """All that is asked; everything in it has been checked."""

    base: Base
    space: Space
    demand: Demand
    objective: Objective
    limits: tuple[Limit, ...]
    certainty: float
    indifference: Indifference
    replicates: Replicates | None
    """What replications tell; None where all are the same, so that there is only one."""
    most: int
    command: str = ""
    """The command that asks it, to be told with the answer."""
    given: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """The values of fields that the user named."""
    what_ifs: tuple[WhatIf, ...] = ()
    sensitivity: bool = False
    """Whether to ask how far off the configuration may be."""
    search: Search | None = None
    """What proposes settings; None where the space has all of them."""
    by_limit: bool = False
    """Whether nobody said what is to be low, so that it is the figure of the first limit."""

    @cached_property
    def settings(self) -> dict[int, Setting]:
        """By their numbers."""
        return {one.number: one for one in self.space.settings}

    @property
    def assumed(self) -> tuple[str, ...]:
        """What nobody said and is taken for granted, ready to be shown."""
        own = f"{self.objective.title} is to be low, as it is limited (--objective)"
        return (*self.base.defaults, *([own] if self.by_limit else []))

    @property
    def kind(self) -> ReplicationKind | None:
        """The kind of the replications."""
        return None if self.replicates is None else self.replicates.kind

    @property
    def first(self) -> int:
        """Replications before the first look."""
        return 1 if self.kind is None else max(min(FIRST[self.kind], self.most), LEAST[self.kind])

    @cached_property
    def traffic(self) -> Traffic:
        """What the requests are."""
        return traffic_of(self.base.config.with_replications(self.most, by_default=False))

    @cached_property
    def identity(self) -> str:
        """Names the question, whatever the number of replications."""
        content = [
            # While a search goes on it finds more settings; the question is what it began with.
            [one.fingerprint for one in (self.space if self.search is None else self.search.begin()[1]).settings],
            self.objective.path,
            [[limit.of.path, limit.limit_s] for limit in self.limits],
            self.certainty,
            self.indifference.text,
            [fields for fields, _, _ in self.space.baselines],
            *([] if self.search is None else [self.search.content()]),
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def target(self) -> Path:
        """Where the tune goes when nothing else is said."""
        return Path("runs") / f"{self.base.config.run.name}-tune-{self.identity[:NAME_DIGITS]}"

    def record(self) -> dict[str, Any]:
        """What tune.json holds before there is an answer."""
        return {
            "schema": TUNE_SCHEMA,
            "identity": self.identity,
            "code": code_digest("tuning"),  # which makes the rows of the ledger
            "inputs": self.base.config.input_digests(),
        }


def settings_of(overrides: Sequence[Override], seed: int | str | None, limits: Sequence[Limit]) -> tuple[Override, ...]:
    """Overrides, the seed and the limits as settings of a configuration. Raises UserError for what a tune decides."""
    for one in overrides:
        if key_of(one) == "run.replications":
            raise UserError(
                f"--set is {told(one)!r}, which a tune decides for itself; --replications gives the most of them"
            )
    settings = list(overrides)
    # As settings, so that a wrong number is refused as any other is.
    settings += [f"run.seed={seed}"] if seed is not None else []
    # So that the share of the requests that keep to the limit is told as well.
    return (
        *settings,
        *(f"slo.{limit.of.quantity}_s={limit.limit_s}" for limit in limits if limit.of.quantity != "transfer"),
    )


def make_question(
    asked: Asked,
    *,
    objective: Objective | None = None,
    limits: Sequence[Limit] = (),
    certainty: float | None = None,
    indifference: Indifference | None = None,
    space: Mapping[str, Sequence[Any]] | None = None,
    baselines: Sequence[Fields] = (),
    replications: int | None = None,
    command: str = "",
    what_ifs: Sequence[WhatIf] = (),
    sensitivity: bool = False,
    search: str | None = None,
    trials: int | None = None,
) -> Question:
    """Check all that is asked; what is left out has its default. Raises UserError: one sentence; nothing has been run
    or written.

    Without ``objective`` the figure of the first limit is to be low.
    """
    for name, values in (space or {}).items():
        for value in values:
            as_override(name, value)  # what no option can say could not be recommended
    base = make_base(asked)
    check_requests(base.config, "sim")
    demand = demand_of(base.config)
    searched = plan_search(base, demand, given=space or {}, baselines=baselines, method=search, trials=trials)
    if searched is None:
        made = make_space(base, demand, given=space, baselines=baselines)
    else:
        _, made = searched.begin()
    replicates: Replicates | None = replicates_of(base.config)
    if replicates is INDEPENDENT and not is_random(base.config):
        replicates = None
    most = replications
    if replicates is None:
        if replications not in (None, 1):
            plan = resampling_of(base.config)
            why = f"the file cannot be resampled: {plan.why}" if isinstance(plan, NoResampling) else "nothing is drawn"
            raise UserError(
                f"--replications is {replications}, it must be 1 or left out: every replication of these requests "
                f"would be the same ({why})"
            )
        most = 1
    elif most is None:
        most = DEFAULT_MOST[replicates.kind]
    elif not LEAST[replicates.kind] <= most <= FRESH:
        raise UserError(f"--replications is {most}, it must be from {LEAST[replicates.kind]} to {FRESH}")
    sure = parse_certainty(DEFAULT_CERTAINTY) if certainty is None else certainty
    within = indifference or parse_indifference(DEFAULT_INDIFFERENCE)
    question = Question(
        base, made, demand, objective or objective_of(limits), tuple(limits), sure, within, replicates, most,
        command, dict(space or {}), tuple(what_ifs), sensitivity, searched, objective is None and bool(limits),
    )  # fmt: skip
    check_what_ifs(base, question.what_ifs)
    if sensitivity:
        _check_library()
    return question


def _check_library() -> None:
    """Raise UserError where SALib is not installed, before anything runs."""
    import importlib.util

    if importlib.util.find_spec("SALib") is None:
        raise UserError(f"--sensitivity needs SALib, which is not installed; run: {install_command('SALib')}")
