"""What can go wrong in a simulated run, as data: incidents at their times, and rates of messages and writes.

The protocol rests on a few assumptions about time, and a plan may not break them:

* blocks whose writer is thought gone are quarantined for ``language.QUARANTINE_S``, by when the writer is silent: it is
  dead and its bytes have landed, or it lives and has been told. What may stand between a false alarm and that moment
  (the alarm itself, a delayed message, a hang, late bytes) is bounded by the constants below, which add up to less;
* a control message that is repeated until it is answered comes through some day, so no rate of loss lasts for ever;
* the ranks of a group are given their requests in the same order, because one queue feeds them all. A request that is
  late on a rank holds up those behind it there, and so does a hang.
"""

from __future__ import annotations

import math

import msgspec

from protocol.topology import RankId, Side

MOST_DELAY_S = 5.0
"""A control message is late by at most this. ZeroMQ reconnects within a second or so; beyond, it counts as lost."""

MOST_LATE_S = 20.0
"""Bytes land at most this long after their write was given up, or after their writer died. Mooncake's transfer timeout
of 30 s counts from the start of the write."""

MOST_HANG_S = 10.0
"""A rank that stands still for longer than its heartbeat allows is declared dead and does not come back as it was."""

MOST_ALARM_S = 15.0
"""A peer that was declared down by mistake is back after at most this: three heartbeats of 5 s."""

MOST_REQUEST_DELAY_S = 10.0
"""A request reaches a rank at most this late, well within ``rank.EARLY_LIFETIME_S``."""


class ClientAbort(msgspec.Struct, frozen=True, tag="client_abort"):
    """The client of ``room`` goes away, and these ranks are told."""

    time_s: float
    room: int
    ranks: tuple[RankId, ...]


class Death(msgspec.Struct, frozen=True, tag="death"):
    """The rank's process ends, and with it its instance (see ``protocol.lifecycle``), for good.

    Writes to it fail; its own writes in flight land or not, within MOST_LATE_S. Every rank of the other side is told
    that they are down: each within ``detected_s``, or, if that is None, when its heartbeats have failed.
    """

    time_s: float
    rank: RankId
    detected_s: float | None = None


class Restart(msgspec.Struct, frozen=True, tag="restart"):
    """All processes of an instance end, and ``down_s`` later new ones start under their names, with new memory.

    What follows is in ``protocol.lifecycle``, and its writes in flight land or not as those of a ``Death``.
    """

    time_s: float
    side: Side
    instance: int
    down_s: float


class Hang(msgspec.Struct, frozen=True, tag="hang"):
    """The rank stands still for ``lasts_s``: what it is given waits, and so do its group's turns. Its writes go on."""

    time_s: float
    rank: RankId
    lasts_s: float


class Slow(msgspec.Struct, frozen=True, tag="slow"):
    """The rank's writes take ``factor`` times as long, and so do its group's turns and the work in them."""

    rank: RankId
    factor: float


class FalseAlarm(msgspec.Struct, frozen=True, tag="false_alarm"):
    """``observer`` is told that ``peer`` is down although it lives, and ``lasts_s`` later that it is back."""

    time_s: float
    observer: RankId
    peer: RankId
    lasts_s: float


Incident = ClientAbort | Death | Restart | Hang | Slow | FalseAlarm


class FaultPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What goes wrong in one run.

    Rates are probabilities. Of every message: to be lost, to arrive twice (the second copy late) or late, by up to
    ``most_delay_s``, so that others overtake it; only of the kinds ``messages`` (names of classes), all if empty. Of
    every write: to fail, or to fail with bytes that land up to ``most_late_s`` later. Of every request, on every rank:
    to arrive up to ``most_request_delay_s`` late. Rates hold until ``until_s``.
    A rank asks every rank of the other side every ``heartbeat_s`` whether it lives, beginning at a moment of its own,
    and takes it for dead when ``heartbeat_failures`` in a row had no answer. The defaults are SGLang's.
    Raises ValueError for a number out of range (see the bounds at the top of this module).
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
        for names in (
            ("lost_messages", "doubled_messages", "late_messages"),
            ("failed_writes", "late_writes"),
            ("late_requests",),
        ):
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
            if isinstance(incident, Hang):
                _check_range("lasts_s of a hang", incident.lasts_s, MOST_HANG_S)
            elif isinstance(incident, Restart):
                _check_range("down_s of a restart", incident.down_s, math.inf)
            elif isinstance(incident, FalseAlarm):
                _check_range("lasts_s of a false alarm", incident.lasts_s, MOST_ALARM_S)
            elif isinstance(incident, Slow) and not 1 <= incident.factor < math.inf:
                raise ValueError(f"factor of a slow rank is {incident.factor}, it must be at least 1 and finite")


def _check_range(field: str, value: float, most: float) -> None:
    if not 0 <= value <= most:
        raise ValueError(f"{field} is {value}, it must be at least 0 and at most {most}")
