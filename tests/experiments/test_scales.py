"""What a configuration may be scaled by, so that one can ask what would happen if it were wrong."""

import numpy as np
import pytest

from bufferlab.experiments.config.schema import Config, parse
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.loading import load
from bufferlab.experiments.workloads.requests import make_columns
from bufferlab.sim.workload import joined


def quickstart(*settings: str) -> Config:
    return load("quickstart", ["workload.requests=200", *settings])


def test_a_link_has_the_bandwidth_and_the_latencies_of_its_profile_times_a_factor() -> None:
    own, scaled = quickstart().link.load(), quickstart("link.bandwidth_scale=0.5", "link.latency_scale=3").link.load()
    assert scaled.bandwidth_Bps == own.bandwidth_Bps / 2
    for name in ("latency_s", "per_segment_s", "per_queue_s", "control_latency_s"):
        assert getattr(scaled, name) == 3 * getattr(own, name)
    assert scaled.copy_bandwidth_Bps == own.copy_bandwidth_Bps


def test_everything_that_one_side_computes_takes_longer_by_its_factor() -> None:
    own = quickstart().scenario().services
    scaled = quickstart("encode.time_scale=2", "language.time_scale=3").scenario().services
    for name in own.__struct_fields__:
        factor = 2 if name.startswith(("encode_", "preprocess_per")) else 3 if name.startswith("prefill_") else 1
        if name.endswith("poll_interval_s") or name == "preprocess_workers":
            factor = 1
        assert getattr(scaled, name) == factor * getattr(own, name)


@pytest.mark.parametrize(("length", "images"), [(2.0, 1.0), (1.0, 2.0), (0.5, 3.0)])
def test_requests_have_more_tokens_and_images_but_are_the_same_ones(length: float, images: float) -> None:
    own = joined(make_columns(quickstart(), 1))
    settings = (f"workload.length_scale={length}", f"workload.image_scale={images}")
    scaled = joined(make_columns(quickstart(*settings), 1))
    for name in ("arrival_s", "text_tokens", "client", "encode_factor", "prefill_factor"):
        assert np.array_equal(getattr(scaled, name), getattr(own, name))
    tokens = own.total_tokens - own.text_tokens
    assert np.allclose(scaled.total_tokens - scaled.text_tokens, tokens * length * images, atol=1)
    assert np.array_equal(scaled.images, np.rint(own.images * images))
    assert np.array_equal(scaled.total_tokens == scaled.text_tokens, own.total_tokens == own.text_tokens)


def test_without_a_scale_a_configuration_is_what_it_was() -> None:
    tree = quickstart().tree()
    assert not any(
        name.endswith("_scale") for section in tree.values() if isinstance(section, dict) for name in section
    )
    assert parse(tree) == quickstart()


@pytest.mark.parametrize("setting", ["link.bandwidth_scale=0", "encode.time_scale=-1", "workload.length_scale=0"])
def test_a_scale_that_is_no_scale_is_refused(setting: str) -> None:
    with pytest.raises(UserError, match=setting.partition("=")[0]):
        quickstart(setting)
