"""Writes on adapters that they share: flows with max–min fair rates, set anew whenever one of them starts or ends.

The adapters of a sender, and those of a receiver, are one *node* each, with both directions apart. A write occupies a
node on either side. Its *work* is how long it would occupy all adapters of a node (``LinkProfile.adapter_s``).
So a capacity is 1, a rate is the part of all adapters that a flow has, and a write of many small segments and one of
many bytes share by the same rule. A flow never gets more than ``LinkProfile.share`` of its size. The switches between
the adapters hold nobody back, and a bundle of adapters is a pool: which of them an unstriped write is on is not
modelled.

What it costs: a flow that gets its cap without anybody losing anything, and one whose end helps nobody, is O(1). Any
other start or end looks at the flows that are connected with it through shared nodes, and only those whose rate changes
are touched. A flow has one call in the clock's queue. If its end moves later, the call stays and is made again when it
comes; if its end moves earlier, a new call takes its place.

A node's key is the rank, or (side, instance) where the ranks of an instance share their adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import inf
from operator import attrgetter
from typing import Any, cast, final

import msgspec

from bufferlab.protocol.topology import RankId
from bufferlab.sim.clock import Call, Clock, FunctionCall
from bufferlab.sim.fairshare import Flow, Node, component, fill
from bufferlab.sim.network.link import LinkProfile

# A node this close to its capacity is full. Rounding leaves sums of rates off by a few parts in 1e16; taking a node for
# full that is not only costs a second look at its flows.
_FULL = 1 - 1e-9


class NodeStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One node from time 0 to now. Flows that are under way count in the times, not in the sums.

    ``busy_s``: while at least one flow was under way. ``work_s``: what its ended flows would have taken one after
    another with all adapters. ``mean_flows``: mean number under way at a time.
    """

    key: Hashable
    direction: str
    flows: int
    bytes: int
    work_s: float
    busy_s: float
    mean_flows: float


class FlowState(msgspec.Struct, frozen=True, kw_only=True):
    """A flow under way: ``share`` of all adapters of a node that it has now, ``left_s`` of its work that is to come."""

    sender: Hashable
    receiver: Hashable
    share: float
    left_s: float


@final
class _Adapters(Node):
    """All adapters of one sender or receiver in one direction."""

    __slots__ = ("busy_s", "bytes", "ended", "flow_s", "looked_s", "work_s")

    def __init__(self, capacity: float) -> None:
        super().__init__(capacity)
        self.ended = 0
        self.bytes = 0
        self.work_s = 0.0
        self.busy_s = 0.0
        self.flow_s = 0.0  # integral of the number of flows over time
        self.looked_s = 0.0

    def look(self, now: float) -> None:
        """Account for the time since the last look, before the number of flows changes."""
        number = len(self.flows)
        if number:
            elapsed_s = now - self.looked_s
            self.busy_s += elapsed_s
            self.flow_s += number * elapsed_s
        self.looked_s = now


@final
class _Transfer(Flow):
    """A write on its nodes. ``left_s`` is what is left of its work at ``since_s``; ``then`` runs when it ends."""

    __slots__ = ("bytes", "call", "call_s", "end_s", "ends", "left_s", "order", "since_s", "then", "work_s")

    nodes: tuple[_Adapters, ...]

    def __init__(
        self,
        nodes: tuple[_Adapters, ...],
        cap: float,
        ends: tuple[Hashable, Hashable],
        work_s: float,
        bytes_: int,
        order: int,
        then: Call,
    ) -> None:
        super().__init__(nodes, cap)
        self.ends = ends
        self.work_s = work_s
        self.left_s = work_s
        self.bytes = bytes_
        self.order = order
        self.then = then
        self.since_s = 0.0
        self.end_s = inf
        self.call: Call | None = None
        self.call_s = inf


_order = attrgetter("order")


@final
class _End(Call):
    """The end of a flow, if it has not moved meanwhile."""

    def __init__(self, network: Network, flow: _Transfer) -> None:
        self._network = network
        self._flow = flow

    def run(self) -> None:
        self._network.end(self._flow)


@final
class Network:
    """The adapters of all ranks, and the flows between them, on one clock.

    ``searches``: how often rates were shared out anew among flows that are connected.
    """

    def __init__(self, clock: Clock, profile: LinkProfile) -> None:
        self.profile = profile
        self._link = profile.times
        self._clock = clock
        self._capacity = inf if profile.shared_by == "nobody" else 1.0
        self._nodes: dict[tuple[str, Hashable], _Adapters] = {}
        self._senders: dict[Hashable, tuple[_Adapters, ...]] = {}
        self._receivers: dict[Hashable, tuple[_Adapters, ...]] = {}
        self._slowness: dict[Hashable, float] = {}
        self._started = 0
        self.searches = 0

    # --- questions ---

    def statistics(self) -> list[NodeStatistics]:
        """What every node has carried, in the order in which they came into use."""
        found = []
        now = self._clock.now
        for (direction, key), node in self._nodes.items():
            node.look(now)
            found.append(
                NodeStatistics(
                    key=key,
                    direction=direction,
                    flows=node.ended,
                    bytes=node.bytes,
                    work_s=node.work_s,
                    busy_s=node.busy_s,
                    mean_flows=node.flow_s / now if now else 0.0,
                )
            )
        return found

    def under_way(self) -> list[FlowState]:
        """The flows that have not ended, in the order of their starts."""
        now = self._clock.now
        flows = {flow: None for nodes in self._senders.values() for node in nodes for flow in node.flows}
        return [
            FlowState(
                sender=flow.ends[0],
                receiver=flow.ends[1],
                share=flow.rate,
                left_s=max(0.0, flow.left_s - flow.rate * (now - flow.since_s)),
            )
            for flow in sorted(cast(dict[_Transfer, None], flows), key=_order)
        ]

    # --- flows ---

    def slow(self, sender: Hashable, factor: float) -> None:
        """Let whatever ``sender`` sends from now on take ``factor`` times as long, and its adapters carry as much less.

        Others that share the adapters have what it leaves. Raises ValueError for a factor that is not at least 1 and
        finite.
        """
        if not 1 <= factor < inf:
            raise ValueError(f"{sender} is slowed by {factor}, it must be at least 1 and finite")
        node = self._node("send", self._key(sender))
        # The node of its own is what keeps several flows of a slow rank together within its part.
        self._senders[sender] = (node,) if factor == 1.0 else (node, _Adapters(self._capacity / factor))
        self._slowness[sender] = factor

    def start(
        self, sender: Hashable, receiver: Hashable, bytes_: int, segments: int, done: Callable[..., object], *args: Any
    ) -> None:
        """The same as ``move`` with a function and its arguments."""
        self.move(sender, receiver, bytes_, segments, FunctionCall(done, args))

    def move(self, sender: Hashable, receiver: Hashable, bytes_: int, segments: int, then: Call) -> None:
        """Move ``bytes_`` in ``segments`` between two ranks, and run ``then`` when the last of them arrives.

        ``sender`` and ``receiver`` are ranks, or keys of nodes. Flows that end at the same moment and share a node end
        in the order in which they started. Raises ValueError for negative bytes or segments.
        """
        if bytes_ < 0 or segments < 0:
            raise ValueError(
                f"a write from {sender} has {bytes_} bytes in {segments} segments, neither may be negative"
            )
        now = self._clock._now
        sending = self._senders.get(sender) or self._join("send", sender, self._senders)
        receiving = self._receivers.get(receiver) or self._join("receive", receiver, self._receivers)
        work_s = self._link.adapter_s(bytes_, segments)
        cap = self._link.share(bytes_)
        if self._slowness:
            cap /= self._slowness.get(sender, 1.0)
        flow = _Transfer(sending + receiving, cap, (sender, receiver), work_s, bytes_, self._started, then)
        self._started += 1
        if not work_s:
            # It takes no time, so it takes nothing from anybody either.
            self._count(flow)
            self._clock.put_at(now, then)
            return
        fits = True
        for node in flow.nodes:
            if node.used + cap > node.capacity:
                fits = False
            node.look(now)
            node.flows[flow] = None
        flow.since_s = now
        if fits:
            # Nobody needs what it takes: it has its cap, and the others keep what held them back before.
            for node in flow.nodes:
                node.used += cap
            flow.granted = cap
            self._set_rate(flow, now)
        else:
            self._share(flow.nodes, now)

    def end(self, flow: _Transfer) -> None:
        """Its call has come: end it, with all that end with it, unless its end has moved later."""
        now = self._clock._now
        if now < flow.end_s:
            self._plan_end(flow)
            return
        flow.call = None
        ending = {flow: None}
        for node in flow.nodes:
            if len(node.flows) > 1:
                for other in cast(dict[_Transfer, None], node.flows):
                    if other.end_s <= now:
                        ending[other] = None
        ended = sorted(ending, key=_order)
        gain: list[_Adapters] = []  # nodes in which others can have what an ended flow leaves
        for one in ended:
            for node in one.nodes:
                full = node.used >= node.capacity * _FULL
                node.look(now)
                del node.flows[one]
                if not node.flows:
                    node.used = 0.0
                elif full:
                    gain.append(node)
                    # Still full for the next of those that end here, and set anew when the others share it.
                else:
                    node.used -= one.rate
            self._count(one)
            if one.call is not None:
                self._clock.withdraw(one.call)
                one.call = None
        if len(ended) > 1:
            gain = [node for node in gain if node.flows]
        if gain:
            self._share(gain, now)
        for one in ended:
            one.then.run()

    def _share(self, start: tuple[_Adapters, ...] | list[_Adapters], now: float) -> None:
        """Set the rates of all flows that are connected with the nodes of ``start``."""
        self.searches += 1
        nodes, flows = component(start, self.searches)
        fill(nodes, flows)
        for flow in cast(list[_Transfer], flows):
            if flow.granted != flow.rate:
                self._set_rate(flow, now)

    def _set_rate(self, flow: _Transfer, now: float) -> None:
        """Let a flow go on at the rate that it was granted, and see to it that its call comes by its end."""
        # Rounding may make what is left negative for a flow that is just about to end.
        flow.left_s = max(0.0, flow.left_s - flow.rate * (now - flow.since_s))
        flow.since_s = now
        flow.rate = flow.granted
        flow.end_s = now + flow.left_s / flow.rate
        if flow.end_s < flow.call_s:
            if flow.call is not None:
                self._clock.withdraw(flow.call)
            self._plan_end(flow)

    def _plan_end(self, flow: _Transfer) -> None:
        flow.call = call = _End(self, flow)
        flow.call_s = flow.end_s
        self._clock.put_at(flow.end_s, call)

    # --- nodes ---

    def _key(self, end: Hashable) -> Hashable:
        if self.profile.shared_by == "instance" and isinstance(end, RankId):
            return (end.side, end.instance)
        return end

    def _node(self, direction: str, key: Hashable) -> _Adapters:
        node = self._nodes.get((direction, key))
        if node is None:
            node = self._nodes[direction, key] = _Adapters(self._capacity)
        return node

    def _join(
        self, direction: str, end: Hashable, known: dict[Hashable, tuple[_Adapters, ...]]
    ) -> tuple[_Adapters, ...]:
        known[end] = nodes = (self._node(direction, self._key(end)),)
        return nodes

    def _count(self, flow: _Transfer) -> None:
        for node in flow.nodes:
            node.ended += 1
            node.bytes += flow.bytes
            node.work_s += flow.work_s
