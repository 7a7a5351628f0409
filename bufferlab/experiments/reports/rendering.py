"""Makes one HTML file of a page. Nothing is loaded from anywhere: a policy in the file itself forbids it.

Everything that comes from a run is escaped by the template engine; only pictures, which are written and escaped in
``drawing``, are put in as they are. The policy lets run no script and no style but the ones of this file, by their
digests, so that not even a mistake there would let a name run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

from bufferlab.experiments.reports.drawing import chart_style
from bufferlab.experiments.reports.page import Page, exact

FOLDER = Path(__file__).parent / "templates"
PAPER = {
    "paper": "#ffffff", "ink": "#1b1c1e", "muted": "#5d6169", "rule": "#dfe0e2", "c0": "#4a4e55", "c1": "#0072b2",
    "c2": "#c24f00", "c3": "#00805d", "c4": "#a9508a", "c5": "#2b93cf", "c6": "#a87400", "c7": "#333333",
}  # fmt: skip
"""The colours of a picture that is a file of its own: those of the page in the light."""


def render(page: Page, version: str) -> str:
    """The text of the file."""
    from markupsafe import Markup

    style = _read("report.css") + chart_style(lambda name: f"var(--{name})")
    script = _read("report.js")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return _template().render(
        page=page, version=version, style=Markup(style), script=Markup(script), policy=Markup(policy)
    )


@cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "kind": lambda block: type(block).__name__,
        "exact": exact,
        "data_uri": data_uri,
        "standalone": lambda svg: data_uri(standalone(svg), "image/svg+xml"),
        "trusted": Markup,
    }
    return environment.get_template("report.html")


def data_uri(content: str, kind: str) -> str:
    """A file as an address."""
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(content.encode()).decode()}"


def standalone(svg: str) -> str:
    """A picture of the page as a file of its own, with its colours and a background."""
    found = re.match(r'<svg viewBox="0 0 (\d+) (\d+)"', svg)
    if found is None:
        raise ValueError("a picture begins with its size")
    width, height = found.groups()
    margin = 12
    across, down = int(width) + 2 * margin, int(height) + 2 * margin
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{across}" height="{down}" '
        f'viewBox="-{margin} -{margin} {across} {down}"'
    )
    title, rest = svg[found.end() :].split(">", 1)
    style = f"<style>{chart_style(PAPER.__getitem__)}</style>"
    ground = f'<rect x="-{margin}" y="-{margin}" width="100%" height="100%" fill="{PAPER["paper"]}"/>'
    return f"{head}{title}>{style}{ground}{rest}"


def _digest(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


@cache
def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8").strip()
