"""What one chunk carries. All destination ranks of a request are cut at the same token."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from protocol.errors import ProtocolError


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """``tokens`` tokens of a request from ``start_token`` on; ``is_last`` when they end at its last token."""

    start_token: int
    tokens: int
    is_last: bool

    @property
    def end_token(self) -> int:
        """First token after the chunk."""
        return self.start_token + self.tokens


def plan_chunk(*, total_tokens: int, sent_tokens: int, capacities_tokens: Iterable[int], block_tokens: int) -> Chunk:
    """Cut the next chunk of a request for all its destinations at once.

    The smallest capacity that a destination offered decides, so that the chunk ends at the same, block-aligned token
    for all of them. ``is_last`` is derived from the cut.

    Raises ProtocolError when there is nothing to send, when ``sent_tokens`` is not a multiple of ``block_tokens``
    (rows would land shifted), when a capacity is not a positive multiple of it, or when nobody offered.
    """
    capacities = tuple(capacities_tokens)
    if not capacities:
        raise ProtocolError("no destination offered any memory")
    for capacity in capacities:
        if capacity <= 0 or capacity % block_tokens:
            raise ProtocolError(f"capacity of {capacity} tokens is not a positive multiple of {block_tokens}")
    if not 0 <= sent_tokens < total_tokens:
        raise ProtocolError(f"nothing to send: {sent_tokens} of {total_tokens} tokens are sent already")
    if sent_tokens % block_tokens:
        raise ProtocolError(f"sent_tokens {sent_tokens} is not a multiple of the block of {block_tokens} tokens")
    remaining = total_tokens - sent_tokens
    tokens = min(remaining, *capacities)
    return Chunk(start_token=sent_tokens, tokens=tokens, is_last=tokens == remaining)
