"""The host that the threads of a cluster's processes run on, as a strategy: how long their work takes them.

A cluster asks its host wherever a thread is to work. ``dedicated.DedicatedProcessors`` gives every thread a processor
of its own and charges nothing; on ``shared.SharedHost`` threads wait for themselves and for each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.topology import RankId
from bufferlab.sim.clock import Call
from bufferlab.sim.cluster.group import Group, Rank, Worker


class Host(ABC):
    """``begin(requests, messages, iterations)`` must be called before anything happens. It gives the host the objects
    that do the threads' work.

    ``control_s``: how long a control message is on its way, before the thread that receives it.
    """

    control_s: float

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
    def hand_out(self, request: Request, encode: Group, language: Group) -> None:
        """A request arrives at the router: tell ``Requests.reached`` when it gets to the processes of both groups."""

    @abstractmethod
    def receive(self, rank: Rank, message: object) -> None:
        """A message or a request has reached a process: give it to the core when its thread takes it."""

    @abstractmethod
    def take(self, rank: Rank, event: object) -> None:
        """A write or a pass of a process is over: give that to the core when its thread takes note."""

    @abstractmethod
    def report_conclusion(self) -> None:
        """A rank tells the router that a request is over there."""

    # --- iterations ---

    @abstractmethod
    def end_prefill_in(self, delay_s: float, over: Call) -> None:
        """A prefill pass is over in ``delay_s``: run ``over`` when the threads of its ranks have noticed."""

    @abstractmethod
    def plan_iteration(self, group: Group, not_before_s: float) -> None:
        """Hold the group's next iteration, at the first moment of its grid that is not before ``not_before_s``."""
