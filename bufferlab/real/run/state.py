"""What all parts of the router know of one run: its time, the requests under way, who is away, and what happened."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable

import zmq

from bufferlab.protocol.lifecycle import Instance, Instances
from bufferlab.protocol.topology import RankId
from bufferlab.real.errors import EngineError
from bufferlab.real.run.agenda import Agenda
from bufferlab.real.run.commands import Report
from bufferlab.real.run.outcome import Incident
from bufferlab.real.run.ranks import Child, Ranks
from bufferlab.real.run.troubles import RequestKey, Troubles

BREAKS = (EngineError, OSError, zmq.ZMQError, subprocess.TimeoutExpired)
"""What can go wrong in the router's own work without being a mistake of its own: a full disk, a port that is taken."""


class RunState:
    """One run's.

    ``agenda``: what the router has to do later, by the time of the run. ``waiting``: the requests under way, each with
    the ranks that have not concluded it. ``starting``: the instances that are to come back, each with the time until
    which they are waited for. ``paused``: the ranks that are stopped as planned. ``closing``: whether the run is over
    and the ranks are asked for their ``reports``. ``zero_s``: when the run began, by the clock of this process, and
    ``news_s``: when a request or a process last made progress. ``upheavals``: counts what happened to processes, after
    which nothing that was seen of the ranks before is of use.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.instances = Instances()
        self.agenda: Agenda[Callable[[], None]] = Agenda()
        self.waiting: dict[RequestKey, set[RankId]] = {}
        self.starting: dict[Instance, float] = {}
        self.paused: set[RankId] = set()
        self.closing = False
        self.reports: dict[RankId, Report] = {}
        self.incidents: list[Incident] = []
        self.troubles = Troubles()
        self.zero_s = 0.0
        self.news_s = 0.0
        self.upheavals = 0

    # --- time ---

    def now_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.zero_s

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something when so much time has passed."""
        self.agenda.add(self.now_s() + delay_s, action)

    def do_due(self) -> None:
        """Do what is due now."""
        for action in self.agenda.due(self.now_s()):
            action()

    # --- what happens ---

    def progress(self) -> None:
        """A request came or was concluded somewhere."""
        self.news_s = time.monotonic()

    def upheaval(self) -> None:
        """Something happened to a process."""
        self.progress()
        self.upheavals += 1

    def waiting_for(self, ranks: Iterable[RankId]) -> list[RequestKey]:
        """The requests that one of these ranks has not concluded."""
        wanted = set(ranks)
        return [key for key, members in self.waiting.items() if not members.isdisjoint(wanted)]

    def note(self, what: str) -> None:
        """Write down something that happened to a process."""
        self.incidents.append(Incident(self.now_s(), what))

    def suffer(self, child: Child, what: str) -> None:
        """Something happened to a rank that nobody planned."""
        self.note(what)
        self.blame(child.rank_id, what)

    def blame(self, rank_id: RankId, what: str, *, follows: bool = False, passed: bool = False) -> None:
        """What happened to this rank may cost requests, which is told at the end (see ``Troubles.add``)."""
        struck = self.waiting_for([rank_id])
        self.troubles.add(self.now_s(), what, rank_id=rank_id, struck=struck, follows=follows, passed=passed)
