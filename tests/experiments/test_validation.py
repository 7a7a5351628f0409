"""``bufferlab validate``: a simulated run validates itself, a wrong profile is located, and the gate holds."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from msgspec import structs

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.experiments.validation import decide, freeze, report_content, report_text, score_case, write_report
from bufferlab.experiments.validation.cases import cases_of, settings_of
from bufferlab.experiments.validation.stages import STAGES
from bufferlab.experiments.validation.tolerances import FIGURES, TTFT_FIGURES
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.emulation.scenario import Scenario

BANDWIDTH_BPS = 2e9
PROFILE = """
latency_s = 20e-6
per_segment_s = 0.0
bandwidth_Bps = {bandwidth:g}
control_latency_s = 50e-6
copy_bandwidth_Bps = 10e9
"""
# One request at a time, noticed at once: a write's error is neither queued behind nor rounded to a loop's iteration.
CALM = (
    "workload.lengths=[700, 900, 300, 1800]", "workload.requests=40", "workload.rate_rps=10", "workload.cv=0",
    "encode.poll_interval_s=0s", "language.poll_interval_s=0s",
)  # fmt: skip


HOST = """
[host]
processors = 2
input_s = 0.1e-3
write_processors = 1.2
collective_processors = 0.6
collective_quantiles_s = [0.2e-3, 0.5e-3, 4e-3]
write_spread = [0.8, 1.0, 1.3]
wakeup_spread = [0.5, 1.5]
"""


def profile(folder: Path, name: str, bandwidth: float = BANDWIDTH_BPS) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(PROFILE.format(bandwidth=bandwidth))
    return path


def simulated(folder: Path, name: str, link: Path | str, *settings: str, example: str = "seed-resume") -> Path:
    run_sim(load(example, [f"link.profile={link}", *settings]), folder / name)
    return folder / name


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs over two links, at three default sizes, twice."""
    folder = tmp_path_factory.mktemp("lab")
    profile(folder, "true")
    profile(folder, "slow", 0.8 * BANDWIDTH_BPS)
    for tokens in (512, 1024, 2048):
        simulated(folder, f"calm-{tokens}", folder / "true.toml", *CALM, f"protocol.sizing.tokens={tokens}")
    simulated(folder, "again", folder / "true.toml", *CALM)
    simulated(
        folder, "mixed", folder / "true.toml", "workload.requests=150", "run.replications=2", example="quickstart"
    )
    simulated(folder, "closed", folder / "true.toml", *CALM[:2], "workload.loop=closed", "workload.concurrency=3")
    (folder / "host.toml").write_text((folder / "true.toml").read_text() + HOST)
    several = ("workload.requests=60", "language.tp=2", "run.replications=2")
    simulated(folder, "hosted", folder / "host.toml", *several, example="quickstart")
    simulated(folder, "fewer", folder / "host.toml", *several, "link.processors=1", example="quickstart")
    return folder


def test_events_are_held_one_replication_at_a_time(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bufferlab.experiments.validation import pairing

    held: list[set[int]] = []
    original = StoredRun.records

    def records(run: StoredRun, replication: int | None = None) -> Any:
        if replication is not None:
            held.append(set())
        for number, record in original(run, replication):
            if replication is not None:
                held[-1].add(number)
            yield number, record

    monkeypatch.setattr(StoredRun, "records", records)
    monkeypatch.setattr(
        "bufferlab.experiments.runs.tables.ROW_GROUP_ROWS", 64
    )  # so that replications have groups of their own
    run = StoredRun(simulated(lab, "long", lab / "true.toml", *CALM[:2], "workload.requests=40", "run.replications=3",
                              example="quickstart"))  # fmt: skip
    repeats = [repeat.number for repeat in pairing.pair_run(run, freeze(lab / "true.toml"))]
    assert repeats == [0, 1, 2]
    # What is asked for is one replication; a row group at its edge has some of its neighbour.
    assert [number in numbers and len(numbers) <= 3 for number, numbers in enumerate(held)] == [True] * 3
    assert held[0] <= {0, 1}
    assert held[2] <= {1, 2}


# --- a run is its own best prediction ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "link"),
    [("calm-1024", "true"), ("mixed", "true"), ("closed", "true"), ("hosted", "host"), ("fewer", "host")],
)
def test_a_simulated_run_is_predicted_without_error(lab: Path, name: str, link: str) -> None:
    case = score_case([lab / name], freeze(lab / f"{link}.toml"))
    assert (case.kind, case.outcomes, case.misses) == ("sim", (), [])
    assert [one.name for one in case.scores.figures] == list(FIGURES)
    for one in case.scores.figures:
        assert one.measured == one.predicted > 0
        assert one.bias["value"] == one.error["value"] == 0
    assert case.scores.wasserstein.value_us["value"] == 0
    agreement = case.scores.agreement
    assert (agreement.bias_s, agreement.deviation_s, agreement.within) == (0, 0, 1)
    assert all(one.difference_s == 0 and one.measured == one.predicted for one in case.stages)
    summary = StoredRun(lab / name).summary
    figures = {one.name: one.measured for one in case.scores.figures}
    # To the last delivery; the summary's window has what comes after it as well, such as the last prefill.
    rates = []
    for _, rows in StoredRun(lab / name).requests().groupby("replication"):
        arrived_s = rows.sort_values(["arrival_s", "room"])["arrival_s"].iloc[summary["warmup"]["discarded_requests"]]
        later_s = rows["delivered_s"][rows["delivered_s"] > arrived_s]
        rates.append(len(later_s) / (later_s.max() - arrived_s))
    assert figures["throughput"] == pytest.approx(sum(rates) / len(rates))
    assert figures["throughput"] >= summary["throughput_rps"]["value"] * (1 - 1e-9)
    for figure in ("mean", "p50", "p90", "p99"):
        assert figures[figure] == pytest.approx(summary["latency_s"][figure]["value"])


def served(folder: Path, name: str, link: Path, prefill_s: float, *settings: str) -> Path:
    """A calm run with a prefill that takes so long, whatever it is given."""
    return simulated(folder, name, link, *CALM, f"language.base_s={prefill_s}", *settings)


@pytest.mark.parametrize(("name", "prefilled"), [("mixed", True), ("calm-1024", False)])
def test_the_first_token_is_scored_as_the_summary_has_it(lab: Path, name: str, prefilled: bool) -> None:
    case = score_case([lab / name], freeze(lab / "true.toml"))
    asked = score_case([lab / name], freeze(lab / "true.toml"), tolerances={"ttft_p50": 0.05, "ttft_p99": 0.10})
    assert tuple(one.name for one in case.scores.ttft) == (TTFT_FIGURES if prefilled else ())
    assert tuple(one.name for one in asked.scores.ttft) == TTFT_FIGURES, "it is scored wherever it is asked for"
    summary = StoredRun(lab / name).summary
    for one in asked.scores.ttft:
        assert (
            one.measured == one.predicted == pytest.approx(summary["ttft_s"][one.name.removeprefix("ttft_")]["value"])
        )
        assert one.tolerance == {"ttft_p50": 0.05, "ttft_p99": 0.10}.get(one.name)
        assert (one.bias["value"], one.missed) == (0, False)
    text = report_text([case], decide([case]), freeze(lab / "true.toml"))
    assert ("ttft_p99" in text, "ttft: from arrival_s" in text) == (prefilled, prefilled)


def test_a_prefill_that_is_predicted_too_short_misses_the_tolerance_of_the_first_token_alone(
    lab: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The embedding is delivered as predicted, and what comes after it takes twice as long as it should."""
    from bufferlab.experiments.validation import pairing

    measured = served(tmp_path, "long", lab / "true.toml", 0.04)
    whole = Config.scenario
    half = ("prefill_base_s", 0.02)

    def shorter(config: Config) -> Scenario:
        scenario = whole(config)
        return structs.replace(scenario, services=structs.replace(scenario.services, **dict([half])))

    kept = pairing.predict

    def predict(*arguments: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(Config, "scenario", shorter)
            return kept(*arguments)

    monkeypatch.setattr(pairing, "predict", predict)
    case = score_case([measured], freeze(lab / "true.toml"))
    figures = {one.name: one for one in (*case.scores.figures, *case.scores.ttft)}
    assert all(figures[name].bias["value"] == 0 for name in FIGURES)
    for name in TTFT_FIGURES:
        one = figures[name]
        assert one.measured - one.predicted == pytest.approx(0.02, abs=1e-6)
        assert one.bias["value"] == pytest.approx(-0.02 / one.measured, rel=1e-3)
    assert [one.name for one in case.misses] == ["ttft_p50", "ttft_p99"]
    profile_ = freeze(lab / "true.toml")
    content = report_content([case], decide([case]), profile_)
    assert content["cases"][0]["figures"]["ttft_p99"]["tolerance"] == 0.10
    assert all("ttft_p" in sentence for sentence in content["misses"])
    write_report([case], decide([case]), profile_, tmp_path / "report")
    (row,) = csv.DictReader((tmp_path / "report" / "cases.csv").open())
    assert float(row["ttft_p50_bias"]) == pytest.approx(figures["ttft_p50"].bias["value"])


def test_a_tolerance_for_the_first_token_needs_requests_that_were_prefilled(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bufferlab.experiments.runs.replication import Replication

    never = [np.full(40, np.nan)] * 4
    monkeypatch.setattr(Replication, "courses", lambda one: never)
    assert score_case([lab / "calm-1024"], freeze(lab / "true.toml")).scores.ttft == ()
    with pytest.raises(
        UserError, match=r"--max-error has ttft_p99, but in replication 0 of .* no request was prefilled"
    ):
        score_case([lab / "calm-1024"], freeze(lab / "true.toml"), tolerances={"ttft_p99": 0.1})


def test_a_link_that_is_too_fast_is_told_with_its_stage(lab: Path) -> None:
    measured = simulated(lab, "slow-run", lab / "slow.toml", *CALM)
    case = score_case([measured], freeze(lab / "true.toml"))
    figures = {one.name: one for one in case.scores.figures}
    for name in ("mean", "p50", "p90", "p99"):
        assert figures[name].bias["value"] < 0
    config = StoredRun(measured).config
    bytes_ = [tokens * config.layout.bytes_per_token for tokens in (700, 900, 300, 1800)]
    missing_s = sum(bytes_) / len(bytes_) * (1 / BANDWIDTH_BPS - 1 / (0.8 * BANDWIDTH_BPS))
    assert case.scores.agreement.bias_s == pytest.approx(missing_s, rel=1e-3)
    assert case.scores.wasserstein.value_us["value"] == pytest.approx(-1e6 * missing_s, rel=1e-3)
    stages = {one.name: one for one in case.stages}
    assert stages["write"].difference_s == pytest.approx(missing_s, rel=1e-3)
    assert stages["write"].share == pytest.approx(1, abs=1e-3)


def test_the_stages_of_a_case_add_up_to_its_mean_latency(lab: Path) -> None:
    case = score_case([lab / "mixed"], freeze(lab / "slow.toml"))
    latency = case.scores.figures[0]
    assert sum(one.measured["mean"] for one in case.stages) == pytest.approx(latency.measured)
    assert sum(one.predicted["mean"] for one in case.stages) == pytest.approx(latency.predicted)
    assert sum(one.difference_s for one in case.stages) == pytest.approx(case.scores.agreement.bias_s)


# --- cases, noise and choices --------------------------------------------------------------------------------------


def test_runs_of_one_configuration_are_repeats_without_noise_if_they_are_the_same(lab: Path) -> None:
    runs = [StoredRun(lab / name) for name in ("calm-1024", "calm-512", "again")]
    cases = cases_of(runs)
    assert {name: [one.path.name for one in members] for name, members in cases.items()} == {
        "tokens=512": ["calm-512"],
        "tokens=1024": ["calm-1024", "again"],
    }
    assert list(cases) == ["tokens=512", "tokens=1024"], "in the order of the values, not of their letters"
    case = score_case(cases["tokens=1024"], freeze(lab / "slow.toml"))
    assert [one.noise is not None and one.noise.each == (0, 0) for one in case.scores.figures] == [True] * len(FIGURES)
    assert case.scores.wasserstein.noise_us is not None
    assert case.scores.wasserstein.noise_us.largest == 0
    (alone,) = cases["tokens=512"]
    assert all(one.noise is None for one in score_case([alone], freeze("tcp-loopback")).scores.figures)


def test_replications_with_requests_of_their_own_say_nothing_of_the_noise(lab: Path) -> None:
    case = score_case([lab / "mixed"], freeze(lab / "true.toml"))
    assert len(case.repeats) == 2
    assert all(one.noise is None for one in case.scores.figures)


def test_the_heading_says_which_figures_have_intervals(lab: Path, tmp_path: Path) -> None:
    """And every row keeps to it: none, some, or all of them, of this run alone or over repeats."""
    from bufferlab.experiments.validation.report import intervals_text

    link = profile(tmp_path, "link")
    few = ("workload.requests=12", "run.replications=1")
    runs = [simulated(tmp_path, f"run{seed}", link, *few, f"run.seed={seed}", example="quickstart") for seed in (1, 2)]
    faster = freeze(profile(tmp_path, "faster", 2 * BANDWIDTH_BPS))
    alone, both = score_case(runs[:1], faster), score_case(runs, faster)
    assert intervals_text(alone.scores) == "no intervals: one repeat, and too short"
    assert [one.bias["low"] for one in alone.scores.figures] == [None] * 5
    assert intervals_text(both.scores) == "intervals over repeats"
    assert both.scores.wasserstein.value_us["low"] == 0.0, "two repeats say little, but no distance is below 0"
    assert all(one.bias["low"] is not None for one in both.scores.figures)
    longer = score_case([lab / "calm-1024"], faster)
    without = [one.name for one in longer.scores.figures if one.bias["low"] is None]
    assert without
    assert intervals_text(longer.scores) == (
        f"intervals of this run alone, over blocks of requests, too short for one of {', '.join(without)}"
    )
    told = report_text([alone, longer], decide([alone, longer]), faster)
    assert told.count("no noise: no other run met the same requests") == 2
    assert "nothing is known of other runs" in told or not longer.misses


def test_repeats_of_other_seeds_are_one_case(tmp_path: Path) -> None:
    link = profile(tmp_path, "link")
    few = ("workload.requests=30", "run.replications=1")
    runs = [
        simulated(tmp_path, f"run{seed}", link, *few, f"run.seed={seed}", example="quickstart") for seed in range(5)
    ]
    faster = profile(tmp_path, "faster", 2 * BANDWIDTH_BPS)
    first = score_case(runs, freeze(faster), seed=1)
    assert (len(first.repeats), first.scores.intervals) == (5, "repeats")
    for one in first.scores.figures:
        assert one.bias["low"] is not None
        assert one.bias["high"] is not None
        assert one.bias["low"] <= one.bias["value"] <= one.bias["high"]
    again, other = score_case(runs, freeze(faster), seed=1), score_case(runs, freeze(faster), seed=2)
    assert again.scores == first.scores
    assert other.scores != first.scores


def test_the_choice_of_a_setting(lab: Path) -> None:
    cases = [score_case([lab / f"calm-{tokens}"], freeze(lab / "true.toml")) for tokens in (512, 1024, 2048)]
    choices = {one.objective: one for one in decide(cases).choices}
    assert list(choices) == ["mean", "p50", "p99"]
    for one in choices.values():
        assert (one.setting, one.candidates) == ("protocol.sizing.tokens", ("512", "1024", "2048"))
        assert (one.regret, one.good, one.picked) == (0, True, one.best)
    assert choices["mean"].kendall == choices["mean"].spearman == 1
    # Nothing to choose: the cases differ in two settings, in the workload, or there is one only.
    assert decide(cases[:1]).choices == ()
    other = score_case([lab / "mixed"], freeze(lab / "true.toml"))
    assert decide([cases[0], other]).choices == ()


def test_only_repeats_of_one_configuration_are_scored_together(lab: Path) -> None:
    with pytest.raises(UserError, match=r"it must be a run of the same kind and configuration as .*calm-512"):
        score_case([lab / "calm-512", lab / "calm-1024"], freeze("tcp-loopback"))
    with pytest.raises(UserError, match="RUN is missing"):
        score_case([], freeze("tcp-loopback"))


def test_the_simulators_link_tells_no_measured_cases_apart(lab: Path) -> None:
    run = StoredRun(lab / "again")
    assert "link.profile" in settings_of(run)
    run.summary["kind"] = "real"
    assert "link.profile" not in settings_of(run)


def test_many_differences_make_no_name(lab: Path) -> None:
    names = list(cases_of([StoredRun(lab / "calm-512"), StoredRun(lab / "mixed")]))
    assert names == [str(lab / "calm-512"), str(lab / "mixed")]


# --- requests that end otherwise on one side -----------------------------------------------------------------------


def test_a_request_that_only_one_side_delivers_is_named(lab: Path, bufferlab: Any) -> None:
    slow = lab / "crawling.toml"
    slow.write_text(PROFILE.format(bandwidth=4e6))
    measured = simulated(lab, "timed", lab / "true.toml", *CALM[:2], *CALM[4:], "protocol.timeout_s=2s")
    case = score_case([measured], freeze(slow))
    assert case.outcomes
    outcome = case.outcomes[0]
    assert (outcome.run, outcome.replication, outcome.measured, outcome.predicted) == (
        str(measured),
        0,
        "Success",
        "Failed",
    )
    assert case.compared + len(case.outcomes) == case.offered == 40
    ended = bufferlab("validate", measured, "--profile", slow)
    assert ended.status == 1
    assert (
        f"request {outcome.room} of replication 0 of {measured}: Success when measured, Failed when predicted"
        in ended.out
    )
    assert f"{len(case.outcomes)} requests ended otherwise on one side" in ended.out


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_gate(lab: Path, bufferlab: Any) -> None:
    run, true, slow = lab / "calm-1024", lab / "true.toml", lab / "slow.toml"
    assert bufferlab("validate", run, "--profile", true, "--max-error", "p50=0,p99=0,throughput=0").status == 0
    ended = bufferlab("validate", run, "--profile", slow, "--max-error", "p50=0.05")
    assert ended.status == 1
    assert "seed-resume: p50 is off by" in ended.out
    assert "the tolerance is 5 %" in ended.out
    # Without the gate a miss is told, and no failure.
    told = bufferlab("validate", run, "--profile", slow)
    assert told.status == 0
    assert "seed-resume: p50 is off by" in told.out
    assert bufferlab("validate", run, "--profile", slow, "--max-error", "p50=0.9").status == 0
    quiet = bufferlab("validate", run, "--profile", slow, "--max-error", "p50=0.05", "--json")
    assert quiet.status == 1
    assert json.loads(quiet.out)["passed"] is False
    assert "p50 is off by" in quiet.err


def test_everything_is_written(lab: Path, folder: Path, bufferlab: Any) -> None:
    runs = [lab / f"calm-{tokens}" for tokens in (512, 1024, 2048)]
    arguments = ("validate", *runs, lab / "again", "--profile", lab / "slow.toml")
    ended = bufferlab(*arguments, "--out", "new/validation", "--stages", "--json")
    assert ended.status == 0
    printed = json.loads(ended.out)
    made = folder / "new/validation"
    assert sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()) == [
        "cases.csv", "figures/bland-altman.png", "figures/errors.png", "figures/qq.png", "figures/quantiles.png",
        "validation.json",
    ]  # fmt: skip
    assert [path.name for path in (folder / "new").iterdir()] == ["validation"]
    stored = json.loads((made / "validation.json").read_text())
    assert {name: printed[name] for name in stored} == stored
    assert stored["schema"] == "bufferlab-validation/1"
    assert stored["profile"]["sha256"] == freeze(lab / "slow.toml").digest
    assert "arrival_s" in stored["boundary"]
    assert [one["name"] for one in stored["cases"]] == [f"tokens={n}" for n in (512, 1024, 2048)]
    (case,) = (one for one in stored["cases"] if one["repeats"] == 2)
    assert case["stands_in_for_a_measurement"] is True
    assert case["runs"] == [str(lab / "calm-1024"), str(lab / "again")]
    assert case["figures"]["p50"]["noise"] == {"floor": 0, "largest": 0, "each": [0, 0]}
    assert case["figures"]["p50"]["verdict"] in {"off", "no interval"}
    assert case["bland_altman"]["low_s"] < case["bland_altman"]["bias_s"] < case["bland_altman"]["high_s"]
    assert [one["name"] for one in case["stages"]] == list(STAGES) == list(stored["stages"])
    assert len(case["qq"]["levels"]) == len(case["qq"]["measured_s"]) == len(case["qq"]["predicted_s"])
    assert {one["objective"] for one in stored["decision"]} == {"mean", "p50", "p99"}
    with (made / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == [one["name"] for one in stored["cases"]]
    assert float(rows[1]["p50_bias"]) == case["figures"]["p50"]["bias"]["value"]
    # The same again is the same, but for where it is written.
    assert json.loads(bufferlab(*arguments, "--json").out) == printed


def test_the_text_says_what_was_compared_with_what(lab: Path, bufferlab: Any) -> None:
    ended = bufferlab("validate", lab / "calm-512", lab / "calm-2048", "--profile", lab / "slow.toml", "--stages")
    assert ended.status == 0
    assert freeze(lab / "slow.toml").digest in ended.out
    assert "SIMULATED runs that stand in for measured ones" in ended.out
    assert "last language rank" in ended.out
    for stage in STAGES:
        assert f"\n  {stage} " in ended.out
    assert "\nwrite " in ended.out
    assert "what the simulator would choose" in ended.out
    assert "\nwrite " not in bufferlab("validate", lab / "calm-512", "--profile", "tcp-loopback").out


def test_the_same_from_python(lab: Path, tmp_path: Path) -> None:
    frozen = freeze("tcp-loopback")
    cases = [score_case([lab / "calm-512"], frozen, name="small")]
    decision = decide(cases)
    write_report(cases, decision, frozen, tmp_path / "out")
    assert json.loads((tmp_path / "out/validation.json").read_text()) == report_content(cases, decision, frozen)
    assert "small" in report_text(cases, decision, frozen)
    with pytest.raises(ValueError, match="the records of small were not kept"):
        write_report(cases, decision, frozen, tmp_path / "other", timelines=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{lab}/calm-512"], "Missing option '--profile'"),
        (["{lab}/nothing", "--profile", "tcp-loopback"], "it must be a finished run directory"),
        (["{lab}/calm-512", "--profile", "tcp-loopbak"], "(did you mean tcp-loopback?), it must be one of"),
        (["{lab}/calm-512", "--profile", "{lab}/none.toml"], "none.toml', which cannot be read: No such file"),
        (["{lab}/calm-512", "--profile", "{lab}/calm-512/config.toml"], "it must be a good link profile"),
        (
            ["{lab}/calm-512", "--profile", "tcp-loopback", "--max-error", "p51=1"],
            "--max-error is 'p51=1', it must look like",
        ),
        (
            ["{lab}/calm-512", "--profile", "tcp-loopback", "--out", "{lab}"],
            "it must be a folder that does not exist yet",
        ),
        (["{lab}/calm-512", "--profile", "tcp-loopback", "--timeline"], "--timeline is given without --out"),
        (["{lab}/calm-512", "--profile", "tcp-loopback", "--seed", "-1"], "--seed is -1, it must be at least 0"),
        (["{lab}/calm-512", "{lab}/./calm-512", "--profile", "tcp-loopback"], "is given twice"),
    ],
)
def test_bad_input_is_refused(lab: Path, folder: Path, bufferlab: Any, arguments: list[str], sentence: str) -> None:
    ended = bufferlab("validate", *(one.format(lab=lab) for one in arguments))
    assert (ended.status, ended.out) == (2, "")
    assert sentence in ended.err
    assert ended.err.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_a_run_whose_requests_are_not_those_of_its_configuration_is_refused(lab: Path, bufferlab: Any) -> None:
    run = simulated(lab, "changed", lab / "true.toml", *CALM)
    table = pd.read_parquet(run / "requests.parquet")
    table.loc[3, "total_tokens"] += 1
    table.to_parquet(run / "requests.parquet")
    ended = bufferlab("validate", run, "--profile", "tcp-loopback")
    assert ended.status == 2
    assert "whose config.toml must make the requests in its requests.parquet" in ended.err
