"""The clocks of several hosts: how far each is from the router's, how sure that is, and times turned into its time.

The router asks a host for its clock and gets an answer a round trip later. The host read its clock somewhere within
that trip; taking the middle is wrong by at most half of the trip, whatever the two ways took (Cristian 1989). Of
several trips the quickest says most. Two measurements, before and after a run, also tell how the clocks drifted apart
between them; what lies between is drawn as a straight line.

All times are seconds of monotonic clocks. Nothing here reads one.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class RoundTrip(msgspec.Struct, frozen=True):
    """One question: sent and answered at these times of the router's clock, ``taken_s`` is the other clock's time."""

    sent_s: float
    taken_s: float
    received_s: float


class Offset(msgspec.Struct, frozen=True):
    """The other clock shows ``offset_s`` more than the router's, plus or minus ``uncertainty_s``, when the router's
    showed ``at_s``."""

    at_s: float
    offset_s: float
    uncertainty_s: float


def best_offset(trips: Iterable[RoundTrip]) -> Offset:
    """What the quickest of the round trips says. Raises ValueError for none, or one that ends before it begins."""
    best = min(trips, key=lambda trip: trip.received_s - trip.sent_s)
    if best.received_s < best.sent_s:
        raise ValueError(f"{best} ends before it begins")
    middle_s = (best.sent_s + best.received_s) / 2
    return Offset(middle_s, best.taken_s - middle_s, (best.received_s - best.sent_s) / 2)


class Clock(msgspec.Struct, frozen=True):
    """A host's clock against the router's, from a measurement before a run and, if there is one, another after it."""

    before: Offset
    after: Offset | None = None

    @property
    def drift(self) -> float:
        """Seconds that the other clock gains in a second of the router's; 0 with one measurement."""
        if self.after is None or self.after.at_s <= self.before.at_s:
            return 0.0
        return (self.after.offset_s - self.before.offset_s) / (self.after.at_s - self.before.at_s)

    @property
    def uncertainty_s(self) -> float:
        """How far a time between the measurements may be off, if the drift was steady."""
        return max(self.before.uncertainty_s, self.after.uncertainty_s if self.after is not None else 0.0)

    def host_s(self, router_s: float) -> float:
        """What the host's clock shows when the router's shows ``router_s``."""
        return router_s + self.before.offset_s + self.drift * (router_s - self.before.at_s)

    def router_s(self, host_s: float) -> float:
        """What the router's clock shows when the host's shows ``host_s``."""
        since_s = host_s - self.before.offset_s - self.before.at_s
        return self.before.at_s + since_s / (1.0 + self.drift)


SAME = Clock(Offset(0.0, 0.0, 0.0))
"""The clock of the router's own host."""
