"""The page of ``bufferlab report`` in a browser: it draws without a complaint, asks for nothing, sorts, and fits."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.reports.command import write_report
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.experiments.sweeps.plan import make_plan
from bufferlab.experiments.sweeps.sweep import run_sweep
from bufferlab.experiments.tuning.tune import run_tune
from bufferlab.experiments.validation.command import validate
from bufferlab.experiments.workloads.loading import load
from tests.experiments.test_report import check_numbers
from tests.experiments.test_report_tune import small_question

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync")  # fmt: skip


NAMES = ("run", "failed", "sweep", "tune", "validation", "compared")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[Any]]]:
    """A page of every kind, each with the content of the JSON files of its parts, in their order."""
    folder = tmp_path_factory.mktemp("pages")
    small = ["workload.requests=60", "run.replications=3"]
    run_sim(load("quickstart", small), folder / "run")
    run_sim(load("quickstart", [*small, "protocol.sizing.tokens=8192"]), folder / "other")
    run_sim(load("seed-failure"), folder / "failed")
    grid = {"protocol.sizing.tokens": [128, 2048, 8192], "protocol.discipline": ["window", "exact_announce"]}
    plan = make_plan("ustudy", grid=grid, settings=["workload.requests=40", "run.replications=3"])
    run_sweep(plan, folder / "sweep", jobs=1)
    for seed in (1, 2):
        settings = ["workload.requests=40", "workload.rate_rps=20", f"run.seed={seed}"]
        run_sim(load("seed-resume", settings), folder / f"measured-{seed}")
    run_sim(load("seed-resume", [*settings, "protocol.sizing.policy=quantile"]), folder / "measured-3")
    runs = [folder / f"measured-{number}" for number in (1, 2, 3)]
    validate(runs, "cx7-400g", out=folder / "validation")
    run_tune(small_question(), folder / "tune", jobs=1, plots=False)
    parts = {name: [name] for name in NAMES} | {"compared": ["run", "other"]}
    files = {"sweep": "sweep.json", "validation": "validation.json", "tune": "tune.json"}
    return {
        name: (
            write_report([folder / one for one in made_of], folder / f"{name}.html").path,
            [json.loads((folder / one / files.get(one, "summary.json")).read_text()) for one in made_of],
        )
        for name, made_of in parts.items()
    }


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (it is part of the dev extra)")
    if BROWSER is None:
        pytest.skip("no chromium is installed here (Debian's package chromium has it)")
    with api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=BROWSER, args=list(FLAGS), timeout=60_000,
            accept_downloads=True,
        )  # fmt: skip
        yield context
        context.close()


class Opened:
    """A page that was opened, and what it complained of and asked for."""

    def __init__(self, browser: Any, path: Path, width: int = 1280) -> None:
        self.page = browser.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri(), wait_until="load")

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        self.page.close()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_drawn_without_complaint_asks_for_nothing_and_fits(
    name: str, width: int, browser: Any, pages: dict[str, tuple[Path, list[Any]]]
) -> None:
    path, contents = pages[name]
    with Opened(browser, path, width) as opened:
        articles = [one for one in opened.page.content().split("<article")[1:] if 'data-source=""' not in one[:200]]
        for article, content in zip(articles, contents, strict=True):
            assert check_numbers(article, content) > 10
        assert all(opened.page.eval_on_selector_all("svg.c", "all => all.map(one => one.getBBox().height > 50)"))
        # What is wider scrolls in its own place, or is wrapped.
        outside = """all => all.filter(one => one.getBoundingClientRect().right > innerWidth + 1
            && !one.closest('.scroll, pre')).map(one => one.outerHTML.slice(0, 80))"""
        for scheme, ground in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(21, 23, 26)")):
            opened.page.emulate_media(color_scheme=scheme)
            assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
            assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
            assert opened.page.eval_on_selector_all("main *:not(svg *):not(.skip)", outside) == []
        assert opened.complaints == []
        assert [url for url in opened.asked if not url.startswith("data:")] == [path.as_uri()]


@pytest.mark.parametrize(("width", "media"), [(1200, "screen"), (688, "print")])
def test_nothing_of_a_validation_is_cut_off(
    width: int, media: str, browser: Any, pages: dict[str, tuple[Path, list[Any]]]
) -> None:
    """In a usual window no table scrolls, and on a sheet of A4 (182 mm between its margins) commands are wrapped."""
    path, contents = pages["validation"]
    with Opened(browser, path, width) as opened:
        opened.page.emulate_media(media=media)
        scrolling = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent)"
        assert opened.page.eval_on_selector_all(".scroll", scrolling) == []
        assert media == "screen" or opened.page.eval_on_selector_all("pre", scrolling) == []
        names = [case["name"] for case in contents[0]["cases"]]
        titles = opened.page.eval_on_selector_all("svg text.t", "all => all.map(one => one.textContent)")
        assert set(names) <= set(titles), "whole names, since they fit"
        beyond = """all => all.filter(one => one.getBoundingClientRect().right
            > one.ownerSVGElement.getBoundingClientRect().right + 1).map(one => one.textContent)"""
        assert opened.page.eval_on_selector_all("svg text", beyond) == []


SHEET = (688, 1016)
"""What margins of 14 mm leave of A4, in pixels of the print: 182 mm across, 269 mm down."""


def test_what_matters_of_a_tuning_is_on_the_first_sheet_and_nothing_is_cut_off(
    browser: Any, pages: dict[str, tuple[Path, list[Any]]]
) -> None:
    with Opened(browser, pages["tune"][0], 1200) as opened:
        wide = "all => all.filter(one => one.scrollWidth > one.clientWidth).map(one => one.innerText.slice(0, 40))"
        assert opened.page.eval_on_selector_all(".scroll", wide) == []
        opened.page.emulate_media(media="print")
        opened.page.set_viewport_size({"width": SHEET[0], "height": SHEET[1]})
        last = opened.page.locator("section.front").last
        box = last.bounding_box()
        assert "Where to set it" in last.inner_text()
        assert 500 < box["y"] + box["height"] <= SHEET[1]
        after = opened.page.locator("section.front + section:not(.front)")
        assert after.evaluate("one => getComputedStyle(one).breakBefore") == "page"
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= SHEET[0]


def test_runs_beside_each_other_have_the_figures_of_their_summaries(
    browser: Any, pages: dict[str, tuple[Path, list[Any]]]
) -> None:
    path, contents = pages["compared"]
    with Opened(browser, path) as opened:
        table = opened.page.locator("table", has_text="A row for every run")
        heads = [one.strip() for one in table.locator("thead th").all_text_contents()]
        place = heads.index("latency p99")
        script = "(rows, place) => rows.map(row => ['value', 'low', 'high'].map(one => Number(row.cells[place].dataset[one])))"
        found = table.locator("tbody tr").evaluate_all(script, place)
        assert found == [[one["latency_s"]["p99"][side] for side in ("value", "low", "high")] for one in contents]


def test_the_name_of_a_row_stays_while_its_table_scrolls(
    browser: Any, pages: dict[str, tuple[Path, list[Any]]]
) -> None:
    with Opened(browser, pages["tune"][0], 390) as opened:
        scroll = opened.page.locator(".scroll", has_text="A row for every setting")
        left, far = "one => one.rows[1].cells[0].getBoundingClientRect().left", "one => one.scrollLeft = 300"
        table = scroll.locator("table")
        before = table.evaluate(left)
        scroll.evaluate(far)
        assert scroll.evaluate("one => one.scrollLeft") > 100
        assert table.evaluate(left) == before


def test_tables_sort_by_mouse_and_by_keyboard(browser: Any, pages: dict[str, tuple[Path, list[Any]]]) -> None:
    path, (content,) = pages["sweep"]
    by_p99 = [one["latency_s"]["p99"]["value"] for one in content["configurations"]]
    with Opened(browser, path) as opened:
        table = opened.page.locator("table", has_text="A row for every configuration")
        head = table.locator("thead th", has=opened.page.get_by_role("button", name="p99", exact=True))
        place = head.evaluate("head => head.cellIndex")

        def column() -> list[float]:
            script = "(rows, place) => rows.map(row => Number(row.cells[place].dataset.value))"
            return list(table.locator("tbody tr").evaluate_all(script, place))

        assert column() == by_p99
        head.locator("button").click()
        assert (head.get_attribute("aria-sort"), column()) == ("ascending", sorted(by_p99))
        head.locator("button").focus()
        opened.page.keyboard.press("Enter")
        assert (head.get_attribute("aria-sort"), column()) == ("descending", sorted(by_p99, reverse=True))
        text = table.locator("thead th", has=opened.page.get_by_role("button", name="discipline", exact=True))
        text.locator("button").focus()
        opened.page.keyboard.press("Space")
        assert text.get_attribute("aria-sort") == "ascending"
        assert head.get_attribute("aria-sort") == "none"
        names = table.locator("tbody tr").evaluate_all("rows => rows.map(row => row.cells[2].textContent.trim())")
        assert names == sorted(names)
        assert opened.complaints == []


def test_pictures_and_tables_are_saved_from_the_page(
    browser: Any, pages: dict[str, tuple[Path, list[Any]]], tmp_path: Path
) -> None:
    with Opened(browser, pages["run"][0]) as opened:
        for selector, begins in (("button.png", b"\x89PNG"), ("a.get[download$='.svg']", b"<svg xmlns"),
                                 ("a.get[download$='.csv']", b"figure,language,language_low")):  # fmt: skip
            with opened.page.expect_download() as waiting:
                opened.page.locator(selector).first.click()
            saved = tmp_path / waiting.value.suggested_filename
            waiting.value.save_as(saved)
            assert saved.read_bytes().startswith(begins)
            assert saved.stat().st_size > 100
        assert opened.complaints == []
