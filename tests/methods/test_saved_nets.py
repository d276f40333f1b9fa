"""The nets that a finished run left on disk come back as they were, without anybody saying which architecture each one has."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fedkd import Experiment, InputError, predict, simulate
from fedkd.engine.run import Run
from fedkd.experiment.algorithm.server import Server
from fedkd.methods.students.saved_nets import known_classes, read_nets_of
from fedkd.nets import Encoder, Net, build_net
from fedkd.results.data import RecordedData

IMAGES = {"shape": (1, 8, 8), "classes": 10}
OPTIONS = {"mlp": {"hidden": [8]}, "cnn": {"channels": [2, 4], "hidden": 8}, "resnet18": {"width": 2}}
THREE = {"cnn": 0.25, "mlp": 0.25, "resnet18": 0.5}


def experiment(strategy: Any, **changes: Any) -> Experiment:
    data = {"clients": 4, "partition": "iid", "train_limit": 140, **changes.pop("data", {})}
    return Experiment(strategy=strategy, **{"rounds": 1, "nets": "mlp", "net_options": OPTIONS, "data": data, **changes})


@pytest.fixture(scope="module")
def local_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of four clients with three kinds of nets."""
    place = tmp_path_factory.mktemp("runs") / "local"
    simulate(experiment("local", nets=THREE), out=place)
    return place


def left(place: Path, run: Experiment, nets: Mapping[str, Net]) -> Path:
    """A directory as that run might have left it, without running it."""
    (place / "nets").mkdir(parents=True)
    (place / "experiment.toml").write_text(run.to_toml())
    RecordedData.of(run.federation()).write(place)
    for name, net in nets.items():
        weights = {key: tensor.contiguous() for key, tensor in net.state_dict().items()}
        save_file(weights, place / "nets" / f"{name}.safetensors")
    return place


@pytest.fixture
def copied(local_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(local_run, tmp_path / "copy"))


def assert_holds(net: Net, file: Path) -> None:
    """Bit for bit."""
    kept = load_file(file)
    assert net.state_dict().keys() == kept.keys()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in net.state_dict().items())


@pytest.mark.slow
def test_clients_nets_of_every_kind_come_back_bit_for_bit_in_order_of_their_ids(local_run: Path) -> None:
    nets = read_nets_of(local_run, **IMAGES)
    assert list(nets) == [f"client-{client}-main" for client in range(4)]
    of = Experiment.from_toml(local_run / "experiment.toml").architecture_of
    assert [net.architecture for net in nets.values()] == [of(client) for client in range(4)]
    assert {net.architecture for net in nets.values()} == {"cnn", "mlp", "resnet18"}
    for name, net in nets.items():
        assert_holds(net, local_run / "nets" / f"{name}.safetensors")


@pytest.mark.slow
def test_they_are_frozen_in_eval_mode_and_answer_as_in_the_run(local_run: Path) -> None:
    nets = read_nets_of(local_run, **IMAGES)
    assert not any(module.training for net in nets.values() for module in net.modules())
    assert not any(parameter.requires_grad for net in nets.values() for parameter in net.parameters())
    run = Run(Experiment.from_toml(local_run / "experiment.toml"), None)  # type: ignore[arg-type]
    samples, work = run.server.test.samples, run.server.work()
    labels = samples.labels[samples.indices]
    found = [float((predict(net, samples, work).argmax(1) == labels).float().mean()) for net in nets.values()]
    row = simulate(run.experiment).metrics[-1]  # of `local`, accuracy is the mean of the clients'
    assert sum(found) / 4 == pytest.approx(row["accuracy"])


@pytest.mark.slow
def test_ten_comes_after_nine(copied: Path) -> None:
    shutil.copy(copied / "nets" / "client-0-main.safetensors", copied / "nets" / "client-10-main.safetensors")
    assert list(read_nets_of(copied, **IMAGES))[-2:] == ["client-3-main", "client-10-main"]


def test_building_them_draws_nothing_from_the_global_generator(local_run: Path) -> None:
    state = torch.get_rng_state()
    read_nets_of(local_run, **IMAGES)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "settings", "expected"),
    [
        ("fedavg", {}, {"global": "mlp"}),
        ("centralised", {"server_net": "cnn"}, {"global": "cnn"}),
        (
            "feddf",
            {"nets": {"cnn": 0.5, "mlp": 0.5}, "data": {"public": 20, "validation": 20}},
            {"server-cnn": "cnn", "server-mlp": "mlp"},
        ),
    ],
)
def test_a_run_without_clients_own_nets_gives_its_common_one_or_the_servers(
    strategy: str, settings: dict[str, Any], expected: dict[str, str], tmp_path: Path
) -> None:
    simulate(experiment(strategy, **settings), out=tmp_path / "run")
    nets = read_nets_of(tmp_path / "run", **IMAGES)
    assert {name: net.architecture for name, net in nets.items()} == expected
    for name, net in nets.items():
        assert_holds(net, tmp_path / "run" / "nets" / f"{name}.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "key", "peer"),
    [
        ("mean_teacher", "teacher_accuracy", None),
        ("byot", "peer_accuracies", -1),  # the deepest exit
        ("one", "peer_accuracies", 0),
        ("pcl", "peer_accuracies", 0),
    ],
)
def test_of_nets_in_parts_that_part_teaches_which_the_paper_tests(
    strategy: str, key: str, peer: int | None, tmp_path: Path
) -> None:
    ran = experiment(strategy, nets="cnn", data={"clients": 1, "partition": "shared", "test_limit": 200, "labelled": 1.0})
    reported = simulate(ran, out=tmp_path / "run").metrics[-1][key]
    nets = read_nets_of(tmp_path / "run", **IMAGES)
    assert {name: net.architecture for name, net in nets.items()} == {"global": "cnn"}
    test = server_of(ran).test
    right = predict(nets["global"], test.samples, test.work).argmax(1) == test.samples.labels[test.samples.indices]
    assert right.double().mean().item() == pytest.approx(reported if peer is None else reported[peer])
    net = nets["global"]
    outputs = net.outputs(torch.zeros(2, 1, 8, 8))
    assert outputs.features is not None and len(outputs.maps) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [{"name": "born_again", "generation": 2}, "fedgen", "fedgkd", {"name": "snapshot", "cycle": 2}, "tf_kd_self"],
)
def test_what_is_broadcast_beside_a_net_does_not_hide_it(strategy: Any, tmp_path: Path) -> None:
    """Teachers, and a generator."""
    simulate(experiment(strategy, rounds=3), out=tmp_path / "run")
    kept = load_file(tmp_path / "run" / "nets" / "global.safetensors")
    net = read_nets_of(tmp_path / "run", **IMAGES)["global"]
    assert net.state_dict().keys() < kept.keys()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in net.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["local", "fedavg"])
def test_those_of_a_kept_round_are_the_final_ones_of_a_run_that_ended_there(strategy: str, tmp_path: Path) -> None:
    simulate(experiment(strategy), out=tmp_path / "short")
    simulate(experiment(strategy, rounds=2, record={"checkpoints": 2}), out=tmp_path / "long")
    kept, last = read_nets_of(f"{tmp_path / 'long'}@1", **IMAGES), read_nets_of(f"{tmp_path / 'long'}@2", **IMAGES)
    for name, net in kept.items():
        assert_holds(net, tmp_path / "short" / "nets" / f"{name}.safetensors")
        assert_holds(last[name], tmp_path / "long" / "nets" / f"{name}.safetensors")
    assert read_nets_of(f"{tmp_path / 'long'}@best", **IMAGES).keys() == kept.keys() == last.keys()


@pytest.mark.slow
def test_a_round_that_was_not_kept_is_refused_and_an_at_in_a_directorys_name_is_none(local_run: Path, tmp_path: Path) -> None:
    for round in ("7", "first"):
        with pytest.raises(InputError, match=f"kept no round '{round}': the checkpoints that stayed are of rounds 0, 1"):
            read_nets_of(f"{local_run}@{round}", **IMAGES)
    shutil.copytree(local_run, tmp_path / "run@7")
    assert len(read_nets_of(tmp_path / "run@7", **IMAGES)) == 4
    with pytest.raises(InputError, match=r"^strategy.teachers: .* kept no round '7'"):
        simulate(experiment({"name": "multi_teacher", "teachers": [f"{local_run}@7"]}))


def server_of(experiment: Experiment) -> Server:
    return Run(experiment, None).server  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_server_knows_which_classes_each_of_them_has_seen(tmp_path: Path) -> None:
    data = {"clients": 10, "partition": "pathological", "num_classes_per_partition": 2, "train_limit": 200}
    data["class_assignment_mode"] = "first-deterministic"  # all classes are with somebody
    any_net = build_net("mlp", **IMAGES, options=OPTIONS["mlp"])
    left(tmp_path / "local", experiment("local", data=data), {f"client-{client}-main": any_net for client in range(10)})
    left(tmp_path / "fedavg", experiment("fedavg", data=data), {"global": any_net})
    server = server_of(experiment("multi_teacher", data={"public": 20}))
    federation = Experiment.from_toml(tmp_path / "local" / "experiment.toml").federation()
    known = known_classes(server, str(tmp_path / "local"))
    assert known.shape == (10, 10)
    assert known.dtype == torch.bool
    for client, row in enumerate(known):
        labels = federation.client_train(client).labels[federation.client_train(client).indices]
        assert row.nonzero().flatten().tolist() == labels.unique().tolist()
        assert row.sum() == 2
    assert torch.equal(known_classes(server, str(tmp_path / "fedavg")), known.any(0, keepdim=True))


def refusal(path: Path, **images: Any) -> str:
    """The one line that says no."""
    with pytest.raises(InputError) as error:
        read_nets_of(path, **{**IMAGES, **images})
    assert "\n" not in str(error.value)
    return str(error.value)


def test_no_run_an_unfinished_one_and_one_that_left_no_nets(copied: Path, tmp_path: Path) -> None:
    assert "holds no run (it has no experiment.toml): give the directory of a finished run" in refusal(tmp_path / "nowhere")
    shutil.rmtree(copied / "nets")
    assert "has no nets of its clients, and none of its server: finish that run, or take another" in refusal(copied)
    (copied / "experiment.toml").write_text("nets = ")
    assert "experiment.toml cannot be read" in refusal(copied)


@pytest.mark.parametrize("images", [{"shape": (1, 16, 16)}, {"shape": (3, 8, 8)}, {"classes": 7}])
def test_nets_for_other_images_or_classes(local_run: Path, images: dict[str, Any]) -> None:
    line = refusal(local_run, **images)
    shown = {**IMAGES, **images}
    assert "client-" in line
    assert f"(mlp, cnn, resnet18) for samples {shown['shape']} in {shown['classes']} classes" in line.replace(
        "cnn, mlp", "mlp, cnn"
    )


def test_a_damaged_file_is_named(copied: Path) -> None:
    file = copied / "nets" / "client-2-main.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert "client-2-main.safetensors cannot be read" in refusal(copied)


def test_nets_that_only_embed_cannot_teach(tmp_path: Path) -> None:
    embedder = build_net("mlp", **IMAGES, heads=("projection",), options=OPTIONS["mlp"])
    left(tmp_path / "run", experiment("fedx"), {"global": embedder})
    assert "global.safetensors is a net without a classifier (its heads are projection)" in refusal(tmp_path / "run")


# Nets of the user's own: a directory on disk may name them, and never leads to their code.


class Scaled(Encoder):
    """Carries a buffer that no file holds."""

    scale: Tensor

    def __init__(self, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.layer, self.out_features = nn.Linear(64, width), width
        self.register_buffer("scale", torch.full((), 0.5), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (self.scale * self.layer(images.flatten(1))).relu()


def scaled(shape: tuple[int, int, int], classes: int, width: int = 4) -> nn.Module:
    return Scaled(shape, width)


def logits_only(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


@pytest.mark.parametrize(("name", "function"), [("scaled", scaled), ("logits_only", logits_only)])
def test_a_net_of_ones_own_comes_back_where_its_function_is_given(
    name: str, function: Callable[..., nn.Module], tmp_path: Path
) -> None:
    path = f"{__name__}:{name}"
    options = {"mlp": OPTIONS["mlp"], path: {"width": 7} if function is scaled else {}}
    run = experiment("local", nets={path: 0.5, "mlp": 0.5}, net_options=options)
    own = build_net(function, **IMAGES, options=options[path])
    left(tmp_path / "run", run, {"client-0-main": own, "client-1-main": build_net("mlp", **IMAGES, options=options["mlp"])})
    nets = read_nets_of(tmp_path / "run", **IMAGES, functions={path: function})
    assert [net.architecture for net in nets.values()] == [path, "mlp"]
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(nets["client-0-main"](images), own.eval()(images))  # what no file holds is there too
    assert f"may be a {path!r}: name that net in nets or server_net too" in refusal(tmp_path / "run")


@pytest.mark.slow
def test_a_user_s_net_is_found_by_naming_it_in_another_experiment(tmp_path: Path) -> None:
    path = f"{__name__}:scaled"
    run = experiment("local", nets=path, net_options={})
    simulate(run, out=tmp_path / "run")
    given = {"strategy": {"name": "multi_teacher", "teachers": [str(tmp_path / "run")]}, "data": run.data.model_dump()}
    assert simulate(experiment(**given, server_net=path, net_options={})).metrics[-1]["server_loss"] > 0
    with pytest.raises(InputError, match="name that net in nets or server_net too"):
        simulate(experiment(**given))


def test_a_function_from_python_has_no_name_to_be_found_by(tmp_path: Path) -> None:
    run = experiment("local", nets=logits_only, net_options={})
    left(tmp_path / "run", run, {"client-0-main": build_net(logits_only, **IMAGES)})
    assert "may be a '<function>'" in refusal(tmp_path / "run")
    assert len(read_nets_of(tmp_path / "run", **IMAGES, functions={"<function>": logits_only})) == 1
