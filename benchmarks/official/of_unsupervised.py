"""BYOL among clients beside EasyFL: the loss of a step, the target net, and what a client makes of the global net."""

from __future__ import annotations

import copy as copying
from collections import OrderedDict
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from official.case import Case, Drawn
from official.copies import Copy
from torch import Tensor, nn

from fedkd.methods.contrastive import BYOL, DivergenceAwareAverage, DivergenceAwarePredictor, Views, target_net
from fedkd.methods.contrastive.divergence import DIVERGENCE, kernels, weight_divergence
from fedkd.methods.contrastive.target_net import TRAINED, TargetState

EASYFL, MODEL, CLIENT = "EasyFL-AI/EasyFL", "applications/fedssl/model.py", "applications/fedssl/client.py"
#: A divergence on either side of each rule, of the first and of a later training.
FAR, NEAR = 1.6, 0.5


class _Online(nn.Module):
    """A net that both codes take: an encoder with two convolutions, a projection, a predictor. No BatchNorm."""

    def __init__(self, d: Drawn, name: str) -> None:
        super().__init__()
        convolutions = OrderedDict(conv1=nn.Conv1d(1, 3, 3, padding=1), act=nn.Tanh(), conv2=nn.Conv1d(3, 2, 3, padding=1))
        self.encoder = nn.Sequential(convolutions)
        heads = {"projection": nn.Linear(24, 8), "target_prediction": nn.Linear(8, 8)}
        self.heads = nn.ModuleDict(heads)
        with torch.no_grad():
            for key, parameter in self.named_parameters():
                parameter.copy_(d.normal(f"{name} {key}", *parameter.shape, scale=0.3))

    def features(self, rows: Tensor) -> Tensor:
        return self.encoder(rows[:, None]).flatten(1)  # type: ignore[no-any-return]

    def head(self, name: str, rows: Tensor) -> Tensor:
        return self.heads[name](rows)  # type: ignore[no-any-return]

    def forward(self, rows: Tensor) -> Tensor:
        """What EasyFL calls the online encoder gives."""
        return self.head("projection", self.features(rows))


def _their_model(copy: Copy) -> SimpleNamespace:
    known = {"BaseModel": nn.Module, "ResNet18": lambda: None, "TwoLayer": ""}
    names = "EMA update_moving_average byol_loss_fn BYOLModel"
    return copy.define(MODEL, names, **known)


def _step(d: Drawn) -> Tensor:
    """The loss of two views, whose gradient goes to them through the online net only."""
    online, views = _Online(d, "online"), torch.cat([d.es, d.et])
    with patch.object(target_net, "standardised", lambda rows: rows):
        state: Any = TargetState(_Online(d, "target"))  # type: ignore[arg-type]
        parts = BYOL().loss(state, online, Views(views, online(views), torch.arange(16)))  # type: ignore[arg-type]
    return parts["local_contrastive"]


def _their_step(copy: Copy, d: Drawn) -> Tensor:
    online, own = _Online(d, "online"), _their_model(copy)
    holds = SimpleNamespace(online_encoder=online, online_predictor=online.heads["target_prediction"])
    holds.target_encoder, holds.has_predictor, holds.stop_gradient = _Online(d, "target"), True, True
    return own.BYOLModel.forward(holds, d.es, d.et)  # type: ignore[no-any-return]


def _flat(*nets: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for net in nets for parameter in net.parameters()])


def _followed(d: Drawn) -> Tensor:
    online, target = _Online(d, "online"), _Online(d, "target")
    BYOL().after_step(TargetState(target), online)  # type: ignore[arg-type]
    return _flat(target.encoder, target.heads["projection"])


def _their_followed(copy: Copy, d: Drawn) -> Tensor:
    online, target, own = _Online(d, "online"), _Online(d, "target"), _their_model(copy)
    holds = SimpleNamespace(target_ema_updater=own.EMA(0.99), target_encoder=target, online_encoder=online)
    own.BYOLModel.update_moving_average(holds)
    return _flat(target.encoder, target.heads["projection"])


def _their_client(copy: Copy, d: Drawn, **options: Any) -> SimpleNamespace:
    """A client that has trained once: its own net, and the global one that has come."""
    own, flags = (
        _their_model(copy),
        "ONLINE TARGET BOTH LOCAL GLOBAL DAPU NONE EMA DYNAMIC_DAPU DYNAMIC_EMA_ONLINE SELECTIVE_EMA",
    )
    known = {flag: flag.lower() for flag in flags.split()} | {"L2": "l2", "logger": MagicMock()}
    names = ("MoCo", "MoCoV2", "SimCLR", "SimSiam", "SimSiamNoSG", "Symmetric", "SymmetricNoSG", "BYOLNoSG", "BYOLNoPredictor")
    kinds = {name: name for name in names}
    model = SimpleNamespace(BYOL="byol", EMA=own.EMA, update_moving_average=own.update_moving_average, **kinds)
    methods = "update_model _calculate_divergence _calculate_distance _calculate_weight_scaler _DAPU_predictor_usage"
    code = copy.define(CLIENT, " ".join(f"FedSSLClient.{name}" for name in methods.split()), model=model, **known)
    client = SimpleNamespace(cid=0, weight_scaler=None, model=SimpleNamespace(), previous_trained_round=0)
    for name in methods.split():
        setattr(client, name, partial(getattr(code, name), client))
    client.conf = SimpleNamespace(model="byol", aggregate_encoder="online", round_id=1, **options)
    client._local_model, client.compressed_model = _as_theirs(_Online(d, "own")), _as_theirs(_Online(d, "global"))
    client.compressed_model.cpu = lambda: client.compressed_model
    return client


def _as_theirs(online: _Online) -> SimpleNamespace:
    """Encoder with projection, and predictor, apart."""
    predictor = copying.deepcopy(online.heads["target_prediction"])
    del online.heads["target_prediction"]
    return SimpleNamespace(online_encoder=online, online_predictor=predictor, target_encoder=copying.deepcopy(online))


def _their_merged(copy: Copy, d: Drawn, divergences: tuple[float, ...], **options: Any) -> Tensor:
    """Its online net after it has received, at each of these divergences, the same own and global nets."""
    results, scaler = [], None
    for divergence in divergences:
        client = _their_client(copy, d, **options)
        client.weight_scaler, client.encoder_distance = scaler, torch.tensor(divergence)
        client.DAPU_predictor = client._DAPU_predictor_usage(client.encoder_distance)
        client.update_model()
        scaler = client.weight_scaler
        results.append(_flat(client.model.online_encoder, client.model.online_predictor))
    return torch.cat(results)


def _merged(base: Any, d: Drawn, divergences: tuple[float, ...]) -> Tensor:
    results, memory = [], {TRAINED: 1}
    for divergence in divergences:
        memory |= {DIVERGENCE: divergence}
        client: Any = SimpleNamespace(memory=memory, round=2)
        net = _Online(d, "own")
        base.receive(client, net, _Online(d, "global").state_dict())
        results.append(_flat(net.encoder, net.heads["projection"], net.heads["target_prediction"]))
    return torch.cat(results)


def _divergence(d: Drawn) -> Tensor:
    before, after = (kernels(_Online(d, name).encoder) for name in ("global", "own"))
    return torch.tensor(weight_divergence(before, after))


def _their_divergence(copy: Copy, d: Drawn) -> Tensor:
    client = _their_client(copy, d)
    return client._calculate_divergence(_Online(d, "global"), _Online(d, "own"))  # type: ignore[no-any-return]


DAPU = {"update_encoder": "online", "update_predictor": "dapu", "dapu_threshold": 1.0}
MIXED = {"update_encoder": "dynamic_ema_online", "update_predictor": "dynamic_dapu", "dapu_threshold": 1.0}
MIXED |= {"auto_scaler": "y", "auto_scaler_target": 0.7}
CASES = [
    Case(
        "fedbyol",
        EASYFL,
        f"{MODEL}: BYOLModel.forward",
        _their_step,
        _step,
        "es et",
        what="loss of a step, of projections that are not standardised",
    ),
    Case(
        "fedbyol",
        EASYFL,
        f"{MODEL}: BYOLModel.update_moving_average",
        _their_followed,
        _followed,
        what="the target net after a step",
    ),
    Case(
        "fedu",
        EASYFL,
        f"{CLIENT}: FedSSLClient._calculate_divergence",
        _their_divergence,
        _divergence,
        what="how far a training went",
    ),
    Case(
        "fedu",
        EASYFL,
        f"{CLIENT}: FedSSLClient.update_model",
        partial(_their_merged, divergences=(FAR, NEAR), **DAPU),
        partial(_merged, DivergenceAwarePredictor(mu=1.0), divergences=(FAR, NEAR)),
        what="a client's net after it has received the global one, after trainings that went far and not far",
    ),
    Case(
        "fedema",
        EASYFL,
        f"{CLIENT}: FedSSLClient.update_model",
        partial(_their_merged, divergences=(1.0, FAR, NEAR), **MIXED),
        partial(_merged, DivergenceAwareAverage(tau=0.7), divergences=(1.0, FAR, NEAR)),
        what="a client's net after it has received the global one, at the first return, at a share of 1, and of less",
    ),
]
