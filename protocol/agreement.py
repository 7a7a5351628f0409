"""How the ranks of a tensor-parallel group take every decision together.

Ranks learn facts at different moments: a status reaches one before the other. If each acted on its own arrivals, their
pools and queues would drift apart (hazard T6). So a turn of the scheduler loop has two steps, both element-wise minima
over the group, which is one all-reduce each on a real machine:

1. the *ballot*: how many submissions this rank has, how many blocks are free, and the first room it knows to have
   failed (any failure wins, hence the minimum over room numbers with ``NOBODY`` for "none");
2. the *votes*: for the rooms rank 0 sees progress in, how far this rank has come (a number that only rises, or FAILED).
   A room cannot progress without rank 0, so asking only for its candidates loses nothing and keeps a turn's cost
   proportional to what changed, not to the rooms that wait. Failures that rank 0 knows of travel here too, all at once;
   the ballot's place for one is for those it does not know. A turn decides about ``MOST_ROOMS`` rooms, in the order in
   which they moved on at rank 0, and the next turn about more: what travels in a turn is bounded. A lone rank asks
   nobody, so nothing of it is bounded.

The ranks then receive the same ``Turn`` and make the same decisions in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from protocol.messages import Turn

NOBODY = 2**62
FAILED = -1
"""A vote below every progress, so that one rank's failure is the group's."""


MOST_ROOMS = 64
"""Rooms that a group of several ranks decides about in one turn."""


class Ballot(NamedTuple):
    """A rank's part in step 1. ``failed`` is a submission number, NOBODY when there is none."""

    submitted: int
    free_blocks: int
    failed: int


class Member(Protocol):
    """What a rank core offers to its group."""

    def ballot(self) -> Ballot:
        """This rank's facts."""

    def candidates(self) -> Sequence[int]:
        """Submission numbers of the rooms that moved on here since the group last agreed (asked of rank 0)."""

    def votes(self, candidates: Sequence[int]) -> list[int]:
        """How far each candidate has come on this rank."""

    def lone_turn(self) -> Turn:
        """What a group agrees on that has no other member: the same, without the detour over lists of one."""


def proposed(leader: Member) -> tuple[int, ...]:
    """The rooms that a group votes on in its next turn; ``leader`` is its rank 0."""
    return tuple(leader.candidates()[:MOST_ROOMS])


def is_cut_short(leader: Member, turn: Turn) -> bool:
    """Whether the turn that ``leader`` has just carried out left rooms for the next one, which asks about others."""
    if len(turn.progress) != MOST_ROOMS:
        return False
    then = proposed(leader)
    return bool(then) and then != tuple([number for number, _ in turn.progress])


def agree(ballots: Iterable[Sequence[int]]) -> Ballot:
    """Step 1: the element-wise minimum."""
    return Ballot(*map(min, zip(*ballots, strict=True)))


def hold_turn(members: Sequence[Member]) -> Turn:
    """Both steps within one process: the simulator's all-reduce."""
    if len(members) == 1:
        return members[0].lone_turn()
    submitted, free_blocks, failed = agree([member.ballot() for member in members])
    candidates = proposed(members[0])
    votes = [min(column) for column in zip(*(member.votes(candidates) for member in members), strict=True)]
    return Turn(submitted, free_blocks, failed, tuple(zip(candidates, votes, strict=True)))
