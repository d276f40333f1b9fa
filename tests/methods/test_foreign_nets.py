"""Nets of another run teach in this run's terms: its order of classes, its normalisation; or they are refused by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedkd import Experiment, InputError, simulate
from fedkd.data import Source, normalise
from fedkd.engine.run import Run
from fedkd.experiment.algorithm.server import Server
from fedkd.methods.students.foreign_nets import NO_LOGIT, columns_of
from fedkd.methods.students.saved_nets import known_classes, load_nets
from fedkd.nets import build_net
from fedkd.targets import RULES

ANIMALS = ("ant", "bee", "cat", "dog")


def animals(classes: Sequence[str] = ANIMALS, *, brightness: int = 0, size: int = 6, known: Sequence[str] = ANIMALS) -> Source:
    """One bright quadrant says which animal it is, whatever number its class has here."""
    rng = torch.Generator().manual_seed(0)
    names = [name for name in classes if name in known] * 12
    images = torch.randint(0, 60, (len(names), 1, size, size), generator=rng, dtype=torch.uint8) + brightness
    for image, name in zip(images, names, strict=True):
        row, column = divmod(sorted([*ANIMALS, "owl"]).index(name) % 4, 2)
        image[0, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3] += 120
    labels = torch.tensor([list(classes).index(name) for name in names])
    return Source("animals", images, labels, images[:8], labels[:8], tuple(classes))


def experiment(strategy: Any, source: Callable[[], Source], **changes: Any) -> Experiment:
    data = {"source": source, "clients": 2, "partition": "iid", **changes.pop("data", {})}
    train = {"optimizer": "adam", "lr": 0.01, "epochs": 8, "batch_size": 8}
    options = {"mlp": {"hidden": [16]}}
    return Experiment(
        strategy=strategy, **{"rounds": 1, "nets": "mlp", "net_options": options, "train": train, "data": data} | changes
    )


def teacher(place: Path, **source: Any) -> str:
    """A finished run whose two clients tell the animals apart."""
    simulate(experiment("local", lambda: animals(**source), rounds=3), out=place)
    return str(place)


def server_on(source: Source) -> Server:
    return Run(experiment("multi_teacher", lambda: source, data={"public": 8}), None).server  # type: ignore[arg-type]


def right(server: Server, net: nn.Module) -> float:
    """Which share of the server's own training images a net names rightly, as the server numbers them."""
    source = server.federation.source
    images = normalise(source.train_inputs, *source.moments)
    return float((net(images).argmax(1) == source.train_labels).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize("ours", [ANIMALS, ANIMALS[::-1], ("cat", "ant", "dog", "bee")])
def test_teachers_answer_in_the_students_order(ours: tuple[str, ...], tmp_path: Path) -> None:
    run, server = teacher(tmp_path / "run"), server_on(animals(ours))
    assert [right(server, net) for net in load_nets(server, run).values()] == [1.0, 1.0]


@pytest.mark.slow
def test_teachers_see_images_normalised_as_in_their_own_run(tmp_path: Path) -> None:
    """The same animals, in a run whose other images are much brighter."""
    run, here = teacher(tmp_path / "run"), animals()
    bright = torch.full_like(here.train_inputs[:40], 250)
    images, labels = torch.cat([here.train_inputs, bright]), torch.cat([here.train_labels, torch.zeros(40, dtype=torch.int64)])
    server = server_on(Source("brighter", images, labels, here.test_inputs, here.test_labels, ANIMALS))
    there = server_on(here)
    for ours, theirs in zip(load_nets(server, run).values(), load_nets(there, run).values(), strict=True):
        source = server.federation.source
        ours_said = ours(normalise(here.train_inputs, *source.moments))
        theirs_said = theirs(normalise(here.train_inputs, *here.moments))
        torch.testing.assert_close(ours_said, theirs_said, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.outputs(images[:3].float()).logits, ours(images[:3].float()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "message"),
    [
        (("ant", "bee", "cat"), "it knows 'dog' too"),
        (("ant", "bee", "cat", "dog", "owl"), "it does not know 'owl'"),
        (("ant", "bee", "cat", "owl"), "it does not know 'owl'"),
        (("cow", "hen", "pig", "owl"), "it knows none of this run's classes, it has 'ant', 'bee', 'cat', 'dog'"),
    ],
)
def test_other_classes_are_refused_in_one_line_before_anything_runs(
    ours: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    run = teacher(tmp_path / "run")
    labels = torch.arange(24) % len(ours)
    source = Source("ours", animals().train_inputs[:24], labels, animals().test_inputs[:3], labels[:3], ours)
    with pytest.raises(InputError, match=r"strategy\.teachers: .*run: it") as error:
        simulate(experiment({"name": "multi_teacher", "teachers": run}, lambda: source), out=tmp_path / "student")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "student").exists()


@pytest.mark.slow
def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    run = teacher(tmp_path / "run")
    with pytest.raises(InputError, match=r"saw image samples \(1, 6, 6\), this run's are image \(1, 8, 8\)"):
        load_nets(server_on(animals(size=8)), run)


@pytest.mark.slow
def test_a_run_that_recorded_nothing_teaches_with_a_notice_and_has_no_class_sets(tmp_path: Path) -> None:
    run, server = teacher(tmp_path / "run"), server_on(animals())
    (tmp_path / "run" / "data.json").unlink()
    with pytest.warns(UserWarning, match="does not say which data it saw"):
        assert len(load_nets(server, run)) == 2
    with pytest.warns(UserWarning), pytest.raises(InputError, match="does not say which classes its nets know"):
        known_classes(server, run)


@pytest.mark.slow
def test_for_unify_teachers_need_not_know_all_classes(tmp_path: Path) -> None:
    some, others = ("dog", "ant", "bee"), ("owl", "cat", "bee", "dog")
    runs = [teacher(tmp_path / name, classes=names, known=names) for name, names in (("a", some), ("b", others))]
    server = server_on(animals())
    assert known_classes(server, runs[0]).tolist() == [[True, True, False, True]] * 2
    assert known_classes(server, runs[1]).tolist() == [[False, True, True, True]] * 2
    (net, *_) = load_nets(server, runs[0], some_classes=True).values()
    assert net(torch.zeros(2, 1, 6, 6))[:, 2].tolist() == [NO_LOGIT] * 2
    strategy = {"name": "multi_teacher", "teachers": runs, "target": "unify", "label_weight": 0.0}
    row = simulate(experiment(strategy, animals, rounds=3)).metrics[-1]
    assert row["accuracy"] > 0.7  # by teachers of whom none knows all four


@pytest.mark.slow
@pytest.mark.parametrize("target", sorted(RULES))
@pytest.mark.parametrize("finished", [True, False])
def test_every_target_hears_finished_runs_and_clients(target: str, finished: bool, tmp_path: Path) -> None:
    teachers = [teacher(tmp_path / "run")] if finished else []
    strategy = {"name": "multi_teacher", "target": target, "teachers": teachers}
    if target == "weighted":
        strategy["teacher_weights"] = [1, 2]
    data = {"public": 12, "public_labels": True, "validation": 8}
    row = simulate(experiment(strategy, lambda: animals(ANIMALS[::-1]), data=data)).metrics[-1]
    assert row["server_loss"] > 0


def test_columns_by_name() -> None:
    assert columns_of(["b", "a"], ["a", "b"]) == [1, 0]
    assert columns_of(["b", "c"], ["a", "b"], some=True) == [-1, 0]
    assert columns_of(["a", "a"], ["a", "a"]) == [0, 1]  # the same list needs no telling apart
    with pytest.raises(InputError, match="'a' is the name of two"):
        columns_of(["a", "a"], ["a", "b"])


def test_a_net_of_logits_alone_is_shifted_too() -> None:
    from fedkd.methods.students.foreign_nets import with_our_classes, with_our_inputs

    def flat(shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(4, classes))

    net, pixels = build_net(flat, shape=(1, 2, 2), classes=3), torch.rand(5, 1, 2, 2)
    said = net((pixels - 0.2) / 0.5)
    here = with_our_classes(
        with_our_inputs(net, (torch.tensor([0.2]), torch.tensor([0.5])), (torch.tensor([0.7]), torch.tensor([0.1]))), [2, -1, 0]
    )
    found = here((pixels - 0.7) / 0.1)
    torch.testing.assert_close(found[:, [2, 0]], said[:, [0, 2]], rtol=1e-4, atol=1e-5)
    assert (found[:, 1] == NO_LOGIT).all()
