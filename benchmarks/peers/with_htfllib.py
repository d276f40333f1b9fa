"""One run of HtFLlib, started in ``system/`` of a copy of its code. It needs torch, numpy and scikit-learn, nothing of fedkd.

    python with_htfllib.py TASK.json        # what TASK holds: ``task_of`` in htfllib.py; the last line printed is the result

Its servers and clients do all the work. Its ``main.py`` is not used: it imports methods that want generators of images to be
downloaded, and it lists nets for images of 3x32x32. What had to be set right to run it on today's PyTorch, and to let it start
as fedkd does, is in ``prepare``; its files are as they are, but for htfllib_edits.py in the runs that are called changed.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

#: Its module of a method's server, and the name of the class.
SERVERS = {
    "Local": ("serverlocal", "Local"),
    "FD": ("serverfd", "FD"),
    "FML": ("serverfml", "FML"),
    "FedProto": ("serverproto", "FedProto"),
    "FedKD": ("serverkd", "FedKD"),
    "FedTGP": ("servertgp", "FedTGP"),
    "FedGH": ("servergh", "FedGH"),
    "LG-FedAvg": ("serverlg", "LG_FedAvg"),
}
#: Options of its ``main.py`` that no task sets, at its defaults.
DEFAULTS = {
    "goal": "test",
    "device": "cpu",
    "join_ratio": 1.0,
    "random_join_ratio": False,
    "eval_gap": 1,
    "save_folder_name": "temp",
    "auto_break": False,
    "top_cnt": 100,
    "feature_dim": 512,
    "models_folder_name": "",
    "few_shot": 0,
    "client_drop_rate": 0.0,
    "train_slow_rate": 0.0,
    "send_slow_rate": 0.0,
    "time_select": False,
    "time_threthold": 10000,
}


#: Of each client that was scored, whether its net gave numbers.
FINITE: list[bool] = []


def no_area(labels: np.ndarray, outputs: np.ndarray, **rest: Any) -> float:
    """In place of scikit-learn's area under the curve, which ends the run where a net has diverged."""
    FINITE.append(bool(np.isfinite(outputs).all()))
    return 0.0


def prepare(task: dict[str, Any]) -> type:
    """The method's server class, ready to be run."""
    sys.path.insert(0, ".")
    sys.modules["torchvision"] = ModuleType("torchvision")  # imported for nets that are not used here
    sys.modules["h5py"] = ModuleType("h5py")  # imported to write a file that is not written here
    torch.load = partial(torch.load, weights_only=False)  # it saves whole modules, which torch 2.6 and newer refuse to load
    weights = torch.load(task["initial"])
    module, name = SERVERS[task["algorithm"]]
    server = importlib.import_module(f"flcore.servers.{module}")
    base = importlib.import_module("flcore.servers.serverbase")
    base.Server.save_results = lambda self: None  # into ../results, by h5py
    importlib.import_module("flcore.clients.clientbase").metrics.roc_auc_score = no_area
    build = importlib.import_module("flcore.trainmodel.models").BaseHeadSplit
    # Its nets all start as seed 0 draws them, whatever the run; here as the run's seed draws them, the same for fedkd.
    for place in (importlib.import_module("flcore.clients.clientbase"), server):
        if hasattr(place, "BaseHeadSplit"):
            place.BaseHeadSplit = lambda *given, **named: started(build(*given, **named), weights["net"])
    if task["algorithm"] == "FedTGP":
        points = server.Trainable_Global_Prototypes  # which it pickles by name: the class must stay what it is
        drawn = points.__init__
        points.__init__ = lambda self, *given: (drawn(self, *given), started(self, weights["prototypes"]))[0]
    return getattr(server, name)


def started(module: torch.nn.Module, weights: list[torch.Tensor]) -> torch.nn.Module:
    """The module with these weights, which come in the order of its parameters."""
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), weights, strict=True):
            parameter.copy_(value)
    return module


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    np.random.seed(task["seed"])  # in which order it calls its clients: it leaves that to chance
    random.seed(task["seed"])
    server_class = prepare(task)
    server = server_class(Namespace(**DEFAULTS, **task["options"]), 0)
    server.train()
    rounds = task["options"]["global_rounds"]
    # It evaluates before it trains, and trains once more than asked: entry r of its lists is the state after r rounds.
    result = {"curve": server.rs_test_acc[: rounds + 1], "seconds": sum(server.Budget[:rounds])}
    result["diverged"] = FINITE[-len(server.clients) :].count(False)  # clients whose nets give no numbers any more
    print(json.dumps(result))


if __name__ == "__main__":
    main()
