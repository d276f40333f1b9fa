"""One run of EasyFL's application fedssl. It needs EasyFL's own requirements (venvs.py), nothing of fedkd.

    python with_easyfl.py FOLDER      # holds code/, task.json, initial.pt and perhaps views.npy; the last line is the result

Its coordinator, server, clients and model do all the work, started as its ``main.py`` does; ``encoders.pt`` gets the global
encoder before round 1 and after each round. What is set here: the data set, and a small net in the place of ResNet-18; and that
nothing is tested or saved, as its test wants CIFAR-10 from the internet. In the runs that are called changed, its model also
gets the heads, batches and views of fedkd.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

folder = Path(sys.argv[1]).resolve()
task: dict[str, Any] = json.loads((folder / "task.json").read_text())
sys.path[:0] = [str(folder / "code" / "applications" / "fedssl"), str(folder / "code")]
torch.set_num_threads(1)

import easyfl  # noqa: E402
from client import FedSSLClient  # noqa: E402
from easyfl.datasets import FederatedTensorDataset  # noqa: E402
from model import BYOLModel  # noqa: E402
from server import FedSSLServer  # noqa: E402

WIDTH = 256  # of heads
encoders: list[dict[str, Tensor]] = []
clients: list[Any] = []


class SmallNet(nn.Module):
    """fedkd's "cnn" with BatchNorm, by the same names: (B, 3, 32, 32) -> what ``fc`` makes of (B, D)."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *task["channels"]]
        side = 32 >> len(task["channels"])
        self.convolutions = nn.ModuleList(nn.Conv2d(before, after, 3, padding="same") for before, after in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for after in task["channels"])
        self.hidden = nn.Linear(widths[-1] * side * side, task["hidden"])
        self.feature_dim = task["hidden"]
        self.fc: nn.Module = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(F.max_pool2d(norm(convolution(x)), 2))
        return self.fc(F.relu(self.hidden(x.flatten(1))))  # type: ignore[no-any-return]


class HandedOver:
    """A client's batches: the pairs of views of its epochs, one after the other, whatever is asked for in between."""

    def __init__(self, views: np.ndarray, batches: int) -> None:
        self.views, self.batches, self.epoch = views, batches, 0  # (batches of all epochs, 2, B, ...)

    def __iter__(self) -> Iterator[tuple[tuple[Tensor, Tensor], int]]:
        start = self.epoch * self.batches
        self.epoch += 1
        for pair in self.views[start : start + self.batches]:
            first, second = (torch.from_numpy(view).contiguous(memory_format=torch.channels_last) for view in pair.copy())
            yield (first, second), 0  # laid out as fedkd's, for BatchNorm rounds by layout


class Images(FederatedTensorDataset):
    """The clients' images; their batches are those handed over, where there are any."""

    def loader(self, batch_size: int, client_id: str, **rest: Any) -> Any:
        if not task["changed"]:
            return super().loader(batch_size, client_id, **rest)
        views = np.load(folder / "views.npy", mmap_mode="r")[int(client_id)]
        return HandedOver(views.reshape(-1, *views.shape[2:]), self.size(client_id) // batch_size)


class Server(FedSSLServer):
    """The server, whose encoders are kept in the place of a test."""

    def set_clients(self, given: list[Any]) -> None:
        super().set_clients(given)
        clients.extend(given)

    def test(self) -> None:
        keep(self._model)

    def save_model(self) -> None:
        pass


def keep(model: nn.Module) -> None:
    """The encoder without its head."""
    state = model.online_encoder.state_dict()
    encoders.append(copy.deepcopy({name: tensor for name, tensor in state.items() if not name.startswith("fc.")}))


def make_model() -> nn.Module:
    """BYOL on the small net from fedkd's first weights; with fedkd's heads, if changed, which end in a standardisation."""
    given = torch.load(folder / "initial.pt")
    of = {part: {} for part in ("encoder.", "heads.projection.", "heads.target_prediction.")}
    for part, state in of.items():
        state.update({name.removeprefix(part): tensor for name, tensor in given.items() if name.startswith(part)})
    net = SmallNet()
    net.load_state_dict(of["encoder."])
    model = BYOLModel(net=net, projection_size=WIDTH, projection_hidden_size=WIDTH)
    if task["changed"]:
        projection = nn.Sequential(nn.Linear(task["hidden"], WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        predictor = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        projection.load_state_dict(of["heads.projection."])
        predictor.load_state_dict(of["heads.target_prediction."])
        net.fc = nn.Sequential(projection, nn.BatchNorm1d(WIDTH, affine=False, track_running_stats=False))
        model.online_predictor = predictor
    return model


def configuration() -> dict[str, Any]:
    """As its ``main.py`` makes it."""
    train = task["train"]
    optimizer = {key: train[key] for key in ("lr", "momentum", "weight_decay")}
    own = {"aggregate_encoder": "online", "dapu_threshold": 0.4, "weight_scaler": 1.0, "auto_scaler": "y"}
    own |= {"auto_scaler_target": 0.8, "encoder_weight": 0, "predictor_weight": 0, "momentum_update": True}
    return {
        "task_id": "beside",
        "seed": task["seed"],
        "gpu": 0,
        "is_remote": False,
        "local_port": 0,
        "model": "byol",
        "test_mode": "test_in_server",
        "tracking": {"log_level": "WARNING"},
        "resource_heterogeneous": {"grouping_strategy": ""},
        "server": {"rounds": task["rounds"], "test_every": 1, "clients_per_round": 100, "random_selection": False},
        "client": {
            **own,
            **task["method"],
            "seed": task["seed"],
            "drop_last": True,
            "batch_size": train["batch_size"],
            "local_epoch": train["epochs"],
            "optimizer": {"type": "SGD", "lr_type": train["schedule"], **optimizer},
            "model": "byol",
            "rounds": task["rounds"],
            "gaussian": False,
            "image_size": 32,
            "random_selection": False,
        },
    }


def main() -> None:
    with np.load(task["images"]) as file:
        images, labels, owners = (file[f"train_{name}"] for name in ("images", "labels", "clients"))
    data = {str(k): {"x": images[owners == k], "y": labels[owners == k].tolist()} for k in range(int(owners.max()) + 1)}
    torch.manual_seed(task["seed"])  # its ``main.py`` makes the model before it sets seeds
    model = make_model()
    keep(model)
    easyfl.register_dataset(Images(data, simulated=True, do_simulate=False, process_x=None, process_y=None), None)
    easyfl.register_model(model)
    easyfl.register_client(FedSSLClient)
    easyfl.register_server(Server)
    easyfl.init(configuration(), init_all=True)
    began = time.perf_counter()
    easyfl.run()
    torch.save(encoders, folder / "encoders.pt")
    divergences = [[round(value, 6) for value in client.encoder_distances] for client in clients]
    print(json.dumps({"seconds": time.perf_counter() - began, "divergences": divergences}))


if __name__ == "__main__":
    main()
