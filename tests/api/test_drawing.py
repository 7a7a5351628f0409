"""Several results on one axes: colours, keys and limits; which curves of a sweep are drawn, and what they are called."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

import bufferlab as bl
from bufferlab.experiments.figures.style import COLOURS

NAMES = ["small", "middle", "large"]
TOKENS = "protocol.sizing.tokens"
POLICY = "protocol.sizing.policy"
MINE = """
from bufferlab.protocol.sizing import RequestView, SizingPolicy


class Mine(SizingPolicy):
    def first_tokens(self, view: RequestView) -> int:
        return 1024
"""


@pytest.fixture(autouse=True)
def _pictures() -> Iterator[None]:
    mpl.use("agg")
    yield
    from matplotlib import pyplot

    pyplot.close("all")


@pytest.fixture(scope="module")
def runs() -> list[bl.Run]:
    # The last one is far slower than the others.
    rates = (4.0, 8.0, 400.0)
    return [
        bl.simulate("ustudy", {TOKENS: tokens}, workload={"requests": 60, "rate_rps": rate}, replications=2)
        for tokens, rate in zip((512, 2048, 8192), rates, strict=True)
    ]


@pytest.fixture(scope="module")
def sweeps() -> list[bl.Sweep]:
    return [
        bl.sweep("ustudy", {TOKENS: sizes}, workload={"requests": 30, "rate_rps": rate}, replications=2, jobs=1)
        for sizes, rate in (([256, 1024], 8.0), ([512, 4096], 8.0), ([512, 8192], 300.0))
    ]


def new_axes() -> Axes:
    from matplotlib import pyplot

    axes: Axes = pyplot.subplots()[1]
    return axes


def named_colours(axes: Axes) -> dict[str, str]:
    """The colour of each line that a key names."""
    handles, names = axes.get_legend_handles_labels()
    first: list[Any] = [getattr(one, "lines", [one])[0] for one in handles]  # of a curve with bars
    return {name: to_hex(one.get_color()) for name, one in zip(names, first, strict=True)}


def check_three(axes: Axes, names: Sequence[str] = NAMES) -> None:
    legend = axes.get_legend()
    assert legend is not None
    assert [one.get_text() for one in legend.get_texts()] == list(names)
    assert list(named_colours(axes).values()) == [to_hex(f"C{place}") for place in range(len(names))]
    bands = [to_hex(one.get_facecolor()[0]) for one in axes.collections if len(one.get_facecolor())]
    assert set(bands) <= set(named_colours(axes).values()), "a band has the colour of its line"


RUN_PLOTS: dict[str, Callable[[bl.Run], Callable[..., Axes]]] = {
    "ecdf": lambda run: run.plot.ecdf,
    "tail": lambda run: run.plot.tail,
    "pools": lambda run: run.plot.pools,
}


@pytest.mark.parametrize("name", RUN_PLOTS)
def test_three_runs_on_one_axes_have_three_colours_and_names(runs: list[bl.Run], name: str) -> None:
    axes = new_axes()
    for run, label in zip(runs, NAMES, strict=True):
        assert RUN_PLOTS[name](run)(ax=axes, label=label) is axes
    check_three(axes)
    low, high = axes.get_xlim()
    for run in runs:
        alone = RUN_PLOTS[name](run)().get_xlim()
        assert low <= alone[0] + 1e-6, "none is cut"
        assert alone[1] <= high + 1e-6, "none is cut"
    # One that was given does not use up the next of the axes.
    RUN_PLOTS[name](runs[0])(ax=axes, label="given", color="red")
    RUN_PLOTS[name](runs[0])(ax=axes, label="next")
    assert named_colours(axes) | {"given": to_hex("red"), "next": to_hex("C3")} == named_colours(axes)


def test_all_replications_of_three_runs_have_three_colours_and_names(runs: list[bl.Run]) -> None:
    axes = new_axes()
    for run, label in zip(runs, NAMES, strict=True):
        run.plot.pools(ax=axes, label=label, replication=None)
    check_three(axes)
    assert axes.get_title() == "Language pool: 320 blocks"
    runs[0].plot.pools(ax=axes, side="encode", label="other")
    assert axes.get_title() == "Encode pools"


def test_the_unit_of_an_axis_is_that_of_all_that_is_on_it(runs: list[bl.Run]) -> None:
    slow = max(runs, key=lambda run: float(run.summary.loc["latency_s.p99", "value"]))
    axes = new_axes()
    for run in (slow, *(one for one in runs if one is not slow)):
        run.plot.ecdf(ax=axes)
    assert axes.get_xlabel() == slow.plot.ecdf().get_xlabel()


@pytest.mark.parametrize("name", ["ecdf", "tail", "u_shape", "tradeoff"])
def test_three_sweeps_on_one_axes_have_as_many_colours_as_curves(sweeps: list[bl.Sweep], name: str) -> None:
    axes = new_axes()
    each = 1 if name in ("u_shape", "tradeoff") else 2
    names = [[f"{label} {place}" for place in range(each)] for label in NAMES]
    for sweep, labels in zip(sweeps, names, strict=True):
        assert getattr(sweep.plot, name)(ax=axes, labels=labels) is axes
    check_three(axes, [one for some in names for one in some])
    if name == "u_shape":
        assert set(axes.get_xticks()) == {256, 512, 1024, 4096, 8192}
    for own, low, high in ((sweep, *axes.get_ylim()) for sweep in sweeps):
        alone = getattr(own.plot, name)().get_ylim()
        assert low <= alone[0] + 1e-6
        assert alone[1] <= high + 1e-6


def test_three_comparisons_on_one_axes_have_six_colours(runs: list[bl.Run]) -> None:
    same = [bl.simulate(runs[0].config, {TOKENS: tokens}) for tokens in (256, 1024, 4096)]
    for name in ("ecdf", "tail"):
        axes = new_axes()
        for other in same:
            getattr(bl.paired(runs[0], other).plot, name)(ax=axes)
        tokens = [f"tokens {one}" for other in (256, 1024, 4096) for one in (512, other)]
        assert [one.get_text() for one in axes.get_legend().get_texts()] == tokens  # type: ignore[union-attr]
        assert len({line.get_color() for line in axes.get_lines()}) == 6


def test_three_validations_on_one_axes_have_three_colours(runs: list[bl.Run]) -> None:
    axes = new_axes()
    for profile, label in zip(("tcp-loopback", "cx7-400g", "tcp-loopback"), NAMES, strict=True):
        bl.validate(runs[0], profile).plot.qq(ax=axes, label=label)
    check_three(axes)


def test_new_axes_have_our_colours_and_settings_of_the_process_stay(runs: list[bl.Run]) -> None:
    before = dict(mpl.rcParams)
    axes = runs[0].plot.ecdf(label="first")
    runs[1].plot.ecdf(ax=axes, label="second")
    assert list(named_colours(axes).values()) == [to_hex(one) for one in COLOURS[:2]]
    assert dict(mpl.rcParams) == before


# --- which curves of a sweep ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> bl.Sweep:
    file = tmp_path_factory.mktemp("mine") / "mine.py"
    file.write_text(MINE)
    return bl.sweep(
        "ustudy", {POLICY: ["fixed", f"{file}:Mine"], "protocol.discipline": ["window", "exact_announce"],
                   "language.pool_blocks": [300, 400]},
        workload={"requests": 20}, replications=2, jobs=1,
    )  # fmt: skip


def keyed(axes: Axes) -> list[str]:
    return axes.get_legend_handles_labels()[1]


def test_configurations_are_selected_by_number_and_by_setting(crossed: bl.Sweep) -> None:
    with pytest.raises(bl.UserError, match="there are 8 curves, at most 7 can be told apart; choose some with select"):
        crossed.plot.ecdf()
    by_number = crossed.plot.ecdf(select=[1, 5])
    assert keyed(by_number) == ["fixed", "mine.py:Mine"]
    by_setting = crossed.plot.tail(select={"language.pool_blocks": 300, "protocol.discipline": "window"})
    assert keyed(by_setting) == ["fixed", "mine.py:Mine"]
    assert len(crossed.plot.tail(select={POLICY: ["mine.py:Mine"]}).get_lines()) == 4
    assert keyed(crossed.plot.ecdf(select=3, labels=["third"])) == ["third"]
    drawn = by_number.get_lines()[1]
    alone = crossed.plot.ecdf(select=5).get_lines()[0]
    assert np.array_equal(np.asarray(drawn.get_xdata()), np.asarray(alone.get_xdata()))
    assert len(crossed.plot.u_shape(x="language.pool_blocks", select={POLICY: "fixed"}, labels=["a", "b"]).lines) >= 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"select": [9]}, "select has the configuration 9, it must be a number from 1 to 8"),
        ({"select": []}, "select is empty"),
        ({"select": {"protocol.disciplin": "window"}}, r"\(did you mean protocol.discipline\?\)"),
        ({"select": {"protocol.discipline": "widow"}}, "'widow', it must be one of window, exact_announce"),
        ({"select": {"protocol.discipline": []}}, "has no values for protocol.discipline"),
        ({"select": [1, 5], "labels": ["one"]}, "labels has 1, it must be a list with one for each of the 2 curves"),
        ({"select": [1, 5], "colors": "red"}, "colors is 'red', it must be a list"),
    ],
)
def test_a_selection_that_there_is_not_is_refused(crossed: bl.Sweep, options: dict[str, Any], said: str) -> None:
    with pytest.raises(bl.UserError, match=said):
        crossed.plot.ecdf(**options)


def test_a_configuration_of_a_sweep_is_run_again(crossed: bl.Sweep, tmp_path: Path) -> None:
    """In the session that made it, and from its folder."""
    for sweep in (crossed, bl.read(crossed.path, bl.Sweep)):
        for number in (2, 7):
            run = bl.simulate(sweep.config(number))
            summary = crossed.summary.loc[number]
            for name in ("latency_s.p99", "resume.rate", "language_pool.wasted_fraction"):
                assert run.summary.loc[name, "value"] == summary[name]
    with pytest.raises(bl.UserError, match="configuration is 9, it must be a number from 1 to 8"):
        crossed.config(9)
    own = tmp_path / "mine.py"
    own.write_text(MINE)
    changed = bl.sweep("ustudy", {POLICY: [f"{own}:Mine"]}, workload={"requests": 5}, replications=1, jobs=1)
    own.write_text(MINE.replace("1024", "2048"))
    with pytest.raises(bl.UserError, match="cannot be made again as it was: an input file has changed"):
        changed.config(1)


def test_the_differences_of_a_sweep_are_a_table(crossed: bl.Sweep) -> None:
    table = crossed.differences
    for entry in crossed.content["configurations"]:
        for figure, found in entry.get("differences", {}).items():
            row = table.loc[(entry["configuration"], figure)]
            assert row["baseline"] == entry["baseline"]
            for name, key in (("difference", "value"), ("low", "low"), ("value", "second")):
                assert row[name] == found[key] or (np.isnan(row[name]) and found[key] is None)
            assert row["significant"] == bool(found["significant"])
    assert table["significant"].dtype == bool
    # Of the same requests, so it is the difference of the means.
    means = crossed.table.groupby("configuration")["latency_s.mean"].mean()
    assert table.loc[(2, "latency_s.mean"), "difference"] == pytest.approx(means[2] - means[1])
    assert not table[table["significant"]].index.has_duplicates


def test_axes_are_in_the_unit_that_they_name_whatever_is_done_to_them(
    runs: list[bl.Run], sweeps: list[bl.Sweep]
) -> None:
    for drawn in (runs[0].plot.ecdf(), runs[0].plot.tail()):
        drawn.set_xscale("linear")
        drawn.figure.canvas.draw()
        assert drawn.get_xlabel().endswith("(s)")
        ticks = [one for one in drawn.get_xticklabels() if one.get_text()]
        assert all(float(one.get_text().replace("−", "-")) == pytest.approx(one.get_position()[0]) for one in ticks)
    drawn = sweeps[0].plot.u_shape()
    assert drawn.get_ylabel() == "p99 latency, arrival to delivered (s)"
    assert drawn.get_title() == ""


@pytest.mark.parametrize("figure", ["resume.rate", "language_pool.wasted_fraction", "utilisation.prefill"])
def test_a_share_is_drawn_as_a_share(sweeps: list[bl.Sweep], figure: str) -> None:
    drawn = sweeps[0].plot.u_shape(figure=figure)
    assert drawn.get_ylabel() == f"{figure} (share)"
    assert (drawn.get_yscale(), drawn.get_ylim()[0]) == ("linear", 0)


@pytest.mark.parametrize("figure", ["throughput_rps", "requests.succeeded", "slo.all"])
def test_what_is_no_valley_has_no_u_shape(sweeps: list[bl.Sweep], figure: str) -> None:
    with pytest.raises(bl.UserError, match="it must be one of"):
        sweeps[0].plot.u_shape(figure=figure)
