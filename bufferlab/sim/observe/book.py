"""The accounts of a run, kept from its records: who went into which station and came out again, what blocks were held,
and which bytes were written."""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from bufferlab.protocol.chunks import Chunk
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.recording import Event
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side

ROUNDING = 1e-9
"""Two sums of the same times in another order differ by a few parts in 1e16 for each summand."""


class Station(NamedTuple):
    """A part of a room's way on one rank: entered at an event, left at another one, or when the rank releases it.

    ``by_peer``: a room is in it once for every destination.
    """

    name: str
    side: Side
    enter: Event
    leave: Event
    by_peer: bool = False


STATIONS = (
    Station("encode rank", Side.ENCODE, Event.SUBMITTED, Event.RELEASED),
    Station("before the encoder", Side.ENCODE, Event.SUBMITTED, Event.ENCODE_STARTED),
    Station("encoder", Side.ENCODE, Event.ENCODE_STARTED, Event.ENCODED),
    Station("transfer", Side.ENCODE, Event.WRITE_STARTED, Event.WRITE_DONE, by_peer=True),
    Station("language rank", Side.LANGUAGE, Event.SUBMITTED, Event.RELEASED),
    Station("before the first offer", Side.LANGUAGE, Event.SUBMITTED, Event.OFFERED),
)
"""On every rank. A room goes through each at most once, except through "transfer": once per chunk and destination."""


class StationFlow(msgspec.Struct):
    """What went through a station, over all ranks of its side.

    ``number_s``: integral over time of the number inside, which counts heads and asks nobody's name. ``sojourn_s``: sum
    of the times that each spent inside by name, until the end of the run for those who are still there. Little's law on
    a finite run says that the two are equal (Little, Operations Research 9(3), 1961; Stidham, ibid. 22(2), 1974).
    """

    entered: int = 0
    left: int = 0
    inside: int = 0
    number_s: float = 0.0
    sojourn_s: float = 0.0
    now_s: float = 0.0

    def advance(self, time_s: float) -> None:
        """Integrate the number inside up to ``time_s``."""
        self.number_s += self.inside * (time_s - self.now_s)
        self.now_s = time_s


_Customer = tuple[RankId, int, str]
"""Rank, room, and the peer where that counts."""


class Book:
    """A Recorder that keeps the accounts of a run. One small entry for whatever is inside somewhere.

    ``expect`` must be called for a request before its first record.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._layout = scenario.layout
        self._destinations = scenario.language_tp
        self._arrivals_s: dict[int, float] = {}
        self.bytes_expected = 0
        self.stations = {station.name: StationFlow() for station in STATIONS}
        self._inside: dict[str, dict[_Customer, float]] = {station.name: {} for station in STATIONS}
        self._enters: dict[tuple[Side, Event], list[Station]] = {}
        self._leaves: dict[tuple[Side, Event], list[Station]] = {}
        self._by_side: dict[Side, list[Station]] = {side: [] for side in Side}
        for station in STATIONS:
            self._enters.setdefault((station.side, station.enter), []).append(station)
            self._leaves.setdefault((station.side, station.leave), []).append(station)
            self._by_side[station.side].append(station)
        self._holds: dict[tuple[RankId, int], tuple[int, float]] = {}
        self.held_block_s = dict.fromkeys(Side, 0.0)
        self.bytes_started = 0
        self.bytes_done = 0
        self._writing: dict[_Customer, int] = {}
        self._chunk_bytes: dict[tuple[RankId, int], int] = {}
        self.last_s = 0.0
        self.violations: list[str] = []

    def expect(self, request: Request) -> None:
        """Announce a request."""
        self._arrivals_s[request.room] = request.arrival_s
        self.bytes_expected += self._destinations * self._layout.chunk_bytes(Chunk(0, request.total_tokens, True))

    def __call__(
        self,
        time_s: float,
        rank_id: RankId,
        room: int,
        event: Event,
        status: Status | None,
        tokens: int,
        bytes_: int,
        detail: str,
    ) -> None:
        """Take one record; see ``recording.Record`` for the fields."""
        self.last_s = time_s
        side = rank_id.side
        peer = detail.split(" ", 1)[0]
        for station in self._leaves.get((side, event), ()):
            self._leave(station, time_s, (rank_id, room, peer if station.by_peer else ""))
        if event is Event.RELEASED:
            self._leave_all(time_s, rank_id, room)
        for station in self._enters.get((side, event), ()):
            self._enter(station, time_s, (rank_id, room, peer if station.by_peer else ""))
        if side is Side.ENCODE:
            self._write(rank_id, room, event, bytes_, peer)
        if event is Event.SUBMITTED:
            arrival_s = self._arrivals_s.get(room, math.inf)
            if time_s < arrival_s:
                self.violations.append(f"room {room} was on {rank_id} at {time_s!r}, before it came at {arrival_s!r}")
        elif event is Event.ENCODE_STARTED or event is Event.ALLOCATED:
            self._hold(time_s, rank_id, room, self._layout.blocks_for(tokens))
        elif event is Event.RELEASED:
            self._hold(time_s, rank_id, room, 0)

    # --- stations ---

    def _enter(self, station: Station, time_s: float, customer: _Customer) -> None:
        flow, inside = self.stations[station.name], self._inside[station.name]
        flow.advance(time_s)
        flow.entered += 1
        flow.inside += 1
        if customer in inside:
            self.violations.append(f"room {customer[1]} entered {station.name!r} on {customer[0]} twice")
        inside[customer] = time_s

    def _leave(self, station: Station, time_s: float, customer: _Customer) -> None:
        flow = self.stations[station.name]
        flow.advance(time_s)
        flow.left += 1
        flow.inside -= 1
        entered_s = self._inside[station.name].pop(customer, None)
        if entered_s is None:
            self.violations.append(
                f"room {customer[1]} left {station.name!r} on {customer[0]} without having entered it"
            )
        else:
            flow.sojourn_s += time_s - entered_s

    def _leave_all(self, time_s: float, rank_id: RankId, room: int) -> None:
        """A rank forgets a room: whatever it still was in is over, as after a failure."""
        for station in self._by_side[rank_id.side]:
            inside = self._inside[station.name]
            if station.by_peer:
                customers = [customer for customer in inside if customer[:2] == (rank_id, room)] if inside else []
            else:
                customers = [customer] if (customer := (rank_id, room, "")) in inside else []
            for customer in customers:
                self._leave(station, time_s, customer)

    # --- blocks and bytes ---

    def _hold(self, time_s: float, rank_id: RankId, room: int, blocks: int) -> None:
        held, since_s = self._holds.pop((rank_id, room), (0, time_s))
        self.held_block_s[rank_id.side] += held * (time_s - since_s)
        if blocks:
            self._holds[rank_id, room] = blocks, time_s

    def _write(self, rank_id: RankId, room: int, event: Event, bytes_: int, peer: str) -> None:
        if event is Event.CHUNK_STARTED:
            self._chunk_bytes[rank_id, room] = bytes_
        elif event is Event.WRITE_STARTED:
            self._writing[rank_id, room, peer] = started = self._chunk_bytes.get((rank_id, room), 0)
            self.bytes_started += started
        elif event is Event.WRITE_DONE:
            started = self._writing.pop((rank_id, room, peer), 0)
            if bytes_ and bytes_ != started:
                self.violations.append(f"room {room} on {rank_id} wrote {started} bytes to {peer}, {bytes_} landed")
            self.bytes_done += bytes_
        elif event is Event.RELEASED:
            self._chunk_bytes.pop((rank_id, room), None)

    # --- the end ---

    def finish(self, end_s: float) -> None:
        """The run is over at ``end_s``: complete the integrals, and look whether the accounts are even."""
        for (rank_id, _), (held, since_s) in self._holds.items():
            self.held_block_s[rank_id.side] += held * (end_s - since_s)
        self._holds.clear()
        for name, flow in self.stations.items():
            flow.advance(end_s)
            flow.sojourn_s += math.fsum(end_s - entered_s for entered_s in self._inside[name].values())
        self.violations += self.uneven()

    def uneven(self) -> list[str]:
        """Conservation of flow and Little's law, station by station: a sentence for each that does not hold."""
        found = []
        for name, flow in self.stations.items():
            if not flow.entered == flow.left + flow.inside == flow.left + len(self._inside[name]):
                found.append(f"{flow.entered} entered {name!r}, {flow.left} left it and {flow.inside} are inside")
            if not math.isclose(flow.number_s, flow.sojourn_s, rel_tol=ROUNDING, abs_tol=ROUNDING * flow.now_s):
                found.append(
                    f"Little's law fails for {name!r}: the number inside integrates to {flow.number_s!r} s, the times "
                    f"inside add up to {flow.sojourn_s!r} s"
                )
        return found
