"""The experiment file: what it says, what it refuses and where, and that it comes back whole from TOML and flat config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fedkd import Experiment, InputError


def full() -> Experiment:
    """An experiment in which every section says something that is not the default."""
    return Experiment(
        strategy={"name": "fedx", "temperature": 0.5, "divergence": "jsd", "detach_target": True},
        rounds=7,
        seed=3,
        nets="resnet18",
        uplink=["float16"],
        train={"lr": 1e-5, "schedule": "step", "milestones": [4], "precision": "bf16"},
        data={"source": "fashion_mnist", "path": 'C:\\a "b"/é 🙂', "partition": "shard", "num_shards_per_partition": 2},
        net_options={"resnet18": {"width": 16, "norm": "group"}, "cnn": {"channels": [8]}, "mlp": {"hidden": [32, 16]}},
        engine={"name": "ray", "num_gpus": 0.25},
    )


def test_a_file_says_what_differs_from_the_defaults(read: Callable[..., Experiment]) -> None:
    experiment = read('rounds = 3\nstrategy = "fedprox"\n[data]\npartition = "dirichlet"\nalpha = 0.1\n[train]\nlr = 1\n')
    assert experiment == Experiment(rounds=3, strategy="fedprox", data={"alpha": 0.1}, train={"lr": 1.0})
    assert experiment.data.arguments == {"alpha": 0.1}
    assert Experiment().data.arguments == {"alpha": 0.5}


UNKNOWN = [  # the text of a file, the line of the mistake, the error
    ("rouns = 3", 1, "unknown key 'rouns': did you mean 'rounds'?"),
    ("[train]\nlr = 1\nbatchsize = 3", 3, "unknown key 'train.batchsize': did you mean 'batch_size'?"),
    ("seed = 1\ntrain = {epoch = 3}", 2, "unknown key 'train.epoch': did you mean 'epochs'?"),
    ("train.epoch = 3", 1, "unknown key 'train.epoch': did you mean 'epochs'?"),
    ("[data]\n\nclinets = 3", 3, "unknown key 'data.clinets' with partition 'dirichlet': did you mean 'clients'?"),
    ('[data]\nviews = "simclrr"', 2, "unknown data.views 'simclrr': did you mean 'simclr'?"),
    ('[data]\npartition = "dirchlet"', 2, "unknown data.partition 'dirchlet': did you mean 'dirichlet'?"),
    ("[engine]\nactor = 3", 2, "unknown key 'engine.actor': did you mean 'actors'?"),
    ('[strategy]\nname = "fedxx"', 2, "strategy.name: unknown strategy 'fedxx': did you mean 'fedx'?"),
    ('[strategy]\nname = "fedprox"\nmi = 1', 3, "unknown key 'strategy.mi': known are mu"),
    ("[net_options.cnn]\nkernal = 3", 2, "net_options.cnn: net 'cnn' has no option 'kernal': did you mean 'kernel'?"),
    ("\n[net_options.cn]\nhidden = 3", 2, "net_options.cn: net 'cn' is unknown: did you mean 'cnn'?; or \"my_module:net\""),
    ('server_net = "cn"', 1, "server_net: net 'cn' is unknown: did you mean 'cnn'?; or \"my_module:net\""),
    ('uplink = ["flaot16"]', 1, "uplink: unknown codec 'flaot16': did you mean 'float16'?"),
    ("[train]\nlr = -1", 2, "train.lr: input should be greater than 0, got -1"),
    ('[train]\noptimizer = "sdg"', 2, "train.optimizer: input should be 'sgd' or 'adam', got 'sdg'"),
    ('[strategy]\nname = "fedx"\nbase = "mocco"', 3, "strategy.base: unknown base 'mocco': did you mean 'moco'?"),
]


@pytest.mark.parametrize(("text", "line", "error"), UNKNOWN)
def test_a_mistake_is_one_line_with_the_cure_and_the_place(
    read: Callable[..., Experiment], text: str, line: int, error: str
) -> None:
    with pytest.raises(InputError) as caught:
        read(text)
    assert str(caught.value) == f"{error} (mine.toml:{line})"


def test_what_is_no_toml_is_said_with_its_line(read: Callable[..., Experiment]) -> None:
    with pytest.raises(InputError, match=r"mine\.toml is not a TOML file: .* \(at line 2, column 10\)"):
        read("seed = 1\nrounds = \n")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_file_may_begin_with_a_byte_order_mark_and_end_its_lines_as_windows_does(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes('rounds = 3\r\n[data]\r\npath = "é"\r\nsource = "tables"\r\n'.encode(encoding))
    experiment = Experiment.from_toml(file)
    assert (experiment.rounds, experiment.data.path) == (3, "é")


def test_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes("rounds = 3".encode("utf-16"))
    with pytest.raises(InputError, match=r"mine\.toml is not a TOML file in UTF-8: save it in this encoding"):
        Experiment.from_toml(tmp_path / "mine.toml")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(InputError, match=r"no experiment file nowhere\.toml: name an existing \.toml file"):
        Experiment.from_toml("nowhere.toml")


def test_overrides_are_values_as_typed_and_win_over_the_file(read: Callable[..., Experiment]) -> None:
    experiment = read(
        'rounds = 2\nstrategy = "fedx"\n[data]\nalpha = 5\n',
        **{"strategy.temperature": "0.5", "data.alpha": "0.1", "nets": "cnn", "net_options.cnn.channels": "4,"},
    )
    assert experiment.strategy == Experiment(strategy={"name": "fedx", "temperature": 0.5}).strategy
    assert (experiment.data.arguments, experiment.nets) == ({"alpha": 0.1}, "cnn")
    assert experiment.net_options == {"cnn": {"channels": [4]}}
    with pytest.raises(InputError, match=r"unknown key 'data\.alfa' .*did you mean 'alpha'"):
        read("rounds = 2\n", **{"data.alfa": "1"})


def test_toml_brings_the_same_experiment_back(read: Callable[..., Experiment]) -> None:
    assert read(full().to_toml()) == full()
    mixed = Experiment(strategy="local", nets={"cnn": 0.25, "mlp": 0.75})
    assert read(mixed.to_toml()) == mixed


def test_flat_config_brings_the_same_experiment_back() -> None:
    """Flower's run-config has no lists: a list of one keeps its comma."""
    flat = full().to_flat()
    assert all(type(value) in (bool, int, float, str) for value in flat.values())
    assert (flat["net_options.cnn.channels"], flat["net_options.mlp.hidden"], flat["uplink"]) == ("8,", "32,16", "float16,")
    assert Experiment.from_flat(flat) == full()
    mixed = Experiment(strategy="local", nets={"cnn": 0.25, "mlp": 0.75})
    assert mixed.to_flat()["nets"] == "cnn:0.25,mlp:0.75"
    assert Experiment.from_flat(mixed.to_flat()) == mixed


def test_equal_configs_are_one_object_within_a_process() -> None:
    assert Experiment.from_flat({"rounds": 2, "seed": 1}) is Experiment.from_flat({"seed": 1, "rounds": 2, "out": "there"})


def test_shares_of_nets_are_dealt_out_in_whole_clients_by_seed() -> None:
    def dealt(seed: int) -> list[str]:
        experiment = Experiment(strategy="local", nets={"cnn": 0.5, "mlp": 0.3, "resnet18": 0.2}, seed=seed)
        return [experiment.architecture_of(client) for client in range(10)]

    assert Counter(dealt(0)) == Counter(dealt(1)) == {"cnn": 5, "mlp": 3, "resnet18": 2}
    assert dealt(0) == dealt(0) != dealt(1)
    thirds = Experiment(strategy="local", nets="cnn:0.34,mlp:0.66", data={"clients": 3})
    assert Counter(map(thirds.architecture_of, range(3))) == {"cnn": 1, "mlp": 2}


@pytest.mark.parametrize(
    ("nets", "error"),
    [
        ({"cnn": 0.5, "mlp": 0.6}, "nets: the shares sum to 1.1: make them sum to 1"),
        ("cnn:0.5", "nets: the shares sum to 0.5: make them sum to 1"),
        ({"cnn": 1.5, "mlp": -0.5}, "nets: the share of 'cnn' is 1.5"),
        ({"cnn": "half", "mlp": 0.5}, "nets: the share of 'cnn' is 'half'"),
        ("cnn:0.5,mlp", "nets: the share of '' is 'mlp'"),
    ],
)
def test_shares_must_be_shares(nets: object, error: str) -> None:
    with pytest.raises(InputError, match=error):
        Experiment(strategy="local", nets=nets)


@pytest.mark.parametrize(
    ("changes", "lack"),
    [
        ({"data": {"labelled": 0.0}}, "FedAvg needs labels: set data.labelled above 0"),
        ({"nets": {"cnn": 0.5, "mlp": 0.5}}, "FedAvg needs the same net at all clients: name one in nets"),
        ({"strategy": "needy"}, "Needy needs a public set: set data.public to its size"),
        ({"strategy": "needy", "data": {"public": 9}}, "Needy needs a labelled validation set: set data.validation"),
    ],
)
def test_a_strategy_says_what_it_lacks(changes: dict[str, Any], lack: str) -> None:
    from dataclasses import dataclass
    from typing import ClassVar

    from contract import LeaveOneOut, Numbers

    from fedkd import Needs

    @dataclass(frozen=True)
    class Needy(Numbers):
        needs: ClassVar[Needs] = Needs(public=True, validation=True)
        client_update, server_update = LeaveOneOut.client_update, LeaveOneOut.server_update

    if changes.get("strategy") == "needy":
        changes = {**changes, "strategy": Needy()}
    with pytest.raises(InputError, match=f"strategy: {lack}"):
        Experiment(**changes)


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, [0.4, 0.4, 0.4, 0.4]),
        ({"warm_up": 2}, [0.2, 0.4, 0.4, 0.4]),
        ({"schedule": "step", "milestones": [1, 3], "gamma": 0.5}, [0.4, 0.2, 0.2, 0.1]),
        ({"schedule": "cosine"}, [0.4, 0.2 * (1 + 2**-0.5), 0.2, 0.2 * (1 - 2**-0.5)]),
        ({"schedule": "cosine", "warm_up": 2}, [0.2, 0.4, 0.4, 0.2]),
    ],
)
def test_the_learning_rate_follows_its_schedule_over_rounds(settings: dict[str, Any], rates: list[float]) -> None:
    experiment = Experiment(rounds=4, train={"lr": 0.4, **settings})
    assert [experiment.lr(round) for round in (1, 2, 3, 4)] == pytest.approx(rates)


def test_an_experiment_does_not_change_and_a_copy_is_checked_again() -> None:
    experiment = Experiment()
    for part, name, value in ((experiment, "rounds", 3), (experiment.train, "lr", 1.0), (experiment.data, "clients", 2)):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, name, value)
    assert (experiment.replace(rounds=3).rounds, experiment.rounds) == (3, 20)
    with pytest.raises(InputError, match="rounds: input should be greater than or equal to 1, got 0"):
        experiment.replace(rounds=0)
