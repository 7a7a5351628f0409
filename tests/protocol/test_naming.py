from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bufferlab.protocol.naming import did_you_mean, flat, put

ROOT = Path(__file__).resolve().parents[2]
NAMES = st.text("abc", min_size=1, max_size=3)
TREES: Any = st.recursive(
    st.dictionaries(NAMES, st.integers(), min_size=1, max_size=3),
    lambda inner: st.dictionaries(NAMES, st.integers() | inner, min_size=1, max_size=3),
    max_leaves=10,
)


@given(TREES)
def test_what_is_made_flat_can_be_put_together_again(tree: dict[str, Any]) -> None:
    again: dict[str, Any] = {}
    paths = dict(flat(tree))
    for path, value in paths.items():
        assert isinstance(value, int)
        put(again, path.split("."), value)
    assert again == tree
    assert list(paths) == list(dict(flat(again)))


def test_a_table_that_is_a_value_stays_whole() -> None:
    tree = {"latency_s": {"p99": {"value": 1, "low": 0}}, "deadlock": False}
    found = dict(flat(tree, lambda table: "value" in table))
    assert found == {"latency_s.p99": {"value": 1, "low": 0}, "deadlock": False}


def test_a_near_miss_is_guessed_and_nothing_else() -> None:
    assert did_you_mean("mean_sise", ["mean_size", "rate"]) == " (did you mean mean_size?)"
    assert did_you_mean("x", ["mean_size", "rate"]) == ""
    assert did_you_mean(7, []) == ""


def test_a_beginning_is_guessed_where_it_says_anything() -> None:
    names = ["sim", "bench-link", "compare"]
    assert did_you_mean("simulate", names) == " (did you mean sim?)"
    assert did_you_mean("bench", names) == " (did you mean bench-link?)"
    assert did_you_mean("be", names) == did_you_mean("c", names) == did_you_mean("", names) == ""


def test_nothing_else_guesses_names() -> None:
    found = [path for path in (ROOT / "bufferlab").rglob("*.py") if "difflib" in path.read_text("utf-8")]
    assert [path.relative_to(ROOT).as_posix() for path in found] == ["bufferlab/protocol/naming.py"]
