"""What a policy remembers of each client, for a bounded number of clients."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Memory = TypeVar("Memory")


class Clients(Generic[Memory]):
    """One memory per client, made by ``make``, for the ``most`` clients that completed a request last.

    Requests without a client (an empty name) are nobody's: they must not share a memory as if they were one client.
    """

    __slots__ = ("_make", "_memories", "_most")

    def __init__(self, make: Callable[[], Memory], most: int) -> None:
        self._make = make
        self._most = most
        self._memories: OrderedDict[str, Memory] = OrderedDict()

    def __len__(self) -> int:
        return len(self._memories)

    def find(self, client: str) -> Memory | None:
        """The memory of ``client``, None when there is none. Looking does not make it more recent."""
        return self._memories.get(client)

    def touch(self, client: str) -> Memory | None:
        """The memory of ``client``, made if need be, now the most recent; None for a request without a client."""
        if not client:
            return None
        memory = self._memories.get(client)
        if memory is None:
            memory = self._memories[client] = self._make()
            if len(self._memories) > self._most:
                self._memories.popitem(last=False)
        else:
            self._memories.move_to_end(client)
        return memory
