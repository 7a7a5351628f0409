"""docs/statistics.md: what it says is printed is printed.

After a change that moves the numbers, ``REWRITE_PAGE=1 pytest tests/experiments/test_intervals_docs.py`` writes them
into the page; read it again then.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"
BLOCK = re.compile(r"```(?P<kind>python|console)\n(?P<code>.*?)```\n(?:\n```text\n(?P<output>.*?)```\n)?", re.DOTALL)


def test_the_page_shows_what_its_examples_print(bufferlab: Any) -> None:
    """Commands come first, since the Python examples read the runs they make."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    printed: dict[int, str] = {}
    for number, block in sorted(enumerate(blocks), key=lambda item: item[1]["kind"] != "console"):
        if block["kind"] == "console":
            for line in block["code"].splitlines():
                ended = bufferlab(*shlex.split(line.removeprefix("$ bufferlab ")))
                assert ended.status == 0, ended.err
                printed[number] = ended.out  # what the last command says
        else:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(block["code"], f"{PAGE.name}, example {number + 1}", "exec"), {})
            printed[number] = out.getvalue()
    assert len(blocks) == 3
    for number, block in reversed(list(enumerate(blocks))):
        fresh = block[0][: block[0].index("```\n") + 4] + f"\n```text\n{printed[number]}```\n"
        text = text[: block.start()] + fresh + text[block.end() :]
    if os.environ.get("REWRITE_PAGE"):
        PAGE.write_text(text, encoding="utf-8")
    assert text == PAGE.read_text(encoding="utf-8"), "the numbers have moved: see above for how to renew the page"
