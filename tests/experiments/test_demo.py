"""The demo's own promises; the two worlds it calls are tested elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.commands.demonstration import both_worlds as demo
from bufferlab.experiments.commands.demonstration.forecast import Outcome, verdict
from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.busy import Busy
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.simulate import run_sim

HOST = """
latency_s = 0.4e-3
per_segment_s = 0.1e-3
bandwidth_Bps = 1.5e9
control_latency_s = 0.3e-3
copy_bandwidth_Bps = 6e9
submit_latency_s = 1e-3
shared_by = "rank"
[host]
processors = 2
input_s = 0.1e-3
"""


@pytest.fixture
def simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    monkeypatch.setattr(demo, "why_no_real", lambda: "Mooncake is not installed")
    found = demo.run_demo(tmp_path / "demo", requests=30, defaults=(512, 1024))
    return found, capsys.readouterr().out


def test_without_the_real_backend_the_simulator_runs_alone_and_says_so(simulated: tuple[Any, str]) -> None:
    found, out = simulated
    assert out.startswith("The simulator runs alone: Mooncake is not installed\n")
    assert found["real"] == "Mooncake is not installed"
    assert found["passed"]
    assert "Mooncake ---" not in out


def test_the_seed_scenarios_take_their_status_paths(simulated: tuple[Any, str]) -> None:
    found, out = simulated
    paths = {name: seed["paths"]["sim"] for name, seed in found["seeds"].items()}
    assert paths["seed-small"] == "WaitingForInput → Success (0)"
    assert paths["seed-resume"] == "WaitingForInput → Transferring → Success (0, 1024)"
    assert paths["seed-failure"].split(" (")[0].endswith("→ Failed")
    assert all(path in out for path in paths.values())


def test_every_default_has_a_row_a_run_directory_and_a_place_in_the_plot(simulated: tuple[Any, str]) -> None:
    found, out = simulated
    assert list(found["mixed"]) == ["512", "1024"]
    assert all(row["sim"]["requests"]["succeeded"] == 30 for row in found["mixed"].values())
    assert Path(found["plot"]).read_bytes().startswith(b"\x89PNG")
    assert [StoredRun(path).kind for path in found["runs"]] == ["sim"]
    lines = out.splitlines()
    assert any(line.split()[:1] == ["512"] for line in lines)


# --- with the real backend: predicted, then measured ---


def test_every_row_is_predicted_before_it_is_measured_and_both_are_told_with_the_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    measured: list[Path] = []

    def simulate(config: Config, target: Path, **options: Any) -> Any:
        if "seed" not in target.name:
            # Nothing of a row is measured before all rows are predicted.
            assert set(json.loads((out / "predictions.json").read_text(encoding="utf-8"))["rows"]) == {"512", "1024"}
            measured.append(target)
        return run_sim(config, target, **options)

    def fit(folder: Path, busy: Busy, *, out: Path, **_: Any) -> Any:
        out.write_text(HOST, encoding="utf-8")
        return {"busy": busy.content()}

    monkeypatch.setattr(demo, "why_no_real", lambda: "")
    monkeypatch.setattr(demo, "run_measured", simulate)
    monkeypatch.setattr(demo, "measure_here", lambda folder, step: Busy(2, 30.0, 0.4, 0.0))
    monkeypatch.setattr(demo, "fit_here", fit)
    found = demo.run_demo(out, requests=30, defaults=(512, 1024), rounds=2)
    assert found["passed"]
    text = capsys.readouterr().out
    assert "THIS HOST IS TOO BUSY TO BE MEASURED: other programs took 40%" in text
    assert text.index("before any of it is measured") < text.index("Measured over Mooncake, 2 times each")
    # Every row once in each round, in an order of its own.
    assert sorted(path.name for path in measured[:2]) == ["real-1024-0", "real-512-0"]
    assert len(measured) == 4
    for tokens, row in found["mixed"].items():
        for name in ("p50", "p90"):
            one = row[name]
            # What is "measured" is simulated with the same profile, whose durations do not vary.
            assert one["error"] == pytest.approx(0.0, abs=1e-9)
            assert one["noise"] == pytest.approx(0.0, abs=1e-9)
            assert len(one["repeats_s"]) == 2
        line = next(line.split() for line in text.splitlines() if line.split()[:1] == [tokens] and "+0.0" in line)
        assert line[1] == line[2] == f"{1e3 * found['mixed'][tokens]['p50']['predicted_s']:.1f}"
    assert "p50: 2 of 2 predictions are within 10% of what was measured" in text
    assert Path(found["plot"]).read_bytes().startswith(b"\x89PNG")
    assert StoredRun(found["runs"][0]).config.link.profile == str(out / "host.toml")


def test_with_a_profile_this_host_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text(HOST, encoding="utf-8")
    monkeypatch.setattr(demo, "why_no_real", lambda: "")
    monkeypatch.setattr(demo, "run_measured", run_sim)
    monkeypatch.setattr(demo, "measure_here", None)
    found = demo.run_demo(tmp_path / "demo", requests=20, defaults=(512,), rounds=1, profile=str(profile))
    assert found["profile"] == str(profile)
    assert found["mixed"]["512"]["p50"]["noise"] is None  # nothing to tell it by
    with pytest.raises(UserError, match="--profile is 'nothing'"):
        demo.run_demo(tmp_path / "other", profile="nothing")
    assert not (tmp_path / "other").exists()


def test_the_furthest_off_is_named() -> None:
    rows = {
        512: {"p50": Outcome(1.04, 1.0, (1.0,), None, 0.04)},
        8192: {"p50": Outcome(0.7, 1.0, (1.0,), None, -0.3)},
    }
    assert verdict(rows, 0.1) == (
        "p50: 1 of 2 predictions are within 10% of what was measured; the furthest off is -30.0 %, at a default of 8192"
    )


def test_it_does_not_write_into_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UserError, match="must be a new or empty folder"):
        demo.run_demo(tmp_path)
    assert (tmp_path / "mine").read_text() == "precious"
