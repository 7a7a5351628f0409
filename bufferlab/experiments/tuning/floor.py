"""What is left of a time when nothing waits for anything: the *floor*, below which no buffer and no instance brings it.

The requests of the traffic run once more, so far apart that each is over before the next one comes, with memory and a
default for the longest of them, so that none resumes. What their times are then is work alone: the encoder's, the
transfer's, the prefill's. A limit below that is no matter of buffers or of more servers, and what a setting has above
it is waiting.

(A closed loop of one request at a time would not do: there the next one begins when its predecessor is delivered, while
that one's prefill goes on.)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bufferlab.experiments.config.schema import Config, parse
from bufferlab.experiments.errors import RunFailedError
from bufferlab.experiments.runs.simulate import simulate_one
from bufferlab.experiments.stats.intervals import Samples, unbounded
from bufferlab.experiments.sweeps.grid import fingerprint
from bufferlab.experiments.tuning.bounds import Demand
from bufferlab.experiments.tuning.contest import Runs, row_of
from bufferlab.experiments.tuning.estimates import estimate
from bufferlab.experiments.tuning.folder import Row
from bufferlab.experiments.tuning.question import Objective
from bufferlab.experiments.tuning.space import Setting
from bufferlab.experiments.workloads.requests import make_columns, requests_from
from bufferlab.protocol.disciplines import DEFAULT, DISCIPLINES
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.wire.limits import EXTENDED

if TYPE_CHECKING:
    from bufferlab.experiments.runs.replication import Replication
    from bufferlab.experiments.tuning.asking import Question

STAGE = "floor"
APART_S = 3600.0
"""From one arrival to the next: far more than anything takes that is not given up before."""
LEAST_REPLICATIONS = 10
"""Where replications are drawn anew."""
SPANS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "latency": (("encode", "arrival_s", "encoded_s"), ("transfer", "encoded_s", "delivered_s")),
    "transfer": (("transfer", "encoded_s", "delivered_s"),),
    "ttft": (
        ("encode", "arrival_s", "encoded_s"),
        ("transfer", "encoded_s", "delivered_s"),
        ("prefill", "delivered_s", "prefilled_s"),
    ),
}
"""What a time is made of when nothing waits: from when to when each part lasts."""


def floor_of(question: Question, runs: Runs) -> dict[str, Any] | None:
    """What tune.json says of it; None where nothing is limited.

    ``figures``: the objective and the limits, each with its interval and ``parts``, seconds of each kind of work.
    """
    if not question.limits:
        return None
    figures = dict.fromkeys([question.objective, *(limit.of for limit in question.limits)])
    config = alone(question.base.config, question.demand)
    setting = Setting(0, {}, {}, config, f"{STAGE}-{fingerprint(config)}", 0, eligible=False)
    own = Runs(
        {0: setting}, runs.execute, runs.folder, runs.progress, runs.notice, {**runs.marks, "stage": STAGE},
        functools.partial(alone_row, figures=tuple(figures)),
    )  # fmt: skip
    own.get([(0, replication) for replication in range(count_of(question))], STAGE)
    rows = own.rows(0)
    return {
        "figures": {one.path: _told(question, own, one) for one in figures},
        "tokens": config.protocol.sizing.tokens,
        "not_served": rows[0]["requests"] - rows[0]["requests.succeeded"],
        "runs": len(rows),
        "requests": sum(row["requests"] for row in rows),
    }


def count_of(question: Question) -> int:
    """How many runs it takes: what one setting does, so there are enough of them to know how sure it is."""
    if not question.limits:
        return 0
    return question.first if question.kind != "independent" else max(question.first, LEAST_REPLICATIONS)


def out_of_reach(content: Mapping[str, Any], limit: Mapping[str, Any]) -> bool:
    """Whether what is left without any waiting is above a limit of the answer."""
    floor = content["floor"]
    value = None if floor is None else floor["figures"][limit["figure"]]["value"]
    return value is not None and value > limit["limit_s"]


def _told(question: Question, runs: Runs, figure: Objective) -> dict[str, Any]:
    rows = runs.rows(0)
    if any(row["requests.succeeded"] < row["requests"] for row in rows):
        return {**unbounded(None), "parts": {}}  # the slowest may be missing
    values, parts = runs.values(0, figure.path), runs.parts([0], figure.path)
    found = estimate(figure.path, values, question.replicates, parts)
    names = [name for name, _, _ in SPANS[figure.quantity]]
    # Of a file those of the file itself, as its figures are.
    told = rows[:1] if question.kind == "resampled" else rows
    known = {name: [row[_column(figure, name)] for row in told] for name in names}
    return {**found, "parts": {name: float(np.mean(values)) for name, values in known.items()}}


def alone(config: Config, demand: Demand) -> Config:
    """Today's configuration with memory and a default for the longest request, at its own times."""
    tree = config.tree()
    protocol, workload = tree["protocol"], tree["workload"]
    block = config.protocol.block_tokens
    blocks = -(-demand.longest // block)
    protocol["sizing"] = {"policy": "fixed", "tokens": blocks * block}
    if DISCIPLINES[config.protocol.discipline].announces_length and config.protocol.wire == EXTENDED:
        protocol["discipline"] = DEFAULT  # asking first takes a round trip that a large default saves
    for section in (config.encode, config.language):
        name = "encode" if section is config.encode else "language"
        tree[name]["pool_blocks"] = max(config.blocks(section), blocks + config.protocol.reserve_blocks)
    if workload.pop("loop", "open") == "closed":
        workload.pop("concurrency", None)
        if config.workload.preset is not None and config.workload.rate_rps is None:
            workload["rate_rps"] = 1.0  # which is not looked at, but a preset has one
    for name in ("faults", "incidents"):
        tree.pop(name, None)
    return parse(tree).resolved()


def alone_row(config: Config, replication: int, title: str, *, figures: Iterable[Objective]) -> Row:
    """Simulate one replication in which every request is alone; its row has what its times are made of as well."""
    try:
        one, violations = simulate_one(config, replication, requests=_apart(config, replication))
    except Exception as error:
        raise RunFailedError(f"{title}, replication {replication}: {type(error).__name__}: {error}") from error
    row = row_of(one, violations, config, replication)
    for figure in figures:
        row |= {_column(figure, name): value for name, value in _parts(one, figure).items()}
    return row


def _column(figure: Objective, part: str) -> str:
    return f"floor.{figure.path}.{part}"


def _apart(config: Config, replication: int) -> Iterator[Request]:
    def spread() -> Iterator[Any]:
        before = 0
        for block in make_columns(config, replication):
            count = len(block)
            yield replace(block, arrival_s=APART_S * (before + np.arange(count, dtype=np.float64)))
            before += count

    return iter(requests_from(config, spread()))


def _parts(one: Replication, figure: Objective) -> Mapping[str, float | None]:
    """What a time is made of: its mean by the means of its parts, a quantile by those of the request that has it."""
    spans = SPANS[figure.quantity]
    delivered = one.delivered()
    if not delivered.any():
        return dict.fromkeys((name for name, _, _ in spans), None)
    lasted = {name: one.between_s(begin, end)[delivered] for name, begin, end in spans}
    if figure.statistic == "mean":
        return {name: float(np.mean(values)) for name, values in lasted.items()}
    whole: Samples = np.sum(list(lasted.values()), axis=0)
    rank = max(math.ceil(float(figure.statistic[1:]) / 100 * len(whole)), 1) - 1
    place = int(np.argsort(whole, kind="stable")[rank])
    return {name: float(values[place]) for name, values in lasted.items()}
