"""docs/policies.md and the README say what the policies are, and their examples run."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest

from bufferlab.protocol.messages import LanguageRequest
from bufferlab.protocol.sizing import POLICIES, CompletedView, RequestView, make_policy

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str, page: str = PAGE) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no section {title}"
    return found[1]


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_is_explained_with_its_options_and_defaults(name: str) -> None:
    assert f"| [`{name}`](#{name}) |" in PAGE
    text = section(name)
    parameters = inspect.signature(POLICIES[name]).parameters
    assert re.findall(r"^\* `(\w+)`", text, re.MULTILINE) == list(parameters)
    for option, parameter in parameters.items():
        if parameter.default is not None:
            assert f"`{option}` = {json.dumps(parameter.default)}" in text


def test_no_other_policy_is_listed() -> None:
    assert sorted(re.findall(r"^\| \[`(\w+)`\]", PAGE, re.MULTILINE)) == sorted(POLICIES)


@pytest.mark.parametrize(
    ("text", "name"),
    [(section("Your own"), "LongestLately"), (section("Add a sizing policy", README), "HalfOfTheFreePool")],
)
def test_the_examples_run(text: str, name: str, tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    (tmp_path / "my_policies.py").write_text(code[1], encoding="utf-8")
    policy = make_policy(f"{tmp_path}/my_policies.py:{name}", {})
    request = LanguageRequest(1, 0, client="a")
    assert policy.first_tokens(RequestView(request, 128, 16, 32)) == 1024
    policy.completed(CompletedView(request, 2000, 2))
    assert policy.first_tokens(RequestView(request, 128, 16, 32)) in (1024, 2200)
