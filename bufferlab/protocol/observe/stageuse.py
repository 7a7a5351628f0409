"""How busy the servers of a stage were, from when each of them began and ended what it did.

A server that has work works (the encoder's passes, a thread's writes, the passes of the prefill), so it was busy from
the time a request reached it, or from the end of what it did before, to the time that request was done. Only ends are
counted, so a process that dies in the middle of something leaves no server busy for ever.

The busy time is kept for batches of time, as the use of a pool is (``pooluse``), of which there are a bounded number.
"""

from __future__ import annotations

import math
from operator import add
from typing import final

from bufferlab.protocol.observe.pooluse import FIRST_BATCH_S, MOST_BATCHES


@final
class StageUse:
    """``servers``: of all instances together. ``batches[j]``: their busy seconds from start_s + j · batch_s on.

    Everything counts from ``start_s`` on. Servers are told by their numbers.
    """

    def __init__(self, servers: int) -> None:
        self.servers = servers
        self.busy_s = 0.0
        self.start_s = math.inf
        self.batch_s = FIRST_BATCH_S
        self.batches: list[float] = []
        self._free_s: list[float] = []  # of each server, since when; since ever if it has done nothing yet

    def serve(self, server: int, came_s: float, done_s: float) -> None:
        """``server`` was done at ``done_s`` with something that had come at ``came_s``, or had to wait then."""
        free_s = self._free_s
        if server >= len(free_s):
            free_s.extend([-math.inf] * (server + 1 - len(free_s)))
        begin_s = max(max(came_s, free_s[server]), self.start_s)  # two by two: quicker than three
        free_s[server] = done_s
        if done_s > begin_s:
            self._add(begin_s, done_s)

    def serve_by_any(self, group: int, count: int, came_s: float, done_s: float) -> None:
        """The same for the ``count`` servers of a group with one queue, when it is not known which of them it was."""
        # The one that was free last before it came; else the one that was free first, for which it waited.
        first, known = group * count, len(self._free_s)
        chosen, chosen_s = -1, 0.0
        soonest, soonest_s = first, math.inf
        for server in range(first, first + count):
            free_s = max(self._free_s[server], 0.0) if server < known else 0.0
            # Of several that were free at that time the last, as of several for which it waited the first.
            if free_s <= came_s and (chosen < 0 or free_s >= chosen_s):
                chosen, chosen_s = server, free_s
            if free_s < soonest_s:
                soonest, soonest_s = server, free_s
        self.serve(chosen if chosen >= 0 else soonest, came_s, done_s)

    def finish(self, time_s: float) -> None:
        """Counting ends at ``time_s``; only whole batches are left."""
        lasted_s = time_s - self.start_s
        if not lasted_s > 0:
            self.batches.clear()
            return
        self._coarsen(lasted_s)
        count = math.floor(lasted_s / self.batch_s)
        del self.batches[count:]
        self.batches.extend([0.0] * (count - len(self.batches)))

    def share_until(self, time_s: float) -> float | None:
        """The share of the time from ``start_s`` to about ``time_s`` that the servers were busy; None for too short a
        time."""
        whole = min(math.floor((time_s - self.start_s) / self.batch_s), len(self.batches)) if self.batches else 0
        return sum(self.batches[:whole]) / (whole * self.batch_s * self.servers) if whole > 0 else None

    def _add(self, begin_s: float, end_s: float) -> None:
        self.busy_s += end_s - begin_s
        begin_s -= self.start_s
        end_s -= self.start_s
        if end_s >= MOST_BATCHES * self.batch_s:
            self._coarsen(end_s)
        batch_s, batches = self.batch_s, self.batches
        first, last = int(begin_s / batch_s), int(end_s / batch_s)
        while last >= len(batches):
            batches.append(0.0)
        # Written out: what is added in place goes through the interpreter.
        if first == last:
            batches[first] = batches[first] + (end_s - begin_s)
            return
        batches[first] = batches[first] + ((first + 1) * batch_s - begin_s)
        for number in range(first + 1, last):
            batches[number] = batches[number] + batch_s
        batches[last] = batches[last] + (end_s - last * batch_s)

    def _coarsen(self, lasted_s: float) -> None:
        """Merge batches in pairs until those of so long a time are few enough."""
        while lasted_s >= MOST_BATCHES * self.batch_s:
            batches = self.batches
            if len(batches) % 2:
                batches.append(0.0)
            # In one call of the interpreter's, which takes half as long as a loop, compiled or not.
            self.batches = list(map(add, batches[::2], batches[1::2]))
            self.batch_s *= 2
