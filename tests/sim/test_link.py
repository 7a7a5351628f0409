"""Link profiles: the shipped ones, their errors, their law."""

import math
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.protocol.chunks import Chunk
from bufferlab.protocol.layout import BufferLayout
from bufferlab.protocol.messages import StartWrite
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.network.link import CALIBRATION, LinkProfile, load_profile, profile_from, profile_names
from bufferlab.sim.network.transfer import Contacts, TransferWorker, count_segments

FIELDS = {
    "latency_s": 1e-5,
    "per_segment_s": 1e-6,
    "bandwidth_Bps": 1e9,
    "control_latency_s": 1e-4,
    "copy_bandwidth_Bps": math.inf,
}


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_loads_and_states_its_source(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert len(profile.source.split()) > 10


def test_the_loopback_law() -> None:
    # 2 MiB in 4 segments: 25 us + 4 * 28.8 us + 2 MiB / 1.84 GB/s
    assert load_profile("tcp-loopback").write_s(2**21, 4) == pytest.approx(25e-6 + 115.2e-6 + 1139.757e-6, rel=1e-6)
    assert load_profile("cx7-400g").write_s(49_600_000, 4) == pytest.approx(5.83e-6 + 1e-3)


def test_a_message_rate_bounds_small_segments_and_the_bandwidth_large_ones() -> None:
    profile = profile_from({**FIELDS, "message_rate_per_s": 1e6}, name="mine")
    posted_s = 1e-5 + 100 * 1e-6
    assert profile.write_s(50_000, 100) == pytest.approx(posted_s + 100e-6)  # 100 segments at 1e6 a second
    assert profile.write_s(500_000, 100) == pytest.approx(posted_s + 500e-6)  # 500 kB at 1 GB/s


def test_a_write_of_at_least_the_threshold_uses_all_adapters() -> None:
    striped = {"adapters": 4, "stripe_threshold_bytes": 1_000_000, "message_rate_per_s": 4e6}
    profile = profile_from({**FIELDS, **striped}, name="mine")
    posted_s = 1e-5 + 1e-6
    assert profile.write_s(1_000_000, 1) == pytest.approx(posted_s + 250e-6)
    assert profile.write_s(999_999, 1) == pytest.approx(posted_s + 999.999e-6)
    # The message rate is of all four together: one adapter takes a fourth of it.
    assert profile.write_s(0, 100) == pytest.approx(1e-5 + 100e-6 + 100e-6)


def test_the_first_segment_on_each_queue_costs_more() -> None:
    profile = profile_from({**FIELDS, "per_queue_s": 5e-6, "queues": 8}, name="mine")
    assert profile.write_s(0, 3) == pytest.approx(1e-5 + 3 * 1e-6 + 3 * 5e-6)
    assert profile.write_s(0, 20) == pytest.approx(1e-5 + 20 * 1e-6 + 8 * 5e-6)


def test_queues_alone_make_segments_count() -> None:
    assert profile_from({**FIELDS, "per_segment_s": 0, "per_queue_s": 5e-6, "queues": 8}, name="mine").counts_segments


def test_how_a_profile_was_calibrated_changes_nothing() -> None:
    told = {**FIELDS, "calibration": {"form": "affine", "parameters": {"latency_s": {"value": 1.0}}}}
    assert profile_from(told, name="mine") == profile_from(FIELDS, name="mine")


def test_what_is_not_said_costs_nothing() -> None:
    plain = profile_from(FIELDS, name="mine")
    assert plain.write_s(2000, 4) == 1e-5 + 4e-6 + 2000 / 1e9
    assert not plain.contended
    free = LinkProfile(
        name="free", bandwidth_Bps=math.inf, latency_s=0, per_segment_s=0, control_latency_s=0, copy_bandwidth_Bps=1e9
    )
    assert free.write_s(2**40, 10**6) == 0.0
    assert not free.counts_segments


SOME_PROFILES = st.builds(
    LinkProfile,
    name=st.just("some"),
    bandwidth_Bps=st.floats(1e6, 1e12) | st.just(math.inf),
    latency_s=st.floats(0, 1e-3),
    per_segment_s=st.floats(0, 1e-4),
    control_latency_s=st.just(0.0),
    copy_bandwidth_Bps=st.just(1e9),
    message_rate_per_s=st.floats(1e3, 1e9) | st.just(math.inf),
    per_queue_s=st.floats(0, 1e-2),
    queues=st.integers(1, 64),
    adapters=st.integers(1, 16),
    stripe_threshold_bytes=st.floats(0, 1e9) | st.just(math.inf),
)


@given(profile=SOME_PROFILES, bytes_=st.integers(0, 2**34), segments=st.integers(0, 4096), factor=st.floats(0.25, 8))
def test_a_slow_rank_takes_so_many_times_as_long(
    profile: LinkProfile, bytes_: int, segments: int, factor: float
) -> None:
    slow_s = profile.slowed(factor).write_s(bytes_, segments)
    assert slow_s == pytest.approx(factor * profile.write_s(bytes_, segments), rel=1e-12)


@given(
    profile=SOME_PROFILES,
    bytes_=st.integers(0, 2**34),
    segments=st.integers(0, 4096),
    more=st.floats(1, 10),
    field=st.sampled_from(["bandwidth_Bps", "message_rate_per_s"]),
)
def test_a_faster_link_is_no_slower(profile: LinkProfile, bytes_: int, segments: int, more: float, field: str) -> None:
    faster = msgspec.structs.replace(profile, **{field: getattr(profile, field) * more})
    assert faster.write_s(bytes_, segments) <= profile.write_s(bytes_, segments)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"unknown link profile 'cx8'; known: .*\bcx7-400g, .*\broce-4x400g, "
    ) as caught:
        load_profile("cx8")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latency_s": None}, "latency_s is missing"),
        ({"latency_s": -1.0}, "latency_s is -1.0, it must be at least 0"),
        ({"per_segment_s": math.nan}, "per_segment_s is nan"),
        ({"control_latency_s": math.inf}, "control_latency_s is inf"),
        ({"bandwidth_Bps": 0}, "bandwidth_Bps is 0.0, it must be above 0"),
        ({"copy_bandwidth_Bps": "fast"}, "copy_bandwidth_Bps is 'fast', it must be a number"),
        ({"latency_s": True}, "latency_s is True, it must be a number"),
        ({"bandwidth_gbps": 400}, "unknown field 'bandwidth_gbps'; known: bandwidth_Bps"),
        ({"form": "affine"}, "unknown field 'form'; known: bandwidth_Bps"),
        ({"message_rate_per_s": 0}, "message_rate_per_s is 0.0, it must be above 0"),
        ({"first_contact_s": -1}, "first_contact_s is -1.0, it must be at least 0 and finite"),
        ({"stripe_threshold_bytes": math.nan}, "stripe_threshold_bytes is nan, it must be at least 0"),
        ({"adapters": 0}, "adapters is 0, it must be a whole number of at least 1"),
        ({"adapters": 1.5}, "adapters is 1.5, it must be a whole number of at least 1"),
        ({"adapters": math.inf}, "adapters is inf, it must be a whole number of at least 1"),
        ({"adapters": math.nan}, "adapters is nan, it must be a whole number of at least 1"),
        ({"adapters": "4"}, "adapters is '4', it must be a number"),
        ({"queues": 0}, "queues is 0, it must be a whole number of at least 1"),
        ({"per_queue_s": -1}, "per_queue_s is -1.0, it must be at least 0 and finite"),
        ({"calibration": "affine"}, "calibration is 'affine', it must be a table"),
        ({"shared_by": "host"}, "shared_by is 'host', it must be one of rank, instance, nobody"),
        ({"shared_by": 1}, "shared_by is 1, it must be a text"),
        ({"source": 3}, "source is 3, it must be a text"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], message: str) -> None:
    table = {field: value for field, value in {**FIELDS, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message) as caught:
        profile_from(table, name="mine")
    assert str(caught.value).startswith("link profile mine: ")


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("\n".join(f"{field} = {value}" for field, value in FIELDS.items()), encoding="utf-8")
    assert load_profile(path) == load_profile(str(path)) == profile_from(FIELDS, name="mine")
    assert profile_from({**FIELDS, "adapters": 4.0}, name="mine").adapters == 4
    path.write_text("latency_s =", encoding="utf-8")
    with pytest.raises(ValueError, match="not valid TOML"):
        load_profile(path)
    with pytest.raises(ValueError, match="cannot be read"):
        load_profile(tmp_path / "absent.toml")


@given(
    source=st.permutations(range(6)),
    target=st.permutations(range(6)),
    start=st.integers(0, 5),
    data=st.data(),
    deepstack=st.sampled_from([0, 3]),
)
def test_segments_are_counted_as_the_layout_cuts_them(
    source: list[int], target: list[int], start: int, data: st.DataObject, deepstack: int
) -> None:
    layout = BufferLayout(4, hidden=8, deepstack_layers=deepstack)
    tokens = data.draw(st.integers(1, 4 * (6 - start)))
    chunk = Chunk(4 * start, tokens, True)
    assert count_segments(layout, chunk, tuple(source), tuple(target)) == len(layout.segments(chunk, source, target))


def write_of_a_block(destination: RankId, block: int = 0) -> StartWrite:
    return StartWrite(1, 0, 0, destination, Chunk(0, 4, True), (block,), (block,))


def test_the_worker_writes_one_after_another() -> None:
    layout = BufferLayout(4, hidden=8)
    worker = TransferWorker(profile_from(FIELDS, name="mine").times, layout)
    write_s = 1e-5 + 4e-6 + 2000 / 1e9
    assert worker.queue(1.0, 2000, write_of_a_block(FIRST, 0)) == pytest.approx(1.0 + write_s)
    assert worker.queue(1.0, 2000, write_of_a_block(FIRST, 1)) == pytest.approx(1.0 + 2 * write_s)
    assert worker.queue(2.0, 2000, write_of_a_block(FIRST, 1)) == pytest.approx(2.0 + write_s)
    assert worker.busy_s == pytest.approx(3 * write_s)


WRITER, FIRST, SECOND = RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0), RankId(Side.LANGUAGE, 0, 1)


def test_the_first_write_to_a_rank_makes_contact() -> None:
    contacts = Contacts(0.5)
    assert contacts.wait_s(WRITER, FIRST, 1.0) == 0.5
    assert contacts.wait_s(WRITER, FIRST, 1.25) == 0.25  # another thread, while the connection is being made
    assert contacts.wait_s(WRITER, FIRST, 1.5) == 0.0
    assert contacts.wait_s(WRITER, SECOND, 1.5) == 0.5
    contacts.forget(FIRST)
    assert contacts.wait_s(WRITER, FIRST, 3.0) == 0.5
    assert contacts.wait_s(WRITER, SECOND, 3.0) == 0.0
    contacts.forget(WRITER)
    assert contacts.wait_s(WRITER, SECOND, 4.0) == 0.5


def test_the_worker_waits_for_first_contacts() -> None:
    layout = BufferLayout(4, hidden=8)
    worker = TransferWorker(profile_from(FIELDS, name="mine").times, layout, WRITER, Contacts(0.5))
    write_s = 1e-5 + 4e-6 + 2000 / 1e9
    assert worker.queue(1.0, 2000, write_of_a_block(FIRST)) == pytest.approx(1.5 + write_s)
    assert worker.queue(1.0, 2000, write_of_a_block(FIRST)) == pytest.approx(1.5 + 2 * write_s)
    assert worker.queue(1.0, 2000, write_of_a_block(SECOND)) == pytest.approx(2.0 + 3 * write_s)
    assert worker.busy_s == pytest.approx(1.0 + 3 * write_s)


DOCS = Path(__file__).parents[2] / "docs" / "links.md"


def test_the_table_in_the_docs_is_that_of_the_profiles() -> None:
    lines = [line.strip("| ").split("|") for line in DOCS.read_text(encoding="utf-8").splitlines() if "| `" in line]
    cells = [[cell.strip().strip("`") for cell in line] for line in lines]
    header = next(line for line in cells if line[0] == "profile")
    table = {line[0]: dict(zip(header[1:-1], line[1:-1], strict=True)) for line in cells if line[0] in profile_names()}
    assert list(table) == profile_names()
    for name, found in table.items():
        profile = load_profile(name)
        expected = {field: getattr(profile, field) for field in header[1:-1]}
        assert found == {
            field: value if isinstance(value, str) else f"{value:.7g}" for field, value in expected.items()
        }


def test_the_example_in_the_docs_loads(tmp_path: Path) -> None:
    example = DOCS.read_text(encoding="utf-8").partition("```toml\n")[2].partition("```")[0]
    path = tmp_path / "example.toml"
    path.write_text(example, encoding="utf-8")
    profile = load_profile(path)
    assert set(LinkProfile.__struct_fields__) - {"name"} == set(tomllib.loads(example)) - {CALIBRATION}
    assert profile.write_s(2_000_000, 10) == pytest.approx(6e-6 + 2e-6 + 2e6 / 96e9)
