"""Two small measured runs, validated: what is only true of runs that were really measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.figures.directory import drawing
from bufferlab.experiments.runs.measure import run_measured
from bufferlab.experiments.workloads.loading import load

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]


def test_measured_repeats_have_a_noise_floor_and_both_sides_the_same_requests(bufferlab: Any, folder: Path) -> None:
    pytest.importorskip("torch", reason="needs torch")
    pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")
    settings = ["workload.requests=6", "workload.rate_rps=20", "workload.lengths=[600, 2000]"]
    for name in ("first", "second"):
        run_measured(load("seed-resume", settings), Path(name), draw=drawing(plots=False, timeline=True))
    ended = bufferlab(
        "validate", "first", "second", "--profile", "tcp-loopback", "--out", "out", "--timeline", "--json"
    )
    assert ended.status == 0
    (case,) = json.loads(ended.out)["cases"]
    assert (case["kind"], case["stands_in_for_a_measurement"], case["repeats"]) == ("real", False, 2)
    assert case["requests"] == {"offered": 12, "compared": 12}
    assert case["outcomes"] == []
    for figure in case["figures"].values():
        assert figure["noise"]["floor"] > 0
        assert figure["measured"] > 0
    assert case["wasserstein_us"]["value"] > 0
    # Whatever the machine is busy with, the stages are all of the latency.
    for side in ("measured", "predicted"):
        whole = sum(one[f"{side}_s"]["mean"] for one in case["stages"])
        assert whole == pytest.approx(case["figures"]["mean"][side])
    events = json.loads((folder / "out/timelines/case-1.json").read_text())["traceEvents"]
    worlds = {one["args"]["name"].split()[0] for one in events if one["name"] == "thread_name"}
    assert worlds == {"simulated", "measured"}  # each track of the one above that of the other
    assert json.loads((folder / "first/timeline.json").read_text())["traceEvents"]
