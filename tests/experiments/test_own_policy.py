"""A sizing policy of the user's own in a configuration and on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.config.schema import parse
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.loading import load

Command = Callable[..., Any]
"""What the fixture ``bufferlab`` gives: runs one command and returns its status, out and err."""

CODE = """
from dataclasses import dataclass

from bufferlab.protocol.sizing import RequestView, SizingPolicy


@dataclass
class Share(SizingPolicy):
    share: float = 0.5
    tokens: int = 64

    def first_tokens(self, view: RequestView) -> int:
        return max(self.tokens, int(view.free_blocks * view.block_tokens * self.share))


class Needs(SizingPolicy):
    def __init__(self, scale: int, *, label: str = "x", **rest) -> None:
        if scale < 1:
            raise ValueError(f"scale is {scale}, it must be at least 1")
        self.scale = scale

    def first_tokens(self, view):
        return self.scale


class Raises(SizingPolicy):
    def __init__(self, table: dict | None = None) -> None:
        self.least = (table or {"least": 1})["least"]

    def first_tokens(self, view):
        return self.least


class Odd(SizingPolicy):
    def __init__(self, one: "Absent" = None, two: SizingPolicy = None) -> None: ...

    def first_tokens(self, view):
        return 1


class OwnType(SizingPolicy):
    def __init__(self, two: SizingPolicy = None) -> None: ...

    def first_tokens(self, view):
        return 1


class Wrong(SizingPolicy):
    def first_tokens(self, view):
        return 12.5


class Several(SizingPolicy):
    asked: list = []

    def first_tokens(self, view):
        self.asked.append(1)
        return len(self.asked)
"""


@pytest.fixture
def folder(folder: Path) -> Path:
    (folder / "mine.py").write_text(CODE)
    return folder


def test_a_file_is_relative_to_the_configuration_and_an_input_of_the_run(folder: Path) -> None:
    deep = folder / "deep"
    deep.mkdir()
    (deep / "mine.py").write_text(CODE)
    text = "[workload]\nlengths = [1]\n[protocol.sizing]\npolicy = 'mine.py:Share'\nshare = 0.25\n"
    (deep / "c.toml").write_text(text)
    config = load("deep/c.toml")
    scenario = config.scenario()
    assert scenario.sizing == f"{(deep / 'mine.py').resolve()}:Share"
    assert scenario.sizing_options == {"tokens": 1024, "share": 0.25}
    assert config.input_files() == [(deep / "mine.py").resolve()]
    assert config.resolved() == config
    before = config.digest()
    (deep / "mine.py").write_text(CODE.replace("0.5", "0.6"))
    assert load("deep/c.toml").digest() != before
    # In an override it is relative to the current folder.
    config = load("deep/c.toml", ["protocol.sizing.policy=mine.py:Share"])
    assert config.input_files() == [(folder / "mine.py").resolve()]


def test_a_configuration_made_in_memory_is_relative_to_the_current_folder(folder: Path) -> None:
    config = parse({"workload": {"lengths": [1]}, "protocol": {"sizing": {"policy": "mine.py:Share"}}})
    assert config.scenario().sizing == f"{(folder / 'mine.py').resolve()}:Share"


def test_the_file_of_a_module_is_an_input_too() -> None:
    config = parse(
        {"workload": {"lengths": [1]}, "protocol": {"sizing": {"policy": "bufferlab.protocol.sizing.fixed:Fixed"}}}
    )
    assert [path.name for path in config.input_files()] == ["fixed.py"]
    assert parse({"workload": {"lengths": [1]}}).input_files() == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["policy=mine.py:Share", "share=x"], "protocol.sizing.share is 'x', it must be a number"),
        (["policy=mine.py:Share", "shar=1"], "protocol.sizing.shar is not known to the policy .*mine.py:Share, which has share, tokens .did you mean share"),
        (["policy=mine.py:Needs", "scal=2"], "protocol.sizing.scal is not known .* which has scale, label .did you mean scale"),
        (["policy=__main__:Share"], "protocol.sizing.policy is '__main__:Share', it must be in a file, .* %%writefile my_policies.py "),
        (["policy=mine.py:Needs"], "protocol.sizing.scale is missing, the policy .*mine.py:Needs needs it"),
        (["policy=mine.py:Needs", "scale=2.5"], "protocol.sizing.scale is 2.5, it must be a whole number"),
        (["policy=mine.py:Needs", "scale=0"], "protocol.sizing.scale is 0, it must be at least 1"),
        (["policy=mine.py:Needs", "scale=1", "label=3"], "protocol.sizing.label is 3, it must be text in quotes"),
        (["policy=mine.py:Needs", "scale=1", "rest=3"], "protocol.sizing.rest is not known to the policy"),
        (["policy=mine.py:Raises", "table={most = 1}"], r"protocol.sizing has a policy .* raised KeyError \('least'\) at mine.py:"),
        (["policy=mine.py:Odd"], "protocol.sizing has policy .*mine.py:Odd, whose type hints cannot be read: .*Absent"),
        (["policy=mine.py:Absent"], "protocol.sizing.policy is '.*, it must name a class, but there is no 'Absent' in mine.py"),
        (["policy=absent.py:P"], "protocol.sizing.policy is '.*, it must name a file that can be read, absent.py cannot: "),
        (["policy=absent:P"], "protocol.sizing.policy is 'absent:P', it must name a module that can be imported"),
        (["policy=bufferlab.protocol.sizing:Oracle"], "it must name a policy that does not see the true length"),
        (["policy=quantil"], r"it must be one of fixed, .*, or the place of your own .*\(did you mean quantile\?\)"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_it_is_said_in_one_sentence(folder: Path, settings: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as raised:
        load("quickstart", [f"protocol.sizing.{setting}" for setting in settings])
    assert "\n" not in str(raised.value)


def test_another_policy_leaves_the_options_out_that_it_does_not_have(folder: Path, bufferlab: Command) -> None:
    (folder / "c.toml").write_text(
        "[workload]\nlengths = [1]\n[protocol.sizing]\npolicy = 'quantile'\nq = 0.9\nwindow = 50\ntokens = 256\n"
    )
    config = load("c.toml", ["protocol.sizing.policy=per_client_quantile"])
    assert config.scenario().sizing_options == {"tokens": 256, "q": 0.9, "window": 50}, "it has these as well"
    config = load("c.toml", ["protocol.sizing.policy=mine.py:Share", "protocol.sizing.share=0.25"])
    assert config.scenario().sizing_options == {"tokens": 256, "share": 0.25}
    assert config.set_aside == ("protocol.sizing.q = 0.9", "protocol.sizing.window = 50")
    said = "not applied to the policy fixed, which has no such option: protocol.sizing.q = 0.9, protocol.sizing.window = 50"
    assert said in bufferlab("sim", "c.toml", "--set", "protocol.sizing.policy=fixed", "--no-plots").out
    with pytest.raises(UserError, match=r"protocol\.sizing\.q is not known to the policy fixed, which has tokens"):
        load("c.toml", ["protocol.sizing.policy=fixed", "protocol.sizing.q=0.5"])
    with pytest.raises(UserError, match=r"protocol\.sizing\.policy is 'fixd', it must be one of"):
        load("c.toml", ["protocol.sizing.policy=fixd"])


def test_none_takes_an_option_or_a_table_away() -> None:
    said = [("protocol.sizing.policy", "quantile"), ("protocol.sizing.q", 0.5), ("protocol.sizing.q", None)]
    assert load("quickstart", said).scenario().sizing_options == {"tokens": 1024}
    said = [("protocol.sizing.policy", "quantile"), ("protocol.sizing.q", 0.5), ("protocol.sizing", None)]
    assert load("quickstart", said) == load("quickstart")


def test_an_option_of_a_type_that_no_file_can_hold_is_left_to_the_policy(folder: Path) -> None:
    config = load("quickstart", ["protocol.sizing.policy=mine.py:OwnType", "protocol.sizing.two=3"])
    assert config.scenario().sizing_options == {"two": 3}


TWO_RANKS = ["--no-plots", "--set", "language.tp=2", "--set", "workload.requests=30"]


def test_a_run_with_it(folder: Path, bufferlab: Command) -> None:
    policy = ["--set", "protocol.sizing.policy=mine.py:Share", "--set", "protocol.sizing.share=0.1"]
    done = bufferlab("sim", "quickstart", *TWO_RANKS, *policy, "--out", "run", "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["requests"]
    environment = json.loads((folder / "run" / "environment.json").read_text())
    assert str((folder / "mine.py").resolve()) in json.dumps(environment), "its digest is recorded"


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ("Several", "answered differently on the ranks of one group for room 1, 1 on language0.0, 2 on language0.1"),
        ("Wrong", "mine.py:Wrong answered 12.5 for room 1, it must answer with a whole number of tokens"),
    ],
)
def test_one_that_breaks_its_contract_ends_the_run_with_one_sentence(
    folder: Path,
    bufferlab: Command,
    policy: str,
    sentence: str,
) -> None:
    done = bufferlab(
        "sim", "quickstart", *TWO_RANKS, "--set", f"protocol.sizing.policy=mine.py:{policy}", "--out", "run"
    )
    assert done.status != 0
    assert sentence in done.err
    assert done.err.count("\n") == 1
    assert not (folder / "run").exists()
