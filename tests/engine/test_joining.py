"""Where node ids mean nothing, who is which client is settled before the first round; the metrics do not notice."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from flwr.app import ConfigRecord, Context, MetricRecord, RecordDict
from grids.renumbered import RenumberedGrid
from PIL import Image

from fedkd import Experiment, InputError, simulate
from fedkd.base.errors import Notice
from fedkd.data import Source
from fedkd.engine.joining import assign_clients, check_data, claims_of
from fedkd.grids import InProcessGrid, JobGrid
from fedkd.results.history import TIMES

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
    claims = claims_of([said(8, 1), said(15, odd), said(702, 0)])
    with pytest.warns(Notice, match=re.escape("nodes without a partition-id of 0 to 1 take no part: [15]")):
        assert assign_clients(claims, [8, 15, 702], 2) == {0: 702, 1: 8}


def test_a_reply_of_another_kind_claims_nothing() -> None:
    kinds = [RecordDict(), RecordDict({"fedkd.instruction": MetricRecord({"partition-id": 1})}), None]
    assert claims_of([Reply(node, content) for node, content in enumerate(kinds)]) == {0: -1, 1: -1, 2: -1}


class Reply:
    """As much of a message as joining looks at."""

    def __init__(self, node: int, content: RecordDict | None) -> None:
        self.metadata, self.content = SimpleNamespace(src_node_id=node), content

    def has_content(self) -> bool:
        return self.content is not None


def said(node: int, number: object, **facts: str) -> Reply:
    number_given = {} if number is None else {"partition-id": number}
    return Reply(node, RecordDict({"fedkd.instruction": ConfigRecord({**number_given, **facts})}))


def other_in_each_process() -> Source:
    """A source that no two processes agree on, as one that draws without a seed."""
    images = torch.arange(160, dtype=torch.int64).add(os.getpid()).remainder(256).to(torch.uint8).view(40, 1, 2, 2)
    return Source("drawn anew", images, torch.arange(40) % 2, images[:4], torch.arange(4) % 2, ("even", "odd"))


def write_two_sites(folder: Path) -> None:
    """Twelve images in folder/here, and as many others in folder/there."""
    for site in ("here", "there"):
        for name in ("ant", "bee"):
            (folder / site / "train" / name).mkdir(parents=True)
            for number in range(6):
                colour = 10 * number + 100 * (name == "bee") + (site == "there")
                Image.new("L", (8, 8), colour).save(folder / site / "train" / name / f"{number}.png")


def test_a_node_that_holds_other_data_is_named_before_round_1(tmp_path: Path) -> None:
    write_two_sites(tmp_path)
    data = {"source": str(tmp_path / "here"), "clients": 2, "partition": "iid"}
    grid = RenumberedGrid({7: {}, 9: {"data-path": str(tmp_path / "there")}})
    with pytest.raises(
        InputError, match=r"^client 1 holds other data than the server \(its content hash is \w+, the server's is"
    ):
        simulate(EXPERIMENT.replace(data=data), grid, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    shutil.copytree(tmp_path / "here", tmp_path / "elsewhere")
    grid = RenumberedGrid({7: {}, 9: {"data-path": str(tmp_path / "elsewhere")}})
    assert simulate(EXPERIMENT.replace(data=data), grid).metrics[-1]["clients_ok"] == 2  # the same files, in another place


def test_a_grid_of_ours_whose_nodes_are_told_of_data_of_their_own_asks_them_all(tmp_path: Path) -> None:
    write_two_sites(tmp_path)

    class Told(InProcessGrid):
        def context(self, node_id: int) -> Context:
            made = super().context(node_id)
            made.node_config["data-path"] = str(tmp_path / ("there" if node_id else "here"))
            return made

    data = {"source": str(tmp_path / "here"), "clients": 2, "partition": "iid"}
    with pytest.raises(InputError, match="client 1 holds other data than the server"):
        simulate(EXPERIMENT.replace(data=data), Told())


def test_a_node_that_cannot_load_its_data_says_why(tmp_path: Path) -> None:
    grid = RenumberedGrid({7: {"partition-id": 0}, 8: {"partition-id": 1}, 9: {"partition-id": 2, "data-path": str(tmp_path)}})
    experiment = EXPERIMENT.replace(data={"source": "fashion_mnist", "clients": 3, "partition": "iid", "train_limit": 90})
    with pytest.raises(InputError, match=r"^node 9 cannot join: .*" + re.escape(str(tmp_path))):
        simulate(experiment, grid)


def test_workers_of_ray_whose_source_gives_other_images_are_found_out(hired: Callable[[], JobGrid]) -> None:
    experiment = EXPERIMENT.replace(data={"source": lambda: other_in_each_process(), "clients": 3, "partition": "iid"})
    with pytest.raises(InputError, match=r"^client \d holds other data than the server"):
        simulate(experiment, hired())


def test_a_node_with_another_release_of_fedkd_is_refused_and_named() -> None:
    here = {"fedkd": "0.1.0", "content_hash": "a"}
    check_data({0: said(8, 0, **here), 1: said(9, 1, **here)}, here)
    with pytest.raises(InputError, match=r"^client 1 runs fedkd 0\.2\.0, the server 0\.1\.0: install the same version"):
        check_data({0: said(8, 0, **here), 1: said(9, 1, **here | {"fedkd": "0.2.0"})}, here)
    with pytest.raises(InputError, match=r"^client 0 runs another fedkd, which does not say its version, the server 0\.1\.0"):
        check_data({0: said(8, 0, content_hash="a")}, here)
