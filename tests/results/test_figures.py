"""Figures and report are files one can open anywhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from run_rows import MakeRun, rows_of
from test_going_on import pictures

from fedkd import Experiment, simulate
from fedkd.base.errors import InputError
from fedkd.results.curves import check_measured
from fedkd.results.figures.convergence import convergence, draw_convergence
from fedkd.results.figures.panels import Drawing
from fedkd.results.figures.partition import partition
from fedkd.results.figures.peers import accuracies_of, has_peers, peer_names, peers
from fedkd.results.figures.picture import styled_figure
from fedkd.results.recorded import RecordedRun, group_seeds

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("drawn")]  # drawing takes half a second and more


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


def test_many_long_lines_fit_and_nothing_is_drawn_over_anything(make_run: MakeRun) -> None:
    """Eight strategies whose accuracies are of two kinds, seeds far apart, uploads from 1 kB to 10 GB."""
    runs = []
    for number in range(8):
        whose = "linear probe of the encoder, at the server" if number % 2 else "clients' own main classifiers, mean"
        for seed in (0, 1):
            rows = [{**row, "accuracy_of": whose} for row in rows_of(0.1, 0.9 if seed else 0.1, 1.0, up=10 ** (number + 3))]
            runs.append(make_run(f"{number}-{seed}", strategy=f"a_long_name_of_strategy_{number}", seed=seed, rows=rows).path)
    with styled_figure(11.0, 3.7) as figure:
        draw_convergence(figure, group_seeds([RecordedRun.read(path) for path in runs]))
        FigureCanvasAgg(figure).draw()
        legend = figure.legends[0].get_window_extent()
        assert figure.bbox.x0 <= legend.x0 and legend.x1 <= figure.bbox.x1 and legend.y0 >= figure.bbox.y0
        assert sum("linear probe" in text.get_text() for text in figure.legends[0].get_texts()) == 4
        for axis in figure.axes:
            spans = [label.get_window_extent() for label in axis.get_xticklabels() if label.get_text()]
            within = sorted((span.x0, span.x1) for span in spans if axis.bbox.x0 <= span.x0 and span.x1 <= axis.bbox.x1)
            assert len(within) >= 2
            assert all(first[1] < second[0] for first, second in pairwise(within))
            bands = [path.vertices[:, 1] for band in axis.collections for path in band.get_paths()]
            assert min(map(min, bands)) >= 0 and max(map(max, bands)) <= 1


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
        self.names: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]
        self.names += [value or "" for name, value in attributes if name == "id"]

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
    assert page.tags.count("script") == 1 and reason in page.text  # shown as text
    assert "evaluation: OSError: disk" in page.text
    assert (
        "80.0 %" in page.text and "90.0 %" in page.text and "85.0 %" in page.text
    )  # last, best, mean of all two after training began
    assert "Mean of the last two" in page.text and "last five" not in page.text
    assert {"svg", "image", "table"} <= set(page.tags)


def test_a_run_that_was_never_measured_still_gets_its_report(make_run: MakeRun) -> None:
    run = make_run(rows=rows_of(None, None), finish=True)
    assert "Last accuracy" not in (run.path / "report.html").read_text()


def of_peers(*accuracies: list[float], clients: list[list[int]] | None = None, **numbers: float) -> list[dict[str, Any]]:
    """Rows of a run with peers; row 0 knows of no distillation."""
    rows = rows_of(*(sum(each) / len(each) for each in accuracies))
    for row, each in zip(rows, accuracies, strict=True):
        together = {"mean_peer_accuracy": row["accuracy"], "ensemble_accuracy": 0.75}
        agreeing = {"agreement": 0.625, "peer_divergence": 0.5} if len(each) > 1 else {}
        row |= {"peer_accuracies": each, **together, **agreeing, **(numbers if row["round"] else {})}
        if clients:
            row["peer_clients"] = clients[row["round"]]
    return rows


def words_and_panels(svg: Path) -> tuple[str, int]:
    drawing = svg.read_text()
    return drawing, len(re.findall(r'<g id="axes_\d+">', drawing))


def test_a_run_with_peers_gets_its_figure_and_shows_it_in_the_report(make_run: MakeRun) -> None:
    rows = of_peers([0.1, 0.2], [0.5, 0.75], clients=[[0, 1]] * 2, distillation=0.5, distillation_weight=0.25)
    path = make_run(rows=rows, finish=True).path
    with Image.open(path / "peers.png") as image:
        assert image.width > 2 * image.height > 600
    drawing, panels = words_and_panels(path / "peers.svg")
    assert panels == 3 + 2  # two of them have a second scale
    for words in ("peer 0 (cnn)", "peer 1 (cnn)", "mean of peers", "ensemble", "agreement", "divergence", "weight"):
        assert f"<!-- {words} -->" in drawing
    page = _Page()
    page.feed((path / "report.html").read_text())
    assert "peers" in page.names
    for words in ("Peers", "Agreement", "62.5 %", "75.0 %"):
        assert words in page.text


def test_a_run_without_peers_has_no_such_figure(make_run: MakeRun) -> None:
    run = make_run(rows=rows_of(0.1, 0.2), finish=True)
    assert not has_peers(RecordedRun.read(run.path)) and not (run.path / "peers.png").exists()
    assert 'id="peers"' not in (run.path / "report.html").read_text()


def test_what_was_not_logged_has_no_panel(tmp_path: Path, make_run: MakeRun) -> None:
    """One peer agrees with nobody; a weight without a loss has a scale of its own; branches have no names."""
    alone = RecordedRun.read(make_run("alone", rows=of_peers([0.1], [0.2])).path)
    drawing, panels = words_and_panels(peers(alone, tmp_path / "alone.png")[1])
    assert panels == 1 and "<!-- peer 0 -->" in drawing and "mean of peers" not in drawing
    weighed = RecordedRun.read(make_run("weighed", rows=of_peers([0.1], [0.2], distillation_weight=0.5)).path)
    assert words_and_panels(peers(weighed, tmp_path / "weighed.png")[1])[1] == 2


def test_many_peers_share_one_entry_of_the_legend_and_the_same_run_gives_the_same_file(
    tmp_path: Path, make_run: MakeRun
) -> None:
    run = RecordedRun.read(make_run(rows=of_peers([0.1] * 12, [0.2] * 12)).path)
    first, second = (peers(run, tmp_path / f"{name}.png") for name in "ab")
    assert "<!-- 12 peers -->" in first[1].read_text() and "<!-- peer 0 -->" not in first[1].read_text()
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_a_client_that_did_not_answer_leaves_a_gap_in_its_own_line(make_run: MakeRun) -> None:
    rows = of_peers([0.1, 0.2], [0.5], [0.7, 0.8], clients=[[0, 1], [1], [0, 1]])
    rounds, table = accuracies_of(RecordedRun.read(make_run(rows=rows).path))
    assert rounds.tolist() == [0, 1, 2]
    np.testing.assert_equal(table, [[0.1, np.nan, 0.7], [0.2, 0.5, 0.8]])


def test_peers_are_named_after_the_nets_that_the_experiment_dealt_out(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"strategy": "local", "nets": {"cnn": 0.5, "mlp": 0.5}, "data": {"clients": 4}}
    experiment = Experiment(seed=3, **settings)
    (tmp_path / "experiment.toml").write_text(experiment.to_toml())
    (tmp_path / "metrics.jsonl").write_text('{"round": 0, "peer_accuracies": [0, 0, 0], "peer_clients": [0, 1, 3]}\n')
    names = peer_names(RecordedRun.read(tmp_path))
    assert names == [f"peer {client} ({experiment.architecture_of(client)})" for client in (0, 1, 3)]


def test_what_is_no_share_is_not_drawn_in_percent(tmp_path: Path, make_run: MakeRun) -> None:
    run = RecordedRun.read(make_run(rows=of_peers([0.1, 0.2], [0.5, 0.75])).path)
    drawings = [convergence([run], tmp_path / f"{metric}.png", Drawing(metric))[1].read_text() for metric in PLOTTED]
    assert ["%" in drawing for drawing in drawings] == [True, False]
    assert [name in drawing for name, drawing in zip(PLOTTED.values(), drawings, strict=True)] == [True, True]


PLOTTED = {"agreement": "agreement between peers", "peer_divergence": "KL divergence between peers (nats)"}


@pytest.mark.parametrize(
    "name", ["$\\", "<script>alert(1)</script>", "two\nlines", "_hidden", "x" * 300, "\\alpha_$", "\udcff", "猫"]
)
def test_a_class_may_have_any_name(name: str, tmp_path: Path) -> None:
    data = {"source": lambda: pictures((name, "b")), "clients": 3, "partition": "iid"}
    simulate(Experiment(data=data, rounds=1, nets="mlp"), out=tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<script") == 1
    assert (tmp_path / "run" / "partition.png").stat().st_size > 1000
