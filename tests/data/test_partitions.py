from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedkd.base.errors import InputError, Notice
from fedkd.base.randomness import generator
from fedkd.data import Federation, Source
from fedkd.data.dirichlet import dirichlet
from fedkd.data.partition import check_partition, make_partition, partition_names

LABELS = torch.arange(200) % 5  # forty images of each of five classes

FITTING: dict[str, dict[str, Any]] = {  # arguments for five clients of LABELS
    "continuous": {"strictness": 0.5},
    "dirichlet": {"alpha": 1.0, "min_partition_size": 2, "self_balancing": True},
    "distribution": {
        "distribution_array": [[3.0, 1.0]] * 5,
        "num_unique_labels_per_partition": 2,
        "preassigned_num_samples_per_label": 1,
    },
    "exponential": {},
    "iid": {},
    "inner_dirichlet": {"partition_sizes": (40, 40, 40, 40, 40), "alpha": 0.5},
    "linear": {},
    "pathological": {"num_classes_per_partition": 2, "class_assignment_mode": "deterministic"},
    "shard": {"num_shards_per_partition": 2},
    "size": {"partition_sizes": (10, 20, 30, 40, 100)},
    "square": {},
}


def test_every_partitioner_of_flwr_datasets_has_a_name() -> None:
    assert {*FITTING, "grouped_natural_id", "natural_id", "shared"} <= set(partition_names())
    assert not {"", "vertical_even", "id_to_size_fnc"} & set(partition_names())


@pytest.mark.parametrize("name", FITTING)
def test_parts_are_disjoint_and_follow_the_seed(name: str) -> None:
    def deal(seed: int) -> list[list[int]]:
        parts = make_partition(name, FITTING[name], clients=5, seed=seed)(LABELS, None)
        return [part.tolist() for part in parts]

    parts = deal(0)
    rows = [row for part in parts for row in part]
    assert len(parts) == 5
    assert len(set(rows)) == len(rows), "no image at two clients"
    assert set(rows) <= set(range(200))
    assert deal(0) == parts
    assert deal(1) != parts


@pytest.mark.slow  # it imports flwr_datasets
@pytest.mark.filterwarnings("ignore:The specified min_partition_size")  # theirs warns of each draw that it repeats
@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
@pytest.mark.parametrize(
    "arguments",
    [
        {"alpha": 0.5},
        {"alpha": 1, "shuffle": False},
        {"alpha": 0.1, "min_partition_size": 0},
        {"alpha": 0.3, "min_partition_size": 12},  # most draws leave a client with less
        {"alpha": 0.1, "self_balancing": True},
        {"alpha": [0.2, 0.5, 1.0, 5.0, 9.0, 0.2, 0.5, 1.0, 5.0, 9.0], "min_partition_size": 1, "self_balancing": True},
    ],
)
def test_the_dirichlet_draw_is_that_of_flwr_datasets(arguments: dict[str, Any], seed: int) -> None:
    from datasets import Dataset
    from flwr_datasets.partitioner import DirichletPartitioner

    labels = torch.randint(0, 7, (403,), generator=generator(seed, "labels")).numpy()
    theirs = DirichletPartitioner(num_partitions=10, partition_by="label", seed=seed, **arguments)
    theirs.dataset = Dataset.from_dict({"row": range(403), "label": labels})
    usual: dict[str, Any] = {"min_partition_size": 10, "self_balancing": False, "shuffle": True}
    alpha = np.broadcast_to(arguments["alpha"], 10)
    ours = dirichlet(labels, seed=seed, **(usual | arguments | {"alpha": alpha}))
    assert [part.tolist() for part in ours] == [list(theirs.load_partition(client)["row"]) for client in range(10)]


def test_iid_parts_are_even() -> None:
    parts = make_partition("iid", {}, clients=3, seed=0)(torch.zeros(10, dtype=torch.int64), None)
    assert sorted(len(part) for part in parts) == [3, 3, 4]


def test_deterministic_pathological_parts_have_the_classes_that_flwr_datasets_promises() -> None:
    parts = make_partition("pathological", FITTING["pathological"], clients=10, seed=0)(LABELS, None)
    assert [torch.unique(LABELS[part]).tolist() for part in parts[:3]] == [[0, 1], [1, 2], [2, 3]]


def test_shards_are_cut_from_images_sorted_by_label() -> None:
    parts = make_partition("shard", {"num_shards_per_partition": 1}, clients=5, seed=0)(LABELS, None)
    assert sorted(torch.unique(LABELS[part]).tolist() for part in parts) == [[label] for label in range(5)]


def test_sizes_are_as_asked() -> None:
    parts = make_partition("size", FITTING["size"], clients=5, seed=0)(LABELS, None)
    assert [len(part) for part in parts] == [10, 20, 30, 40, 100]


#: Arguments for ten clients and 4 % of 103 images with a rare class: what is left over is a large part of a client's.
FAIR: dict[str, dict[str, Any]] = {
    "continuous": {"strictness": 0.0},
    "dirichlet": {"alpha": 0.5, "min_partition_size": 0},
    "iid": {},
    "pathological": {"num_classes_per_partition": 2},
    "shard": {"shard_size": 7},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAIR)
def test_over_the_seeds_no_client_is_favoured(name: str) -> None:
    labels = torch.arange(103) % 10
    sizes = []
    for seed in range(300):
        parts = make_partition(name, FAIR[name], clients=10, seed=seed)(labels, None)
        sizes.append([len(part) for part in parts])
    table = torch.tensor(sizes, dtype=torch.float64)  # (seeds, clients)
    error = table.std(0) / len(sizes) ** 0.5 + 1e-9
    assert ((table.mean(0) - table.mean()).abs() < 4 * error + 0.02).all(), table.mean(0)


def test_each_client_keeps_the_alpha_that_was_given_for_it() -> None:
    alphas = [0.1, 0.1, 50.0, 0.1, 0.1]
    sizes = torch.zeros(5)
    for seed in range(20):
        deal = make_partition("dirichlet", {"alpha": alphas, "min_partition_size": 0}, clients=5, seed=seed)
        sizes += torch.tensor([len(part) for part in deal(LABELS, None)])
    assert sizes.argmax() == 2


@pytest.mark.parametrize("name", ["linear", "square", "exponential"])
def test_a_number_that_says_what_its_client_gets_keeps_its_meaning(name: str) -> None:
    parts = make_partition(name, {}, clients=4, seed=3)(LABELS, None)
    assert [len(part) for part in parts] == sorted(len(part) for part in parts)


def test_what_has_no_label_cannot_be_dealt_out_by_label() -> None:
    deal = make_partition("dirichlet", {"alpha": 1.0}, clients=5, seed=0)
    with pytest.raises(InputError, match="'dirichlet' deals out by label, and no sample has one: set it to 'iid'"):
        deal(torch.full((50,), -1), None)


def test_natural_owners_keep_their_images(toy: Source, federate: Callable[..., Federation]) -> None:
    federation = federate(toy, 5, "natural_id", client_test=0.0)
    for client in range(5):
        assert federation.client_train(client).indices.sort().values.tolist() == list(range(client * 8, client * 8 + 8))
    pairs = federate(toy, 3, "grouped_natural_id", arguments={"group_size": 2}, client_test=0.0)
    assert sorted(len(pairs.client_train(client)) for client in range(3)) == [8, 16, 16]


def test_owners_of_few_samples_are_no_clients(federate: Callable[..., Federation]) -> None:
    """Of three writers two have five samples or more. What the third wrote is with nobody, and that is said."""
    labels, writers = torch.arange(16) % 2, torch.tensor([7] * 5 + [8] * 4 + [9] * 7)
    source = Source("letters", torch.randn(16, 3), labels, torch.randn(4, 3), labels[:4], ("a", "b"), writers)
    few = {"arguments": {"min_partition_size": 5}, "client_test": 0.0}
    federation = federate(source, 2, "natural_id", **few)
    with pytest.warns(Notice, match=r"data\.partition leaves 4 of 16 samples with no client"):
        assert [federation.client_train(client).indices.sort().values.tolist() for client in (0, 1)] == [
            [0, 1, 2, 3, 4],
            [9, 10, 11, 12, 13, 14, 15],
        ]
    with pytest.raises(InputError, match=r"makes 2 parts: set data\.clients = 2, not 3"):
        federate(source, 3, "natural_id", **few).client_train(0)
    with pytest.raises(InputError, match=r"data\.min_partition_size = 8: no owner has so many samples, the most 7"):
        federate(source, 1, "natural_id", arguments={"min_partition_size": 8}).client_train(0)


def test_data_that_are_dealt_out_already_say_so(toy: Source, federate: Callable[..., Federation]) -> None:
    with pytest.warns(Notice, match=r"its samples are those of 5 clients, and data\.partition = 'iid' deals them out anew"):
        federate(toy, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        federate(toy, 5, "natural_id")


def test_natural_partitions_say_what_they_need(toy: Source, federate: Callable[..., Federation]) -> None:
    with pytest.raises(InputError, match=r"makes 5 parts: set data\.clients = 5, not 3"):
        federate(toy, 3, "natural_id").client_train(0)
    for name, arguments in (("natural_id", {}), ("grouped_natural_id", {"group_size": 2})):
        with pytest.raises(InputError, match=r"needs data\.client_column"):
            make_partition(name, arguments, clients=3, seed=0)(LABELS, None)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("dirchlet", {}, "unknown data.partition 'dirchlet': did you mean 'dirichlet'"),
        ("dirichlet", {"alpah": 0.5}, "unknown key 'data.alpah' .*did you mean 'alpha'"),
        ("dirichlet", {"alpha": 0.5, "seed": 3}, "unknown key 'data.seed'"),
        ("dirichlet", {}, r"'dirichlet' needs data\.alpha"),
        ("iid", {"alpha": 0.5}, "unknown key 'data.alpha' with partition 'iid'"),
    ],
)
def test_bad_names_and_arguments(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_partition(name, arguments)


def test_an_unknown_argument_may_be_another_key_misspelt() -> None:
    with pytest.raises(InputError, match=r"'data\.clinets' with partition 'iid': did you mean 'clients'\?"):
        check_partition("iid", {"clinets": 3}, known=("clients", "public"))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("dirichlet", {"alpha": -1.0}, r"data\.alpha = -1\.0: must be larger than 0"),
        ("dirichlet", {"alpha": 0}, r"data\.alpha = 0: must be larger than 0"),
        ("dirichlet", {"alpha": float("nan")}, r"data\.alpha = nan: must be larger than 0"),
        ("dirichlet", {"alpha": [0.5, 0.0, 1.0, 1.0, 1.0]}, r"data\.alpha = \[0\.5, 0\.0, .*: must be larger than 0"),
        ("dirichlet", {"alpha": [0.5, 1.0]}, r"data\.alpha: it has 2 numbers: give one for each of the 5 clients"),
        ("dirichlet", {"alpha": "much"}, r"data\.alpha = 'much': a number belongs here"),
        ("dirichlet", {"alpha": True}, r"data\.alpha = True: a number belongs here"),
        ("dirichlet", {"alpha": 1.0, "self_balancing": "yes"}, r"data\.self_balancing = 'yes': true or false belongs here"),
        ("dirichlet", {"alpha": 1.0, "min_partition_size": -3}, r"data\.min_partition_size = -3: must be at least 0"),
        ("pathological", {"num_classes_per_partition": 0}, r"data\.num_classes_per_partition = 0: must be at least 1"),
        ("pathological", {"num_classes_per_partition": 2.5}, r"num_classes_per_partition = 2\.5: a whole number belongs here"),
        ("pathological", {"num_classes_per_partition": 2, "class_assignment_mode": "any"}, r"= 'any': one of \['random', "),
        ("shard", {"shard_size": 0}, r"data\.shard_size = 0: must be at least 1"),
        ("shard", {}, r"'shard' needs data\.num_shards_per_partition, data\.shard_size, or both"),
        ("size", {"partition_sizes": 3}, r"data\.partition_sizes = 3: a list of numbers belongs here"),
        ("size", {"partition_sizes": [4, 4, -1, 4, 4]}, r"data\.partition_sizes = .*: must be at least 1"),
        (
            "shard",
            {"num_shards_per_partition": 2, "alpha": 1.0},
            r"'data\.alpha' .* 'shard': it is one of dirichlet and inner_",
        ),
    ],
)
def test_bad_values_are_refused_before_the_draw(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        check_partition(name, arguments, clients=5)
    assert "\n" not in str(caught.value)


def test_a_draw_that_cannot_serve_every_client_names_the_cure() -> None:
    deal = make_partition("dirichlet", {"alpha": 0.01, "min_partition_size": 20}, clients=10, seed=0)
    with pytest.raises(InputError, match=r"10 clients 20 of 200 samples; raise alpha, .*self_balancing = true") as caught:
        deal(LABELS, None)
    assert "\n" not in str(caught.value)


def test_a_client_without_images_is_refused(toy: Source, federate: Callable[..., Federation]) -> None:
    empty = federate(toy, 20, "dirichlet", arguments={"alpha": 0.01, "min_partition_size": 0})
    with pytest.raises(InputError, match="of 20 without any of the 40 samples"):
        empty.partition_table()


@pytest.mark.slow
def test_the_plain_partitions_do_not_import_flwr_datasets() -> None:
    code = (
        "import sys; from fedkd.data import build_federation, load_source; from fedkd.data.partition import *\n"
        "for name in ('iid', 'shared'): make_partition(name, {}, clients=2, seed=0)\n"
        "print([name for name in ('flwr_datasets', 'datasets', 'kornia', 'sklearn') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_ten_thousand_clients(federate: Callable[..., Federation]) -> None:
    labels = torch.arange(60_000) % 10
    pixels = torch.zeros(60_000, 1, 1, 1, dtype=torch.uint8)
    source = Source("blank", pixels, labels, pixels[:10], labels[:10], tuple("0123456789"))
    for name, arguments in (("iid", {}), ("shard", {"num_shards_per_partition": 2}), ("shared", {})):
        federation = federate(source, 10_000, name, arguments=arguments)
        assert federation.partition_table().shape == (10_000, 10)
        assert len(federation.client_train(9_999)) == {"iid": 5, "shard": 5, "shared": 48_000}[name]
