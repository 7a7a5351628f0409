"""The host that the threads of a cluster's processes run on, as a strategy: how long their work takes them.

A cluster asks its host wherever a thread is to work. ``dedicated.DedicatedProcessors`` gives every thread a processor
of its own and charges nothing; on ``shared.SharedHost`` threads wait for themselves and for each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from protocol.emulation.scenario import Request
from protocol.topology import RankId
from sim.cluster.group import Group, Rank, Worker

Reached = Callable[[Request, Group, Group], None]
Take = Callable[[Rank, object], None]


class Host(ABC):
    """``begin(messages, iterations)`` must be called before anything happens. It gives the host the objects that do the
    threads' work, and settles how a process takes what reaches it.

    ``control_s``: how long a control message is on its way, before the thread that receives it.
    ``receive(rank, message)``: a message has reached a process; give it to the core when its thread takes it.
    ``take(rank, event)``: a write or a pass of a process is over; give that to the core when its thread takes note.
    """

    control_s: float
    receive: Take
    take: Take

    # --- processes ---

    @abstractmethod
    def make_worker(self, rank_id: RankId, number: int, slowness: float) -> Worker:
        """The transfer worker of an encode rank with this number, for a process that is about to start."""

    @abstractmethod
    def add_process(self, rank: Rank) -> None:
        """A process has started."""

    @abstractmethod
    def end_processes(self, group: Group) -> None:
        """The processes of a group are about to end; what their ranks have decided is carried out first."""

    # --- what reaches a process ---

    @abstractmethod
    def hand_out(self, request: Request, encode: Group, language: Group, reached: Reached) -> None:
        """A request arrives at the router now: call ``reached`` when it gets to the processes of both groups."""

    @abstractmethod
    def report_conclusion(self) -> None:
        """A rank tells the router that a request is over there."""

    # --- iterations ---

    @abstractmethod
    def plan_iteration(self, group: Group, not_before_s: float) -> None:
        """Hold the group's next iteration, at the first moment of its grid that is not before ``not_before_s``."""
