"""What every sizing policy sees and answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from protocol.messages import LanguageRequest


class RequestView(NamedTuple):
    """What the language side knows when it allocates for a request. The pool counts are the group's agreed ones."""

    request: LanguageRequest
    block_tokens: int
    free_blocks: int
    pool_blocks: int


class CompletedView(NamedTuple):
    """A delivered request: now its length is known."""

    request: LanguageRequest
    total_tokens: int
    chunks: int


class SizingPolicy(ABC):
    """Chooses a first allocation. Must be deterministic: all ranks of a group ask their own copy."""

    name: ClassVar[str]
    sees_true_length: ClassVar[bool] = False

    @abstractmethod
    def first_tokens(self, view: RequestView) -> int:
        """Tokens to preallocate for ``view.request``; rounded up to blocks and clipped to the pool by the caller."""

    def completed(self, view: CompletedView) -> None:  # noqa: B027 - a policy without memory needs none
        """Learn from a delivered request."""
