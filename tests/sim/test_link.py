"""Link profiles: the shipped ones, their errors, their law."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.chunks import Chunk
from protocol.layout import BufferLayout
from sim.link import TransferWorker, count_pieces, load_profile, profile_from, profile_names

FIELDS = {
    "latency_s": 1e-5,
    "per_piece_s": 1e-6,
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
    # 2 MiB in 4 pieces: 25 us + 4 * 28.8 us + 2 MiB / 1.84 GB/s
    assert load_profile("tcp-loopback").write_s(2**21, 4) == pytest.approx(25e-6 + 115.2e-6 + 1139.757e-6, rel=1e-6)
    assert load_profile("cx7-400g").write_s(49_600_000, 4) == pytest.approx(5.83e-6 + 1e-3)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown link profile 'cx8'; known: cx7-400g, tcp-loopback") as caught:
        load_profile("cx8")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latency_s": None}, "latency_s is missing"),
        ({"latency_s": -1.0}, "latency_s is -1.0, it must be at least 0"),
        ({"per_piece_s": math.nan}, "per_piece_s is nan"),
        ({"control_latency_s": math.inf}, "control_latency_s is inf"),
        ({"bandwidth_Bps": 0}, "bandwidth_Bps is 0.0, it must be above 0"),
        ({"copy_bandwidth_Bps": "fast"}, "copy_bandwidth_Bps is 'fast', it must be a number"),
        ({"latency_s": True}, "latency_s is True, it must be a number"),
        ({"bandwidth_gbps": 400}, "unknown field 'bandwidth_gbps'; known: bandwidth_Bps"),
        ({"form": "cubic"}, "form is 'cubic', known: affine"),
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
def test_pieces_are_counted_as_the_layout_cuts_them(
    source: list[int], target: list[int], start: int, data: st.DataObject, deepstack: int
) -> None:
    layout = BufferLayout(4, hidden=8, deepstack_layers=deepstack)
    tokens = data.draw(st.integers(1, 4 * (6 - start)))
    chunk = Chunk(4 * start, tokens, True)
    assert count_pieces(layout, chunk, source, target) == len(layout.pieces(chunk, source, target))


def test_the_worker_writes_one_after_another() -> None:
    layout = BufferLayout(4, hidden=8)
    worker = TransferWorker(profile_from(FIELDS, name="mine"), layout)
    chunk = Chunk(0, 4, True)
    write_s = 1e-5 + 4e-6 + 2000 / 1e9
    assert worker.queue(1.0, 2000, chunk, [0], [0]) == pytest.approx(1.0 + write_s)
    assert worker.queue(1.0, 2000, chunk, [1], [1]) == pytest.approx(1.0 + 2 * write_s)
    assert worker.queue(2.0, 2000, chunk, [1], [1]) == pytest.approx(2.0 + write_s)
    assert worker.busy_s == pytest.approx(3 * write_s)
