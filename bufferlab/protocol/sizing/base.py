"""What every sizing policy answers; what it sees is in ``views``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from bufferlab.protocol.sizing.views import CompletedView, RequestView


class SizingPolicy(ABC):
    """Chooses a first allocation.

    A policy must be deterministic: every rank of a group has a copy of its own, asks it in the same order and about the
    same views, and acts on the answer. So it uses no clock, no randomness, nothing that differs between two processes
    (the order of a set, ``hash`` of a text), and no variable of a class or a module that several copies would share.
    Options are the constructor's parameters; their type hints are what a configuration is checked against. A
    constructor raises ValueError for a value out of range, with a sentence that begins with the option's name.
    """

    name: ClassVar[str]
    """The policy's name in a configuration; a policy that is named by its place in the user's own code needs none."""
    sees_true_length: ClassVar[bool] = False
    """Whether the policy is given a request's true length. No real language side knows it; only the bound sees it."""

    @abstractmethod
    def first_tokens(self, view: RequestView) -> int:
        """Tokens to preallocate for ``view.request``, at least 1; the caller rounds up to blocks and clips to the pool.

        It is called again, with a new view, at every iteration in which the request still waits for blocks.
        """

    def completed(self, view: CompletedView) -> None:  # noqa: B027 - a policy without memory needs none
        """Learn from a delivered request."""
