"""mdistiller's DKD, by its authors: their distiller and their ``BaseTrainer.train_iter``, on CPU.

Changed at run time, as it does not run as it is:

- ``Tensor.cuda`` gives the tensor itself: ``train_iter`` moves each batch to a GPU whether there is one or not.
- Of the package only the files that DKD needs are loaded: the others import torchvision, yacs and a detection library.
- ``tensorboardX`` is an empty module, and the trainer is made without its ``__init__``, which opens a log with it.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from types import ModuleType
from typing import Any

import torch
from lesson import Batches, Net, Report, TestBatches, read_task
from torch import Tensor

task, method = read_task()
torch.Tensor.cuda = lambda self, *arguments, **more: self  # type: ignore[assignment, method-assign]
for name in ("mdistiller", "mdistiller.distillers", "mdistiller.engine"):  # without what their __init__ imports
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = [f"{sys.argv[2]}/{name.replace('.', '/')}"]
sys.modules["tensorboardX"] = ModuleType("tensorboardX")
sys.modules["tensorboardX"].SummaryWriter = object  # type: ignore[attr-defined]

from mdistiller.distillers.DKD import DKD  # noqa: E402
from mdistiller.engine.trainer import BaseTrainer  # noqa: E402
from mdistiller.engine.utils import AverageMeter, accuracy  # noqa: E402


class LogitsFirst(Net):
    """mdistiller's nets return (logits, features by name)."""

    def forward(self, images: Tensor, **more: Any) -> Any:
        """Of images (B, 1, H, W)."""
        return super().forward(images), {}


#: WARMUP is the number of epochs over which the loss grows to its weight; the authors take 20 of 240.
settings = Namespace(CE_WEIGHT=1.0, ALPHA=1.0, T=4.0)
settings.BETA, settings.WARMUP = 8.0 if "beta 8" in method else 2.0, 20 if method.endswith("warm-up") else 1
student, teacher = LogitsFirst(task.nets["student"]), LogitsFirst(task.nets["teacher"])
trainer = BaseTrainer.__new__(BaseTrainer)
trainer.distiller = DKD(student, teacher, Namespace(DKD=settings))
trainer.optimizer = task.optimizer(student)
loader, report = Batches(task, "student"), Report()
for epoch in range(1, len(task.orders["student"]) + 1):
    trainer.optimizer.param_groups[0]["lr"] = task.rate(epoch)
    meters = {name: AverageMeter() for name in ("training_time", "data_time", "losses", "top1", "top5")}
    trainer.distiller.train()
    for batch in loader:
        trainer.train_iter(batch, epoch, meters)
    student.eval()
    with torch.no_grad():
        right = [float(accuracy(student(images)[0], labels)[0]) * len(labels) for images, labels in TestBatches(task)]
    report(float(meters["losses"].avg), sum(right) / len(task.test_labels))
