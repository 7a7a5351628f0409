"""``import bufferlab``: light, typed, and the very same runs as the commands make."""

import ast
import importlib
import importlib.util
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from types import FunctionType

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

import bufferlab as bl
from bufferlab.api.speech import in_python as said_in_python
from bufferlab.experiments.cli import main

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = {"workload.requests": 40}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    return tmp_path


@pytest.fixture(scope="module")
def run() -> bl.Run:
    return bl.simulate("quickstart", SMALL)


@pytest.fixture(scope="module")
def sweep() -> bl.Sweep:
    return bl.sweep(
        "ustudy", {"protocol.sizing.tokens": [512, 2048]}, workload={"requests": 40}, replications=3, jobs=1
    )


def command(*arguments: object) -> int:
    return main([str(one) for one in arguments])


# --- the package ---------------------------------------------------------------------------------------------------


def in_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = ("pandas", "matplotlib", "pydantic", "numpy", "scipy", "pyarrow", "bufferlab.api", "bufferlab.experiments")
    code = f"import sys, bufferlab as bl; dir(bl); print([name for name in {heavy!r} if name in sys.modules])"
    assert in_python(code).strip() == "[]"


def test_loading_a_configuration_imports_no_tables_and_no_pictures() -> None:
    code = "import sys, bufferlab as bl; bl.load('quickstart'); print([one for one in ('pandas', 'matplotlib.figure', 'scipy') if one in sys.modules])"
    assert in_python(code).strip() == "[]"


def names_for_type_checkers() -> dict[str, str]:
    """What the block says that only type checkers read: name -> module."""
    tree = ast.parse((ROOT / "bufferlab" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        str(one.asname): str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for one in node.names
    }


def test_type_checkers_and_python_find_the_same_names() -> None:
    told = names_for_type_checkers()
    assert sorted(told) == sorted(bl.__all__)
    assert set(bl.__all__) <= set(dir(bl))
    for name, module in told.items():
        assert getattr(bl, name) is getattr(importlib.import_module(module), name), name


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'simulat'"):
        bl.simulat  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(bl, "__wrapped__")


def public_functions() -> list[tuple[str, FunctionType]]:
    """Every function of the package, and every public method and property of its classes that is ours."""
    found: list[tuple[str, FunctionType]] = []
    classes: list[type] = []
    for name in bl.__all__:
        one = getattr(bl, name)
        if inspect.isclass(one):
            classes.append(one)
        else:
            found.append((name, one))
    seen = set()
    while classes:
        one = classes.pop()
        if one in seen:
            continue
        seen.add(one)
        for base in one.__mro__:
            if not base.__module__.startswith("bufferlab.api"):
                continue
            for name, member in vars(base).items():
                function = getattr(member, "fget", None) or getattr(member, "func", None) or member
                ours = inspect.isfunction(function) and function.__module__.startswith("bufferlab.api")
                if name.startswith("_") or not ours:
                    continue
                found.append((f"{one.__name__}.{name}", function))
                kind = function.__annotations__.get("return")
                more = vars(sys.modules[base.__module__]).get(str(kind))
                if inspect.isclass(more):
                    classes.append(more)
    return found


def names_of_types() -> dict[str, object]:
    """What annotations name that is imported for type checkers alone."""
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bufferlab.experiments.config.overrides import Override
    from bufferlab.experiments.progress import Bar
    from bufferlab.experiments.reports.page import Part

    return {"pd": pd, "Axes": Axes, "Figure": Figure, "Bar": Bar, "Part": Part, "Override": Override}


@pytest.mark.parametrize(("name", "function"), public_functions(), ids=lambda one: one if isinstance(one, str) else "")
def test_everything_public_is_typed_and_explained(name: str, function: FunctionType) -> None:
    hints = typing.get_type_hints(function, {**vars(sys.modules[function.__module__]), **names_of_types()})
    parameters = [one for one in inspect.signature(function).parameters if one != "self"]
    assert set(hints) == {*parameters, "return"}
    explained = inspect.getdoc(function) or ""
    assert explained.rstrip().endswith("."), name


def test_types_are_what_happens(folder: Path) -> None:
    path = ROOT / "tests" / "api" / "typed_use.py"
    spec = importlib.util.spec_from_file_location("typed_use", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.use(folder)


# --- configurations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "sections"),
    [
        ({"protocol.sizing.tokens": 2048, "workload": {"requests": 300}}, {}),
        ({"protocol": {"sizing": {"tokens": 2048}}, "workload.requests": np.int64(300)}, {}),
        (None, {"protocol": {"sizing": {"tokens": 2048}}, "workload": {"requests": 300}}),
        ({"protocol": {"sizing.tokens": 2048}}, {"workload": {"requests": 300}}),
    ],
)
def test_overrides_are_given_in_any_form(overrides: dict[str, object] | None, sections: dict[str, object]) -> None:
    from bufferlab.experiments.workloads.loading import load

    as_command = load("quickstart", ["protocol.sizing.tokens=2048", "workload.requests=300"])
    config = bl.load("quickstart", overrides, **sections)  # type: ignore[arg-type]
    assert config.tree() == as_command.tree()
    assert config.digest() == as_command.digest()


def test_a_configuration_is_read_from_files_and_folders_too(folder: Path, run: bl.Run) -> None:
    (folder / "mine.toml").write_text('[workload]\npreset = "mixed"\nrate_rps = 5\nrequests = 7\n')
    for source in ("mine.toml", folder / "mine.toml"):
        assert bl.load(source).workload.requests == 7
        assert bl.load(source).run.name == "mine"
    assert bl.load(run.path).tree() == run.config.tree()


def test_a_configuration_is_what_was_read(folder: Path) -> None:
    path = folder / "mine.toml"
    path.write_text('[workload]\npreset = "mixed"\nrate_rps = 5\nrequests = 7\n')
    config = bl.load(path)
    path.write_text("[workload]\n")
    assert config.with_(workload={"rate_rps": 6.0}).workload.requests == 7


def test_with_makes_another_one_as_if_it_were_written_in_the_file() -> None:
    config = bl.load("quickstart", language={"pool_blocks": "1GiB"})
    changed = config.with_({"protocol.block_tokens": 64})
    assert config.protocol.block_tokens != 64
    both = bl.load("quickstart", {"language.pool_blocks": "1GiB", "protocol.block_tokens": 64})
    assert changed.tree() == both.tree()  # the memory stays, not the number of blocks
    assert bl.load(config, protocol={"block_tokens": 64}).tree() == both.tree()
    assert bl.load(config) is config
    assert repr(changed) == "Config('quickstart', {'language.pool_blocks': '1GiB', 'protocol.block_tokens': 64})"


def test_a_later_workload_takes_the_place_of_an_earlier_one(folder: Path) -> None:
    (folder / "mine.csv").write_text("arrival_s,image_tokens\n0.0,700\n1.0,900\n")
    of_file = bl.load("quickstart").with_(workload={"file": Path("mine.csv")})
    assert of_file.workload.file == str(folder / "mine.csv")
    again = of_file.with_(workload={"preset": "mixed", "rate_rps": 3.0})
    assert (again.workload.file, again.workload.preset) == (None, "mixed")


def test_none_takes_away_what_need_not_be_there() -> None:
    config = bl.load("quickstart", encode={"batch_requests": 4})
    assert config.encode.batch_requests == 4
    assert config.with_(encode={"batch_requests": None}).encode.batch_requests is None
    assert bl.load("quickstart", {"protocol.timeout_s": None}).protocol.timeout_s is None


def test_lists_of_tables_are_taken_as_in_a_file() -> None:
    incidents = ({"kind": "abort", "room": 3, "time_s": 0.5},)
    config = bl.load("quickstart", incidents=incidents)
    assert [one.kind for one in config.incidents] == ["abort"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("protocol.sizing.tokens", -1),
        ("protocol.sizing.tokns", 2048),
        ("protocol.block_tokens", "many"),
        ("workload.preset", "mixd"),
        ("protocl.block_tokens", 64),
        ("language.pool_blocks", "4Gib"),
        ("run.seed.deep", 3),
    ],
)
def test_what_is_wrong_is_refused_with_the_sentence_of_the_command(
    setting: str, value: object, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(bl.UserError) as refused:
        bl.load("quickstart", {setting: value})
    assert command("sim", "quickstart", "--set", f"{setting}={value}") == 2
    assert said_in_python(capfd.readouterr().err.strip().removesuffix(".")).endswith(str(refused.value))
    *sections, last = setting.split(".")
    nested: dict[str, object] = {last: value}
    for section in reversed(sections):
        nested = {section: nested}
    with pytest.raises(bl.UserError) as again:
        bl.load("quickstart", nested)
    assert str(again.value) == str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"protocol.block_tokens": None}, "protocol.block_tokens is None, it must be"),
        ({"protocol": 3}, "protocol is 3, it must be a table of settings"),
        ({3: 4}, "an override is called 3, it must be a path"),
        ([("a", 1)], "they must be a dictionary"),
        ({"": 1}, "must look like protocol.block_tokens=128"),
        ({"run..seed": 1}, "must look like protocol.block_tokens=128"),
        ({"run.seed": object()}, "run.seed is <object"),
    ],
)
def test_what_only_python_can_say_wrongly_is_refused_too(overrides: object, said: str) -> None:
    with pytest.raises(bl.UserError) as refused:
        bl.load("quickstart", overrides)  # type: ignore[arg-type]
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


# --- runs ----------------------------------------------------------------------------------------------------------


def test_a_run_is_the_one_of_the_command(folder: Path) -> None:
    kept = bl.simulate("quickstart", SMALL, protocol={"sizing": {"tokens": 2048}}, seed=7, replications=2)
    options = ["--set", "workload.requests=40", "--set", "protocol.sizing.tokens=2048", "--seed", 7]
    assert command("sim", "quickstart", *options, "--replications", 2, "--out", "by-command") == 0
    for name in ("requests.parquet", "events.parquet", "config.toml"):
        assert (kept.path / name).read_bytes() == (folder / "by-command" / name).read_bytes(), name
    written = bl.simulate(kept.config, out="by-python")
    assert sorted(os.listdir("by-python/plots")) == sorted(os.listdir("by-command/plots"))  # noqa: PTH208
    assert (written.path / "requests.parquet").read_bytes() == (folder / "by-command/requests.parquet").read_bytes()
    ours, theirs = dict(written.content), dict(bl.read("by-command").content)
    for told in (ours, theirs):
        del told["wall_s"], told["requests_per_wall_s"]
    assert ours == theirs


def test_a_run_has_tables_with_units(run: bl.Run) -> None:
    summary = run.summary
    p99 = run.content["latency_s"]["p99"]
    assert summary.loc["latency_s.p99", "value"] == p99["value"]
    assert summary.loc["requests.offered", "value"] == 40 * run.config.run.replications
    assert run.table is summary
    requests = run.requests
    assert len(requests) == summary.loc["requests.offered", "value"]
    assert {"arrival_s", "delivered_s", "total_tokens"} <= set(requests.columns)
    latencies = (requests["delivered_s"] - requests["arrival_s"]).iloc[run.config.run.warmup_requests :]
    if run.config.run.replications == 1 and run.config.run.warmup_requests == 0:
        assert np.quantile(latencies, 0.5) == pytest.approx(summary.loc["latency_s.p50", "value"], rel=0.1)
    assert {"time_s", "room", "event", "bytes"} <= set(run.events.columns)


def test_without_a_place_a_run_goes_with_its_object() -> None:
    run = bl.simulate("quickstart", SMALL, events=False)
    path = run.path
    assert path.is_dir()
    with pytest.raises(bl.UserError, match="kept no events"):
        run.events  # noqa: B018
    del run
    assert not path.exists()
    assert list(path.parent.parent.glob(f"{path.parent.name}*")) == []


def test_a_place_that_is_taken_is_not_written_over(folder: Path) -> None:
    first = bl.simulate("quickstart", SMALL, out=folder / "run", plots=False)
    said = "out is .*, which holds a finished run; give a new folder, or force=True to replace it"
    for other in ({"seed": 7}, {"replications": 2}, {"plots": True}, {"timeline": True}):
        with pytest.raises(bl.UserError, match=said):
            bl.simulate("quickstart", SMALL, out=folder / "run", **{"plots": False, **other})  # type: ignore[arg-type]
    wrote = (folder / "run" / "summary.json").stat()
    again = bl.simulate("quickstart", SMALL, out=folder / "run", plots=False)  # as when a cell is run twice
    assert again.content == first.content
    assert (folder / "run" / "summary.json").stat() == wrote
    environment = json.loads((folder / "run" / "environment.json").read_text())
    (folder / "run" / "environment.json").write_text(json.dumps({**environment, "code": "other"}))
    with pytest.raises(bl.UserError, match=said):
        bl.simulate("quickstart", SMALL, out=folder / "run", plots=False)
    assert bl.simulate("quickstart", SMALL, out=folder / "run", plots=False, force=True).path == folder / "run"
    assert (folder / "run" / "summary.json").stat() != wrote
    with pytest.raises(bl.UserError, match="force has no effect without out"):
        bl.simulate("quickstart", SMALL, force=True)
    # What was replaced is not mixed with what is there now.
    current = bl.read(folder / "run", bl.Run)
    gone = "is no longer there: it was replaced or removed since"
    for use in (lambda: first.events, lambda: bl.paired(first, current), first._repr_html_):
        with pytest.raises(bl.UserError, match=gone):
            use()
    assert first.content["requests"] == current.content["requests"]


def test_it_is_silent_unless_asked(capfd: pytest.CaptureFixture[str]) -> None:
    bl.simulate("quickstart", SMALL)
    assert capfd.readouterr() == ("", "")


def test_a_run_is_shown_in_words(run: bl.Run) -> None:
    assert repr(run).startswith("Run('quickstart', simulated over ")
    assert "\n" not in repr(run)
    shown = run._repr_html_()
    assert "requests were served" in shown
    assert "p99 latency" in shown
    assert shown.count("<table>") == 1


def test_names_of_users_are_escaped_where_they_are_shown() -> None:
    config = bl.load("quickstart", SMALL)
    policy = Path("<i>x.py")
    policy.write_text(
        "from bufferlab.protocol.sizing import RequestView, SizingPolicy\n\n\n"
        "class Mine(SizingPolicy):\n    def first_tokens(self, view: RequestView) -> int:\n        return 1024\n"
    )
    shown = bl.simulate(config, {"protocol.sizing": {"policy": f"{policy}:Mine"}})._repr_html_()
    assert "&lt;i&gt;x.py" in shown
    assert "<i>" not in shown


def test_pictures_are_drawn_on_axes_that_are_given_or_made(run: bl.Run) -> None:
    from matplotlib import pyplot

    _, axes = pyplot.subplots()
    for draw in (run.plot.ecdf, run.plot.tail, run.plot.pools):
        axes.clear()
        assert draw(ax=axes) is axes
        made = draw()
        assert made is not axes
        assert made.get_xlabel()
        assert made.lines or made.collections
    middle = run.plot.ecdf(ax=pyplot.subplots()[1]).lines[0].get_xdata()
    latencies = run.requests["delivered_s"] - run.requests["arrival_s"]
    assert latencies.min() <= np.median(np.asarray(middle)) <= latencies.max()
    assert bl.simulate(run.config).plot.ecdf().lines  # although nobody keeps the run
    pyplot.close("all")


def test_a_run_has_its_page_and_its_timeline(run: bl.Run, folder: Path) -> None:
    page = run.report(folder / "run.html")
    assert page == folder / "run.html"
    assert "requests were served" in page.read_text(encoding="utf-8")
    trace = run.timeline(folder / "timeline.json")
    assert '"traceEvents"' in trace.read_text(encoding="utf-8")


# --- sweeps and comparisons ----------------------------------------------------------------------------------------


def test_a_sweep_is_the_one_of_the_command(sweep: bl.Sweep, folder: Path) -> None:
    options = ["--grid", "protocol.sizing.tokens=512,2048", "--set", "workload.requests=40", "--replications", 3]
    assert command("sweep", "ustudy", *options, "--jobs", 1, "--out", "by-command", "--no-plots") == 0
    for name in ("sweep.parquet", "quantiles.parquet"):
        assert (sweep.path / name).read_bytes() == (folder / "by-command" / name).read_bytes(), name
    assert sweep.content["plan"] == bl.read("by-command", bl.Sweep).content["plan"]


def test_a_sweep_has_tables(sweep: bl.Sweep) -> None:
    assert sweep.table[["configuration", "replication"]].to_numpy().tolist() == [
        [a, b] for a in (1, 2) for b in range(3)
    ]
    summary = sweep.summary
    assert summary["protocol.sizing.tokens"].tolist() == [512, 2048]
    mean = sweep.table.groupby("configuration")["latency_s.mean"].mean()
    assert summary["latency_s.mean"].to_numpy() == pytest.approx(mean.to_numpy())
    assert (summary["latency_s.mean.low"] <= summary["latency_s.mean"]).all()
    assert set(sweep.quantiles.columns) >= {"share", "latency_s", "transfer_s"}


def test_a_sweep_goes_on_in_its_folder(folder: Path) -> None:
    arguments = {"grid": {"protocol.sizing.tokens": [512, 1024]}, "workload": {"requests": 20}, "out": folder / "sweep"}
    first = bl.sweep("ustudy", **arguments, replications=2, jobs=1, plots=False)  # type: ignore[arg-type]
    more = bl.sweep("ustudy", **arguments, replications=3, jobs=1, plots=False)  # type: ignore[arg-type]
    assert len(more.table) == 6
    pd.testing.assert_frame_equal(first.table, more.table[more.table["replication"] < 2].reset_index(drop=True))


def test_settings_that_belong_together_are_listed() -> None:
    listed = [
        {"protocol": {"sizing": {"tokens": 512}}, "language.tp": 1},
        {"protocol.sizing.tokens": 1024, "language.tp": 2},
    ]
    sweep = bl.sweep("ustudy", configurations=listed, workload={"requests": 10}, replications=1, jobs=1)
    assert sweep.table[["protocol.sizing.tokens", "language.tp"]].to_numpy().tolist() == [[512, 1], [1024, 2]]


def test_a_wrong_grid_is_refused_before_anything_runs() -> None:
    with pytest.raises(bl.UserError, match=r"configuration 2 \(protocol.sizing.tokens=-1\)"):
        bl.sweep("ustudy", {"protocol.sizing.tokens": [512, -1]})
    with pytest.raises(bl.UserError, match="no configurations"):
        bl.sweep("ustudy", {})


def test_a_sweep_is_shown_and_drawn(sweep: bl.Sweep, folder: Path) -> None:
    from matplotlib import pyplot

    assert repr(sweep) == "Sweep('ustudy': 2 configurations × 3 replications of protocol.sizing.tokens)"
    shown = sweep._repr_html_()
    assert "512" in shown
    assert shown.count("<tr>") == 3
    _, axes = pyplot.subplots()
    for draw in (sweep.plot.u_shape, sweep.plot.tradeoff, sweep.plot.ecdf, sweep.plot.tail):
        axes.clear()
        assert draw(ax=axes) is axes
        assert draw().get_xlabel()
    drawn = sweep.plot.u_shape(figure="latency_s.mean", relative=True)
    assert "above the lowest" in drawn.get_ylabel()
    pyplot.close("all")
    assert "ustudy" in sweep.report(folder / "sweep.html").read_text(encoding="utf-8")


def test_a_comparison_is_the_one_of_the_command(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = bl.simulate("quickstart", SMALL, out="first", plots=False)
    second = bl.simulate(first.config, {"protocol.sizing.tokens": 512}, out="second", plots=False)
    capfd.readouterr()
    assert command("paired", "first", "second", "--json") == 0
    told = json.loads(capfd.readouterr().out)
    for made in (bl.paired(first, second), bl.paired("first", folder / "second")):
        ours = json.loads(json.dumps(made.content))
        assert {**ours, "first": "first", "second": "second"} == told
    difference = told["differences"]["latency_s"]["p99"]
    row = made.table.loc["latency_s.p99"]
    assert (row["first"], row["second"], row["difference"]) == (
        difference["first"], difference["second"], difference["value"],
    )  # fmt: skip
    assert row["difference"] == pytest.approx(row["second"] - row["first"])
    assert repr(made).startswith("Paired(")
    assert "protocol.sizing.tokens is" in made._repr_html_()
    assert made.plot.ecdf().get_legend() is not None
    assert "Compared" in made.report(folder / "both.html").read_text(encoding="utf-8")


def test_other_requests_are_not_compared(run: bl.Run) -> None:
    with pytest.raises(bl.UserError, match="must have the same requests"):
        bl.paired(run, bl.simulate("quickstart", SMALL, seed=99))


# --- tunings, validations and measured runs -------------------------------------------------------------------------


SPACE = {"protocol.sizing.policy": ["fixed"], "protocol.sizing.tokens": [128, 2048], "protocol.block_tokens": [128]}


@pytest.fixture(scope="module")
def tuning() -> bl.Tuning:
    return bl.tune(
        "quickstart",
        space=SPACE,
        overrides=SMALL,
        slo={"ttft_p99": 100.0},
        seed=3,
        replications=4,
        certainty=0.9,
        jobs=1,
    )


def without_times(path: Path) -> dict[str, object]:
    told: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    del told["wall_s"]
    return told


def test_a_tuning_is_the_one_of_the_command(tuning: bl.Tuning, folder: Path) -> None:
    options = ["--slo", "ttft_p99=100.0s"]
    for field, values in SPACE.items():
        options += ["--space", f"{field}={','.join(map(str, values))}"]
    options += ["--certainty", "0.9", "--set", "workload.requests=40", "--seed", "3", "--replications", "4"]
    assert command("tune", "quickstart", *options, "--jobs", 1, "--out", "by-command", "--no-plots") == 0
    assert (tuning.path / "ledger.parquet").read_bytes() == (folder / "by-command" / "ledger.parquet").read_bytes()
    assert (tuning.path / "config.toml").read_bytes() == (folder / "by-command" / "config.toml").read_bytes()
    theirs = without_times(folder / "by-command" / "tune.json")
    ours = without_times(tuning.path / "tune.json")
    assert sorted(shlex.split(ours["commands"][0])) == sorted(shlex.split(theirs["commands"][0]))  # type: ignore[index]
    del ours["commands"], theirs["commands"]
    assert ours == theirs


def test_the_command_of_a_tuning_asks_the_same(tuning: bl.Tuning, folder: Path) -> None:
    bufferlab, *arguments = shlex.split(tuning.content["commands"][0])
    assert bufferlab == "bufferlab"
    assert command(*arguments, "--jobs", 1, "--out", "again", "--no-plots") == 0
    assert without_times(folder / "again" / "tune.json") == without_times(tuning.path / "tune.json")


def test_a_tuning_of_a_configuration_is_that_of_its_name(tuning: bl.Tuning) -> None:
    config = bl.load("quickstart", SMALL)
    made = bl.tune(config, space=SPACE, slo={"ttft_p99": 100.0}, seed=3, replications=4, certainty=0.9, jobs=1)
    assert without_times(made.path / "tune.json") == without_times(tuning.path / "tune.json")
    unsayable = bl.load("quickstart", {"workload.requests": 20, "encode.batch_requests": None})
    silent = bl.tune(unsayable, space=SPACE, replications=4, jobs=1)
    assert not [one for one in silent.content["commands"] if one.startswith("bufferlab tune")]


def test_a_tuning_is_shown_and_its_setting_can_be_run(tuning: bl.Tuning, folder: Path) -> None:
    from matplotlib import pyplot

    assert repr(tuning).startswith("Tuning('quickstart': ")
    assert "set aside" in tuning._repr_html_()
    assert tuning.content["sure"].removeprefix("How sure: ")[:30] in tuning._repr_html_()
    assert tuning.text == (tuning.path / "answer.txt").read_text(encoding="utf-8").rstrip("\n")
    table = tuning.table
    assert table.loc[tuning.content["chosen"], "state"] == "kept"
    assert {"memory_bytes", "latency_s.p99", "latency_s.p99.low", "difference"} <= set(table.columns)
    assert tuning.recommended.protocol.sizing.tokens == tuning.recommendation["protocol.sizing.tokens"]
    assert set(tuning.changes.items()) <= set(tuning.recommendation.items())
    assert bl.simulate(tuning.recommended, replications=1).content["requests"]["succeeded"] == 40
    assert tuning.plot.u_shape().get_xlabel() == "default allocation (tokens)"
    assert tuning.plot.front().lines
    pyplot.close("all")
    assert "Where to set it" in tuning.report(folder / "tune.html").read_text(encoding="utf-8")


def test_a_log_of_traffic_is_tuned_for(folder: Path) -> None:
    rows = [f"{number / 4},{500 + 300 * (number % 5)}" for number in range(40)]
    (folder / "mine.csv").write_text("arrival_s,total_tokens\n" + "\n".join(rows) + "\n")
    made = bl.tune(Path("mine.csv"), space={"protocol.sizing.tokens": [512, 2048]}, memory=4 << 30, jobs=1)
    assert made.today.workload.file == str(folder / "mine.csv")
    assert made.content["budget_bytes"] == 4 << 30


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objective": "latncy"}, "objective is 'latncy'"),
        ({"slo": {"ttft_p99": "soon"}}, "slo is 'ttft_p99=soon'"),
        ({"space": {"protocol.sizing.tokens": [1024, 1024]}}, "space has protocol.sizing.tokens=1024 twice"),
        ({"memory": "4Gib"}, "memory is '4Gib'"),
        ({"overrides": {"run.replications": 4}}, "which a tune decides for itself"),
        ({"jobs": 2, "executor": "dask", "address": "127.0.0.1:1"}, "jobs has no effect with address"),
    ],
)
def test_what_a_tune_cannot_be_asked_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(bl.UserError) as refused:
        bl.tune("quickstart", **options)  # type: ignore[arg-type]
    assert said in str(refused.value)


def test_options_are_written_as_a_user_would(folder: Path) -> None:
    from bufferlab.experiments.sweeps.grid import as_option, parse_grid

    values = [1, 2.5, True, "fixed", "4", "a,b", "true", "it's", [1, 2], " x ", "4GiB", 0.1]
    assert as_option("x.y", ["fixed", 512]) == "x.y=fixed,512"
    assert parse_grid([as_option("x.y", values)]) == {"x.y": values}


@pytest.fixture(scope="module")
def validation(run: bl.Run) -> bl.Validation:
    return bl.validate(run, "tcp-loopback")


def test_a_validation_is_the_one_of_the_command(run: bl.Run, folder: Path) -> None:
    ours = bl.validate([run], "cx7-400g", max_error={"p50": 0.05}, out=folder / "by-python")
    options = ["--profile", "cx7-400g", "--max-error", "p50=0.05", "--out", "by-command"]
    assert command("validate", run.path, *options) == (0 if ours.passed else 1)
    for name in ("validation.json", "cases.csv", "figures/qq.png", "figures/errors.png"):
        assert (folder / "by-python" / name).read_bytes() == (folder / "by-command" / name).read_bytes(), name


def test_a_validation_is_shown_and_drawn(validation: bl.Validation, folder: Path) -> None:
    from matplotlib import pyplot

    assert validation.passed
    assert validation.misses == []
    (case,) = validation.table.index
    assert validation.table.loc[case, "p50_bias"] == 0.0
    assert repr(validation).startswith("Validation('tcp-loopback': 5 repeats of 1 case, ")
    assert "measured run" in validation._repr_html_()
    page = validation.report(folder / "validation.html").read_text(encoding="utf-8")
    for shown in (validation._repr_html_(), page):
        assert "\u00a0pp" not in shown, "a bias is relative to what was measured, no difference of two shares"
    assert "no misses" in validation.text
    for axes in (validation.plot.qq(), validation.plot.qq(case=case), validation.plot.errors(figure="p50")):
        assert axes.get_xlabel()
    with pytest.raises(bl.UserError, match="case is 'nothing'"):
        validation.plot.qq(case="nothing")
    pyplot.close("all")
    read = bl.read(validation.path, bl.Validation)
    assert read.content == validation.content
    assert "1 case" in validation.report(folder / "validation.html").read_text(encoding="utf-8")


@pytest.mark.real
def test_a_configuration_is_measured_as_by_the_command(folder: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed (extra real-socket)")
    pytest.importorskip("zmq", reason="pyzmq is not installed (extra real-socket)")
    pytest.importorskip("aiohttp", reason="aiohttp is not installed (extra real-socket)")
    config = bl.load("seed-resume", workload={"requests": None})
    run = bl.measure(config, transport="socket")
    assert run.kind == "real"
    assert run.content["transport"] == "socket"
    assert run.requests["status"].eq("Success").all()
    simulated = bl.simulate(config)
    assert run.requests["total_tokens"].tolist() == simulated.requests["total_tokens"].tolist()
    assert bl.read(run.path, bl.Run).kind == "real"
    assert "measured over" in repr(run)


@pytest.mark.parametrize("call", [bl.simulate, bl.measure])
def test_options_that_would_have_no_effect_are_refused(call: Callable[..., bl.Run]) -> None:
    with pytest.raises(bl.UserError, match="timeline has no effect without out"):
        call("quickstart", timeline=True)
    with pytest.raises(bl.UserError, match="timeline is drawn of the events"):
        call("quickstart", timeline=True, events=False, out="x")


def test_a_device_without_a_use_is_refused() -> None:
    with pytest.raises(bl.UserError, match="device is 'mlx5_0', which has no effect with the transport tcp"):
        bl.measure("quickstart", device="mlx5_0", transport="tcp")


def test_a_measured_run_that_met_trouble_hands_out_what_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    from bufferlab.experiments.runs import measure
    from bufferlab.experiments.runs.simulate import run_sim

    def troubled(config: object, target: object, **options: object) -> None:
        raise bl.RunFaultedError("a rank died", run_sim(config, target))  # type: ignore[arg-type]

    monkeypatch.setattr(measure, "run_measured", troubled)
    with pytest.raises(bl.RunFaultedError, match="a rank died") as met:
        bl.measure("quickstart", SMALL)
    assert isinstance(met.value.run, bl.Run)
    assert met.value.run.content["requests"]["succeeded"] > 0


def test_the_lines_of_the_readme_run(folder: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("### From Python\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"(?ms)^```python\n(.*?)^```", section)
    assert len(code.splitlines()) <= 10
    from matplotlib import pyplot

    made: dict[str, object] = {}
    exec(code, made)
    pyplot.close("all")
    assert isinstance(made["run"], bl.Run)
    assert isinstance(made["sweep"], bl.Sweep)
    assert (folder / "runs" / "from-python" / "requests.parquet").is_file()


# --- reading -------------------------------------------------------------------------------------------------------


def test_reading_finds_out_what_there_is(run: bl.Run, sweep: bl.Sweep, folder: Path) -> None:
    assert isinstance(bl.read(run.path), bl.Run)
    assert isinstance(bl.read(str(sweep.path)), bl.Sweep)
    assert bl.read(run.path, bl.Run).summary.equals(run.summary)
    with pytest.raises(bl.UserError, match="holds a Run, it must be a Sweep"):
        bl.read(run.path, bl.Sweep)
    with pytest.raises(bl.UserError, match="must be the directory of a finished run"):
        bl.read(folder)
