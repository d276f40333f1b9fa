"""What server and clients hold alike stays alike, whatever links lose: found by looking, in every strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fedkd.strategies.okddip as okddip_module
import pytest
import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from test_every_strategy import NAMES, small

from fedkd import Client, Experiment, Knowledge, Server, Strategy, simulate
from fedkd.app import client_app
from fedkd.engine.run import Run
from fedkd.experiment.registry import strategies
from fedkd.grids import InProcessGrid, run_app
from fedkd.knowledge.codecs import EXACT, as_decoded, chain
from fedkd.knowledge.memory import Memory

#: Who holds something, and its name there. The server is looked at as it was a round ago: its last word is not out yet.
Place = tuple[str, str]
ROUNDS = 3
#: Clients' nets, or scores, as they were sent once: the server learns from them, and holds them against nobody's.
AS_SENT = ("teacher/", "scores/")


def held(values: Mapping[str, Any], holder: str) -> dict[Place, bytes]:
    """The bits of what could tell two holders apart: floats that are not all the same."""
    tensors = {key: value for key, value in values.items() if isinstance(value, torch.Tensor) and value.is_floating_point()}
    told = {key: t for key, t in tensors.items() if t.numel() > 1 and bool((t != t.flatten()[0]).any())}
    return {(holder, key): t.contiguous().numpy().tobytes() for key, t in told.items()}


def memories(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> list[dict[Place, bytes]]:
    """All that server and clients hold at the end of each round."""
    grid, rounds, server_held = InProcessGrid(), list[dict[Place, bytes]](), dict[str, Any]()
    cls, before = type(experiment.strategy), dict[str, Any]()
    update = cls.server_update

    def watched(self: Strategy, server: Server, uploads: Mapping[int, Knowledge]) -> Any:
        answer = update(self, server, uploads)
        server.flush()
        server_held.clear()
        server_held.update(
            {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in server.memory.items()}
        )
        return answer

    def look(row: dict[str, Any]) -> None:
        found = held(before, "server")
        for client, state in grid.states().items():
            found |= held(Memory.read(state), f"client {client}")
        rounds.append(found)
        before.clear()
        before.update(server_held)

    with monkeypatch.context() as patch:
        patch.setattr(cls, "server_update", watched)
        simulate(experiment, grid, on_round=look)
    return rounds


def alike(rounds: list[dict[Place, bytes]]) -> set[tuple[Place, Place]]:
    """Places of different holders, one of them a client, that hold the same bits after rounds 2 and 3."""
    pairs: list[set[tuple[Place, Place]]] = []
    for found in rounds[2:]:
        by_bits: dict[bytes, list[Place]] = {}
        for place, bits in found.items():
            by_bits.setdefault(bits, []).append(place)
        groups = [group for group in by_bits.values() if len({holder for holder, _ in group}) > 1]
        pairs.append({(a, b) for group in groups for a in group for b in group if a < b and a[0] != b[0] and "client" in a[0]})
    return {(place, other) for place, other in set.intersection(*pairs) if not other[1].startswith(AS_SENT)}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_lossy_links_part_nobody(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """FedKD's mentee at server and clients, OKDDip's replicas of the attention's maps, and whatever comes after them.

    Who held the same as a client must still hold it somewhere: the server may also keep what it sends, as SCARLET's does.
    """
    mirrored = alike(memories(small(name, rounds=ROUNDS), monkeypatch))
    assert bool(mirrored) >= (name in ("fedkd", "okddip"))  # the test looks where it should
    for codec in ("int8", "float16") if mirrored else ():
        found = alike(memories(small(name, rounds=ROUNDS, uplink=codec, downlink=codec), monkeypatch))
        still = {(place, other) for place, (other, _) in found}
        assert {(place, other) for place, other in mirrored if (place, other[0]) not in still} == set()


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["int8", "float16"])
def test_what_peers_compute_of_all_outputs_has_one_value(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer's own part counts as the others received it; the graph of its net hangs on it nevertheless."""
    seen: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    received_by: list[int] = []
    cls, losses = strategies()["okddip"], okddip_module.attention_losses
    update = cls.client_update

    def watched(self: Strategy, client: Client, broadcast: Knowledge) -> Knowledge:
        received_by.append(client.id)
        return update(self, client, broadcast)

    def looked_at(logits: torch.Tensor, *rest: Any, **how: Any) -> torch.Tensor:
        assert logits.requires_grad
        seen[received_by[-1]].append(logits.detach().clone())
        return losses(logits, *rest, **how)

    monkeypatch.setattr(cls, "client_update", watched)
    monkeypatch.setattr(okddip_module, "attention_losses", looked_at)
    data = {"clients": 3, "partition": "shared", "train_limit": 260}
    simulate(small("okddip", rounds=1, data=data, uplink=codec, downlink=codec))
    assert len(seen[0]) > 3
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(seen[0], seen[1], strict=True))


def test_a_message_that_says_so_arrives_bit_for_bit() -> None:
    net = {"w": torch.randn(40, 30, generator=torch.Generator().manual_seed(0)), "steps": torch.tensor(7)}
    plain = Knowledge.of("weights", net)
    for names in (["int8"], ["float16", "deflate"], ["svd90", "int8", "delta", "deflate"]):
        lossy, exact = (as_decoded(chain(names), each) for each in (plain, plain.with_header(**{EXACT: 1})))
        assert not torch.equal(lossy.tensors["w"], net["w"])
        assert all(torch.equal(exact.tensors[key], value) for key, value in net.items())


def kept_at_the_server(run: Run) -> list[dict[str, torch.Tensor]]:
    """The nets that the server keeps with the names of what it broadcasts."""
    run.server.flush()
    names = {key.split("/")[1] for key in run.server.memory if key.startswith("net/")}
    held = [run.server.memory.under(f"net/{name}/") for name in sorted(names)]
    return [each for each in held if each.keys() == run.broadcasts.common.tensors.keys()]


@pytest.mark.slow
def test_initial_arrays_are_the_servers_too() -> None:
    """Where a net is broadcast and kept: after a round at next to no learning rate it is what was put in its place."""
    found = []
    for name in NAMES:
        experiment = small(name, rounds=1, train={"lr": 1e-12, "weight_decay": 0.0, "batch_size": 32})
        run = Run(experiment, InProcessGrid())
        run._first_broadcast()
        if not kept_at_the_server(run):
            continue
        given = {
            key: tensor + (1 if tensor.is_floating_point() else 0) for key, tensor in run.broadcasts.common.tensors.items()
        }
        arrays = ArrayRecord({key: tensor.float() for key, tensor in given.items()})
        (kept,) = kept_at_the_server(started(experiment, arrays))
        assert all(torch.allclose(kept[key].double(), given[key].double(), atol=1e-4) for key in given), name
        found.append(name)
    assert set(found) >= {"fedkd", "centralised", "multi_teacher"}


def started(experiment: Experiment, arrays: ArrayRecord) -> Run:
    """A run that began with these arrays, when it is over."""
    app, runs = ServerApp(), list[Run]()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        runs.append(Run(experiment, grid, initial_arrays=arrays, on_round=lambda row, clients: runs[0].server.flush()))
        runs[0].execute()

    run_app(app, client_app(), num_supernodes=4, run_config=experiment.to_flat())
    return runs[0]
