"""A sizing policy of one's own from a notebook: what is in a file is used as it is now, what is not is refused."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import bufferlab as bl
from bufferlab.protocol.sizing import Quantile, RequestView, SizingPolicy

CODE = """
from bufferlab.protocol.sizing import SizingPolicy


class Mine(SizingPolicy):
    def first_tokens(self, view):
        return {answer}


class Times(SizingPolicy):
    def __init__(self, factor: float, tokens: int = 1024):
        self.factor, self.tokens = factor, tokens

    def first_tokens(self, view):
        return int(self.factor * self.tokens)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    write(512)
    yield tmp_path
    sys.modules.pop("my_policies", None)


def write(answer: int) -> None:
    Path("my_policies.py").write_text(CODE.format(answer=answer))


def tokens_of(run: bl.Run) -> set[int]:
    return set(run.requests["first_allocation_tokens"])


class Typed(SizingPolicy):
    """As if it were typed into a notebook."""

    def first_tokens(self, view: RequestView) -> int:
        return 512


Typed.__module__ = "__main__"


def test_what_is_in_no_file_is_refused_before_anything_runs(folder: Path) -> None:
    settings = {"protocol.sizing.policy": ["fixed", Typed]}
    said = r"protocol.sizing.policy is '__main__:Typed', it must be in a file, .* %%writefile my_policies.py .*:Typed$"
    with pytest.raises(bl.UserError, match=said):
        bl.sweep("quickstart", settings, workload={"requests": 20}, out="sweep")
    with pytest.raises(bl.UserError, match=said):
        bl.simulate("quickstart", {"protocol.sizing.policy": "__main__:Typed"}, out="run")
    assert sorted(path.name for path in folder.iterdir()) == ["my_policies.py"]


@pytest.mark.parametrize("place", ["my_policies.py:Mine", "my_policies:Mine", "class"])
def test_an_edited_policy_is_the_new_one_and_an_old_result_is_never_taken_for_it(folder: Path, place: str) -> None:
    import my_policies  # type: ignore[import-not-found]

    chosen = my_policies.Mine if place == "class" else place
    config = bl.load("quickstart", {"protocol.sizing.policy": chosen, "workload.requests": 20, "run.replications": 1})
    assert config.protocol.sizing.policy == f"{folder / 'my_policies.py'}:Mine"
    run = bl.simulate(config, out="run", plots=False)
    made = bl.sweep(config, {"protocol.block_tokens": [64, 128]}, out="sweep", plots=False, jobs=1)
    assert tokens_of(run) == {512}
    write(896)
    assert tokens_of(bl.simulate(config)) == {896}
    with pytest.raises(bl.UserError, match=r"my_policies\.py"):
        bl.sweep(config, {"protocol.block_tokens": [64, 128]}, out="sweep", plots=False, jobs=1)
    again = bl.sweep(config, {"protocol.block_tokens": [64, 128]}, out="sweep", plots=False, jobs=1, force=True)
    assert not again.table.equals(made.table)


def test_a_shipped_policy_may_be_given_as_its_class() -> None:
    assert bl.load("quickstart", protocol={"sizing": {"policy": Quantile}}).protocol.sizing.policy == "quantile"
    with pytest.raises(bl.UserError, match=r"protocol.sizing.policy is <class 'int'>, it must be text in quotes"):
        bl.load("quickstart", protocol={"sizing": {"policy": int}})


def test_options_go_with_their_policy_and_that_is_said() -> None:
    config = bl.load("quickstart", {"protocol.sizing": {"policy": "my_policies.py:Times", "factor": 1.5}})
    with pytest.warns(UserWarning, match=r"left out, since .* quantile has no such option: .*\.factor = 1.5") as told:
        other = config.with_({"protocol.sizing": {"policy": "quantile"}})
    assert told[0].filename == __file__
    assert other.protocol.sizing.options == {"tokens": 1024}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = config.with_({"protocol.sizing.policy": "quantile", "protocol.sizing.factor": None})
        assert same.tree() == other.tree()
        assert other.with_({"workload.requests": 7}).workload.requests == 7, "it is said once"
        assert (
            bl.load("quickstart", {"protocol.sizing.policy": "quantile", "protocol.sizing.q": 0.5})
            .with_({"protocol": {"sizing": None}})
            .tree()
            == bl.load("quickstart").tree()
        )
    with pytest.raises(bl.UserError, match=r"factor is not known to the policy quantile"):
        config.with_({"protocol.sizing.policy": "quantile", "protocol.sizing.factor": 2.0})
    with pytest.raises(bl.UserError, match=r"facter is not known .* \(did you mean factor\?\)"):
        bl.load("quickstart", {"protocol.sizing.policy": "my_policies.py:Times", "protocol.sizing.facter": 1.5})
