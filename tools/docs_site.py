"""Builds the documentation as a site that needs no network: `python tools/docs_site.py [--out DIR]`, or `make docs`.

The pages are those of docs/, with README.md, CONTRIBUTING.md and CHANGELOG.md, as they are read on GitHub; only links
are changed, where a page has another place or what it names is not part of the site. The navigation is read from
docs/index.md, and the pages of the Python interface are made of docstrings (docs/site/). Sphinx builds it, with every
warning an error, so a link to a page or a heading that is not there ends it.

Exit status: 0; 1 where something is wrong with a page, and the lines above say what; 2 if Sphinx is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SITE = DOCS / "site"
"""What is there for the site alone: configuration, style, pages of the Python interface."""
BESIDE = {"README.md": "readme.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages from the top of the repository, by their place in the site."""
NEEDED = ("sphinx", "myst_parser", "furo")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"(?ms)^( *```.*?^ *```)")


def places() -> dict[str, str]:
    """Every file of the site: its place in the repository, and in the site."""
    files = [path.relative_to(ROOT).as_posix() for path in sorted(DOCS.rglob("*")) if path.is_file()]
    found = {name: name.removeprefix("docs/") for name in files if not name.startswith("docs/site/")}
    return found | {name: place for name, place in BESIDE.items() if (ROOT / name).is_file()}


def moved(text: str, page: str, where: Mapping[str, str]) -> str:
    """The text of a page whose links lead to places of the site.

    A link to a file of the repository that is not part of the site becomes its text; one to what is not there stays,
    so that it is found.
    """

    def link(match: re.Match[str]) -> str:
        image, words, target = match.groups()
        name, mark, anchor = target.partition("#")
        if not name or re.match(r"[a-z]+:", target):
            return match[0]
        named = posixpath.normpath(posixpath.join(posixpath.dirname(page), name))
        if (ROOT / named).is_dir() and f"{named}/README.md" in where:
            named = f"{named}/README.md"
        if named in where:
            there = posixpath.relpath(where[named], posixpath.dirname(where[page]) or ".")
            return f"{image}[{words}]({there}{mark}{anchor})"
        return words if (ROOT / named).exists() else match[0]

    parts = FENCE.split(text)  # every second one is code
    parts[::2] = [LINK.sub(link, part) for part in parts[::2]]
    # There is no renderer of Mermaid that needs neither a network nor a browser at build time, so it is shown as code.
    parts[1::2] = [part.replace("```mermaid", "```text") for part in parts[1::2]]
    return "".join(parts)


def navigation(index: str) -> str:
    """The trees of pages that docs/index.md lists: a caption for each heading, with the pages linked below it."""
    trees = []
    for heading, part in re.findall(r"(?ms)^## (.+?)\n(.*?)(?=^## |\Z)", index):
        pages = {target: words for _, words, target in LINK.findall(part) if target.endswith(".md")}
        if heading == "Reference":
            pages["api/index.md"] = "Python, name by name"  # made of docstrings, so it is not read on GitHub
        if pages:
            named = [f"{words[:1].upper()}{words[1:]} <{page}>" for page, words in pages.items()]
            lines = ["```{toctree}", ":hidden:", f":caption: {heading}", "", *named, "```"]
            trees.append("\n".join(lines))
    return "\n\n".join(trees)


def below(place: str, where: Mapping[str, str]) -> str:
    """The tree of the pages in folders of their own beside a README that tells of them all."""
    folder = posixpath.dirname(place)
    pages = [one for one in where.values() if re.fullmatch(rf"{folder}/[^/]+/README\.md", one)] if folder else []
    lines = ["```{toctree}", ":hidden:", "", *(one.removeprefix(f"{folder}/") for one in pages), "```"]
    return "\n".join(lines) if pages else ""


def assemble(source: Path) -> None:
    """Write the pages of the site to ``source``."""
    shutil.rmtree(source, ignore_errors=True)
    where = places()
    for name, place in where.items():
        target = source / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith(".md"):
            shutil.copyfile(ROOT / name, target)
            continue
        text = (ROOT / name).read_text(encoding="utf-8")
        text = moved(text, name, where)
        tree = (
            navigation(text) if name == "docs/index.md" else below(place, where) if place.endswith("README.md") else ""
        )
        if tree:
            text = f"{text.rstrip()}\n\n{tree}\n"
        target.write_text(text, encoding="utf-8")
    shutil.copytree(SITE, source, dirs_exist_ok=True)


def outside(folder: Path) -> list[str]:
    """What a built page would fetch from elsewhere: images, scripts, styles and fonts with an address of their own."""
    found = []
    for page in sorted(folder.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        for tag in re.findall(r"<(?:script|img|iframe|source|video|audio|link)\b[^>]*>", text):
            if re.search(r"(?:src|href|srcset)=[\"']?(?:https?:)?//", tag):
                found.append(f"{page.relative_to(folder)}: {tag}")
    for style in sorted(folder.rglob("*.css")):
        for address in re.findall(
            r"(?:url\(|@import )\s*[\"']?(?:https?:)?//[^)\"']*", style.read_text(encoding="utf-8")
        ):
            found.append(f"{style.relative_to(folder)}: {address}")
    return found


def build(out: Path) -> int:
    """Build the site into ``out``."""
    source = out.with_name(f"{out.name}-pages")
    assemble(source)
    shutil.rmtree(out, ignore_errors=True)
    command = [
        sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-E",
        "-d", str(out.with_name(f"{out.name}-trees")), str(source), str(out),
    ]  # fmt: skip
    # Compiled classes tell no signatures. Nothing is drawn on a screen.
    environment = {**os.environ, "BUFFERLAB_COMPILED": "0", "MPLBACKEND": "agg"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    if subprocess.run(command, env=environment).returncode != 0:
        return 1
    fetched = outside(out)
    for line in fetched:
        print(f"docs_site: {line} is fetched from elsewhere", file=sys.stderr)
    return int(bool(fetched))


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and build the site."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "docs", help="the folder of the site")
    options = parser.parse_args(arguments)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        command = f"{sys.executable} -m pip install '.[docs]'"
        print(f"docs_site: {', '.join(missing)} is not installed; run in {ROOT}: {command}", file=sys.stderr)
        return 2
    status = build(options.out)
    if status == 0:
        print(f"open {options.out / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
