"""Requests that are over on their way to a table: each is packed into a few bytes, with numbers for its texts."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, final

ROW = "<iqdqiqqiddddiid"
"""The replication and what ``add`` takes, in this order, as ``struct`` has it; of texts their places."""


@final
class RequestRows:
    """Gathers requests, and calls ``full`` when there are ``most`` of them.

    ``rows`` are packed as ``ROW`` says; their status and failure are places in ``texts``.
    """

    def __init__(self, most: int, full: Callable[[], None]) -> None:
        self.rows: list[bytes] = []
        self._most = most
        self._full = full
        self._replication = 0
        self._places: dict[str, int] = {}
        self._pack: Callable[..., Any] = struct.Struct(ROW).pack

    def begin(self, replication: int) -> None:
        """All that comes now belongs to this replication."""
        self._replication = replication

    def clear(self) -> None:
        """Forget all that was gathered."""
        self.rows = []
        self._places = {}

    @property
    def texts(self) -> list[str]:
        """The different texts, in the order in which they came."""
        return list(self._places)

    def add(
        self,
        room: int,
        arrival_s: float,
        text_tokens: int,
        images: int,
        total_tokens: int,
        first_allocation: int,
        chunks: int,
        encoded_s: float,
        first_chunk_s: float,
        delivered_s: float,
        released_s: float,
        status: str,
        failure: str,
        prefilled_s: float,
    ) -> None:
        """Take one request, see ``progress.RequestRow`` for the fields: times are NaN where there is none, the first
        allocation is -1."""
        self.rows.append(
            self._pack(
                self._replication,
                room,
                arrival_s,
                text_tokens,
                images,
                total_tokens,
                first_allocation,
                chunks,
                encoded_s,
                first_chunk_s,
                delivered_s,
                released_s,
                self._place(status),
                self._place(failure),
                prefilled_s,
            )
        )
        if len(self.rows) == self._most:
            self._full()

    def _place(self, text: str) -> int:
        place = self._places.get(text, -1)
        if place < 0:
            place = self._places[text] = len(self._places)
        return place
