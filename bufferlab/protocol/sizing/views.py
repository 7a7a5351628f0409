"""What every sizing policy sees.

The views are apart from the policies because they may be compiled: policies never are, so that their options keep their
type hints.
"""

from __future__ import annotations

from typing import Final, final

from mypy_extensions import mypyc_attr

from bufferlab.protocol.messages import LanguageRequest
from bufferlab.protocol.values import Value


@mypyc_attr(free_list_len=1)
@final
class RequestView(Value):
    """What the language side knows when it allocates for a request.

    ``block_tokens``: tokens of a block. ``free_blocks``: blocks that new rooms may take now, as the group agreed; below
    0 while resumes use the reserve. ``pool_blocks``: blocks of the whole pool.
    """

    __match_args__: Final = ("request", "block_tokens", "free_blocks", "pool_blocks")

    def __init__(self, request: LanguageRequest, block_tokens: int, free_blocks: int, pool_blocks: int) -> None:
        self.request: Final = request
        self.block_tokens: Final = block_tokens
        self.free_blocks: Final = free_blocks
        self.pool_blocks: Final = pool_blocks


@mypyc_attr(free_list_len=1)
@final
class CompletedView(Value):
    """A delivered request: now its length is known. ``chunks``: in how many parts it came, 1 when all of it fitted."""

    __match_args__: Final = ("request", "total_tokens", "chunks")

    def __init__(self, request: LanguageRequest, total_tokens: int, chunks: int) -> None:
        self.request: Final = request
        self.total_tokens: Final = total_tokens
        self.chunks: Final = chunks
