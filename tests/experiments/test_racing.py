"""The race of settings: what it promises, measured where the truth is known, and what must hold of any race."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bufferlab.experiments.stats.racing import Race, Verdict, _centres_and_errors, largest_t, t_beyond
from bufferlab.experiments.stats.replicates import Replicates

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
import race_table  # type: ignore[import-not-found]


def finished(values: np.ndarray, order: np.random.Generator | None = None, **options: object) -> Race:
    """A race over these values, taken stage by stage in any order; NaN stands for unfit."""
    race = Race(len(values), **{"first": 4, "most": values.shape[1], **options})  # type: ignore[arg-type]
    while wanted := race.wanted():
        if order is not None:
            order.shuffle(wanted)
        for setting, replication in wanted:
            value = float(values[setting, replication])
            race.take(setting, replication, None if np.isnan(value) else value)
    return race


def raced(values: np.ndarray, order: np.random.Generator | None = None, **options: object) -> Verdict:
    """The verdict of such a race."""
    return finished(values, order, **options).verdict()


RESAMPLED = Replicates("resampled")


# --- the promise, where the truth is known ---


@pytest.mark.parametrize("count", [2, 10, 64])
@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_the_best_setting_is_picked_as_often_as_promised(count: int, correlation: float) -> None:
    # Were it picked in 95 % of all races, fewer than 50 of 60 would be right in 1 of 5,000 such tests.
    repeats = 60 if count < 64 else 20
    verdicts = [
        race_table.race(race_table.values_of(count, 120, correlation, kind, np.random.default_rng([7, repeat])))
        for repeat in range(repeats // 2)
        for kind in ("normal", "lognormal")
    ]
    least = {60: 50, 20: 15}[repeats]
    assert sum(verdict.best == 0 for verdict in verdicts) >= least
    assert sum(0 in verdict.kept for verdict in verdicts) >= least
    assert all(verdict.ended in ("settled", "one-left", "spent") for verdict in verdicts)


def test_pairing_is_what_saves_replications() -> None:
    spent = {}
    for correlation in (0.0, 0.9):
        values = [
            race_table.values_of(10, 200, correlation, "normal", np.random.default_rng([1, one])) for one in range(5)
        ]
        spent[correlation] = sum(race_table.race(one).runs for one in values)
    assert spent[0.9] < spent[0.0] / 2


def test_it_needs_fewer_runs_than_a_method_that_takes_no_notice_of_pairing() -> None:
    # KN++ of sim-tools, on the same values.
    values = [race_table.values_of(10, 400, 0.9, "normal", np.random.default_rng([2, one])) for one in range(5)]
    assert sum(race_table.race(one[:, :200]).runs for one in values) < sum(race_table.knpp(one)[1] for one in values)


def test_the_table_screens_as_sim_tools_does() -> None:
    for repeat in range(4):
        values = race_table.values_of(5, 400, 0.5, "normal", np.random.default_rng([3, repeat]))
        assert race_table.knpp(values) == race_table.knpp(values, screen_faster=False)


def test_both_tables_are_kept_with_all_their_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "race.json"
    options = ["--repeats", "2", "--settings", "2", "--jobs", "1", "--json", str(kept)]
    assert race_table.main(options) == 0
    tables = json.loads(kept.read_text())
    assert {kind: len(rows) for kind, rows in tables.items()} == {"independent": 9, "resampled": 4}
    printed = capsys.readouterr().out.splitlines()
    assert all(race_table.line(race_table.Row(**row)) in printed for row in tables["independent"])
    assert all(race_table.file_line(race_table.FileRow(**row)) in printed for row in tables["resampled"])
    assert race_table.main([*options, "--only", "resampled"]) == 0
    assert json.loads(kept.read_text()) == {"resampled": tables["resampled"]}


@pytest.mark.parametrize("gap", [0.0, 1.0])
def test_resamples_of_a_file_keep_the_best_setting_as_often_as_promised(gap: float) -> None:
    # With a probability of 95 % each, fewer than 50 of 60 come out in 1 of 5,000 such tests.
    verdicts = [
        raced(race_table.file_values(8, 24, gap, np.random.default_rng([5, repeat])), replicates=RESAMPLED, first=8)
        for repeat in range(60)
    ]
    assert sum(0 in verdict.kept for verdict in verdicts) >= 50
    for verdict in verdicts:  # what it says of the one it picked
        assert verdict.short_of_best is not None
    assert sum((verdict.best != 0) * gap <= verdict.short_of_best for verdict in verdicts) >= 50  # type: ignore[operator]


@pytest.mark.parametrize("replicates", [Replicates(), RESAMPLED], ids=lambda one: one.kind)
def test_the_differences_to_the_one_that_leads_hold_together_where_all_are_as_good(replicates: Replicates) -> None:
    # The hardest case: whichever leads does so by luck alone. At 95 %, fewer than 50 of 60 come out in 1 of 5,000.
    held = 0
    for repeat in range(60):
        rng = np.random.default_rng([6, repeat])
        values = race_table.file_values(10, 20, 0.0, rng) if replicates.resampled else rng.standard_normal((10, 12))
        differences = finished(values, replicates=replicates).differences()
        assert len(differences) == 9
        held += all(d["low"] <= 0 <= d["high"] for d in differences.values())  # type: ignore[operator]
    assert held >= 50


def test_resamples_do_not_make_a_file_longer() -> None:
    # The spread of resamples is the standard error itself: four times as many tell no more about a difference.
    values = race_table.file_values(2, 160, 0.0, np.random.default_rng(1))
    few, many = (finished(values[:, :count], replicates=RESAMPLED, first=count) for count in (41, 161))
    (first,), (second,) = (tuple(race.differences().values()) for race in (few, many))
    assert first["value"] == second["value"]
    assert 0.7 < (second["high"] - second["low"]) / (first["high"] - first["low"]) < 1.4  # type: ignore[operator]


@pytest.mark.parametrize("replicates", [Replicates(), Replicates("resampled", blocks=12, window=7)])
def test_a_race_and_an_interval_have_the_same_standard_error(replicates: Replicates) -> None:
    rows = np.random.default_rng(1).exponential(1, (3, 20))
    centres, errors = _centres_and_errors(rows, replicates)
    for row, centre, error in zip(rows.tolist(), centres, errors, strict=True):
        spread = replicates.spread(row)
        assert spread is not None
        assert (spread.value, spread.error) == pytest.approx((centre, error))


def test_a_file_of_few_blocks_is_known_less_well_than_its_resamples_alone_would_have_it() -> None:
    values = race_table.file_values(4, 40, 0.5, np.random.default_rng(1))
    few, many = (
        finished(values, replicates=Replicates("resampled", blocks=blocks)).differences() for blocks in (4, 1000)
    )
    for one in few:
        assert few[one]["high"] - few[one]["low"] > many[one]["high"] - many[one]["low"]  # type: ignore[operator]


def test_the_largest_of_correlated_variables_needs_less_than_bonferroni() -> None:
    rng = np.random.default_rng(1)
    shared = rng.standard_normal(40) + 0.1 * rng.standard_normal((30, 40))
    apart = rng.standard_normal((30, 40))
    bonferroni = t_beyond(39, 0.05 / 30)
    assert largest_t(shared, 0.05, freedom=39, absent=0) < 0.7 * bonferroni
    assert 0.85 * bonferroni < largest_t(apart, 0.05, freedom=39, absent=0) <= bonferroni
    # Those of which nothing is known count whole.
    assert largest_t(shared, 0.05, freedom=39, absent=29) >= t_beyond(39, 0.05 / 29)


# --- what holds of any race ---

VALUES = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(6, 14)), elements=st.integers(-20, 20).map(float))
KINDS = st.sampled_from([Replicates(), RESAMPLED])


@given(VALUES, KINDS, st.floats(0, 10))
@settings(max_examples=60, deadline=None)
def test_a_setting_that_is_best_in_every_replication_is_never_dropped(
    values: np.ndarray, replicates: Replicates, indifference: float
) -> None:
    values = np.vstack([values, values.min(axis=0) - 0.5])
    verdict = raced(values, replicates=replicates, indifference=indifference)
    assert verdict.best == len(values) - 1
    assert verdict.best in verdict.kept


@given(VALUES, KINDS, st.floats(0, 10), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_verdict_depends_neither_on_the_order_of_values_nor_on_that_of_settings(
    values: np.ndarray, replicates: Replicates, indifference: float, seed: int
) -> None:
    # No two settings have the same values: between those the number decides.
    values = values + np.arange(len(values))[:, None] * np.pi / 100
    rng = np.random.default_rng(seed)
    race = finished(values, replicates=replicates, indifference=indifference)
    plain, differences = race.verdict(), race.differences()
    assert raced(values, rng, replicates=replicates, indifference=indifference) == plain
    order = rng.permutation(len(values))
    other = finished(values[order], rng, replicates=replicates, indifference=indifference)
    moved = other.verdict()
    places = order.tolist()
    assert plain.best == (None if moved.best is None else places[moved.best])
    assert plain.kept == tuple(sorted(places[one] for one in moved.kept))
    assert plain.dropped == {places[one]: count for one, count in moved.dropped.items()}
    assert (plain.runs, plain.ended) == (moved.runs, moved.ended)
    for one, difference in other.differences().items():
        assert difference["low"] == pytest.approx(differences[places[one]]["low"], abs=1e-9)


@given(VALUES, KINDS)
@settings(max_examples=60, deadline=None)
def test_identical_settings_are_never_told_apart(values: np.ndarray, replicates: Replicates) -> None:
    verdict = raced(np.vstack([values, values]), replicates=replicates)
    half = len(values)
    for one in range(half):
        assert (one in verdict.kept) == (one + half in verdict.kept)
        assert verdict.dropped.get(one) == verdict.dropped.get(one + half)


@given(VALUES, KINDS, st.floats(0, 10), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_every_setting_is_kept_dropped_or_unfit_and_the_unfit_drop_nobody(
    values: np.ndarray, replicates: Replicates, indifference: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(values.shape) < 0.05, np.nan, values)
    verdict = raced(values, replicates=replicates, indifference=indifference)
    everyone = sorted([*verdict.kept, *verdict.dropped, *verdict.unfit])
    assert everyone == list(range(len(values)))
    assert (verdict.best is None) == (not verdict.kept) == (verdict.ended == "all-unfit")
    for setting, replication in verdict.unfit.items():
        assert np.isnan(values[setting, replication])
    fit = [one for one in range(len(values)) if one not in verdict.unfit]
    for one, count in verdict.dropped.items():
        # Some other one that is fit is lower in what dropped it: the means so far, or the file itself.
        centres = values[:, 0] if replicates.resampled else values[:, :count].mean(axis=1)
        assert any(centres[other] < centres[one] for other in fit)
    if verdict.ended == "settled":
        assert verdict.short_of_best is not None
        assert verdict.short_of_best <= indifference


# --- cases ---


def test_one_setting_is_the_best_at_its_first_look() -> None:
    verdict = raced(np.full((1, 10), 3.0))
    assert (verdict.best, verdict.kept, verdict.ended, verdict.runs) == (0, (0,), "one-left", 4)
    assert verdict.short_of_best == 0


def test_a_clear_loser_costs_the_first_stage_alone() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0, 0.01, (3, 40)) + np.array([[0.0], [0.0], [5.0]])
    race = finished(values)
    verdict, differences = race.verdict(), race.differences()
    assert verdict.dropped == {2: 4}
    assert verdict.runs == 4 + 2 * 40
    assert (verdict.kept, verdict.ended) == ((0, 1), "spent")
    assert differences[2]["value"] == pytest.approx(5, abs=0.1)
    assert differences[2]["pairs"] == 4
    assert differences[2]["second"] == pytest.approx(values[2, :4].mean())


def test_settings_that_are_as_good_are_settled_and_stay_in_the_set() -> None:
    rng = np.random.default_rng(1)
    verdict = raced(rng.normal(0, 0.01, (3, 40)), indifference=1.0)
    assert (verdict.kept, verdict.ended, verdict.runs) == ((0, 1, 2), "settled", 12)
    assert verdict.short_of_best is not None
    assert 0 <= verdict.short_of_best <= 1


def test_who_was_beaten_by_one_that_turns_out_unfit_is_back() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0, 0.01, (3, 20)) + np.array([[1.0], [1.0], [5.0]])
    assert raced(values).dropped == {2: 4}
    values[:2, 9] = np.nan
    verdict = raced(values)
    assert verdict.unfit == {0: 9, 1: 9}
    assert (verdict.best, verdict.kept, verdict.dropped) == (2, (2,), {})


def test_what_is_wanted_is_a_stage_and_shrinks_as_it_is_taken() -> None:
    race = Race(2, first=3, most=6)
    assert race.wanted() == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
    race.take(0, 1, 4.0)
    assert (0, 1) not in race.wanted()
    before = race.verdict()
    assert (before.best, before.kept, before.ended, before.runs) == (None, (), "running", 1)


def test_what_is_no_part_of_a_race_is_refused() -> None:
    race = Race(2, first=3, most=6)
    race.take(0, 0, 1.0)
    for arguments in ((0, 0, 1.0), (2, 0, 1.0), (0, 6, 1.0), (0, 1, float("nan")), (-1, 0, 1.0)):
        with pytest.raises(ValueError, match="setting"):
            race.take(*arguments)
    for options in (
        {"first": 1},
        {"first": 5, "most": 4},
        {"certainty": 1.0},
        {"indifference": -1.0},
        {"first": 3, "replicates": RESAMPLED},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            Race(2, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="settings"):
        Race(0)
