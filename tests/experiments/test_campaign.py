"""The campaign, with the simulator in the place of Mooncake: then the prediction is what was "measured"."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bufferlab.experiments.calibration import here
from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.experiments.validation import campaign

TOOL = Path(__file__).parents[2] / "tools" / "campaign.py"


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("campaign_tool", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []

    def simulate(config: Config, target: Path) -> object:
        names.append(config.run.name)
        return run_sim(config, target)

    monkeypatch.setattr(here, "run_measured", simulate)
    return names


def test_what_the_simulator_measures_it_predicts(
    tool: ModuleType, measured: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{tool.BEGIN}\nold\n{tool.END}\nafter\n", encoding="utf-8")
    command = [str(tmp_path / "c"), "--rounds", "2", "--cases", "default-1024,load-low", "--page", str(page)]
    assert tool.main(command) == 0
    assert len(measured) == 2 * (len(campaign.CALIBRATING) + 2)
    table = capsys.readouterr().out
    rows = [line for line in table.splitlines() if line.startswith(("| default-1024", "| load-low"))]
    assert len(rows) == 2
    for row in rows:
        biases = [abs(float(row.split("|")[column].split("%")[0])) for column in (3, 6, 9)]
        assert max(biases) < 0.2
        assert "off" not in row
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert rows[0] in text
    assert "\nold\n" not in text
    assert (tmp_path / "page.png").stat().st_size > 10_000
    rounds = (tmp_path / "page-rounds.csv").read_text(encoding="utf-8").splitlines()
    assert rounds[0] == "case,round,requests,figure,measured,predicted"
    assert len(rounds) == 1 + 2 * 2 * 4  # cases, rounds, figures
    for row in rounds[1:]:
        measured_s, predicted_s = map(float, row.split(",")[4:])
        assert predicted_s == pytest.approx(measured_s, rel=2e-3)

    measured.clear()
    assert tool.main(command) == 0
    assert measured == []
    assert tool.main([command[0], "--rounds", "3", "--cases", "load-low", "--only-score"]) == 2, (
        "its third round is not there"
    )
    assert measured == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--page", "none.md"], "--page is 'none.md', which cannot be read: No such file or directory."),
        (["--page", "folder"], "--page is 'folder', which cannot be read: Is a directory."),
        (["--page", "bare.md"], "it must have the marks <!-- campaign: begin --> and <!-- campaign: end -->."),
        (["--page", "full.md"], "the file beside --page is 'full-rounds.csv', it must be a file in a folder that can"),
        (["--page", "binary.md"], "--page is 'binary.md', which is not UTF-8 text."),
        (["--only-score"], "FOLDER is 'c', which holds no campaign to score; leave out --only-score"),
    ],
)
def test_what_the_end_needs_is_looked_at_before_anything_is_measured(
    tool: ModuleType, measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("bare.md").write_text("no marks", encoding="utf-8")
    Path("binary.md").write_bytes(b"\xff")
    Path("full.md").write_text(f"{tool.BEGIN}{tool.END}", encoding="utf-8")
    Path("full-rounds.csv").mkdir()
    before = sorted(Path().rglob("*"))
    assert tool.main(["c", *arguments]) == 2
    ended = capsys.readouterr()
    assert ended.out == ""
    assert ended.err.startswith("campaign: ")
    assert sentence in ended.err
    assert ended.err.count("\n") == 1
    assert measured == []
    assert sorted(Path().rglob("*")) == before


def test_a_folder_that_cannot_be_made_is_said_first(
    tool: ModuleType, measured: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert tool.main([str(tmp_path / "file" / "c")]) == 2
    assert "it must be a folder that can be written" in capsys.readouterr().err
    assert measured == []


def test_rounds_are_shuffled_alike_every_time_and_loads_follow_the_capacity(
    measured: list[str], tmp_path: Path
) -> None:
    cases = campaign.chosen_cases("load-")
    orders = []
    for name in ("one", "two"):
        measured.clear()
        campaign.measure(tmp_path / name, cases, 2, lambda _: None)
        orders.append(list(measured))
    assert orders[0] == orders[1]
    rates = [
        StoredRun(campaign.run_folder(tmp_path / "one", f"load-{load}", 1)).config.workload.rate_rps
        for load in ("low", "high")
    ]
    capacity = StoredRun(campaign.run_folder(tmp_path / "one", "capacity", 0)).summary["throughput_rps"]
    reached = capacity["value"] if isinstance(capacity, dict) else capacity
    assert rates == pytest.approx([0.2 * reached, 0.85 * reached], rel=0.02)


def test_a_case_that_is_not_there(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main([str(tmp_path / "c"), "--cases", "nothing"]) == 2
    assert "--cases is 'nothing', it must name some of default-256" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
    assert tool.main([str(tmp_path / "c"), "--rounds", "1"]) == 2


def test_the_rounds_beside_a_page_are_judged_anew_without_a_run(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = Path(__file__).parents[2] / "docs"
    for name in ("campaign.md", "campaign.csv", "campaign-rounds.csv"):
        (tmp_path / name).write_text((docs / name).read_text(encoding="utf-8"), encoding="utf-8")
    page = tmp_path / "campaign.md"
    assert tool.main(["--rescore", "--page", str(page)]) == 0
    counted = capsys.readouterr().out.strip()
    assert counted.startswith("Of 57 figures: ")
    # What stands in the documentation is what the command makes of the rounds.
    assert page.read_text(encoding="utf-8") == (docs / "campaign.md").read_text(encoding="utf-8")
    assert (tmp_path / "campaign.csv").read_text(encoding="utf-8") == (docs / "campaign.csv").read_text(
        encoding="utf-8"
    )
    assert counted in page.read_text(encoding="utf-8")
    assert (tmp_path / "campaign.png").stat().st_size > 10_000
    # Half of the biases of a case moved up by a tenth: its interval widens, and its verdict is another.
    rounds = tmp_path / "campaign-rounds.csv"
    lines = rounds.read_text(encoding="utf-8").splitlines()
    moved = []
    for line in lines:
        case, number, *rest, predicted = line.split(",")
        if case == "serving-512" and int(number) % 2 and "p50_s" in rest:
            line = ",".join([case, number, *rest, str(1.1 * float(predicted))])
        moved.append(line)
    rounds.write_text("\n".join(moved) + "\n", encoding="utf-8")
    assert tool.main(["--rescore", "--page", str(page)]) == 0
    row = next(line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| serving-512"))
    assert "**not told apart**" in row
    (tmp_path / "campaign.csv").unlink()
    assert tool.main(["--rescore", "--page", str(page)]) == 2
    assert "--rescore needs" in capsys.readouterr().err
