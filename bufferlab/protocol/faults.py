"""What can go wrong in a run, told once for both worlds: kinds of incidents, and rates of what happens by chance.

A kind is a class. Its fields without a default are the settings that a configuration gives, all of them; what it says
of itself is what errors, documentation and both worlds say of it. How it is done is theirs: ``sim.faults.planned``
carries it out in a simulated run, and ``real.faults`` in a measured one, unless ``not_measured`` says why it cannot.

The protocol rests on a few assumptions about time, which no incident and no rate may break:

* blocks whose writer is thought gone are quarantined for ``language.QUARANTINE_S``, by when the writer is silent: it is
  dead and its bytes have landed, or it lives and has been told. What may stand between a false alarm and that moment
  (the alarm itself, a delayed message, a hang, late bytes) is bounded by the constants below, which add up to less;
* a control message that is repeated until it is answered comes through some day, so no rate of loss lasts for ever;
* the ranks of a group are given their requests in the same order, because one queue feeds them all. A request that is
  late on a rank holds up those behind it there, and so does a hang.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final, NamedTuple

import msgspec

from bufferlab.protocol.lifecycle import Instance
from bufferlab.protocol.topology import RankId

MOST_DELAY_S: Final = 5.0
"""A control message is late by at most this. ZeroMQ reconnects within a second or so; beyond, it counts as lost."""

MOST_LATE_S: Final = 20.0
"""Bytes land at most this long after their write was given up, or after their writer died. Mooncake's transfer timeout
of 30 s counts from the start of the write."""

MOST_HANG_S: Final = 10.0
"""A rank that stands still for longer than its heartbeat allows is declared dead and does not come back as it was."""

MOST_ALARM_S: Final = 15.0
"""A peer that was declared down by mistake is back after at most this: three heartbeats of 5 s."""

MOST_REQUEST_DELAY_S: Final = 10.0
"""A request reaches a rank at most this late, well within ``rank.EARLY_LIFETIME_S``."""


class Setting(NamedTuple):
    """A setting that incidents have: what it is, in a sentence for users, and the least it can be."""

    what: str
    least: float = 0


SETTINGS: dict[str, Setting] = {
    "time_s": Setting("When, counted from the run's start. A slow rank is slow from the start."),
    "rank": Setting("Whose, such as language0.1."),
    "observer": Setting("The rank that takes ``rank`` for dead in a false alarm."),
    "instance": Setting("The instance that restarts, such as language0."),
    "lasts_s": Setting("How long the hang or the false alarm lasts, or until new processes are there after a restart."),
    "factor": Setting("How many times longer the iterations and writes of a slow rank take.", 1),
    "room": Setting("The request that is aborted, counted from 1 in order of arrival.", 1),
}
"""The settings of all kinds, in the order in which they are listed. What a value may be follows from its field's type:
a rank, an instance, the number of a request, a time or another number."""


class Wrong(NamedTuple):
    """What an incident cannot be: a setting, its value, and what it must be."""

    setting: str
    value: object
    must: str

    def __str__(self) -> str:
        return f"{self.setting} is {self.value}, it {self.must}"


class IncidentKind(msgspec.Struct, frozen=True):
    """What all kinds have in common. The class attributes are what a kind says of itself."""

    kind: ClassVar[str]
    """What a configuration calls it."""
    called: ClassVar[str]
    """What sentences and counts call it."""
    happens: ClassVar[str]
    """What happens, for users."""
    measured: ClassVar[str]
    """How that looks in a measured run, for users."""
    not_measured: ClassVar[str] = ""
    """Why a measured run cannot do it: the end of a sentence that begins with the kind. Empty where it can."""
    ends_processes: ClassVar[bool] = False
    """Whether processes end by it, for good or for a while."""
    starts_processes: ClassVar[bool] = False
    """Whether new processes take the names of those that ended."""
    of_processes: ClassVar[bool] = False
    """Whether it is done to processes from outside, which in a measured run must then be on the router's host."""
    most: ClassVar[Mapping[str, float]] = {}
    """The most that some settings can be."""

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """The settings that it has, all of which must be given, each with its type."""
        return {one.name: one.type for one in msgspec.structs.fields(cls) if one.required}

    def misnamed(self) -> Iterator[Wrong]:
        """Ranks and instances that do not go together, whatever the size of the run."""
        return iter(())

    def wrong(self) -> Iterator[Wrong]:
        """Numbers that are out of range."""
        for name in self.settings():
            value = getattr(self, name)
            if not isinstance(value, float):
                continue
            least, most = SETTINGS[name].least, self.most.get(name, math.inf)
            if least <= value <= most and value < math.inf:
                continue
            if most < math.inf:
                must = f"must be at least {least:g} and at most {most}"
            elif least:
                must = f"must be at least {least:g} and finite"
            else:
                must = "must be finite" if value == math.inf else "must not be negative"
            yield Wrong(name, value, must)


class Death(IncidentKind, frozen=True, tag="death"):
    """The rank's process ends, and with it its instance (see ``protocol.lifecycle``), for good.

    Writes to it fail; its own writes in flight land or not, within MOST_LATE_S. Every rank of the other side is told
    that they are down: each within ``detected_s``, or, if that is None, when its heartbeats have failed.
    """

    kind: ClassVar[str] = "death"
    called: ClassVar[str] = "death"
    happens: ClassVar[str] = (
        "a rank's process ends, and those of its whole instance with it; writes to them fail, their own may still "
        "land; peers hear of it when their heartbeats have failed"
    )
    measured: ClassVar[str] = (
        "its process is killed; the others of its instance leave by themselves, or are ended half a second later"
    )
    ends_processes: ClassVar[bool] = True
    of_processes: ClassVar[bool] = True

    time_s: float
    rank: RankId
    detected_s: float | None = None

    def __str__(self) -> str:
        return f"death of {self.rank} at {self.time_s:.3f} s"


class Restart(IncidentKind, frozen=True, tag="restart"):
    """All processes of an instance end, and ``lasts_s`` later new ones start under their names, with new memory.

    What follows is in ``protocol.lifecycle``, and its writes in flight land or not as those of a ``Death``.
    """

    kind: ClassVar[str] = "restart"
    called: ClassVar[str] = "restart"
    happens: ClassVar[str] = (
        "all processes of an instance end and, `lasts_s` later, new ones have their names and new memory"
    )
    measured: ClassVar[str] = "they are killed and started again; the start itself takes some seconds more"
    ends_processes: ClassVar[bool] = True
    starts_processes: ClassVar[bool] = True
    of_processes: ClassVar[bool] = True

    time_s: float
    instance: Instance
    lasts_s: float

    def __str__(self) -> str:
        side, number = self.instance
        return f"restart of {side.value}{number} at {self.time_s:.3f} s after {self.lasts_s:.3f} s"


class Hang(IncidentKind, frozen=True, tag="hang"):
    """The rank stands still for ``lasts_s``: its inputs wait, and so do its group's iterations. Its writes go on."""

    kind: ClassVar[str] = "hang"
    called: ClassVar[str] = "hang"
    happens: ClassVar[str] = "a rank's inputs and its group's iterations wait for `lasts_s`"
    measured: ClassVar[str] = "its process is stopped and continued"
    of_processes: ClassVar[bool] = True
    most: ClassVar[Mapping[str, float]] = {"lasts_s": MOST_HANG_S}

    time_s: float
    rank: RankId
    lasts_s: float

    def __str__(self) -> str:
        return f"hang of {self.rank} at {self.time_s:.3f} s for {self.lasts_s:.3f} s"


class Slow(IncidentKind, frozen=True, tag="slow"):
    """The rank's writes and copies take ``factor`` times as long, as do its group's iterations and the work in them."""

    kind: ClassVar[str] = "slow"
    called: ClassVar[str] = "slow rank"
    happens: ClassVar[str] = (
        "a rank's writes and copies, and its group's iterations and passes, take `factor` times as long"
    )
    measured: ClassVar[str] = "it waits after each for that much longer"

    rank: RankId
    factor: float

    def __str__(self) -> str:
        return f"{self.rank} {self.factor:g} times slower"


class ClientAbort(IncidentKind, frozen=True, tag="client_abort"):
    """The client of ``room`` goes away, and its ranks are told.

    ``ranks``: those that a simulated run tells. A measured run tells those that the request is on.
    """

    kind: ClassVar[str] = "abort"
    called: ClassVar[str] = "client abort"
    happens: ClassVar[str] = "the client of a request goes away"
    measured: ClassVar[str] = "the router tells the ranks"

    time_s: float
    room: int
    ranks: tuple[RankId, ...] = ()

    def __str__(self) -> str:
        return f"abort of room {self.room} at {self.time_s:.3f} s"


class FalseAlarm(IncidentKind, frozen=True, tag="false_alarm"):
    """``observer`` is told that ``rank`` is down although it lives, and ``lasts_s`` later that it is back."""

    kind: ClassVar[str] = "false-alarm"
    called: ClassVar[str] = "false alarm"
    happens: ClassVar[str] = "a rank takes a living peer for dead for `lasts_s`"
    measured: ClassVar[str] = "refused: only failing heartbeats do that"
    not_measured: ClassVar[str] = (
        "a measured run cannot do: its ranks take nobody for dead but by their own heartbeats, which a hang that is "
        "long enough makes fail"
    )
    most: ClassVar[Mapping[str, float]] = {"lasts_s": MOST_ALARM_S}

    time_s: float
    observer: RankId
    rank: RankId
    lasts_s: float

    def misnamed(self) -> Iterator[Wrong]:
        """An observer on the side of the rank: it does not watch that."""
        if self.observer.side is self.rank.side:
            yield Wrong("observer", self.observer, "must be of the other side")

    def __str__(self) -> str:
        return f"{self.observer} takes {self.rank} for dead at {self.time_s:.3f} s for {self.lasts_s:.3f} s"


Incident = Death | Restart | Hang | Slow | ClientAbort | FalseAlarm
"""An incident of any kind, in the order in which they are listed."""

KINDS: dict[str, type[Incident]] = {one.kind: one for one in typing.get_args(Incident)}
"""All kinds, by what a configuration calls them."""


class Rate(NamedTuple):
    """What goes wrong by chance. ``of``: of which things the rate is a share; those of one thing add up to at most 1.

    ``not_measured``: why a measured run cannot do it, the end of a sentence about such a run; empty where it can.
    """

    of: str
    not_measured: str = ""


_SENT_AS_IT_IS = "whose control channel loses, doubles and delays nothing"

RATES: dict[str, Rate] = {
    "lost_messages": Rate("messages", _SENT_AS_IT_IS),
    "doubled_messages": Rate("messages", _SENT_AS_IT_IS),
    "late_messages": Rate("messages", _SENT_AS_IT_IS),
    "failed_writes": Rate("writes"),
    "late_writes": Rate("writes", "whose transport alone decides when bytes land"),
    "late_requests": Rate("requests", "whose requests travel as fast as they do"),
}
"""The rates of a configuration's ``random_faults``."""
