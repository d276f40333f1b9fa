"""Keys that do nothing: an error where the user meant something by them, a note where nothing is lost, silence elsewhere."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import LeaveOneOut

from fedkd import Experiment, InputError, simulate
from fedkd.base.errors import Notice
from fedkd.cli.baselines import baselines_of
from fedkd.engine.one_run import tell_what_is_idle
from fedkd.experiment.algorithm.algorithm import USABLE
from fedkd.experiment.algorithm.conditions import When
from fedkd.experiment.algorithm.sections import SECTIONS
from fedkd.experiment.registry import strategies
from fedkd.knowledge.attacks import ATTACKS
from fedkd.results.history import TIMES
from fedkd.testing.kinds_of_samples import texts

FILES = sorted((Path(__file__).parents[2] / "simulations").glob("*.toml"))
PUBLIC = {"public": 40}


def experiment(data: Mapping[str, Any] | None = None, **keys: Any) -> Experiment:
    """As a user writes one: 4 clients, and only the keys given."""
    return Experiment(**{"nets": "mlp", **keys, "data": {"clients": 4, "train_limit": 200, **(data or {})}})


def told(**keys: Any) -> str:
    """What is said of an experiment's keys: the error, else the notes in lines; empty if nothing is."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            tell_what_is_idle(experiment(**keys))
        except InputError as error:
            return f"error: {error}"
    return "\n".join(f"note: {warning.message}" for warning in caught if issubclass(warning.category, Notice))


ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"train": {"milestones": [3]}}, 'train.milestones = [3] does nothing here: train.schedule is "constant", and only "step"'),
    ({"train": {"schedule": "cosine", "gamma": 0.5}}, 'train.gamma = 0.5 does nothing here: train.schedule is "cosine"'),
    ({"train": {"schedule": "step"}}, 'train.schedule = "step" does nothing here: there are no train.milestones: set them'),
    ({"train": {"optimizer": "adam", "momentum": 0.5}}, "train.momentum = 0.5 does nothing here: adam has none"),
    ({"train": {"optimizer": "adam", "nesterov": True}}, "train.nesterov = true does nothing here: adam has no such momentum"),
    ({"server_net": "cnn", "strategy": "fd"}, 'server_net = "cnn" does nothing here: fd trains no net at the server'),
    ({"shared_net": "mlp"}, 'shared_net = "mlp" does nothing here: fedavg trains no net that all have in common'),
    ({"data": {"public_labels": True}}, "data.public_labels = true does nothing here: there is no public set: set data.public"),
    ({"data": {**PUBLIC, "public_labels": True}, "strategy": "cronus"}, "cronus uses no labels of public samples"),
    ({"data": {**PUBLIC, "public_labels": True}, "strategy": "dgkd"}, "dgkd uses no labels of public samples"),
    (
        {"data": {**PUBLIC, "public_source": "digits"}},
        "data.public = 40 does nothing here: fedavg uses no public samples: leave",
    ),
    (
        {"data": {"views": "simclr"}, "strategy": "moon"},
        'data.views = "simclr" does nothing here: moon shows its nets the samples',
    ),
    ({"data": {"length": 9}}, "data.length = 9 does nothing here: it counts tokens of text, and data.tokens is not set"),
    (
        {"nets": "cnn1d", "data": {"source": texts, "normalise": "client"}},
        """data.normalise = "client" does nothing here: samples of kind 'tokens' are not normalised""",
    ),
    ({"data": {"source": lambda: None, "path": "x"}}, 'data.path = "x" does nothing here: the function of data.source reads'),
    ({"evaluation": {"fine_tune_epochs": 2}}, "evaluation.fine_tune_epochs = 2 does nothing here: fedavg trains classifiers"),
    (
        {"evaluation": {"pictured": 9}, "strategy": "fedx_rep", "data": PUBLIC},
        "fedx_rep trains encoders at clients only, and this",
    ),
    ({"evaluation": {"label_shares": [0.5]}, "strategy": "local"}, "evaluation.label_shares = [0.5] does nothing here: local"),
    ({"attack": {"name": "noise"}}, 'attack.name = "noise" does nothing here: attack.share is 0: set the share of the clients'),
    ({"attack": {"share": 0.5}}, "attack.share = 0.5 does nothing here: no attack.name says how they attack: set it to one of"),
    ({"attack": {"name": "noise", "share": 0.1}}, "attack.share = 0.1 does nothing here: that of 4 clients is none: set it to"),
    ({"attack": {"scale": 2.0}}, "attack.scale = 2.0 does nothing here: there is no attack.name"),
    (
        {"attack": {"name": "label_flip", "share": 0.5, "scale": 2.0}},
        "attack.scale = 2.0 does nothing here: label_flip has none",
    ),
    ({"attack": {"name": "label_flip", "share": 0.5}, "strategy": "fedu"}, "changes labels, and fedu trains without labels"),
    ({"attack": {"name": "label_flip", "share": 0.5}, "strategy": "centralised"}, "with centralised no client trains a net"),
    (
        {"attack": {"name": "similar_class", "share": 0.5}},
        "similar_class changes logits, probabilities, and clients send weights",
    ),
    ({"attack": {"name": "lma", "share": 0.5}}, "lma changes logits, probabilities, and clients send weights"),
    (
        {"attack": {"name": "lma", "share": 0.5}, "strategy": "selective_fd", "data": PUBLIC},
        "lma changes logits, probabilities of which all clients send as many rows, and here each chooses its own",
    ),
    ({"attack": {"name": "hips", "share": 0.5, "scale": 2.0}, "strategy": "dsfl", "data": PUBLIC}, "hips has none"),
    ({"attack": {"name": "noise", "share": 0.5}, "strategy": "local"}, "and clients send no tensors here"),
    ({"attack": {"name": "sign_flip", "share": 0.5, "scale": 2.0}, "strategy": "dsfl", "data": PUBLIC}, "attack.scale = 2.0"),
    ({"faults": {"nan": 0.5}, "strategy": "local"}, "faults.nan = 0.5 does nothing here: clients send no tensors here"),
    ({"privacy": {"clip": 2.0}}, "privacy.clip = 2.0 does nothing here: privacy.noise_multiplier is 0, which is off"),
    ({"engine": {"address": "auto"}}, 'engine.address = "auto" does nothing here: engine.name is "in-process"'),
    (
        {"uplink": ["top8"]},
        'uplink = ["top8"] does nothing here: clients send weights here, and top8 leaves what is sent as it is',
    ),
    ({"uplink": ["float16", "bits4"]}, "bits4 leaves what is sent as it is"),
    (
        {"uplink": "bits1", "strategy": "fedmd", "data": PUBLIC},
        "clients send logits here, and bits1 leaves what is sent as it is",
    ),
    ({"uplink": "svd", "strategy": "cronus", "data": PUBLIC}, "clients send probabilities here, and svd leaves what is sent"),
    ({"uplink": "top9", "strategy": "cronus", "data": PUBLIC}, "and top9 leaves what is sent as it is"),  # 9 of 10 classes
    ({"uplink": "deflate", "strategy": "local"}, "clients send no tensors here, and deflate leaves what is sent as it is"),
    ({"downlink": "int8", "strategy": "local"}, 'downlink = ["int8"] does nothing here: nothing is broadcast here'),
    ({"downlink": "int8", "strategy": "ensemble"}, 'downlink = ["int8"] does nothing here: nothing is broadcast here'),
    ({"strategy": {"name": "you2017", "label_weight": 0.5}, "data": PUBLIC}, "the public samples have no labels"),
    (
        {"strategy": {"name": "cronus", "corrupt": 0.2}, "data": PUBLIC},
        "a share of 0.2 of 4 clients is none, and nobody is left",
    ),
    ({"downlink": "top2"}, 'downlink = ["top2"] does nothing here: clients send weights here, and top2 leaves what is sent'),
    ({"strategy": {"name": "dsfl", "exponent": 3.0}, "data": PUBLIC}, "it counts only with strategy.sharpening = power"),
    ({"strategy": {"name": "fedmd", "temperature": 2.0}, "data": PUBLIC}, "it counts only with strategy.loss = kd or "),
    (
        {"strategy": {"name": "cfd", "bits_up": 4}, "uplink": "bits2", "data": PUBLIC},
        "strategy.bits_up = 4 does nothing here: uplink",
    ),
]


@pytest.mark.parametrize(("keys", "error"), ERRORS, ids=[error[:40] for _, error in ERRORS])
def test_a_key_that_the_user_meant_and_that_does_nothing_is_an_error(keys: dict[str, Any], error: str) -> None:
    said = told(**keys)
    assert said.startswith("error: ") and error in said and "\n" not in said


NOTES: list[tuple[dict[str, Any], str]] = [
    (
        {"strategy": "dosfl", "train": {"lr": 0.1}},
        "note: train.lr = 0.1 does nothing here: dosfl learns samples alone",
    ),
    ({"train": {"optimizer": "adam", "momentum": 0.9}}, "note: train.momentum = 0.9 does nothing here: adam has none"),
    ({"train": {"schedule": "step", "milestones": [30]}}, "note: train.milestones = [30] does nothing here: there are only 20"),
    ({"train": {"schedule": "cosine", "warm_up": 20}}, 'note: train.schedule = "cosine" does nothing here: the warm-up takes'),
    ({"data": PUBLIC}, "note: data.public = 40 only holds samples out here, for nobody: fedavg uses no public"),
    ({"data": {"validation": 40}}, "note: data.validation = 40 only holds samples out here, for nobody"),
    (
        {"shared_net": "cnn", "server_net": "cnn", "strategy": "fml"},
        'note: server_net = "cnn" does nothing here: fml has shared_',
    ),
    ({"server_net": "mlp"}, 'note: server_net = "mlp" does nothing here'),
    (
        {"net_options": {"resnet18": {"width": 4}}},
        'note: net_options.resnet18 = {"width": 4} does nothing here: nobody has this',
    ),
    (
        {"strategy": {"name": "cfd", "public_samples": 50}, "data": PUBLIC},
        "note: strategy.public_samples = 50 does nothing here: there",
    ),
    (
        {"strategy": {"name": "born_again", "variant": "dkpp"}, "rounds": 3},
        'note: strategy.variant = "dkpp" does nothing here: str',
    ),
    ({"participation": 0.9}, "note: participation = 0.9 does nothing here: that of 4 clients is all of them"),
    ({"enough": 0.9}, "note: enough = 0.9 does nothing here: that of 4 clients is all of them"),
    ({"late_rounds": 1}, "note: late_rounds = 1 does nothing here: in a simulation without faults.straggle"),
    ({"engine": {"actors": 4}}, "note: engine.actors = 4 does nothing here"),
    ({"privacy": {"noise_multiplier": 0.0, "clip": 2.0}}, "note: privacy.clip = 2.0 does nothing here"),  # a control
    ({"strategy": {"name": "moon", "mu": 0.0, "temperature": 0.1}}, "note: strategy.temperature = 0.1 does nothing here: it"),
    ({"attack": {"name": "noise", "share": 0.0}}, 'note: attack.name = "noise" does nothing here: attack.share is 0'),
    ({"strategy": {"name": "dsfl", "exponent": 2.0}, "data": PUBLIC}, "note: strategy.exponent = 2.0 does nothing here"),
]


@pytest.mark.parametrize(("keys", "note"), NOTES, ids=[note[:40] for _, note in NOTES])
def test_of_a_key_that_is_at_its_default_or_stands_ready_there_is_a_note(keys: dict[str, Any], note: str) -> None:
    assert told(**keys).startswith(note)


QUIET: list[dict[str, Any]] = [
    {},
    {"train": {"schedule": "step", "milestones": [3], "gamma": 0.5}},
    {"strategy": "fedmd", "data": {**PUBLIC, "public_labels": True}, "uplink": ["top2", "int8", "delta", "deflate"]},
    {"strategy": "cfd", "data": PUBLIC, "server_net": "cnn", "uplink": "bits4", "downlink": ["bits32"]},
    {"strategy": "fedx", "data": {"views": "simclr"}, "evaluation": {"fine_tune_epochs": 1}, "uplink": "float16"},
    {"strategy": "encoder_distillation", "data": PUBLIC, "downlink": "float16"},
    {"attack": {"name": "noise", "share": 0.25, "scale": 3.0}, "faults": {"nan": 0.1}},
    {"attack": {"name": "label_flip", "share": 0.125}, "strategy": "local"},
    {"strategy": "local", "data": {**PUBLIC, "validation": 20}},  # a baseline holds out what others use
    {"data": {"public": 0, "validation": 0}, "shared_net": "", "train": {"optimizer": "adam", "nesterov": False}},
    {"enough": 0.5, "late_rounds": 1, "participation": 0.5},
]


@pytest.mark.parametrize("keys", QUIET)
def test_of_keys_that_count_nothing_is_said(keys: dict[str, Any]) -> None:
    assert told(**keys) == ""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_shipped_experiments_their_copies_and_their_baselines_are_quiet(file: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        shipped = Experiment.from_toml(file)
        (tmp_path / "experiment.toml").write_text(shipped.to_toml())
        assert Experiment.from_toml(tmp_path / "experiment.toml") == shipped == Experiment.from_flat(shipped.to_flat())
        assert Experiment.from_toml(tmp_path / "experiment.toml", {"seed": "5"}).seed == shipped.replace(seed=5).seed == 5
        baselines_of(shipped)


def test_keys_of_a_run_belong_to_it_and_not_to_its_baselines(tmp_path: Path) -> None:
    main = experiment(strategy="fml", shared_net="cnn", uplink=["float16"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        for baseline in baselines_of(main).values():
            tell_what_is_idle(baseline)
            (tmp_path / "experiment.toml").write_text(baseline.to_toml())
            tell_what_is_idle(Experiment.from_toml(tmp_path / "experiment.toml"))


def test_a_copy_is_told_of_what_was_changed_in_it() -> None:
    with pytest.raises(InputError, match='shared_net = "cnn" does nothing here: fedavg trains'):
        experiment().replace(shared_net="cnn")
    with pytest.raises(InputError, match="clients send weights here, and bits4 leaves"):
        tell_what_is_idle(experiment(uplink=["bits4"]).replace(seed=3))


def test_a_file_is_told_the_line_and_the_command_line_that_it_was_given_there(
    read: Callable[..., Experiment], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"train\.milestones = \[3\] does nothing here.*\(mine\.toml:3\)$"):
        read("[train]\nlr = 1\nmilestones = [3]\n")
    with pytest.raises(InputError, match=r"train\.milestones = \[3\] does nothing here.*\(given beside the file"):
        read("[train]\nlr = 1\n", **{"train.milestones": "[3]"})
    (tmp_path / "run.toml").write_text(experiment().to_toml())
    with pytest.raises(InputError, match=r"shared_net = \"cnn\" does nothing here.*\(given beside the file"):
        Experiment.from_toml(tmp_path / "run.toml", {"shared_net": "cnn"})


def test_with_another_engine_given_the_keys_of_the_first_are_no_matter() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        tell_what_is_idle(experiment(engine={"address": "auto", "actors": 4}), "ray")


@pytest.mark.parametrize("name", ATTACKS)
def test_the_scale_counts_in_the_spaces_that_an_attack_says(name: str) -> None:
    attack = ATTACKS[name]
    for space, distort in attack.distortions.items():
        rows = torch.tensor([[0.5, 0.3, 0.2]])
        weak, strong = (distort(rows, None, scale, torch.Generator().manual_seed(0)) for scale in (1.0, 3.0))
        assert torch.equal(weak, strong) is not (space in attack.scaled)


@pytest.mark.parametrize("name", ["local", "fd", "fedmd"])
def test_nets_at_clients_of_which_none_is_evaluated_are_refused(name: str) -> None:
    said = told(strategy=name, evaluate_clients=0, data=PUBLIC)
    assert said == f"error: evaluate_clients = 0: {name} has nets at clients only, so nothing would be evaluated: raise it"
    assert told(strategy="fedavg", evaluate_clients=0) == told(strategy="ensemble", evaluate_clients=0) == ""


def test_a_strategy_of_a_users_own_may_use_everything() -> None:
    keys = {"server_net": "cnn", "shared_net": "mlp", "data": {**PUBLIC, "public_labels": True, "validation": 9}}
    assert told(strategy=LeaveOneOut(), **keys, evaluation={"pictured": 3}) == ""


def test_what_is_known_of_strategies_names_things_that_are_there() -> None:
    for cls in strategies().values():
        fields = {field.name for field in dataclasses.fields(cls)}
        others = {other.name for each in cls.idle.values() for other in each if isinstance(other, When)}
        training = {f"train.{key}" for key in SECTIONS["train"].model_fields}
        assert cls.idle.keys() - {"labels", *USABLE} - training | others <= fields
    assert all(set(cls.needs.uses or ()) <= set(USABLE) for cls in strategies().values())


# What is refused makes no difference, and what is not refused makes one.

TRIED: dict[str, dict[str, Any]] = {
    "server_net": {"server_net": "mlp"},
    "shared_net": {"shared_net": "mlp"},
    "views": {"data": {"views": "simclr"}},
    "public_labels": {"data": {"public_labels": True}},
    "representations": {"evaluation": {"label_shares": [0.5]}},
    "compared": {"evaluation": {"compared": 0}},
    "probe_epochs": {"evaluation": {"probe_epochs": 40}},
}


def tiny(name: str, **changes: Any) -> dict[str, Any]:
    """The keys of a run of a second, with whatever the strategy needs."""
    needs = strategies()[name].needs
    data = {"clients": 2, "train_limit": 160, "test_limit": 40, "partition": "shared" if needs.shared_data else "iid"}
    data |= {"public": 30 if needs.public else 0, "validation": 30 if needs.validation else 0}
    options = {"mlp": {"hidden": [8]}, "cnn": {"channels": [4, 8], "hidden": 8}}
    own = {"fedmoco": {"queue": 64}, "fedprotocl": {"queue": 64, "prototypes": [4]}}
    table = {"name": name, **own.get(name, {})}
    keys = {"rounds": 1, "nets": "cnn", "net_options": options, "train": {"lr": 0.05, "batch_size": 32}, "strategy": table}
    probed = {"representations", "probe_epochs"}.intersection(needs.uses or ())
    evaluation = {**({"probe_epochs": 5} if probed else {}), **changes.get("evaluation", {})}
    return {**keys, **changes, "data": {**data, **changes.get("data", {})}, "evaluation": evaluation}


def rows(experiment: Experiment) -> str:
    """All metrics but times, as text: equal texts are equal bits."""
    history = simulate(experiment)
    return json.dumps([{k: v for k, v in row.items() if k not in TIMES} for row in (*history.metrics, *history.clients)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::fedkd.base.errors.Notice")
@pytest.mark.parametrize("name", sorted(strategies()))
def test_what_is_refused_makes_no_difference_and_what_is_not_makes_one(name: str) -> None:
    usual, idle = rows(Experiment(**tiny(name))), dict[str, Any]()
    for tried in TRIED.values():
        try:
            changed = Experiment(**tiny(name, **tried))
        except InputError as error:
            if "does nothing here" in str(error):
                for key, value in tried.items():
                    idle[key] = {**idle.get(key, {}), **value} if isinstance(value, dict) else value
        else:
            try:
                found = rows(changed)
            except InputError:  # FedGKT's server cannot go on from maps with an mlp: that shows before round 1
                continue
            assert found != usual, tried
    assert rows(Experiment.from_values(tiny(name, **idle))) == usual
