"""Times to the first token, and the share of requests that keep what is promised."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bufferlab.experiments.config.schema import Config, parse
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.measure import run_measured
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.protocol.recording import Event

PREFILL_S = 0.05


def config(requests: int = 8, **changes: Any) -> Config:
    tree: dict[str, Any] = {
        "run": {"seed": 1},
        "workload": {"lengths": [300], "requests": requests, "rate_rps": 20.0, "cv": 0.0},
        "protocol": {"block_tokens": 128, "sizing": {"tokens": 512}},
        "encode": {"pool_blocks": 64},
        "language": {"pool_blocks": 64, "base_s": PREFILL_S},
        "model": {"hidden": 64},
        "real": {"verify": False},
    }
    for name, table in changes.items():
        tree[name] = {**tree.get(name, {}), **table}
    return parse(tree)


def run(tmp_path: Path, made: Config, name: str = "run") -> StoredRun:
    run_sim(made, tmp_path / name)
    return StoredRun(tmp_path / name)


def test_the_first_token_comes_a_prefill_after_the_delivery(tmp_path: Path) -> None:
    stored = run(tmp_path, config(requests=1))
    rows = stored.requests()
    assert rows["prefilled_s"][0] == pytest.approx(rows["delivered_s"][0] + PREFILL_S, abs=1e-3)
    assert stored.summary["ttft_s"]["p50"]["value"] == pytest.approx(rows["prefilled_s"][0] - rows["arrival_s"][0])


def test_requests_wait_for_the_pass_before_theirs(tmp_path: Path) -> None:
    """One every 50 ms, passes of 50 ms: each pass has what came during the last."""
    rows = run(tmp_path, config()).requests()
    ends_s = np.unique(rows["prefilled_s"])
    assert (np.diff(ends_s) >= PREFILL_S - 1e-9).all()
    assert (rows["prefilled_s"] >= rows["delivered_s"] + PREFILL_S - 1e-9).all()


@pytest.mark.parametrize("release", ["copy", "prefill"])
@pytest.mark.parametrize("tp", [1, 2])
def test_every_rank_writes_down_its_prefill(tmp_path: Path, release: str, tp: int) -> None:
    stored = run(tmp_path, config(language={"base_s": PREFILL_S, "release": release, "tp": tp, "pool_blocks": 64}))
    events = stored.events()
    prefilled = events[events["event"] == Event.PREFILLED.value]
    assert len(prefilled) == 8 * tp
    assert set(prefilled["side"]) == {"language"}
    last_s = prefilled.groupby("room")["time_s"].max()
    assert (stored.requests().set_index("room")["prefilled_s"].sort_index() == last_s.sort_index()).all()
    assert stored.summary["invariant_violations"] == 0


def test_without_a_prefill_it_is_the_latency(tmp_path: Path) -> None:
    stored = run(tmp_path, config(language={"base_s": 0.0}))
    assert stored.summary["ttft_s"] == stored.summary["latency_s"]
    rows = stored.requests()
    assert (rows["prefilled_s"] == rows["delivered_s"]).all()
    assert Event.PREFILLED.value not in set(stored.events()["event"])


def test_what_was_not_served_did_not_keep_the_promise(tmp_path: Path) -> None:
    faults = [{"room": 3}, {"room": 5}]
    made = parse({**config(slo={"ttft_s": "10s", "latency": "10s"}).tree(), "faults": faults})
    assert (made.slo.ttft_s, made.slo.latency_s) == (10.0, 10.0)
    summary = run(tmp_path, made).summary
    assert summary["requests"]["not_served"] == 2
    for name in ("ttft", "latency", "all"):
        assert summary["slo"][name]["value"] == pytest.approx(6 / 8)
    assert summary["slo"]["limits"] == {"ttft_s": 10.0, "latency_s": 10.0}


def test_a_limit_is_kept_by_those_below_it(tmp_path: Path) -> None:
    rows = run(tmp_path, config(requests=40), "first").requests()
    ttft_s = (rows["prefilled_s"] - rows["arrival_s"]).to_numpy()
    limit_s = float(np.median(ttft_s))
    summary = run(tmp_path, config(requests=40, slo={"ttft": limit_s}), "second").summary
    assert summary["slo"]["ttft"]["value"] == pytest.approx(np.mean(ttft_s <= limit_s))
    assert summary["slo"]["all"] == summary["slo"]["ttft"]
    assert summary["slo"]["latency"]["value"] is None


def test_limits_are_durations_above_zero() -> None:
    with pytest.raises(UserError, match=r"slo\.ttft"):
        config(slo={"ttft_s": 0})
    with pytest.raises(UserError, match=r"slo\.latency"):
        config(slo={"latency_s": "soon"})


@pytest.mark.real
def test_a_measured_run_has_the_same_figures(tmp_path: Path) -> None:
    """Also those of prefills that end after the last delivery: at most one request a pass, 0.05 s each."""
    pytest.importorskip("torch", reason="needs torch")
    pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")
    made = config(
        requests=12,
        workload={"rate_rps": 60.0},
        language={"base_s": PREFILL_S, "batch_tokens": 300, "pool_blocks": 64},
        slo={"ttft_s": "10s"},
    )
    summary = run_measured(made, tmp_path / "real")
    rows = StoredRun(tmp_path / "real").requests()
    assert (rows["prefilled_s"] >= rows["delivered_s"] + PREFILL_S - 1e-3).all()
    assert rows["prefilled_s"].max() - rows["prefilled_s"].min() >= 11 * PREFILL_S - 1e-3
    assert summary["slo"]["ttft"]["value"] == 1.0
    assert summary["ttft_s"]["mean"]["value"] > summary["latency_s"]["mean"]["value"] + PREFILL_S - 1e-3
    assert summary["invariant_violations"] == 0
