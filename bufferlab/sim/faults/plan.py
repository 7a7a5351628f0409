"""What goes wrong in one simulated run: incidents at their times, and rates of messages and writes."""

from __future__ import annotations

import math

import msgspec

from bufferlab.protocol.faults import MOST_DELAY_S, MOST_LATE_S, MOST_REQUEST_DELAY_S, RATES, Incident


class FaultPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What goes wrong in one run.

    Rates are probabilities. Of every message: to be lost, to arrive twice (the second copy late) or late, by up to
    ``most_delay_s``, so that others overtake it; only of the kinds ``messages`` (names of classes), all if empty. Of
    every write: to fail, or to fail with bytes that land up to ``most_late_s`` later. Of every request, on every rank:
    to arrive up to ``most_request_delay_s`` late. Rates hold until ``until_s``.
    A rank asks every rank of the other side every ``heartbeat_s`` whether it lives, beginning at a moment of its own,
    and takes it for dead when ``heartbeat_failures`` in a row had no answer. The defaults are SGLang's.
    Raises ValueError for a number out of range (see the bounds in ``protocol.faults``).
    """

    seed: int = 0
    replication: int = 0
    lost_messages: float = 0.0
    doubled_messages: float = 0.0
    late_messages: float = 0.0
    most_delay_s: float = 0.0
    messages: tuple[str, ...] = ()
    failed_writes: float = 0.0
    late_writes: float = 0.0
    most_late_s: float = 0.0
    late_requests: float = 0.0
    most_request_delay_s: float = 0.0
    until_s: float = math.inf
    heartbeat_s: float = 5.0
    heartbeat_failures: int = 2
    incidents: tuple[Incident, ...] = ()

    def __post_init__(self) -> None:
        for of in dict.fromkeys(one.of for one in RATES.values()):
            names = [name for name, one in RATES.items() if one.of == of]
            rates = [float(getattr(self, name)) for name in names]
            if not (min(rates) >= 0 and sum(rates) <= 1):
                raise ValueError(f"{', '.join(names)} are {rates}: each must be at least 0, and their sum at most 1")
        for field, most_s in (
            ("most_delay_s", MOST_DELAY_S),
            ("most_late_s", MOST_LATE_S),
            ("most_request_delay_s", MOST_REQUEST_DELAY_S),
        ):
            _check_range(field, getattr(self, field), most_s)
        if not 0 < self.heartbeat_s < math.inf or self.heartbeat_failures < 1:
            raise ValueError(
                f"heartbeat_s is {self.heartbeat_s} and heartbeat_failures is {self.heartbeat_failures}, they must be "
                f"above 0 and finite, and at least 1"
            )
        for incident in self.incidents:
            for wrong in (*incident.misnamed(), *incident.wrong()):
                raise ValueError(f"{wrong.setting} of a {incident.called} is {wrong.value}, it {wrong.must}")


def _check_range(field: str, value: float, most: float) -> None:
    if not 0 <= value <= most:
        raise ValueError(f"{field} is {value}, it must be at least 0 and at most {most}")
