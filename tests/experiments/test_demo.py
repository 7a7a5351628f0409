"""The demo's own promises; the two worlds it calls are tested elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments import demo
from experiments.errors import UserError
from experiments.rundir import StoredRun


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


def test_it_does_not_write_into_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UserError, match="must be a new or empty folder"):
        demo.run_demo(tmp_path)
    assert (tmp_path / "mine").read_text() == "precious"
