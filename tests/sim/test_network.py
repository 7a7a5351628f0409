"""Flows on shared adapters: examples by hand, conservation, and an exact fluid model that does it all again."""

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.clock import Clock
from bufferlab.sim.network.adapters import Network
from bufferlab.sim.network.link import LinkProfile

# 1 MB/s, so that bytes are microseconds.
PLAIN = LinkProfile(
    name="plain",
    bandwidth_Bps=1e6,
    latency_s=0.0,
    per_segment_s=0.0,
    control_latency_s=0.0,
    copy_bandwidth_Bps=math.inf,
    shared_by="rank",
)


def changed(**fields: Any) -> LinkProfile:
    return msgspec.structs.replace(PLAIN, **fields)


class Write(NamedTuple):
    start_s: float
    sender: Any
    receiver: Any
    bytes_: int
    segments: int = 1


class Run:
    """A network with writes under way, and when each of them ended."""

    def __init__(self, profile: LinkProfile, writes: Sequence[Write], slow: Iterable[tuple[Any, float]] = ()) -> None:
        self.clock = Clock()
        self.network = Network(self.clock, profile)
        self.ends: dict[int, float] = {}
        for sender, factor in slow:
            self.network.slow(sender, factor)
        for number, write in enumerate(writes):
            self.clock.call_at(write.start_s, self._start, number, write)

    def _start(self, number: int, write: Write) -> None:
        self.network.start(write.sender, write.receiver, write.bytes_, write.segments, self._ended, number)

    def _ended(self, number: int) -> None:
        assert number not in self.ends
        self.ends[number] = self.clock.now

    def finish(self) -> list[float]:
        self.clock.run_while_busy()
        return [self.ends[number] for number in range(len(self.ends))]


def ends(profile: LinkProfile, *writes: Write, slow: Iterable[tuple[Any, float]] = ()) -> list[float]:
    return Run(profile, writes, slow).finish()


# --- by hand ---


def test_a_write_alone_takes_what_the_profile_says() -> None:
    profile = changed(adapters=4, stripe_threshold_bytes=1_000_000, message_rate_per_s=400.0)
    for bytes_, segments in ((999_999, 1), (1_000_000, 1), (8_000_000, 3), (10, 7), (4_000_000, 1600)):
        assert ends(profile, Write(0.0, "a", "z", bytes_, segments)) == [profile.write_s(bytes_, segments)]


def test_two_senders_into_one_receiver() -> None:
    # Both at half speed until the first has its 1 MB at 2 s; then the second's other 1 MB at full speed.
    assert ends(PLAIN, Write(0.0, "a", "z", 1_000_000), Write(0.0, "b", "z", 2_000_000)) == [2.0, 3.0]


def test_one_sender_to_two_receivers() -> None:
    assert ends(PLAIN, Write(0.0, "a", "y", 1_000_000), Write(0.5, "a", "z", 250_000)) == [1.25, 1.0]


def test_the_parking_lot() -> None:
    # a sends to y, b to y and z: b's write to z has what its write to y leaves, which is half until a's write ends.
    parked = [Write(0.0, "a", "y", 500_000), Write(0.0, "b", "y", 1_000_000), Write(0.0, "b", "z", 2_000_000)]
    assert ends(PLAIN, *parked) == [1.0, 2.0, 3.0]


def test_both_directions_of_an_adapter_are_apart() -> None:
    assert ends(PLAIN, Write(0.0, "a", "b", 1_000_000), Write(0.0, "b", "a", 1_000_000)) == [1.0, 1.0]


def test_an_unstriped_write_leaves_the_other_adapters_alone() -> None:
    profile = changed(adapters=2, stripe_threshold_bytes=2_000_000)
    small = [Write(0.0, name, "z", 1_000_000) for name in "ab"]
    assert ends(profile, *small) == [1.0, 1.0]
    assert ends(profile, *small, Write(0.0, "c", "z", 1_000_000)) == pytest.approx([1.5] * 3)
    # A striped one beside a small one is held to what that leaves: one adapter, then both.
    assert ends(profile, small[0], Write(0.0, "b", "z", 3_000_000)) == [1.0, 2.0]


def test_many_small_segments_share_like_many_bytes() -> None:
    # 1000 segments at 1000 a second are 1 s of work whatever their bytes, as is 1 MB.
    profile = changed(message_rate_per_s=1000.0)
    assert ends(profile, Write(0.0, "a", "z", 10, 1000), Write(0.0, "b", "z", 1_000_000)) == [2.0, 2.0]


def test_ranks_of_an_instance_share_where_the_profile_says_so() -> None:
    ranks = [RankId(Side.ENCODE, 0, 0), RankId(Side.ENCODE, 0, 1), RankId(Side.ENCODE, 1, 0)]
    writes = [Write(0.0, rank, RankId(Side.LANGUAGE, number, 0), 1_000_000) for number, rank in enumerate(ranks)]
    assert ends(PLAIN, *writes) == [1.0, 1.0, 1.0]
    assert ends(changed(shared_by="instance"), *writes) == [2.0, 2.0, 1.0]
    assert ends(changed(shared_by="nobody"), *writes, *writes) == [1.0] * 6


def test_a_slow_rank_keeps_to_its_part_and_leaves_the_rest() -> None:
    slow = [("a", 4.0)]
    assert ends(PLAIN, Write(0.0, "a", "z", 250_000), slow=slow) == [1.0]
    # Two writes of the slow rank have a quarter together, so the other's has three quarters.
    writes = [Write(0.0, "a", "z", 125_000), Write(0.0, "a", "z", 125_000), Write(0.0, "b", "z", 750_000)]
    assert ends(PLAIN, *writes, slow=slow) == [1.0, 1.0, 1.0]
    nobody = changed(shared_by="nobody")
    assert ends(nobody, *writes, slow=slow) == [0.5, 0.5, 0.75]
    ranks = [RankId(Side.ENCODE, 0, rank) for rank in (0, 1)]
    both = [Write(0.0, ranks[0], "z", 250_000), Write(0.0, ranks[1], "z", 750_000)]
    assert ends(changed(shared_by="instance"), *both, slow=[(ranks[0], 4.0)]) == [1.0, 1.0]


def test_a_rank_may_recover() -> None:
    run = Run(PLAIN, [Write(0.0, "a", "z", 250_000), Write(1.0, "a", "z", 250_000)], slow=[("a", 4.0)])
    run.clock.call_at(1.0, run.network.slow, "a", 1.0)
    assert run.finish() == [1.0, 2.0]  # the second start at 1 s comes first, and is slow
    run = Run(PLAIN, [Write(0.0, "a", "z", 250_000), Write(1.0, "a", "z", 250_000)], slow=[("a", 4.0)])
    run.clock.call_at(0.5, run.network.slow, "a", 1.0)
    assert run.finish() == [1.0, 1.25]


def test_what_weighs_nothing_takes_no_time() -> None:
    run = Run(PLAIN, [Write(1.0, "a", "z", 1_000_000), Write(1.5, "a", "z", 0, 5)])
    assert run.finish() == [2.0, 1.5]
    assert [(node.flows, node.bytes, node.work_s) for node in run.network.statistics()] == [(2, 1_000_000, 1.0)] * 2
    assert ends(changed(bandwidth_Bps=math.inf), Write(1.0, "a", "z", 2**60)) == [1.0]


@pytest.mark.parametrize(("bytes_", "segments"), [(-1, 1), (1, -1)])
def test_negative_amounts_are_refused(bytes_: int, segments: int) -> None:
    with pytest.raises(ValueError, match="neither may be negative"):
        Network(Clock(), PLAIN).start("a", "z", bytes_, segments, print)


@pytest.mark.parametrize("factor", [0.0, 0.5, math.inf, math.nan])
def test_a_senseless_slowness_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="at least 1 and finite"):
        Network(Clock(), PLAIN).slow("a", factor)


# --- order, and the clock's queue ---


def test_ends_at_the_same_moment_come_in_the_order_of_the_starts() -> None:
    # b's call for 1.5 s is made at 0.5 s. a's is made at 1 s, when the one for its end without b comes.
    run = Run(PLAIN, [Write(0.0, "a", "z", 1_000_000), Write(0.5, "b", "z", 500_000)])
    assert run.finish() == [1.5, 1.5]
    assert list(run.ends) == [0, 1]
    run = Run(PLAIN, [Write(0.0, name, "z", 500_000) for name in "hgfedcba"])
    run.finish()
    assert list(run.ends) == list(range(8))


def test_a_call_that_was_taken_back_does_not_keep_the_run_alive() -> None:
    # Alone, a would end at 2 s. Then b is still there, so a plans for 2.5 s, but b ends in the same moment.
    run = Run(PLAIN, [Write(0.0, "a", "z", 2_000_000), Write(1.5, "b", "z", 250_000)])
    assert run.finish() == [2.25, 2.0]
    assert (run.clock.now, run.clock.busy, run.clock.reminders) == (2.25, False, 1)
    while run.clock.step():  # what was taken back passes without effect
        pass
    assert (run.clock.now, run.clock.reminders, len(run.ends)) == (2.5, 0, 2)


def test_a_write_that_follows_at_once_starts_from_a_consistent_state() -> None:
    clock, seen = Clock(), []
    network = Network(clock, PLAIN)

    def follow(left: int) -> None:
        seen.append((clock.now, [flow.share for flow in network.under_way()]))
        if left:
            network.start("b", "z", 250_000, 1, follow, left - 1)

    network.start("a", "z", 1_000_000, 1, lambda: seen.append((clock.now, "a")))
    follow(2)
    clock.run_while_busy()
    assert seen == [(0.0, [1.0]), (0.5, [1.0]), (1.0, [1.0]), (1.5, "a")]


def test_lone_flows_cost_one_event_each() -> None:
    run = Run(PLAIN, [Write(float(number), "a", "z", 500_000) for number in range(100)])
    run.finish()
    assert run.clock.events == 200  # a start, which is the test's, and an end
    assert run.network.searches == 0


def test_flows_that_fit_beside_each_other_cost_one_event_each() -> None:
    profile = changed(adapters=16)
    starts = [number / 14.9 for number in range(160)]  # up to 15 at a time, so that the node is never full
    run = Run(profile, [Write(start_s, "a", "z", 1_000_000) for start_s in starts])
    assert run.finish() == pytest.approx([start_s + 1.0 for start_s in starts])
    assert (run.clock.events, run.network.searches) == (320, 0)
    run = Run(PLAIN, [Write(0.0, "a", "z", 500_000), Write(0.0, "b", "z", 500_000)])
    run.finish()
    assert run.network.searches == 1  # for the second; they end together


# --- the exact model ---


def fair_rates(capacities: dict[Any, Fraction], flows: dict[int, tuple[list[Any], Fraction]]) -> dict[int, Fraction]:
    """Max–min fair rates by taking the tightest constraint of all first, again and again, with fractions."""
    found: dict[int, Fraction] = {}
    left = dict(capacities)
    while len(found) < len(flows):
        rest = {number: flow for number, flow in flows.items() if number not in found}
        shares: list[tuple[Fraction, list[int]]] = [(cap, [number]) for number, (_, cap) in rest.items()]
        for node, spare in left.items():
            users = [number for number, (path, _) in rest.items() if node in path]
            if users:
                shares.append((spare / len(users), users))
        share, held = min(shares)
        for number in held:
            found[number] = share
            for node in rest[number][0]:
                left[node] -= share
    return found


def exact_ends(profile: LinkProfile, writes: Sequence[Write], slow: dict[Any, float]) -> list[float]:
    """The end of every write: all flows move in a straight line until the next start or end."""

    def node(direction: str, end: Any) -> Any:
        instance = profile.shared_by == "instance" and isinstance(end, RankId)
        return direction, (end.side, end.instance) if instance else end

    rate = Fraction(profile.adapters) * Fraction(profile.bandwidth_Bps)
    capacities: dict[Any, Fraction] = {("slow", sender): 1 / Fraction(factor) for sender, factor in slow.items()}
    paths: dict[int, tuple[list[Any], Fraction]] = {}
    left: dict[int, Fraction] = {}
    for number, write in enumerate(writes):
        path = [node("send", write.sender), node("receive", write.receiver)]
        capacities.update((one, Fraction(1)) for one in path)
        cap = Fraction(1) if write.bytes_ >= profile.stripe_threshold_bytes else Fraction(1, profile.adapters)
        if write.sender in slow:
            path.append(("slow", write.sender))
            cap /= Fraction(slow[write.sender])
        paths[number] = (path, cap)
        left[number] = Fraction(write.bytes_) / rate
        if profile.message_rate_per_s < math.inf:
            left[number] = max(left[number], write.segments / Fraction(profile.message_rate_per_s))
    starts = sorted((Fraction(write.start_s), number) for number, write in enumerate(writes))
    moving: set[int] = set()
    found: dict[int, float] = {}
    now = Fraction(0)
    while starts or moving:
        rates = fair_rates(capacities, {number: paths[number] for number in sorted(moving)})
        steps = [left[number] / rates[number] for number in moving] + [start - now for start, _ in starts[:1]]
        step = min(steps)
        now += step
        for number in moving:
            left[number] -= rates[number] * step
        for number in [number for number in moving if not left[number]]:
            moving.discard(number)
            found[number] = float(now)
        while starts and starts[0][0] == now:
            moving.add(starts.pop(0)[1])
    return [found[number] for number in range(len(writes))]


TIMES = st.sampled_from([0.0, 0.5, 1.0, 1.25]) | st.floats(0, 3)
ENCODE = st.builds(RankId, st.just(Side.ENCODE), st.integers(0, 1), st.integers(0, 1))
LANGUAGE = st.builds(RankId, st.just(Side.LANGUAGE), st.integers(0, 1), st.integers(0, 1))
WRITES = st.lists(
    st.builds(
        Write,
        TIMES,
        ENCODE,
        LANGUAGE,
        st.sampled_from([1_000_000, 250_000]) | st.integers(1, 4_000_000),
        st.integers(1, 500),
    ),
    min_size=1,
    max_size=10,
)
PROFILES = st.builds(
    changed,
    shared_by=st.sampled_from(["rank", "instance"]),
    adapters=st.sampled_from([1, 1, 2, 3, 16]),
    stripe_threshold_bytes=st.sampled_from([0.0, 1e6, math.inf]),
    message_rate_per_s=st.sampled_from([math.inf, 1000.0]),
)
SLOW = st.dictionaries(ENCODE, st.sampled_from([1.0, 2.0, 3.7]), max_size=2)


@given(profile=PROFILES, writes=WRITES, slow=SLOW)
@settings(max_examples=150, deadline=None)
def test_the_network_agrees_with_the_exact_model(
    profile: LinkProfile, writes: list[Write], slow: dict[Any, float]
) -> None:
    assert ends(profile, *writes, slow=slow.items()) == pytest.approx(exact_ends(profile, writes, slow), rel=1e-9)


@given(profile=PROFILES, writes=WRITES, slow=SLOW)
@settings(deadline=None)
def test_work_is_conserved_and_nothing_is_exceeded(
    profile: LinkProfile, writes: list[Write], slow: dict[Any, float]
) -> None:
    # Between two events rates are constant, so what a flow got is the sum of its shares times the steps. Each write
    # has a rank of its own number, so that it can be told apart.
    writes = [
        write._replace(sender=write.sender._replace(rank=2 * number + write.sender.rank))
        for number, write in enumerate(writes)
    ]
    slow = {write.sender: factor for write, factor in zip(writes, slow.values(), strict=False)}
    by_sender = {write.sender: write for write in writes}
    run = Run(profile, writes, slow.items())
    network, clock = run.network, run.clock
    moved = dict.fromkeys(by_sender, 0.0)
    for before_s, now in _steps(clock, moved, network):
        assert now >= before_s
        used: dict[Any, float] = {}
        for flow in network.under_way():
            write = by_sender[flow.sender]
            cap = profile.times.share(write.bytes_) / slow.get(flow.sender, 1.0)
            assert 0 < flow.share <= cap  # nobody starves
            instance = profile.shared_by == "instance"
            for direction, end in (("send", flow.sender), ("receive", flow.receiver)):
                node = (direction, end.instance if instance else end)
                used[node] = used.get(node, 0.0) + flow.share
        assert all(share <= 1 + 1e-12 for share in used.values())
    for sender, write in by_sender.items():
        assert moved[sender] == pytest.approx(profile.times.adapter_s(write.bytes_, write.segments), rel=1e-9)
    assert network.under_way() == []
    statistics = network.statistics()
    total = sum(write.bytes_ for write in writes)
    for direction in ("send", "receive"):
        assert sum(node.bytes for node in statistics if node.direction == direction) == total
    flow_s = sum(run.ends[number] - write.start_s for number, write in enumerate(writes))
    found_s = sum(node.mean_flows * clock.now for node in statistics if node.direction == "receive")
    assert found_s == pytest.approx(flow_s, rel=1e-9)
    for node in statistics:
        assert node.work_s <= node.busy_s * (1 + 1e-9) <= clock.now * (1 + 2e-9)


def _steps(clock: Clock, moved: dict[Any, float], network: Network) -> Iterator[tuple[float, float]]:
    """Process event by event, adding to ``moved`` what each flow got in between."""
    while clock.busy:
        flows = network.under_way()
        before_s = clock.now
        clock.step()
        for flow in flows:
            moved[flow.sender] += flow.share * (clock.now - before_s)
        yield before_s, clock.now


@given(writes=WRITES, factor=st.floats(1, 8))
@settings(deadline=None)
def test_more_bandwidth_ends_no_flow_later(writes: list[Write], factor: float) -> None:
    # On one shared node: see the next test.
    writes = [write._replace(sender="a", receiver="z") for write in writes]
    for slow_s, fast_s in zip(ends(PLAIN, *writes), ends(changed(bandwidth_Bps=1e6 * factor), *writes), strict=True):
        assert fast_s <= slow_s * (1 + 1e-12)


def test_more_bandwidth_may_cost_a_flow_that_shares_two_nodes() -> None:
    # Nine writes keep b's write to y small, which leaves nine tenths of b to its write to z. With more bandwidth they
    # are gone before that starts, b's two writes have half each, and half of 1.5 is less than nine tenths of 1.
    nine = [Write(0.0, number, "y", 333_000) for number in range(9)]
    both = [Write(2.0, "b", "y", 5_000_000), Write(2.0, "b", "z", 500_000)]
    assert ends(PLAIN, *nine, *both)[-1] == pytest.approx(2.0 + 0.5 / 0.9)
    assert ends(changed(bandwidth_Bps=1.5e6), *nine, *both)[-1] == pytest.approx(2.0 + 0.5 / 0.75)


@given(profile=PROFILES, writes=WRITES, data=st.data())
@settings(deadline=None)
def test_the_order_of_simultaneous_starts_does_not_matter(
    profile: LinkProfile, writes: list[Write], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(writes))))
    found = ends(profile, *writes)
    shuffled = ends(profile, *[writes[number] for number in order])
    assert shuffled == pytest.approx([found[number] for number in order], rel=1e-9)


@given(profile=PROFILES, writes=WRITES)
@settings(max_examples=20, deadline=None)
def test_the_same_writes_give_the_same_trace(profile: LinkProfile, writes: list[Write]) -> None:
    first, second = Run(profile, writes), Run(profile, writes)
    first.finish()
    second.finish()
    assert list(first.ends.items()) == list(second.ends.items())  # the same ends to the last bit, in the same order
