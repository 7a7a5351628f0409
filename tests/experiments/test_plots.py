from pathlib import Path

import pytest

from experiments.loading import load
from experiments.plots import latency_ecdf, plot_defaults, save, sizing_curve
from experiments.rundir import StoredRun
from experiments.runner import run_sim


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[StoredRun]:
    folder = tmp_path_factory.mktemp("runs")
    made = []
    for tokens in (512, 2048):
        settings = ["workload.requests=40", "run.replications=2", f"protocol.sizing.tokens={tokens}"]
        run_sim(load("quickstart", settings), folder / str(tokens))
        made.append(StoredRun(folder / str(tokens)))
    return made


def test_a_run_has_its_figures(runs: list[StoredRun]) -> None:
    assert sorted(path.name for path in (runs[0].path / "plots").iterdir()) == ["latency.png", "pools.png"]


def test_the_latency_figure_has_labels_with_units(runs: list[StoredRun]) -> None:
    figure = latency_ecdf(runs, ["a", "b"])
    left, right = figure.axes
    assert left.get_ylabel() == "share of delivered requests"
    assert right.get_xlabel() in {"time (s)", "time (ms)"}
    legend = right.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    # Every delivered request is in the curve.
    curve = left.get_lines()[0]
    assert len(curve.get_xdata()) == runs[0].summary["requests"]["succeeded"] + 1  # type: ignore[arg-type]


def test_the_sizing_figure_shows_the_summaries(runs: list[StoredRun]) -> None:
    figure = sizing_curve(runs)
    latency, resumed, wasted = figure.axes
    shown = resumed.get_lines()[0]
    assert list(shown.get_xdata()) == [512, 2048]  # type: ignore[arg-type]
    rates = [100 * run.summary["resume"]["rate"]["value"] for run in runs]
    assert list(shown.get_ydata()) == pytest.approx(rates)  # type: ignore[arg-type]
    assert wasted.get_xlabel() == "default allocation (tokens)"
    assert "(ms)" in latency.get_title()
    medians = [1e3 * run.summary["latency_s"]["p50"]["value"] for run in runs]
    assert list(latency.get_lines()[0].get_ydata()) == pytest.approx(medians)  # type: ignore[arg-type]


def test_figures_are_written_and_repeat(runs: list[StoredRun], tmp_path: Path) -> None:
    first = plot_defaults([run.path for run in runs], tmp_path / "a.png")
    second = save(sizing_curve(runs), tmp_path / "deep" / "b.png")
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(b"\x89PNG")
