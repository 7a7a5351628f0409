"""The numbers of a link profile as the simulator computes with them: read once, in typed fields."""

from __future__ import annotations

from typing import Final, final


@final
class LinkTimes:
    """What a write and a gather copy cost; the numbers are those of ``sim.network.link.LinkProfile``, which has one.

    Bytes and segments may be means, which are no whole numbers.
    """

    def __init__(
        self,
        *,
        latency_s: float,
        per_segment_s: float,
        per_queue_s: float,
        queues: int,
        bandwidth_Bps: float,  # noqa: N803 - bytes, not bits
        message_rate_per_s: float,
        adapters: int,
        stripe_threshold_bytes: float,
        copy_latency_s: float,
        copy_bandwidth_Bps: float,  # noqa: N803
        counts_segments: bool,
    ) -> None:
        self.latency_s: Final = latency_s
        self.counts_segments: Final = counts_segments
        self._per_segment_s: Final = per_segment_s
        self._per_queue_s: Final = per_queue_s
        self._queues: Final = float(queues)
        self._all_bytes_per_s: Final = adapters * bandwidth_Bps
        self._message_rate_per_s: Final = message_rate_per_s
        self._share_of_one: Final = 1.0 / adapters
        self._stripe_threshold_bytes: Final = stripe_threshold_bytes
        self._copy_latency_s: Final = copy_latency_s
        self._copy_bandwidth_Bps: Final = copy_bandwidth_Bps

    def post_s(self, segments: float) -> float:
        """Time to post the segments of one write, seconds."""
        return self._per_segment_s * segments + self._per_queue_s * min(segments, self._queues)

    def adapter_s(self, bytes_: float, segments: float) -> float:
        """How long one write occupies all adapters together, seconds."""
        return max(bytes_ / self._all_bytes_per_s, segments / self._message_rate_per_s)

    def share(self, bytes_: float) -> float:
        """The largest part of all adapters together that a write of this size can use, above 0 and at most 1."""
        return 1.0 if bytes_ >= self._stripe_threshold_bytes else self._share_of_one

    def write_s(self, bytes_: float, segments: float) -> float:
        """Duration of one write between ranks in contact that has the adapters to itself, seconds."""
        return self.latency_s + self.post_s(segments) + self.adapter_s(bytes_, segments) / self.share(bytes_)

    def copy_s(self, bytes_: float) -> float:
        """Duration of a gather copy, seconds."""
        return self._copy_latency_s + bytes_ / self._copy_bandwidth_Bps
