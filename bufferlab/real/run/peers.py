"""The ranks of the other side as one rank reaches them: which process stands for each, and the way to it."""

from __future__ import annotations

import zmq

from bufferlab.protocol.topology import RankId
from bufferlab.real.control.channel import Outbox
from bufferlab.real.control.guard import Guard
from bufferlab.real.control.route import Route


class Peers:
    """``routes``: the process that stands for a rank, or did last. ``down``: ranks whose process is gone, as far as
    anybody knows. ``guard``: of the run's token, where control messages are for those who hold it."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], guard: Guard | None) -> None:
        self._context = context
        self._guard = guard
        self._outboxes: dict[RankId, Outbox] = {}
        self.routes: dict[RankId, Route] = {}
        self.down: set[RankId] = set()

    def connect(self, route: Route) -> None:
        """From now on talk to this process where its rank is meant."""
        rank_id = route.rank_id
        if rank_id in self._outboxes:
            self._outboxes[rank_id].close(discard=True)
        self.routes[rank_id] = route
        self._outboxes[rank_id] = Outbox(self._context, route.host, route.control_port, self._guard)

    def vacate(self, rank_id: RankId) -> None:
        """Nobody stands for this rank any more, and whoever comes next may."""
        del self.routes[rank_id]
        self.down.discard(rank_id)

    def push(self, to: RankId, frames: list[bytes]) -> None:
        """Send a multipart to the process that stands for ``to``, if there ever was one."""
        outbox = self._outboxes.get(to)
        if outbox is None:
            return
        if to in self.down:
            # It may be alive all the same, and then must hear. If it is dead, its queue fills up one day.
            outbox.try_send(frames)
        else:
            outbox.send(frames)

    def close(self) -> None:
        """Close all ways, once what is on them has left."""
        for outbox in self._outboxes.values():
            outbox.close()
