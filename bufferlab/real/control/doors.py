"""The connections to an HTTP server, as many as it keeps: strangers make room for those who prove who they are."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

from bufferlab.real.control.guard import Refusals

PROOF_S = 10.0
"""How long a connection may stay open on which nobody has proved himself."""

MOST_UNPROVEN = 64
"""Such connections that are open at a time; beyond that the oldest is closed."""


class Door(asyncio.Protocol):
    """One connection: hands everything on to ``inner``, and closes it if nobody proves himself in time.

    ``unproven``: all those of the server, by their inner protocol; who has proved himself is taken out of it.
    """

    def __init__(self, inner: Any, unproven: OrderedDict[Any, Door], strangers: Refusals) -> None:
        self._inner = inner
        self._unproven = unproven
        self._strangers = strangers
        self._transport: asyncio.BaseTransport | None = None
        self._has_spoken = False
        self.counted = False
        """Whether it has been counted as a stranger's already."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody is there."""
        self._transport = transport
        self._unproven[self._inner] = self
        self._inner.connection_made(transport)
        if len(self._unproven) > MOST_UNPROVEN:
            next(iter(self._unproven.values())).shut()
        asyncio.get_running_loop().call_later(PROOF_S, self._shut_if_unproven)

    def _shut_if_unproven(self) -> None:
        if self._inner in self._unproven:
            self.shut()

    def shut(self) -> None:
        """Close the connection now."""
        self._note()
        if isinstance(self._transport, asyncio.Transport):
            self._transport.abort()

    def _note(self) -> None:
        """It ends or is ended; whoever said something all that time and proved nothing is a stranger."""
        if (
            self._unproven.pop(self._inner, None) is not None
            and self._has_spoken
            and not self.counted
            and self._transport
        ):
            peer = self._transport.get_extra_info("peername")
            self._strangers.add(peer[0] if peer else None)

    def connection_lost(self, error: Exception | None) -> None:
        """It has ended."""
        self._note()
        self._inner.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        """Something was said."""
        self._has_spoken = True
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """The other end has nothing more to say."""
        answer: bool | None = self._inner.eof_received()
        return answer

    def pause_writing(self) -> None:
        """The other end does not keep up."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._inner.resume_writing()
