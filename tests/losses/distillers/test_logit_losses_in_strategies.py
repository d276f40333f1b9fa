"""Any loss on logits in any strategy that distils logits: named in its settings."""

from __future__ import annotations

import pytest

from fedkd import Experiment, InputError, simulate
from fedkd.losses.distillers import DISTILLERS, logit_loss

#: Strategy -> the loss of its paper, and settings with which a round takes a moment.
DISTIL = {
    "feddf": ("kd", {"strategy": {"steps": 60}, "data": {"public": 60, "validation": 100}}),
    "fedmd": ("logit_mae", {"strategy": {"private_epochs": 1}, "data": {"public": 40}}),
    "fml": ("kd", {"data": {}}),
    "multi_teacher": ("kd", {"data": {"public": 40}}),
}
ON_LOGITS = sorted(name for name, recipe in DISTILLERS.items() if not recipe.needs - {"logits", "whole batch"})


def accuracy(name: str, **fields: object) -> float:
    _, settings = DISTIL[name]
    strategy = {"name": name, **settings.get("strategy", {}), **fields}  # type: ignore[dict-item]
    data = {"clients": 2, "partition": "iid", "train_limit": 300, **settings["data"]}  # type: ignore[dict-item]
    train = {"optimizer": "adam", "lr": 0.005, "batch_size": 32}
    return float(simulate(Experiment(strategy=strategy, rounds=1, nets="mlp", data=data, train=train)).metrics[-1]["accuracy"])


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTIL)
def test_the_loss_of_the_paper_is_the_default_and_another_trains_otherwise(name: str) -> None:
    assert accuracy(name) == accuracy(name, loss=DISTIL[name][0])
    assert accuracy(name) != accuracy(name, loss="dist", temperature=2.0)


def test_more_than_logits_is_refused_with_the_losses_that_will_do() -> None:
    with pytest.raises(InputError) as raised:
        Experiment(strategy={"name": "fml", "loss": "dkd"})
    assert str(raised.value) == (
        f"strategy.loss: loss 'dkd' needs labels, and only logits are exchanged here: take one of {', '.join(ON_LOGITS)}"
    )


def test_a_temperature_goes_to_those_that_soften() -> None:
    assert logit_loss("kd", temperature=3.0).keywords == {"temperature": 3.0}  # type: ignore[attr-defined]
    assert logit_loss("logit_mae", temperature=3.0).keywords == {}  # type: ignore[attr-defined]
