"""The first sheet of the page about a tuning: what was asked, how far the model goes, and which flags take the answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.config.schema import parse
from bufferlab.experiments.reports.flags import ALWAYS, FLAGS, SYSTEMS, Answer, flag_facts
from bufferlab.experiments.reports.tuninghead import BOUNDARIES, headline, limit_words
from bufferlab.experiments.tuning.tune import run_tune
from bufferlab.protocol.layout import BufferLayout
from tests.experiments.test_report_tune import changed, small_question, words_of

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune") / "tuned"
    run_tune(small_question(), folder, jobs=1, plots=False)
    return folder


def test_the_flags_are_those_of_the_documentation() -> None:
    page = (DOCS / "from-your-system.md").read_text()
    rows = [f"| recommended | {' | '.join(SYSTEMS)} |", f"|{'---|' * (1 + len(SYSTEMS))}"]
    for field, flags in FLAGS.items():
        other = " other than `fixed`" if field.endswith("policy") else ""
        rows.append(f"| `{field}`{other} | {' | '.join(one.markdown for one in flags)} |")
    assert "\n".join(rows) in page
    assert set(ALWAYS) < set(FLAGS)


def test_the_limits_of_the_model_are_those_of_the_documentation() -> None:
    page = (DOCS / "boundaries.md").read_text()
    for words in BOUNDARIES:
        assert f"**{words}**" in page


def answer(changed: frozenset[str] = frozenset(), **fields: Any) -> dict[str, str]:
    """What each system is told of a setting of 8,192 tokens and 2 GiB of blocks of 128 for Qwen2.5-VL-7B."""
    layout = BufferLayout(128, 3584, 0)
    told: Mapping[str, Any] = {"protocol.sizing.tokens": 8192, "protocol.block_tokens": 128, **fields}
    return {
        one.name: one.value for one in flag_facts(Answer(told, 2335 * layout.bytes_per_block, changed, layout))
    }  # fmt: skip


def test_flags_have_the_values_in_their_own_units() -> None:
    told = answer()
    assert told["SGLang fork"] == (
        "SGLANG_EMBEDDING_DEFAULT_ALLOCATE_BUFFER_SIZE=8192; SGLANG_EMBEDDING_CACHE_BLOCK_SIZE=128 (both sides); "
        "SGLANG_EMBEDDING_CACHE_BUFFER_SIZE=2335 (language side)"
    )
    assert told["SGLang"] == "SGLANG_EMBEDDING_POOL_SIZE_MB=2048"
    assert told["vLLM Mooncake"] == f"consumer_buffer_pool_size={2335 * BufferLayout(128, 3584, 0).bytes_per_block}"
    # 8,192 tokens of 7,184 bytes are 56.1 MiB; 35 slots of 57 MiB are in 2 GiB.
    assert told["TokenSpeed"] == "TOKENSPEED_EPD_RECV_POOL_SLOT_MB=57; TOKENSPEED_EPD_RECV_POOL_SLOTS=35"


def test_what_has_no_flag_is_said_where_it_changes() -> None:
    told = answer(frozenset({"protocol.sizing.policy"}), **{"protocol.sizing.policy": "quantile"})
    assert "policy: no flag: a change where default_allocate_tokens is read" in told["SGLang fork"]
    assert "ALLOCATE_BUFFER_SIZE" not in told["SGLang fork"]
    told = answer(frozenset({"protocol.discipline"}), **{"protocol.discipline": "exact_announce"})
    assert "discipline: is exact_announce" in told["SGLang"]
    assert "discipline" not in answer()["SGLang"]


def test_the_page_names_the_whole_question(tuned: Path, tmp_path: Path) -> None:
    import tomllib

    config = parse(tomllib.loads((tuned / "config.toml").read_text()))
    text = words_of(tuned, tmp_path / "r.html").partition("What was asked")[2].partition("What settings bring")[0]
    for words in (
        f"qwen2.5-vl-7b on h100; {config.link.profile}",
        "1 encode instance of 1 rank and 1 language instance of 1 rank",
        "128 tokens set aside, blocks of 128 tokens, discipline window, a pool of 14 MiB (16 blocks), 1 transfer worker",
        "to be low latency p99",
        "at most 256 MiB for the pool of a language rank",
        "24 requests drawn",
        "RDMA was predicted, never measured by us." if "tcp" not in config.link.profile else "Times are a model.",
        "SGLANG_EMBEDDING_DEFAULT_ALLOCATE_BUFFER_SIZE=1024",
        "SGLANG_EMBEDDING_CACHE_BUFFER_SIZE=256 (language side)",
    ):
        assert words in text


@pytest.mark.parametrize(("high", "words"), [(1.4, "kept: the first token p99 is 1.20 s (1.00 … 1.40 s)."),
                                             (1.9, "kept: the first token p99 is 1.20 s, though its 95 % interval "
                                                   "(1.00 … 1.90 s) reaches beyond the limit.")])  # fmt: skip
def test_a_limit_is_told_in_words_with_whether_it_is_kept(high: float, words: str, tuned: Path, tmp_path: Path) -> None:
    limit = {"figure": "ttft_s.p99", "limit_s": 1.5, "value": 1.2, "low": 1.0, "high": high, "met": True}
    folder = changed(tuned, tmp_path / "it", lambda content: content["slo"].update(limits=[limit]))
    text = words_of(folder, tmp_path / "r.html")
    assert "Asked was that 99 of 100 requests have the first token within 1.50 s. That is" in text
    assert words in text


def test_a_limit_that_is_missed_says_what_comes_nearest(tuned: Path, tmp_path: Path) -> None:
    none = {"value": None, "low": None, "high": None}
    limit = {"figure": "ttft_s.p99", "limit_s": 0.001, **none, "met": None}

    def missed(content: dict[str, Any]) -> None:
        content.update(verdict="slo-missed", chosen=None, best=None, slo={"limits": [limit], "attainment": none})

    text = words_of(changed(tuned, tmp_path / "it", missed), tmp_path / "r.html")
    assert "No setting keeps to the limit that 99 of 100 requests have the first token within 1.00 ms" in text
    assert "The lowest first token p99 is" in text
    assert "; today's setting has" in text


def test_a_limit_that_nothing_can_reach_is_said_to_be_that(tuned: Path, tmp_path: Path) -> None:
    limit = {
        "figure": "ttft_s.p99",
        "limit_s": 0.5,
        "value": 1.2,
        "low": 1.0,
        "high": 1.4,
        "met": False,
        "nearest": None,
    }
    alone = {"value": 0.9, "low": 0.8, "high": 1.0, "parts": {}}

    def missed(content: dict[str, Any]) -> None:
        content.update(verdict="slo-missed", floor={"figures": {"ttft_s.p99": alone}})
        content["slo"]["limits"] = [limit]

    text = words_of(changed(tuned, tmp_path / "it", missed), tmp_path / "r.html")
    assert "That is not kept: the first token p99 is 1.20 s (1.00 … 1.40 s). No buffer size and no number of" in text
    assert "without any waiting, p99 first token is already 900 ms" in text


@pytest.mark.parametrize(("figure", "words"), [
    ("latency_s.mean", "on average a request is delivered within 2.00 s"),
    ("latency_s.p50", "half of the requests are delivered within 2.00 s"),
    ("transfer_s.p90", "90 of 100 requests are transferred within 2.00 s"),
])  # fmt: skip
def test_limits_in_words(figure: str, words: str) -> None:
    assert limit_words({"figure": figure, "limit_s": 2.0}).replace("\u00a0", " ") == words


def test_a_policy_that_stays_is_named_by_its_name() -> None:
    one = {"number": 1, "fields": {"protocol.sizing.policy": "quantile", "protocol.sizing.tokens": 128}, "changes": {}}
    content = {"settings": [one], "chosen": 1, "verdict": "no-difference", "changes": {}, "indifference": 0.05,
               "over": [{"number": 1}], "slo": {"limits": []}}  # fmt: skip
    assert headline(content).startswith("Keep the policy quantile: no other setting")


def test_an_interval_beyond_the_axis_has_an_arrow_and_its_end() -> None:
    from bufferlab.experiments.reports.charts import differences

    def drawn(high: float) -> str:
        rows = [(f"{number}: it", {"value": 0.1, "low": -0.1, "high": 0.3}, 1, "", None, None) for number in range(3)]
        rows.append(("wide", {"value": 0.2, "low": 0.01, "high": high}, 1, "", None, None))
        return differences("d", rows, across="x", kind="time", file="f", description="").svg

    assert "+1.55" in drawn(1.551)
    assert drawn(1.551).count('class="ln s1"') == 4 + 2  # a line for each, and the arrow's head
    assert drawn(0.45).count('class="ln s1"') == 4
    assert "+450" not in drawn(0.45)


def test_intervals_far_wider_than_what_they_are_about_are_seen_whole() -> None:
    from bufferlab.experiments.reports.charts import differences

    rows = [(f"{number}: it", {"value": 2e-4, "low": -6e-3, "high": 7e-3}, 1, "", None, None) for number in range(4)]
    rows.append(("the best", {"value": 0.0, "low": 0.0, "high": 0.0}, 1, "", None, None))
    drawn = differences("d", rows, across="x", kind="time", file="f", description="").svg
    assert drawn.count('class="ln s1"') == 5  # no arrow


def test_intervals_are_said_to_be_single_ones(tuned: Path, tmp_path: Path) -> None:
    text = words_of(tuned, tmp_path / "r.html")
    assert text.count("Each interval is at 95 % by itself; which settings may be the best is told for all") == 2
