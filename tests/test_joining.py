"""Where node ids mean nothing, who is which client is settled before the first round; the metrics do not notice."""

import re
from collections.abc import Iterator

import pytest
from grids.renumbered import RenumberedGrid

from fedkd import Experiment, InputError, simulate
from fedkd.grids import InProcessGrid
from fedkd.history import TIMES

pytestmark = pytest.mark.slow  # nodes are polled for
EXPERIMENT = Experiment(
    strategy="fedavg",
    nets="mlp",
    net_options={"mlp": {"hidden": (8,)}},
    rounds=2,
    data={"clients": 3, "partition": "iid", "train_limit": 90},
)


def without_times(rows: list[dict[str, object]]) -> Iterator[dict[str, object]]:
    return ({key: value for key, value in row.items() if key not in TIMES} for row in rows)


def test_nodes_without_partition_id_are_clients_in_the_order_of_their_ids() -> None:
    grid = RenumberedGrid({702: {}, 15: {}, 2**63: {}})
    history = simulate(EXPERIMENT, grid)
    assert grid.client_of == {15: 0, 702: 1, 2**63: 2}
    assert list(without_times(history.metrics)) == list(without_times(simulate(EXPERIMENT, InProcessGrid()).metrics))


def test_a_partition_id_says_which_client_a_node_is() -> None:
    grid = RenumberedGrid({702: {"partition-id": 0}, 15: {"partition-id": 2}, 8: {"partition-id": 1}})
    history = simulate(EXPERIMENT, grid)
    assert grid.client_of == {702: 0, 8: 1, 15: 2}
    assert list(without_times(history.metrics)) == list(without_times(simulate(EXPERIMENT, InProcessGrid()).metrics))


@pytest.mark.parametrize(
    ("partitions", "message"),
    [
        ([0, 1, 1], "node config: two nodes have partition-id 1: give each node its own"),
        ([0, 1, 5], "node config: no node has partition-id 2: start one node for each client"),
    ],
)
def test_partition_ids_that_leave_a_client_without_a_node_are_refused(partitions: list[int], message: str) -> None:
    nodes = {10 * (place + 1): {"partition-id": partition} for place, partition in enumerate(partitions)}
    with pytest.raises(InputError, match=re.escape(message)):
        simulate(EXPERIMENT, RenumberedGrid(nodes))


def test_too_few_nodes_are_waited_for_and_then_refused() -> None:
    with pytest.raises(InputError, match=r"^data\.clients: \d of 3 nodes joined in 0\.01 s"):
        simulate(EXPERIMENT.replace(timeout=0.01), RenumberedGrid({5: {}, 6: {}}))
