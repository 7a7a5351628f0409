"""Every command of README and docs can be pasted in order, from a fresh clone: no input is missing, none is misspelt.

What stands in a block of ``sh`` or ``console`` is meant to be pasted, page by page and from the top; a block of
``text`` shows a form to fill in, and one of ``bash`` a script for hosts that are not here. A block of ``toml`` or
``python`` that follows a line ending in "`NAME`:" is that file.

The commands of the README that take seconds run with every test run. All the others are marked ``slow``, or left out
for the reason that ``NOT_HERE`` gives; ``pytest -m slow tests/test_pasted.py -s`` prints what each took.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md")))

NOT_HERE = {
    r"make (demo|test|setup|setup-dev|docs|notebooks|test-slow|test-rdma|mutants|bench)\b": "sets up an environment",
    r"python -m tools\.rdma_vm": "boots a virtual machine",
    r"python tools/(campaign|held_out)\.py": "measures for a quarter of an hour",
    r"python tools/(soak|transport_ratio|real_cost|race_table|trace_coverage|study)\.py": "measures for minutes",
    r"git worktree|valgrind|scp |ssh |sbatch": "needs what is not installed everywhere",
    r"python tools/hosts\.py": "makes network namespaces, as root; tests/real/test_several_hosts.py runs it",
    r"bufferlab check --bound deep": "explores for half an hour",
    r"jupyter lab": "serves until it is stopped",
    r"python3 -m venv|pip install|pipx |uvx |uv ": "fetches packages",
}
"""By the beginning of a command, why it is not run here."""
FINDS = (r"bufferlab check --discipline alloc_then_free", r"bufferlab check --bound quick --discipline alloc_then_free",
         r"bufferlab check --replay ")  # fmt: skip
"""Commands that are shown because they find something: their exit status is 1."""
QUICK = {
    "README.md": r"bufferlab (examples|sim (?!.*my\.toml)|compare|workload|report|sweep|real seed)",
    "docs/statistics.md": "bufferlab",
    "docs/policies.md": "bufferlab|PYTHONPATH",
}
"""By page, what also runs where the slow ones do not."""
LONGEST_S = 900


class Command(NamedTuple):
    """One command of a page, on one line, and whether it takes what a measured run needs."""

    page: str
    text: str

    @property
    def words(self) -> str:
        """Without the folder of the environment."""
        return self.text.replace(".venv/bin/", "")

    @property
    def why_not(self) -> str:
        """Why it is not run; empty where it is."""
        return next((why for start, why in NOT_HERE.items() if re.match(start, self.words)), "")

    @property
    def is_quick(self) -> bool:
        return self.page in QUICK and re.search(QUICK[self.page], self.words) is not None

    @property
    def status(self) -> int:
        return 1 if any(re.match(start, self.words) for start in FINDS) else 0


def commands_of(page: str, text: str) -> list[Command]:
    """The commands of a page in their order. Lines that a backslash ends go on; in ``console`` blocks they follow "$ "."""
    found = []
    for kind, block in re.findall(r"(?ms)^ *```(sh|console)\n(.*?)^ *```", text):
        lines = block.replace("\\\n", " ").splitlines()
        if kind == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        found += [re.sub(r"(^| +)#.*| {2,}", lambda m: "" if "#" in m[0] else " ", line).strip() for line in lines]
    return [Command(page, one) for one in found if one]


def files_of(text: str) -> dict[str, str]:
    """The files that a page shows, by the name that the line before the block gives them."""
    shown = re.findall(r"(?ms)`([\w-]+\.(?:toml|py|csv))`[^`\n]*:\n\n```(?:toml|python|csv)\n(.*?)^```", text)
    return dict(shown)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


EVERYTHING = [one for page in PAGES for one in commands_of(page, text_of(page))]


def clone(into: Path) -> Path:
    """The files of this tree, as a clone has them, and an environment where the README says that it is."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode != 0:
        pytest.skip("this tree is no checkout of git, whose files could be listed")
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, into / name)
    if (ROOT / "build" / "compiled").is_dir():
        (into / "build").mkdir()
        (into / "build" / "compiled").symlink_to(ROOT / "build" / "compiled")
    commands = into / ".venv" / "bin"
    commands.mkdir(parents=True)
    for name, module in {"bufferlab": "-m bufferlab", "python": "", "pytest": "-m pytest"}.items():
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        (commands / name).chmod(0o755)
    return into


def paste(page: str, where: Path, *, quick: bool) -> int:
    """Run the commands of a page in a clone, in order; those that are too long only if ``quick`` is not set."""
    text = text_of(page)
    for name, content in files_of(text).items():
        (where / name).write_text(content, encoding="utf-8")
    path = os.pathsep.join([str(where / ".venv" / "bin"), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(where), "MPLBACKEND": "agg"}
    ran = 0
    for one in commands_of(page, text):
        if one.why_not or (quick and not one.is_quick):
            continue
        started_s = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", one.text], cwd=where, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=LONGEST_S,
        )  # fmt: skip
        sys.stdout.write(f"{time.monotonic() - started_s:7.1f} s  {page}: {one.text}\n")
        assert done.returncode == one.status, f"{one.text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        ran += 1
    return ran


@pytest.mark.real
@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", QUICK)
def test_the_quick_commands_of_a_page_can_be_pasted(page: str, tmp_path: Path) -> None:
    pytest.importorskip("mooncake.engine", reason="Mooncake is not installed, so measured runs are impossible")
    assert paste(page, clone(tmp_path), quick=True) > 1


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.timeout(3 * LONGEST_S)
@pytest.mark.parametrize("page", sorted({one.page for one in EVERYTHING if not one.why_not}))
def test_all_commands_of_a_page_can_be_pasted(page: str, tmp_path: Path) -> None:
    pytest.importorskip("mooncake.engine", reason="Mooncake is not installed, so measured runs are impossible")
    assert paste(page, clone(tmp_path), quick=False) > 0


def test_commands_are_found_as_they_are_meant() -> None:
    text = (
        "```sh\nbufferlab sim a \\\n    --json   # a note\n\n# a line for the reader\nbufferlab sim b\n```\n"
        "```console\n$ bufferlab sim c\nwhat it says\n```\n```text\nbufferlab sim FOLDER\n```\n"
        "This is `mine.toml`:\n\n```toml\n[run]\n```\n"
    )
    assert [one.text for one in commands_of("p", text)] == [
        "bufferlab sim a --json",
        "bufferlab sim b",
        "bufferlab sim c",
    ]
    assert files_of(text) == {"mine.toml": "[run]\n"}
    assert Command("p", ".venv/bin/bufferlab check --bound deep").why_not
    assert not Command("p", "bufferlab check").why_not


def test_no_command_of_a_page_hides_in_an_indented_block() -> None:
    hidden = [
        f"{page}: {line.strip()}"
        for page in PAGES
        for line in re.findall(r"(?m)^ {4}(?:\$ )?(?:\.venv/bin/)?(?:bufferlab|python|make) .*$",
                               re.sub(r"(?ms)^```.*?^```", "", text_of(page)))
    ]  # fmt: skip
    assert hidden == []
    assert len(EVERYTHING) > 60


def test_pages_pasted_one_after_another_write_different_places() -> None:
    """What one page has made would be in the way of another, which refuses to write over it."""
    written: dict[str, str] = {}
    for one in EVERYTHING:
        for place in re.findall(r"--(?:out|keep) ([^\s]+)", one.words):
            # A profile is never written over, not even by the page that made it; a sweep goes on.
            who = one.words if "calibrate" in one.words else one.page
            other = written.setdefault(place, who)
            assert other == who, f"{place} is written by {other} and {who}"
