"""Where node ids mean nothing, who is which client is settled before the first round; the metrics do not notice."""

import re
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from grids.renumbered import RenumberedGrid

from fedkd import Experiment, InputError, simulate
from fedkd.errors import Notice
from fedkd.grids import InProcessGrid
from fedkd.history import TIMES
from fedkd.joining import assign_clients, claims_of

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


@pytest.mark.parametrize("odd", ["1", 1.0, True, 7, -3, 2**60, [1], None])
def test_a_node_with_a_number_that_is_none_takes_no_part_and_ends_nothing(odd: object) -> None:
    claims = claims_of([said(8, 1), said(15, odd), said(702, 0)], "fedkd.instruction")
    with pytest.warns(Notice, match=re.escape("nodes without a partition-id of 0 to 1 take no part: [15]")):
        assert assign_clients(claims, [8, 15, 702], 2) == {0: 702, 1: 8}


def test_a_reply_of_another_kind_claims_nothing() -> None:
    kinds = [RecordDict(), RecordDict({"fedkd.instruction": MetricRecord({"partition-id": 1})}), None]
    assert claims_of([Reply(node, content) for node, content in enumerate(kinds)], "fedkd.instruction") == {0: -1, 1: -1, 2: -1}


class Reply:
    """As much of a message as joining looks at."""

    def __init__(self, node: int, content: RecordDict | None) -> None:
        self.metadata, self.content = SimpleNamespace(src_node_id=node), content

    def has_content(self) -> bool:
        return self.content is not None


def said(node: int, number: object) -> Reply:
    return Reply(node, RecordDict({"fedkd.instruction": ConfigRecord({} if number is None else {"partition-id": number})}))
