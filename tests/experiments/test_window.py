"""Figures count in the window in which requests were offered or unfinished, wherever it lies in the run."""

from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.config.schema import Config, parse
from bufferlab.experiments.runs.simulate import run_sim

BASE: dict[str, Any] = {
    "run": {"seed": 1},
    "protocol": {"block_tokens": 128, "timeout_s": "60s", "sizing": {"tokens": 1024}},
    "encode": {"pool_blocks": 1024},
    "language": {"pool_blocks": 256},
    "model": {"name": "qwen2.5-vl-7b"},
}


def one_a_second(tmp_path: Path, first_s: int) -> Config:
    """60 requests, one a second, of 1000 to 1059 tokens, in a file."""
    file = tmp_path / f"from_{first_s}.csv"
    rows = [f"{first_s + number},{1000 + number}" for number in range(60)]
    file.write_text("\n".join(["arrival_s,total_tokens", *rows, ""]), encoding="utf-8")
    return parse({**BASE, "workload": {"file": str(file)}})


def test_a_slice_of_a_trace_has_the_figures_of_the_same_requests_at_zero(tmp_path: Path) -> None:
    found = []
    for first_s in (0, 3600):
        summary = run_sim(one_a_second(tmp_path, first_s), tmp_path / f"run-{first_s}")
        assert summary["throughput_rps"]["value"] == pytest.approx(1.017, abs=5e-4)
        assert summary["language_pool"]["mean_occupancy"]["value"] == pytest.approx(0.000218, abs=5e-7)
        found.append(summary)
    assert list(found[0]) == list(found[1])
    for path in ("throughput_rps", "latency_s", "transfer_s", "language_pool", "encode_pool"):
        for name in ("value", "low", "high"):
            first, second = (_numbers(summary[path], name) for summary in found)
            # Times after an hour have fewer digits behind the point.
            assert first == pytest.approx(second, rel=1e-6, abs=1e-9), path


def _numbers(table: dict[str, Any], name: str) -> list[float]:
    if name in table:
        return [-1.0 if table[name] is None else table[name]]
    return [number for part in table.values() for number in _numbers(part, name)]


def test_what_nobody_served_counts(tmp_path: Path) -> None:
    """The only encode rank dies after 2 of 60 seconds: what was offered afterwards is a part of the rates."""
    config = parse(
        {
            "run": {"seed": 1},
            "workload": {"lengths": [500], "requests": 480, "rate_rps": 8.0},
            "protocol": {"block_tokens": 128, "timeout_s": "10s", "sizing": {"tokens": 1024}},
            "encode": {"pool_blocks": 100},
            "language": {"pool_blocks": 100},
            "model": {"hidden": 512},
            "incidents": [{"kind": "death", "rank": "encode0.0", "time_s": "2s"}],
        }
    )
    summary = run_sim(config, tmp_path / "run")
    assert summary["requests"]["succeeded"] == 18
    assert summary["requests"]["not_served"] == 462
    assert summary["failure_rate"]["value"] == pytest.approx(462 / 480)
    assert 0.25 <= summary["throughput_rps"]["value"] <= 18 / 59
    assert sum(summary["failures"].values()) == summary["requests"]["failed"]
    assert "encode0 is down" in next(iter(summary["failures"]))


@pytest.mark.parametrize("settings", [{"loop": "closed", "concurrency": 3}, {}])
def test_a_run_of_one_request_has_its_own_length(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = parse({**BASE, "workload": {"lengths": [1000], "requests": 1, **settings}})
    summary = run_sim(config, tmp_path / "run")
    (told,) = summary["replications"]
    lasted_s = told["window_end_s"] - told["window_start_s"]
    assert lasted_s >= summary["latency_s"]["mean"]["value"] > 0
    assert summary["throughput_rps"]["value"] == pytest.approx(1 / lasted_s)


def test_a_closed_loop_counts_all_of_its_time(tmp_path: Path) -> None:
    config = parse({**BASE, "workload": {"lengths": [1000], "requests": 50, "loop": "closed", "concurrency": 1}})
    summary = run_sim(config, tmp_path / "run")
    assert summary["throughput_rps"]["value"] == pytest.approx(1 / summary["latency_s"]["mean"]["value"], rel=0.2)
