"""Whatever the guard lets pass, the server's half of every strategy can work with: strange values within each space."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_every_strategy import NAMES, small
from torch import Tensor

from fedkd import Knowledge, Server, UpTo, simulate
from fedkd.base.errors import TrainingError
from fedkd.engine.guard import guard_of
from fedkd.experiment.registry import strategies
from fedkd.grids import InProcessGrid

pytestmark = pytest.mark.filterwarnings("ignore::fedkd.base.errors.Notice")
#: Fields that choose another arithmetic at the server, beside the defaults of every strategy.
CHOICES: dict[str, dict[str, Sequence[object]]] = {
    "cronus": {"aggregate": ["mean", "median", "trimmed_mean", "geometric_median"]},
    "dsfl": {"sharpening": ["power"]},
    "fedmd_nfdp": {"knowledge": ["probabilities", "labels"]},
    "fedproto": {"weighting": ["uniform"]},
    "kdcl": {"target": ["naive", "linear", "general", "mean"]},
    "multi_teacher": {
        "target": ["mean_logits", "min_logit", "linear", "covariance", "entropy", "confidence", "min_norm", "unify"]
    },
}
CASES = [{"name": name} for name in NAMES]
CASES += [{"name": name, key: value} for name, keys in CHOICES.items() for key, values in keys.items() for value in values]
EXCHANGES = 2  # of a round; later ones of peers in lockstep are alike


def signs(tensor: Tensor) -> Tensor:
    return 1 - 2 * (torch.arange(tensor.numel()) % 2).view(tensor.shape).to(tensor.dtype)


def one_class(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor).index_fill(-1, torch.tensor([0]), 1.0)


#: Name -> space -> values. Tensors of other spaces stay as they are.
VALUES: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
    "zeros": dict.fromkeys(("weights", "logits", "embedding", "probabilities", "labels", "counts"), torch.zeros_like),
    "large": {
        **dict.fromkeys(("weights", "logits", "embedding"), lambda t: torch.full_like(t, 1e6)),
        "probabilities": one_class,
        "counts": lambda t: torch.full_like(t, min(2**31 - 1, torch.iinfo(t.dtype).max)),
    },
    "both signs": dict.fromkeys(("weights", "logits", "embedding"), lambda t: signs(t) * 1e6),
    "tiny": dict.fromkeys(("weights", "logits", "embedding"), lambda t: torch.full_like(t, 1e-38)),
    "one class": {"probabilities": one_class, "logits": one_class, "embedding": one_class, "counts": one_class},
}


def strange(upload: Knowledge, schema: Mapping[str, Any]) -> Iterator[tuple[str, Knowledge]]:
    for why, values in VALUES.items():
        tensors = dict(upload.tensors)
        for name, tensor in tensors.items():
            legal = tensor.is_floating_point() or upload.spaces[name] in ("labels", "counts")
            if upload.spaces[name] in values and legal and tensor.numel():
                tensors[name] = values[upload.spaces[name]](tensor)
        yield why, replace(upload, tensors=tensors)
    yield "light", replace(upload, weight=1e-9)
    chosen = {name for name in upload.tensors if isinstance(next(iter(schema[name].shape), None), UpTo)}
    yield "nothing chosen", replace(upload, tensors={n: t[:0] if n in chosen else t for n, t in upload.tensors.items()})
    needed = {name: tensor for name, tensor in upload.tensors.items() if not schema[name].optional}
    yield "nothing optional", replace(upload, tensors=needed, spaces={name: upload.spaces[name] for name in needed})


@pytest.mark.slow
@pytest.mark.parametrize("table", CASES, ids=lambda table: "-".join(map(str, table.values())))
def test_the_servers_half_works_with_whatever_the_guard_lets_pass(
    table: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = strategies()[str(table["name"])]
    update, failures, passed = cls.server_update, [], 0

    def tried(self: Any, server: Server, uploads: Mapping[int, Knowledge]) -> Any:
        nonlocal passed
        first, before = min(uploads), dict(server.memory)
        answer = update(self, server, uploads)
        guard = guard_of(server.experiment.strategy, server, simulated=True, sent_to=lambda client: Knowledge())
        if server.exchange < EXCHANGES:
            memory, live = dict(server.memory), dict(server._live)
            if not self.upload_schema(server, first):  # what is sent once has come
                server.memory.clear()
                server.memory.update(before)
            for why, upload in strange(uploads[first], self.upload_schema(server, first)):
                try:
                    guard.inspect(first, upload, round=server.round, exchange=server.exchange)
                except ValueError:
                    continue
                for together in ({**uploads, first: upload}, {first: upload}):
                    passed += 1
                    try:
                        update(self, server, together)
                    except TrainingError:
                        pass  # the run goes back to the state before
                    except Exception as error:
                        failures.append(f"{why}, {len(together)} uploads: {type(error).__name__}: {error}")
            server.memory.clear()
            server.memory.update(memory)
            server._live = live
        return answer

    monkeypatch.setattr(cls, "server_update", tried)
    parts = (
        {"partition": "dirichlet", "alpha": 1.0, "min_partition_size": 40}
        if not cls.needs.shared_data
        else {"partition": "shared"}
    )
    held_out = {
        "validation": 40 if set(table.values()) & {"general", "covariance", "confidence"} or cls.needs.validation else 0
    }
    held_out |= {"public": 40 if cls.needs.public else 0, "public_labels": table["name"] == "multi_teacher"}
    data = {"clients": 4, "train_limit": 300, **parts, **held_out}
    experiment = small(str(table["name"]), strategy=table, data=data, rounds=1, evaluate_clients=1)
    simulate(experiment, InProcessGrid())
    assert passed
    assert failures == []
