"""RepDistiller's losses and loops: no teacher, KD, AT, SP, CRD, each by ``helper/loops.py`` as ``train_student.py`` calls it.

Changed at run time, as it does not run as it is:

- ``Tensor.cuda`` gives the tensor itself: ``crd/memory.py`` moves its sampler to a GPU whether there is one or not.
- CRD's negatives are drawn by its CIFAR-100 data set, which needs an old torchvision: ``WithNegatives`` repeats those lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lesson import Batches, Net, Report, Task, TestBatches, read_task
from torch import Tensor, nn

task, method = read_task()
torch.Tensor.cuda = lambda self, *arguments, **more: self  # type: ignore[assignment, method-assign]

from crd.criterion import CRDLoss  # noqa: E402
from distiller_zoo import Attention, DistillKL, Similarity  # noqa: E402
from helper.loops import train_distill, train_vanilla, validate  # noqa: E402
from helper.util import adjust_learning_rate  # noqa: E402

#: Method -> its name there, and gamma, alpha, beta of scripts/run_cifar_distill.sh: of labels, of KD, of the loss itself.
WEIGHTS = {
    "kd": ("kd", 0.1, 0.9, 0.0),
    "at": ("attention", 1.0, 0.0, 1000.0),
    "sp": ("similarity", 1.0, 0.0, 3000.0),
    "crd": ("crd", 1.0, 0.0, 0.8),
}
NEGATIVES = 1024


class WithNegatives(Batches):
    """With CRD's positive and negatives: the lines of ``CIFAR100InstanceSample``, mode "exact"."""

    def __init__(self, task: Task, who: str) -> None:
        super().__init__(task, who)
        labels = task.labels.numpy()
        self.cls_negative = [np.flatnonzero(labels != label) for label in range(int(labels.max()) + 1)]

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for images, labels, ids in super().__iter__():
            yield (
                images,
                labels,
                ids,
                torch.stack([self.sample(*both) for both in zip(ids.tolist(), labels.tolist(), strict=True)]),
            )

    def sample(self, index: int, target: int) -> Tensor:
        """(1 + K,) positions."""
        replace = len(self.cls_negative[target]) < NEGATIVES
        neg_idx = np.random.choice(self.cls_negative[target], NEGATIVES, replace=replace)
        return torch.from_numpy(np.hstack((np.asarray([index]), neg_idx)))


class Plain(Batches):
    """``train_vanilla`` wants images and labels alone."""

    def __init__(self, task: Task, who: str) -> None:
        super().__init__(task, who, with_ids=False)


np.random.seed(task.seed)
if method == "crd, drawn again":  # other negatives, banks and embeddings
    np.random.seed(task.seed + 1000)
    torch.manual_seed(task.seed + 1000)
options, student, teacher = task.options, Net(task.nets["student"]), Net(task.nets["teacher"])
modules, trained = nn.ModuleList([student]), nn.ModuleList([student])
criteria: list[Any] = [nn.CrossEntropyLoss(), DistillKL(4.0), DistillKL(4.0)]
loader: Batches = (Plain if method.startswith("plain") else WithNegatives if method.startswith("crd") else Batches)(
    task, "student"
)
if not method.startswith("plain"):
    options.distill, options.gamma, options.alpha, options.beta = WEIGHTS[method.partition(",")[0]]
if options.distill == "attention":
    criteria[2] = Attention()
elif options.distill == "similarity":
    criteria[2] = Similarity()
elif options.distill == "crd":
    options.feat_dim, options.nce_k, options.nce_t, options.nce_m = 128, NEGATIVES, 0.07, 0.5
    options.s_dim, options.t_dim, options.n_data = student.hidden.out_features, teacher.hidden.out_features, len(task.labels)
    criteria[2] = CRDLoss(options)
    for embedding in (criteria[2].embed_s, criteria[2].embed_t):
        modules.append(embedding)
        trained.append(embedding)
optimizer = task.optimizer(trained)
modules.append(teacher)
report = Report()
for epoch in range(1, len(task.orders["student"]) + 1):
    adjust_learning_rate(epoch, options, optimizer)
    if method.startswith("plain"):
        _, loss = train_vanilla(epoch, loader, student, criteria[0], optimizer, options)
    else:
        _, loss = train_distill(epoch, loader, modules, criteria, optimizer, options)
    report(float(loss), float(validate(TestBatches(task), student, criteria[0], options)[0]))
