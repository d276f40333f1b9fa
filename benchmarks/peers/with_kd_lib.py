"""KD_Lib's deep mutual learning: its own ``DML.train_students`` with two peers.

Changed at run time:

- Only its file is loaded: the package's ``__init__`` imports transformers and torchtext.
- Its epochs are counted in ``_evaluate_model``, which it calls of each peer after each epoch: there the next epoch's rate is
  set, and accuracies are noted. For methods that end in "in train mode" the peer is also put back into train mode, which
  KD_Lib forgets.
- "kl" gives it Zhang's loss, KL(other || own) of softmaxes with the other as a constant, in place of its default, ``MSELoss``.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import matplotlib
import torch.nn.functional as F
from lesson import Batches, Net, Report, TestBatches, read_task
from torch import Tensor, nn

task, method = read_task()
matplotlib.use("agg")  # its file imports pyplot
found = importlib.util.spec_from_file_location("dml", f"{sys.argv[2]}/KD_Lib/KD/vision/DML/dml.py")
assert found and found.loader
module = importlib.util.module_from_spec(found)
found.loader.exec_module(module)


def kl(own: Tensor, other: Tensor) -> Tensor:
    """The paper's, at T = 1."""
    return F.kl_div(F.log_softmax(own, 1), F.log_softmax(other.detach(), 1), reduction="batchmean", log_target=True)


class Counted(module.DML):  # type: ignore[misc, name-defined]
    """Notes each epoch."""

    epoch = 1

    def _evaluate_model(self, model: nn.Module, verbose: bool = True) -> Any:
        outputs, accuracy = super()._evaluate_model(model, verbose=False)
        noted.append(100 * accuracy)
        if len(noted) == len(self.student_cohort):
            report(None, *noted)
            noted.clear()
            self.epoch += 1
        for optimizer in self.student_optimizers:
            optimizer.param_groups[0]["lr"] = task.rate(self.epoch)
        if method.endswith("in train mode"):
            model.train()
        return outputs, accuracy


peers = [Net(task.nets[name]) for name in ("peer 0", "peer 1")]
noted: list[float] = []
loss = {"loss_fn": kl} if "kl" in method else {}
batches = Batches(task, "peers", with_ids=False)
cohort = Counted(peers, batches, TestBatches(task), [task.optimizer(peer) for peer in peers], **loss)
report = Report()
cohort.train_students(epochs=len(task.orders["peers"]), plot_losses=False, save_model=False)
