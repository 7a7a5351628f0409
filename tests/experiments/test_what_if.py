"""``bufferlab tune --what-if`` and ``--sensitivity``: what the words mean, and answers where the truth is known."""

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.tuning import asking
from bufferlab.experiments.tuning.asking import Question, make_question
from bufferlab.experiments.tuning.base import Asked
from bufferlab.experiments.tuning.changes import changed_config, parse_what_ifs
from bufferlab.experiments.tuning.question import parse_limit, parse_objective
from bufferlab.experiments.tuning.sensitivity import TRAJECTORIES, _held_in, side_text
from bufferlab.experiments.tuning.tune import _bottleneck, run_tune
from bufferlab.experiments.tuning.words import WORDS
from bufferlab.experiments.units import format_duration
from bufferlab.experiments.workloads.loading import load


@pytest.fixture(scope="module", autouse=True)
def same_code() -> Iterator[None]:
    """The code does not change while a test runs, even if somebody edits it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "code_digest", lambda *more: "code")
        yield


def changed(text: str, *settings: str) -> Config:
    (what_if,) = parse_what_ifs([text])
    return changed_config(load("quickstart", list(settings)), what_if)


# --- words ---


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("rate=2x", {"workload.rate_rps": 16.0}),
        ("pool=0.5x", {"language.pool_blocks": 128}),
        ("link=efa-p5en", {"link.profile": "efa-p5en"}),
        ("bandwidth=0.8x", {"link.bandwidth_scale": 0.8}),
        ("latency=3", {"link.latency_scale": 3.0}),
        ("encode=2x", {"encode.time_scale": 2.0}),
        ("prefill=2x", {"language.time_scale": 2.0}),
        ("service=2x", {"encode.time_scale": 2.0, "language.time_scale": 2.0}),
        ("images=2x", {"workload.image_scale": 2.0}),
        ("lengths=.5x", {"workload.length_scale": 0.5}),
        ("instances=3x", {"encode.instances": 3, "language.instances": 3}),
        ("encode_instances=2x", {"encode.instances": 2}),
        ("language_instances=1.6x", {"language.instances": 2}),
        ("lengths=2x+rate=2x", {"workload.length_scale": 2.0, "workload.rate_rps": 16.0}),
    ],
)
def test_a_word_changes_its_fields_and_nothing_else(text: str, fields: dict[str, Any]) -> None:
    from bufferlab.protocol.naming import flat

    own, new = dict(flat(load("quickstart", []).tree())), dict(flat(changed(text).tree()))
    assert {name: value for name, value in new.items() if own.get(name) != value} == fields


def test_every_word_is_in_the_documentation() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "tune.md").read_text(encoding="utf-8")
    for word in WORDS:
        assert f"| `{word}=" in page


def test_a_factor_multiplies_what_the_configuration_has() -> None:
    assert changed("bandwidth=0.5x", "link.bandwidth_scale=0.8").link.bandwidth_scale == pytest.approx(0.4)


def test_one_option_asks_several_questions_and_each_once() -> None:
    asked = parse_what_ifs(["rate=2x,pool=0.5x", "rate=2x"])
    assert [one.text for one in asked] == ["rate=2x", "pool=0.5x"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rat=2x", r"'rat' is not known.*it must be one of rate, pool, link"),
        ("rate", "it must look like rate=2x"),
        ("rate=", "it must look like rate=2x"),
        ("rate=fast", "must be a factor from 0.01x to 100x"),
        ("rate=0x", "must be a factor from 0.01x to 100x"),
        ("rate=1e9x", "must be a factor"),
        ("link=infiniband", "is no link profile.*it must be one of"),
        ("rate=2x+rate=3x", "names rate twice"),
        ("", "it must look like rate=2x"),
    ],
)
def test_any_other_word_or_value_is_refused_in_a_sentence(text: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"^--what-if is .*{message}") as caught:
        parse_what_ifs([text])
    assert "\n" not in str(caught.value)


def test_a_rate_that_nobody_has_is_refused_before_anything_runs() -> None:
    with pytest.raises(UserError, match=r"^--what-if is 'rate=2x', but all lengths come at once"):
        question(what_ifs=parse_what_ifs(["rate=2x"]))


def test_instances_are_whole_so_a_factor_that_changes_none_is_refused() -> None:
    assert changed("language_instances=0.5x", "language.instances=4").language.instances == 2
    message = r"^--what-if is 'instances=0.5x', but of 1 that leaves 1: instances are whole, it must be another factor$"
    with pytest.raises(UserError, match=message):
        changed("instances=0.5x")
    with pytest.raises(UserError, match=r"which makes 400 instances of 4, there may be at most 256$"):
        changed("language_instances=100x", "language.instances=4")


# --- answers ---

SPACE: dict[str, list[Any]] = {
    "protocol.sizing.policy": ["fixed"],
    "protocol.sizing.tokens": [1024, 2048],
    "protocol.discipline": ["window"],
    "protocol.block_tokens": [128],
    "language.pool_blocks": [512],
}
LENGTH = 1000


def question(**options: Any) -> Question:
    """Requests of 1,000 tokens: a default of 1,024 is enough, until they are longer than that by 2.4 %."""
    settings = (f"workload={{lengths=[{LENGTH}], requests=12}}", "language.pool_blocks=512", "encode.pool_blocks=512")
    asked = Asked("quickstart", settings=settings)
    options = {"objective": parse_objective("latency_p99"), "space": SPACE, **options}
    return make_question(asked, baselines=[{"protocol.sizing.tokens": 2048}], **options)


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    out = tmp_path_factory.mktemp("tune") / "out"
    asked = question(what_ifs=parse_what_ifs(["lengths=2x,bandwidth=0.5x"]), sensitivity=True)
    told = run_tune(asked, out, jobs=1, plots=False)
    return told.content, told.text, out


def test_a_what_if_says_whether_the_recommendation_holds_and_what_staying_costs(answer: Any) -> None:
    content, text, _ = answer
    assert content["recommendation"]["protocol.sizing.tokens"] == 1024
    longer, slower = content["what_if"]
    assert (longer["name"], longer["fields"]) == ("lengths=2x", {"workload.length_scale": 2.0})
    # Of 2,000 tokens, 1,024 are not enough.
    assert longer["holds"] is False
    assert longer["recommendation"]["protocol.sizing.tokens"] == 2048
    assert longer["cost"]["value"] > content["indifference"]
    assert longer["staying"]["value"] - longer["objective"]["value"] == pytest.approx(longer["cost"]["value"])
    assert (slower["holds"], slower["changes"]) == (True, {})
    lines = text[text.index("What if:") :].splitlines()
    assert any("lengths=2x" in line and "becomes" in line for line in lines)
    assert any("bandwidth=0.5x" in line and "holds" in line for line in lines)


def test_bisection_finds_the_factor_at_which_the_recommendation_changes(answer: Any) -> None:
    content, text, _ = answer
    breaks = {(one["name"], one["to"] > 1): one for one in content["sensitivity"]["breaks"]}
    longer = breaks["lengths", True]
    truth = 1024 / LENGTH
    assert longer["between"][0] <= truth <= longer["between"][1]
    assert longer["between"][1] / longer["between"][0] < 1.05
    assert longer["winner"] == {"protocol.sizing.tokens": 2048}
    assert longer["by"]["value"] > content["indifference"]
    assert breaks["lengths", False]["breaks_at"] is None
    assert breaks["bandwidth", True]["breaks_at"] is None
    # All of them come at once, so there is no rate.
    assert not any(name == "rate" for name, _ in breaks)
    assert "tokens of an image: no rival can be told to be better down to 0.25×" in text


def test_rivals_are_held_in_replications_that_did_not_pick_them() -> None:
    """Where there are others: a file has no further traffic, and requests that are all the same need but one run."""
    told = {
        kind: _held_in(SimpleNamespace(kind=kind, most=most))  # type: ignore[arg-type]
        for kind, most in (("independent", 30), ("resampled", 16), (None, 1))
    }
    assert told == {"independent": range(1, 9), "resampled": range(8), None: range(1)}


def test_a_break_is_told_by_where_it_surely_holds_and_where_it_is_surely_lost(answer: Any) -> None:
    content, text, _ = answer
    breaks = {(one["name"], one["to"] > 1): one for one in content["sensitivity"]["breaks"]}
    broken = breaks["lengths", True]
    assert broken["untold"] == []  # every setting runs once, which leaves nothing open
    sure, lost = broken["between"]
    assert "tokens of an image: no rival can be told to be better down to 0.25×, as far as was tried; " in text
    holds = "" if sure == 1 else f"surely holds to {sure:.3g}×, "
    assert f"as far as was tried; {holds}surely lost at {lost:.3g}×; at " in text


@pytest.mark.parametrize(
    ("sure", "untold", "said"),
    [
        (1.0, [], "surely lost at 4×"),
        (1.0, [2.0], "cannot be told at 2×, surely lost at 4×"),
        (2.0, [], "surely holds to 2×, surely lost at 4×"),
        (1.5, [2.0, 2.5, 3.0], "surely holds to 1.5×, cannot be told from 2× to 3×, surely lost at 4×"),
    ],
)
def test_a_break_says_where_it_cannot_be_told_and_never_that_it_holds_to_what_it_is(
    sure: float, untold: list[float], said: str
) -> None:
    one = {
        "name": "rate", "to": 4.0, "breaks_at": 3.0, "between": [sure, 4.0], "untold": untold, "unserved": False,
        "winner": {"protocol.sizing.tokens": 4096}, "by": {"value": 0.2, "low": 0.1, "high": 0.3}, "served": True,
    }  # fmt: skip
    assert side_text(one) == f"{said}, where tokens 4096 wins by 200 ms (+100 ms .. +300 ms)"


def test_screening_tells_what_matters_with_an_interval(answer: Any) -> None:
    content, _, _ = answer
    screening = content["sensitivity"]["screening"]
    effects = {one["name"]: one["figure"] for one in screening["effects"]}
    assert set(effects) == {"bandwidth", "latency", "service", "lengths"}
    assert screening["runs"] == 2 * TRAJECTORIES * (len(effects) + 1)
    # Twelve requests at once wait for one another's computing, and hardly for latencies of the link.
    assert effects["lengths"]["value"] > effects["latency"]["value"]
    assert all(math.isfinite(one["half"]) and one["half"] >= 0 for one in effects.values())


def test_the_runs_are_bounded_and_in_the_ledger_by_their_stage(answer: Any) -> None:
    content, _, out = answer
    rows = pq.read_table(out / "ledger.parquet").to_pylist()
    stages = [row["stage"] for row in rows]
    assert {"race", "what-if", "sensitivity"} <= set(stages)
    assert 0 < content["sensitivity"]["runs"] <= content["sensitivity"]["most_runs"]
    assert {row["what_if"] for row in rows if row["stage"] == "what-if"} == {"lengths=2x", "bandwidth=0.5x"}


def test_the_same_question_again_runs_nothing_and_says_the_same(answer: Any) -> None:
    content, _, out = answer
    made: list[int] = []
    asked = question(what_ifs=parse_what_ifs(["lengths=2x,bandwidth=0.5x"]), sensitivity=True)
    again = run_tune(asked, out, jobs=1, plots=False, progress=made.append)
    assert not made
    assert {**again.content, "wall_s": None} == {**content, "wall_s": None}


# --- over capacity, and what would mend it ---

LOADED = (
    "workload={lengths=[1000], requests=400, rate_rps=10}", "language.pool_blocks=4096", "encode.pool_blocks=4096",
    "encode.profile=instant", "language.profile=instant", "encode.batch_requests=1", "language.batch_tokens=1",
    "link.profile=cx7-400g", "protocol.timeout_s=3600",
)  # fmt: skip
"""Ten requests a second, one at a time: a stage that takes 100 ms is exactly full."""


def loaded(*settings: str, **options: Any) -> dict[str, Any]:
    asked = Asked("quickstart", settings=(*LOADED, *settings))
    space = {**SPACE, "language.pool_blocks": [4096]}
    made = make_question(asked, objective=parse_objective("ttft_p99"), space=space, replications=4, **options)
    told = run_tune(made, None, jobs=1)
    return {**told.content, "text": told.text}


def test_each_stage_that_holds_a_system_back_is_found_behind_the_one_before_and_what_mends_it_is_tried() -> None:
    """Prefill is offered twice what it can do, and the encoder, of which that is hidden, 1.5 times."""
    told = loaded("encode.per_token_s=150us", "language.per_token_s=200us")
    assert told["verdict"] == "over-capacity"
    relief = told["relief"]
    assert relief["stages"] == ["prefill", "encoder"]
    # By utilisation 2 / 0.8 and 1.5 / 0.8, rounded up.
    assert (relief["needs"], relief["instead_of"]) == (
        {"language.instances": 3, "encode.instances": 2},
        {"language.instances": 1, "encode.instances": 1},
    )
    assert (relief["enough"], relief["over"], relief["not_served"]) == (True, False, 0)
    assert relief["figures"]["ttft_s.p99"] < 5
    assert (
        "Instances: held back by prefill, then by encoder. About 3 language instances and 2 encode instances instead of "
        "1 and 1 would do; in one run with these: p99 first token " in told["text"]
    )


def test_a_what_if_over_capacity_says_so_beside_what_holds_and_what_it_takes() -> None:
    what_ifs = parse_what_ifs(["rate=3x,rate=3x+language_instances=4x"])
    told = loaded("encode.per_token_s=10us", "language.per_token_s=50us", what_ifs=what_ifs)
    assert told["relief"] is None
    over, mended = told["what_if"]
    assert over["saturates"] == ["prefill"]
    assert over["relief"]["needs"] == {"language.instances": 2}
    assert over["relief"]["enough"]
    assert (mended["capacity"], mended["saturates"], mended["relief"]) == ("within", [], None)
    first, second = (line for line in told["text"].splitlines() if line.startswith("rate=3x"))
    assert "over capacity" in first
    assert " prefill " in first
    assert "about 2 language instances: " in first
    assert " holds " in second
    assert over["now"]["value"] == told["objective"]["value"] < over["staying"]["value"]


def test_a_what_if_that_misses_its_limit_says_the_nearest_value_and_by_how_much() -> None:
    told = loaded(
        "encode.per_token_s=10us", "language.per_token_s=50us", what_ifs=parse_what_ifs(["service=2x"]),
        limits=[parse_limit("ttft_p99=500ms")],
    )  # fmt: skip
    (one,) = told["what_if"]
    assert one["verdict"] == "slo-missed"
    (miss,) = one["nearest"]["misses"]
    assert miss["value"] == one["nearest"]["value"]["value"] > 0.5
    assert miss["by_s"] == pytest.approx(miss["value"] - 0.5)
    (line,) = (line for line in told["text"].splitlines() if line.startswith("service=2x"))
    assert f"{format_duration(miss['by_s'])} above the limit" in line
    assert "no setting keeps the SLO" in line


def test_no_instances_are_tried_for_a_limit_below_what_a_request_takes_where_nobody_waits() -> None:
    """Prefill alone takes 50 ms, and it is offered half of what it can do."""
    told = loaded("encode.per_token_s=1us", "language.per_token_s=50us", limits=[parse_limit("ttft_p99=20ms")])
    assert told["verdict"] == "slo-missed"
    relief = told["relief"]
    assert (relief["enough"], relief["needs"], relief["runs"]) == (False, {}, 1)


def test_a_limit_hardly_above_that_takes_so_many_that_nobody_waits() -> None:
    told = loaded("encode.per_token_s=1us", "language.per_token_s=50us", limits=[parse_limit("ttft_p99=60ms")])
    relief = told["relief"]
    assert (told["verdict"], relief["enough"], relief["no_nearer"]) == ("slo-missed", True, False)
    assert relief["needs"].keys() == {"language.instances"}
    assert 0.05 < relief["figures"]["ttft_s.p99"] <= 0.06


def test_a_limit_that_a_few_more_instances_keep_says_how_many() -> None:
    told = loaded("encode.per_token_s=1us", "language.per_token_s=80us", limits=[parse_limit("ttft_p99=200ms")])
    relief = told["relief"]
    assert (told["verdict"], relief["enough"], relief["stages"]) == ("slo-missed", True, ["prefill"])
    assert relief["needs"].keys() == {"language.instances"}
    assert relief["figures"]["ttft_s.p99"] <= 0.2


@pytest.mark.parametrize(
    ("stages", "named"),
    [
        (["language_pool", "language_pool", "prefill"], "prefill"),  # another setting is all that the pool needs
        (["language_pool", "language_pool"], "language_pool"),
        (["prefill", "encoder", "encoder"], "encoder"),
        ([], None),
    ],
)
def test_a_full_pool_is_no_bottleneck_where_other_settings_are_held_back_by_what_comes_behind(
    stages: list[str], named: str | None
) -> None:
    rows = {
        number: [{"capacity.verdict": "over", "capacity.in_stretches": number % 2 == 0, "capacity.bottleneck": stage}]
        for number, stage in enumerate(stages)
    }
    rows[9] = [{"capacity.verdict": "near", "capacity.in_stretches": False, "capacity.bottleneck": "writers"}]
    runs: Any = SimpleNamespace(rows=lambda number: rows[number])
    asked: Any = SimpleNamespace(kind="resampled")
    assert _bottleneck(asked, runs, list(rows)) == named
