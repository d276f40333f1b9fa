"""The figure of representations: what it draws, from what, and that it does not flip from round to round."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from run_rows import MakeRun, insects_run, rows_of

from fedkd.results import RunDirectory
from fedkd.results.figures.representation import evenly, has_representations, principal_plane, representation, turned_onto
from fedkd.results.recorded import RecordedRun
from fedkd.results.representations import read_representations, representation_files

pytestmark = pytest.mark.usefixtures("drawn")

CLASSES = ("ant", "<bee>", "cat")


def learned(*accuracies: float) -> list[dict[str, Any]]:
    """Rows of a run that learns representations; nobody has trained before round 1."""
    rows = rows_of(*accuracies)
    for row in rows:
        row |= {"probe_accuracy": row["accuracy"], "knn_accuracy": 0.25, "alignment": 0.5, "uniformity": -1.5}
        row |= {"probe_1_percent_accuracy": 0.125, "client_probe_accuracy": 0.375, "client_cka": 0.75 if row["round"] else None}
    return rows


def keep(run: RunDirectory, rounds: int, *, samples: int = 12) -> None:
    rng = torch.Generator().manual_seed(0)
    for round in range(rounds):
        features = torch.randn(samples, 5, generator=rng)
        run.save_representations(round, {"features": features, "labels": torch.arange(samples) % 3}, CLASSES)


def words_and_panels(svg: Path) -> tuple[str, int]:
    drawing = svg.read_text()
    return drawing, len(re.findall(r'<g id="axes_\d+">', drawing))


def test_rounds_are_the_first_the_last_and_evenly_between() -> None:
    assert evenly(1, 6) == [0]
    assert evenly(6, 6) == [0, 1, 2, 3, 4, 5]
    assert evenly(101, 6) == [0, 20, 40, 60, 80, 100]
    assert evenly(8, 6)[0] == 0 and evenly(8, 6)[-1] == 7 and len(set(evenly(8, 6))) == 6


def test_the_plane_is_that_of_the_covariance() -> None:
    """Against the eigenvectors of the covariance: the same distances, and the share of their variance."""
    features = np.random.default_rng(0).normal(size=(30, 6)) * [5, 3, 1, 1, 1, 1]
    places, share = principal_plane(features)
    values, vectors = np.linalg.eigh(np.cov(features.T))
    plain = (features - features.mean(0)) @ vectors[:, :-3:-1]
    assert share == pytest.approx(values[-2:].sum() / values.sum())
    assert np.square(places).sum() / 30 == pytest.approx(1)
    scale = np.sqrt(np.square(plain).sum() / 30)
    assert np.abs(places) == pytest.approx(np.abs(plain) / scale)


def test_features_that_do_not_fill_a_plane_are_drawn_too() -> None:
    one, share = principal_plane(np.array([[1.0], [3.0]]))
    assert np.abs(one) == pytest.approx(np.array([[1.0, 0.0], [1.0, 0.0]])) and share == 1
    assert principal_plane(np.full((4, 3), 7.0))[0].tolist() == [[0.0, 0.0]] * 4


def test_a_turned_or_mirrored_picture_is_turned_back() -> None:
    target = np.random.default_rng(1).normal(size=(10, 2))
    target -= target.mean(0)
    angle = np.array([[0.0, -1.0], [1.0, 0.0]])
    for change in (angle, -np.eye(2), np.diag([1.0, -1.0])):
        assert turned_onto(target @ change, target) == pytest.approx(target)


def test_files_come_back_with_their_classes_in_order_of_rounds(make_run: MakeRun) -> None:
    run = make_run()
    assert representation_files(run.path) == {}
    keep(run, 12)
    assert list(representation_files(run.path)) == list(range(12))
    table = read_representations(representation_files(run.path)[3])
    assert (table.features.shape, table.labels.tolist(), table.classes) == ((12, 5), [0, 1, 2] * 4, CLASSES)


def test_resume_drops_the_pictures_of_rounds_after_the_checkpoint(make_run: MakeRun) -> None:
    run = make_run(rows=rows_of(0.1, 0.2))
    keep(run, 3)
    run.save_checkpoint(1, {})
    RunDirectory.find(run.path).take_up(insects_run(run))
    assert list(representation_files(run.path)) == [0, 1]


def test_pictures_of_a_run_that_never_got_going_go_with_it(make_run: MakeRun) -> None:
    run = make_run(rows=rows_of(0.1))
    keep(run, 1)
    run.discard_unstarted()
    assert not any(run.path.iterdir())


@pytest.mark.slow
def test_a_run_gets_its_figure_and_shows_it_in_the_report(make_run: MakeRun) -> None:
    run = make_run(rows=learned(*[0.5] * 9))
    keep(run, 9)
    run.finish([])
    with Image.open(run.path / "representation.png") as image:
        assert image.width > image.height > 1000
    drawing, panels = words_and_panels(run.path / "representation.svg")
    assert panels == 6 + 2 + 4  # six rounds; t-SNE and the legend; three of lines, one with a second scale
    for words in (
        "Round 0",
        "Round 8",
        "t-SNE",
        "ant",
        "cat",
        "linear probe",
        "probe, 1 % of labels",
        "kNN",
        "alignment",
        "client CKA",
    ):
        assert f"<!-- {words} -->" in drawing
    assert "<!-- Round 1 -->" not in drawing
    report = (run.path / "report.html").read_text()
    assert report.count('<svg class="map"') == 6 + 1  # six rounds, t-SNE
    for words in ("Representations", "client CKA", "probe, 1 % of labels", "Uniformity", "37.5 %"):
        assert words in report


@pytest.mark.slow
def test_what_was_not_kept_or_logged_has_no_panel(tmp_path: Path, make_run: MakeRun) -> None:
    plain = RecordedRun.read(make_run("plain", rows=rows_of(0.1, 0.2), finish=True).path)
    assert not has_representations(plain) and not (plain.path / "representation.png").exists()
    assert 'id="representations"' not in (plain.path / "report.html").read_text()
    logged = RecordedRun.read(make_run("logged", rows=learned(0.1, 0.2)).path)
    assert words_and_panels(representation(logged, tmp_path / "logged.png")[1])[1] == 4
    kept = make_run("kept", rows=rows_of(0.1, 0.2))
    keep(kept, 2, samples=3)  # too few for t-SNE
    assert words_and_panels(representation(RecordedRun.read(kept.path), tmp_path / "kept.png")[1])[1] == 2 + 1


@pytest.mark.slow
def test_the_same_run_gives_the_same_file(tmp_path: Path, make_run: MakeRun) -> None:
    directory = make_run(rows=learned(0.1, 0.2, 0.3))
    keep(directory, 3, samples=40)
    first, second = (representation(RecordedRun.read(directory.path), tmp_path / f"{name}.png") for name in "ab")
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
