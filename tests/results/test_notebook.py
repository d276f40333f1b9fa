"""What a notebook shows of experiments and results, and figures made from Python."""

from __future__ import annotations

import io
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image
from run_rows import rows_of

from fedkd import Experiment, History, InputError, simulate
from fedkd.results import live_notebook
from fedkd.results.histories import Histories, plot_histories
from fedkd.results.live_table import display
from fedkd.results.notebook import SHOWN, group_html
from fedkd.results.progress import Progress


class _Page(HTMLParser):
    """The tags that are open, which must close in order, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.tags.append(tag)
        if tag != "polyline":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "polyline":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def read(html: str) -> _Page:
    page = _Page()
    page.feed(html)
    assert page.open == []
    return page


def test_an_experiment_shows_what_is_set_in_it_first() -> None:
    html = Experiment(strategy={"name": "fedprox", "mu": 0.5}, rounds=7, data={"clients": 3})._repr_html_()
    page = read(html)
    first, folded = page.text.split(" keys as they are by default ")
    assert "fedprox" in first and "7 rounds, 3 clients, seed 0" in first and "arXiv" in first
    assert "strategy.mu 0.5" in " ".join(first.split()) and "train.lr" not in first
    assert "train.lr = " in folded
    assert len(html) < 10_000


def test_a_history_shows_its_result_a_curve_and_at_most_eight_rounds() -> None:
    rows = [{**row, "accuracy_of": "<b>mine</b> & yours"} for row in rows_of(*(n / 100 for n in range(100)))]
    html = History(rows)._repr_html_()
    page = read(html)
    assert page.tags.count("tr") == SHOWN + 1 and page.tags.count("polyline") == 1 and "b" not in page.tags
    for words in ("of 99 rounds, 99.0 kB uploaded", "<b>mine</b> & yours", "last 99.0 %", "mean of the last five 97.0 %"):
        assert words in page.text
    assert len(html) < 12_000
    assert "currentColor" in html and "#" not in html  # the notebook's own colours, on light and on dark


@pytest.mark.parametrize("rows", [[], rows_of(None, None), rows_of(0.5), [{"round": 0, "seconds": 1.0}]])
def test_a_history_that_has_little_to_say_is_shown_too(rows: list[dict[str, object]]) -> None:
    assert "History" in read(History(rows)._repr_html_()).text


def test_seeds_are_shown_with_their_mean_and_its_interval() -> None:
    page = read(Histories({0: History(rows_of(0.1, 0.2)), 3: History(rows_of(0.1, 0.4))})._repr_html_())
    assert page.tags.count("tr") == 4
    assert "seed 3 40.0 %" in " ".join(page.text.split())
    assert "30.0 ± 127.1 %" in page.text  # t(0.975, 1) = 12.706 times 10 %
    assert "of seeds none" in read(group_html({})).text


@pytest.mark.slow
@pytest.mark.usefixtures("drawn")
def test_plot_gives_a_figure_that_notebooks_show_and_that_keeps_its_fonts(tmp_path: Path) -> None:
    history = History(rows_of(0.1, 0.5, 0.9))
    figure = history.plot(target=0.8, title="Digits")
    assert isinstance(figure, Figure) and len(figure.axes) == 1
    line = figure.axes[0].get_lines()[0]
    assert line.get_xdata().tolist() == [0, 1, 2] and line.get_ydata().tolist() == [0.1, 0.5, 0.9]
    with Image.open(io.BytesIO(figure._repr_png_())) as image:
        assert image.width > image.height > 300
    figure.savefig(tmp_path / "figure.pdf")
    assert b"/Type3" not in (tmp_path / "figure.pdf").read_bytes()
    assert len(history.plot(x=["rounds", "bytes"], style="icml", width="page").axes) == 2


@pytest.mark.slow
def test_groups_of_seeds_are_drawn_with_bands() -> None:
    groups: dict[str, Any] = {
        "a": Histories({s: History(rows_of(0.1, 0.2 + s / 10)) for s in range(3)}),
        "b": History(rows_of(0.1, 0.3)),
    }
    (axis,) = plot_histories(groups, "accuracy", "bytes").axes
    assert [line.get_label() for line in axis.get_lines()] == ["a (mean of 3 seeds, 95 % band)", "b"]
    assert len(axis.collections) == 1  # one band
    (alone,) = groups["a"].plot().axes[0].get_lines()
    assert alone.get_ydata().tolist() == pytest.approx([0.1, 0.3])
    assert axis.get_lines()[0].get_ydata().tolist() == pytest.approx([0.1, 0.3])


@pytest.mark.slow
def test_no_state_of_pyplot_is_touched() -> None:
    code = (
        "import sys; from fedkd import History\n"
        "History([{'round': 0, 'accuracy': 0.5, 'seconds': 1.0}]).plot()._repr_png_()\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda h: h.plot("acuracy"), "'acuracy' was never measured: there is nothing to draw"),
        (lambda h: h.plot(x="round"), "unknown x 'round': did you mean 'rounds'?"),
        (lambda h: h.plot(style="nature"), "unknown style 'nature': known are icml, ieee, neurips"),
        (lambda h: plot_histories({}), "give Histories by name, as {'fedmd': histories}; got {}"),
        (lambda h: plot_histories({"a": {0: 3}}), "a: give a History, or Histories by seed; got {0: 3}"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(call, error: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError) as caught:
        call(History(rows_of(0.1, 0.2)))
    assert str(caught.value) == error


class Place:
    """What a notebook's ``display`` gives: what stands there now, and how often it was drawn."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def update(self, page: str) -> None:
        self.shown.append(page)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    """A notebook's output, without widgets."""
    there = Place()

    def display(page: str, *, display_id: bool) -> Place:
        assert display_id
        there.update(page)
        return there

    shell = type("ZMQInteractiveShell", (), {})()
    ipython, displays = ModuleType("IPython"), ModuleType("IPython.display")
    vars(ipython).update(get_ipython=lambda: shell, display=displays)
    vars(displays).update(HTML=str, display=display)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", displays)
    return there


def test_a_run_is_shown_in_a_notebook_as_it_goes_on_without_widgets(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with display("<fedmd>", 12) as shown:
        for row in rows_of(*(n / 100 for n in range(11))):
            shown.row(row)
            monkeypatch.setattr(live_notebook, "PAUSE", 0.0)
            shown.progress(Progress(row["round"] + 1, "training", 1, 4, 2.0))
        page = read(place.shown[-1])
        assert "round 11: training: 1 of 4 clients, 6.0 s to go" in page.text and "round 10 of 12" in page.text
    last = read(place.shown[-1])
    assert "<fedmd>" in last.text and "training" not in last.text
    assert last.tags.count("tr") == 1 + SHOWN and "10.0 %" in last.text and "2.0 %" not in last.text.split()
    drawn = len(place.shown)
    monkeypatch.setattr(live_notebook, "PAUSE", 1000.0)
    shown.progress(Progress(12, "training", 1, 4, 2.0))
    assert len(place.shown) == drawn  # now and then only


def test_progress_true_finds_the_notebook(place: Place) -> None:
    data = {"clients": 2, "train_limit": 40, "partition": "iid"}
    simulate(Experiment(strategy="local", rounds=1, nets="mlp", data=data), progress=True)
    assert "round 1 of 1" in read(place.shown[-1]).text
