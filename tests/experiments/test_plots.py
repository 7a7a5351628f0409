import shutil
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.experiments.figures.directory import drawing
from bufferlab.experiments.figures.holdings import HOLDS, changes_of_holdings
from bufferlab.experiments.figures.runs import (
    _extremes,
    _time_means,
    latency_ecdf,
    plot_defaults,
    plot_pool_occupancy,
    sizing_curve,
)
from bufferlab.experiments.figures.style import (
    COLOURS,
    MAX_SHARES,
    new_figure,
    place_labels,
    png_bytes,
    save,
    shown_ranks,
    time_axis,
)
from bufferlab.experiments.figures.sweeps import plot_ecdf, plot_sweep, plot_tradeoff, plot_u_shape
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.simulate import run_sim, simulate_one
from bufferlab.experiments.sweeps.configuration import figures
from bufferlab.experiments.sweeps.plan import make_plan
from bufferlab.experiments.sweeps.sweep import Sweep, run_sweep
from bufferlab.experiments.workloads.loading import load


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[StoredRun]:
    folder = tmp_path_factory.mktemp("runs")
    made = []
    for tokens in (512, 2048):
        settings = ["workload.requests=40", "run.replications=2", f"protocol.sizing.tokens={tokens}"]
        run_sim(load("quickstart", settings), folder / str(tokens), draw=drawing())
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


@pytest.mark.parametrize("largest_s", [0.0123, 1.999, 98765.0])
def test_what_is_written_beside_the_panels_of_a_run_is_within_the_picture(
    runs: list[StoredRun], largest_s: float
) -> None:
    for figure in (
        latency_ecdf(runs, ["a", "b"]),
        plot_pool_occupancy(runs[0]),
        plot_pool_occupancy(runs[0], replication=None),
    ):
        for axes in figure.axes:
            if axes.get_xlabel():
                time_axis(axes, largest_s)
        png_bytes(figure)  # places the ticks
        boxes = [axes.get_tightbbox() for axes in figure.axes]
        for number, box in enumerate(boxes):
            assert box is not None
            assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
            assert 0 <= box.y0 < box.y1 <= figure.bbox.y1
            for other in boxes[:number]:
                assert other is not None
                assert not box.overlaps(other)


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


@pytest.mark.parametrize("rows", [1, 7, 100])
@pytest.mark.parametrize("replication", [None, 1])
def test_changes_of_holdings_do_not_depend_on_how_the_table_is_cut(
    rows: int, replication: int | None, runs: list[StoredRun], tmp_path: Path
) -> None:
    run = runs[0]
    table = pq.read_table(run.events_path)
    cut = StoredRun(shutil.copytree(run.path, tmp_path / "cut"))
    pq.write_table(table, cut.events_path, row_group_size=rows)
    held: dict[tuple[int, str], int] = {}
    expected: dict[tuple[int, str], list[tuple[float, int]]] = {}
    for number, record in run.records():
        if record.event.value in HOLDS and replication in {None, number}:
            key = number, record.rank_id, record.room
            blocks = -(-record.tokens // run.config.protocol.block_tokens) if record.event.value != "released" else 0
            change = blocks - held.get(key, 0)
            held[key] = blocks
            expected.setdefault((number, record.rank_id.side), []).append((record.time_s, change))
    found = changes_of_holdings(cut, replication)
    assert {key: list(zip(*map(np.ndarray.tolist, one), strict=True)) for key, one in found.items()} == expected
    assert any(value for value in expected.values())


@pytest.mark.parametrize("count", [1, 2, 7999, 8000, 8001, 100_000])
def test_a_distribution_is_drawn_through_its_ends_and_closely(count: int) -> None:
    ranks = shown_ranks(count)
    assert (ranks[0], ranks[-1], len(ranks)) == (1, count, min(count, MAX_SHARES))
    assert len(ranks) == 1 or 1 <= np.diff(ranks).min() <= np.diff(ranks).max() <= -(-count // (MAX_SHARES - 1))


def test_a_run_s_occupancy_over_time(runs: list[StoredRun]) -> None:
    single, whole = plot_pool_occupancy(runs[0]), plot_pool_occupancy(runs[0].path, replication=None)
    config = runs[0].config
    for axes, side in zip(single.axes, (config.language, config.encode), strict=True):
        assert f"{side.pool_blocks} blocks" in axes.get_title()
        held = np.asarray(axes.get_lines()[0].get_ydata())
        assert 0 < held.max() <= 100
        assert held[-1] == 0  # in the end everything was given back
    assert single.axes[1].get_xlabel() == "time (s)"
    replications = [simulate_one(config, number)[0] for number in (0, 1)]
    lengths = [end_s - start_s for start_s, end_s in (one.window_s for one in replications)]
    per_replication = [figures(one) for one in replications]
    for axes, side in zip(whole.axes, ("language_pool", "encode_pool"), strict=True):
        mean = np.asarray(axes.get_lines()[0].get_ydata(), dtype=float)
        # The same area under it as in the table: block-seconds, here over the time until the last replication ends.
        events = runs[0].events()
        ends = events[events["event"] != "prefilled"].groupby("replication")["time_s"].max()
        occupancy = [run_figures[f"{side}.mean_occupancy"] for run_figures in per_replication]
        expected = np.mean(np.array(occupancy) * np.array(lengths)) / ends.max()
        assert mean.mean() / 100 == pytest.approx(expected, rel=1e-6)
        legend = axes.get_legend()
        assert legend is not None
        assert "lowest to highest of 2" in [text.get_text() for text in legend.get_texts()]


@given(
    st.lists(st.tuples(st.floats(0, 10), st.integers(0, 100)), min_size=1, max_size=8, unique_by=lambda step: step[0])
)
def test_the_mean_of_a_step_function_over_stretches(steps: list[tuple[float, int]]) -> None:
    times, values = (np.array(side, dtype=float) for side in zip(*sorted(steps), strict=True))
    edges = np.linspace(0, 12, 7)
    means = _time_means(times, values, edges)
    area = float(np.sum(values * np.diff([*times, 12.0])))
    assert float(np.sum(means * np.diff(edges))) == pytest.approx(area, abs=1e-9)
    assert means.min() >= -1e-9
    assert means.max() <= values.max() + 1e-9


# --- sweeps ---


@pytest.fixture(scope="module")
def sweep() -> Sweep:
    configurations = [
        {"workload.preset": "mixed", "workload.rate_rps": 8.0},
        {"workload.preset": "text-only", "workload.rate_rps": 16.0},
    ]
    grid = {"protocol.sizing.tokens": [256, 1024, 4096]}
    settings = ["workload.requests=40", "language.poll_interval_s=20ms"]
    return run_sweep(
        make_plan("quickstart", configurations=configurations, grid=grid, settings=settings, replications=3), jobs=1
    )


def test_the_u_shape_shows_the_table(sweep: Sweep) -> None:
    figure = plot_u_shape(sweep.table)
    for axes, name in zip(figure.axes, ("latency_s.p99", "latency_s.mean"), strict=True):
        assert axes.get_xlabel() == "default allocation (tokens)"
        assert [text.get_text() for text in axes.get_xticklabels()] == ["256", "1024", "4096"]
        assert axes.get_title().endswith(("(ms)", "(s)"))
        curves = [line for line in axes.get_lines() if len(line.get_xdata()) > 1]  # type: ignore[arg-type]
        means = sweep.table.groupby("configuration")[name].mean().to_numpy()
        assert np.concatenate([line.get_ydata() for line in curves]) == pytest.approx(means)  # type: ignore[misc]
        # One star a curve, at its lowest point.
        stars = [line for line in axes.get_lines() if line.get_marker() == "*"]
        assert [line.get_ydata()[0] for line in stars] == pytest.approx([means[:3].min(), means[3:].min()])  # type: ignore[index]
        assert len(axes.collections) == 2  # a band each
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    # The rate goes with the workload, so it is not named.
    assert [name for name in names if name.strip()] == [
        "mixed", "lowest", "text-only", "may be the lowest (95 %)", "higher",
    ]  # fmt: skip


def test_a_relative_u_shape_is_paired(sweep: Sweep) -> None:
    figure = plot_u_shape(sweep.table, relative=True, figures=["latency_s.mean"])
    (axes,) = figure.axes
    curve = next(line for line in axes.get_lines() if len(line.get_xdata()) == 3)  # type: ignore[arg-type]
    part = sweep.table[sweep.table["configuration"] <= 3].pivot_table(
        index="configuration", columns="replication", values="latency_s.mean"
    )
    lowest = part.loc[part.mean(axis=1).idxmin()]
    assert list(curve.get_ydata()) == pytest.approx((100 * (part / lowest - 1)).mean(axis=1).tolist())  # type: ignore[arg-type]
    assert min(curve.get_ydata()) == 0  # type: ignore[type-var]
    assert "above the lowest (%)" in axes.get_title()


def test_the_u_shape_marks_what_failed(sweep: Sweep) -> None:
    table = sweep.table.copy()
    table.loc[table["configuration"] == 1, "requests.succeeded"] -= 1
    lost = plot_u_shape(table).axes[0]
    crosses = [line for line in lost.get_lines() if line.get_marker() == "X"]
    assert [line.get_xdata()[0] for line in crosses] == [256]  # type: ignore[index]
    assert "some requests failed" in [text.get_text() for text in plot_u_shape(table).legends[0].get_texts()]


def test_filled_points_may_be_the_lowest(sweep: Sweep) -> None:
    table = sweep.table[sweep.table["configuration"] <= 3].copy()
    # Replications differ by far more than sizes do, but all sizes in the same way.
    table["latency_s.p99"] = table["replication"] * 100.0 + table["configuration"].map({1: 1.0, 2: 1.0, 3: 9.0})
    table.loc[(table["configuration"] == 2) & (table["replication"] == 1), "latency_s.p99"] += 0.1
    axes = plot_u_shape(table).axes[0]
    points = [line for line in axes.get_lines() if len(line.get_xdata()) == 1]  # type: ignore[arg-type]
    faces = {int(line.get_xdata()[0]): line.get_markerfacecolor() for line in points}  # type: ignore[index]
    assert faces[4096] == "white"
    assert "white" not in (faces[256], faces[1024])


def test_the_tradeoff_of_one_curve_names_every_size_once(sweep: Sweep) -> None:
    table = sweep.table[sweep.table["configuration"] <= 3]
    axes = plot_tradeoff(table).axes[0]
    labels = [text for text in axes.texts if text.get_text()]
    assert [text.get_text() for text in labels] == ["256", "1024", "4096"]
    boxes = [text.get_window_extent() for text in labels]
    assert not any(one.overlaps(other) for number, one in enumerate(boxes) for other in boxes[:number])
    part = table.groupby("configuration")[["language_pool.wasted_fraction", "resume.rate"]].mean()
    assert np.column_stack(axes.get_lines()[0].get_data()) == pytest.approx(100 * part.to_numpy())


def test_the_tradeoff_of_several_curves_has_a_shape_for_every_size(sweep: Sweep) -> None:
    axes = plot_tradeoff(sweep.table).axes[0]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()][:3] == ["256", "1024", "4096"]
    points = [line for line in axes.get_lines() if len(np.atleast_1d(line.get_xdata())) == 1]
    shapes = [str(line.get_marker()) for line in points]
    curves = len(sweep.table["configuration"].unique()) // 3
    assert shapes == ["o", "s", "^"] * curves
    assert [text for text in axes.texts if text.get_text()] == []


def test_points_that_look_like_one_have_one_text() -> None:
    _, (axes,) = new_figure(1, 1, (4, 3))
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 10)
    place_labels(axes, [[(2, 2, "256"), (2.01, 2, "512"), (2, 2.01, "1024"), (8, 8, "2048")]], COLOURS)
    assert [text.get_text() for text in axes.texts] == ["256 … 1024", "2048"]


def test_the_occupancy_of_a_long_run_is_averaged_and_loses_no_peak() -> None:
    rng = np.random.default_rng(4)
    times, values = np.sort(rng.uniform(0, 9, 5000)), rng.integers(0, 50, 5000).astype(float)
    edges = np.linspace(0, 9, 301)
    low, high = _extremes(times, values, edges)
    for place in (0, 1, 150, 298):
        inside = (times >= edges[place]) & (times < edges[place + 1])
        earlier = values[times <= edges[place]]
        expected = [*values[inside], earlier[-1] if len(earlier) else 0.0]
        assert (low[place], high[place]) == (min(expected), max(expected))
    assert high.max() == values.max()


def test_the_distribution_of_configurations_and_of_runs(sweep: Sweep, runs: list[StoredRun]) -> None:
    figure = plot_ecdf(sweep.quantiles[sweep.quantiles["configuration"] <= 3])
    body, tail = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["tokens 256", "tokens 1024", "tokens 4096"]
    assert len(body.get_lines()) == len(tail.get_lines()) == 3
    assert "latency, arrival to delivered" in body.get_xlabel()
    two = plot_ecdf([runs[0], runs[1].path], labels=["a", "b"], quantity="transfer_s")
    curve = two.axes[0].get_lines()[1]
    table = runs[1].requests()
    table["taken_s"] = table["delivered_s"] - table["encoded_s"]
    each = [one["taken_s"].dropna() for _, one in table.groupby("replication")]
    times, shares = (np.asarray(one, dtype=float) for one in curve.get_data())
    for time, share in list(zip(times, shares, strict=True))[1:]:  # it begins with a step up from none
        assert share == pytest.approx(100 * np.mean([(one <= time).mean() for one in each]))
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(100)
    assert times[-1] == table["taken_s"].max() < two.axes[0].get_xlim()[1]


def test_too_many_curves_are_refused(sweep: Sweep) -> None:
    many = sweep.table.copy()
    many["protocol.reserve_blocks"] = many["configuration"]
    many = pd.concat([many.assign(**{"protocol.reserve_blocks": number}) for number in range(8)])
    with pytest.raises(ValueError, match="at most 7 can be told apart"):
        plot_u_shape(many)
    with pytest.raises(ValueError, match="at most 7 can be told apart"):
        plot_ecdf(pd.concat([sweep.quantiles.assign(**{"language.tp": number}) for number in range(8)]))


def test_the_figures_of_a_sweep_repeat(sweep: Sweep, tmp_path: Path) -> None:
    first = plot_sweep(sweep.table, lambda: sweep.quantiles, tmp_path / "a")
    second = plot_sweep(sweep.table, lambda: sweep.quantiles, tmp_path / "b")
    assert [path.name for path in first] == ["u_shape.png", "tradeoff.png", "ecdf.png"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_figure_leaves_the_style_of_the_process_alone(sweep: Sweep) -> None:
    before = dict(mpl.rcParams)
    plot_tradeoff(sweep.table)
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("count", [3, 9, 14])
def test_the_numbers_of_a_token_axis_do_not_touch(sweep: Sweep, count: int) -> None:
    sizes = [128 * 2**number for number in range(count)]
    part = sweep.table[sweep.table["configuration"] == 1]
    table = pd.concat([part.assign(**{"protocol.sizing.tokens": size}) for size in sizes])
    figure = plot_u_shape(table)
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.get_xticklabels() if text.get_text()]
        assert len(boxes) > 2
        assert not any(one.overlaps(other) for number, one in enumerate(boxes) for other in boxes[:number])
