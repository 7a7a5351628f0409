"""The forward passes of a rank and what surrounds them: content into source blocks, chunks out of target blocks.

How long a pass lasts is emulated (``protocol.emulation.passes``); the copies are real and take their own time.
"""

from __future__ import annotations

import time

from bufferlab.protocol.emulation.passes import Passes
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.messages import CopyOut, Deliver, Encoded, Prefilled, StartEncode
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.counts import Counts
from bufferlab.real.engine.content import RoomContent, room_content
from bufferlab.real.engine.memory import Pool
from bufferlab.real.engine.verifier import Verifier
from bufferlab.real.run.agenda import Agenda


class PrefillOver:
    """A request's prefill ends; told to the rank itself, which writes it down."""

    __slots__ = ("room", "tokens")

    def __init__(self, room: int, tokens: int) -> None:
        self.room = room
        self.tokens = tokens


class Forward:
    """``agenda``: takes the ends of passes, by this host's clock. ``counts``: what it did is added to them.

    ``slowness``: how many times longer copies of this rank take. ``prefilling``: requests that were delivered and whose
    prefill is not over, where a rank must write that down.
    """

    def __init__(
        self,
        rank_id: RankId,
        scenario: Scenario,
        pool: Pool,
        passes: Passes,
        agenda: Agenda[object],
        counts: Counts,
        verifier: Verifier | None = None,
        slowness: float = 1.0,
    ) -> None:
        self._layout = scenario.layout
        self._pool = pool
        self._passes = passes
        self._agenda = agenda
        self._counts = counts
        self._verifier = verifier
        self._slowness = slowness
        self._release_after_prefill = scenario.release_after_prefill
        # A rank writes down when a prefill is over, and stays until the last one is.
        self._records_prefill = scenario.services.prefills and rank_id.side is Side.LANGUAGE
        self.prefilling = 0
        self._encodes: list[StartEncode] = []
        self._chunks: dict[tuple[int, int], list[RoomContent]] = {}

    @property
    def waiting(self) -> bool:
        """Whether a delivered request waits for its prefill."""
        return bool(self._passes.waiting)

    def encode(self, request: StartEncode) -> None:
        """Take a request into the next encoder pass."""
        self._encodes.append(request)

    def copy_out(self, copy: CopyOut) -> None:
        """Copy a chunk out of its blocks, now."""
        began_s, cpu_s = time.monotonic(), time.thread_time()
        chunk = self._pool.gather(copy.blocks, copy.tokens, start_token=copy.start_token)
        lasted_s = time.monotonic() - began_s
        self._counts.copies += 1
        self._counts.copy_bytes += copy.tokens * self._layout.bytes_per_token
        self._counts.copy_cpu_s += time.thread_time() - cpu_s
        if self._slowness > 1:
            time.sleep((self._slowness - 1) * lasted_s)
        self._chunks.setdefault((copy.room, copy.incarnation), []).append(chunk)

    def deliver(self, delivery: Deliver) -> None:
        """Have a request's chunks compared and let it wait for its prefill."""
        chunks = self._chunks.pop((delivery.room, delivery.incarnation))
        if self._verifier is not None:
            self._verifier.check(delivery.room, delivery.incarnation, delivery.total_tokens, chunks)
        self._passes.add(delivery)
        self.prefilling += self._records_prefill

    def forget(self, room: int, incarnation: int) -> None:
        """The room is over: let go of what was copied out of it."""
        self._chunks.pop((room, incarnation), None)

    def run(self) -> float:
        """Run the pass that begins now, if there is work for one; when it is over, by this host's clock."""
        return self._encoder_pass() if self._encodes else self._prefill_pass()

    def _encoder_pass(self) -> float:
        encodes, self._encodes = self._encodes, []
        pass_s = self._passes.encoder_s(sum(one.encode_s for one in encodes))
        end_s = time.monotonic() + pass_s
        cpu_s = time.thread_time()
        # The pass writes its output into the source blocks. To make that takes time as well, and is a part of it.
        for one in encodes:
            content = room_content(one.room, one.incarnation, one.total_tokens, self._layout)
            self._pool.fill(one.blocks, content)
            self._counts.fills += 1
            self._counts.fill_bytes += one.total_tokens * self._layout.bytes_per_token
        filled_s = time.monotonic()
        self._counts.fill_cpu_s += time.thread_time() - cpu_s
        for one in encodes:
            self._agenda.add(end_s, Encoded(one.room, one.incarnation))
        return max(end_s, filled_s)

    def _prefill_pass(self) -> float:
        if not self._passes.waiting:
            return time.monotonic()
        prefilled, pass_s = self._passes.prefill()
        end_s = time.monotonic() + pass_s
        if self._records_prefill:
            for one in prefilled:
                self._agenda.add(end_s, PrefillOver(one.room, one.tokens))
        if self._release_after_prefill:
            for one in prefilled:
                self._agenda.add(end_s, Prefilled(one.room, one.incarnation))
        return end_s
