"""``bufferlab tune``: what is asked, what is refused, the answer, its files, and going on after an interruption."""

import contextlib
import io
import json
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest

from bufferlab.experiments.cli import main
from bufferlab.experiments.config.overrides import apply_override
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.stats.intervals import unbounded
from bufferlab.experiments.stats.racing import Verdict
from bufferlab.experiments.stats.replicates import Replicates
from bufferlab.experiments.sweeps.configuration import run_configuration
from bufferlab.experiments.sweeps.grid import fingerprint
from bufferlab.experiments.tuning import answer, asking, contest, floor, missed, names, text
from bufferlab.experiments.tuning.asking import Question, make_question
from bufferlab.experiments.tuning.base import Asked, make_base
from bufferlab.experiments.tuning.contest import Result, misses
from bufferlab.experiments.tuning.decision import Candidates, Decision, candidates, decide
from bufferlab.experiments.tuning.question import parse_certainty, parse_indifference, parse_limit, parse_objective
from bufferlab.experiments.tuning.tune import _is_over, _lowest, run_tune
from bufferlab.experiments.units import format_duration
from bufferlab.experiments.workloads.loading import load
from bufferlab.experiments.workloads.requests import make_requests
from bufferlab.protocol.naming import flat

SMALL = (
    "--space", "protocol.sizing.policy=fixed", "--space", "protocol.sizing.tokens=512,8192,16384",
    "--space", "protocol.discipline=window", "--space", "protocol.block_tokens=128",
    "--space", "language.pool_blocks=128,256", "--set", "workload.requests=40", "--jobs", "1", "--no-plots",
)  # fmt: skip
QUICK = (*SMALL, "--replications", "6", "--seed", "5")
FIXED = {
    "recommendation", "objective", "over", "not_told_apart", "certainty", "indifference", "verdict", "runs", "requests",
    "wall_s",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def same_code() -> Iterator[None]:
    """The code does not change while a test runs, even if somebody edits it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "code_digest", lambda *more: "code")
        yield


class Tuned(NamedTuple):
    """A tune that several tests look at: its folder, what it printed as JSON, and its run directory's tune.json."""

    folder: Path
    printed: dict[str, Any]
    stored: dict[str, Any]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, same_code: None) -> Tuned:
    folder = tmp_path_factory.mktemp("tuned") / "run"
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert (
            main(["tune", "quickstart", *(one for one in QUICK if one != "--no-plots"), "--out", str(folder), "--json"])
            == 0
        )
    return Tuned(folder, json.loads(out.getvalue()), json.loads((folder / "tune.json").read_text()))


def question(source: str = "quickstart", *settings: str, **options: Any) -> Question:
    asked = Asked(source, settings=("workload.requests=40", *settings))
    options = {"objective": parse_objective("latency_p99"), "replications": 4, **options}
    return make_question(asked, **options)


SPACE: dict[str, list[Any]] = {
    "protocol.sizing.policy": ["fixed"],
    "protocol.sizing.tokens": [512, 8192],
    "protocol.discipline": ["window"],
    "protocol.block_tokens": [128],
    "language.pool_blocks": [256],
}


# --- how it is said ---


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (0.0265, -0.0243, 0.0773, "+26.5 ms ± 50.8 ms"),
        (0.0265, 0.0065, 0.108, "+26.5 ms (+6.5 ms .. +108 ms)"),  # of a file, whose intervals are those of ratios
        (-0.05, None, None, "−50 ms"),
        (0.0, 0.0, 0.0, "+0 µs"),
        (None, None, None, ""),
    ],
)
def test_only_an_interval_around_its_value_is_written_as_half_of_it(
    value: float | None, low: float | None, high: float | None, said: str
) -> None:
    assert text._change({"value": value, "low": low, "high": high}) == said


def setting_of(number: int, state: str, **changes: Any) -> dict[str, Any]:
    """What tune.json has of a setting, as far as it is told which cannot be told apart."""
    fields = {"protocol.sizing.tokens": 1024, **changes}
    return {"number": number, "state": state, "fields": fields, "changes": changes, "memory_bytes": 2**30}


def test_what_cannot_be_told_apart_is_held_against_the_best_and_not_against_what_stays() -> None:
    larger = {"protocol.sizing.tokens": 4096}
    settings = [setting_of(1, "kept"), setting_of(2, "kept", **larger), setting_of(3, "dropped")]
    content: dict[str, Any] = {
        "chosen": 1, "best": 2, "certainty": 0.95, "indifference": 0.02, "changes": {}, "settings": settings,
        "recommendation": settings[0]["fields"],
    }  # fmt: skip
    assert text._alike(content) == (
        "Cannot be told apart from the best (setting 2: protocol.sizing.tokens = 4096): one other setting.\n"
        "  setting 1: the recommended one (1 GiB)"
    )
    # Today's setting stays although the race found it to be worse, as that is not told to be by what matters.
    settings[0]["state"] = "dropped"
    assert text._alike(content) == (
        "Cannot be told apart from the best (setting 2: protocol.sizing.tokens = 4096): none of the others.\n"
        "The recommended one is not among these: another one is better, but not told to be so by more than 20 ms."
    )
    content |= {"chosen": 2, "changes": larger, "recommendation": settings[1]["fields"]}
    settings[0]["state"] = "kept"
    assert text._alike(content) == (
        "Cannot be told apart from the best (setting 2): one other setting.\n  setting 1: today's setting (1 GiB)"
    )


def test_a_file_that_cannot_be_resampled_says_why_and_takes_no_replications(bufferlab: Any, folder: Path) -> None:
    file = folder / "ten.csv"
    file.write_text("arrival_s,total_tokens\n" + "".join(f"{number / 4},{900 + number}\n" for number in range(10)))
    out = folder / "run"
    few = [one for one in SMALL if one != "workload.requests=40"]
    few.remove("--set")
    refused = bufferlab("tune", str(file), *few, "--replications", "3", "--out", str(out))
    assert refused.status == 2
    assert refused.err == (
        "bufferlab: --replications is 3, it must be 1 or left out: every replication of these requests would be the same "
        "(the file cannot be resampled: it has 10 requests, and it takes 100 at least to make 10 blocks of them).\n"
    )
    assert not out.exists()
    told = bufferlab("tune", str(file), *few, "--out", str(out)).out
    assert "one run each, without resamples of the file, so how sure the answer is will not be known: it has 10" in told
    assert "Cannot be told apart" not in told
    assert "may as well be" not in told
    assert "of the best (setting " in told


# --- what is asked ---


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("latency_p99", "latency_s.p99"), ("latency p99", "latency_s.p99"), ("p50", "latency_s.p50"),
        ("mean", "latency_s.mean"), ("ttft", "ttft_s.p99"), ("ttft_s.mean", "ttft_s.mean"),
    ],
)  # fmt: skip
def test_an_objective_is_a_figure_of_the_summary(text: str, path: str) -> None:
    assert parse_objective(text).path == path


@pytest.mark.parametrize("text", ["", "p95", "latency_ttft", "throughput", "p99 p50"])
def test_any_other_objective_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^--objective is .*, it must be one of latency, ttft, transfer with one of"):
        parse_objective(text)


def test_limits_certainty_and_indifference_have_units() -> None:
    limit = parse_limit("ttft_p99=1500ms")
    assert (limit.of.path, limit.limit_s) == ("ttft_s.p99", 1.5)
    assert parse_certainty("99%") == parse_certainty("0.99") == 0.99
    assert parse_indifference("3%").of(2.0) == pytest.approx(0.06)
    assert parse_indifference("5ms").of(2.0) == 0.005


@pytest.mark.parametrize("text", ["ttft_p99", "ttft_p99=", "ttft_p99=-1s", "ttft_p99=soon", "p95=1s", "ttft_p99=0s"])
def test_a_limit_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^--slo"):
        parse_limit(text)


@pytest.mark.parametrize("text", ["", "5", "-1%", "100%", "much", "5 kg"])
def test_an_indifference_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^--indifference is .*, it must be a share such as 2% or a time such as 5ms$"):
        parse_indifference(text)


@pytest.mark.parametrize("text", ["1", "100%", "0.4", "sure", ""])
def test_a_certainty_that_nothing_can_give_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^--certainty is .*, it must be from 0.5 to 0.999, such as 0.95 or 95%$"):
        parse_certainty(text)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--model", "qwen2.5-vl-7"], "--model is 'qwen2.5-vl-7' (did you mean qwen2.5-vl-7b?), it must be one of"),
        (["--gpu", "h1000"], "--gpu is 'h1000' (did you mean h100?), it must be one of h100, h200, a100, h20"),
        (["--link", "cx7"], "--link is 'cx7' (did you mean cx7-400g?), it must be one of cx7-400g"),
        (["--memory", "4GIB"], "--memory is '4GIB', it must be a size such as 512KiB, 4MiB or 2GB"),
        (["--memory", "1kB"], "--memory is '1kB', it must hold at least one block of"),
        (
            ["--memory", "1MiB"],
            "--memory is '1MiB', with which no setting of the space can be run: language.pool_blocks",
        ),
        (["--space", "protocol.sizing.tokens=100"], "--space protocol.sizing.tokens=100: protocol.block_tokens is"),
        (["--space", "protocol.discipline=windw"], "(did you mean window?)"),
        (["--space", "protocol.sizing.q=0.5", "--space", "protocol.sizing.policy=fixed"], "none of the policies fixed"),
        (["--baseline", "protocol.sizing.tokens=100"], "--baseline protocol.sizing.tokens=100: "),
        (["--set", "run.replications=3"], "--replications gives the most of them"),
        (["--space", "run.name=a,b"], "run.name is swept, which is not allowed: --out gives it to all configurations"),
        (["--replications", "1"], "--replications is 1, it must be from 2 to 1000"),
        (["--jobs", "0"], "--jobs is 0, it must be at least 1"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(
    bufferlab: Any, folder: Path, arguments: list[str], problem: str
) -> None:
    ended = bufferlab("tune", "quickstart", *arguments)
    assert ended.status == 2
    assert problem in ended.err
    assert ended.err.count("\n") == 1
    assert not any(folder.iterdir())


@pytest.mark.parametrize(
    ("settings", "memory", "least", "what"),
    [
        ((), "1KiB", 919_616, "one allocation of 128 tokens"),
        (("protocol.sizing.tokens=1024",), "1KiB", 8 * 919_616, "one allocation of 1024 tokens"),
        ((), None, 8192 * 919_616, "one allocation of 1048576 tokens"),
        (
            ("protocol.sizing.tokens=1024", "protocol.reserve_blocks=30"),
            "20MiB",
            38 * 919_616,
            "one allocation of 1024 tokens and of a reserve of 30 blocks",
        ),
        (("language.pool_blocks=8",), "1KiB", 919_616, "one block"),
    ],
)
def test_too_little_memory_for_a_file_says_how_much_is_enough(
    folder: Path, settings: tuple[str, ...], memory: str | None, least: int, what: str
) -> None:
    (folder / "mine.csv").write_text("arrival_s,total_tokens\n0,100\n1,9000\n2,50\n")
    settings = settings if memory else ("protocol.sizing.tokens=1048576",)
    with pytest.raises(UserError) as refused:
        make_base(Asked("mine.csv", memory=memory, settings=settings))
    assert str(refused.value) == f"--memory is {memory or '4GiB'!r}, it must be at least {least}, the bytes of {what}"
    make_base(Asked("mine.csv", memory=str(least), settings=settings))
    with pytest.raises(UserError):
        make_base(Asked("mine.csv", memory=str(least - 1), settings=settings))


def test_a_file_of_traffic_needs_nothing_else(folder: Path) -> None:
    (folder / "mine.csv").write_text("arrival_s,total_tokens\n0,100\n1,9000\n2,50\n")
    asked = make_question(Asked("mine.csv"), objective=parse_objective("mean"))
    config = asked.base.config
    assert asked.base.defaults == (
        "--model qwen2.5-vl-7b", "--gpu h100", "--link cx7-400g", "--memory 4GiB",
        "1 encode and 1 language instance of 1 rank each (--encode-instances, --language-instances)",
        "8192 tokens set aside today (--set protocol.sizing.tokens=…)",
        "blocks of 128 tokens (--set protocol.block_tokens=…)", "discipline window (--set protocol.discipline=…)",
    )  # fmt: skip
    # What is set today is what others are compared with as well, so it is told once.
    assert [fields for fields, _, _ in asked.space.baselines] == [{}]
    assert config.run.name == "mine"
    assert config.link.profile == "cx7-400g"
    assert config.encode.profile == config.language.profile == "h100-qwen2.5-vl-7b"
    block = config.layout.bytes_per_block
    assert config.blocks(config.language) == 2**32 // block
    assert {one.memory_bytes // block for one in asked.space.settings if one.config.protocol.block_tokens == 128} == {
        2**32 // block, 2**31 // block, 2**30 // block,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("memory", "settings", "tokens"),
    [
        (None, (), 8192),
        (None, ("protocol.block_tokens=1000",), 9000),
        ("20MiB", (), 2048),  # 22 blocks of 128 tokens
        ("20MiB", ("protocol.reserve_blocks=15",), 512),
        ("4GiB", ("language.pool_blocks=20",), 2048),
        ("4GiB", ("language.pool_blocks='20MiB'",), 2048),
        ("4GiB", ("protocol.sizing.tokens=1024",), 1024),
        ("4GiB", ("protocol.sizing.policy=quantile",), 8192),
    ],
)
def test_what_is_set_aside_today_is_8192_tokens_as_far_as_they_fit(
    folder: Path, memory: str | None, settings: tuple[str, ...], tokens: int
) -> None:
    (folder / "mine.csv").write_text("arrival_s,total_tokens\n0,100\n1,9000\n2,50\n")
    made = make_base(Asked("mine.csv", memory=memory, settings=settings))
    assert made.config.protocol.sizing.tokens == tokens
    said = any("tokens set aside today" in one for one in made.defaults)
    assert said == ("protocol.sizing.tokens=1024" not in settings)


def test_without_an_objective_the_first_limit_is_one_and_that_is_said(bufferlab: Any, folder: Path) -> None:
    limits = [parse_limit("ttft_mean=9s"), parse_limit("latency_p50=9s")]
    for objective, figure, said in (
        (None, "ttft_s.mean", True),
        (parse_objective("latency_p99"), "latency_s.p99", False),
    ):
        made = question(objective=objective, limits=limits, space=SPACE)
        assert made.objective.path == figure
        assert ("mean first token is to be low, as it is limited (--objective)" in made.assumed) == said
    assert question(objective=None, space=SPACE).objective.path == "latency_s.p99"
    planned = bufferlab("tune", "quickstart", *QUICK, "--slo", "ttft_p99=9s", "--dry-run").out
    assert "for a low p99 first token\n" in planned
    assert "  not given, so: p99 first token is to be low, as it is limited (--objective)\n" in planned


def test_a_pool_is_written_as_memory_and_is_no_change_where_it_is_the_same(folder: Path) -> None:
    lines = [f"{number},{100 * number + 100}" for number in range(60)]
    (folder / "mine.csv").write_text("\n".join(["arrival_s,total_tokens", *lines]) + "\n")
    made = make_question(Asked("mine.csv", memory="1GiB"), objective=parse_objective("mean"))
    today = made.space.settings[0]
    assert today.fields["language.pool_blocks"] == "1GiB"
    content: list[dict[str, Any]] = [
        {"fields": one.fields, "memory_bytes": one.memory_bytes} for one in made.space.settings
    ]
    # Whatever the size of a block: a pool that is a block short of it is the pool that was asked for.
    assert {names.memory_text(one) for one in content} == {"1 GiB", "512 MiB", "256 MiB"}
    other = next(one for one in content if one["fields"]["protocol.block_tokens"] == 256)
    assert "pool" not in names.setting_text(other, content[0])
    assert names.varied_fields(content).count("language.pool_blocks") == 0
    smaller = next(one for one in content if one["fields"]["language.pool_blocks"] == "256MiB")
    assert names.setting_text(smaller, content[0]).endswith("a pool of 256 MiB")
    blocks = {"fields": {**today.fields, "language.pool_blocks": 160}, "memory_bytes": 160 * 919_616}
    assert names.setting_text(blocks, content[0]) == "a pool of 140 MiB (160 blocks)"


@pytest.mark.parametrize(
    ("bytes_", "said"),
    [(2**30 - 919_616, "1 GiB"), (2**30, "1 GiB"), (2**20 - 4096, "1 MiB"), (500 * 2**20, "500 MiB")],
)
def test_a_size_that_is_a_block_short_of_a_unit_is_called_that(bytes_: int, said: str) -> None:
    assert names.size_text(bytes_) == said


def test_the_options_of_a_system_replace_those_of_a_configuration() -> None:
    asked = Asked("quickstart", model="qwen3-vl-8b", gpu="a100", link="efa-p5en", memory="1GiB")
    made = make_question(asked, objective=parse_objective("mean"))
    config = made.base.config
    assert config.model.name == "qwen3-vl-8b"
    assert config.encode.profile == config.language.profile == "a100-qwen3-vl-8b"
    assert config.link.profile == "efa-p5en"
    assert made.base.budget_bytes == 2**30
    assert all(one.memory_bytes <= 2**30 for one in made.space.settings if one.eligible)


@pytest.mark.parametrize(
    ("given", "settings", "said"),
    [
        ({"encode_instances": 2}, (), ["1 language instance of 1 rank (--language-instances)"]),
        ({}, ("language.instances=4",), ["1 encode instance of 1 rank (--encode-instances)"]),
        (
            {},
            ("language.tp=2",),
            [
                "1 encode instance of 1 rank (--encode-instances)",
                "1 language instance of 2 ranks (--language-instances)",
            ],
        ),
        ({"encode_instances": 1, "language_instances": 2}, (), []),
    ],
)
def test_instances_that_nobody_gave_are_said(
    folder: Path, given: dict[str, int], settings: tuple[str, ...], said: list[str]
) -> None:
    (folder / "mine.csv").write_text("arrival_s,total_tokens\n0,100\n1,9000\n2,50\n")
    asked = Asked("mine.csv", memory="4GiB", settings=settings, **given)
    made = make_question(asked, objective=parse_objective("mean"))
    assert [one for one in made.base.defaults if "instance" in one] == said
    plan = text.plan_text(made)
    assert all(one in plan for one in said)
    assert made.base.config.language.instances == given.get(
        "language_instances", 4 if "instances" in str(settings) else 1
    )


def test_numbers_of_instances_are_those_of_the_settings(bufferlab: Any) -> None:
    counts = ("--encode-instances", "2", "--language-instances", "3")
    told = bufferlab("tune", "quickstart", *SMALL, *counts, "--dry-run").out
    assert "system: 2 encode, 3 language, " in told
    refused = bufferlab("tune", "quickstart", "--language-instances", "0")
    assert (refused.status, refused.err) == (2, "bufferlab: --language-instances is 0, it must be from 1 to 256.\n")


def test_every_setting_keeps_the_memory_of_the_encode_side() -> None:
    made = question()
    own = made.base.encode_bytes
    for one in made.space.settings:
        layout = one.config.layout
        assert own - layout.bytes_per_block < one.config.blocks(one.config.encode) * layout.bytes_per_block <= own


def test_settings_that_cannot_differ_are_one() -> None:
    made = question()
    announced = [one for one in made.space.settings if one.config.protocol.discipline == "exact_announce"]
    places = {(one.config.protocol.block_tokens, one.memory_bytes) for one in announced}
    assert len(announced) == len(places)
    assert {one.config.encode.transfer_workers for one in made.space.settings} == {1}
    more = question("quickstart", "language.instances=4")
    assert {one.config.encode.transfer_workers for one in more.space.settings} == {1, 2, 4}


def test_todays_policy_is_left_whole_by_another_one() -> None:
    made = question(
        "quickstart", "protocol.sizing.policy=quantile", "protocol.sizing.q=0.7",
        space={"protocol.sizing.policy": ["fixed", "quantile"]},
    )  # fmt: skip
    today = made.space.settings[0]
    assert today.config.protocol.sizing.options["q"] == 0.7
    policies = {one.config.protocol.sizing.policy for one in made.space.settings}
    assert policies == {"fixed", "quantile"}
    learning = [one for one in made.space.settings if one.config.protocol.sizing.policy == "quantile"]
    assert {one.config.protocol.sizing.options["q"] for one in learning} == {0.7}


def test_options_of_a_policy_are_crossed_with_the_policies_that_have_them() -> None:
    made = question(
        space={
            **SPACE, "protocol.sizing.policy": ["fixed", "quantile", "ewma_margin"], "protocol.sizing.q": [0.5, 0.9],
        }
    )  # fmt: skip
    eligible = [one.config.protocol.sizing for one in made.space.settings if one.eligible]
    assert sorted((one.policy, one.options.get("q")) for one in eligible if one.policy == "quantile") == [
        ("quantile", 0.5), ("quantile", 0.9),
    ]  # fmt: skip
    assert sum(one.policy == "ewma_margin" for one in eligible) == 1
    assert sum(one.policy == "fixed" for one in eligible) == 3  # today's, which is in the memory, and two sizes


# --- the answer ---


def test_the_answer_has_the_names_that_are_promised_and_can_be_pasted(tuned: Tuned) -> None:
    told, stored = tuned.printed, tuned.stored
    assert set(told) >= FIXED
    assert told["verdict"] in ("recommended", "no-difference")
    assert told["objective"].keys() == {"name", "value", "low", "high"}
    assert [over["baseline"] for over in told["over"]] == [
        {}, {"protocol.sizing.policy": "fixed", "protocol.sizing.tokens": 8192},
    ]  # fmt: skip
    assert all(over["difference"].keys() == {"value", "low", "high"} for over in told["over"])
    assert told["certainty"] == 0.95
    assert stored["finished"]
    assert {name: stored[name] for name in FIXED} == {name: told[name] for name in FIXED}
    assert {path.name for path in tuned.folder.iterdir()} == {
        "tune.json", "answer.txt", "config.toml", "environment.json", "ledger.parquet", "plots",
    }  # fmt: skip
    assert {path.name for path in (tuned.folder / "plots").iterdir()} == {"pareto.png", "u_shape.png"}
    rows = pq.read_table(tuned.folder / "ledger.parquet").to_pylist()
    assert len(rows) == told["runs"]
    assert sum(row["requests"] for row in rows) == told["requests"] == 40 * told["runs"]
    pasted = [f"{field}={value}" for field, value in told["changes"].items()]
    config = load(str(tuned.folder / "config.toml"), pasted)
    assert config.protocol.sizing.tokens == told["recommendation"]["protocol.sizing.tokens"]


@pytest.mark.parametrize("text", ["window", "true", "1e3", "a b", 'a"b', "x=1"])
def test_the_commands_and_lines_of_an_answer_can_be_pasted(text: str) -> None:
    """Whatever a value looks like: texts are quoted, so that none is read as a number."""
    made = question(space=SPACE)
    changes = {"protocol.discipline": text, "protocol.sizing.tokens": 2048, "encode.transfer_workers": 4}
    (command,) = answer._commands(made, replace(made.space.settings[0], changes=changes))
    words = shlex.split(command)
    assert words[:3] == ["bufferlab", "sim", "RUN/config.toml"]
    assert words[3::2] == ["--set"] * 3
    tree: dict[str, Any] = {}
    for override in words[4::2]:
        apply_override(tree, override)
    assert dict(flat(tree)) == changes


def test_the_stored_command_runs_the_recommended_setting(tuned: Tuned) -> None:
    told = tuned.stored
    asked, *runs = told["commands"]
    assert shlex.split(asked)[:3] == ["bufferlab", "tune", "quickstart"]
    (words,) = (shlex.split(one) for one in runs)
    config = load(words[2].replace("RUN", str(tuned.folder)), words[4::2])
    (chosen,) = (one for one in told["settings"] if one["number"] == told["chosen"])
    own = dict(flat(config.tree()))
    assert {name: own[name] for name in chosen["fields"]} == chosen["fields"]


def test_a_row_of_the_ledger_is_what_sim_says(tuned: Tuned) -> None:
    rows = pq.read_table(tuned.folder / "ledger.parquet").to_pylist()
    row = next(row for row in rows if (row["setting"], row["replication"]) == (3, 2))
    (setting,) = (one for one in tuned.stored["settings"] if one["number"] == 3)
    config = load(
        str(tuned.folder / "config.toml"), [f"{field}={value}" for field, value in setting["fields"].items()]
    )  # fmt: skip
    summary = run_configuration(config, 2)["summary"]
    for name in ("latency_s.p99", "ttft_s.mean", "resume.rate", "language_pool.peak_occupancy", "utilisation.prefill"):
        section, figure = name.split(".")
        assert row[name] == summary[section][figure]["value"]
    assert row["capacity.verdict"] == summary["capacity"]["verdict"]


def test_differences_are_those_of_the_ledger(tuned: Tuned) -> None:
    told = tuned.stored
    rows = pq.read_table(tuned.folder / "ledger.parquet").to_pylist()
    values = {(row["setting"], row["replication"]): row["latency_s.p99"] for row in rows}
    first, last = told["told_by_replications"]
    raced = {row["replication"] for row in rows if row["stage"] == "race"}
    assert first > max(raced), "what a setting brings is told by replications that had no part in its choice"
    assert last - first + 1 >= 10
    for over in told["over"]:
        steps = [values[told["chosen"], each] - values[over["number"], each] for each in range(first, last + 1)]
        assert over["difference"]["value"] == pytest.approx(sum(steps) / len(steps), abs=1e-12)
        assert over["difference"]["low"] <= over["difference"]["value"] <= over["difference"]["high"]


def test_the_text_says_what_the_json_says(bufferlab: Any, tuned: Tuned) -> None:
    shutil.copytree(tuned.folder, "run")
    ended = bufferlab("tune", "quickstart", *QUICK, "--out", "run")
    assert ended.status == 0
    told = json.loads(Path("run", "tune.json").read_text())
    assert {**told, "wall_s": 0} == {**tuned.stored, "wall_s": 0}
    answer = Path("run", "answer.txt").read_text()
    assert answer.strip() in ended.out
    within = "No change is told to be better by more than "
    assert answer.startswith("What to set" if told["verdict"] == "recommended" else within)
    assert told["sure"].startswith("How sure: with 95 % the best of the ")
    assert f"\n\n{told['sure']}\n\n" in answer
    assert "\nThe table has the race's replications; what is above it comes from others that had no part" in answer
    for field, value in told["changes"].items():
        shown = f'"{value}"' if isinstance(value, str) else value
        assert f"  {field} = {shown}\n" in answer
    assert f"{told['runs']} runs, {told['requests']} requests, {told['wall_s']:.1f} s" in answer
    assert told["seed"] == 5


def test_where_nothing_differs_today_is_kept() -> None:
    space = {**SPACE, "protocol.sizing.tokens": [16384, 32768]}
    made = question("quickstart", "workload.rate_rps=0.5", space=space)
    content = run_tune(made, None, jobs=1).content
    assert content["verdict"] == "no-difference"
    assert content["changes"] == {}
    assert content["chosen"] == content["over"][0]["number"] == 1


def decided(memory: dict[int, int], changes: dict[tuple[int, int], Any], *, main: int, cheaper: int) -> Decision:
    """What is decided of settings with so much memory, of which 1 is today's, at an indifference of 0.05."""
    one = question(space=SPACE).space.settings[0]
    settings = {number: replace(one, number=number, memory_bytes=bytes_) for number, bytes_ in memory.items()}
    places = tuple(range(len(memory)))
    standing = Verdict(
        best=main - 1, kept=places, dropped={}, unfit={}, short_of_best=0.0, ended="settled",
        certainty=0.95, indifference=0.05, runs=8,
    )  # fmt: skip
    estimates = {pair: None if one is None else dict(zip(("value", "low", "high"), one, strict=True))
                 for pair, one in changes.items()}  # fmt: skip
    return decide(
        settings, Result((*memory,), standing, 0.05, {}), candidates=Candidates(main, cheaper), today=1,
        differ=lambda first, second: estimates[first, second],  # type: ignore[arg-type, return-value]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "memory", "verdict", "chosen"),
    [
        ((-0.2, -0.3, -0.1), 100, "recommended", 2),  # better, and surely so
        ((-0.2, -0.5, 0.1), 100, "no-difference", 1),  # perhaps better
        ((-0.2, -0.5, 0.04), 50, "no-difference", 2),  # with less memory, and not worse by what matters
        ((0.01, -0.02, 0.04), 50, "no-difference", 2),  # the same, on the other side of nothing
        ((-0.2, -0.5, 0.1), 50, "no-difference", 1),  # with less memory, but it may be worse by what matters
        ((0.0, -1.9, 1.9), 50, "no-difference", 1),  # what nobody knows is no reason to save memory
        ((-0.01, -0.02, -0.005), 100, "no-difference", 1),  # surely better, by what does not matter
        ((0.2, -0.1, 0.5), 50, "no-difference", 1),  # less memory, but perhaps worse by what matters
        (None, 200, "recommended", 2),  # today's setting cannot be chosen
    ],
)
def test_a_change_is_recommended_where_it_is_better_or_surely_as_good_with_less_memory(
    change: tuple[float, float, float] | None, memory: int, verdict: str, chosen: int
) -> None:
    found = decided({1: 100, 2: memory}, {(1, 2): change}, main=2, cheaper=2)
    assert (found.verdict, found.chosen) == (verdict, chosen)
    assert set(found.alike) == {1, 2} - {chosen}
    # Where it may be as good but is not told to be, that is said, with by how much it may be worse.
    told = memory < 100 and chosen == 1
    assert found.cheaper == (2 if told else None)
    assert found.worse == (
        None if not told or change is None else {"value": change[0], "low": change[1], "high": change[2]}
    )


@pytest.mark.parametrize(
    ("to_main", "over_today", "chosen", "cheaper"),
    [
        ((0.01, -0.02, 0.04), (-0.2, -0.3, -0.1), 3, None),  # as good as the better one, with less memory
        ((0.01, -0.5, 0.9), (-0.2, -0.9, 0.6), 2, 3),  # not told to be as good
        ((0.04, 0.03, 0.05), (-0.02, -0.1, 0.06), 2, 3),  # as good, but not told to be better than today's
        ((0.2, 0.1, 0.3), (-0.1, -0.2, -0.06), 2, None),  # surely worse: nothing to say
    ],
)
def test_a_cheaper_one_takes_the_place_of_a_better_one_only_where_it_is_surely_as_good(
    to_main: Any, over_today: Any, chosen: int, cheaper: int | None
) -> None:
    changes = {(1, 2): (-0.2, -0.3, -0.1), (2, 3): to_main, (1, 3): over_today}
    found = decided({1: 100, 2: 100, 3: 50}, changes, main=2, cheaper=3)
    assert (found.verdict, found.chosen, found.cheaper) == ("recommended", chosen, cheaper)


def test_where_all_is_known_the_best_is_set_rather_than_told_to_be_no_better() -> None:
    """3 is the best, 2 is as good with fewer changes, and 1, today's, is as good as 2 but not as 3."""
    one = question(space=SPACE)
    settings = {number: replace(one.space.settings[0], number=number, memory_bytes=100) for number in (1, 2, 3)}
    standing = Verdict(
        best=2, kept=(1, 2), dropped={0: 1}, unfit={}, short_of_best=0.0, ended="settled",
        certainty=1.0, indifference=0.05, runs=3,
    )  # fmt: skip
    values = {1: 1.07, 2: 1.03, 3: 1.0}
    found = decide(
        settings, Result((1, 2, 3), standing, 0.05, {}), candidates=Candidates(2, 2), today=1, exact=True,
        differ=lambda first, second: unbounded(values[second] - values[first]),
    )  # fmt: skip
    assert (found.verdict, found.chosen) == ("recommended", 3)


def test_the_cheaper_one_is_held_against_todays_only_if_it_is_estimated_as_good() -> None:
    one = question(space=SPACE)
    own = one.space.settings[0]
    settings = {
        number: replace(own, number=number, memory_bytes=bytes_)
        for number, bytes_ in enumerate((100, 100, 50, 25, 12), 1)
    }
    standing = Verdict(
        best=0, kept=(0, 1, 2, 3, 4), dropped={}, unfit={}, short_of_best=0.0, ended="spent", certainty=0.95,
        indifference=0.05, runs=8,
    )  # fmt: skip
    result = Result((1, 2, 3, 4, 5), standing, 0.05, {})

    def to_the_best(*estimates: tuple[float, float, float]) -> Any:
        return {
            number: dict(zip(("value", "low", "high"), one, strict=True)) for number, one in enumerate(estimates, 2)
        }

    known, unknown, worse = (0.01, -0.02, 0.04), (0.02, -1.0, 1.0), (0.2, -0.4, 0.8)
    # 4 has less memory than 3, but nobody knows whether it is as good, and 5 does not even look so.
    assert candidates(one.base, settings, result, to_the_best(known, known, unknown, worse)) == Candidates(1, 3)
    assert candidates(one.base, settings, result, to_the_best(known, unknown, unknown, worse)) == Candidates(1, 4)
    assert candidates(one.base, settings, result, to_the_best(known, worse, worse, worse)) == Candidates(1, 1)


def test_where_every_setting_loses_requests_the_answer_is_which_and_why() -> None:
    """Without resuming, a request that is longer than the default fails, however idle the system is."""
    space = {**SPACE, "protocol.sizing.tokens": [512, 1024], "protocol.discipline": ["default_fail"]}
    settings = ("protocol.discipline=default_fail", "workload.rate_rps=0.5")
    told = run_tune(question("quickstart", *settings, space=space), None, jobs=1)
    content = told.content
    assert (content["verdict"], content["recommendation"], content["capacity"]["verdict"]) == (
        "not-served",
        {},
        "within",
    )
    assert told.text.startswith("No setting serves every request, so none is recommended")
    assert content["not_served"]["reasons"]
    for reason in content["not_served"]["reasons"]:
        assert reason in told.text
    assert "held back" not in told.text
    assert "No stage is over capacity, but " in told.text


def test_over_capacity_is_an_answer_that_costs_few_runs(bufferlab: Any, folder: Path) -> None:
    crowded = ("--set", "workload.rate_rps=60", "--set", "workload.requests=150")
    ended = bufferlab("tune", "quickstart", *QUICK, *crowded, "--out", "run", "--json")
    assert ended.status == 0
    told = json.loads(ended.out)
    assert told["verdict"] == "over-capacity"
    assert told["recommendation"] == {}
    assert told["capacity"]["bottleneck"] == "prefill"
    assert told["capacity"]["least_loads"]["prefill"] > 1
    assert "language.instances = " in told["capacity"]["remedy"]
    assert told["runs"] == 4 * 2  # today's and 8192 tokens: arithmetic says it of all
    text = (folder / "run" / "answer.txt").read_text()
    assert text.startswith("Over capacity at every setting; prefill is the bottleneck")


def test_a_limit_that_no_setting_keeps_is_an_answer_and_a_failed_check(bufferlab: Any, folder: Path) -> None:
    quick = [one for one in QUICK if one != "--no-plots"]
    ended = bufferlab("tune", "quickstart", *quick, "--slo", "ttft_p99=1ms", "--out", "run")
    assert ended.status == 1
    told = json.loads((folder / "run" / "tune.json").read_text())
    assert told["verdict"] == "slo-missed"
    assert "No setting keeps to the limit: p99 first token is " in ended.out
    assert ", at most 1 ms is allowed, so it is " in ended.out
    # All of the answer is there: what is best apart from the limit, what that brings, how sure that is, the pictures.
    assert told["choice"] in ("recommended", "no-difference")
    assert told["recommendation"]
    assert told["chosen"] in {one["number"] for one in told["settings"] if one["state"] == "kept"}
    assert all(one["difference"]["value"] is not None for one in told["over"])
    assert all("the limit is 1 ms" in one["misses"] for one in told["settings"] if one["runs"])
    assert {path.name for path in (folder / "run" / "plots").iterdir()} == {"pareto.png", "u_shape.png"}
    for words in (
        "\n\nApart from the limit:\n",
        "\n  over today's setting: ",
        "\nMemory: ",
        "\nHow sure: ",
        "\nPareto front",
    ):
        assert words in ended.out
    # Work alone is above it.
    (floor,) = told["floor"]["figures"].values()
    assert floor["value"] > floor["low"] > 0.001
    assert sum(floor["parts"].values()) == pytest.approx(floor["value"])
    assert (
        "No buffer size and no number of instances reaches it: one request at a time, without any waiting" in ended.out
    )
    rows = pq.read_table(folder / "run" / "ledger.parquet").to_pylist()
    alone = [row["ttft_s.p99"] for row in rows if row["stage"] == "floor"]
    assert len(alone) == told["floor"]["runs"] == 10
    assert floor["value"] == pytest.approx(sum(alone) / 10)


def test_a_limit_that_waiting_breaks_says_how_much_of_the_figure_is_waiting() -> None:
    """Busy for most of the time: whatever is set, p50 has far more than the work of a request."""
    settings = ("workload.rate_rps=20", "workload.requests=60")
    options: dict[str, Any] = {"space": SPACE, "objective": None, "limits": [parse_limit("ttft_p50=150ms")]}
    told = run_tune(question("quickstart", *settings, **options), None, jobs=1)
    content = told.content
    assert content["verdict"] == "slo-missed"
    (limit,) = content["slo"]["limits"]
    floor = content["floor"]["figures"]["ttft_s.p50"]["value"]
    assert floor < 0.15 < limit["value"]
    waits = f"{format_duration(limit['value'] - floor)} of the {format_duration(limit['value'])} are waiting."
    assert waits in told.text
    assert "no number of instances" not in told.text


@pytest.mark.parametrize(
    ("near", "difference", "said"),
    [
        (3, (-0.4, -0.6, -0.2), "The nearest is setting 3 (protocol.sizing.tokens = 512): 2 s, −400 ms (−600 ms .. −200 ms)"),
        (3, (-0.1, -0.6, 0.4), "No setting is nearer to it than today's by more than chance."),
        (3, (-0.1, None, None), "The nearest is setting 3 (protocol.sizing.tokens = 512): 2 s, −100 ms over today's."),
        (3, (None, None, None), "The nearest is setting 3 (protocol.sizing.tokens = 512): 2 s."),
        (1, (0.0, 0.0, 0.0), "No setting is nearer to it than today's by more than chance."),
        (2, (-0.4, -0.6, -0.2), ""),  # which is recommended
    ],
)  # fmt: skip
def test_the_nearest_is_named_only_where_it_is_nearer_by_more_than_chance(
    near: int, difference: tuple[float | None, ...], said: str
) -> None:
    settings = [setting_of(number, "kept", **{"protocol.sizing.tokens": 1024 // number}) for number in (1, 2)]
    settings.append(setting_of(3, "kept", **{"protocol.sizing.tokens": 512}))
    found = {
        "number": near,
        **unbounded(2.0),
        "difference": dict(zip(("value", "low", "high"), difference, strict=True)),
    }
    content = {"chosen": 2, "over": [{"number": 1}], "settings": settings}
    assert missed.nearest_text(content, {"figure": "ttft_s.p99", "nearest": found}).startswith(said)


def test_what_is_left_without_waiting_is_the_work_of_a_request_however_fast_they_come() -> None:
    limits = [parse_limit("ttft_p50=1s"), parse_limit("latency_mean=1s"), parse_limit("transfer_p99=1s")]
    found = []
    for settings in ((), ("workload.rate_rps=0.5",), ("workload.loop=closed", "workload.concurrency=9")):
        made = question("quickstart", *settings, limits=limits, space=SPACE)
        runs = contest.Runs({}, lambda run, tasks: ((place, run(*task)) for place, task in enumerate(tasks)))
        told = floor.floor_of(made, runs)
        assert told is not None
        found.append(told)
    first = found[0]
    assert [one["figures"] for one in found] == [first["figures"]] * 3
    for figure in first["figures"].values():
        assert sum(figure["parts"].values()) == pytest.approx(figure["value"])
    config = question(space=SPACE).base.config
    times = config.scenario().services
    requests = [one for replication in range(first["runs"]) for one in make_requests(config, replication)]
    work_s = sum(times.preprocess_s(one) + times.encode_s(one) for one in requests) / len(requests)
    encode_s = first["figures"]["latency_s.mean"]["parts"]["encode"]
    # What is there beside is the constant part of a pass and being looked at every now and then.
    assert work_s <= encode_s < work_s + 0.001
    crowded = [contest.run_row(config, replication, "today") for replication in range(first["runs"])]
    for path, figure in first["figures"].items():
        assert figure["value"] < sum(row[path] for row in crowded) / len(crowded)


def test_the_nearest_to_a_limit_is_chosen_over_replications_that_all_have() -> None:
    """Those that were dropped have fewer, which may be the easy ones."""
    rows = {1: [3.0, 9.0, 9.0], 2: [4.0, 4.0], 3: [2.5, 9.0]}
    runs: Any = SimpleNamespace(
        values=lambda number, path, replications: [rows[number][one] for one in replications],
        rows=lambda number: [{"requests": 1, "requests.succeeded": 1}],
    )
    asked: Any = SimpleNamespace(first=2, replicates=Replicates())
    assert _lowest(asked, runs, rows, "ttft_s.p99") == 2
    # Of a file it is that of the file itself.
    asked = SimpleNamespace(first=2, replicates=Replicates("resampled", blocks=20.0, window=7.0))
    assert _lowest(asked, runs, rows, "ttft_s.p99") == 3


def test_who_cannot_keep_up_is_over_capacity_whatever_requests_were_waiting_for(folder: Path) -> None:
    """A burst that prefill cannot take: what waits behind it is given up, for lack of memory by its own account."""
    draws = np.random.default_rng(3)
    gaps = np.concatenate([draws.exponential(mean, count) for mean, count in ((1.0, 80), (0.03, 300), (1.0, 80))])
    tokens = draws.choice([900, 2500], len(gaps))
    lines = [f"{time:.3f},{count}" for time, count in zip(np.cumsum(gaps), tokens, strict=True)]
    (folder / "burst.csv").write_text("\n".join(["arrival_s,total_tokens", *lines]) + "\n")
    settings = ("protocol.timeout_s=3", "language.per_token_s=60us")
    space = {**SPACE, "protocol.sizing.tokens": [1024, 4096], "language.pool_blocks": ["256MiB", "64MiB"]}
    asked = Asked("burst.csv", memory="256MiB", settings=settings)
    told = run_tune(make_question(asked, objective=parse_objective("latency_p99"), space=space), None, jobs=1)
    content = told.content
    assert (content["verdict"], content["capacity"]["bottleneck"]) == ("over-capacity", "prefill")
    assert any("waiting for memory" in reason for reason in content["not_served"]["reasons"])
    assert told.text.startswith("Over capacity at every setting; prefill is the bottleneck")
    assert "\n  so requests are given up: " in told.text
    # The cure was tried: with these it serves every request.
    assert content["relief"]["enough"]
    assert content["relief"]["needs"]["language.instances"] > 1
    assert "would do; in one run with these: " in told.text
    # Today's pool is no other than the one of that size that is chosen from.
    assert "255 MiB" not in told.text


def test_a_limit_takes_out_what_misses_it_even_the_best() -> None:
    """16384 tokens leave room for two rooms in the pool, so requests wait, but hardly any of them resumes."""
    space = {**SPACE, "protocol.sizing.tokens": [512, 16384]}
    options: dict[str, Any] = {"space": space, "objective": parse_objective("transfer_p50")}
    free = run_tune(question(**options), None, jobs=1).content
    figures = {one["number"]: one["figures"] for one in free["settings"] if one["eligible"]}
    best, path = free["best"], "latency_s.mean"
    other = min(figures, key=lambda number: figures[number][path]["value"])
    assert other != best
    halfway = (figures[best][path]["value"] + figures[other][path]["value"]) / 2
    told = run_tune(question(**options, limits=[parse_limit(f"latency_mean={halfway}s")]), None, jobs=1)
    limited = told.content
    (missing,) = (one for one in limited["settings"] if one["number"] == best)
    assert missing["state"] == "unfit"
    assert "the limit is" in missing["why"]
    assert limited["chosen"] not in (None, best)
    (chosen,) = (one for one in limited["settings"] if one["number"] == limited["chosen"])
    assert chosen["figures"][path]["value"] <= halfway
    # Of these few requests, the replications that had no part in the choice are above it, which is said.
    (limit,) = limited["slo"]["limits"]
    assert (limit["value"] > halfway, limit["met"]) == (True, False)
    assert "is allowed, which these replications do not keep to; " in told.text
    assert " of it is there without any waiting, " in told.text


@pytest.mark.parametrize(
    ("values", "of_the_file", "of_the_mean"),
    [
        ([1.9, 2.3, 2.3], "", "p99 first token is 2.17 s, the limit is 2 s"),
        ([2.1, 1.8, 1.8], "p99 first token is 2.1 s, the limit is 2 s", ""),
        ([None, 1.8, 1.8], "p99 first token is not known, the limit is 2 s", ""),
        ([2.0, 2.0, 2.0], "", ""),
    ],
)
def test_a_limit_is_one_on_the_file_itself_and_on_the_mean_of_independent_replications(
    values: list[float | None], of_the_file: str, of_the_mean: str
) -> None:
    runs: Any = SimpleNamespace(values=lambda number, path: values)
    limits = [parse_limit("ttft_p99=2s")]
    assert misses(runs, 1, limits, Replicates("resampled")) == of_the_file
    assert misses(runs, 1, limits, Replicates()) == of_the_mean


def test_the_capacity_of_a_file_is_judged_by_the_file_and_not_by_most_of_its_resamples() -> None:
    over, within = ({"capacity.verdict": verdict, "capacity.in_stretches": False} for verdict in ("over", "within"))
    runs: Any = SimpleNamespace(rows=lambda number: [within, over, over])
    told = {kind: _is_over(SimpleNamespace(kind=kind), runs, 1) for kind in ("resampled", "independent")}  # type: ignore[arg-type]
    assert told == {"resampled": False, "independent": True}


def test_what_is_told_of_a_limit_comes_from_replications_that_had_no_part_in_the_choice() -> None:
    content = run_tune(question(space=SPACE, limits=[parse_limit("latency_p99=100s")]), None, jobs=1).content
    (limit,) = content["slo"]["limits"]
    own = {name: content["objective"][name] for name in ("value", "low", "high")}
    assert limit == {"figure": "latency_s.p99", "limit_s": 100.0, **own, "met": True, "nearest": None}
    (chosen,) = (one for one in content["settings"] if one["number"] == content["chosen"])
    assert limit["value"] != chosen["figures"]["latency_s.p99"]["value"]


def test_a_file_has_intervals_from_resamples_of_it(folder: Path) -> None:
    draws = np.random.default_rng(3)
    times = np.cumsum(draws.exponential(0.1, 400))
    tokens = draws.choice([60, 900, 1500, 9000], 400, p=[0.3, 0.4, 0.2, 0.1])
    lines = [f"{time:.3f},{count}" for time, count in zip(times, tokens, strict=True)]
    (folder / "mine.csv").write_text("\n".join(["arrival_s,total_tokens", *lines]) + "\n")
    asked = Asked("mine.csv", memory="256MiB")
    options: dict[str, Any] = {
        "objective": parse_objective("mean"),
        "space": {**SPACE, "language.pool_blocks": ["256MiB"]},
    }
    made = make_question(asked, replications=9, **options)
    assert made.kind == "resampled"
    content = run_tune(made, None, jobs=1).content
    assert content["replication_kind"] == "resampled"
    own = content["objective"]
    assert own["low"] < own["value"] < own["high"]
    summary = run_configuration(made.settings[content["chosen"]].config, 0)["summary"]
    assert own["value"] == summary["latency_s"]["mean"]["value"], "the value is that of the file itself"
    assert any("resamples of it" in note for note in content["traffic"]["notes"])
    # What a change brings is told by the resamples that chose it; of independent replications there are others.
    for kind, changes, said in (
        ("resampled", {"a": 1}, True),
        ("resampled", {}, False),
        ("independent", {"a": 1}, False),
    ):
        told = text.sure_text({**content, "replication_kind": kind, "changes": changes})
        assert ("is that of one comparison, not of the best of many." in told) == said


def test_requests_that_are_always_the_same_are_compared_exactly() -> None:
    made = question(
        "seed-resume", "workload.requests=1", space={"protocol.sizing.tokens": [1024, 4096]}, replications=None
    )
    assert made.kind is None
    content = run_tune(made, None, jobs=1).content
    assert content["certainty"] is None
    assert {one["runs"] for one in content["settings"]} <= {0, 1}
    assert content["objective"]["low"] is None
    assert "exact for these requests" in run_tune(made, None, jobs=1).text


# --- the folder ---


def test_it_goes_on_where_it_was_interrupted(
    bufferlab: Any, folder: Path, tuned: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Any, int]] = []
    run = contest.run_row

    def counted(config: Any, replication: int, title: str) -> Any:
        if len(made) == 9:
            made.append((title, -1))
            raise KeyboardInterrupt
        made.append((title, replication))
        return run(config, replication, title)

    monkeypatch.setattr(contest, "run_row", counted)
    stopped = bufferlab("tune", "quickstart", *QUICK, "--out", "run")
    assert stopped.status == 130
    assert "the same command goes on from there" in stopped.err
    assert len((folder / "run" / "ledger.jsonl").read_text().splitlines()) == 9
    with (folder / "run" / "ledger.jsonl").open("a") as journal:
        journal.write('{"setting": 1, "cut')  # as a crash leaves it
    ended = bufferlab("tune", "quickstart", *QUICK, "--out", "run", "--json")
    told, expected = json.loads(ended.out), tuned.printed
    assert {**told, "wall_s": 0} == {**expected, "wall_s": 0}
    assert len(set(made)) == len(made)
    ledger = (folder / "run" / "ledger.parquet").read_bytes()
    again = bufferlab("tune", "quickstart", *QUICK, "--out", "run", "--json")
    assert {**json.loads(again.out), "wall_s": 0} == {**expected, "wall_s": 0}
    assert len(made) == told["runs"] + 1
    assert (folder / "run" / "ledger.parquet").read_bytes() == ledger
    values = [pq.read_table(one / "ledger.parquet").to_pylist() for one in (tuned.folder, folder / "run")]
    assert values[0] == values[1]


def test_more_replications_go_on_with_those_that_are_there(
    bufferlab: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, int]] = []
    run = contest.run_row

    def counted(config: Any, replication: int, title: str) -> Any:
        made.append((fingerprint(config), replication))
        return run(config, replication, title)

    monkeypatch.setattr(contest, "run_row", counted)
    first = json.loads(bufferlab("tune", "quickstart", *SMALL, "--replications", "4", "--out", "run", "--json").out)
    before = {
        (row["fingerprint"], row["replication"]): row["latency_s.p99"]
        for row in pq.read_table("run/ledger.parquet").to_pylist()
    }
    assert sorted(made) == sorted(before)
    made.clear()
    more = json.loads(bufferlab("tune", "quickstart", *SMALL, "--replications", "8", "--out", "run", "--json").out)
    after = {
        (row["fingerprint"], row["replication"]): row["latency_s.p99"]
        for row in pq.read_table("run/ledger.parquet").to_pylist()
    }
    assert more["runs"] > first["runs"]
    assert before.items() < after.items()
    # What was there is not made again.
    assert sorted(made) == sorted(after.keys() - before.keys())


def test_another_question_in_the_folder_is_refused(bufferlab: Any, folder: Path, tuned: Tuned) -> None:
    shutil.copytree(tuned.folder, folder / "run")
    answer = (folder / "run" / "tune.json").read_bytes()
    for other in (
        ["--set", "workload.rate_rps=9"],
        ["--objective", "mean"],
        ["--slo", "ttft_p99=2s"],
        ["--certainty", "0.9"],
    ):
        refused = bufferlab("tune", "quickstart", *QUICK, "--out", "run", *other)
        assert refused.status == 2
        assert refused.err == (
            "bufferlab: --out is 'run', which holds another tune; give a new folder, or --force to start again.\n"
        )
        assert (folder / "run" / "tune.json").read_bytes() == answer
    (folder / "other").mkdir()
    (folder / "other" / "mine.txt").write_text("mine")
    assert bufferlab("tune", "quickstart", *QUICK, "--out", "other").status == 2
    assert bufferlab("tune", "quickstart", *QUICK, "--out", "run", "--objective", "mean", "--force").status == 0


def test_two_processes_write_the_same_bytes_as_one(bufferlab: Any, folder: Path, tuned: Tuned) -> None:
    ended = bufferlab("tune", "quickstart", *QUICK, "--jobs", 2, "--out", "run", "--json")
    assert {**json.loads(ended.out), "wall_s": 0} == {**tuned.printed, "wall_s": 0}
    places = (tuned.folder, folder / "run")
    assert len({(one / "ledger.parquet").read_bytes() for one in places}) == 1
    assert len({(one / "answer.txt").read_text().rpartition(",")[0] for one in places}) == 1
