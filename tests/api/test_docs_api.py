"""docs/api.md prints what it says it prints, and examples are what a type checker reads in typed_docs.py."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import textwrap
from pathlib import Path

import matplotlib as mpl
import pytest

from bufferlab.api import fields
from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.config.sections.base import Section

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def printed(code: str, names: dict[str, object]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, names)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def test_the_page_shows_what_its_examples_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    names: dict[str, object] = {}
    shown = SHOWN.findall(PAGE.partition("## Configurations")[0])
    assert len(shown) == 4
    for code, text in shown:
        assert printed(code, names) == text


def test_a_type_checker_reads_the_examples() -> None:
    typed = (ROOT / "tests" / "api" / "typed_docs.py").read_text(encoding="utf-8")
    typed = typed.replace("  # type: ignore[union-attr]", "")  # matplotlib's figures within figures
    section = README.partition("### From Python\n")[2].partition("\n## ")[0]
    blocks = [one.replace("import bufferlab as bl\n\n", "") for text in (section, PAGE) for one in BLOCK.findall(text)]
    assert len(blocks) > 6
    assert [one for one in blocks if textwrap.indent(one, "    ") not in typed] == []


def test_the_types_of_keywords_are_those_of_the_settings() -> None:
    path = ROOT / "tools" / "api_fields.py"
    spec = importlib.util.spec_from_file_location("api_fields", path)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.main(["--check"]) == 0
    assert set(fields.SectionFields.__annotations__) == set(Config.model_fields)
    for name in ("workload", "encode", "link", "slo"):
        section = Config.model_fields[name].annotation
        assert isinstance(section, type)
        assert issubclass(section, Section)
        assert set(getattr(fields, f"{section.__name__}Fields").__annotations__) == set(section.model_fields)
