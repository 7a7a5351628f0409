"""How the ranks of a tensor-parallel group take every decision together.

Ranks learn facts at different moments: a status reaches one rank before the other. If each acted on its own arrivals,
their pools and queues would drift apart (hazard T6). So an iteration of the scheduler loop begins with two group
reductions. Each is an element-wise minimum over the group, and on a real machine it is one all-reduce:

1. the *proposal*: how many submissions a rank has, how many of its blocks are free, and the first room that it knows to
   have failed. Any failure wins, hence the minimum over room numbers, with ``NOBODY`` for "none".
2. the *progress* of candidates: the candidates are the rooms that moved on at rank 0, and every rank says how far each
   of them has come on it (a number that only rises, or FAILED).

No room can move on in the group before it does at rank 0. So to ask only for the candidates of rank 0 loses nothing,
and the cost of an iteration grows with what changed and not with the rooms that wait. Rooms that rank 0 knows to have
failed are candidates too, all at once; the proposal has room for one failure, for those that rank 0 does not know of.

A group decides about at most ``MOST_ROOMS`` candidates in an iteration, in the order in which they moved on at rank 0;
the next iteration decides about the others. So what travels in an iteration is bounded. A rank without a group asks
nobody, and has no such bound.

The ranks then receive the same ``Iteration`` and make the same decisions in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from bufferlab.protocol.messages import Iteration

NOBODY: Final = 2**62
FAILED: Final = -1
"""Stands for the progress of a room that failed. It is below every other, so one rank's failure is the group's."""


MOST_ROOMS: Final = 64
"""Rooms that a group of several ranks decides about in one iteration."""


Proposal = tuple[int, int, int]
"""What one rank brings to the first reduction: how many submissions it has, how many of its blocks are free, and the
number of the first submission that it knows to have failed, NOBODY when there is none."""


class Member(Protocol):
    """What a rank core offers to its group."""

    def proposal(self) -> Proposal:
        """This rank's facts."""

    def candidates(self) -> Sequence[int]:
        """Submission numbers of the rooms that moved on here since the group last agreed (asked of rank 0)."""

    def progress_of(self, candidates: Sequence[int]) -> list[int]:
        """How far each candidate has come on this rank."""

    def lone_iteration(self) -> Iteration:
        """What a group of this rank alone agrees on, without the two reductions."""


def proposed(leader: Member) -> tuple[int, ...]:
    """The rooms that a group decides about in its next iteration; ``leader`` is its rank 0."""
    return tuple(leader.candidates()[:MOST_ROOMS])


def is_cut_short(leader: Member, iteration: Iteration) -> bool:
    """Whether the iteration that ``leader`` has just carried out left candidates for the next one."""
    if len(iteration.progress) != MOST_ROOMS:
        return False
    then = proposed(leader)
    return bool(then) and then != tuple([number for number, _ in iteration.progress])


def agree(proposals: Sequence[Proposal]) -> Proposal:
    """The first reduction: the element-wise minimum of the group's proposals, of which there is at least one."""
    submitted, free_blocks, failed = proposals[0]
    for one in proposals:
        submitted, free_blocks, failed = min(submitted, one[0]), min(free_blocks, one[1]), min(failed, one[2])
    return submitted, free_blocks, failed


def hold_iteration(members: Sequence[Member]) -> Iteration:
    """Both reductions within one process, for the simulator."""
    if len(members) == 1:
        return members[0].lone_iteration()
    submitted, free_blocks, failed = agree([member.proposal() for member in members])
    candidates = proposed(members[0])
    if not candidates:
        return Iteration(submitted, free_blocks, failed)
    progress = members[0].progress_of(candidates)
    for member in members[1:]:
        for place, own in enumerate(member.progress_of(candidates)):
            if own < progress[place]:
                progress[place] = own
    return Iteration(submitted, free_blocks, failed, tuple(zip(candidates, progress, strict=True)))
