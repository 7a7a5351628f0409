"""Forward passes, as both drivers emulate them: what goes into one, and how long it lasts.

A pass is the work of an iteration of a scheduler loop. The cores say which requests an encoder pass takes
(``StartEncode``) and which are delivered to the language model (``Deliver``); the rules here make passes of them. They
hold no clock.
"""

from __future__ import annotations

from collections import deque
from typing import Final, final

from mypy_extensions import mypyc_attr

from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.messages import Deliver


@mypyc_attr(free_list_len=1)
@final
class Delivered:
    """A request that waits for its prefill. ``prefill_s``: its part of a pass."""

    __slots__ = ("incarnation", "prefill_s", "room", "tokens")

    def __init__(self, room: int, incarnation: int, tokens: int, prefill_s: float) -> None:
        self.room: Final = room
        self.incarnation: Final = incarnation
        self.tokens: Final = tokens
        self.prefill_s: Final = prefill_s


@final
class Passes:
    """The passes of one instance. ``slowness``: how many times longer they take on its slowest rank.

    ``waiting``: what is delivered and waits for its prefill, in order. While there is any, every iteration starts a
    pass.
    """

    __slots__ = (
        "_encode_base_s",
        "_intake",
        "_most_tokens",
        "_prefill_base_s",
        "slowness",
        "waiting",
    )

    def __init__(self, scenario: Scenario, slowness: float = 1.0) -> None:
        services = scenario.services
        self._encode_base_s = services.encode_base_s
        self._prefill_base_s = services.prefill_base_s
        self._intake = services.intake
        self._most_tokens = scenario.prefill_batch_tokens
        self.slowness = slowness
        self.waiting: deque[Delivered] = deque()

    def encoder_s(self, work_s: float) -> float:
        """How long the encoder pass over requests lasts whose parts (``StartEncode.encode_s``) add up to ``work_s``.

        The ranks of an instance run it together: where their parts differ, the longest counts.
        """
        return (self._encode_base_s + work_s) * self.slowness

    def add(self, delivery: Deliver) -> None:
        """Let a delivered request wait for its prefill."""
        tokens = delivery.total_tokens
        prefill_s = self._intake.prefill_s(tokens, delivery.prefill_factor)
        self.waiting.append(Delivered(delivery.room, delivery.incarnation, tokens, prefill_s))

    def prefill(self) -> tuple[list[Delivered], float]:
        """Take the requests of the next prefill pass out of ``waiting``; also how long it lasts, in seconds.

        It takes as many as fit the scenario's ``prefill_batch_tokens``, in order, and at least one.
        """
        waiting, most_tokens = self.waiting, self._most_tokens
        taken: list[Delivered] = []
        tokens = 0
        work_s = 0.0
        while waiting and (not taken or most_tokens is None or tokens + waiting[0].tokens <= most_tokens):
            one = waiting.popleft()
            tokens += one.tokens
            work_s += one.prefill_s
            taken.append(one)
        return taken, (self._prefill_base_s + work_s) * self.slowness
