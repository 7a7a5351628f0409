"""Registered block memory of one rank.

A `Pool` holds one byte tensor per buffer kind of a `BufferLayout`; blocks are addressed by number,
the same number in every kind. Rows of a request lie in its blocks in order: token t in block
t // block_tokens. The last block may be partial; its mrope positions are then stored as 3 × t for
the t tokens it holds, not as 3 × block_tokens, which is what the wire format prescribes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from bufferlab.protocol.layout import (
    AUX,
    AUX_TOTAL_TOKENS,
    AUX_WORDS,
    DEEPSTACK,
    EMBEDDINGS,
    FILL_IDS,
    MROPE,
    BufferLayout,
    Segment,
)
from bufferlab.real.engine.content import RoomContent, empty_content

AHEAD = 3
MOST_TOUCHED_BYTES = 1 << 30


def touch_pages(layout: BufferLayout, tokens: int, device: str = "cpu") -> None:
    """Have the C library's pages at hand that `Pool.gather` will need for requests of up to ``tokens`` tokens.

    To use a page for the first time costs several times what the copy into it does. A rank copies one request out while
    the one before is compared and a third one is let go. Nothing of it is kept here: ranks run with an allocator that
    gives no page back (`bufferlab.real.hosts.places`).
    """
    tokens = min(tokens, max(1, MOST_TOUCHED_BYTES // (AHEAD * layout.bytes_per_token)))
    contents = [empty_content(tokens, layout, device=device) for _ in range(AHEAD)]
    for content in contents:
        for tensor in (content.embeddings, content.fill_ids, content.mrope, content.deepstack):
            if tensor is not None:
                tensor.zero_()


class Pool:
    """``blocks`` blocks of every kind of ``layout``, zeroed, on ``device`` ("cpu", "cuda:0", …); host memory can be
    ``pinned`` where torch sees a GPU.

    ``memory[kind]``: uint8 tensor of blocks × bytes_per_block. ``registered`` is set by
    `bufferlab.real.engine.base.TransferEngine.register`. A pool does not know which blocks are free: the protocol's
    allocator does. No method locks: two threads may work on disjoint blocks at once.
    """

    def __init__(self, layout: BufferLayout, blocks: int, device: str = "cpu", *, pinned: bool = False) -> None:
        if blocks < 1:
            raise ValueError(f"blocks is {blocks}, it must be at least 1")
        self.layout = layout
        self.blocks = blocks
        self.device = device
        # zeros touches every page now; page faults during a transfer would be measured as transfer.
        self.memory: tuple[Tensor, ...] = tuple(
            torch.zeros(blocks * kind.bytes_per_block, dtype=torch.uint8, device=device, pin_memory=pinned)
            for kind in layout.kinds
        )
        self.registered = False
        size, hidden, layers = layout.block_tokens, layout.hidden, layout.deepstack_layers
        bf16, int32 = torch.bfloat16, torch.int32
        shapes: list[tuple[torch.dtype, tuple[int, ...]]] = [
            (bf16, (blocks, size, hidden)),
            (int32, (blocks, size)),
            (int32, (blocks, 3 * size)),
            (int32, (blocks, AUX_WORDS)),
            (bf16, (blocks, size, layers, hidden)),
        ]
        self._typed = tuple(
            memory.view(dtype).view(shape) for memory, (dtype, shape) in zip(self.memory, shapes, strict=False)
        )

    @property
    def bases(self) -> tuple[int, ...]:
        """Address of the first byte of every kind."""
        return tuple(memory.data_ptr() for memory in self.memory)

    @property
    def sizes_bytes(self) -> tuple[int, ...]:
        """Bytes of every kind."""
        return tuple(memory.numel() for memory in self.memory)

    def view(self, kind: int, first_block: int = 0, blocks: int | None = None) -> Tensor:
        """Typed view of consecutive blocks (default: all from ``first_block`` on) of one kind.

        Shapes with n blocks of B tokens: embeddings n × B × hidden (bfloat16), fill_ids n × B,
        mrope n × 3B (flattened 3 × tokens of each block), aux n × 16 (all int32), deepstack
        n × B × layers × hidden (bfloat16).
        """
        count = self.blocks - first_block if blocks is None else blocks
        if first_block < 0 or count < 0 or first_block + count > self.blocks:
            raise ValueError(f"blocks [{first_block}, {first_block + count}) are not in a pool of {self.blocks}")
        return self._typed[kind][first_block : first_block + count]

    def total_tokens(self, block: int) -> int:
        """The request's length that the aux words of its first block announce."""
        return int(self.view(AUX, block, 1)[0, AUX_TOTAL_TOKENS])

    def forget_total(self, block: int) -> None:
        """Clear that length, so that one that is never written cannot be taken for the block's last owner's."""
        self.view(AUX, block, 1)[0, AUX_TOTAL_TOKENS] = 0

    def fill(
        self,
        blocks: Sequence[int],
        room_content: RoomContent,
        start_token: int | None = None,
        tokens: int | None = None,
    ) -> None:
        """Copy the content's tokens [start_token, start_token + tokens) to the start of ``blocks``.

        Default: all of them. Aux goes to the first block when ``start_token`` is 0.
        Raises ValueError if the blocks cannot hold the rows or the content does not have them.
        """
        first = room_content.start_token if start_token is None else start_token
        last = room_content.end_token if tokens is None else first + tokens
        self._copy(blocks, room_content.rows(first, last), to_blocks=True)

    def gather(
        self,
        blocks: Sequence[int],
        tokens: int,
        *,
        start_token: int = 0,
        into: RoomContent | None = None,
    ) -> RoomContent:
        """Copy the first ``tokens`` rows of ``blocks`` out; they are the request's tokens
        [start_token, start_token + tokens).

        With ``into``, an `empty_content` of the whole request, they are written to their place in
        it and the returned content is a view: chunks need no concatenation, and no fresh pages
        (which cost several times the copy itself).
        Raises ValueError if the blocks cannot hold the rows or ``into`` has no place for them.
        """
        if into is None:
            into = empty_content(tokens, self.layout, start_token=start_token, device=self.device)
        content = into.rows(start_token, start_token + tokens)
        self._copy(blocks, content, to_blocks=False)
        return content

    def _copy(self, blocks: Sequence[int], content: RoomContent, *, to_blocks: bool) -> None:
        size = self.layout.block_tokens
        tokens = content.tokens
        if tokens > len(blocks) * size:
            raise ValueError(f"{tokens} tokens do not fit {len(blocks)} blocks of {size} tokens")
        if (content.deepstack is None) != (self.layout.deepstack_layers == 0):
            raise ValueError("pool and content disagree about deepstack")
        used = list(blocks[: self.layout.blocks_for(tokens)])
        for block in used:
            if not 0 <= block < self.blocks:
                raise ValueError(f"block {block} is not in a pool of {self.blocks}")

        def move(in_pool: Tensor, in_content: Tensor) -> None:
            if to_blocks:
                _copy_bits(in_pool, in_content)
            else:
                _copy_bits(in_content, in_pool)

        if content.aux is not None and used:
            move(self._typed[AUX][used[0]], content.aux)
        by_row = [(EMBEDDINGS, content.embeddings), (FILL_IDS, content.fill_ids)]
        if content.deepstack is not None:
            by_row.append((DEEPSTACK, content.deepstack))
        for first, count, row in _runs(used, size):
            rows = min(count * size, tokens - row)
            for kind, tensor in by_row:
                in_pool = self._typed[kind][first : first + count].flatten(0, 1)
                move(in_pool[:rows], tensor[row : row + rows])
            mrope = self._typed[MROPE][first : first + count]
            full, rest = divmod(rows, size)
            if full:
                in_content = content.mrope[:, row : row + full * size].unflatten(1, (full, size))
                move(mrope[:full].unflatten(1, (3, size)), in_content.transpose(0, 1))
            if rest:
                in_pool = mrope[full, : 3 * rest].unflatten(0, (3, rest))
                move(in_pool, content.mrope[:, row + full * size : row + rows])
        if self.device != "cpu":
            # The engine and the peers know nothing of streams: the copies must be over when this returns.
            torch.cuda.synchronize(self.device)


def _runs(blocks: Sequence[int], block_tokens: int) -> Iterator[tuple[int, int, int]]:
    """Neighbouring blocks joined: (first block, blocks, first row), so that one copy moves many."""
    start = 0
    for index in range(1, len(blocks) + 1):
        if index == len(blocks) or blocks[index] != blocks[index - 1] + 1:
            yield blocks[start], index - start, start * block_tokens
            start = index


def addresses(
    segments: Sequence[Segment], source_bases: Sequence[int], target_bases: Sequence[int]
) -> list[tuple[int, int, int]]:
    """(source address, target address, bytes) of every segment, as `TransferEngine.write` takes them."""
    return [
        (
            source_bases[segment.kind] + segment.source_offset,
            target_bases[segment.kind] + segment.target_offset,
            segment.length,
        )
        for segment in segments
    ]


def _copy_bits(target: Tensor, source: Tensor) -> None:
    """``target[...] = source`` for equal types.

    On the CPU not by torch, whose copies spread over a pool of threads: where the engine's threads
    keep the cores busy, each copy of a block then waits some 10 ms for its last thread.
    """
    if target.device.type == "cpu" and source.device.type == "cpu":
        if target.dtype == torch.bfloat16:  # unknown to numpy
            target, source = target.view(torch.int16), source.view(torch.int16)
        np.copyto(target.numpy(), source.numpy())
    else:
        target.copy_(source)
