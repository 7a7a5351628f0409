"""Transfer workers: the queued one against the arithmetic one where both apply, and what only the queued one can do."""

import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bufferlab.protocol.chunks import Chunk
from bufferlab.protocol.layout import BufferLayout
from bufferlab.protocol.messages import StartWrite
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.clock import Clock, FunctionCall
from bufferlab.sim.network.adapters import Network
from bufferlab.sim.network.link import LinkProfile, profile_from
from bufferlab.sim.network.transfer import Contacts, TransferWorker
from bufferlab.sim.network.worker import QueuedWorker

LAYOUT = BufferLayout(4, hidden=8)
WRITER, OTHER = RankId(Side.ENCODE, 0, 0), RankId(Side.ENCODE, 1, 0)
DESTINATIONS = [RankId(Side.LANGUAGE, 0, rank) for rank in range(3)]
PROFILE = profile_from(
    {
        "latency_s": 0.5,
        "per_segment_s": 0.25,
        "bandwidth_Bps": 1000,
        "control_latency_s": 0,
        "copy_bandwidth_Bps": math.inf,
        "shared_by": "rank",
    },
    name="mine",
)


def write_to(destination: RankId, blocks: tuple[int, ...] = (0,), room: int = 0) -> StartWrite:
    """A write of whole blocks that starts at the second block, so that it has 3 segments per run of blocks."""
    chunk = Chunk(4, 4 * len(blocks), True)
    return StartWrite(room, 0, 0, destination, chunk, tuple(range(len(blocks) + 1)), blocks)


def then(function: Callable[..., object], *arguments: object) -> FunctionCall:
    return FunctionCall(function, arguments)


def test_posting_the_adapters_and_the_latency_follow_each_other() -> None:
    clock, seen = Clock(), []
    network = Network(clock, PROFILE)
    worker = QueuedWorker(clock, network, LAYOUT, WRITER)
    writes = [write_to(DESTINATIONS[0], room=room) for room in range(2)]
    for write in writes:
        worker.queue(write, 2000, then(lambda write: seen.append((clock.now, write)), write))
    assert worker.waiting == 1
    for time_s, number in ((0.5, 0), (1.0, 1), (2.5, 1), (3.0, 0), (4.25, 1)):
        clock.call_at(time_s, lambda number=number: counts.append((number, len(network.under_way()))))
    counts: list[tuple[int, int]] = []
    clock.run_while_busy()
    # 3 segments posted in 0.75 s, 2 s on the adapters, 0.5 s of latency
    assert seen == [(3.25, writes[0]), (6.5, writes[1])]
    assert all(expected == found for expected, found in counts)
    assert (worker.busy_s, worker.waiting) == (6.5, 0)


def test_two_threads_of_a_rank_post_side_by_side_and_share_its_adapters() -> None:
    clock, ends = Clock(), []
    network = Network(clock, PROFILE)
    for number in range(2):
        worker = QueuedWorker(clock, network, LAYOUT, WRITER)
        worker.queue(write_to(DESTINATIONS[number]), 1000, then(lambda: ends.append(clock.now)))
    clock.run_while_busy()
    assert ends == [3.25, 3.25]  # 0.75 s, then 1 s of work each at half speed, then 0.5 s


def test_two_ranks_into_one_share_its_adapters_but_not_with_a_slow_one() -> None:
    clock, ends = Clock(), {}
    network = Network(clock, msgspec.structs.replace(PROFILE, latency_s=0.0, per_segment_s=0.0))
    for rank, bytes_, slowness in ((WRITER, 1000, 1.0), (OTHER, 1000, 4.0)):
        worker = QueuedWorker(clock, network, LAYOUT, rank, slowness=slowness)
        worker.queue(write_to(DESTINATIONS[0]), bytes_, then(lambda rank: ends.update({rank: clock.now}), rank))
    clock.run_while_busy()
    assert ends == {WRITER: pytest.approx(4 / 3), OTHER: pytest.approx(4.0)}


def test_a_write_that_is_queued_when_one_ends_comes_after_those_that_waited() -> None:
    clock, seen = Clock(), []
    network = Network(clock, PROFILE)
    worker = QueuedWorker(clock, network, LAYOUT, WRITER)

    def done(write: StartWrite) -> None:
        seen.append((clock.now, write.room))
        if write.room == 0:
            following = write_to(DESTINATIONS[0], room=2)
            worker.queue(following, 1000, then(done, following))

    for room in range(2):
        write = write_to(DESTINATIONS[0], room=room)
        worker.queue(write, 1000, then(done, write))
    clock.run_while_busy()
    assert seen == [(2.25, 0), (4.5, 1), (6.75, 2)]


def test_contact_is_made_again_after_a_restart() -> None:
    clock, ends = Clock(), []
    profile = msgspec.structs.replace(PROFILE, first_contact_s=10.0, latency_s=0.0, per_segment_s=0.0)
    contacts = Contacts(profile.first_contact_s)
    worker = QueuedWorker(clock, Network(clock, profile), LAYOUT, WRITER, contacts)
    for _ in range(3):
        worker.queue(write_to(DESTINATIONS[0]), 1000, then(lambda: ends.append(clock.now)))
    clock.call_at(11.5, contacts.forget, DESTINATIONS[0])  # during the second write
    clock.run_while_busy()
    assert ends == [11.0, 12.0, 23.0]


QUEUED = st.lists(
    st.tuples(
        st.floats(0, 2),  # since the one before
        st.sampled_from(DESTINATIONS),
        st.integers(0, 10_000),
        st.sampled_from([(0,), (0, 1, 2), (0, 2, 1), (5, 3, 1, 0)]),
    ),
    min_size=1,
    max_size=12,
)
PROFILES = st.fixed_dictionaries(
    {
        "latency_s": st.sampled_from([0.0, 0.01]) | st.floats(0, 1),
        "per_segment_s": st.sampled_from([0.0, 0.001]) | st.floats(0, 0.1),
        "per_queue_s": st.sampled_from([0.0, 0.002]),
        "queues": st.integers(1, 4),
        "bandwidth_Bps": st.floats(100, 1e6) | st.just(math.inf),
        "message_rate_per_s": st.floats(1, 1e3) | st.just(math.inf),
        "adapters": st.integers(1, 4),
        "stripe_threshold_bytes": st.sampled_from([0.0, 5000.0, math.inf]),
        "first_contact_s": st.sampled_from([0.0, 0.7]),
        "shared_by": st.sampled_from(["rank", "instance", "nobody"]),
        "control_latency_s": st.just(0.0),
        "copy_bandwidth_Bps": st.just(math.inf),
    }
)


def both_ends(
    profile: LinkProfile, queued: list[Any], slowness: float
) -> tuple[list[float], list[float], tuple[float, float]]:
    """When each write ends by arithmetic and by events, and how long the two workers were busy."""
    plain = TransferWorker(profile.slowed(slowness).times, LAYOUT, WRITER, Contacts(profile.first_contact_s))
    clock = Clock()
    contacts = Contacts(profile.first_contact_s)
    worker = QueuedWorker(clock, Network(clock, profile), LAYOUT, WRITER, contacts, slowness)
    expected: list[float] = []
    found: list[float] = []
    now = 0.0
    for wait_s, destination, bytes_, blocks in queued:
        now += wait_s
        write = write_to(destination, blocks)
        expected.append(plain.queue(now, bytes_, write))
        clock.call_at(now, worker.queue, write, bytes_, then(lambda: found.append(clock.now)))
    clock.run_while_busy()
    return expected, found, (plain.busy_s, worker.busy_s)


@given(fields=PROFILES, queued=QUEUED, slowness=st.sampled_from([1.0, 3.7]))
@settings(max_examples=200, deadline=None)
def test_both_workers_agree_where_nobody_shares(fields: dict[str, Any], queued: list[Any], slowness: float) -> None:
    # One worker writes to one destination at a time, so it never shares, whoever could.
    expected, found, busy_s = both_ends(profile_from(fields, name="mine"), queued, slowness)
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert busy_s[1] == pytest.approx(busy_s[0], rel=1e-9, abs=1e-9)
