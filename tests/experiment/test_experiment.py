"""The experiment file: what it says, what it refuses and where, and that it comes back whole from TOML and flat config."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fedkd import Experiment, History, InputError, simulate
from fedkd.data.partition import argument_names, partition_names
from fedkd.experiment.algorithm.sections import SECTIONS
from fedkd.experiment.registry import strategies
from fedkd.results.figures.convergence import convergence
from fedkd.results.recorded import find_runs


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
    ('[train]\noptimizer = "sdg"', 2, "train.optimizer: 'sdg' is unknown: did you mean 'sgd'?; or \"my_module:optimizer\""),
    ('[strategy]\nname = "fedx"\nbase = "mocco"', 3, "strategy.base: unknown base 'mocco': did you mean 'moco'?"),
]


@pytest.mark.parametrize(("text", "line", "error"), UNKNOWN)
def test_a_mistake_is_one_line_with_the_cure_and_the_place(
    read: Callable[..., Experiment], text: str, line: int, error: str
) -> None:
    with pytest.raises(InputError) as caught:
        read(text)
    assert str(caught.value) == f"{error} (mine.toml:{line})"


MISPLACED = [  # the text of a file, the line of the mistake, the error
    (
        "[data]\nclients = 3\nrounds = 3",
        3,
        "'data.rounds': rounds is a key of the whole experiment: move it above the first [section]",
    ),
    ("[train]\nseed = 3", 2, "'train.seed': seed is a key of the whole experiment: move it above the first [section]"),
    (
        "[strategy]\nname = 'local'\nnets = 'mlp'",
        3,
        "'strategy.nets': nets is a key of the whole experiment: move it above the",
    ),
    (
        "[net_options.cnn]\nhidden = 9\nuplink = []",
        3,
        "'net_options.cnn.uplink': uplink is a key of the whole experiment: move it",
    ),
    (
        "[data]\nstrategy = 'fedx'",
        2,
        "'data.strategy': strategy is a key of the whole experiment: move it above the first [section]",
    ),
    ("[train]\nlr = 1\nclients = 5", 3, "'train.clients': it is a key of [data]: move it there, as data.clients"),
    ("[engine]\nalpha = 5", 2, "'engine.alpha': it is a key of [data]: move it there, as data.alpha"),
    ("[data]\nlr = 5", 2, "'data.lr': it is a key of [train]: move it there, as train.lr"),
    ("clip = 1", 1, "'clip': it is a key of [train] or [privacy]: move it below that header, as train.clip"),
    (
        "[train]\nmu = 1\n[strategy]\nname = 'fedprox'",
        2,
        "'train.mu': it is a key of [strategy]: move it there, as strategy.mu",
    ),
    ("[train.data]\nclients = 3", 1, "'train.data': data is a section of its own: write its header as [data]"),
]


@pytest.mark.parametrize(("text", "line", "error"), MISPLACED)
def test_a_key_in_the_wrong_place_is_told_the_right_one(
    read: Callable[..., Experiment], text: str, line: int, error: str
) -> None:
    with pytest.raises(InputError) as caught:
        read(text)
    assert f"unknown key {error}" in str(caught.value) and str(caught.value).endswith(f"(mine.toml:{line})")


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[2] / "simulations").glob("*.toml")), ids=lambda file: file.stem)
def test_the_shipped_experiments_are_read(file: Path) -> None:
    assert Experiment.from_toml(file).rounds


def test_no_key_of_a_section_is_one_of_the_whole_experiment() -> None:
    """Else a key that slid below a header would be taken for another."""
    inside = {key for section in SECTIONS.values() for key in section.model_fields}
    inside |= {field.name for cls in strategies().values() for field in dataclasses.fields(cls)}
    inside |= {argument for name in partition_names() for argument in argument_names(name)}
    assert not inside & Experiment.model_fields.keys()


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("train.lr", "fast", "train.lr: input should be a valid number, unable to parse string as a number, got 'fast'"),
        ("rounds", "", "rounds: input should be a valid integer, unable to parse string as an integer, got ''"),
        ("rounds", "3\nseed = 4", "rounds: input should be a valid integer, unable to parse string as an integer, got '3"),
        ("rounds.more", "3", "rounds.more: rounds is one value and holds no keys: set rounds itself"),
        ("train", "3", 'train: give a table of its keys, {"epochs": ...}; got 3'),
        ("tarin.lr", "3", "unknown key 'tarin': did you mean 'train'?"),
        ("lr", "3", "unknown key 'lr': it is a key of [train]: move it below that header, as train.lr"),
    ],
)
def test_of_a_bad_value_beside_the_file_it_is_not_said_that_the_file_is_wrong(
    read: Callable[..., Experiment], key: str, value: str, error: str
) -> None:
    with pytest.raises(InputError) as caught:
        read("rounds = 2\n[train]\nlr = 0.1\n", **{key: value})
    assert error in str(caught.value) and str(caught.value).endswith("(given beside the file, as by --set)")


def test_a_date_on_the_command_line_is_text(read: Callable[..., Experiment]) -> None:
    assert read("", **{"data.path": "2024-01-31"}).data.path == "2024-01-31"


WRONG = [
    ({"strategy": 3}, "strategy: give its name, a table"),
    ({"strategy": dict}, "strategy: dict is a class: give an instance"),
    ({"train": 3}, 'train: give a table of its keys, {"epochs": ...}; got 3'),
    ({"data": "digits"}, "data: give a table of its keys, {\"source\": ...}; got 'digits'"),
    ({"data": {"source": 3}}, "data.source: give a name, a path, a function, or a fedkd.data.Source"),
    ({"nets": ["cnn", "mlp"]}, "nets: give one name, shares of the clients"),
    ({"nets": None}, "nets: give one name, shares of the clients"),
    ({"server_net": print}, "server_net: give the name of a net"),
    ({"net_options": {"cnn": 3}}, "net_options.cnn: give a table of options for each net"),
    ({"uplink": 3}, "uplink: give the names of codecs"),
    ({"rounds": "ten"}, "rounds: input should be a valid integer"),
    ({"rounds": True}, "rounds: a number belongs here, got True"),
    ({"train": {"lr": True}}, "train.lr: a number belongs here, got True"),
    ({"strategy": {"name": "fedprox", "mu": True}}, "strategy.mu: a number belongs here, got True"),
    ({"faults": {"dropout": [0.5]}}, "faults.dropout: input should be a valid number, got [0.5]"),
]


@pytest.mark.parametrize(("given", "error"), WRONG)
def test_a_value_of_a_wrong_type_is_one_line_from_python_too(given: dict[str, Any], error: str) -> None:
    with pytest.raises(InputError) as caught:
        Experiment(**given)
    assert error in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: simulate("mine.toml"), r"not a file: simulate\(Experiment\.from_toml\('mine\.toml'\)\)"),
        (lambda: simulate({"rounds": 1}), r"simulate takes an Experiment, as Experiment\(rounds=3\); got \{'rounds': 1\}"),
        (lambda: simulate(Experiment(), 3), "unknown engine 3: use in-process, together, ray, or give a grid"),
        (lambda: simulate(Experiment(), out=3), "out: give the path of a directory, got 3"),
        (lambda: simulate(Experiment(), on_round=3), "on_round: give a function that takes a row of metrics, got 3"),
        (lambda: Experiment("mine.toml"), r"Experiment takes keys, .* to read a file, Experiment\.from_toml"),
        (lambda: Experiment.from_toml({"rounds": 3}), "from_toml reads a file: give its path, got {'rounds': 3}"),
        (lambda: History("mine"), "History: metrics is a list of one dict a row, got str"),
        (lambda: History([3]), "History: metrics is a list of one dict a row, got list"),
        (lambda: History().summary(3), "summary: name one metric, as 'accuracy'; got 3"),
        (lambda: find_runs("runs/mine"), r"give a list of run directories, as \['runs/mine'\]; got 'runs/mine'"),
        (lambda: convergence("runs/mine", "figure.png"), r"give a list of runs, as find_runs\(\['runs/mine'\]\) reads them"),
        (lambda: convergence([], "figure.png"), "give a list of runs"),
    ],
)
def test_what_a_call_cannot_take_is_one_line(call: Callable[[], object], error: str) -> None:
    with pytest.raises(InputError, match=error) as caught:
        call()
    assert "\n" not in str(caught.value)


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
