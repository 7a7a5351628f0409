"""docs/tune.md says what the command takes, chooses from, answers and leaves."""

import re
import typing
from pathlib import Path

from bufferlab.experiments.commands.common.registry import find_command
from bufferlab.experiments.tuning.asking import DEFAULT_MOST, LEAST_FRESH
from bufferlab.experiments.tuning.base import DEFAULT_GPU, DEFAULT_LINK, DEFAULT_MEMORY, DEFAULT_MODEL
from bufferlab.experiments.tuning.decision import Answer
from bufferlab.experiments.tuning.folder import JOURNAL_FILE, OWN_NAMES
from bufferlab.experiments.tuning.question import DEFAULT_CERTAINTY, DEFAULT_INDIFFERENCE, DEFAULT_OBJECTIVE
from bufferlab.experiments.tuning.space import BLOCK, DISCIPLINE, POLICY, POOL, SHORT_RUN, TOKENS, WORKERS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "tune.md").read_text(encoding="utf-8")


def test_the_page_names_every_option_that_is_about_the_question() -> None:
    found = find_command("tune")
    assert found is not None
    options = {one.opts[0] for one in found.parser.params if one.opts[0].startswith("--")}
    elsewhere = {"--seed", "--jobs", "--executor", "--address", "--out", "--plots", "--help"}
    assert {option for option in options - elsewhere if f"`{option}" not in PAGE} == set()


def test_the_page_has_the_defaults_of_the_code() -> None:
    for default in (DEFAULT_MODEL, DEFAULT_GPU, DEFAULT_LINK, DEFAULT_OBJECTIVE):
        assert f"`{default}`" in PAGE
    for default in (
        DEFAULT_MEMORY,
        DEFAULT_CERTAINTY,
        DEFAULT_INDIFFERENCE,
        "| {independent}; {resampled} of a file |".format(**DEFAULT_MOST),
    ):
        assert default in PAGE
    assert f"{SHORT_RUN:,} requests" in PAGE
    assert LEAST_FRESH == 10
    assert "at least ten further replications" in PAGE.replace("\n   ", " ")


def test_the_page_has_every_field_of_the_default_space_answer_and_file() -> None:
    for field in (POLICY, TOKENS, DISCIPLINE, BLOCK, POOL, WORKERS):
        assert f"| `{field}` |" in PAGE
    for verdict in typing.get_args(Answer):
        assert f"| `{verdict}` |" in PAGE
    for name in OWN_NAMES - {JOURNAL_FILE}:
        assert re.search(rf"`{re.escape(name)}[`/]", PAGE), name
    assert JOURNAL_FILE in PAGE
