"""What one chunk carries. All destination ranks of a request are cut at the same token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from mypy_extensions import mypyc_attr

from bufferlab.protocol.errors import ProtocolError
from bufferlab.protocol.values import Value


@mypyc_attr(free_list_len=1)
@final
class Chunk(Value):
    """``tokens`` tokens of a request from ``start_token`` on; ``is_last`` when they end at its last token."""

    __match_args__: Final = ("start_token", "tokens", "is_last")

    def __init__(self, start_token: int, tokens: int, is_last: bool) -> None:
        self.start_token: Final = start_token
        self.tokens: Final = tokens
        self.is_last: Final = is_last

    @property
    def end_token(self) -> int:
        """First token after the chunk."""
        return self.start_token + self.tokens


def plan_chunk(*, total_tokens: int, sent_tokens: int, capacities_tokens: Sequence[int], block_tokens: int) -> Chunk:
    """Cut the next chunk of a request for all its destinations at once.

    The smallest capacity that a destination offered decides, so that the chunk ends at the same, block-aligned token
    for all of them. ``is_last`` is derived from the cut.

    Raises ProtocolError when there is nothing to send, when ``sent_tokens`` is not a multiple of ``block_tokens``
    (rows would land shifted), when a capacity is not a positive multiple of it, or when nobody offered.
    """
    if not capacities_tokens:
        raise ProtocolError("no destination offered any memory")
    remaining = tokens = total_tokens - sent_tokens
    for capacity in capacities_tokens:
        if capacity <= 0 or capacity % block_tokens:
            raise ProtocolError(f"capacity of {capacity} tokens is not a positive multiple of {block_tokens}")
        tokens = min(tokens, capacity)
    if not 0 <= sent_tokens < total_tokens:
        raise ProtocolError(f"nothing to send: {sent_tokens} of {total_tokens} tokens are sent already")
    if sent_tokens % block_tokens:
        raise ProtocolError(f"sent_tokens {sent_tokens} is not a multiple of the block of {block_tokens} tokens")
    return Chunk(sent_tokens, tokens, tokens == remaining)
