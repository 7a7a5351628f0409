"""The demo's own promises; the two worlds it calls are tested elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.calibration.profiles import NoProfileError
from bufferlab.experiments.commands.demonstration import both_worlds as demo
from bufferlab.experiments.commands.demonstration.forecast import FIGURES, Outcome, forecast, verdicts
from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.busy import Busy
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.experiments.validation import freeze, score_case
from bufferlab.experiments.workloads.loading import load

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
        for name in ("p50", "p90", "p99"):
            one = row[name]
            # What is "measured" is simulated with the same profile, whose durations do not vary.
            assert one["error"] == pytest.approx(0.0, abs=1e-9)
            assert one["noise"] == pytest.approx(0.0, abs=1e-9)
            assert len(one["repeats_s"]) == 2
            assert row[name]["verdict"] == "within the tolerance"
        line = next(line.split() for line in text.splitlines() if line.split()[:2] == [tokens, "p50"])
        assert line[2] == line[3] == line[6] == f"{1e3 * found['mixed'][tokens]['p50']['predicted_s']:.1f}"
    for name, allowed in (("p50", "5%"), ("p90", "10%"), ("p99", "10%")):
        assert f"{name}, tolerance {allowed}: of 2 predictions 2 within the tolerance; the furthest off is " in text
    assert f"bufferlab validate {out}/real-[0-9]* --profile {out}/host.toml --stages" in text
    assert {path.name for path in out.glob("real-[0-9]*")} == {
        f"real-{size}-{n}" for size in (512, 1024) for n in (0, 1)
    }
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


def outcome(error: float, said: str) -> Outcome:
    return Outcome(1 + error, 1.0, (1.0,), None, error, (1.0, 1.1), (None, None), said)


def test_every_figure_is_summed_up_alike_and_the_furthest_off_is_named() -> None:
    rows = {
        512: {name: outcome(0.04, "within the tolerance") for name in FIGURES},
        8192: {"p50": outcome(0.0, "within the tolerance"), "p90": outcome(-0.249, "off"),
               "p99": outcome(-0.3, "not told apart")},
    }  # fmt: skip
    assert verdicts(rows) == [
        "p50, tolerance 5%: of 2 predictions 2 within the tolerance; the furthest off is +4.0%, at a default of 512",
        "p90, tolerance 10%: of 2 predictions 1 off, 1 within the tolerance; the furthest off is -24.9%, at a default of 8192",
        "p99, tolerance 10%: of 2 predictions 1 not told apart, 1 within the tolerance; the furthest off is -30.0%, at a default "
        "of 8192",
    ]


def test_the_demo_predicts_of_a_run_what_validate_does(tmp_path: Path) -> None:
    """To the last bit, though what a host does varies from simulation to simulation."""
    profile = tmp_path / "mine.toml"
    profile.write_text(HOST + "write_spread = [0.5, 1.0, 2.0]\n", encoding="utf-8")
    frozen = freeze(profile)
    config = load("demo", [f"link.profile={profile}", "workload.requests=30"])
    folders = [tmp_path / f"real-1024-{number}" for number in range(3)]
    made = forecast(config, frozen, [one.name for one in folders])
    for folder in folders:  # as if they had been measured
        run_sim(config, folder)
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        (folder / "summary.json").write_text(json.dumps(summary | {"kind": "real"}), encoding="utf-8")
    case = score_case(folders, frozen)
    for one in case.scores.figures:
        if one.name in FIGURES:
            assert made.figure_s(one.name) == one.predicted
            low, high = made.spread_s(one.name)
            assert low < one.predicted < high


# --- a busy host ---


def host(monkeypatch: pytest.MonkeyPatch, *met: Busy, fails: bool = False) -> None:
    """A host that is as busy as that when it is measured, and of which no profile can be made if it ``fails``."""
    busy = iter(met)

    def fit(folder: Path, busy: Busy, *, out: Path, **_: Any) -> Any:
        if fails:
            raise NoProfileError("no single law describes all that is fitted")
        out.write_text(HOST, encoding="utf-8")

    monkeypatch.setattr(demo, "why_no_real", lambda: "")
    monkeypatch.setattr(demo, "run_measured", run_sim)
    monkeypatch.setattr(demo, "measure_here", lambda folder, step: next(busy))
    monkeypatch.setattr(demo, "fit_here", fit)


def test_a_host_that_is_too_busy_for_any_profile_is_told_and_the_demo_ends_with_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host(monkeypatch, Busy(2, 30.0, 0.6, 0.0), Busy(2, 30.0, 0.7, 0.0), fails=True)
    found = demo.run_demo(tmp_path / "demo", requests=20, defaults=(512,), rounds=2)
    text = capsys.readouterr().out
    assert text.count("It is measured once more") == 1
    assert "THIS HOST IS TOO BUSY TO BE MEASURED: other programs took 70%" in text
    assert "The shipped profile tcp-loopback predicts instead, which is of another host" in text
    assert "bufferlab validate " in text
    assert found["profile"] == "tcp-loopback"
    assert found["busy"]["measuring_host"]["others"] == 0.7


def test_of_two_profiles_of_a_busy_host_the_less_disturbed_one_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host(monkeypatch, Busy(2, 30.0, 0.4, 0.0), Busy(2, 30.0, 0.5, 0.0))
    found = demo.run_demo(tmp_path / "demo", requests=20, defaults=(512,), rounds=2)
    assert found["profile"] == str(tmp_path / "demo" / "host.toml")
    host(monkeypatch, Busy(2, 30.0, 0.4, 0.0), Busy(2, 30.0, 0.02, 0.0))
    found = demo.run_demo(tmp_path / "again", requests=20, defaults=(512,), rounds=2)
    assert found["profile"] == str(tmp_path / "again" / "host-again.toml")
    assert "TOO BUSY" not in capsys.readouterr().out.split("once more")[-1]


def test_it_does_not_write_into_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UserError, match="must be a new or empty folder"):
        demo.run_demo(tmp_path)
    assert (tmp_path / "mine").read_text() == "precious"
