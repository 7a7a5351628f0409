"""What one chunk carries: the cut that all destination ranks share."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from protocol.errors import ProtocolError


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """``tokens`` tokens from ``start_token`` on; ``is_last`` when it ends at the request's last token."""

    start_token: int
    tokens: int
    is_last: bool

    @property
    def end_token(self) -> int:
        """First token after the chunk."""
        return self.start_token + self.tokens


def plan_chunk(*, total_tokens: int, sent_tokens: int, capacities_tokens: Iterable[int], block_tokens: int) -> Chunk:
    """Cut the next chunk of a request for all its destinations at once.

    The smallest offered capacity decides for everybody, so that every destination is cut at the same, block-aligned
    token and nobody's last rank decides for the others. ``is_last`` is derived from the cut.

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
