"""CONTRIBUTING.md and docs/architecture.md name what is there: files, folders, commands, and every wing."""

import re
from pathlib import Path

import pytest

from bufferlab.experiments.commands.common.registry import all_commands

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("protocol", "sim", "real", "experiments", "api")
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "docs/architecture.md")}
TOP = ("bufferlab", "tests", "tools", "docs", "notebooks")


def places(text: str) -> list[str]:
    """What stands in code and begins with a folder of the project. NAME stands for a name that is to be given."""
    fenced = re.findall(r"(?ms)^```\w*\n(.*?)^```", text)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^```.*?^```", "", text))
    words = [word for code in (*fenced, *spans) for word in code.split()]
    return [word for word in words if word.startswith(tuple(f"{top}/" for top in TOP)) and "NAME" not in word]


def is_there(place: str) -> bool:
    path = ROOT / place
    return path.is_dir() if place.endswith("/") else path.exists() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("page", PAGES)
def test_the_places_it_names_are_there(page: str) -> None:
    named = places(PAGES[page])
    assert len(named) > 20
    assert [place for place in named if not is_there(place)] == []


def test_a_place_that_is_not_there_is_seen() -> None:
    text = "`bufferlab/sim/no.py` and `bufferlab/real/run`, `python tools/no.py -x`, `bufferlab/sim/profiles/NAME.toml`, `make test`"
    assert places(text) == ["bufferlab/sim/no.py", "bufferlab/real/run", "tools/no.py"]
    assert [is_there(place) for place in places(text)] == [False, True, False]
    assert is_there("bufferlab/protocol/status")
    assert not is_there("bufferlab/protocol/status.py/")


@pytest.mark.parametrize("page", PAGES)
def test_its_links_lead_somewhere(page: str) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)", PAGES[page]):
        path = (ROOT / page).parent / target
        assert path.is_file(), target
        if anchor:
            headings = re.findall(r"(?m)^#+ (.+)$", path.read_text(encoding="utf-8"))
            assert anchor in [re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings], anchor


@pytest.mark.parametrize("page", PAGES)
def test_its_commands_are_there(page: str) -> None:
    names = {one.name for one in all_commands()}
    assert set(re.findall(r"`bufferlab ([a-z-]+)", PAGES[page])) <= names
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert set(re.findall(r"(?m)(?:`|^)make ([a-z-]+)", PAGES[page])) <= targets


def test_every_wing_has_its_sentence() -> None:
    """A new folder of a package, or one that moves, is told on the page."""
    told = {place.rstrip("/") for place in places(PAGES["docs/architecture.md"])}
    wings = {
        path.parent.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / "bufferlab" / package).glob("*/__init__.py")
    }
    assert sorted(wings - told) == []


def test_the_order_of_the_wings_is_that_of_the_contracts() -> None:
    """The tables list wings from top to bottom as pyproject.toml does."""
    contracts = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for package in PACKAGES:
        found = re.search(rf'containers = \["bufferlab.{package}"\].*?layers = \[(.*?)\n?\]\n', contracts, re.DOTALL)
        assert found is not None, package
        layers = [re.findall(r"\w+", line) for line in re.findall(r'"([^"]+)"', found[1])]
        rank = {name: place for place, layer in enumerate(layers) for name in layer}
        rows = re.findall(
            rf"(?m)^\| `bufferlab/{package}/(\w+)[/.`]", PAGES["docs/architecture.md"].partition("## The way")[0]
        )
        known = [rank[name] for name in rows if name in rank]
        assert len(known) > 2, package
        assert known == sorted(known), f"{package}: {rows}"
