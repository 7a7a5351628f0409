"""How the ranks of a tensor-parallel group take every decision together.

Ranks learn facts at different moments: a status reaches one before the other. If each acted on its own arrivals, their
pools and queues would drift apart (hazard T6). So an iteration of the scheduler loop has two steps, both element-wise
minima over the group, which is one all-reduce each on a real machine:

1. the *proposal*: how many submissions this rank has, how many blocks are free, and the first room it knows to have
   failed (any failure wins, hence the minimum over room numbers with ``NOBODY`` for "none");
2. the *progress*: for the rooms rank 0 sees progress in, how far this rank has come (a number that only rises, or
   FAILED). A room cannot progress without rank 0, so asking only for its candidates loses nothing and keeps an
   iteration's cost proportional to what changed, not to the rooms that wait. Failures that rank 0 knows of travel here
   too, all at once; the proposal's place for one is for those it does not know. An iteration decides about
   ``MOST_ROOMS`` rooms, in the order in which they moved on at rank 0, and the next iteration about more: what travels
   in an iteration is bounded. A lone rank asks nobody, so nothing of it is bounded.

The ranks then receive the same ``Iteration`` and make the same decisions in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from protocol.messages import Iteration

NOBODY = 2**62
FAILED = -1
"""A progress below every progress, so that one rank's failure is the group's."""


MOST_ROOMS = 64
"""Rooms that a group of several ranks decides about in one iteration."""


class Proposal(NamedTuple):
    """A rank's part in step 1. ``failed`` is a submission number, NOBODY when there is none."""

    submitted: int
    free_blocks: int
    failed: int


class Member(Protocol):
    """What a rank core offers to its group."""

    def proposal(self) -> Proposal:
        """This rank's facts."""

    def candidates(self) -> Sequence[int]:
        """Submission numbers of the rooms that moved on here since the group last agreed (asked of rank 0)."""

    def progress_of(self, candidates: Sequence[int]) -> list[int]:
        """How far each candidate has come on this rank."""

    def lone_iteration(self) -> Iteration:
        """What a group agrees on that has no other member: the same, without the detour over lists of one."""


def proposed(leader: Member) -> tuple[int, ...]:
    """The rooms that a group decides about in its next iteration; ``leader`` is its rank 0."""
    return tuple(leader.candidates()[:MOST_ROOMS])


def is_cut_short(leader: Member, iteration: Iteration) -> bool:
    """Whether the iteration that ``leader`` has just carried out left rooms for the next one, which asks of others."""
    if len(iteration.progress) != MOST_ROOMS:
        return False
    then = proposed(leader)
    return bool(then) and then != tuple([number for number, _ in iteration.progress])


def agree(proposals: Iterable[Sequence[int]]) -> Proposal:
    """Step 1: the element-wise minimum."""
    return Proposal(*map(min, zip(*proposals, strict=True)))


def hold_iteration(members: Sequence[Member]) -> Iteration:
    """Both steps within one process: the simulator's all-reduce."""
    if len(members) == 1:
        return members[0].lone_iteration()
    submitted, free_blocks, failed = agree([member.proposal() for member in members])
    candidates = proposed(members[0])
    progress = [min(column) for column in zip(*(member.progress_of(candidates) for member in members), strict=True)]
    return Iteration(submitted, free_blocks, failed, tuple(zip(candidates, progress, strict=True)))
