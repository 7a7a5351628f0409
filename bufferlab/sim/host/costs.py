"""What the software of a run costs the processors of its host, which its threads share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from bufferlab.sim.host.spread import quantile

ENOUGH = math.inf
"""Of processors: as many as there are threads."""

ALWAYS = (1.0,)
"""Of a spread: what the profile says, every time."""

NOT_NEGATIVE = (
    "input_s", "iteration_s", "message_s", "command_s", "write_processors", "asleep_after_s", "nap_wakeup_s",
    "cold_copy_s",
)  # fmt: skip
SPREADS = ("write_spread", "control_spread", "copy_spread", "submit_spread", "wakeup_spread")
FROM_EVENTS = (*SPREADS, "asleep_after_s", "nap_wakeup_s", "cold_copy_s")
"""What no account of processors' time tells, but the events of a run."""
LISTS = ("collective_quantiles_s", *SPREADS)


class HostCosts(msgspec.Struct, frozen=True, kw_only=True):
    """Processor seconds of what the processes of a run do, all of which are on one host.

    ``processors``: how many it has, above 0; ``inf`` for as many as there are threads.
    ``input_s``: a rank's thread, to take a message or a completion and to do what follows from it.
    ``iteration_s``: the same thread, for an iteration of its loop that finds something to do, without copies and
    passes.
    ``message_s``: the threads that carry messages, for one message.
    ``command_s``: the router, for a command that it gives to a rank or takes from one.
    ``fill_bandwidth_Bps``: at which an encoder pass writes its output, in the rank's thread.
    ``write_processors``: how many a write keeps busy while it is under way, in the writing thread and in the engine's
    on both sides. 0 where an adapter moves the bytes and nobody waits for it on a processor.
    ``collective_processors``, ``collective_quantiles_s``: how many an all-reduce keeps busy on each rank, and how long
    it takes, at equal steps of probability from 0 to 1, when nothing else goes on. The ranks of a group of more than
    one hold one every iteration, whether there is anything to do or not, and a second one where rooms have moved on.
    ``asleep_after_s``: a rank's thread that has had nothing to do for so long sleeps soundly. When the clock says that
    an iteration or the end of a pass is due it wakes up ``wakeup_s`` of the link late, and the first copy of that
    iteration takes ``cold_copy_s`` longer, with caches that have turned to other things. From a shorter sleep it wakes
    up ``nap_wakeup_s`` late. At 0 every sleep is sound. ``*_spread``: how a duration varies from one time to the next:
    factors of what the profile says, equally likely, for writes, control messages, copies, submissions and wake-ups.

    Raises ValueError for a value out of range.
    """

    processors: float = ENOUGH
    input_s: float = 0.0
    iteration_s: float = 0.0
    message_s: float = 0.0
    command_s: float = 0.0
    fill_bandwidth_Bps: float = math.inf  # noqa: N815 - bytes, not bits
    write_processors: float = 0.0
    collective_processors: float = 1.0
    collective_quantiles_s: tuple[float, ...] = (0.0,)
    asleep_after_s: float = 0.0
    nap_wakeup_s: float = 0.0
    cold_copy_s: float = 0.0
    write_spread: tuple[float, ...] = ALWAYS
    control_spread: tuple[float, ...] = ALWAYS
    copy_spread: tuple[float, ...] = ALWAYS
    submit_spread: tuple[float, ...] = ALWAYS
    wakeup_spread: tuple[float, ...] = ALWAYS

    def __post_init__(self) -> None:
        for field in NOT_NEGATIVE:
            if not 0 <= getattr(self, field) < math.inf:
                raise ValueError(f"{field} is {getattr(self, field)}, it must be at least 0 and finite")
        for field in ("processors", "fill_bandwidth_Bps", "collective_processors"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field} is {getattr(self, field)}, it must be above 0")
        if not math.isfinite(self.collective_processors):
            raise ValueError(f"collective_processors is {self.collective_processors}, it must be finite")
        steps = self.collective_quantiles_s
        if not steps or list(steps) != sorted(steps) or not 0 <= steps[0] <= steps[-1] < math.inf:
            raise ValueError(
                f"collective_quantiles_s is {list(steps)}, it must be a list of rising times, finite and at least 0"
            )
        for field in SPREADS:
            factors = getattr(self, field)
            if not factors or not all(0 <= factor < math.inf for factor in factors):
                raise ValueError(f"{field} is {list(factors)}, it must be a list of factors, finite and at least 0")

    def before_s(self, control_latency_s: float) -> float:
        """What of a control message's latency lies in the thread that takes it; the same goes for any other input."""
        return min(self.input_s, max(0.0, control_latency_s - self.message_s))

    def collective_s(self, probability: float) -> float:
        """How long an all-reduce takes: the quantile of ``probability``, linear between two steps."""
        return quantile(self.collective_quantiles_s, probability)


FIELDS = HostCosts.__struct_fields__


def host_from(table: Any) -> HostCosts:
    """The costs in a table of fields. Raises ValueError naming the first unknown or wrong field."""
    if not isinstance(table, Mapping):
        raise ValueError(f"host is {table!r}, it must be a table")
    fields: dict[str, Any] = {}
    for field, value in table.items():
        if field not in FIELDS:
            raise ValueError(f"host: unknown field {field!r}; known: {', '.join(FIELDS)}")
        if field in LISTS:
            if not isinstance(value, list) or not all(map(_is_number, value)):
                raise ValueError(f"host: {field} is {value!r}, it must be a list of numbers")
            fields[field] = tuple(map(float, value))
        elif _is_number(value):
            fields[field] = float(value)
        else:
            raise ValueError(f"host: {field} is {value!r}, it must be a number")
    try:
        return HostCosts(**fields)
    except ValueError as error:
        raise ValueError(f"host: {error}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
