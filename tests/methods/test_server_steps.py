"""A method's own steps at the server are steps of its optimiser, however many batches make one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from fedkd import Experiment, Knowledge, Server, Strategy, simulate

#: Strategies, and how many steps they take at the server in a round.
STEPS: list[tuple[dict[str, Any], int]] = [
    ({"name": "feddf", "steps": 6}, 6),
    ({"name": "fedet", "steps": 6}, 6),
    ({"name": "fedgen", "steps": 6}, 6),
    ({"name": "fedftg", "iterations": 2, "student_steps": 3}, 2 * (2 + 3)),  # of the generator one for each of two clients
]


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(("strategy", "steps"), STEPS, ids=[strategy["name"] for strategy, _ in STEPS])
def test_batches_that_make_one_step_are_no_steps(
    strategy: dict[str, Any], steps: int, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    train = {"batch_size": 16, "accumulate": accumulate, "epochs": 1}
    data = {"clients": 2, "partition": "iid", "train_limit": 200, "public": 60, "validation": 20}
    experiment = Experiment(strategy=strategy, rounds=1, nets="cnn", data=data, train=train)
    kind, update = type(experiment.strategy), type(experiment.strategy).server_update

    def counted(self: Strategy, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge | Mapping[int, Knowledge]:
        def count(optimizer: Optimizer, *_: Any) -> None:
            taken.append(optimizer)

        hook = register_optimizer_step_post_hook(count)
        answer = update(self, server, uploads)
        hook.remove()
        return answer

    monkeypatch.setattr(kind, "server_update", counted)
    simulate(experiment)
    assert len(taken) == steps
