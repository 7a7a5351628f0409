"""Streams, length models, mixes, and how requests are drawn from them."""

import os
import subprocess
import sys
from typing import Any

import numpy
import pytest

from bufferlab.sim.streams import stream
from bufferlab.sim.workload import (
    Choice,
    Constant,
    Geometric,
    LogNormal,
    Mix,
    Mixture,
    RequestKind,
    Uniform,
    constant_mix,
    generate,
    load_mix,
    mix_from,
)


def test_a_stream_is_the_same_in_every_process() -> None:
    source = "from bufferlab.sim.streams import stream; print(stream(7, 2, 'lengths', 'client').integers(0, 2**62))"
    seen = {
        subprocess.run(
            [sys.executable, "-c", source],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert seen == {str(stream(7, 2, "lengths", "client").integers(0, 2**62))}


def test_negative_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="seed is -1"):
        stream(-1, 0, "arrivals")
    with pytest.raises(ValueError, match="replication is -1"):
        stream(0, -1, "arrivals")


def test_the_mixed_workload_is_what_it_says() -> None:
    requests = list(generate(load_mix("mixed"), rate_rps=50.0, requests=20_000, seed=1))
    lengths = numpy.array([request.total_tokens for request in requests])
    shares = {
        name: sum(request.client == name for request in requests) / 20_000 for name in ("chat", "text", "documents")
    }
    assert shares == pytest.approx({"chat": 0.70, "text": 0.25, "documents": 0.05}, abs=0.015)
    assert lengths.min() >= 1
    assert lengths.max() == 16_384
    # 0.70 * 68 % + 0.25 * 40 % + 0.05 * nearly all
    assert (lengths > 1024).mean() == pytest.approx(0.62, abs=0.03)
    assert numpy.diff([request.arrival_s for request in requests]).mean() == pytest.approx(1 / 50, rel=0.03)
    chat = next(request for request in requests if request.client == "chat")
    assert chat.images == 1
    assert chat.total_tokens == chat.text_tokens + chat.image_tokens_hint


def test_a_shorter_workload_is_the_start_of_a_longer_one_and_another_rate_keeps_the_lengths() -> None:
    def make(requests: int, rate_rps: float = 10.0) -> list[Any]:
        return list(generate(load_mix("mixed"), rate_rps=rate_rps, requests=requests, seed=1))

    assert make(1500)[:1100] == make(1100)
    slow, fast = make(50), make(50, rate_rps=20.0)
    assert [request.total_tokens for request in slow] == [request.total_tokens for request in fast]
    assert [request.arrival_s for request in slow] == pytest.approx([2 * request.arrival_s for request in fast])


@pytest.mark.parametrize(
    ("length", "mean", "low", "high"),
    [
        (Constant(7), 7, 7, 7),
        (Uniform(10, 20), 15, 10, 20),
        (LogNormal(100, 0.5), 100 * numpy.exp(0.125), 1, 10_000),
        (Geometric(0.25, 32), 4, 1, 32),
        (Choice((1, 3), (1.0, 3.0)), 2.5, 1, 3),
        (Mixture((Constant(0), Uniform(10, 20)), (0.5, 0.5)), 7.5, 0, 20),
    ],
)
def test_length_models(length: Any, mean: float, low: int, high: int) -> None:
    values = length.draw(stream(1, 0, "test"), 20_000)
    assert values.dtype == numpy.int64
    assert values.mean() == pytest.approx(mean, rel=0.05)
    assert low <= values.min()
    assert values.max() <= high


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"max_tokens": 5}, "workload mine: .*`kinds`"),
        ({"kinds": [], "max_tokens": 5}, "workload mine: weights are"),
        ({"kinds": [{"weight": 1.0, "text": {"type": "constant", "value": -1}}], "max_tokens": 5}, "value is -1"),
        ({"kinds": [{"weight": 1.0, "text": {"type": "zipf"}}], "max_tokens": 5}, "zipf.*text.type"),
        ({"kinds": [{"weight": 1.0, "text": {"type": "uniform", "low": 3, "high": 2}}], "max_tokens": 5}, "low is 3"),
    ],
)
def test_a_wrong_mix_is_named(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mix_from(table, name="mine")


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"unknown workload 'mixd'; known: .*mixed"):
        load_mix("mixd")
    with pytest.raises(ValueError, match="rate_rps is 0"):
        generate(constant_mix(5), rate_rps=0, requests=1, seed=1)
    with pytest.raises(ValueError, match="requests is 0"):
        generate(constant_mix(5), rate_rps=1, requests=0, seed=1)
    with pytest.raises(ValueError, match="probability is 0"):
        Geometric(0.0, 3)
    with pytest.raises(ValueError, match="median is 0"):
        LogNormal(0.0, 1.0)
    with pytest.raises(ValueError, match="max_tokens is 0"):
        Mix(kinds=(RequestKind(1.0, Constant(1)),), max_tokens=0)
