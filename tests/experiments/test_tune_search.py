"""``bufferlab tune --search optuna``: what is searched, what is refused, and what the finalists are."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.tuning import asking, contest
from bufferlab.experiments.tuning.asking import Question, make_question
from bufferlab.experiments.tuning.base import Asked
from bufferlab.experiments.tuning.changes import parse_what_ifs
from bufferlab.experiments.tuning.question import parse_limit, parse_objective
from bufferlab.experiments.tuning.ranges import Range, in_blocks
from bufferlab.experiments.tuning.search import FINALISTS, FIRST_SEARCHED, MOST_CROSSED, Scored
from bufferlab.experiments.tuning.tune import run_tune

TINY = (
    "--space", "protocol.sizing.policy=fixed", "--space", "protocol.sizing.tokens=256..16384",
    "--space", "protocol.discipline=window", "--space", "protocol.block_tokens=64,128",
    "--space", "language.pool_blocks=64MiB..256MiB", "--set", "workload.requests=20", "--replications", "4",
    "--no-plots", "--trials", "16",
)  # fmt: skip
U = {
    "protocol.sizing.policy": ["fixed"], "protocol.sizing.tokens": ["128..32768"], "protocol.discipline": ["window"],
    "protocol.block_tokens": [128], "language.pool_blocks": [256], "encode.transfer_workers": [1],
}  # fmt: skip


@pytest.fixture(autouse=True)
def same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code does not change while a test runs, even if somebody edits it."""
    monkeypatch.setattr(asking, "code_digest", lambda *more: "code")


def question(space: dict[str, list[Any]], *settings: str, **options: Any) -> Question:
    asked = Asked("quickstart", settings=("workload.requests=20", *settings))
    options = {"objective": parse_objective("latency_p99"), "replications": 10, **options}
    return make_question(asked, space=space, **options)


def without_time(text: str) -> dict[str, Any]:
    return {**json.loads(text), "wall_s": 0}


def test_the_number_of_processes_changes_no_byte(bufferlab: Any, folder: Path) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    told = []
    for jobs in (1, 2):
        ended = bufferlab("tune", "quickstart", *TINY, "--jobs", jobs, "--out", f"run-{jobs}", "--json")
        assert ended.status == 0, ended.err
        told.append(without_time(ended.out))
    assert told[0] == told[1]
    assert (folder / "run-1" / "ledger.parquet").read_bytes() == (folder / "run-2" / "ledger.parquet").read_bytes()
    found = told[0]["search"]
    assert 0 < len(found["finalists"]) <= min(FINALISTS, found["settings"])
    for jobs in (1, 2):
        storage = JournalStorage(JournalFileBackend(str(folder / f"run-{jobs}" / "search.journal")))
        study = optuna.load_study(study_name=None, storage=storage)
        assert len(study.trials) == found["trials"] == 16
        assert {trial.user_attrs["setting"] for trial in study.trials if trial.user_attrs} >= set(found["finalists"])
    rows = pq.read_table("run-1/ledger.parquet").to_pylist()
    assert len(rows) == told[0]["runs"] == len({(row["fingerprint"], row["replication"]) for row in rows})
    stages: dict[str, set[int]] = {}
    for row in rows:
        stages.setdefault(row["stage"], set()).add(row["replication"])
    assert stages["search"] == {FIRST_SEARCHED, FIRST_SEARCHED + 1}
    assert not stages["search"] & (stages["race"] | stages["baseline"]), "luck in the search has no part in the race"
    answer = (folder / "run-1" / "answer.txt").read_text()
    assert found["promise"] in answer
    assert "the search itself promises nothing" in found["promise"]
    raced = {row["setting"] for row in rows if row["stage"] == "race"}
    assert raced <= {*found["finalists"], 1}


def test_it_goes_on_where_it_was_interrupted_and_with_more_trials(
    bufferlab: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (*TINY, "--jobs", "1")
    whole = without_time(bufferlab("tune", "quickstart", *options, "--out", "whole", "--json").out)
    made: list[tuple[str, int]] = []
    run = contest.run_row

    def counted(config: Any, replication: int, title: str) -> Any:
        if len(made) == 21:
            made.append((title, -1))
            raise KeyboardInterrupt
        made.append((title, replication))
        return run(config, replication, title)

    monkeypatch.setattr(contest, "run_row", counted)
    assert bufferlab("tune", "quickstart", *options, "--out", "run").status == 130
    assert without_time(bufferlab("tune", "quickstart", *options, "--out", "run", "--json").out) == whole
    assert len(set(made)) == len(made) == whole["runs"] + 1
    assert (folder / "run" / "ledger.parquet").read_bytes() == (folder / "whole" / "ledger.parquet").read_bytes()
    more = without_time(bufferlab("tune", "quickstart", *options, "--trials", "24", "--out", "run", "--json").out)
    assert more["search"]["trials"] == 24
    assert len(set(made)) == len(made), "no run is made twice"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--search", "annealing"], "--search is 'annealing', it must be one of grid, optuna"),
        (["--search", "grid", "--space", "protocol.sizing.tokens=256..512"], "--search is 'grid', but --space gives"),
        (["--trials", "9"], "--trials is 9, but every setting is raced, it must come with --search optuna"),
        (["--search", "optuna", "--trials", "0"], "--trials is 0, it must be from 1 to 10000"),
        (["--space", "protocol.sizing.tokens=512..256"], "--space is 'protocol.sizing.tokens=512..256', it must be a"),
        (
            ["--space", "protocol.sizing.tokens=256..512,1024"],
            "--space gives protocol.sizing.tokens a range and 1 more",
        ),
        (["--space", "protocol.sizing.tokens=1MiB..2MiB"], "only language.pool_blocks has a range of sizes"),
        (
            ["--space", "language.pool_blocks=1Mib..2Mib"],
            "--space is 'language.pool_blocks=1Mib..2Mib', of which an end",
        ),
        (["--space", "protocol.sizing.tokns=1..2"], "--space names protocol.sizing.tokns, which none of the policies"),
        (["--space", "encode.poll=1..2"], "--space encode.poll=1..2: encode.poll"),
        (["--space", "protocol.discipline=1..2"], "--space protocol.discipline=1..2: protocol.discipline"),
        (["--search", "optuna", "--space", "protocol.sizing.tokens=0"], "--space protocol.sizing.tokens=0: "),
    ],
)
def test_what_cannot_be_searched_is_one_sentence_and_nothing_is_written(
    bufferlab: Any, folder: Path, arguments: list[str], problem: str
) -> None:
    ended = bufferlab("tune", "quickstart", *arguments, "--out", "run")
    assert ended.status == 2, ended.err
    assert problem in ended.err
    assert ended.err.count("\n") == 1
    assert not (folder / "run").exists()


def test_without_optuna_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "optuna" else find(name, *more)
    )
    with pytest.raises(
        UserError, match=r"because protocol\.sizing\.tokens has a range, .*; run: \S+ -m pip install 'optuna>=5.0'$"
    ):
        question(U)
    assert question({**U, "protocol.sizing.tokens": [512, 1024]}).search is None


def test_a_large_space_is_searched_and_a_small_one_is_raced() -> None:
    tokens = [128 * number for number in range(1, MOST_CROSSED + 1)]
    small = question({**U, "protocol.sizing.tokens": tokens, "language.pool_blocks": [1024]})
    assert small.search is None
    large = question(
        {**U, "protocol.sizing.tokens": [*tokens, 128 * (MOST_CROSSED + 1)], "language.pool_blocks": [1024]}
    )
    assert large.search is not None
    assert large.search.why == f"the space has {MOST_CROSSED + 1} settings, more than {MOST_CROSSED}"
    assert question({**U, "protocol.sizing.tokens": tokens, "language.pool_blocks": [1024]}, search="optuna").search


@given(low=st.integers(1, 3000), span=st.integers(1, 20000), block=st.integers(1, 512), data=st.data())
def test_tokens_are_whole_blocks_within_the_range(low: int, span: int, block: int, data: st.DataObject) -> None:
    within = Range(low, low + span, True, True, False)
    drawn = data.draw(st.integers(low, low + span))
    found = in_blocks(drawn, block, within)
    assert low <= found <= low + span
    first = -(-low // block) * block
    assert found % block == 0 if first <= low + span else found == drawn


def test_what_is_unfit_is_worse_than_what_is_late_and_any_time_is_better() -> None:
    trials = [Scored(None, 1.0), Scored(1.0, 0.0, 0.3), Scored(9.0), Scored(2.0), Scored(0.1, 0.5)]
    assert sorted(trials, key=lambda one: one.order) == [trials[3], trials[2], trials[1], trials[4], trials[0]]


def a_u(config: Any, replication: int, title: str) -> dict[str, Any]:
    """A run whose time is lowest at 3,000 tokens, with noise that is partly common."""
    doublings = np.log2(config.protocol.sizing.tokens / 3000)
    noise = np.random.default_rng([replication, config.protocol.sizing.tokens]).normal(0, 0.004)
    common = np.random.default_rng(replication).normal(0, 0.1)
    value = float(1 + 0.05 * doublings**2 + common + noise)
    names = [figure.name for figure in contest.FIGURES]
    return {
        "requests": 20, "requests.succeeded": 20, "failures": None, "capacity.verdict": "under",
        "capacity.bottleneck": None, "capacity.in_stretches": False, "capacity.sentence": "", "violations": [],
        "capacity.offered_rps": 1.0, "capacity.served_rps": 2.0, "deadlock": False, "invariant_violations": 0,
        **dict.fromkeys(names, value),
    }  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_known_u_is_found_within_the_indifference(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeds are fixed, so this holds or it does not; of 40 seeds all did."""
    monkeypatch.setattr(contest, "run_row", a_u)
    content = run_tune(question(U, f"run.seed={seed}", trials=48), None, jobs=1).content
    tokens = content["recommendation"]["protocol.sizing.tokens"]
    assert 0.05 * np.log2(tokens / 3000) ** 2 <= content["indifference"] + 0.002, tokens
    assert content["search"]["method"] == "optuna"


def test_a_limit_that_trials_miss_keeps_them_from_the_finalists(monkeypatch: pytest.MonkeyPatch) -> None:
    def limited(config: Any, replication: int, title: str) -> dict[str, Any]:
        row = a_u(config, replication, title)
        return {**row, "ttft_s.p99": 1.0 if config.protocol.sizing.tokens >= 8192 else 3.0}

    monkeypatch.setattr(contest, "run_row", limited)
    content = run_tune(question(U, trials=64, limits=[parse_limit("ttft_p99=2s")]), None, jobs=1).content
    assert content["verdict"] == "recommended"
    assert 8192 <= content["recommendation"]["protocol.sizing.tokens"] <= 11000


def test_of_trials_that_came_to_the_same_the_one_with_the_least_memory_is_a_finalist(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(contest, "run_row", a_u)
    space = {**U, "protocol.sizing.tokens": [1024, 4096], "language.pool_blocks": ["64..256"]}
    content = run_tune(question(space, trials=32), None, jobs=1).content
    assert content["search"]["settings"] > 16
    assert len(content["search"]["finalists"]) == 2


def test_what_if_is_asked_of_the_finalists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "run_row", a_u)
    made = question(U, trials=16, what_ifs=parse_what_ifs(["bandwidth=0.5x"]))
    content = run_tune(made, None, jobs=1).content
    (row,) = content["what_if"]
    assert row["holds"] is not None
    finalists = {one["number"]: one["fields"] for one in content["settings"]}
    assert row["recommendation"]["protocol.sizing.tokens"] in {
        fields["protocol.sizing.tokens"] for fields in finalists.values()
    }


def test_the_whole_default_space_can_be_searched() -> None:
    made = question({}, "language.instances=2", search="optuna", trials=24)
    content = run_tune(made, None, jobs=1).content
    assert content["search"]["settings"] > 8
    policies = {one["fields"]["protocol.sizing.policy"] for one in content["settings"]}
    assert len(policies) > 1
