"""The page of ``bufferlab report``: its numbers are those of the files, and nothing in it can do harm or needs a network."""

import base64
import csv
import io
import json
import re
import shutil
import urllib.parse
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.reports.command import default_place, write_report
from bufferlab.experiments.reports.readings import BESIDE, interval_text, kind_of, shown, value_text
from bufferlab.experiments.reports.validations import TONES
from bufferlab.experiments.runs.paired import compare_paired
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.experiments.sweeps.plan import make_plan
from bufferlab.experiments.sweeps.sweep import run_sweep
from bufferlab.experiments.validation.command import validate
from bufferlab.experiments.workloads.loading import load
from tests.experiments.conftest import Command
from tests.experiments.test_resampling import traffic, write

STYLE = Path(__file__).parents[2] / "bufferlab" / "experiments" / "reports" / "templates" / "report.css"
HARM = "<script>alert(1)</script>"


class Tags(HTMLParser):
    """Every tag of a page with its attributes, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self.scripts += tag == "script"

    handle_startendtag = handle_starttag


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "run"
    run_sim(load("quickstart", ["workload.requests=60", "run.replications=3"]), folder)
    return folder


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "failed"
    run_sim(load("seed-failure"), folder)
    return folder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "sweep"
    grid = {"protocol.sizing.tokens": [128, 2048, 8192], "protocol.discipline": ["window", "exact_announce"]}
    plan = make_plan("ustudy", grid=grid, settings=["workload.requests=40", "run.replications=3"])
    run_sweep(plan, folder, jobs=1)
    return folder


@pytest.fixture(scope="module")
def of_file(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of a file with three resamples, a sweep of it, and one of the file and of drawn requests."""
    folder = tmp_path_factory.mktemp("of-file")
    file = f"workload.file={write(folder / 'mine.csv', traffic(250))}"
    run_sim(load("quickstart", [file, "run.replications=4"]), folder / "run", events=False)
    grid = {"protocol.sizing.tokens": [1024, 8192]}
    plan = make_plan("quickstart", grid=grid, settings=[file, "run.replications=4"])
    run_sweep(plan, folder / "sweep", jobs=1, plots=False)
    both = [
        {one.partition("=")[0]: value, "protocol.sizing.tokens": tokens}
        for one, value in ((file, file.partition("=")[2]), ("workload.requests=60", 60))
        for tokens in (1024, 8192)
    ]
    plan = make_plan("quickstart", configurations=both, settings=["run.replications=4"])
    run_sweep(plan, folder / "mixed", jobs=1, plots=False)
    return {name: folder / name for name in ("run", "sweep", "mixed")}


def made(folder: Path, out: Path) -> str:
    write_report([folder], out)
    return out.read_text(encoding="utf-8")


def at(content: Any, path: str) -> Any:
    """What stands at a path, in which numbers count the places of a list; names may have dots in them."""
    if not path:
        return content
    if isinstance(content, list):
        first, _, rest = path.partition(".")
        return at(content[int(first)], rest)
    name = max((one for one in content if path == one or path.startswith(f"{one}.")), key=len)
    return at(content[name], path[len(name) + 1 :])


def number(text: str | None) -> float | None:
    return None if text is None else float(text)


def check_numbers(text: str, content: Any) -> int:
    """Every cell that says where its number stands carries that very number; how many there are."""
    found = 0
    for _, attributes in Tags(text).tags:
        if "data-path" not in attributes:
            continue
        there = at(content, attributes["data-path"])
        value, low, high = (number(attributes.get(f"data-{name}")) for name in ("value", "low", "high"))
        if isinstance(there, dict):
            assert (value, low, high) == (there["value"], there["low"], there["high"]), attributes["data-path"]
        else:
            assert value == there, attributes["data-path"]
        found += 1
    return found


# --- its numbers ---


def test_the_numbers_of_a_run_are_those_of_its_summary(run: Path, tmp_path: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert check_numbers(made(run, tmp_path / "r.html"), summary) > 40


def test_the_numbers_of_a_sweep_are_those_of_its_file(sweep: Path, tmp_path: Path) -> None:
    content = json.loads((sweep / "sweep.json").read_text())
    assert check_numbers(made(sweep, tmp_path / "r.html"), content) > 100


def test_a_run_in_which_everything_failed_has_its_reasons(failed: Path, tmp_path: Path) -> None:
    text = made(failed, tmp_path / "r.html")
    summary = json.loads((failed / "summary.json").read_text())
    assert check_numbers(text, summary) > 10
    assert "The one request was not served. The most frequent reason" in text
    assert next(iter(summary["failures"])) in text


def test_a_file_of_a_table_has_every_digit(run: Path, tmp_path: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    text = made(run, tmp_path / "r.html")
    rows = next(
        list(csv.DictReader(io.StringIO(decoded(attributes["href"]))))
        for tag, attributes in Tags(text).tags
        if tag == "a" and attributes.get("download") == "figures.csv"
    )
    told = {row["path"]: (row["value"], row["value_low"], row["value_high"]) for row in rows}
    p99 = summary["latency_s"]["p99"]
    assert told["latency_s.p99"] == tuple(repr(p99[name]) for name in ("value", "low", "high"))


def decoded(address: str) -> str:
    head, _, content = address.partition(",")
    assert head.startswith("data:")
    assert head.endswith(";base64")
    return base64.b64decode(urllib.parse.unquote(content)).decode()


@given(st.floats(1e-6, 1e4), st.floats(1e-4, 2.0))
def test_a_number_is_shown_as_closely_as_its_interval_knows_it(value: float, width: float) -> None:
    half = value * width
    estimate = {"value": value, "low": value - half, "high": value + half}
    text = value_text(estimate, "time")
    figure, unit = text.split(BESIDE)
    read = float(figure.replace(",", "")) / {"s": 1, "ms": 1e3, "µs": 1e6}[unit]
    # To two digits of the half width, or to five of its own where the interval is narrower than that.
    assert abs(read - value) <= max(0.051 * half, 0.51e-4 * value) * 1.01
    low, high = interval_text(estimate, "time").removesuffix(f"{BESIDE}{unit}").split(f"{BESIDE}…{BESIDE}")
    assert float(high.replace(",", "")) >= float(low.replace(",", "").replace("−", "-")) >= 0


@pytest.mark.parametrize(
    ("path", "kind"),
    [("latency_s.p99", "time"), ("language_pool.blocked_s", "time"), ("throughput_rps", "rate"), ("resume.rate", "share"),
     ("configurations.3.utilisation.prefill", "share"), ("configurations.0.differences.latency_s.p99", "time"),
     ("resume.mean_chunks", "number"), ("slo.all", "share"), ("encode_pool.wasted_fraction", "share")],
)  # fmt: skip
def test_the_path_of_a_figure_tells_its_unit(path: str, kind: str) -> None:
    assert kind_of(path) == kind


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [(0.0253, "time", "25.3 ms"), (1234.5, "time", "1234 s"), (0.5, "share", "50.0 %"), (None, "time", "–"),
     (3.2e-7, "time", "0.320 µs"), (2.0 * 2**30, "bytes", "2.00 GiB"), (0.0, "time", "0 s"),
     (-2.7e-18, "time", "0 µs"), (2.7e-17, "share", "0 %")],
)  # fmt: skip
def test_a_number_without_an_interval_has_three_digits(value: float | None, kind: str, text: str) -> None:
    assert shown(value, kind).replace(BESIDE, " ") == text


# --- what it says ---


def test_an_overload_is_said_first_and_names_the_stage(tmp_path: Path) -> None:
    settings = ["workload.requests=200", "workload.rate_rps=80", "run.replications=2"]
    run_sim(load("quickstart", settings), tmp_path / "over", events=False)
    text = made(tmp_path / "over", tmp_path / "r.html")
    assert text.index("over capacity") < text.index("<h2")
    assert "Prefill holds the others up" in text


def test_a_sweep_says_which_is_lowest_and_what_cannot_be_told_from_it(sweep: Path, tmp_path: Path) -> None:
    content = json.loads((sweep / "sweep.json").read_text())
    (found,) = [one for one in content["lowest"] if one["figure"] == "latency_s.p99"]
    best = next(one for one in content["configurations"] if one["configuration"] == found["configuration"])
    text = made(sweep, tmp_path / "r.html")
    lead = re.search(r'<p class="lead">(.*?)</p>', text)
    assert lead is not None
    assert f"tokens {best['settings']['protocol.sizing.tokens']:,}" in lead[1]
    told = "None of the others" if len(found["possibly"]) == len(found["of"]) else "It cannot be told from"
    assert ("It is told from all others" if len(found["possibly"]) == 1 else told) in lead[1]
    # The key of a picture has the marks that are in it.
    for title, figure in (("p99 latency", "latency_s.p99"), ("mean latency", "latency_s.mean")):
        for one in [one for one in content["lowest"] if one["figure"] == figure]:
            pictures = re.findall(rf"<svg [^>]*><title>{title}</title>.*?</svg>", text, re.DOTALL)
            shape = [picture for picture in pictures if "default allocation" in picture and "<rect" not in picture]
            for picture in shape:
                assert (">higher</text>" in picture) == (len(one["possibly"]) < len(one["of"]))
                assert (">may be the lowest</text>" in picture) == (len(one["possibly"]) > 1)
            assert shape or figure == "latency_s.mean"


def test_the_command_of_the_page_repeats_the_run(run: Path, tmp_path: Path, bufferlab: Command) -> None:
    text = made(run, tmp_path / "r.html")
    found = re.search(r"<code>bufferlab (sim .*?)</code>", text)
    assert found is not None
    words = found[1].split()
    words[-1] = str(tmp_path / "again")
    assert bufferlab(*words).status == 0
    assert (tmp_path / "again" / "requests.parquet").read_bytes() == (run / "requests.parquet").read_bytes()


def test_the_files_of_the_page_repeat_the_sweep(sweep: Path, tmp_path: Path, bufferlab: Command) -> None:
    text = made(sweep, tmp_path / "r.html")
    for tag, attributes in Tags(text).tags:
        if tag == "a" and attributes.get("download", "").endswith(".toml"):
            Path(attributes["download"]).write_text(decoded(attributes["href"]), encoding="utf-8")
    found = re.search(r"<code>bufferlab (sweep .*?)</code>", text)
    assert found is not None
    words = found[1].split()
    words[-1] = str(tmp_path / "again")
    done = bufferlab(*words, "--no-plots")
    assert done.status == 0, done.err
    assert (tmp_path / "again" / "sweep.parquet").read_bytes() == (sweep / "sweep.parquet").read_bytes()


# --- what it is made of ---


@pytest.mark.parametrize("which", ["run", "failed", "sweep"])
def test_a_page_is_whole_and_loads_nothing(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    text = made(request.getfixturevalue(which), tmp_path / "r.html")
    tags = Tags(text).tags
    policy = next(one["content"] for tag, one in tags if tag == "meta" and "Content-Security-Policy" in str(one))
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for tag, attributes in tags:
        for name in ("src", "href", "action", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert not re.search(r"https?://|@import|url\(", re.sub(r"base64,[\w+/=]*", "", text))


@pytest.mark.parametrize("which", ["run", "failed", "sweep"])
def test_a_page_can_be_read_without_eyes(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    text = made(request.getfixturevalue(which), tmp_path / "r.html")
    tags = Tags(text).tags
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    names = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(names) == len(set(names))
    for picture in re.findall(r"<svg .*?</svg>", text, re.DOTALL):
        tree = ElementTree.fromstring(picture)
        assert tree.get("role") == "img"
        assert tree[0].tag == "title"
        assert tree[1].tag == "desc"
        assert tree[0].text
        assert len(tree[1].text or "") > 20
    for table in re.findall(r"<table.*?</table>", text, re.DOTALL):
        assert "<caption>" in table
        assert table.count('aria-sort="none"') == table.count('scope="col"') == table.count("<button") > 0


def test_a_picture_is_a_file_of_its_own(sweep: Path, tmp_path: Path) -> None:
    text = made(sweep, tmp_path / "r.html")
    files = [one["href"] for tag, one in Tags(text).tags if tag == "a" and one.get("download", "").endswith(".svg")]
    assert len(files) >= 8
    for address in files:
        picture = decoded(address)
        assert ElementTree.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in picture


def test_the_same_files_give_the_same_page(sweep: Path, tmp_path: Path) -> None:
    assert made(sweep, tmp_path / "a.html") == made(sweep, tmp_path / "b.html")


def test_a_large_sweep_is_a_small_file(sweep: Path, tmp_path: Path) -> None:
    """64 configurations with ten replications: made of one sweep's figures, since only their number matters here."""
    import pyarrow as pa

    folder = tmp_path / "large"
    shutil.copytree(sweep, folder)
    content = json.loads((folder / "sweep.json").read_text())
    first = content["configurations"][0]
    content["configurations"] = [
        {**content["configurations"][number % 6], "configuration": number + 1,
         "settings": {**first["settings"], "protocol.sizing.tokens": 128 * (1 + number % 32),
                      "protocol.discipline": ["window", "exact_announce"][number // 32]}}
        for number in range(64)
    ]  # fmt: skip
    content["plan"] |= {"replications": 10, "configurations": 64}
    (folder / "sweep.json").write_text(json.dumps(content))
    table = pq.read_table(folder / "quantiles.parquet")
    part = table.slice(0, 202)
    parts = [
        part.set_column(0, "configuration", pa.array([number + 1] * 202, pa.int32()))
        for number in range(64)
        for _ in range(10)
    ]
    pq.write_table(pa.concat_tables(parts), folder / "quantiles.parquet")
    assert len(made(folder, tmp_path / "r.html")) < 2_000_000


def test_a_long_run_is_no_larger_a_file(tmp_path: Path) -> None:
    sizes = []
    for requests in (300, 1500):
        run_sim(load("quickstart", [f"workload.requests={requests}", "run.replications=1"]), tmp_path / str(requests))
        sizes.append(len(made(tmp_path / str(requests), tmp_path / "r.html")))
    assert sizes[1] < 1.3 * sizes[0] < 500_000


# --- harm ---


def test_names_and_reasons_are_shown_and_never_run(run: Path, sweep: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a<script>alert(1)<"
    shutil.copytree(run, folder)
    summary = json.loads((folder / "summary.json").read_text())
    summary["failures"] = {HARM: 3, '"><img src=x onerror=alert(1)>': 2}
    summary["requests"] |= {"failed": 5, "succeeded": summary["requests"]["offered"] - 5, "not_served": 5}
    summary["faults"] = [HARM]
    summary["capacity"]["sentence"] = HARM
    summary["workload"] = {"sentence": f"workload: 60 requests of {HARM}.csv", "notes": [HARM]}
    summary["transport"] = HARM
    (folder / "summary.json").write_text(json.dumps(summary))
    environment = json.loads((folder / "environment.json").read_text())
    environment["inputs"] = {HARM: HARM}
    environment["host"]["cpu"] = HARM
    (folder / "environment.json").write_text(json.dumps(environment))
    other = tmp_path / "sweep"
    shutil.copytree(sweep, other)
    content = json.loads((other / "sweep.json").read_text())
    content["plan"]["name"] = HARM
    content["plan"]["workloads"][0]["sentence"] = HARM
    for one in content["configurations"]:
        one["settings"]["protocol.discipline"] += HARM
    (other / "sweep.json").write_text(json.dumps(content))
    for where in (folder, other):
        text = made(where, tmp_path / "r.html")
        assert "&lt;script&gt;alert(1)" in text
        assert Tags(text).scripts == 1
        assert not any(tag == "img" or "onerror" in attributes for tag, attributes in Tags(text).tags)
        files = [decoded(one["href"]) for tag, one in Tags(text).tags if one.get("download", "").endswith(".svg")]
        assert files
        for picture in files:
            assert "<script" not in picture
            ElementTree.fromstring(picture)


def test_a_text_is_no_formula_in_a_spreadsheet(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    summary = json.loads((folder / "summary.json").read_text())
    summary["failures"] = {'=HYPERLINK("x")': 1}
    (folder / "summary.json").write_text(json.dumps(summary))
    files = [
        decoded(one["href"])
        for _, one in Tags(made(folder, tmp_path / "r.html")).tags
        if one.get("download") == "failures.csv"
    ]
    assert '"\'=HYPERLINK(""x"")",1' in files[0]


# --- what is refused ---


def refused() -> Iterator[tuple[str, str]]:
    yield "nothing", "RUN is 'it', it must be the directory of a finished run, sweep, validation or tuning"
    yield "not JSON", "RUN is 'it', whose summary.json is not JSON"
    yield "a list", "RUN is 'it', whose summary.json was not written by bufferlab"
    yield "foreign", "RUN is 'it', whose summary.json was not written by bufferlab"
    yield "older", "RUN is 'it', whose summary.json is of an older version: it has no utilisation; run it again"
    yield "newer", "RUN is 'it', whose summary.json has the schema bufferlab-summary/9, it must be bufferlab-summary/1"
    yield "unfinished", "RUN is 'it', a sweep that is not finished; the command that began it goes on with it"
    yield "no requests", "RUN is 'it', whose requests.parquet cannot be read"
    yield "torn", "RUN is 'it', whose requests.parquet cannot be read"


@pytest.mark.parametrize(("what", "sentence"), list(refused()))
def test_what_is_no_result_is_refused_in_a_sentence(
    what: str, sentence: str, run: Path, sweep: Path, bufferlab: Command, folder: Path
) -> None:
    it = folder / "it"
    shutil.copytree(sweep if what == "unfinished" else run, it)
    path = it / ("sweep.json" if what == "unfinished" else "summary.json")
    content = json.loads(path.read_text())
    match what:
        case "nothing":
            path.unlink()
        case "not JSON":
            path.write_text("{")
        case "a list":
            path.write_text("[1]")
        case "foreign":
            path.write_text('{"answer": 42}')
        case "older":
            del content["utilisation"]
        case "newer":
            content["schema"] = "bufferlab-summary/9"
        case "unfinished":
            content["finished"] = False
        case "no requests":
            (it / "requests.parquet").unlink()
        case "torn":
            (it / "requests.parquet").write_bytes(b"PAR1")
    if what in {"older", "newer", "unfinished"}:
        path.write_text(json.dumps(content))
    ended = bufferlab("report", "it")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == f"bufferlab: {sentence}.\n"
    assert not list(folder.glob("*.html"))


def test_a_sweep_writes_the_page_about_it_itself(folder: Path, bufferlab: Command) -> None:
    small = ("sweep", "quickstart", "--set", "workload.requests=20", "--replications", 1, "--no-plots", "--grid",
             "protocol.sizing.tokens=512,1024", "--report", "--out", "s")  # fmt: skip
    (folder / "s.report.html").write_text("mine")
    refused = bufferlab(*small)
    assert (refused.status, (folder / "s").exists()) == (2, False), "before anything runs"
    assert "s.report.html" in refused.err
    (folder / "s.report.html").unlink()
    done = bufferlab(*small, "--json")
    assert (done.status, json.loads(done.out)["finished"]) == (0, True)
    assert done.err.splitlines()[-1].startswith("report: s.report.html (")
    page = (folder / "s.report.html").read_text()
    assert bufferlab("report", "s").status == 0
    assert (folder / "s.report.html").read_text() == page


@pytest.mark.parametrize(
    ("out", "sentence"),
    [("page.txt", "--out is 'page.txt', it must be the name of an .html file"),
     ("mine.html", "--out is 'mine.html', which is no report and would be lost; give another name"),
     ("file/page.html", "--out is 'file/page.html', it must be a file in a folder that can be written")],
)  # fmt: skip
def test_a_place_that_is_not_for_a_report_is_refused(out: str, sentence: str, run: Path, bufferlab: Command) -> None:
    Path("mine.html").write_text("<p>mine</p>")
    Path("file").write_text("")
    ended = bufferlab("report", run, "--out", out)
    assert (ended.status, ended.err) == (2, f"bufferlab: {sentence}.\n")
    assert Path("mine.html").read_text() == "<p>mine</p>"


def test_the_command_says_where_and_what(run: Path, bufferlab: Command, folder: Path) -> None:
    shutil.copytree(run, folder / "it")
    first, second = bufferlab("report", "it", "--json"), bufferlab("report", "it", "--json")
    content = json.loads(first.out)
    assert (first.status, second.out) == (0, first.out)  # a report of before is replaced
    assert content["report"] == "it.report.html"
    assert content["bytes"] == Path("it.report.html").stat().st_size
    assert content["sources"] == [{"path": "it", "kind": "sim"}]
    assert content["figures"] >= 4
    assert content["tables"] >= 3


def test_the_default_place_is_beside_the_first(folder: Path) -> None:
    assert default_place([Path("runs/a")]) == Path("runs/a.report.html")
    assert default_place([Path("a"), Path("b"), Path("c")]) == Path("a-and-2-more.report.html")
    assert default_place([Path()]) == folder.parent / f"{folder.name}.report.html"
    with pytest.raises(UserError, match="given twice"):
        write_report([Path("a"), folder / "a"])


# --- colours ---


def palettes() -> dict[str, dict[str, str]]:
    text = STYLE.read_text(encoding="utf-8")
    light, dark, paper = re.findall(r":root\{(.*?)\}", text, re.DOTALL)
    found = [dict(re.findall(r"--([\w-]+):(#\w+)", one)) for one in (light, dark, paper)]
    return {"light": found[0], "dark": found[0] | found[1], "print": found[0] | found[2]}


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * one for one in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", ["light", "dark", "print"])
def test_every_colour_can_be_read_on_what_it_stands_on(name: str) -> None:
    palette = palettes()[name]
    for ground in ("paper", "raised"):
        for words in ("ink", "muted", "link"):
            assert contrast(palette[words], palette[ground]) >= 4.5, (words, ground)
    for tone in ("good", "warn", "bad"):
        assert contrast(palette[tone], palette[f"{tone}-bg"]) >= 4.5, tone
        assert contrast(palette["ink"], palette[f"{tone}-bg"]) >= 4.5, tone
    for number in range(8):
        assert contrast(palette[f"c{number}"], palette["paper"]) >= 3, number


# --- validations, several at once, files ---


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A validation of simulated runs, which stand in for measured ones, by a profile that is not theirs."""
    folder = tmp_path_factory.mktemp("validation")
    for number in (1, 2):
        run_sim(
            load("seed-resume", ["workload.requests=40", "workload.rate_rps=20", f"run.seed={number}"]),
            folder / str(number),
        )
    validate([folder / "1", folder / "2"], "cx7-400g", out=folder / "validation")
    return folder / "validation"


def test_the_numbers_of_a_validation_are_those_of_its_file(validation: Path, tmp_path: Path) -> None:
    content = json.loads((validation / "validation.json").read_text())
    text = made(validation, tmp_path / "r.html")
    assert check_numbers(text, content) > 30
    assert content["profile"]["sha256"] in text
    judged = [one for case in content["cases"] for one in case["figures"].values() if one["verdict"]]
    assert f'<p class="lead">Of {len(judged)} figures that have a tolerance: ' in text
    for one in judged:
        assert one["verdict"] in text
    assert "stand in for measured ones" in text
    for one in content["misses"]:
        assert f"<p>{one}.</p>" in unescape(text)
        assert " ," not in one
    # Nothing repeats these runs with others, so there is no noise to be seen, and the key has only what is drawn.
    assert "Points are biases, lines their 95 % intervals, upright lines the tolerance." in text
    pictures = "".join(re.findall(r"<svg .*?</svg>", text, re.DOTALL))
    drawn = {case["figures"][name]["verdict"] for case in content["cases"] for name in ("p50", "p99", "throughput")}
    assert drawn == {one for one in TONES if f">{one}</text>" in pictures}


def test_captions_name_only_what_is_drawn(run: Path, tmp_path: Path) -> None:
    for name, tokens in (("one", 1024), ("two", 8192)):  # so short that no figure of either has an interval
        settings = ["workload.requests=5", "run.replications=1", f"protocol.sizing.tokens={tokens}"]
        run_sim(load("quickstart", settings), tmp_path / name)
    text = made(tmp_path / "one", tmp_path / "r.html")
    for words in ("Thin lines", "bands their", "Small numbers"):
        assert words not in text
    assert "Thin lines are 95 % intervals." in made(run, tmp_path / "r.html")
    write_report([tmp_path / "one", tmp_path / "two"], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8").partition('id="part-2"')[0]
    for words in ("dashed", "bands its", "Small numbers"):
        assert words not in text
    write_report([run, tmp_path / "two"], tmp_path / "r.html")
    assert "a line is the mean of their shares within a time, bands its 95 % interval." in (
        tmp_path / "r.html"
    ).read_text(encoding="utf-8")


def test_runs_beside_each_other_are_paired_where_they_had_the_same_requests(
    run: Path, failed: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    settings = ["workload.requests=60", "run.replications=3", "protocol.sizing.tokens=8192"]
    run_sim(load("quickstart", settings), other)
    written = write_report([run, other, failed], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    found = compare_paired(run, other)["differences"]["latency_s"]["p99"]
    cells = [one for _, one in Tags(text).tags if one.get("data-value") == repr(found["value"])]
    assert cells
    assert (cells[0]["data-low"], cells[0]["data-high"]) == (repr(found["low"]), repr(found["high"]))
    assert "protocol.sizing.tokens is 1024 in run and 8192 in other" in text
    sentence = (
        f"failed is not paired request by request: RUN is '{failed}', it must have the same requests as '{run}', but"
    )
    assert sentence in unescape(text)
    assert written.content()["sources"][1] == {"path": str(other), "kind": "sim"}
    assert [int(tag[1]) for tag, _ in Tags(text).tags if re.fullmatch(r"h\d", tag)].count(1) == 1
    for article, path in zip(text.split("<article")[2:], (run, other, failed), strict=True):
        assert check_numbers(article, json.loads((path / "summary.json").read_text())) > 10


def test_the_page_of_a_resampled_file_says_what_its_interval_is(of_file: dict[str, Path], tmp_path: Path) -> None:
    text = made(of_file["run"], tmp_path / "r.html")
    assert "and 3 resamples of them" in text
    assert "its interval comes from 3 resamples of the file" in text
    assert "bands their 95" not in text  # the spread of resamples is no band around the file's own distribution
    caution = json.loads((of_file["run"] / "summary.json").read_text())["replicates"]["caution"]
    assert f"</strong> {caution[0].upper()}{caution[1:]}.</p>" in text


def test_the_page_of_a_sweep_of_a_file_promises_nothing_of_more_resamples(
    of_file: dict[str, Path], tmp_path: Path
) -> None:
    text = made(of_file["sweep"], tmp_path / "r.html")
    report = json.loads((of_file["sweep"] / "sweep.json").read_text())
    assert len(report["lowest"][0]["possibly"]) == 2  # both sizes came to the same
    assert "by the file itself and 3 resamples of it" in text
    assert "Only a longer file makes the set" in text
    assert "More replications make" not in text
    assert "Small numbers are 95 % intervals from the resamples of the file." in text
    assert "over the replications" not in text
    caution = report["configurations"][0]["replicates"]["caution"]
    assert text.count(caution[1:]) == 1  # of both configurations


def test_a_sweep_of_a_file_and_of_drawn_requests_says_of_each_what_its_intervals_are(
    of_file: dict[str, Path], tmp_path: Path
) -> None:
    text = made(of_file["mixed"], tmp_path / "r.html")
    report = json.loads((of_file["mixed"] / "sweep.json").read_text())
    assert [one["replication_kind"] for one in report["configurations"]] == 2 * ["resampled"] + 2 * ["independent"]
    assert "95 % intervals from the resamples of the file, where it is one, else over the replications." in text
    assert "the best configuration of each workload is among those named, over 4 replications" in text
    assert "of a file by the file itself and 3 resamples of it" in text
    assert "More replications, of a file only a longer file, make the set" in text
    assert "Intervals are too narrow in 2 of 4 configurations; of the first of them the p99" in text
    assert "Bands are 95 % intervals over the replications." not in text  # four curves are too many for bands
    offered = sum(one["requests"]["offered"] for one in report["configurations"])
    assert f"16, {offered} requests in all" in text


def test_a_sweep_over_the_traffic_alone_says_that_nothing_is_ranked(tmp_path: Path) -> None:
    settings = ["workload.requests=20", "run.replications=1"]
    plan = make_plan("quickstart", grid={"workload.rate_rps": [5, 10]}, settings=settings)
    run_sweep(plan, tmp_path / "rates", jobs=1, plots=False)
    report = json.loads((tmp_path / "rates" / "sweep.json").read_text())
    assert report["lowest"] == []
    text = made(tmp_path / "rates", tmp_path / "r.html")
    assert "No two configurations had the same requests and served all of them, so none is ranked." in text
    assert "Only " not in re.sub(r"<style>.*?</style>", "", text)
    # Nothing is said of bands, marks or green rows that are not there.
    for words in ("Bands are", "Upright lines", "filled marks", "Green rows", "see the same requests"):
        assert words not in text


def test_a_sweep_of_which_one_configuration_serves_everything_names_it(sweep: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(sweep, folder)
    report = json.loads((folder / "sweep.json").read_text())
    report["lowest"] = []
    for one in report["configurations"][1:]:
        one["requests"] |= {"succeeded": 0, "not_served": one["requests"]["offered"]}
    (folder / "sweep.json").write_text(json.dumps(report))
    assert "Only tokens 128, window served every request: there is none" in made(folder, tmp_path / "r.html")


@pytest.mark.parametrize(
    ("change", "badge"),
    [({"invariant_violations": 2}, "invariants violated"), ({"deadlock": True}, "deadlock")],
)  # fmt: skip
def test_a_run_that_cannot_be_relied_on_has_no_good_badge(
    change: dict[str, Any], badge: str, run: Path, sweep: Path, tmp_path: Path
) -> None:
    folder, other = tmp_path / "run", tmp_path / "sweep"
    shutil.copytree(run, folder)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, **change}))
    assert f'<p><span class="badge bad">{badge}</span></p>' in made(folder, tmp_path / "r.html")
    shutil.copytree(sweep, other)
    report = json.loads((other / "sweep.json").read_text())
    report["configurations"][2] |= change
    (other / "sweep.json").write_text(json.dumps(report))
    text = made(other, tmp_path / "r.html")
    assert f'<p><span class="badge bad">{badge}' in text
    assert f'<td data-value="{badge}"><span class="badge bad">{badge}</span></td>' in text
    write_report([folder, run], tmp_path / "both.html")
    assert (
        f'<td data-value="{badge}"><span class="badge bad">{badge}</span></td>' in (tmp_path / "both.html").read_text()
    )


def test_only_an_overload_of_the_whole_run_grows_with_its_length(run: Path, sweep: Path, tmp_path: Path) -> None:
    stretch = {"stretches": 1, "share": 0.3, "begin_s": 1.0, "end_s": 2.0, "paused": False, "stage": "prefill", "busy": 1.0,
               "offered_rps": 9.0, "served_rps": 8.0}  # fmt: skip
    for found in (None, stretch):
        folder, other = tmp_path / f"run-{found is None}", tmp_path / f"sweep-{found is None}"
        shutil.copytree(run, folder)
        summary = json.loads((folder / "summary.json").read_text())
        summary["capacity"] |= {"verdict": "over", "bottleneck": "prefill", "stretch": found}
        (folder / "summary.json").write_text(json.dumps(summary))
        assert ("a longer run has longer ones" in made(folder, tmp_path / "r.html")) == (found is None)
        shutil.copytree(sweep, other)
        report = json.loads((other / "sweep.json").read_text())
        report["configurations"][0]["capacity"] |= {"verdict": "over", "bottleneck": "prefill", "stretch": found}
        (other / "sweep.json").write_text(json.dumps(report))
        text = made(other, tmp_path / "r.html")
        assert ("1 of 6 configurations are over capacity (prefill): their latencies grow with the length" in text) == (
            found is None
        )
        assert ("(prefill) for a part of their traffic: their latencies grow for as long as" in text) == (
            found is not None
        )


def test_many_notices_of_a_sweep_end_in_how_many_there_are(sweep: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(sweep, folder)
    report = json.loads((folder / "sweep.json").read_text())
    report["configurations"] = [
        {**report["configurations"][0], "configuration": number, "deadlock": number < 10, "ended_early": "it was late"}
        for number in range(1, 13)
    ]
    (folder / "sweep.json").write_text(json.dumps(report))
    text = made(folder, tmp_path / "r.html")
    assert text.count("requests unfinished (deadlock)") == 6
    assert "Of other configurations 4 more notices such as these" in text  # one says that runs ended early


@pytest.mark.parametrize(
    ("file", "notes", "said"),
    [
        (None, [], "ruled out: repeat the sweep with --replications 10."),
        ("a.csv", [], "ruled out: repeat the sweep with --replications 10, if the file can be resampled."),
        (
            "a.csv",
            ["run once, without resamples: it has 9 requests"],
            "ruled out: the file cannot be resampled, since it has 9 requests.",
        ),
    ],
)
def test_the_page_of_a_sweep_advises_replications_only_where_there_can_be_some(
    sweep: Path, tmp_path: Path, file: str | None, notes: list[str], said: str
) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(sweep, folder)
    report = json.loads((folder / "sweep.json").read_text())
    report["plan"]["replications"] = 1
    if file is not None:
        report["plan"]["base"]["workload"]["file"] = file
    report["plan"]["workloads"][0]["notes"] = notes
    (folder / "sweep.json").write_text(json.dumps(report))
    assert said in made(folder, tmp_path / "r.html")
