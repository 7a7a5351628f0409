"""The page of ``bufferlab report`` about a tuning: its words and numbers are those of tune.json, its commands can be typed."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.reports.command import write_report
from bufferlab.experiments.reports.readings import BESIDE, interval_text, shown, value_text
from bufferlab.experiments.tuning.asking import Question, make_question
from bufferlab.experiments.tuning.base import Asked
from bufferlab.experiments.tuning.changes import parse_what_ifs
from bufferlab.experiments.tuning.question import parse_objective
from bufferlab.experiments.tuning.sensitivity import TITLES, sensitivity_text, side_text
from bufferlab.experiments.tuning.text import answer_text
from bufferlab.experiments.tuning.tune import run_tune
from tests.experiments.conftest import Command
from tests.experiments.test_report import HARM, Tags, check_numbers, made

FIXED: dict[str, list[Any]] = {
    "protocol.sizing.policy": ["fixed"],
    "protocol.discipline": ["window"],
    "protocol.block_tokens": [128],
}
LENGTH = 1000


def small_question() -> Question:
    """A small default and pool over a slow link, of which larger ones are recommended; and two what-ifs."""
    settings = (
        "workload.requests=24",
        "protocol.sizing.tokens=128",
        "language.pool_blocks=16",
        "link.latency_scale=90",
    )
    return make_question(
        Asked("quickstart", memory="256MiB", settings=settings), objective=parse_objective("latency_p99"),
        space={**FIXED, "protocol.sizing.tokens": [512, 1024], "language.pool_blocks": [8, 256]},
        baselines=[{"protocol.sizing.tokens": 1024}], replications=6, what_ifs=parse_what_ifs(["rate=2x,lengths=4x"]),
        command="bufferlab tune quickstart",
    )  # fmt: skip


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune") / "it's tuned"
    run_tune(small_question(), folder, jobs=1, plots=False)
    return folder


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Requests of which nothing is drawn, so every setting runs once; with the sensitivity."""
    folder = tmp_path_factory.mktemp("tune") / "once"
    settings = (f"workload={{lengths=[{LENGTH}], requests=12}}", "language.pool_blocks=512", "encode.pool_blocks=512")
    question = make_question(
        Asked("quickstart", settings=settings), objective=parse_objective("latency_p99"),
        space={**FIXED, "protocol.sizing.tokens": [1024, 2048], "language.pool_blocks": [512]},
        baselines=[{"protocol.sizing.tokens": 2048}], sensitivity=True,
    )  # fmt: skip
    run_tune(question, folder, jobs=1, plots=False)
    return folder


def content_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "tune.json").read_text())
    return found


def words_of(folder: Path, out: Path) -> str:
    """The page as it is read: no tags, and plain spaces."""
    text = re.sub(r"<svg.*?</svg>|<style>.*?</style>|<script>.*?</script>", "", made(folder, out), flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", text)).replace(BESIDE, " "))


def changed(folder: Path, to: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy whose tune.json is changed."""
    shutil.copytree(folder, to)
    content = content_of(folder)
    change(content)
    (to / "tune.json").write_text(json.dumps(content))
    return to


@pytest.mark.parametrize("which", ["tuned", "once"])
def test_the_numbers_of_a_tuning_are_those_of_its_file(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(which)
    text = made(folder, tmp_path / "r.html")
    assert check_numbers(text, content_of(folder)) > 20
    assert Tags(text).scripts == 1


def test_the_page_says_what_to_set_what_that_brings_and_how_sure_it_is(tuned: Path, tmp_path: Path) -> None:
    content = content_of(tuned)
    text = words_of(tuned, tmp_path / "r.html")
    assert content["verdict"] == "recommended"
    today, chosen = (shown(one["value"], "time").replace(BESIDE, " ") for one in (content["over"][0]["value"],
                                                                                content["objective"]))  # fmt: skip
    assert f"Set 1,024 tokens and a pool of 225 MiB: latency p99 {chosen} instead of {today} (" in text
    assert "1,024 tokens set aside for every request" in text
    for one in content["over"]:
        found = one["difference"]
        brings = f"{value_text(found, 'time', signed=True)} ({interval_text(found, 'time', signed=True)})"
        assert f"against {one['name']} {brings}".replace(BESIDE, " ") in text
    assert content["sure"].removeprefix("How sure: with") in text
    assert "The replications were spent" in text
    kept = [one["number"] for one in content["settings"] if one["state"] == "kept" and one["number"] != content["best"]]
    assert f"{len(kept)} other settings cannot be told apart from the best (setting {content['best']})." in text
    for one in content["settings"]:
        assert one["why"] in text
    # A setting that was only compared is on no front, whether anything beats it or not.
    assert any(one["state"] == "compared" for one in content["settings"])
    assert "not on the front" in made(tuned, tmp_path / "r.html")
    assert "These are the race's replications; what stands first comes from others" in text
    assert "5: tokens 1,024, pool 256" in made(tuned, tmp_path / "r.html")
    assert "beaten in both" not in made(tuned, tmp_path / "r.html")


def test_a_what_if_under_which_nothing_changes_is_not_called_todays_setting(tuned: Path, tmp_path: Path) -> None:
    (found,) = [one for one in content_of(tuned)["what_if"] if one["name"] == "lengths=4x"]
    assert (found["changes"], found["holds"]) == ({}, True)
    section = words_of(tuned, tmp_path / "r.html").partition("The recommendation again")[2]
    assert "lengths=4x holds " in section
    assert "today" not in section.partition("What was asked and run")[0]


def test_a_page_of_one_run_each_promises_no_certainty(once: Path, tmp_path: Path) -> None:
    content = content_of(once)
    assert content["certainty"] is None
    text = words_of(once, tmp_path / "r.html")
    within = shown(content["indifference"], "time").replace(BESIDE, " ")
    assert f"Keep 1,024 tokens: no other setting is told to be better by more than {within}" in text
    assert f"1 other setting is within {within} of the best (setting 1)." in text
    assert "Every setting ran once, which is exact for these requests" in text
    for words in ("cannot be told apart", "told from all others", "95 % interval", "the race's replications"):
        assert words not in text
    assert "kept 2,048 tokens 449 MiB" in text
    assert "as good as the best" in text
    # Both came to the same, for the same memory: there is nothing to see.
    assert "<svg" not in made(once, tmp_path / "r.html")


def test_pools_in_blocks_and_in_sizes_have_one_column_in_one_unit(tuned: Path, tmp_path: Path) -> None:
    def sized(content: dict[str, Any]) -> None:
        content["settings"][0]["fields"]["language.pool_blocks"] = "14MiB"

    folder = changed(tuned, tmp_path / "it", sized)
    for one in (tuned, folder):
        rows = words_of(one, tmp_path / "r.html").partition("A row for every setting")[2]
        assert "pool" not in rows.partition("The green row")[0]
        assert "1 kept 128 tokens 14 MiB" in rows[:200]
    told = answer_text(content_of(folder)).partition("\n\nsetting ")[2]
    assert told.split()[:3] == ["tokens", "memory", "p99"]
    assert "14MiB" not in told
    assert answer_text(content_of(tuned)).partition("\n\nsetting ")[2].split()[:3] == ["tokens", "pool", "memory"]


def test_how_far_inputs_may_be_off_is_told_with_what_was_tried(once: Path, tmp_path: Path) -> None:
    sensitivity = content_of(once)["sensitivity"]
    text = words_of(once, tmp_path / "r.html")
    (broken,) = [one for one in sensitivity["breaks"] if one["breaks_at"] is not None]
    sure, lost = broken["between"]
    assert sure < 1.024 * LENGTH / 1000 < lost  # a default of 1,024 is enough until then
    # The page and the terminal say the same, word for word.
    told = answer_text(content_of(once), [sensitivity_text(content_of(once))])
    for one in sensitivity["breaks"]:
        assert side_text(one) in text
        assert f"{TITLES[one['name']]}: " in told
        assert side_text(one) in told
    assert f"surely lost at {lost:.3g}×" in text
    first = sensitivity["screening"]["effects"][0]
    effect = f"{100 * first['figure']['value']:.1f} % ± {100 * first['figure']['half']:.1f}"
    assert f"{TITLES[first['name']]} / × 1.25 {effect}" in text


def test_why_nothing_was_screened_is_said(once: Path, tmp_path: Path) -> None:
    def lost(content: dict[str, Any]) -> None:
        content["sensitivity"]["screening"] |= {"effects": [], "why": "in 3 of these runs requests were not served"}

    text = words_of(changed(once, tmp_path / "lost", lost), tmp_path / "r.html")
    assert "What matters most was not told: in 3 of these runs requests were not served." in text


def test_a_baseline_that_is_not_compared_says_why(tuned: Path, tmp_path: Path) -> None:
    def late(content: dict[str, Any]) -> None:
        content["over"][1] |= {"why": "3 of 24 requests were not served",
                               "difference": {"value": None, "low": None, "high": None}}  # fmt: skip

    text = words_of(changed(tuned, tmp_path / "late", late), tmp_path / "r.html")
    assert "okens 1024 is not compared: 3 of 24 requests were not served." in text


MISSED = {
    "limits": [{"figure": "ttft_s.p99", "limit_s": 0.5, "value": None, "low": None, "high": None, "met": None}],
    "attainment": {"value": None, "low": None, "high": None},
}
CAPACITY = {
    "verdict": "over",
    "bottleneck": "prefill",
    "sentence": "over capacity: prefill is busy",
    "remedy": "more of it",
}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"verdict": "over-capacity", "chosen": None, "best": None, "capacity": CAPACITY},
      "Over capacity at every setting: the prefill is the bottleneck"),
     ({"verdict": "no-difference", "changes": {}, "indifference": 0.005},
      "Keep 1,024 tokens: no other setting is told to be better by more than 5.00 ms"),
     ({"verdict": "no-difference", "changes": {"protocol.sizing.tokens": 256}, "indifference": 0.005},
      "Set 1,024 tokens and a pool of 225 MiB: as good as today's setting, and with less memory"),
     ({"verdict": "slo-missed", "chosen": None, "best": None, "slo": MISSED},
      "No setting keeps to the limit that 99 of 100 requests have the first token within 500 ms"),
     ({"verdict": "not-served", "chosen": None, "best": None, "not_served": {"reasons": {"too long": 2, "too late": 1}}},
      "No setting serves every request")],
)  # fmt: skip
def test_every_answer_of_a_tuning_is_said_first(
    change: dict[str, Any], sentence: str, tuned: Path, tmp_path: Path
) -> None:
    folder = changed(tuned, tmp_path / "tuned", lambda content: content.update(change))
    text = made(folder, tmp_path / "r.html")
    head, title = (re.search(rf"<{tag}>(.*?)</{tag}>", text) for tag in ("h1", "title"))
    assert head is not None
    assert title is not None
    assert unescape(head[1]).replace(BESIDE, " ") == unescape(title[1]).replace(BESIDE, " ") == sentence


def test_a_cheaper_setting_that_may_be_as_good_is_named_with_what_it_may_cost(tuned: Path, tmp_path: Path) -> None:
    cheaper = {"number": 1, "changes": {"protocol.sizing.tokens": 1024}, "memory_bytes": 1 << 26,
               "difference": {"value": 0.0, "low": -1.9, "high": 1.9}}  # fmt: skip
    text = words_of(
        changed(tuned, tmp_path / "it", lambda content: content.update(cheaper=cheaper)), tmp_path / "r.html"
    )
    told = "With less memory, a pool of 14 MiB, 1,024 tokens may be as good, but that is not told: it may be worse by 1.90 s."
    assert told in text


def test_names_and_reasons_of_a_tuning_are_shown_and_never_run(tuned: Path, tmp_path: Path) -> None:
    def harm(content: dict[str, Any]) -> None:
        content["settings"][0]["why"] = content["what_if"][0]["name"] = content["sure"] = HARM
        content["over"][0]["name"] = content["traffic"]["sentence"] = HARM

    text = made(changed(tuned, tmp_path / "it", harm), tmp_path / "r.html")
    assert Tags(text).scripts == 1
    assert "&lt;script&gt;alert(1)" in text


def test_the_command_of_the_page_runs_what_is_recommended(tuned: Path, tmp_path: Path, bufferlab: Command) -> None:
    text = unescape(made(tuned, tmp_path / "r.html"))
    assert "RUN/" not in text
    assert text.index("To ask the same again.") < text.index("bufferlab tune quickstart</code>")
    found = re.search(r"<code>bufferlab (sim .*?)</code>", text)
    assert found is not None
    words = shlex.split(found[1])  # the name of the folder has a quote and a space
    assert words[1] == str(tuned / "config.toml")
    done = bufferlab(*words, "--out", tmp_path / "run", "--no-plots")
    assert done.status == 0, done.err
    written = (tmp_path / "run" / "config.toml").read_text()
    assert "tokens = 1024" in written
    assert "pool_blocks = 256" in written


def test_the_stored_command_asks_the_same_again(bufferlab: Command, tmp_path: Path) -> None:
    space = [f"--space={name}={value}" for name, (value,) in FIXED.items()]
    given = (
        *space, "--space", "protocol.sizing.tokens=1024,2048", "--space", "language.pool_blocks=512", "--sensitivity",
        "--set", f"workload={{lengths=[{LENGTH}], requests=4}}", "--set", "encode.pool_blocks=512",
    )  # fmt: skip
    first = bufferlab("tune", "quickstart", *given, "--no-plots", "--json", "--jobs", 1, "--out", tmp_path / "it")
    assert first.status == 0, first.err
    content = json.loads(first.out)
    words = shlex.split(content["commands"][0])
    assert words.count("--sensitivity") == 1
    assert "True" not in words
    # It is the same question: the directory of the first one goes on with it, and has all of its runs.
    again = bufferlab(*words[1:], "--no-plots", "--json", "--out", tmp_path / "it")
    assert again.status == 0, again.err
    assert {**json.loads(again.out), "wall_s": 0} == {**content, "wall_s": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [({"schema": "bufferlab-tune/0"}, "has the schema bufferlab-tune/0, it must be bufferlab-tune/1"),
     ({"finished": False}, "a tune that is not finished; the command that began it goes on with it"),
     ({"sure": None}, "is of an older version: it has no sure; run it again")],
)  # fmt: skip
def test_a_tuning_that_cannot_be_told_is_refused(
    change: dict[str, Any], message: str, tuned: Path, tmp_path: Path
) -> None:
    def spoil(content: dict[str, Any]) -> None:
        content.update(change)
        for name in [name for name, value in change.items() if value is None]:
            del content[name]

    with pytest.raises(UserError, match=re.escape(message)):
        write_report([changed(tuned, tmp_path / "it", spoil)], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
