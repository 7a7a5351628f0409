"""Max–min fair rates: examples by hand, what defines them, and an exact second way to find them."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bufferlab.sim.fairshare import Flow, Node, Part, component, fill, share_one


def rates(capacities: list[float], flows: list[tuple[tuple[int, ...], float]]) -> list[float]:
    """Fair rates of ``flows``, each the numbers of its nodes and its cap."""
    nodes = [Node(capacity) for capacity in capacities]
    made = [Flow(tuple(nodes[number] for number in numbers), cap) for numbers, cap in flows]
    for flow in made:
        for node in flow.nodes:
            node.flows[flow] = None
    fill(nodes, made)
    for node in nodes:
        assert node.used == pytest.approx(sum(flow.granted for flow in node.flows), abs=1e-12)
    return [flow.granted for flow in made]


def exact_rates(capacities: list[float], flows: list[tuple[tuple[int, ...], float]]) -> list[Fraction]:
    """The same by raising all rates together in steps, with fractions: the textbook's words, no shortcut."""
    found = [Fraction(0)] * len(flows)
    spare = [Fraction(capacity) for capacity in capacities]
    rising = set(range(len(flows)))
    while rising:
        users = [[number for number in rising if node in flows[number][0]] for node in range(len(capacities))]
        steps = [spare[node] / len(users[node]) for node in range(len(capacities)) if users[node]]
        steps += [Fraction(flows[number][1]) - found[number] for number in rising]
        step = min(steps)
        for number in rising:
            found[number] += step
        for node, of_node in enumerate(users):
            spare[node] -= step * len(of_node)
        held = {number for number in rising if found[number] == Fraction(flows[number][1])}
        held |= {number for node, of_node in enumerate(users) if spare[node] == 0 for number in of_node}
        assert held
        rising -= held
    return found


@pytest.mark.parametrize(
    ("capacities", "flows", "expected"),
    [
        # two senders (0, 1) into one receiver (2)
        ([1, 1, 1], [((0, 2), 1), ((1, 2), 1)], [0.5, 0.5]),
        # one sender (0) to two receivers (1, 2)
        ([1, 1, 1], [((0, 1), 1), ((0, 2), 1)], [0.5, 0.5]),
        # the parking lot: one long flow over both nodes, a short one on each
        ([1, 2], [((0, 1), 9), ((0,), 9), ((1,), 9)], [0.5, 0.5, 1.5]),
        # two into receiver 3, and the second sender also to receiver 4, which takes what is left over
        ([1, 1, 1, 1, 1], [((0, 3), 1), ((1, 3), 1), ((2, 3), 1), ((2, 4), 1)], [1 / 3, 1 / 3, 1 / 3, 2 / 3]),
        # a cap below the fair share leaves more to the other
        ([1, 1, 1], [((0, 2), 0.25), ((1, 2), 1)], [0.25, 0.75]),
        # a slow sender (capacity 0.5 of its own) does not hold the others back
        ([0.5, 1, 1], [((0, 2), 1), ((0, 2), 1), ((1, 2), 1)], [0.25, 0.25, 0.5]),
        ([float("inf")], [((0,), 0.5), ((0,), 1.0)], [0.5, 1.0]),
    ],
)
def test_examples_by_hand(
    capacities: list[float], flows: list[tuple[tuple[int, ...], float]], expected: list[float]
) -> None:
    assert rates(capacities, flows) == pytest.approx(expected, rel=1e-15)


@st.composite
def problems(draw: Any) -> tuple[list[float], list[tuple[tuple[int, ...], float]]]:
    capacities = draw(st.lists(st.sampled_from([1.0, 1.0, 0.5, 3.0, 0.7]), min_size=1, max_size=6))
    number = st.integers(0, len(capacities) - 1)
    paths = st.lists(number, min_size=1, max_size=3, unique=True).map(tuple)
    flows = draw(st.lists(st.tuples(paths, st.sampled_from([1.0, 0.25, 1 / 3, 10.0])), min_size=1, max_size=12))
    return capacities, flows


@given(problem=problems())
@settings(max_examples=300)
def test_the_filling_agrees_with_the_exact_one(problem: tuple[Any, Any]) -> None:
    expected = [float(rate) for rate in exact_rates(*problem)]
    assert rates(*problem) == pytest.approx(expected, rel=1e-12)


@given(problem=problems())
def test_every_flow_has_a_bottleneck_and_nothing_is_exceeded(problem: tuple[Any, Any]) -> None:
    # What defines max–min fairness: each flow has its cap, or crosses a full node where nobody has more than it.
    capacities, flows = problem
    found = rates(capacities, flows)
    used = [
        sum(rate for rate, (path, _) in zip(found, flows, strict=True) if node in path)
        for node in range(len(capacities))
    ]
    for node, capacity in enumerate(capacities):
        assert used[node] <= capacity * (1 + 1e-12)
    for rate, (path, cap) in zip(found, flows, strict=True):
        assert 0 < rate <= cap
        bottlenecks = [
            node
            for node in path
            if used[node] >= capacities[node] * (1 - 1e-12)
            and all(other <= rate * (1 + 1e-12) for other, (path, _) in zip(found, flows, strict=True) if node in path)
        ]
        assert rate == cap or bottlenecks


@given(problem=problems(), data=st.data())
def test_the_order_of_the_flows_does_not_matter(problem: tuple[Any, Any], data: st.DataObject) -> None:
    capacities, flows = problem
    order = data.draw(st.permutations(range(len(flows))))
    shuffled = rates(capacities, [flows[number] for number in order])
    found = rates(capacities, flows)
    assert shuffled == pytest.approx([found[number] for number in order], rel=1e-12)


def test_a_component_is_what_shared_nodes_connect() -> None:
    nodes = [Node(1.0) for _ in range(5)]
    flows = [Flow((nodes[a], nodes[b]), 1.0) for a, b in ((0, 1), (1, 2), (3, 4))]
    for flow in flows:
        for node in flow.nodes:
            node.flows[flow] = None
    for search, (start, members) in enumerate(((0, flows[:2]), (2, flows[:2]), (4, flows[2:])), start=1):
        found_nodes, found_flows = component([nodes[start], nodes[start]], search)
        assert set(found_flows) == set(members)
        assert len(found_flows) == len(members)
        assert set(found_nodes) == {node for flow in members for node in flow.nodes}


@given(
    capacity=st.floats(0.1, 8.0),
    caps=st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.8, 1.0, 1.2, 1 / 3]), min_size=1, max_size=12),
)
def test_the_share_one_node_are_those_of_a_filling_to_the_last_bit(capacity: float, caps: list[float]) -> None:
    parts = [Part(cap) for cap in caps]
    share_one(capacity, parts)
    assert [part.rate for part in parts] == rates([capacity], [((0,), cap) for cap in caps])
