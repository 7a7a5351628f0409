"""The documentation as a site: every page is in its navigation, every link leads somewhere, and nothing is fetched."""

import importlib.util
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bufferlab.experiments.config import reference

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *sorted(DOCS.rglob("*.md"))]
READ = [page for page in PAGES if DOCS / "site" not in page.parents]


def loaded(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"bufferlab_{name}", ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = loaded("docs_site")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"(?ms)^ *```.*?^ *```", "", page.read_text(encoding="utf-8"))
    headings = re.findall(r"(?m)^#{1,6} +(.+?) *$", text)
    words = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", one) for one in headings]
    seen: Counter[str] = Counter()
    found = set()
    for one in (re.sub(r"[^\w\- ]", "", word).lower().replace(" ", "-") for word in words):
        found.add(f"{one}-{seen[one]}" if seen[one] else one)
        seen[one] += 1
    return found


def links(page: Path) -> Iterator[tuple[str, str]]:
    text = re.sub(r"(?ms)^ *```.*?^ *```|`[^`\n]*`", "", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^()\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            name, _, anchor = target.partition("#")
            yield name, anchor


@pytest.mark.parametrize("page", READ, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    for name, anchor in links(page):
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), name
        if anchor:
            assert anchor in anchors(there), f"{name}#{anchor}"


def test_every_page_is_in_the_navigation_once() -> None:
    where = tool.places()
    tree = tool.navigation(tool.moved((DOCS / "index.md").read_text(encoding="utf-8"), "docs/index.md", where))
    listed = Counter(re.findall(r"<(.+)>$", tree, re.M))
    assert set(listed.values()) == {1}
    pages = {place for place in where.values() if place.endswith(".md")} - {"index.md"}
    below = {place for place in pages if place.count("/") > 1 and place.endswith("README.md")}
    assert set(listed) - {"api/index.md"} == pages - below, "add the page to docs/index.md"


def test_links_lead_to_places_of_the_site() -> None:
    where = {"README.md": "readme.md", "docs/model.md": "model.md", "docs/studies/README.md": "studies/README.md"}

    def moved(text: str, page: str = "docs/model.md") -> str:
        return str(tool.moved(text, page, where))

    assert moved("[a](../README.md#use)") == "[a](readme.md#use)"
    assert moved("[a](docs/model.md)", "README.md") == "[a](model.md)"
    assert moved("[a](../model.md)", "docs/studies/README.md") == "[a](../model.md)"
    assert moved("[a](studies)") == "[a](studies/README.md)"
    assert moved("[`b`](../tools/bench.py) [c](https://x.org) [d](#here)") == "`b` [c](https://x.org) [d](#here)"
    assert moved("[a](nothing.md)") == "[a](nothing.md)", "left for Sphinx to find"
    assert moved("```mermaid\n[a](../README.md)\n```\n") == "```text\n[a](../README.md)\n```\n"


def test_what_would_be_fetched_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="https://x.org">fine</a><script src="https://cdn.org/x.js"></script>')
    (tmp_path / "b.css").write_text('@import "//fonts.org/x.css"; p { background: url(local.png) }')
    assert len(tool.outside(tmp_path)) == 2


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in tool.NEEDED:
        pytest.importorskip(name, reason="the site needs the extra docs")
    out = tmp_path_factory.mktemp("site") / "docs"
    assert tool.main(["--out", str(out)]) == 0
    return Path(out)


def test_the_site_is_built_without_a_warning_and_fetches_nothing(site: Path) -> None:
    page = (site / "settings.html").read_text(encoding="utf-8")
    assert "language.pool_blocks" in page
    assert 'href="from-your-system.html"' in page
    assert "pool_block" in (site / "searchindex.js").read_text(encoding="utf-8")


def test_the_names_of_the_python_interface_are_in_it(site: Path) -> None:
    import bufferlab

    page = (site / "api" / "bufferlab.html").read_text(encoding="utf-8")
    assert [name for name in bufferlab.__all__ if f'id="bufferlab.{name}"' not in page] == []
    for module, name in (("policies", "SizingPolicy.first_tokens"), ("simulation", "simulate")):
        assert f'.{name}"' in (site / "api" / f"{module}.html").read_text(encoding="utf-8")


def test_a_link_to_nowhere_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in tool.NEEDED:
        pytest.importorskip(name, reason="the site needs the extra docs")
    (tmp_path / "docs" / "site").mkdir(parents=True)
    (tmp_path / "docs" / "site" / "conf.py").write_text(
        "extensions = ['myst_parser']\nmyst_heading_anchors = 6\nsuppress_warnings = ['myst.header']\n"
    )
    (tmp_path / "docs" / "a.md").write_text("# A\n\n## Here\n")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "DOCS", tmp_path / "docs")
    monkeypatch.setattr(tool, "SITE", tmp_path / "docs" / "site")
    index = tmp_path / "docs" / "index.md"
    for target, status in (("a.md#here", 0), ("a.md#there", 1), ("b.md", 1)):
        index.write_text(f"# I\n\n## Reference\n\n- [a](a.md)\n- [x]({target})\n")
        (tmp_path / "docs" / "site" / "api").mkdir(exist_ok=True)
        (tmp_path / "docs" / "site" / "api" / "index.md").write_text("# P\n")
        assert tool.build(tmp_path / "out") == status, target
    assert "there" in capfd.readouterr().err


def test_the_page_for_other_systems_names_settings_that_are_there() -> None:
    text = (DOCS / "from-your-system.md").read_text(encoding="utf-8")
    sections = "run|workload|protocol|encode|language|link|model|random_faults|slo|real"
    named = set(re.findall(rf"\b((?:{sections})\.[a-z_]+(?:\.[a-z_]+)?)", text))
    known = {one.key for one in reference.settings()} | {"protocol.layout"}  # a module
    assert len(named) > 20
    assert named <= known, named - known


def test_the_citation_and_the_change_log_are_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert [one["name"] for one in citation["authors"]] == [one["name"] for one in project["authors"]]
    assert f"## {project['version']}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_hosted_runs_try_every_supported_python_by_the_script_that_developers_run() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tried = jobs["test"]["strategy"]["matrix"]["python"]
    assert tried[0] == project["requires-python"].removeprefix(">=")
    assert [step["run"] for step in jobs["test"]["steps"] if "run" in step] == [".ci/run"]
    assert [step["run"] for step in jobs["docs"]["steps"] if "run" in step] == ["make docs"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "PYTHON ?=" in makefile, "the variable of the workflow would do nothing"
    assert all(f"python{version}" in makefile for version in tried)
    assert sys.version_info[:2] >= (3, 11)
