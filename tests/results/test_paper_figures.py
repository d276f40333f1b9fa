"""Figures for papers: widths, fonts, lines that are told apart, legends beside the data, targets, and the numbers as CSV."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from run_rows import MakeRun, rows_of

from fedkd.base.errors import InputError
from fedkd.results.curves import check_measured, curve, curve_of, reached
from fedkd.results.figures.convergence import convergence, draw_convergence, picture_of
from fedkd.results.figures.looks import VENUES, look_of
from fedkd.results.figures.panels import Drawing, spent_until
from fedkd.results.figures.picture import styled_figure
from fedkd.results.figures.style import line_style
from fedkd.results.recorded import RecordedRun, group_seeds

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("drawn")]


def twelve(make_run: MakeRun) -> list[RecordedRun]:
    """Twelve strategies that all end at 100 %, the bytes of each three times those of the last."""
    rows = [rows_of(0.1, 0.3, 0.9 - number / 20, 1.0, up=3**number * 1000) for number in range(12)]
    return [RecordedRun.read(make_run(f"{n}", strategy=f"strategy_{n}", rows=each).path) for n, each in enumerate(rows)]


@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize(("width", "xs"), [("column", ("bytes",)), ("page", ()), ("3", ("rounds", "seconds"))])
def test_twelve_lines_fit_into_a_column_and_nothing_covers_data(
    venue: str, width: str, xs: tuple[str, ...], make_run: MakeRun
) -> None:
    drawing = Drawing(xs=xs, target=0.8, title="Twelve strategies", look=look_of(venue, width))
    with styled_figure(1, 1, drawing.look.settings()) as figure:
        draw_convergence(figure, group_seeds(twelve(make_run)), drawing)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        inches = {"column": VENUES[venue].column, "page": VENUES[venue].page}.get(width, 3.0)
        assert figure.get_figwidth() == inches
        legend = figure.legends[0].get_window_extent()
        assert len(figure.legends[0].get_texts()) == 13  # the target too
        assert figure.bbox.x0 <= legend.x0 and legend.x1 <= figure.bbox.x1 and figure.bbox.y0 <= legend.y0
        for axis in figure.axes:
            around = axis.get_tightbbox(canvas.get_renderer())
            assert around is not None and around.y0 >= legend.y1 - 1
            assert figure.bbox.x0 - 1 <= around.x0 and around.x1 <= figure.bbox.x1 + 1 and around.y1 <= figure.bbox.y1 + 1
            assert axis.get_ylim()[1] == 1.0 and axis.get_ylim()[0] >= 0.0


def test_no_two_of_twelve_lines_are_alike_in_grey_either() -> None:
    grey = [str({key: value for key, value in line_style(index).items() if key != "color"}) for index in range(12)]
    assert len(set(grey)) == 12


def test_fonts_lie_in_the_pdf_as_outlines_that_printers_take(tmp_path: Path, make_run: MakeRun) -> None:
    runs = [RecordedRun.read(make_run(rows=rows_of(0.1, 0.2)).path)]
    drawing = Drawing(xs=("rounds",), look=look_of("ieee"))
    pdf = convergence(runs, tmp_path / "one.png", drawing, pdf=True)[-1].read_bytes()
    assert b"/FontFile2" in pdf and b"/CIDFontType2" in pdf and b"/Type3" not in pdf  # Type 42
    assert b"+STIXGeneral" in pdf
    width = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", pdf)
    assert width and float(width[1]) == 72 * 3.5


def test_the_data_behind_a_figure_stand_beside_it(tmp_path: Path, make_run: MakeRun) -> None:
    """Seeds of 20 % and 40 % in round 1: their mean is 30 %, half of the interval is 12.706 * 10 %."""
    for seed, accuracy in ((0, 0.2), (3, 0.4)):
        make_run(f"s{seed}", seed=seed, rows=rows_of(0.1, accuracy, up=1000 * (seed + 1)))
    runs = [RecordedRun.read(tmp_path / name) for name in ("s0", "s3")]
    file = convergence(runs, tmp_path / "figure.png", data=True)[-1]
    assert file.name == "figure.csv"
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [(row["rounds"], row["seed"]) for row in rows] == [("0", "0"), ("0", "3"), ("1", "0"), ("1", "3")]
    first, second = rows[2:]
    assert (first["line"], first["metric"], first["value"], second["value"]) == ("fedx", "accuracy", "0.2", "0.4")
    assert (first["bytes"], first["seconds"], first["simulated_seconds"], first["seeds"]) == ("2500", "4", "", "2")
    assert [float(first[name]) for name in ("mean", "low", "high")] == pytest.approx([0.3, -0.97062, 1.57062], rel=1e-5)
    assert rows[0]["bytes"] == ""  # nothing was sent before round 1


def test_what_a_target_took_is_told_of_the_first_round_that_reaches_it(make_run: MakeRun) -> None:
    (group,) = group_seeds([RecordedRun.read(make_run(rows=rows_of(0.1, 0.5, 0.8, 0.7)).path)])
    line = curve(group, "accuracy")
    assert spent_until(line, Drawing(target=0.8)) == {"rounds": 2, "bytes": 2000, "seconds": 6}
    assert spent_until(line, Drawing(target=0.81)) is None
    falling = curve_of("loss", [0], [[{"round": r, "loss": 3.0 - r, "seconds": 1.0} for r in range(3)]], "loss")
    assert reached(falling, "loss", 2.5) == 1  # no share: less is better


def test_a_fourth_panel_stands_where_every_run_had_a_clock(make_run: MakeRun) -> None:
    clocked = [{**row, "simulated_seconds": 60.0} for row in rows_of(0.1, 0.2, 0.3)]
    runs = [RecordedRun.read(make_run("a", rows=clocked).path)]
    line = curve(group_seeds(runs)[0], "accuracy")
    assert line.simulated_seconds.tolist() == [60, 120, 180]
    assert Drawing().panels([line]) == ("rounds", "bytes", "seconds", "simulated_seconds")
    runs.append(RecordedRun.read(make_run("b", strategy="local", rows=rows_of(0.1, 0.2, 0.3)).path))
    both = [curve(group, "accuracy") for group in group_seeds(runs)]
    assert Drawing().panels(both) == ("rounds", "bytes", "seconds")
    with pytest.raises(InputError, match=r"x simulated_seconds: local ran without a \[clock\]"):
        Drawing(xs=("simulated_seconds",)).panels(both)


def test_cpu_time_has_a_panel_where_every_run_recorded_it_and_energy_where_it_is_asked_for(make_run: MakeRun) -> None:
    measured = [{**row, "cpu_seconds": 1.5, "joules": 20.0} for row in rows_of(0.1, 0.2, 0.3)]
    run = RecordedRun.read(make_run("a", rows=measured).path)
    line = curve(group_seeds([run])[0], "accuracy")
    assert (line.cpu_seconds.tolist(), line.joules.tolist()) == ([1.5, 3.0, 4.5], [20, 40, 60])
    assert Drawing().panels([line]) == ("rounds", "bytes", "seconds", "cpu_seconds")
    assert Drawing(xs=("joules",)).panels([line]) == ("joules",)
    older = [{**measured[0]}, {**measured[1]}, rows_of(0.1, 0.2, 0.3)[2]]  # gone on with where nothing was measured
    part = curve(group_seeds([RecordedRun.read(make_run("b", strategy="local", rows=older).path)])[0], "accuracy")
    for x, why in (("cpu_seconds", "recorded no CPU time"), ("joules", "measured no energy")):
        with pytest.raises(InputError, match=f"^x {x}: local {why}"):
            Drawing(xs=(x,)).panels([line, part])
    figure = picture_of([line], Drawing(xs=("cpu_seconds", "joules")))
    assert [axis.get_xlabel() for axis in figure.axes] == ["CPU time (s)", "energy (J)"]
    assert figure.axes[1].get_lines()[0].get_xdata().tolist() == [20, 40, 60]


def test_what_is_no_number_is_not_drawn(make_run: MakeRun) -> None:
    rows = [{**row, "accuracy_of": "mine"} for row in rows_of(0.1, 0.2)]
    run = RecordedRun.read(make_run(rows=rows).path)
    with pytest.raises(InputError, match=r"^the metric 'accuracy_of' is no number in the rows: draw one that is, as accuracy$"):
        check_measured([run], "accuracy_of")


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: look_of("neurps"), "unknown style 'neurps': did you mean 'neurips'?"),
        (lambda: look_of("icml", "colum"), "width 'colum': give column, page, or a number of inches"),
        (lambda: look_of("", "0"), "width 0: a figure is 2 to 40 inches wide"),
        (lambda: look_of("", "nan"), "width nan: a figure is 2 to 40 inches wide"),
        (lambda: Drawing(xs=("byte",)), "unknown x 'byte': did you mean 'bytes'?"),
        (lambda: Drawing(target=80), "target 80: accuracy is a share of one: give 0.8 for 80 %"),
    ],
)
def test_what_a_figure_cannot_be_is_one_line(make, error: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == error
