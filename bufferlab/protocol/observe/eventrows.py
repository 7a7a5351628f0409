"""Records on their way to a table: each is packed into a few bytes when it comes, with numbers for what recurs."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple, final

from bufferlab.protocol.recording import Event, Listener
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId

ROW = "<dqqqii"
"""time_s, room, tokens, bytes, and the places of kind and detail, as ``struct`` has it."""


class Kind(NamedTuple):
    """What few different records have in common. ``replication``: of the run that it is a record of."""

    replication: int
    rank_id: RankId
    event: Event
    status: Status | None


@final
class EventRows(Listener):
    """A Recorder that gathers records, and calls ``full`` when there are ``most`` of them.

    ``rows`` are packed as ``ROW`` says; their kinds and details are places in ``kinds`` and ``details``.
    """

    def __init__(self, most: int, full: Callable[[], None]) -> None:
        self.wants_details = True
        self.rows: list[bytes] = []
        self.kinds: list[Kind] = []
        self._most = most
        self._full = full
        self._replication = 0
        self._places: dict[RankId, dict[Event, dict[Status | None, int]]] = {}
        self._texts: dict[str, int] = {}
        # Of the last record: most have the rank and the detail of the one before, as the very same objects.
        self._rank_id: RankId | None = None
        self._of_rank: dict[Event, dict[Status | None, int]] = {}
        self._detail: str | None = None
        self._text = 0
        self._pack: Callable[[float, int, int, int, int, int], bytes] = struct.Struct(ROW).pack

    def begin(self, replication: int) -> None:
        """All that comes now belongs to this replication."""
        self._replication = replication
        self._places = {}
        self._rank_id = None

    def clear(self) -> None:
        """Forget all that was gathered."""
        self.rows = []
        self.kinds = []
        self._places = {}
        self._texts = {}
        self._rank_id = None
        self._detail = None

    @property
    def details(self) -> list[str]:
        """The different details, in the order in which they came."""
        return list(self._texts)

    def tell(
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
        if detail is not self._detail:
            self._detail = detail
            self._text = self._texts.get(detail, -1)
            if self._text < 0:
                self._text = self._texts[detail] = len(self._texts)
        rows = self.rows
        rows.append(self._pack(time_s, room, tokens, bytes_, self._kind(rank_id, event, status), self._text))
        if len(rows) == self._most:
            self._full()

    def _kind(self, rank_id: RankId, event: Event, status: Status | None) -> int:
        """The place of what these three are together."""
        of_rank = self._of_rank
        if rank_id is not self._rank_id:
            found = self._places.get(rank_id)
            of_rank = self._places[rank_id] = {} if found is None else found
            self._rank_id, self._of_rank = rank_id, of_rank
        of_event = of_rank.get(event)
        if of_event is None:
            of_event = of_rank[event] = {}
        place = of_event.get(status, -1)
        if place < 0:
            place = of_event[status] = len(self.kinds)
            self.kinds.append(Kind(self._replication, rank_id, event, status))
        return place
