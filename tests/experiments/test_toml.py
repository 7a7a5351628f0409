import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from experiments import toml

SCALARS = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"))
)
KEYS = st.text(st.characters(codec="utf-8"), max_size=8)
ARRAYS = st.lists(SCALARS, max_size=4)
TABLES: Any = st.recursive(
    st.dictionaries(KEYS, SCALARS | ARRAYS, max_size=4),
    lambda inner: st.dictionaries(KEYS, SCALARS | ARRAYS | inner | st.lists(inner, min_size=1, max_size=3), max_size=4),
    max_leaves=12,
)


@given(TABLES)
def test_what_is_written_reads_back(document: dict[str, Any]) -> None:
    assert tomllib.loads(toml.dumps(document)) == document


def test_the_text_is_for_people() -> None:
    document = {"run": {"seed": 1}, "workload": {"lengths": [1, 2]}, "faults": [{"room": 1}, {"room": 2}]}
    assert toml.dumps(document) == (
        "[run]\nseed = 1\n\n[workload]\nlengths = [1, 2]\n\n[[faults]]\nroom = 1\n\n[[faults]]\nroom = 2\n"
    )
