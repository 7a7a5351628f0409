"""The mutation check: its list still fits the code, and it tells the killed from the survivors."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "tools" / "mutants.py"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bufferlab_mutants", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mutants: Any = load_script()
CURATED = mutants.load()


def curated(name: str) -> Any:
    return next(mutation for mutation in CURATED if mutation.id == name)


def meaning(source: str) -> str:
    """Source without its layout and comments."""
    return ast.dump(ast.parse(source))


@cache
def original(file: str) -> str:
    return meaning(mutants.source_of(file))


def python(code: str, name: str = "tiny") -> Any:
    return mutants.Killer(name, ("-c", code))


def test_the_list_is_long_and_covers_every_file_that_decides() -> None:
    assert len(CURATED) >= 60
    # The files of a folder are small and belong together; a discipline of somebody's own is no reason to write more.
    topics = {file.partition("/")[0] for file in mutants.DECIDING}
    assert {mutation.file for mutation in CURATED} <= set(mutants.DECIDING)
    for topic in topics:
        assert sum(mutation.file.partition("/")[0] == topic for mutation in CURATED) >= 3, topic


@pytest.mark.parametrize("mutation", CURATED, ids=lambda mutation: mutation.id)
def test_a_mutation_is_well_formed(mutation: Any) -> None:
    broken = mutation.apply(mutants.source_of(mutation.file))  # raises unless its old text is there exactly once
    assert meaning(broken) != original(mutation.file)
    for sentence in (mutation.what, mutation.equivalent):
        assert sentence == sentence.strip().rstrip(".")
        assert "\n" not in sentence
    assert mutation.what


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("old = 'no such text'", "mutation one: its old text occurs 0 times in protocol/status.py, not once"),
        ("old = 'Status'", r"mutation one: its old text occurs \d+ times in protocol/status.py, not once"),
        ("old = 'LEGAL: Final'\nnew = 'LEGAL: Final'", "mutation one changes nothing"),
        ("", "is not a list of mutations: .* 'old'"),
        ("old = 'LEGAL: Final'\nsurprise = 1", "is not a list of mutations: .* 'surprise'"),
    ],
)
def test_a_list_that_no_longer_fits_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "list.toml"
    new = "" if "new" in text else "new = 'x'\n"
    path.write_text(f"[[mutation]]\nid = 'one'\nfile = 'status.py'\nwhat = 'w'\n{new}{text}\n", encoding="utf-8")
    with pytest.raises(mutants.MutantsError, match=reason):
        mutants.check_all(mutants.load(path))


def test_ids_are_unique(tmp_path: Path) -> None:
    table = "[[mutation]]\nid = 'one'\nfile = 'status.py'\nwhat = 'w'\nold = 'LEGAL: Final'\nnew = 'x'\n"
    path = tmp_path / "list.toml"
    path.write_text(table * 2, encoding="utf-8")
    with pytest.raises(mutants.MutantsError, match="mutation one is there twice"):
        mutants.load(path)


def test_the_killed_and_the_survivors_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """In one tree: it is mended in between, or the second would be killed as well."""
    blind = python("import bufferlab.protocol", "blind")
    tiny = python("from bufferlab.protocol.status import is_resume; assert not is_resume(0)")
    chosen = [curated("status-first-offer-resumes"), curated("status-group-forgets-failures")]
    results = mutants.Runner([blind, tiny]).try_all(chosen, jobs=1)
    assert [(result.mutation.id, result.killed_by) for result in results] == [
        (chosen[0].id, "tiny"),
        (chosen[1].id, ""),
    ]
    shown = capsys.readouterr().err
    assert f"{chosen[0].id}: killed by tiny" in shown
    assert f"[2/2] {chosen[1].id}: SURVIVED" in shown


def test_the_tests_that_the_killers_run_are_there() -> None:
    named = [argument for killer in mutants.KILLERS for argument in killer.arguments if argument.startswith("tests/")]
    assert len(named) > len(mutants.RUNS_CORES)
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_a_killer_that_does_not_end_has_noticed_something() -> None:
    killer = python("from bufferlab.protocol import status\nwhile status.is_resume(0): pass")
    (result,) = mutants.Runner([killer], limit_s=2.0).try_all([curated("status-first-offer-resumes")], jobs=4)
    assert result.killed_by == "tiny timeout"


def test_a_killer_that_fails_on_the_original_tree_ends_the_check() -> None:
    with pytest.raises(mutants.MutantsError, match=r"the original tree does not pass tiny.*\nno luck"):
        mutants.Runner([python("raise SystemExit('no luck')")]).try_all([CURATED[0]], jobs=1)


def test_survivors_count_unless_they_are_explained() -> None:
    one = CURATED[0]._replace(equivalent="")
    results = [
        mutants.Result(one._replace(id="found"), "protocol", 1.0),
        mutants.Result(one._replace(id="missed"), "", 2.0),
        mutants.Result(one._replace(id="same", equivalent="nobody sees it"), "", 3.0),
        mutants.Result(one._replace(id="seen", equivalent="nobody sees it"), "sim", 4.0),
    ]
    score = mutants.score(results)
    assert (score.killed, score.all, score.counted) == (2, 4, 3)
    lines = mutants.as_text(results, survivors_only=True).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["id", "missed", "same"]
    assert lines[4:] == [
        "survived: missed, which nothing explains",
        "survived: same, nobody sees it",
        "no longer true: seen is explained as equivalent, but sim kills it",
        "2 of 4 killed (50.0%)",
        "2 of 3 without the 1 explained (66.7%)",
    ]
    data = json.loads(mutants.as_json(results))
    assert [row["killed_by"] for row in data["mutations"]] == ["protocol", None, None, "sim"]
    assert (data["score_of_all"], data["score"]) == (2 / 4, 2 / 3)


def test_random_mutations_are_the_same_for_the_same_seed() -> None:
    drawn = mutants.sample(12, seed=1)
    assert drawn == mutants.sample(12, seed=1) != mutants.sample(12, seed=2)
    assert len({mutation.id for mutation in drawn}) == 12
    for mutation in drawn:
        assert meaning(mutation.apply(mutants.source_of(mutation.file))) != original(mutation.file), mutation.what
        assert mutation.what.startswith("line ")


def test_the_operators_of_the_random_mutations() -> None:
    def broken(code: str) -> list[str]:
        counter = mutants.Mutator(-1)
        counter.visit(ast.parse(code))
        numbers = range(counter.count)
        return [ast.unparse(mutants.Mutator(number).visit(ast.parse(code))) for number in numbers]

    assert broken("a < b") == ["a <= b"]
    assert broken("a and b") == ["a or b"]
    assert broken("x = not a") == ["x = a"]
    assert broken("x = 7") == ["x = 8", "x = 6"]
    assert broken("f(x)") == ["pass"]
    assert broken("def f():\n    if a:\n        return") == ["def f():\n    pass"]
    assert broken("'text'\nx = True\nif a:\n    x = b") == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "nonsense"], "mutants: there is no mutation nonsense; known: "),
        (["--killers", "nobody"], "mutants: there is no killer nobody; known: protocol, check, sim"),
        (["--jobs", "0"], "mutants: --jobs is 0, it must be at least 1"),
    ],
)
def test_bad_input_is_a_sentence_and_exit_status_2(arguments: list[str], sentence: str) -> None:
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(sentence)
    assert len(done.stderr.splitlines()) == 1
