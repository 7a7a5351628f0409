"""A running mean and a margin of running deviations, as TCP times its retransmissions."""

from __future__ import annotations

import math
from typing import ClassVar, Final

from bufferlab.protocol.sizing.base import SizingPolicy
from bufferlab.protocol.sizing.clients import Clients
from bufferlab.protocol.sizing.options import check_amount, check_count, check_share, check_tokens
from bufferlab.protocol.sizing.views import CompletedView, RequestView


class Estimate:
    """The running mean and the running mean deviation of ``count`` lengths, in tokens."""

    __slots__ = ("count", "deviation", "mean")

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.deviation = 0.0

    def learn(self, length: int, gain: float, deviation_gain: float) -> None:
        """One more length. The first stands for the mean, and half of it for the deviation."""
        if not self.count:
            self.mean, self.deviation = float(length), length / 2
        else:
            # The deviation first: it is that from the mean expected before this length was known.
            self.deviation += deviation_gain * (abs(self.mean - length) - self.deviation)
            self.mean += gain * (length - self.mean)
        self.count += 1


class EwmaMargin(SizingPolicy):
    """Exponentially weighted mean + ``margin`` × exponentially weighted mean deviation; ``tokens`` during warm-up.

    The estimator of RFC 6298 (computing TCP's retransmission timer), with its gains of 1/8 and 1/4 and its first step.
    Its margin of 4 is for an error that costs a connection its pace; a block too many costs as much as one too few
    here, so 2 is the default: the mean deviation of a normal distribution is 0.8 standard deviations, and about
    95 % of it lie below the mean + 2 of them. Memory and time per call are constant, which no window can say.

    ``per_client``: one estimate per client, for the ``clients`` with the most recent completions; everybody's while
    fewer than ``warmup`` lengths of the client are known, and for a request without a client.
    """

    name: ClassVar[str] = "ewma_margin"

    def __init__(
        self,
        tokens: int = 8192,
        margin: float = 2.0,
        gain: float = 0.125,
        deviation_gain: float = 0.25,
        warmup: int = 4,
        per_client: bool = False,
        clients: int = 1024,
    ) -> None:
        check_tokens(tokens)
        check_amount("margin", margin)
        check_share("gain", gain)
        check_share("deviation_gain", deviation_gain)
        check_count("warmup", warmup)
        check_count("clients", clients)
        self.tokens: Final = tokens
        self.margin: Final = margin
        self.gain: Final = gain
        self.deviation_gain: Final = deviation_gain
        self.warmup: Final = warmup
        self._everybody = Estimate()
        self._clients = Clients(Estimate, clients) if per_client else None

    def first_tokens(self, view: RequestView) -> int:
        """The client's estimate with its margin, else everybody's, else the default."""
        own = self._clients.find(view.request.client) if self._clients is not None else None
        for estimate in (own, self._everybody):
            if estimate is not None and estimate.count >= self.warmup:
                return max(1, math.ceil(estimate.mean + self.margin * estimate.deviation))
        return self.tokens

    def completed(self, view: CompletedView) -> None:
        """Learn the length for the client and for everybody."""
        self._everybody.learn(view.total_tokens, self.gain, self.deviation_gain)
        own = self._clients.touch(view.request.client) if self._clients is not None else None
        if own is not None:
            own.learn(view.total_tokens, self.gain, self.deviation_gain)
