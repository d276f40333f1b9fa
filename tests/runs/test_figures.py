"""Figures and report are files one can open anywhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from run_rows import MakeRun, rows_of

from fedkd.errors import InputError
from fedkd.runs.curves import check_measured
from fedkd.runs.plots import convergence, partition
from fedkd.runs.recorded import RecordedRun


def test_convergence_draws_png_and_svg_with_three_panels(tmp_path: Path, make_run: MakeRun) -> None:
    runs = [RecordedRun.read(make_run(f"s{seed}", seed=seed, rows=rows_of(0.1, 0.2, 0.2 + seed / 9)).path) for seed in (0, 1)]
    runs.append(RecordedRun.read(make_run("local", strategy="local", rows=rows_of(0.1, 0.2), up=0).path))
    png, svg = convergence(runs, tmp_path / "figure.png")
    with Image.open(png) as image:
        assert image.width > image.height > 300
    drawing = svg.read_text()
    assert len(re.findall(r'<g id="axes_\d+">', drawing)) == 3
    assert "<text" not in drawing  # glyphs are drawn, so no font is needed to read it
    for words in ("fedx (mean of 2 seeds, 95 % band)", "local", "test accuracy", "time (s)"):
        assert words in drawing


@pytest.mark.slow
def test_the_same_runs_give_the_same_file(tmp_path: Path, make_run: MakeRun) -> None:
    runs = [RecordedRun.read(make_run(rows=rows_of(0.1, 0.2)).path)]
    first = convergence(runs, tmp_path / "a.pdf")
    assert [file.suffix for file in first] == [".pdf", ".png", ".svg"]
    assert first[2].read_bytes() == convergence(runs, tmp_path / "b.svg")[0].read_bytes()


def test_a_wrong_name_is_bad_input(tmp_path: Path, make_run: MakeRun) -> None:
    runs = [RecordedRun.read(make_run(rows=rows_of(0.1, 0.2)).path)]
    with pytest.raises(InputError, match=r"figure\.docx: use \.png"):
        convergence(runs, tmp_path / "figure.docx")
    with pytest.raises(InputError, match="no run has the metric 'acuracy': they have accuracy"):
        check_measured(runs, "acuracy")


@pytest.mark.parametrize(("clients", "classes"), [(1, 2), (10, 10), (100, 10), (3000, 100)])
def test_partition_is_drawn_for_few_and_for_many(tmp_path: Path, clients: int, classes: int) -> None:
    counts = torch.arange(clients * classes).reshape(clients, classes) % 7
    partition(counts, [f"class {k}" for k in range(classes)], tmp_path / "partition.png")
    with Image.open(tmp_path / "partition.png") as image:
        assert 400 < image.width <= 2000 and 400 < image.height <= 2000


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_one_page_that_needs_nothing_else(make_run: MakeRun) -> None:
    rows = rows_of(0.1, 0.9, 0.8)
    rows[1] |= {"clients_failed": 1, "evaluation_failures": {"0": "OSError: disk"}}
    reason = "ValueError: client 1, round 1, batch 4: <script>alert(1)</script> & more"
    run = make_run(rows=rows, clients=[{"client": 1, "status": "failed", "reason": reason}], finish=True)
    page = _Page()
    page.feed((run.path / "report.html").read_text())
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert "script" not in page.tags and reason in page.text  # shown as text
    assert "evaluation: OSError: disk" in page.text
    assert (
        "80.0 %" in page.text and "90.0 %" in page.text and "85.0 %" in page.text
    )  # last, best, mean of the last five after training began
    assert {"svg", "img", "table"} <= set(page.tags)


def test_a_run_that_was_never_measured_still_gets_its_report(make_run: MakeRun) -> None:
    run = make_run(rows=rows_of(None, None), finish=True)
    assert "Last accuracy" not in (run.path / "report.html").read_text()
