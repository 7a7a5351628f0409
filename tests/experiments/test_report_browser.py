"""The page of ``bufferlab report`` in a browser: it draws without a complaint, asks for nothing, sorts, and fits."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.reports.command import write_report
from experiments.runs.simulate import run_sim
from experiments.sweeps.plan import make_plan
from experiments.sweeps.sweep import run_sweep
from experiments.workloads.loading import load
from tests.experiments.test_report import check_numbers

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync")  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """A page of a run, of one in which everything failed, and of a sweep, each with the content of its JSON file."""
    folder = tmp_path_factory.mktemp("pages")
    run_sim(load("quickstart", ["workload.requests=60", "run.replications=3"]), folder / "run")
    run_sim(load("seed-failure"), folder / "failed")
    grid = {"protocol.sizing.tokens": [128, 2048, 8192], "protocol.discipline": ["window", "exact_announce"]}
    plan = make_plan("ustudy", grid=grid, settings=["workload.requests=40", "run.replications=3"])
    run_sweep(plan, folder / "sweep", jobs=1)
    files = {"run": "summary.json", "failed": "summary.json", "sweep": "sweep.json"}
    return {
        name: (write_report([folder / name]).path, json.loads((folder / name / file).read_text()))
        for name, file in files.items()
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


@pytest.mark.parametrize("name", ["run", "failed", "sweep"])
def test_a_page_is_drawn_without_complaint_and_asks_for_nothing(
    name: str, browser: Any, pages: dict[str, tuple[Path, Any]]
) -> None:
    path, content = pages[name]
    with Opened(browser, path) as opened:
        assert opened.complaints == []
        assert [url for url in opened.asked if not url.startswith("data:")] == [path.as_uri()]
        assert check_numbers(opened.page.content(), content) > 10
        assert all(opened.page.eval_on_selector_all("svg.c", "all => all.map(one => one.getBBox().height > 50)"))
        background = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == "rgb(255, 255, 255)"
        opened.page.emulate_media(color_scheme="dark")
        assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["run", "failed", "sweep"])
def test_a_page_is_as_wide_as_its_window(
    name: str, width: int, browser: Any, pages: dict[str, tuple[Path, Any]]
) -> None:
    with Opened(browser, pages[name][0], width) as opened:
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        # What is wider scrolls in its own place, or is wrapped.
        outside = """all => all.filter(one => one.getBoundingClientRect().right > innerWidth + 1
            && !one.closest('.scroll, pre')).map(one => one.outerHTML.slice(0, 80))"""
        assert opened.page.eval_on_selector_all("main *:not(svg *):not(.skip)", outside) == []


def test_tables_sort_by_mouse_and_by_keyboard(browser: Any, pages: dict[str, tuple[Path, Any]]) -> None:
    path, content = pages["sweep"]
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
    browser: Any, pages: dict[str, tuple[Path, Any]], tmp_path: Path
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
