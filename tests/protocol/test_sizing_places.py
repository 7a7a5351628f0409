"""A policy of the user's own, named by its place: how it is found, what is said when it cannot be, and how it is watched."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.messages import LanguageRequest
from bufferlab.protocol.recording import Record
from bufferlab.protocol.sizing import (
    POLICIES,
    CompletedView,
    Fixed,
    RequestView,
    SizingError,
    SizingPolicy,
    Supervised,
    find_policy,
    make_policy,
)
from bufferlab.protocol.sizing.places import absolute, files_of, place_of
from bufferlab.protocol.sizing.supervised import Answer, checksum, disagreement, must_answer_alike
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.values import replaced
from bufferlab.sim.network.link import load_profile
from bufferlab.sim.run import simulate

HEADER = "from bufferlab.protocol.sizing import SizingPolicy\n\n"
HALF = """
class HalfOfTheFreePool(SizingPolicy):
    def __init__(self, least: int = 512):
        self.least = least

    def first_tokens(self, view):
        return max(self.least, view.free_blocks * view.block_tokens // 2)
"""


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    path = tmp_path / "my_policies.py"
    path.write_text(HEADER + HALF)
    return path


def view(room: int = 1) -> RequestView:
    return RequestView(LanguageRequest(room, 0), 128, 16, 32)


# --- found ---


def test_a_class_is_found_in_a_file(policies: Path) -> None:
    name = f"{policies}:HalfOfTheFreePool"
    policy = make_policy(name, {"least": 7})
    assert policy.first_tokens(view()) == 1024
    assert policy.first_tokens(replaced(view(), free_blocks=0)) == 7
    assert files_of(name) == [policies]


def test_a_class_is_found_in_a_module(policies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(policies.parent))
    try:
        policy = make_policy("my_policies:HalfOfTheFreePool", {})
        assert policy.first_tokens(view()) == 1024
        assert files_of("my_policies:HalfOfTheFreePool") == [policies]
    finally:
        sys.modules.pop("my_policies", None)


def test_an_edited_file_is_another_policy_and_an_old_one_is_not_run_twice(policies: Path) -> None:
    name = f"{policies}:HalfOfTheFreePool"
    before = find_policy(name)
    assert find_policy(name) is before
    policies.write_text(policies.read_text().replace("// 2", "// 4"))  # within the same second, and of the same size
    assert find_policy(name) is not before
    assert make_policy(name, {}).first_tokens(view()) == 512
    assert [path.name for path in policies.parent.iterdir()] == [policies.name], "nothing is left beside the file"


def write_package(folder: Path, answer: int) -> None:
    (folder / "study" / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "study" / "__init__.py").write_text("")
    (folder / "study" / "deep" / "__init__.py").write_text("from .sizes import LENGTH\n")
    (folder / "study" / "deep" / "sizes.py").write_text(f"LENGTH = {answer}\n")
    (folder / "study" / "policies.py").write_text(
        "import json\n" + HEADER + "from .deep import LENGTH\nfrom helper import twice\n\n"
        "class Said(SizingPolicy):\n    def first_tokens(self, view):\n        return twice(LENGTH)\n"
    )
    (folder / "helper.py").write_text("import numpy\n\ndef twice(number):\n    return 2 * number\n")


def test_what_a_policy_imports_of_its_users_is_its_code_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(tmp_path, 100)
    monkeypatch.syspath_prepend(str(tmp_path))
    import helper  # type: ignore[import-not-found]

    try:
        name = absolute("study.policies:Said", Path())
        assert name == f"{tmp_path / 'study' / 'policies.py'}:Said", "another process needs no path of modules"
        monkeypatch.undo()  # nor this one
        names = ("study/policies.py", "helper.py", "study/__init__.py", "study/deep/__init__.py", "study/deep/sizes.py")
        assert sorted(files_of(name)) == sorted(tmp_path / one for one in names)
        kind = find_policy(name)
        assert find_policy(name) is kind
        assert make_policy(name, {}).first_tokens(view()) == 200
        write_package(tmp_path, 300)  # within the same second, and of the same size
        assert make_policy(name, {}).first_tokens(view()) == 600
        (tmp_path / "helper.py").write_text((tmp_path / "helper.py").read_text().replace("2 *", "3 *"))
        assert make_policy(name, {}).first_tokens(view()) == 900
        assert sys.modules["helper"] is helper, "what else has been imported stays what it is"
        assert "study.deep" not in sys.modules
        # A module that was imported before is read anew as well.
        assert helper.twice(1) == 2
    finally:
        for one in [one for one in sys.modules if one.partition(".")[0] in ("helper", "study")]:
            del sys.modules[one]


def test_what_is_in_no_file_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import ModuleType

    typed = ModuleType("typed")
    monkeypatch.setitem(sys.modules, "typed", typed)
    for name in ("__main__:Mine", "typed:Mine"):
        with pytest.raises(SizingError, match=r"%%writefile my_policies\.py .*name it as my_policies\.py:Mine$"):
            find_policy(name)
    with pytest.raises(TypeError):
        POLICIES["mine"] = Says  # type: ignore[index, unused-ignore]


def test_the_place_of_a_class_is_its_file(policies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(policies.parent))
    try:
        import my_policies  # type: ignore[import-not-found]

        assert place_of(my_policies.HalfOfTheFreePool) == f"{policies.resolve()}:HalfOfTheFreePool"
    finally:
        sys.modules.pop("my_policies", None)
    assert place_of(find_policy(f"{policies}:HalfOfTheFreePool")) == f"{policies.resolve()}:HalfOfTheFreePool"
    assert place_of(type("Mine", (), {"__module__": "__main__"})) == "__main__:Mine"
    with pytest.raises(SizingError, match="must be in a file"):
        find_policy(place_of(_made_here()))


def _made_here() -> type:
    class Mine(SizingPolicy):
        def first_tokens(self, view: RequestView) -> int:
            return 1

    return Mine


def test_a_dataclass_with_written_out_hints_is_a_policy(tmp_path: Path) -> None:
    path = tmp_path / "modern.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        + HEADER
        + "@dataclass\nclass Share(SizingPolicy):\n    share: float = 0.5\n"
        "    def first_tokens(self, view: RequestView) -> int:\n        return int(1000 * self.share)\n"
    )
    assert make_policy(f"{path}:Share", {"share": 0.25}).first_tokens(view()) == 250


def test_a_relative_file_is_made_absolute_and_nothing_else(tmp_path: Path) -> None:
    assert absolute("a/mine.py:P", tmp_path) == f"{(tmp_path / 'a' / 'mine.py').resolve()}:P"
    for name in ("fixed", "package.module:P", f"{tmp_path}/mine.py:P", "mine.py"):
        assert absolute(name, Path("/elsewhere")) == name


def test_the_scenario_carries_what_another_process_needs(policies: Path) -> None:
    """The real backend sends it to its ranks as JSON."""
    spec = Scenario(block_tokens=4, hidden=1, sizing=f"{policies}:HalfOfTheFreePool", sizing_options={"least": 3})
    again = msgspec.json.decode(msgspec.json.encode(spec), type=Scenario)
    assert again.make_sizing().first_tokens(replaced(view(), free_blocks=0)) == 3
    assert again.language_request(Request(1, 0.0, 99)).true_tokens is None


# --- not found ---


@pytest.mark.parametrize(
    ("code", "place", "reason"),
    [
        ("", "absent.py:P", "must name a file that can be read, absent.py cannot: No such file"),
        ("", "absent_module:P", "a module that can be imported, there is no 'absent_module'; a file is named with its"),
        ("", "json.absent:P", "there is no 'json.absent'"),
        ("", "a b:P", "must name a module or a file, which 'a b' is not"),
        ("", ":P", "must name a module or a file, which '' is not"),
        ("", "json:", "must name a class, but there is no '' in json, which has no policy"),
        (HALF, "mine.py:Halve", r"there is no 'Halve' in mine.py, which has HalfOfTheFreePool$"),
        ("x = 3", "mine.py:x", "a subclass of bufferlab.protocol.sizing.SizingPolicy, which x is not"),
        ("class P: pass", "mine.py:P", "a subclass of bufferlab.protocol.sizing.SizingPolicy, which P is not"),
        ("class P(SizingPolicy): pass", "mine.py:P", "a class that can be used, but P lacks first_tokens"),
        ("def f(:", "mine.py:P", r"that Python can run, but mine.py raised SyntaxError \(.*\) in line 3"),
        ("x = 1\ny = 1 / 0", "mine.py:P", r"mine.py raised ZeroDivisionError \(division by zero\) at mine.py:4"),
        ("import sys\nsys.exit()", "mine.py:P", r"mine.py raised SystemExit at mine.py:4"),
        ("import absent_module", "mine.py:P", "mine.py raised ModuleNotFoundError .*'absent_module'.* at mine.py:3"),
        (HALF + "    sees_true_length = True\n", "mine.py:HalfOfTheFreePool", "does not see the true length"),
        ("", "bufferlab.protocol.sizing:Oracle", "does not see the true length, as Oracle wants to"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(code: str, place: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HEADER + code)
    name = absolute(place, tmp_path)
    with pytest.raises(ValueError, match=reason) as raised:
        find_policy(name)
    assert str(raised.value).startswith("must ")
    with pytest.raises(ValueError, match=reason) as raised:
        Scenario(block_tokens=4, hidden=1, sizing=name).make_sizing()
    assert str(raised.value).startswith(f"sizing policy {name!r} must ")


def test_bad_options_of_a_users_policy_are_refused(policies: Path) -> None:
    with pytest.raises(ValueError, match="unexpected keyword argument 'most'"):
        make_policy(f"{policies}:HalfOfTheFreePool", {"most": 1})
    policies.write_text(HEADER + HALF.replace("self.least = least", "self.least = {}[least]"))
    with pytest.raises(SizingError, match=r"its constructor raised KeyError \(512\) at my_policies.py:6"):
        make_policy(f"{policies}:HalfOfTheFreePool", {})
    policies.write_text(HEADER + HALF.replace("self.least = least", "raise SystemExit(3)"))
    with pytest.raises(SizingError, match=r"its constructor raised SystemExit \(3\) at my_policies.py:6"):
        make_policy(f"{policies}:HalfOfTheFreePool", {})


# --- watched ---


class Says(SizingPolicy):
    """Answers, or raises, what it is given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def first_tokens(self, view: RequestView) -> int:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]

    def completed(self, view: CompletedView) -> None:
        if isinstance(self.answer, BaseException):
            raise self.answer


@pytest.mark.parametrize("answer", [0, -5, 1.0, 128.5, True, None, "128", float("nan")])
def test_an_answer_that_is_no_positive_whole_number_is_refused(answer: Any) -> None:
    with pytest.raises(
        SizingError, match=r"the sizing policy mine\.py:Says answered .* for room 7, it must answer with a whole"
    ):
        Supervised(Says(answer), "mine.py:Says").first_tokens(view(7))


@pytest.mark.parametrize("answer", [1, 128, np.int64(64), np.uint8(7)])
def test_a_whole_number_of_any_type_becomes_an_int(answer: Any) -> None:
    given = Supervised(Says(answer), "p").first_tokens(view())
    assert type(given) is int
    assert given == answer


@pytest.mark.parametrize(
    ("raised", "told"), [(KeyError("client"), r"KeyError \('client'\)"), (SystemExit(0), r"SystemExit \(0\)")]
)
def test_what_a_policy_raises_is_told_with_its_place(raised: BaseException, told: str) -> None:
    policy = Supervised(Says(raised), "mine.py:Says")
    with pytest.raises(SizingError, match=rf"mine\.py:Says raised {told} at test_sizing_places\.py:\d+ for room 1"):
        policy.first_tokens(view())
    with pytest.raises(SizingError, match=rf"raised {told} .* when room 1 was completed"):
        policy.completed(CompletedView(LanguageRequest(1, 0), 5, 1))


def test_a_policy_of_this_package_is_not_watched_and_a_users_is(policies: Path) -> None:
    assert type(make_policy("fixed", {})) is Fixed
    assert type(make_policy(f"{policies}:HalfOfTheFreePool", {})) is Supervised


L0, L1, L2 = (RankId(Side.LANGUAGE, 0, rank) for rank in range(3))


def test_answers_are_kept_only_for_a_driver_that_takes_them() -> None:
    policy = Supervised(Says(5), "p")
    policy.first_tokens(view(1))
    assert policy.take_answers() == []
    policy.compared = True
    policy.first_tokens(view(2))
    assert policy.take_answers() == [Answer(2, 5)]
    assert policy.take_answers() == []


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([[], []], ""),
        ([[(1, 5), (2, 6)], [(1, 5), (2, 6)]], ""),
        (
            [[(1, 5), (2, 6)], [(1, 5), (2, 7)]],
            "for room 2, 6 on language0.0, 7 on language0.1; it must be deterministic",
        ),
        ([[(1, 5)], [(1, 5)], [(1, 4), (2, 9)]], "for room 1, 5 on language0.0, 5 on language0.1, 4 on language0.2"),
        ([[(1, 5), (2, 6)], [(1, 5)]], "for room 2, 6 on language0.0, nothing on language0.1"),
        ([[(1, 5)], [(2, 5)]], "for room 1 and 2, 5 on language0.0, 5 on language0.1"),
    ],
)
def test_the_first_answer_that_differs_is_told(answers: list[list[tuple[int, int]]], found: str) -> None:
    by_rank = {rank: [Answer(*one) for one in given] for rank, given in zip((L0, L1, L2), answers, strict=False)}
    sentence = disagreement("mine.py:P", by_rank)
    assert bool(sentence) == bool(found)
    assert found in sentence
    # Equal checksums and no difference are the same thing.
    assert (len({checksum(given) for given in by_rank.values()}) == 1) == (not sentence)


def test_ranks_that_differ_are_caught_in_the_next_comparison() -> None:
    first, second = Supervised(Says(5), "p"), Supervised(Says(5), "p")
    first.compared = second.compared = True
    for _ in range(3):
        first.first_tokens(view())
        second.first_tokens(view())
        must_answer_alike({L0: first, L1: second})
    second.policy.answer = 6  # type: ignore[attr-defined]
    first.first_tokens(view(9))
    second.first_tokens(view(9))
    with pytest.raises(
        SizingError, match=r"p answered differently .* for room 9, 5 on language0\.0, 6 on language0\.1"
    ):
        must_answer_alike({L0: first, L1: second})


# --- in a simulated run ---


def simulated(name: str, language_tp: int, **options: Any) -> list[Record]:
    spec = Scenario(
        block_tokens=128,
        hidden=8,
        sizing=name,
        sizing_options=options,
        encode_tp=2,
        language_tp=language_tp,
        language_blocks=32,
    )
    records: list[Record] = []
    requests = [Request(room, 0.01 * room, 1000 + room) for room in range(20)]
    simulate(spec, requests, load_profile("tcp-loopback"), recorder=lambda *fields: records.append(Record(*fields)))
    return records


def test_a_users_policy_decides_in_a_run(policies: Path) -> None:
    first = next(one for one in simulated(f"{policies}:HalfOfTheFreePool", 2) if one.event == "allocated")
    assert first.tokens == 16 * 128


SHARED = """
class Shared(SizingPolicy):
    asked = []

    def first_tokens(self, view):
        self.asked.append(view.request.room)  # one list for all ranks
        return 128 * (1 + len(self.asked))
"""


def test_a_policy_that_tells_ranks_apart_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HEADER + SHARED)
    with pytest.raises(
        SizingError,
        match=r"mine\.py:Shared answered differently .* for room 0, 256 on language0\.0, 384 on language0\.1",
    ):
        simulated(f"{path}:Shared", 2)
    path.write_text(HEADER + SHARED + "    # another content, so that it is executed anew\n")
    with pytest.raises(SizingError, match=r"Shared answered 256 for room 0, and 384 when a second copy was asked"):
        simulated(f"{path}:Shared", 1)


@pytest.mark.parametrize("language_tp", [1, 2])
def test_a_policy_that_draws_is_caught_with_any_number_of_ranks(tmp_path: Path, language_tp: int) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import random\n"
        + HEADER
        + "class Draws(SizingPolicy):\n    def first_tokens(self, view):\n        return random.randint(1, 10**9)\n"
    )
    with pytest.raises(SizingError, match=r"mine\.py:Draws answered .* it must be deterministic"):
        simulated(f"{path}:Draws", language_tp)


def test_a_lone_rank_asks_and_tells_its_second_copy_the_same(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HEADER + LEARNS)
    name = f"{path}:Learns"
    assert simulated(name, 1), "what has learnt the same answers the same"
    policy = make_policy(name, {})
    assert isinstance(policy, Supervised)
    assert policy.second is None
    assert Scenario(block_tokens=4, hidden=1).make_sizing().__class__ is Fixed, "those of this package are not watched"


LEARNS = """
class Learns(SizingPolicy):
    def __init__(self):
        self.last = 128

    def first_tokens(self, view):
        return self.last

    def completed(self, view):
        self.last = view.total_tokens
"""


def test_a_policy_of_an_earlier_version_is_told_where_the_package_is_now(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from protocol.sizing import SizingPolicy\n")
    with pytest.raises(SizingError, match=r"No module named 'protocol.*; it is bufferlab\.protocol now$"):
        find_policy(f"{tmp_path / 'mine.py'}:Mine")
