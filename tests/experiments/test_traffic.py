"""The user's traffic is never silently changed: a file is used whole and at its own times, and the plan says so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bufferlab.experiments.config.schema import Config, parse
from bufferlab.experiments.config.shipped import example_names
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.loading import load
from bufferlab.experiments.workloads.requests import check_requests, count_requests, make_columns
from bufferlab.experiments.workloads.traffic import traffic_of
from bufferlab.sim.workload import joined, load_mix


@pytest.fixture
def mine(folder: Path) -> Path:
    """Fifty requests, two a second from the second second on."""
    text = "".join(f"{2 + n / 2},{600 + n},20,1\n" for n in range(50))
    (folder / "mine.csv").write_text("arrival_s,total_tokens,text_tokens,images\n" + text)
    return folder / "mine.csv"


def arrivals(config: Config) -> list[float]:
    check_requests(config, "sim")
    return joined(make_columns(config, 0)).arrival_s.tolist()


WHOLE = [2 + n / 2 for n in range(50)]


@pytest.mark.parametrize("example", example_names())
def test_a_file_is_used_whole_over_any_example(mine: Path, example: str) -> None:
    config = load(example, [f"workload.file={mine}"])
    assert arrivals(config) == WHOLE
    assert (config.run.replications, config.workload.loop) == (1, "open")
    assert traffic_of(config).sentence == "workload: 50 of 50 requests of mine.csv, 24.5 s, 2/s"


def test_what_does_not_apply_is_said(mine: Path) -> None:
    notes = traffic_of(load("single-image-chat", [f"workload.file={mine}"])).notes
    assert notes[-1] == (
        "not applied to the file: workload.requests = 400, workload.rate_rps = 8.0, workload.options = "
        "{'variant': 'capped'}, run.replications = 5 (give them in the same command to have them)"
    )
    assert (
        traffic_of(load("closed-loop", [f"workload.file={mine}"]))
        .notes[-1]
        .startswith(
            "not applied to the file: workload.requests = 400, workload.loop = 'closed', workload.concurrency = 8"
        )
    )


def test_what_is_given_in_the_same_command_applies(mine: Path) -> None:
    given = [f"workload.file={mine}", "workload.requests=11", "workload.rate_rps=4", "run.replications=3"]
    for settings in (given, given[::-1]):
        config = load("quickstart", [*settings, "workload.service_log_sd=0.2"])
        assert arrivals(config) == pytest.approx([n / 4 for n in range(11)])
        assert config.run.replications == 3
        told = traffic_of(config)
        assert told.sentence == "workload: the first 11 of 50 requests of mine.csv, 2.5 s, 4/s"
        assert told.notes[0] == "stretched ×2 to 4/s from its own 2/s"
        assert told.notes[1].startswith("the same requests in all 3 replications")
        assert len(told.notes) == 2
    closed = load("closed-loop", [f"workload.file={mine}", "workload.concurrency=4"])
    assert traffic_of(closed).sentence == "workload: 50 of 50 requests of mine.csv, in their order, 4 at a time"
    with pytest.raises(
        UserError, match=r"run.replications is 3, it must be 1 for mine.csv, which cannot be resampled: it has"
    ):
        check_requests(load("quickstart", given), "sim")


def test_ones_own_configuration_means_what_it_says(mine: Path, folder: Path) -> None:
    (folder / "own.toml").write_text("[workload]\nfile = 'mine.csv'\nrequests = 11\nrate_rps = 4.0\n")
    config = load("own.toml")
    assert arrivals(config) == pytest.approx([n / 4 for n in range(11)])
    assert traffic_of(config).notes == (
        "stretched ×2 to 4/s from its own 2/s",
        "run once, without resamples: it has 11 requests, and it takes 100 at least to make 10 blocks of them",
    )
    # Another file in its place is whole again.
    (folder / "other.csv").write_text("arrival_s,total_tokens\n1,5\n2,6\n")
    other = load("own.toml", ["workload.file=other.csv"])
    assert arrivals(other) == [1, 2]
    assert "not applied to the file: workload.requests = 11, workload.rate_rps = 4.0" in traffic_of(other).notes[-1]


def test_a_run_stored_with_such_a_configuration_is_the_same_run(mine: Path, bufferlab: Any, folder: Path) -> None:
    ended = bufferlab("sim", "quickstart", "--set", f"workload.file={mine}", "--out", "a", "--no-plots", "--json")
    assert ended.status == 0, ended.err
    assert ended.err.splitlines()[0] == "workload: 50 of 50 requests of mine.csv, 24.5 s, 2/s"
    summary = json.loads(ended.out)
    assert summary["requests"]["offered"] == 50
    stored = json.loads((folder / "a" / "environment.json").read_text())
    assert stored["workload"] == summary["workload"]
    assert summary["workload"]["sentence"] == "workload: 50 of 50 requests of mine.csv, 24.5 s, 2/s"
    assert "run.replications = 5" in summary["workload"]["notes"][-1]
    again = bufferlab("sim", "a", "--out", "b", "--no-plots")
    assert again.out.splitlines()[0] == "workload: 50 of 50 requests of mine.csv, 24.5 s, 2/s"
    assert (folder / "a" / "requests.parquet").read_bytes() == (folder / "b" / "requests.parquet").read_bytes()


def test_a_sweep_uses_a_file_whole_too(mine: Path, bufferlab: Any, folder: Path) -> None:
    grid = ("--grid", "protocol.sizing.tokens=512,1024", "--no-plots", "--jobs", 1)
    ended = bufferlab("sweep", "quickstart", "--set", f"workload.file={mine}", *grid, "--out", "s")
    assert ended.status == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[0] == "sweep of quickstart: 2 configurations × 1 replication = 2 runs, about 100 requests"
    assert lines[1] == "  workload: 50 of 50 requests of mine.csv, 24.5 s, 2/s"
    report = json.loads((folder / "s" / "sweep.json").read_text())
    assert [configuration["requests"]["offered"] for configuration in report["configurations"]] == [50, 50]
    assert [one["requests"] for one in report["plan"]["workloads"]] == [50]


def test_files_in_a_grid_and_in_configurations_are_whole(mine: Path, bufferlab: Any, folder: Path) -> None:
    (folder / "few.csv").write_text("arrival_s,total_tokens\n0,500\n1,700\n")
    ended = bufferlab(
        "sweep", "quickstart", "--grid", "workload.file=mine.csv,few.csv", "--no-plots", "--jobs", 1, "--json"
    )
    assert ended.status == 0, ended.err
    assert [configuration["requests"]["offered"] for configuration in json.loads(ended.out)["configurations"]] == [
        50,
        2,
    ]
    (folder / "configurations.toml").write_text(
        "[[sweep.configurations]]\n'workload.file' = 'mine.csv'\n[[sweep.configurations]]\n'workload.requests' = 9\n"
    )
    mixed = ("sweep", "quickstart", "--configurations", "configurations.toml", "--no-plots", "--jobs", 1, "--json")
    refused = bufferlab(*mixed)
    assert refused.status == 2
    assert "has 1 replications and configuration 2 (workload.requests=9) 5; --replications gives all" in refused.err
    one = bufferlab(*mixed, "--replications", 1)
    assert [configuration["requests"]["offered"] for configuration in json.loads(one.out)["configurations"]] == [50, 9]


def test_a_distribution_keeps_its_replications(folder: Path) -> None:
    (folder / "lengths.csv").write_text("value,cdf_low,cdf_high\n100,0.0,0.5\n1000,0.5,1.0\n")
    config = load("quickstart", ["workload.file=lengths.csv", "workload.rate_rps=4"])
    check_requests(config, "sim")
    assert (config.run.replications, count_requests(config)) == (5, 1000)
    assert traffic_of(config).sentence == "workload: 1000 requests drawn from the lengths in lengths.csv, 4/s"


def test_a_run_is_played_back_over_an_example_with_noise(bufferlab: Any, folder: Path) -> None:
    assert bufferlab("sim", "quickstart", "--set", "workload.requests=9", "--out", "run", "--no-plots").status == 0
    config = load("mixed", ["workload.file=run"])
    check_requests(config, "sim")
    told = traffic_of(config)
    assert told.requests == 9
    assert told.notes[0] == "replication 0 of a run, at the times at which they came"
    assert "workload.service_log_sd = 0.2" in told.notes[-1]


# --- rates ---


def test_rate_scale_is_times_the_source_s_own_rate(mine: Path) -> None:
    config = load("quickstart", [f"workload.file={mine}", "workload.rate_scale=2"])
    assert arrivals(config) == [time_s / 2 for time_s in WHOLE]
    assert traffic_of(config).sentence == "workload: 50 of 50 requests of mine.csv, 12.2 s, 4/s"
    assert traffic_of(config).notes[0] == "stretched ×2 to 4/s from its own 2/s"
    preset = load("azure-like", ["workload.rate_scale=0.5"])
    assert preset.workload.rate_rps is None
    own = load_mix("azure-like").rate_rps
    assert traffic_of(preset).rate_rps == own / 2
    same = load("azure-like", [f"workload.rate_rps={own / 2}"])
    assert np.array_equal(joined(make_columns(preset, 0)).arrival_s, joined(make_columns(same, 0)).arrival_s)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["workload.rate_scale=2", "workload.rate_rps=2"], "workload has rate_rps 2 and rate_scale 2, it must have only one"),
        (["workload.rate_scale=2"], "workload.rate_scale is 2, but the preset mixed has no rate of its own; give rate_rps"),
        (["workload.rate_scale=0"], "workload.rate_scale is 0, it must be more than 0"),
        (["workload.lengths=[5]", "workload.rate_scale=2"], "workload.rate_scale is 2, which is not allowed beside lengths, which have no rate"),
        (["workload.loop=closed", "workload.concurrency=2", "workload.rate_scale=2"], "workload.rate_scale is 2, which is not allowed in a closed loop"),
    ],
)  # fmt: skip
def test_a_scale_that_means_nothing_is_refused(settings: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        load("quickstart", settings)
    assert str(caught.value).startswith(sentence), str(caught.value)


def test_a_scale_needs_times_of_its_own(folder: Path) -> None:
    (folder / "lengths.csv").write_text("value,cdf_low,cdf_high\n100,0.0,1\n")
    with pytest.raises(
        UserError, match=r"rate_scale is 2, but a file of lengths has no rate of its own; give workload.rate"
    ):
        check_requests(load("quickstart", ["workload.file=lengths.csv", "workload.rate_scale=2"]), "sim")
    (folder / "once.csv").write_text("arrival_s,total_tokens\n0,5\n0,6\n")
    config = load("quickstart", ["workload.file=once.csv"])
    assert traffic_of(config).sentence == "workload: 2 of 2 requests of once.csv, all at once"
    with pytest.raises(
        UserError, match=r"rate_scale is 2.0, which is not allowed for this file: its requests arrive all at"
    ):
        check_requests(load("quickstart", ["workload.file=once.csv", "workload.rate_scale=2"]), "sim")


# --- what no service has ---


@pytest.mark.parametrize(
    ("workload", "sentence"),
    [
        ({"request": [{"total_tokens": 5}, {"total_tokens": 5, "arrival_s": 4e8}]}, "workload.request: the arrivals span 12.6 years, they must span at most a year"),
        ({"request": [{"total_tokens": 5, "arrival_s": 1.7e9}, {"total_tokens": 5, "arrival_s": 1.7e9 + 1}]}, "workload.request: the arrivals end 53.8 years after the run's start"),
        ({"request": [{"total_tokens": 5, "arrival_s": n * 1e-9} for n in range(4)]}, r"workload.request: the arrivals are 1e\+09 requests a second, they must be at most 1e\+06"),
        ({"preset": "mixed", "rate_rps": 1e-5, "requests": 1000, "rate_log_sd": 0.0}, "workload.rate_rps is 1e-05: 1000 requests span 3.16 years"),
        ({"lengths": [5], "rate_rps": 1e-7, "requests": 10}, "workload.rate_rps is 1e-07: 10 requests span 3.16 years"),
        ({"preset": "mixed", "rate_rps": 2e6}, "workload.rate_rps is 2000000.0, it must be at most 1000000"),
    ],
)  # fmt: skip
def test_spans_and_rates_of_no_service_are_refused_whatever_wrote_them(workload: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_requests(parse({"workload": workload}), "sim")


def test_a_stretch_beyond_a_year_is_refused(mine: Path) -> None:
    for setting in ("rate_scale=1e-7", "rate_rps=1e-7"):
        with pytest.raises(
            UserError, match=r"workload.rate_\w+: the requests of mine.csv span .* years, they must span at most"
        ):
            check_requests(load("quickstart", [f"workload.file={mine}", f"workload.{setting}"]), "sim")
    with pytest.raises(UserError, match=r"are 2e\+08 requests a second, they must be at most 1e\+06"):
        check_requests(load("quickstart", [f"workload.file={mine}", "workload.rate_scale=1e8"]), "sim")


# --- the template ---


def test_a_template_is_a_workload_file(bufferlab: Any, folder: Path) -> None:
    for name in ("new.csv", "new.csv.gz", "new.parquet"):
        ended = bufferlab("workload", "--template", name)
        assert (ended.status, ended.err) == (0, "")
        assert ended.out == f"wrote {name}; fill it, then: bufferlab workload {name}\n"
        told = json.loads(bufferlab("workload", name, "--json").out)
        assert told["requests"] == 5
        assert told["traffic"]["notes"] == []
    again = bufferlab("workload", "--template", "new.csv")
    assert (again.status, "--template is 'new.csv', which exists" in again.err) == (2, True)
    assert bufferlab("workload", "--template", "new.csv", "--force", "--json").status == 0
    assert bufferlab("workload", "--template", "new.xlsx").status == 2
    assert "it stands alone" in bufferlab("workload", "mixed", "--template", "x.csv").err
    assert bufferlab("sim", "quickstart", "--set", "workload.file=new.csv", "--no-plots", "--out", "run").status == 0


def test_a_workload_file_in_place_of_a_configuration_is_told_apart(bufferlab: Any, mine: Path) -> None:
    ended = bufferlab("sim", "mine.csv")
    assert ended.status == 2
    assert ended.err == (
        "bufferlab: CONFIG is 'mine.csv', which holds requests and no configuration; give one that they are put into, "
        "as in quickstart --set workload.file=mine.csv.\n"
    )


def test_what_two_paired_runs_were_asked_is_said(bufferlab: Any, mine: Path) -> None:
    for name, tokens in (("a", 512), ("b", 1024)):
        settings = ("--set", "workload.file=mine.csv", "--set", f"protocol.sizing.tokens={tokens}")
        assert bufferlab("sim", "quickstart", *settings, "--no-plots", "--out", name).status == 0
    ended = bufferlab("paired", "a", "b")
    assert ended.status == 0, ended.err
    assert ended.out.splitlines()[1] == "workload: 50 of 50 requests of mine.csv, 24.5 s, 2/s"


def test_what_only_a_preset_has_is_in_nobodys_way(mine: Path) -> None:
    bimodal = "adversarial-bimodal"
    lengths = load(bimodal, ["workload.lengths=[500]"])
    check_requests(lengths, "sim")
    assert (
        traffic_of(lengths)
        .notes[-1]
        .startswith("not applied to the new workload: workload.order = 'alternating', workload.options = {")
    )
    listed = load(bimodal, ["workload.request=[{total_tokens=5}, {total_tokens=7, arrival_s=2}]", "run.replications=1"])
    assert traffic_of(listed).sentence == "workload: 2 requests listed in the configuration, 2 s, 0.5/s"
    other = load(bimodal, ["workload.preset=video"])
    assert (other.workload.options, other.workload.requests) == ({}, 200)
    whole = load("quickstart", [f"workload={{file='{mine}'}}"])
    assert arrivals(whole) == WHOLE
    assert traffic_of(whole).notes[-1].startswith("not applied to the file: run.replications = 5")


def test_the_first_are_said_only_where_there_are_more(folder: Path) -> None:
    """Rows without tokens are no requests, and nothing of the file's end is missing."""
    text = "".join(f"{n},{0 if n % 4 == 3 else 10},5\n" for n in range(40))
    (folder / "failed.csv").write_text("Timestamp,Request tokens,Response tokens\n" + text)
    whole = traffic_of(load("quickstart", ["workload.file=failed.csv"]))
    assert whole.sentence.startswith("workload: 30 of 40 requests of failed.csv, ")
    assert "10 rows without tokens left out" in whole.notes
    cut = traffic_of(load("quickstart", ["workload.file=failed.csv", "workload.requests=10"]))
    assert cut.sentence.startswith("workload: the first 10 of 40 requests of failed.csv, ")
