"""How requests are drawn from a mix: what depends on what, and what each knob does."""

import math
import tracemalloc
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bufferlab.sim.streams import stream
from bufferlab.sim.workload import (
    Choice,
    ClientArrivals,
    Columns,
    Constant,
    Frames,
    LogNormal,
    Mix,
    Mixture,
    Pictures,
    Quantiles,
    RequestKind,
    Storm,
    Uniform,
    Variation,
    Video,
    generate,
    generate_blocks,
    joined,
    load_mix,
    mix_from,
    mix_names,
    requests_of,
)

NAMES = st.sampled_from(mix_names())
LENGTH_COLUMNS = ("total_tokens", "text_tokens", "images", "image_squares")


def drawn(mix: Mix | str, requests: int = 3000, seed: int = 1, rate_rps: float = 2.0, **variation: Any) -> Columns:
    found = load_mix(mix) if isinstance(mix, str) else mix
    return joined(
        generate_blocks(found, rate_rps=rate_rps, requests=requests, seed=seed, variation=Variation(**variation))
    )


def same(first: Columns, second: Columns, *columns: str) -> bool:
    return all(numpy.array_equal(getattr(first, name), getattr(second, name)) for name in columns)


EVERYTHING = (*LENGTH_COLUMNS, "arrival_s", "image_tokens_hint", "encode_factor", "prefill_factor", "client")


@given(
    NAMES, st.integers(1, 2500), st.integers(0, 10**6), st.floats(0, 0.9), st.sampled_from(["random", "sorted-runs"])
)
@settings(max_examples=25, deadline=None)
def test_a_shorter_workload_is_the_start_of_a_longer_one(
    name: str, requests: int, seed: int, repeat: float, order: str
) -> None:
    knobs: dict[str, Any] = {"repeat_probability": repeat, "order": order, "service_log_sd": 0.2, "hint": 0.3}
    short, long = drawn(name, requests, seed, **knobs), drawn(name, 3000, seed, **knobs)
    assert len(short) == requests
    assert same(short, long.first(requests), *EVERYTHING)


@given(NAMES, st.integers(0, 10**6), st.floats(0.1, 100))
@settings(max_examples=25, deadline=None)
def test_another_rate_keeps_the_requests_and_their_order(name: str, seed: int, rate_rps: float) -> None:
    # But for storms of hours, which one rate meets after more requests than another.
    mix = load_mix(name, {"storm": "never"} if name == "azure-like" else {})
    first, second = drawn(mix, 1500, seed), drawn(mix, 1500, seed, rate_rps=rate_rps)
    assert same(first, second, *LENGTH_COLUMNS, "client", "image_tokens_hint")


@given(NAMES, st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_each_knob_changes_what_it_names_and_nothing_else(name: str, seed: int) -> None:
    plain = drawn(name, 1200, seed)
    for knob, changed in (
        ({"service_log_sd": 0.2}, {"encode_factor", "prefill_factor"}),
        ({"hint": "none"}, {"image_tokens_hint"}),
        ({"hint": 0.3}, {"image_tokens_hint"}),
        ({"cv": 3.0, "rate_log_sd": 0.1}, {"arrival_s"}),
    ):
        if "cv" in knob and load_mix(name).own_arrivals:
            continue  # there the bursts decide who comes next
        other = drawn(name, 1200, seed, **knob)
        if name == "azure-like" and "cv" in knob:
            changed = changed | set(LENGTH_COLUMNS) | {"image_tokens_hint"}  # storms come by the clock
        assert same(plain, other, *(set(EVERYTHING) - changed))
    assert not same(plain, drawn(name, 1200, seed, service_log_sd=0.2), "encode_factor")


def test_replications_and_seeds_differ() -> None:
    mix = load_mix("mixed")
    first = list(generate(mix, rate_rps=1.0, requests=50, seed=1))
    for seed, replication in ((1, 1), (2, 0)):
        other = list(generate(mix, rate_rps=1.0, requests=50, seed=seed, replication=replication))
        assert [one.arrival_s for one in first] != [one.arrival_s for one in other]
        assert [one.total_tokens for one in first] != [one.total_tokens for one in other]


def test_requests_carry_their_columns() -> None:
    columns = drawn("multi-image-documents", 40, service_log_sd=0.2)
    requests = list(requests_of([columns.first(7), columns.rows(slice(7, None))], first_room=1, language_instances=3))
    assert [request.room for request in requests] == list(range(1, 41))
    assert [request.language_instance for request in requests] == [number % 3 for number in range(40)]
    assert [request.encode_instance for request in requests] == [0] * 40
    for number, request in enumerate(requests):
        assert request.arrival_s == columns.arrival_s[number]
        assert request.total_tokens == columns.total_tokens[number]
        assert request.image_tokens == columns.image_tokens_hint[number]
        assert request.image_squares == columns.image_squares[number]
        assert request.encode_factor == columns.encode_factor[number]
        assert request.prefill_factor == columns.prefill_factor[number]
        assert request.client == columns.clients[columns.client[number]]
    # Two policies are given the very same bytes.
    again = requests_of([drawn("multi-image-documents", 40, service_log_sd=0.2)], first_room=1, language_instances=3)
    assert repr(requests) == repr(list(again))


# --- lengths -------------------------------------------------------------------------------------------------------


@given(
    values=st.lists(st.floats(1, 1e6), min_size=2, max_size=8).map(sorted),
    logarithmic=st.booleans(),
    level=st.floats(0, 1),
)
def test_quantiles_go_through_their_points_and_stay_between(
    values: list[float], logarithmic: bool, level: float
) -> None:
    levels = numpy.linspace(0, 1, len(values))
    length = Quantiles(tuple(values), tuple(levels.tolist()), logarithmic=logarithmic)
    assert length.at(levels) == pytest.approx(numpy.rint(values), abs=1)
    (found,) = length.at(numpy.array([level]))
    place = min(int(numpy.searchsorted(levels, level, side="right")) - 1, len(values) - 2)
    assert math.floor(values[place]) <= found <= math.ceil(values[place + 1])


def test_a_repeated_quantile_is_an_atom() -> None:
    values = Quantiles((0, 100, 100, 200), (0.0, 0.2, 0.7, 1.0)).draw(stream(1, 0, "test"), 40_000)
    # Half of all, and what is rounded to it.
    assert (values == 100).mean() == pytest.approx(0.5 + 0.5 * 0.002 + 0.5 * 0.003, abs=0.01)


def test_longer_texts_come_with_more_images_where_they_are_coupled() -> None:
    kind = RequestKind(
        1.0, Quantiles((0, 1000), (0.0, 1.0)), Choice((4, 1, 2), (1.0, 2.0, 1.0)), Constant(100), coupled=True
    )
    columns = drawn(Mix(kinds=(kind,), max_tokens=10**6), 20_000)
    assert (columns.text_tokens[columns.images == 1] <= 500).all()
    assert (columns.text_tokens[columns.images == 4] >= 750).all()
    assert (columns.images == 4).mean() == pytest.approx(0.25, abs=0.015)


def test_squares_are_those_of_the_images() -> None:
    kind = RequestKind(1.0, Constant(5), Constant(3), Choice((10, 40), (1.0, 1.0)))
    columns = drawn(Mix(kinds=(kind,), max_tokens=10**6), 500)
    large = (columns.image_tokens_hint - 6 - 30) // 30
    assert (columns.image_squares == large * 1600 + (3 - large) * 100).all()
    assert set(large.tolist()) == {0, 1, 2, 3}


@given(st.integers(0, 30), st.integers(1, 5000), st.integers(1, 2000), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_a_length_of_the_whole_request_is_kept(text: int, low: int, size: int, seed: int) -> None:
    kind = RequestKind(1.0, Constant(text), total=Uniform(low, low + 100), image_size_tokens=size)
    columns = drawn(Mix(kinds=(kind,), max_tokens=4000), 200, seed)
    assert (columns.total_tokens >= min(low, 4000)).all()
    assert (columns.total_tokens <= min(low + 100, 4000)).all()
    seen = columns.images > 0
    assert (columns.text_tokens[seen] == text).all()
    assert (columns.text_tokens[~seen] == columns.total_tokens[~seen]).all()
    assert (columns.text_tokens + columns.image_tokens_hint == columns.total_tokens).all()
    assert (columns.image_squares[seen] >= 0).all()


def test_pictures_count_as_their_model_does() -> None:
    assert Pictures("qwen3-vl", ("1920x1080", "1280x720"), (1.0, 1.0)).tokens() == (2040, 880)
    assert Pictures("qwen2.5-vl", ("4032x3024",), (1.0,), most_tokens=1280).tokens() == (1230,)
    assert Pictures("internvl", ("448x448",), (1.0,)).tokens() == (256,)


def test_a_mixture_keeps_the_frames_of_its_videos() -> None:
    mixture = Mixture((Frames(4, 10), Constant(7)), (1.0, 1.0))
    tokens, squares = mixture.draw_visual(stream(1, 0, "test"), 200)
    assert set(zip(tokens.tolist(), squares.tolist(), strict=True)) == {(40, 400), (7, 49)}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Quantiles((1, 2), (0.0, 0.9)), "levels must rise from 0 to 1"),
        (lambda: Quantiles((1, 2, 3), (0.0, 1.0)), "values are 3, there must be one for each of the 2 levels"),
        (lambda: Quantiles((2, 1), (0.0, 1.0)), "values must not fall"),
        (lambda: Quantiles((0, 1), (0.0, 1.0), logarithmic=True), "the first must be at least 1"),
        (lambda: Pictures("qwen3-vl", ("5",), (1.0,)), "size is '5'"),
        (lambda: Pictures("qwen3-vl", ("500x1",), (1.0,)), "one side must be at most 200 times the other"),
        (lambda: Video(0, 1, ("640x360",), (1.0,)), "median_s is 0"),
        (lambda: Video(1, 1, ("640x360",), (1.0,), least_s=5, most_s=4), "least_s is 5 and most_s is 4"),
        (lambda: Video(1, 1, ("640x360",), (1.0,), model="gpt"), "model is 'gpt'"),
        (lambda: Video(1, 1, ("640x360",), (1.0,), most_tokens=0), "most_tokens is 0"),
        (lambda: Frames(0, 5), "frames is 0"),
        (lambda: RequestKind(1.0, LogNormal(5, 1), coupled=True), "coupled is true, then text and images must be of"),
        (lambda: RequestKind(1.0, Constant(1), Constant(1), total=Constant(5)), "total is given, then images"),
        (lambda: RequestKind(1.0, Constant(1), image_size_tokens=5), "image_size_tokens is 5"),
        (lambda: Storm(1.0, 5.0), "share is 1.0"),
        (lambda: Variation(order="up"), "order is 'up', it must be one of random, alternating, sorted-runs"),  # type: ignore[arg-type]
        (lambda: Variation(repeat_probability=1.0), "repeat_probability is 1.0, it must be in"),
        (lambda: Variation(hint="some"), "hint is 'some', it must be exact, none or a relative error"),
        (lambda: Variation(hint=4.0), "hint is 4.0, it must be from 0 to 3"),
        (lambda: Variation(service_log_sd=-1.0), "service_log_sd is -1.0, it must be from 0 to 3"),
    ],
)
def test_what_is_wrong_is_said(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        build()


def test_what_is_wrong_with_a_whole_mix() -> None:
    kinds = [{"weight": 1.0, "client": "a", "text": {"type": "constant", "value": 1}}]
    own = [{"name": "b", "cv": 1.0}]
    with pytest.raises(ValueError, match="own_arrivals must name every client of the kinds once, and nobody else"):
        mix_from({"kinds": kinds, "own_arrivals": own, "max_tokens": 5}, name="mine")
    own = [{"name": "a", "cv": 1.0}]
    with pytest.raises(ValueError, match="own_arrivals are given, then storm and clients must not be"):
        mix_from({"kinds": kinds, "own_arrivals": own, "clients": 3, "max_tokens": 5}, name="mine")
    with pytest.raises(ValueError, match="clients is -1"):
        mix_from({"kinds": kinds, "clients": -1, "max_tokens": 5}, name="mine")


# --- clients and what they repeat ----------------------------------------------------------------------------------


def classes(columns: Columns) -> NDArray[numpy.int64]:
    return numpy.floor(numpy.log2(columns.total_tokens)).astype(int)


def repeats(columns: Columns) -> float:
    """How often a client's next request is of the class of its last."""
    lengths, hits, pairs = classes(columns), 0, 0
    for client in range(len(columns.clients)):
        own = lengths[columns.client == client]
        hits += int((own[1:] == own[:-1]).sum())
        pairs += max(len(own) - 1, 0)
    return hits / pairs


@pytest.mark.parametrize("name", ["text-only", "azure-like", "video", "servegen-like"])
def test_clients_repeat_their_length_class_as_often_as_told_and_lengths_stay(name: str) -> None:
    alike, sticky = drawn(name, 60_000), drawn(name, 60_000, repeat_probability=0.7)
    by_chance = repeats(alike)
    # It stays with 0.7, else it is drawn anew and may be the same.
    assert repeats(sticky) == pytest.approx(0.7 + 0.3 * by_chance, abs=0.03)
    assert by_chance < 0.75
    # Successive requests of a client are worth (1 − q) / (1 + q) independent ones: about 10,000 are left.
    for level in (0.1, 0.5, 0.9):
        low, high = numpy.quantile(alike.total_tokens, [level - 0.02, level + 0.02])
        assert low <= numpy.quantile(sticky.total_tokens, level) <= high


def test_without_repeats_a_clients_past_says_nothing() -> None:
    columns = drawn("text-only", 60_000)
    shares = numpy.bincount(classes(columns)) / len(columns)
    assert repeats(columns) == pytest.approx(float((shares**2).sum()), abs=0.01)
    counts = numpy.bincount(columns.client)
    assert len(counts) == 16
    # Everybody sends alike: chi-squared with 15 degrees of freedom, beyond 45 once in ten thousand.
    assert float(((counts - 3750) ** 2 / 3750).sum()) < 45


def test_a_kinds_own_client_repeats_its_own_lengths_only() -> None:
    kinds = (
        RequestKind(1.0, Choice((10, 100), (1.0, 1.0)), client="small"),
        RequestKind(1.0, Choice((1000, 10_000), (1.0, 1.0)), client="large"),
        RequestKind(1.0, Constant(50)),
    )
    columns = drawn(Mix(kinds=kinds, max_tokens=10**6, clients=2), 5000, repeat_probability=0.5)
    assert columns.clients == ("small", "large", "client-1", "client-2")
    for client, lengths in enumerate(({10, 100}, {1000, 10_000}, {50}, {50})):
        assert set(columns.total_tokens[columns.client == client].tolist()) == lengths


def test_own_arrivals_keep_each_clients_lengths_whatever_the_others_do() -> None:
    def mix(cv: float) -> Mix:
        kinds = tuple(RequestKind(1.0, LogNormal(500, 1.0), client=name) for name in "ab")
        return Mix(kinds=kinds, max_tokens=10**6, own_arrivals=(ClientArrivals("a", 1.0), ClientArrivals("b", cv)))

    first, second = drawn(mix(1.0)), drawn(mix(8.0))
    own = [columns.total_tokens[columns.client == 0] for columns in (first, second)]
    size = min(map(len, own))
    assert size > 1000
    assert numpy.array_equal(own[0][:size], own[1][:size])
    # One cv for all replaces each client's own.
    assert same(drawn(mix(1.0), cv=3.0), drawn(mix(8.0), cv=3.0), "arrival_s", "client", "total_tokens")


# --- order, hints, factors, storms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["alternating", "sorted-runs"])
def test_orders_rearrange_each_block(order: str) -> None:
    plain, arranged = drawn("text-only", 4096), drawn("text-only", 4096, order=order)
    assert same(plain, arranged, "arrival_s", "encode_factor")
    for start in range(0, 4096, 1024):
        block = slice(start, start + 1024)
        assert sorted(plain.total_tokens[block]) == sorted(arranged.total_tokens[block])
        lengths = arranged.total_tokens[block]
        if order == "sorted-runs":
            assert (numpy.diff(lengths.reshape(-1, 32), axis=1) >= 0).all()
        else:
            assert lengths[0::2].max() <= lengths[1::2].min()
    # Only the order is arranged: a client keeps its requests.
    assert sorted(zip(plain.client.tolist(), plain.total_tokens.tolist(), strict=True)) == sorted(
        zip(arranged.client.tolist(), arranged.total_tokens.tolist(), strict=True)
    )


def test_hints_are_off_by_what_they_are_told() -> None:
    exact, guessed = drawn("single-image-chat", 20_000), drawn("single-image-chat", 20_000, hint=0.2)
    # Rounding counts for little in long images.
    long = exact.image_tokens_hint > 1000
    errors = numpy.log(guessed.image_tokens_hint[long] / exact.image_tokens_hint[long])
    assert errors.mean() == pytest.approx(0.0, abs=4 * 0.2 / math.sqrt(long.sum()))
    assert errors.std() == pytest.approx(0.2, rel=0.03)
    assert not drawn("single-image-chat", hint="none").image_tokens_hint.any()
    assert same(drawn("single-image-chat", hint="exact"), drawn("single-image-chat"), "image_tokens_hint")
    # A preset whose images nobody can size up says nothing, unless it is made to.
    assert drawn("azure-like", hint="exact").image_tokens_hint.any()


def test_service_factors_have_median_one() -> None:
    columns = drawn("text-only", 20_000, service_log_sd=0.2)
    for factors in (columns.encode_factor, columns.prefill_factor):
        assert numpy.log(factors).mean() == pytest.approx(0, abs=4 * 0.2 / math.sqrt(20_000))
        assert numpy.log(factors).std() == pytest.approx(0.2, rel=0.03)
    assert abs(numpy.corrcoef(columns.encode_factor, columns.prefill_factor)[0, 1]) < 4 / math.sqrt(20_000)
    assert (drawn("text-only").encode_factor == 1).all()


def test_storms_take_their_share_of_the_time_in_episodes_of_their_length() -> None:
    kinds = (
        RequestKind(1.0, Constant(10), storm_weight=0.0),
        RequestKind(0.0, Constant(20), storm_weight=1.0),
    )
    mix = Mix(kinds=kinds, max_tokens=100, storm=Storm(share=0.25, mean_s=100.0))
    episodes, stormy_s, whole_s, first = 0, 0.0, 0.0, []
    for seed in range(40):
        columns = drawn(mix, 20_000, seed, rate_rps=2.0, cv=0.0)  # 10,000 s, a look every half second
        storm = columns.total_tokens == 20
        episodes += int(storm[0]) + int((numpy.diff(storm.astype(int)) == 1).sum())
        stormy_s += storm.sum() / 2
        whole_s += 10_000
        first.append(bool(storm[0]))
    # About 1,000 episodes of exponential lengths; what is cut off by the ends is one part in a hundred.
    assert 900 < episodes < 1100
    assert stormy_s / whole_s == pytest.approx(0.25, abs=4 * 0.25 / math.sqrt(episodes))
    assert stormy_s / episodes == pytest.approx(100.0, rel=4 / math.sqrt(episodes))
    assert 3 <= sum(first) <= 18  # a binomial of 40 and 0.25


@pytest.mark.parametrize(("when", "length"), [("always", 20), ("never", 10)])
def test_a_storm_can_be_held(when: Any, length: int) -> None:
    kinds = (RequestKind(1.0, Constant(10), storm_weight=0.0), RequestKind(0.0, Constant(20), storm_weight=1.0))
    mix = Mix(kinds=kinds, max_tokens=100, storm=Storm(share=0.25, mean_s=10.0, when=when))
    assert set(drawn(mix, 2000).total_tokens.tolist()) == {length}


@pytest.mark.parametrize("name", ["servegen-like", "azure-like"])
def test_memory_does_not_grow_with_the_run(name: str) -> None:
    def peak(requests: int) -> int:
        tracemalloc.start()
        for _ in generate(load_mix(name), rate_rps=20.0, requests=requests, seed=1):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(60_000) < 1.3 * peak(15_000) + 2**18
