"""Max–min fair sharing of several capacities by flows that each use one or more of them and have a cap of their own.

An allocation is max–min fair when no flow can get more without taking from one that has no more than it. It is unique,
and progressive filling finds it: all rates rise together until a node is full or a flow has its cap; the flows that
this holds back keep what they have, the others go on rising. D. Bertsekas and R. Gallager, Data Networks, 2nd edition,
section 6.5.2; caps are nodes with one flow there.

This module has no clock: ``sim.network.adapters`` and ``sim.host.processors`` say when rates are looked at again, and
extend its classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from operator import attrgetter
from typing import Final


class Node:
    """Something with a capacity that flows share."""

    __slots__ = ("capacity", "flows", "rising", "seen", "used")

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.used = 0.0  # sum of the rates of its flows
        self.flows: dict[Flow, None] = {}  # in the order in which they started
        self.rising = 0  # during a filling: how many of them are not held back yet
        self.seen = 0  # the last search that came by


class Flow:
    """Something that uses capacity of its nodes, all of them at the same rate, and never more than ``cap``."""

    __slots__ = ("cap", "granted", "nodes", "rate", "seen")

    def __init__(self, nodes: tuple[Node, ...], cap: float) -> None:
        self.nodes = nodes
        self.cap = cap
        self.rate = 0.0
        self.granted = 0.0  # what a filling gives it; whoever asks for it makes it the rate
        self.seen = 0


_RISING: Final = -1.0  # instead of a granted rate
_cap = attrgetter("cap")


def component(start: Iterable[Node], search: int) -> tuple[list[Node], list[Flow]]:
    """All nodes and flows that ``start`` is connected with through shared nodes; ``search`` differs for each call."""
    nodes: list[Node] = []
    flows: list[Flow] = []
    for node in start:
        if node.seen != search:
            node.seen = search
            nodes.append(node)
    for node in nodes:  # grows while it is walked
        for flow in node.flows:
            if flow.seen != search:
                flow.seen = search
                flows.append(flow)
                for other in flow.nodes:
                    if other.seen != search:
                        other.seen = search
                        nodes.append(other)
    return nodes, flows


def fill(nodes: Sequence[Node], flows: Sequence[Flow]) -> None:
    """Set ``granted`` of every flow to its max–min fair rate, and ``used`` of every node to the sum of these.

    ``nodes`` and ``flows`` are whole components: every flow of a node and every node of a flow is among them.
    """
    for node in nodes:
        node.used = 0.0
        node.rising = len(node.flows)
    for flow in flows:
        flow.granted = _RISING
    by_cap = sorted(flows, key=_cap, reverse=True)  # the lowest last, where popping is cheap
    while by_cap:
        if by_cap[-1].granted != _RISING:
            by_cap.pop()
            continue
        # The level that the rates can rise to before a node is full. It never falls from one round to the next.
        level, tightest = inf, None
        for node in nodes:
            if node.rising:
                node_level = (node.capacity - node.used) / node.rising
                if node_level < level:
                    level, tightest = node_level, node
        if tightest is None or by_cap[-1].cap <= level:
            while by_cap and by_cap[-1].cap <= level:
                flow = by_cap.pop()
                if flow.granted == _RISING:
                    _grant(flow, flow.cap)
        else:
            for flow in tightest.flows:
                if flow.granted == _RISING:
                    _grant(flow, level)


class Part:
    """What uses a single capacity, and never more than its ``cap`` of it."""

    __slots__ = ("cap", "rate")

    def __init__(self, cap: float) -> None:
        self.cap = cap
        self.rate = 0.0


def share_one(capacity: float, parts: Sequence[Part]) -> None:
    """Set the rates of all that share a single capacity: what ``fill`` grants them, to the last bit, and quicker."""
    rising = len(parts)
    used = 0.0
    for part in parts:
        part.rate = _RISING
    while rising:
        level = (capacity - used) / rising
        held_back = False
        while rising:
            # Those with the lowest cap have it, if it does not lie above the level that all the others can rise to.
            lowest = inf
            for part in parts:
                if part.rate == _RISING and part.cap < lowest:
                    lowest = part.cap
            if lowest > level:
                break
            held_back = True
            for part in parts:
                if part.rate == _RISING and part.cap == lowest:
                    part.rate = lowest
                    used += lowest
                    rising -= 1
        if not held_back:
            for part in parts:
                if part.rate == _RISING:
                    part.rate = level
            return


def _grant(flow: Flow, rate: float) -> None:
    flow.granted = rate
    for node in flow.nodes:
        node.used += rate
        node.rising -= 1
