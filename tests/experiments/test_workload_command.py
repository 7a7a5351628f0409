"""``bufferlab workload``, the workload's settings in a configuration, and the examples of the presets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bufferlab.experiments.config.schema import Config, parse
from bufferlab.experiments.config.shipped import example_names
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.simulate import simulate_one
from bufferlab.experiments.workloads.describe import configure, describe, measure
from bufferlab.experiments.workloads.loading import load
from bufferlab.experiments.workloads.readers import read_trace
from bufferlab.experiments.workloads.requests import check_requests, is_random, make_columns, make_requests
from bufferlab.sim.workload import Columns, joined, load_mix, mix_names

FEW = ("--requests", "2000", "--replications", "3")


# --- what is described ---------------------------------------------------------------------------------------------


def columns_of(arrival_s: list[float], tokens: list[int]) -> Columns:
    return Columns.of(np.asarray(arrival_s, dtype=float), np.asarray(tokens, dtype=np.int64))


def test_the_figures_by_hand() -> None:
    tokens = [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000] * 2
    found = measure(columns_of([float(number // 2) for number in range(20)], tokens), [400, 5000])
    assert found["mean"] == 550
    assert (found["p10"], found["p50"], found["p90"], found["p99"], found["max"]) == (100, 500, 900, 1000, 1000)
    assert found["above 400"] == 0.6
    assert found["fill 400"] == pytest.approx((100 + 200 + 300 + 7 * 400) / 4000)
    assert (found["above 5000"], found["fill 5000"]) == (0.0, pytest.approx(0.11))
    # Two at once every second: 19 gaps over 9 s, ten of 0 and nine of 1.
    assert found["rate_rps"] == pytest.approx(19 / 9)
    assert found["gap_cv"] == pytest.approx(np.sqrt((9 / 19) * (10 / 19)) / (9 / 19))
    assert found["dispersion 1"] is None  # nine whole windows are too few
    assert (found["clients"], found["largest_client"], found["images"]) == (1, 1.0, 0)


def test_dispersion_counts_whole_windows_only() -> None:
    # Eleven seconds: three requests in every second but none in the fifth, and one at the very end.
    times = [second + offset for second in range(11) if second != 5 for offset in (0.0, 0.3, 0.6)] + [11.0]
    found = measure(columns_of(times, [5] * len(times)), [10])
    counts = [3] * 5 + [0] + [3] * 5
    assert found["dispersion 1"] == pytest.approx(np.var(counts) / np.mean(counts))
    assert found["peak 1"] == pytest.approx(3 / np.mean(counts))
    assert found["dispersion 10"] is None
    assert found["autocorrelation"] is None  # equal lengths have none


def test_a_single_request_can_be_described() -> None:
    found = measure(columns_of([3.0], [7]), [10])
    assert (found["mean"], found["p99"], found["fill 10"]) == (7, 7, 0.7)
    assert found["rate_rps"] is None
    assert found["gap_cv"] is None


def test_a_preset_in_json(bufferlab: Any, folder: Path) -> None:
    ended = bufferlab("workload", "single-image-chat", *FEW, "--buffer", 2048, "--buffer", 512, "--json")
    assert (ended.status, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert found["workload"]["preset"] == "single-image-chat"
    assert (found["requests"], found["replications"], found["seed"]) == (2000, 3, 1)
    assert [one["tokens"] for one in found["buffers"]] == [2048, 512]
    for estimate in (found["tokens"]["mean"], found["buffers"][0]["share_above"], found["arrivals"]["gap_cv"]):
        assert estimate["low"] < estimate["value"] < estimate["high"]
    assert found["tokens"]["mean"]["low"] < 1279 < found["tokens"]["mean"]["high"]
    assert set(found["arrivals"]["dispersion"]) == {"1", "10", "60"}
    assert list(folder.iterdir()) == []
    # Byte for byte, and otherwise with another seed.
    assert (
        bufferlab("workload", "single-image-chat", *FEW, "--buffer", 2048, "--buffer", 512, "--json").out == ended.out
    )
    other = json.loads(bufferlab("workload", "single-image-chat", *FEW, "--seed", 2, "--json").out)
    assert other["tokens"]["mean"] != found["tokens"]["mean"]


def test_a_preset_as_text(bufferlab: Any) -> None:
    ended = bufferlab("workload", "adversarial-bimodal", *FEW, "--set", "workload.options.buffer_tokens=1024")
    assert ended.status == 0
    lines = ended.out.splitlines()
    assert lines[0].startswith("adversarial-bimodal: half of the requests just fit a buffer")
    assert "2000 requests, 3 replications" in lines
    (above,) = [line for line in lines if line.startswith("longer than 1024")]
    assert above.split()[3].startswith(("49", "50", "51"))
    assert above.count("..") == 1
    assert any(line.startswith("  workload.options.buffer_tokens = 1024: ") for line in lines)
    assert any(line.startswith("  workload.options.variant = 'spread': ") for line in lines)
    for name in mix_names():
        assert bufferlab("workload", name, "--requests", "200", "--replications", "2").status == 0


def test_a_rate_changes_the_arrivals_and_not_the_lengths(bufferlab: Any) -> None:
    slow, fast = (json.loads(bufferlab("workload", "mixed", *FEW, "--rate", rate, "--json").out) for rate in (2, 20))
    assert slow["tokens"] == fast["tokens"]
    assert fast["rate_rps"]["value"] == pytest.approx(10 * slow["rate_rps"]["value"])


def test_a_trace_has_no_intervals(bufferlab: Any, folder: Path) -> None:
    (folder / "t.csv").write_text("arrival_s,total_tokens,client\n0,100,a\n1,300,b\n3,200,b\n")
    found = json.loads(bufferlab("workload", "t.csv", "--buffer", 150, "--json").out)
    assert found["replications"] == 1
    assert found["tokens"]["mean"] == {"value": 200, "low": None, "high": None}
    assert found["buffers"][0]["share_above"]["value"] == pytest.approx(2 / 3)
    assert found["clients"] == {
        "count": {"value": 2, "low": None, "high": None},
        "largest_share": {"value": pytest.approx(2 / 3), "low": None, "high": None},
    }
    text = bufferlab("workload", "t.csv")
    assert text.status == 0
    assert "interval" not in text.out


@pytest.mark.parametrize("named", ["t.csv", "mine.toml", "often.toml"])
def test_a_description_announces_no_resamples_since_it_makes_none(bufferlab: Any, folder: Path, named: str) -> None:
    gaps_s = np.random.default_rng(1).exponential(0.5, 400)
    rows = "".join(f"{time_s:.6f},500\n" for time_s in np.cumsum(gaps_s))
    (folder / "t.csv").write_text(f"arrival_s,total_tokens\n{rows}")
    (folder / "mine.toml").write_text('[workload]\nfile = "t.csv"\n')
    (folder / "often.toml").write_text('[run]\nreplications = 7\n[workload]\nfile = "t.csv"\n')
    assert load("mine.toml").run.replications == 20  # what would be run is resampled
    found = json.loads(bufferlab("workload", named, "--json").out)
    assert found["replications"] == 1
    assert not [note for note in found["traffic"]["notes"] if "replication" in note or "resample" in note]
    assert found["traffic"]["sentence"].startswith("workload: 400 of 400 requests of t.csv, ")
    assert "resample" not in bufferlab("workload", named).out


def test_a_configuration_and_an_example_file(bufferlab: Any, folder: Path) -> None:
    (folder / "mine.toml").write_text("[workload]\nlengths = [100, 300]\nrequests = 10\n")
    found = json.loads(bufferlab("workload", "mine.toml", "--json").out)
    assert found["tokens"]["mean"]["value"] == 200
    assert (found["replications"], found["arrivals"]["gap_cv"]["value"]) == (1, None)
    faster = json.loads(bufferlab("workload", "mine.toml", "--rate", 5, "--set", "workload.cv=0", "--json").out)
    assert faster["replications"] == 1  # a metronome is the same every time
    assert faster["rate_rps"]["value"] == pytest.approx(5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["workload"], "Missing argument 'NAME|FILE'"),
        (["workload", "x"], "NAME is 'x', it must be a workload or configuration file, or one of the presets advers"),
        (["workload", "text-onyl"], "NAME is 'text-onyl' (did you mean text-only?), it must be"),
        (["workload", "none.csv"], "NAME is 'none.csv', it must be a workload or configuration file"),
        (["workload", "none.toml"], "CONFIG is 'none.toml', it must be a file that can be read"),
        (["workload", "bad.csv"], "bad.csv lacks the column total_tokens"),
        (["workload", "photo.jpg"], "its name must end in one of .csv"),
        (["workload", "empty"], "a folder must hold ServeGen's chunk-N-trace.csv files"),
        (["workload", "mixed", "--requests", "0"], "workload.requests is 0, it must be at least 1"),
        (["workload", "mixed", "--rate", "0"], "workload.rate_rps is 0.0, it must be more than 0"),
        (["workload", "mixed", "--rate", "nan"], "workload.rate_rps is nan, it must be a finite number"),
        (["workload", "mixed", "--seed", "x"], "run.seed is 'x', it must be a whole number"),
        (["workload", "mixed", "--buffer", "0"], "--buffer is 0, it must be at least 1"),
        (["workload", "mixed", "--replications", "0"], "--replications is 0, it must be at least 1"),
        (["workload", "mixed", "--out", "t.xlsx"], "its name must end in .csv, .csv.gz or .parquet"),
        (["workload", "mixed", "--out", "bad.csv"], "--out is 'bad.csv', which exists; give a new name, or --force"),
        (["workload", "mixed", "--out", "empty", "--force"], "--out is 'empty', which exists"),
        (["workload", "mixed", "--out", "no/t.csv"], "which cannot be written: No such file or directory"),
        (
            ["workload", "video", "--set", "workload.options.variant=x"],
            "workload.options.variant is 'x', it must be one",
        ),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_and_exit_2(bufferlab: Any, folder: Path, arguments: list[str], words: str) -> None:
    (folder / "bad.csv").write_text("arrival_s\n1\n")
    (folder / "photo.jpg").touch()
    (folder / "empty").mkdir()
    before = sorted(folder.rglob("*"))
    ended = bufferlab(*arguments)
    assert ended.status == 2, ended
    assert ended.out == ""
    assert words in ended.err
    assert ended.err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


# --- written and read again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet"])
def test_a_written_workload_is_the_same_workload(bufferlab: Any, folder: Path, suffix: str) -> None:
    name = f"t.{suffix}"
    ended = bufferlab("workload", "servegen-like", "--requests", 300, "--rate", 4, "--seed", 5, "--out", name, "--json")
    assert ended.status == 0, ended.err
    assert json.loads(ended.out) == {"path": name, "requests": 300}
    drawn = configure("servegen-like", requests=300, rate_rps=4.0, settings=["run.seed=5"])
    read = configure(name)
    assert list(make_requests(read, 0)) == list(make_requests(drawn, 0))
    assert [path.name for path in folder.iterdir()] == [name]
    before = (folder / name).read_bytes()
    assert bufferlab("workload", name, "--out", name).status == 2
    assert bufferlab("workload", name, "--out", name, "--force").status == 0
    assert (folder / name).read_bytes() == before


def test_service_factors_are_written_too(bufferlab: Any, folder: Path) -> None:
    knobs = ("--set", "workload.service_log_sd=0.2", "--set", "workload.hint=0.5")
    assert bufferlab("workload", "video", "--requests", 20, *knobs, "--out", "t.csv").status == 0
    columns = read_trace(folder / "t.csv")
    drawn = joined(make_columns(configure("video", requests=20, settings=[one for one in knobs if one != "--set"]), 0))
    assert np.array_equal(columns.encode_factor, drawn.encode_factor)
    assert len(set(columns.prefill_factor.tolist())) == 20
    assert np.array_equal(columns.image_tokens_hint, drawn.image_tokens_hint)


# --- settings ------------------------------------------------------------------------------------------------------


def workload(**settings: Any) -> Config:
    return parse({"workload": settings})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"preset": "mixed", "rate_rps": 1.0, "cv": -1.0}, "workload.cv is -1.0, it must be at least 0"),
        ({"preset": "mixed", "rate_rps": 1.0, "cv": 101.0}, "workload.cv is 101.0, it must be at most 100"),
        ({"preset": "mixed", "rate_rps": 1.0, "rate_log_sd": 4.0}, "workload.rate_log_sd is 4.0, it must be at most 3"),
        ({"preset": "mixed", "rate_rps": 1.0, "rate_time_constant_s": 0.0}, "workload.rate_time_constant_s is 0.0, it must be more than 0"),
        ({"preset": "text-only", "rate_rps": 1e-6}, "workload.rate_time_constant_s is 90.0, it must be at least 10000"),
        ({"preset": "mixed", "rate_rps": 1.0, "order": "sorted"}, "workload.order is 'sorted', it must be one of random, alternating, sorted-runs"),
        ({"preset": "mixed", "rate_rps": 1.0, "repeat_probability": 1.0}, "workload.repeat_probability is 1.0, it must be less than 1"),
        ({"preset": "mixed", "rate_rps": 1.0, "hint": "some"}, "workload.hint is 'some', it must be exact, none, or a relative error"),
        ({"preset": "mixed", "rate_rps": 1.0, "hint": True}, "workload.hint is true, it must be exact, none, or a relative error"),
        ({"preset": "mixed", "rate_rps": 1.0, "hint": 5.0}, "workload.hint is 5.0, it must be exact, none, or a relative error from 0 to 3"),
        ({"preset": "mixed", "rate_rps": 1.0, "service_log_sd": -0.1}, "workload.service_log_sd is -0.1, it must be at least 0"),
        ({"preset": "mixed", "rate_rps": 1.0, "options": {"variant": "x"}}, "workload.options.variant is not an option of the preset mixed, which has no options"),
        ({"preset": "video", "rate_rps": 1.0, "options": {"variant": 5}}, "workload.options.variant is 5, it must be one of cap-24576, cap-115200"),
        ({"preset": "adversarial-bimodal", "rate_rps": 1.0, "options": {"buffer_tokens": 5}}, "workload.options.buffer_tokens is 5, it must be from 64 to"),
        ({"lengths": [5], "cv": 1.0}, "workload.cv is 1.0, it is only allowed beside a preset, a file of lengths, or lengths with rate_rps"),
        ({"lengths": [5], "rate_rps": 1.0, "order": "random"}, "workload.order is 'random', it is only allowed beside a preset"),
        ({"lengths": [5], "options": {"a": 1}}, "workload.options is {'a': 1}, it is only allowed beside a preset or a file"),
        ({"request": [{"total_tokens": 5}], "hint": "none"}, "workload.hint is 'none', it is only allowed beside a preset"),
    ],
)  # fmt: skip
def test_each_problem_is_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        workload(**settings)
    assert str(caught.value).startswith(sentence), str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_reach_the_requests() -> None:
    base = {"preset": "single-image-chat", "rate_rps": 4.0, "requests": 2000}

    def made(**settings: Any) -> Columns:
        return joined(make_columns(workload(**base, **settings), 0))

    plain = made()
    assert np.array_equal(made(cv=0.0, rate_log_sd=0.0).arrival_s, (np.arange(2000) + 1) / 4)
    assert not made(hint="none").image_tokens_hint.any()
    assert made(options={"variant": "native"}).total_tokens.max() > 10_000
    assert (np.diff(made(order="sorted-runs").total_tokens[:32]) >= 0).all()
    assert made(service_log_sd=0.2).encode_factor.std() > 0.1
    assert not np.array_equal(made(repeat_probability=0.9).total_tokens, plain.total_tokens)
    assert not np.array_equal(made(rate_time_constant_s=5.0).arrival_s, plain.arrival_s)


def test_factors_reach_every_source(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("arrival_s,total_tokens,encode_factor\n0,5,2\n1,6,1\n")
    sources: list[dict[str, Any]] = [
        {"lengths": [5, 6]},
        {"request": [{"total_tokens": 5}, {"total_tokens": 6}]},
        {"file": str(tmp_path / "t.csv")},
    ]
    drawn = [joined(make_columns(workload(**source, service_log_sd=0.3), 0)) for source in sources]
    plain = [joined(make_columns(workload(**source), 0)) for source in sources]
    assert is_random(workload(**sources[0], service_log_sd=0.3))
    assert not is_random(workload(**sources[0]))
    # The same factors for the same request, on top of the file's own.
    assert drawn[0].encode_factor.tolist() == drawn[1].encode_factor.tolist() != plain[0].encode_factor.tolist()
    assert plain[2].encode_factor.tolist() == [2, 1]
    assert drawn[2].encode_factor.tolist() == [2 * drawn[0].encode_factor[0], drawn[0].encode_factor[1]]


def test_lengths_take_the_arrivals_settings() -> None:
    settings = {"lengths": [5], "rate_rps": 10.0, "requests": 3, "cv": 0.0}
    assert joined(make_columns(workload(**settings), 0)).arrival_s.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert not is_random(workload(**settings))
    with pytest.raises(UserError, match=r"run.replications is 2, it must be 1 for a workload without random draws"):
        check_requests(parse({"run": {"replications": 2}, "workload": settings}), "sim")


# --- examples ------------------------------------------------------------------------------------------------------


def test_every_preset_has_an_example_of_its_name() -> None:
    assert set(mix_names()) <= set(example_names())


@pytest.mark.parametrize("name", mix_names())
def test_the_example_of_a_preset_runs_below_saturation(name: str) -> None:
    config = load(name, ["workload.requests=60"])
    assert config.workload.preset == name
    check_requests(config, "sim")
    one, broken = simulate_one(config, 0)
    assert broken == []
    assert one.statuses == {"Success": 60}
    # Each side's work leaves it room: seconds of passes a second of arrivals.
    mix = load_mix(name, config.workload.options)
    columns = joined(make_columns(load(name, ["workload.requests=3000", "workload.service_log_sd=0.0"]), 0))
    services = config.scenario().services
    rate_rps = config.workload.rate_rps or 0.0
    requests = list(make_requests(load(name, ["workload.requests=3000"]), 0))
    encode = rate_rps * float(np.mean([services.encode_s(request) for request in requests]))
    prefill = rate_rps * float(np.mean([services.prefill_s(request.total_tokens) for request in requests]))
    assert 0.05 < max(encode, prefill) < 0.7, (encode, prefill)
    assert int(columns.total_tokens.max()) <= mix.max_tokens


def test_a_description_needs_a_workload_that_can_be_run() -> None:
    config = workload(lengths=[5], requests=3)
    with pytest.raises(UserError, match="--buffer is 0"):
        describe(config, [0])
    assert describe(config, [10])["requests"] == 3


def test_one_request_is_one(bufferlab: Any, tmp_path: Path) -> None:
    file = tmp_path / "one.csv"
    file.write_text("arrival_s,total_tokens\n0,500\n")
    assert bufferlab("workload", str(file)).out.splitlines()[0] == "1 request"
