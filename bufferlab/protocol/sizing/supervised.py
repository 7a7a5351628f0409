"""A policy from outside this package, watched: its answers are checked, and compared between the ranks of a group.

The policies of this package are held to their contract by tests; one that a user brings along is held to it while it
runs. That ranks answer alike cannot be seen by one rank, nor by the encode side, whose ranks each see the offers of
their own destinations only. So every rank keeps its answers of an iteration and the driver compares them before the
group's next one, which is early enough: up to the first answer that differs all ranks were asked the same questions,
whatever they do afterwards. The simulator has all of a group's ranks at hand, the real backend exchanges a checksum in
one all-reduce and, only if it differs, the answers. Both report ``disagreement``. A lone rank has nobody to compare
with, so it has a second copy of the policy, which is told and asked the same.
"""

from __future__ import annotations

import traceback
import zlib
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

from bufferlab.protocol.sizing.base import SizingPolicy
from bufferlab.protocol.sizing.views import CompletedView, RequestView
from bufferlab.protocol.topology import RankId


class SizingError(ValueError):
    """A policy from outside broke its contract, or could not be used at all. The message is one sentence."""


class Answer(NamedTuple):
    """What a policy answered for a room."""

    room: int
    tokens: int


class Supervised(SizingPolicy):
    """``policy``, which a configuration calls ``title``, with its answers checked.

    They are kept as well while ``compared`` is set, which a driver does that takes them after every iteration. With
    ``second``, another copy of it, both must answer alike at once.

    Raises SizingError, which names the policy, for an answer that is no whole number or less than 1 and for whatever
    the policy raises itself, SystemExit too: that it ends the process is for nobody to take for the end of the run.
    """

    def __init__(self, policy: SizingPolicy, title: str, second: SizingPolicy | None = None) -> None:
        self.policy = policy
        self.second = second
        self.title = title
        self.compared = False
        self._answers: list[Answer] = []

    def first_tokens(self, view: RequestView) -> int:
        """The policy's answer."""
        room = view.request.room
        tokens = self._answer_of(self.policy, view)
        if self.second is not None and (again := self._answer_of(self.second, view)) != tokens:
            raise SizingError(
                f"the sizing policy {self.title} answered {tokens} for room {room}, and {again} when a second copy was "
                f"asked the same; it must be deterministic: no clock, no randomness, nothing that copies share"
            )
        if self.compared:
            self._answers.append(Answer(room, tokens))
        return tokens

    def _answer_of(self, policy: SizingPolicy, view: RequestView) -> int:
        room = view.request.room
        try:
            given: Any = policy.first_tokens(view)
        except (Exception, SystemExit) as error:
            raise SizingError(f"the sizing policy {self.title} raised {described(error)} for room {room}") from error
        tokens = _whole(given)
        if tokens is None or tokens < 1:
            raise SizingError(
                f"the sizing policy {self.title} answered {given!r} for room {room}, it must answer with a whole "
                f"number of tokens of at least 1"
            )
        return tokens

    def completed(self, view: CompletedView) -> None:
        """Let the policy learn."""
        try:
            self.policy.completed(view)
            if self.second is not None:
                self.second.completed(view)
        except (Exception, SystemExit) as error:
            raise SizingError(
                f"the sizing policy {self.title} raised {described(error)} when room {view.request.room} was completed"
            ) from error

    def take_answers(self) -> list[Answer]:
        """The answers since this was last asked, in order."""
        answers, self._answers = self._answers, []
        return answers


def _whole(answer: Any) -> int | None:
    """The answer as an int, numpy's whole numbers too; None for anything else."""
    if isinstance(answer, bool):
        return None
    try:
        return index(answer)
    except TypeError:
        return None


def described(error: BaseException) -> str:
    """What was raised, and where in the code that raised it."""
    message = f" ({error})" if str(error) else ""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{message}{where}"


def checksum(answers: Sequence[Answer]) -> int:
    """32 bits that differ, but for one chance in 2³², when the answers do; alike in every process."""
    return zlib.crc32(repr([tuple(answer) for answer in answers]).encode())


def disagreement(title: str, answers: Mapping[RankId, Sequence[Answer]]) -> str:
    """One sentence about the first answer in which the ranks of a group differ; empty when they do not."""
    for given in zip_longest(*answers.values()):
        if len(set(given)) > 1:
            rooms = sorted({answer.room for answer in given if answer is not None})
            told = ", ".join(
                f"{answer.tokens if answer is not None else 'nothing'} on {rank_id}"
                for rank_id, answer in zip(answers, given, strict=True)
            )
            return (
                f"the sizing policy {title} answered differently on the ranks of one group for room "
                f"{' and '.join(map(str, rooms))}, {told}; it must be deterministic, and every rank has its own copy"
            )
    return ""


def must_answer_alike(policies: Mapping[RankId, Supervised]) -> None:
    """Compare what the ranks of a group answered since this was last called. Raises SizingError if they differ."""
    answers = {rank_id: policy.take_answers() for rank_id, policy in policies.items()}
    found = disagreement(next(iter(policies.values())).title, answers) if any(answers.values()) else ""
    if found:
        raise SizingError(found)
