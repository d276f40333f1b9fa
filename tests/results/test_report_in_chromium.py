"""The report as a reader has it in a browser: dark or light, wide or narrow, by mouse or keyboard, with scripts or without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Page, chromium, needs_chromium
from run_rows import MakeRun, rows_of
from test_report_page import many
from test_report_served import served

from fedkd.results.files import append_lines
from fedkd.results.recorded import find_runs
from fedkd.results.report import serve, write_report

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture
def address(tmp_path: Path, make_run: MakeRun) -> str:
    """The page of two strategies, one with two seeds."""
    rows, lines = many(4, 6)
    for name, strategy, seed in (("a-0", "fedavg", 0), ("a-1", "fedavg", 1), ("b-0", "fedprox", 0)):
        make_run(f"runs/{name}", strategy=strategy, seed=seed, rows=rows, clients=lines)
    write_report(find_runs([tmp_path / "runs"]), tmp_path / "page.html")
    return (tmp_path / "page.html").as_uri()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [420, 1200])
def test_it_fits_any_window_in_the_readers_colours_and_complains_of_nothing(
    browser: Page, address: str, dark: bool, width: int, tmp_path: Path
) -> None:
    browser.open(address, width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    paper = browser.run("getComputedStyle(document.body).backgroundColor").removeprefix("rgb(").rstrip(")").split(", ")
    assert (sum(map(int, paper)) < 200) == dark
    assert browser.run("[...document.querySelectorAll('svg.chart')].every((svg) => svg.getBoundingClientRect().width > 250)")
    browser.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000
    assert browser.complaints == []
    assert [each for each in browser.requests if not each.startswith(("file:", "data:"))] == []


def test_a_line_is_switched_off_and_on_in_its_own_figure_alone(browser: Page, address: str) -> None:
    browser.open(address)
    button = "document.querySelector('#convergence .legend button')"
    drawn = "[...document.querySelectorAll('#convergence .line[data-name=\"fedavg\"]')].map((g) => getComputedStyle(g).display)"
    others = "[...document.querySelectorAll('#losses .line')].every((g) => getComputedStyle(g).display !== 'none')"
    assert browser.run(f"{button}.getAttribute('aria-pressed')") == "true"
    browser.run(f"{button}.click()")
    assert browser.run(drawn) == ["none"] * 3 and browser.run(others)
    assert browser.run(f"{button}.getAttribute('aria-pressed')") == "false"
    browser.run(f"{button}.click()")
    assert "none" not in browser.run(drawn)


def test_values_are_shown_under_the_pointer_and_by_arrow_keys(browser: Page, address: str) -> None:
    browser.open(address)
    tip = "document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent"
    browser.run("document.querySelector('svg.chart').scrollIntoView({block: 'center'})")
    box = browser.run(
        "(({x, y, width, height}) => [x, y, width, height])(document.querySelector('svg.chart').getBoundingClientRect())"
    )
    browser.point_at(box[0] + 0.965 * box[2], box[1] + box[3] / 2)
    assert browser.run(tip) == "round 4\nfedavg: 83.3 ± 0.0 %\nfedprox: 83.3 %"
    browser.point_at(1, 1)
    assert browser.run(tip) == ""
    browser.run("document.querySelector('svg.chart').focus()")
    browser.press("ArrowRight")
    browser.press("ArrowRight")
    assert browser.run(tip) == "round 1\nfedavg: 33.3 ± 0.0 %\nfedprox: 33.3 %"
    browser.press("Escape")
    assert browser.run(tip) == ""


def test_a_cell_of_a_heat_map_says_what_it_is(browser: Page, address: str) -> None:
    browser.open(address)
    browser.run("document.querySelector('svg.heat').scrollIntoView()")
    box = browser.run(
        "(({x, y, width, height}) => [x, y, width, height])(document.querySelector('svg.heat').getBoundingClientRect())"
    )
    browser.point_at(box[0] + box[2] * 75 / 420, box[1] + box[3] * (8 + 1.5 * 22) / (8 + 6 * 22 + 46))
    assert browser.run("document.getElementById('tip').textContent") == "client 1, round 0: 16.7"


def test_without_scripts_all_is_there(browser: Page, address: str) -> None:
    browser.open(address, scripts=False)
    browser.ask("Emulation.setScriptExecutionDisabled", value=False)  # only so that it can be asked
    assert browser.run("document.querySelectorAll('.legend button').length") == 0
    assert browser.run(
        "document.querySelectorAll('.legend li').length > 2 && document.querySelectorAll('details table').length > 5"
    )
    assert browser.run("document.querySelector('main').innerText").count("fedprox") > 2


def test_an_open_page_takes_up_a_new_round_and_keeps_what_was_unfolded(
    browser: Page, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "REFRESH", 1)
    path = make_run(rows=rows_of(0.1, 0.2)).path
    text = (path / "experiment.toml").read_text().replace("rounds = 1", "rounds = 9")
    (path / "experiment.toml").write_text(text)
    with served(path) as port:
        browser.complaints.clear()
        browser.open(f"http://{serve.HOST}:{port}/")
        browser.run("document.querySelector('#convergence details').open = true")
        append_lines(path / "metrics.jsonl", rows_of(0.1, 0.2, 0.75)[2:])
        renewed = "new Promise((tell) => new MutationObserver(tell).observe(document.body, {childList: true}))"
        browser.run(f"document.body.innerText.includes('75.0 %') || {renewed}.then(() => true)")
        assert "round 2 of 9" in browser.run("document.querySelector('header').innerText")
        assert browser.run("document.querySelector('#convergence details').open")
        assert "75.0 %" in browser.run("document.querySelector('#convergence').innerText")
        assert browser.complaints == []
