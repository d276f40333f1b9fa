"""Frozen backbones and adapters: what never changes does not travel, is equal at all nodes, and is saved with the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fedkd import Experiment, History, simulate
from fedkd.data import Source
from fedkd.nets import build_net, completed

CLIENTS = 3
DATA = {"clients": CLIENTS, "partition": "iid", "train_limit": 90, "test_limit": 50}
HEAD = 4 * (8 * 10 + 10)  # bytes of a linear layer from 8 features to 10 classes


class Backbone(nn.Module):
    """Drawn from the seed and frozen, its BatchNorm in eval mode for good."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.requires_grad_(False).train(False)

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


def frozen(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(Backbone(), nn.Linear(8, classes))


def moving(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Its BatchNorm is frozen, and still counts in train mode."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8)).requires_grad_(False)
    return nn.Sequential(body, nn.Linear(8, classes))


def run(nets: Any, strategy: Any = "fedavg", out: Path | None = None, **changes: Any) -> History:
    given = {"strategy": strategy, "rounds": 1, "nets": nets, "data": DATA, "train": {"lr": 0.1}, **changes}
    history = simulate(Experiment(**given), out=out)
    assert not any(row["clients_failed"] for row in history.metrics), history.clients
    return history


@pytest.mark.parametrize(("net", "statistics"), [(frozen, 0), (moving, 4 * 8 * 2 + 8)])
def test_only_what_changes_travels(net: Any, statistics: int) -> None:
    row = run(net).metrics[1]
    assert row["bytes_up"] == row["bytes_down"] == CLIENTS * (HEAD + statistics)


OTHERS = ["fedprox", "fedntd", "feddistill", "mean_teacher", "fml", "fedkd", "ensemble", "moon", {"name": "feddf", "steps": 3}]


@pytest.mark.parametrize("strategy", OTHERS)
def test_strategies_that_send_weights_take_frozen_nets(strategy: Any) -> None:
    held_out = {"public": 30, "validation": 20} if isinstance(strategy, dict) else {}
    assert run(frozen, strategy, data=DATA | held_out).metrics[1]["clients_ok"] == CLIENTS


@pytest.mark.parametrize(("uplink", "downlink"), [(("svd95",), ()), (("int8", "delta", "deflate"), ("float16",))])
def test_codecs_take_what_is_left(uplink: tuple[str, ...], downlink: tuple[str, ...]) -> None:
    assert run(frozen, uplink=uplink, downlink=downlink, rounds=2).metrics[2]["clients_ok"] == CLIENTS


@pytest.mark.slow
def test_saved_nets_are_whole_and_all_have_one_frozen_part(tmp_path: Path) -> None:
    """Also where every client draws its own net: what is frozen is that of the weights that all share."""
    run(frozen, "fedavg", tmp_path / "average")
    run(frozen, "local", tmp_path / "local")
    saved = [load_file(file) for run in ("average", "local") for file in sorted((tmp_path / run / "nets").iterdir())]
    assert len(saved) == 1 + CLIENTS
    assert all(set(state) == set(build_net(frozen, shape=(1, 8, 8), classes=10).whole_state()) for state in saved)
    for name in saved[0]:
        same = [torch.equal(state[name], saved[0][name]) for state in saved[1:]]
        assert all(same) if "encoder.0." in name else not any(same), name


@pytest.mark.slow
def test_a_teacher_with_a_frozen_part_is_read_from_its_run(tmp_path: Path) -> None:
    run(frozen, "fedavg", tmp_path / "run")
    history = run(frozen, {"name": "multi_teacher", "teachers": [str(tmp_path / "run")]}, data={**DATA, "public": 30})
    assert history.metrics[1]["round"] == 1


@pytest.mark.slow
def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole = run(frozen, "local", rounds=2).metrics[-1]["accuracy"]
    run(frozen, "local", tmp_path / "run", rounds=1)
    given = {"strategy": "local", "nets": frozen, "data": DATA, "train": {"lr": 0.1}}
    resumed = simulate(Experiment(**given, rounds=2), out=tmp_path / "run", resume=True)
    assert resumed.metrics[-1]["accuracy"] == whole


def test_completed_finds_the_net_wherever_it_lies() -> None:
    whole = {"a": torch.zeros(1), "b": torch.zeros(2)}
    assert completed({"b": torch.ones(2)}, whole, ["a"]).keys() == {"a", "b"}
    assert completed({"x.b": torch.ones(2), "b": torch.ones(3)}, whole, ["a"]).keys() == {"x.a", "x.b", "b"}
    assert completed({"c": torch.ones(2)}, whole, ["a"]).keys() == {"c"}


def texts() -> Source:
    """Words of 6 letters out of two alphabets, as dicts of tensors."""
    labels = torch.arange(60) % 2
    ids = torch.randint(1, 10, (60, 6), generator=torch.Generator().manual_seed(0)) + 10 * labels.unsqueeze(1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    some = {name: tensor[:20] for name, tensor in inputs.items()}
    return Source("texts", inputs, labels, some, labels[:20], ("low", "high"), vocabulary=20)


def adapted(shape: Mapping[str, tuple[int, ...]], classes: int, vocabulary: int) -> nn.Module:
    """A tiny BERT with random weights, LoRA on its attention, its classifier trained."""
    from peft import LoraConfig, get_peft_model
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=vocabulary, max_position_embeddings=8, num_labels=classes, **sizes)
    lora = LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=["classifier"])
    net: nn.Module = get_peft_model(BertForSequenceClassification(config), lora)
    return net


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedavg", "fedproto"])
def test_lora_sends_the_adapter_and_the_classifier(strategy: str) -> None:
    pytest.importorskip("peft")
    pytest.importorskip("transformers")
    data = {"source": texts, "clients": 2, "partition": "iid"}
    row = run(adapted, strategy, data=data).metrics[1]
    assert row["clients_ok"] == 2
    if strategy == "fedavg":
        adapters = 2 * (8 * 2 + 2 * 8)  # query and value, two matrices each
        assert row["bytes_up"] == 2 * 4 * (adapters + 8 * 2 + 2)
