"""Compares every delivered embedding with what was sent, beside the scheduler loop and not timed as part of it."""

from __future__ import annotations

import queue
import threading

from bufferlab.protocol.layout import AUX_WORDS, BufferLayout
from bufferlab.real.engine.content import RoomContent, first_difference, room_content
from bufferlab.real.threads import FAILURES

MAX_BACKLOG = 64
"""Copied-out chunks that may wait for comparison. Beyond that the scheduler loop waits, so memory stays bounded."""

LOOK_S = 0.5
"""How often whoever waits for the thread looks whether it still lives."""

_Work = tuple[int, int, int, list[RoomContent]]


class Verifier:
    """One thread that compares copied-out chunks with the content both sides can compute from room and incarnation.

    ``aux_words``: how many words of the aux row the wire defines; what lies behind them is not compared.
    """

    def __init__(self, layout: BufferLayout, aux_words: int = AUX_WORDS) -> None:
        self._layout = layout
        self._aux_words = aux_words
        self.verified_rooms = 0
        self.verified_bytes = 0
        self.differences: list[str] = []
        self._work: queue.Queue[_Work | None] = queue.Queue(MAX_BACKLOG)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="verifier", daemon=True)
        self._thread.start()

    def check(self, room: int, incarnation: int, total_tokens: int, chunks: list[RoomContent]) -> None:
        """Compare all chunks of a delivered room, in order, with its content."""
        self._put((room, incarnation, total_tokens, chunks))

    def close(self, timeout_s: float) -> bool:
        """Finish the comparisons and end the thread; whether that is done within ``timeout_s``. Else call it again."""
        if not self._closing:
            self._closing = True
            self._put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _put(self, work: _Work | None) -> None:
        while True:
            try:
                self._work.put(work, timeout=LOOK_S)
            except queue.Full:
                FAILURES.check()  # nobody takes anything any more if the thread has ended
            else:
                return

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            self._compare(*work)

    def _compare(self, room: int, incarnation: int, total_tokens: int, chunks: list[RoomContent]) -> None:
        expected = room_content(room, incarnation, total_tokens, self._layout)
        covered = 0
        for chunk in chunks:
            if chunk.start_token != covered:
                self.differences.append(f"room {room}: chunk at token {chunk.start_token}, expected {covered}")
                return
            covered = chunk.end_token
            if covered > total_tokens:
                self.differences.append(f"room {room}: {covered} tokens copied, it has {total_tokens}")
                return
            difference = first_difference(expected.rows(chunk.start_token, covered), chunk, self._aux_words)
            if difference is not None:
                self.differences.append(f"room {room} incarnation {incarnation}: {difference}")
                return
        if covered != total_tokens:
            self.differences.append(f"room {room}: {covered} of {total_tokens} tokens were copied")
            return
        self.verified_rooms += 1
        self.verified_bytes += total_tokens * self._layout.bytes_per_token
