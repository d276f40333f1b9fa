"""What data-free distillation costs: DENSE's step at the server over a bare loop of the same generator and student steps.

    python benchmarks/data_free.py                          # digits, five nets of BatchNorm: two minutes
    python benchmarks/data_free.py --source fashion_mnist   # 28x28: about ten minutes

A turn is a number of epochs of both, one after the other, from fresh weights: of each epoch 30 steps of the generator, with
the gap to BatchNorm statistics, cross-entropy and disagreement, and one pass of the student over the pool. Ours is the whole
of ``server_update``: it loads the clients' nets, and takes up and gives back the student too. The bare loop is what a careful
person writes for one script: frozen nets, channels last, fused optimisers, teachers' answers computed once for each sample.
Nets and generator are fedkd's own: they are what is trained, and no part of what is compared. The median of the ratios counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RESULTS = Path(__file__).parent / "results" / "data_free.json"
CLIENTS, BATCH, STEPS, WIDTH, NOISE = 5, 64, 30, 32, 256
GENERATOR_LR, LR, MOMENTUM, TEMPERATURE = 1e-3, 0.005, 0.9, 20.0
NET: dict[str, Any] = {"channels": [8, 16], "hidden": 64, "norm": "batch"}


def server_of(source: str, epochs: int) -> Any:
    """A server that knows the data's shape, and the strategy."""
    from fedkd import Experiment, Server
    from fedkd.experiment.algorithm.functions import Functions
    from fedkd.knowledge.memory import Memory

    experiment = Experiment(
        strategy={"name": "dense", "epochs": epochs},
        nets="cnn",
        net_options={"cnn": NET},
        train={"momentum": MOMENTUM, "weight_decay": 0.0},
        data={"source": source, "clients": CLIENTS, "partition": "iid"},
    )
    server = Server(experiment, Functions(), experiment.federation(), Memory(), torch.device("cpu"))
    server.round = 1
    return server


def uploads_of(server: Any) -> dict[int, Any]:
    """Nets that clients may have trained: other weights for each."""
    from fedkd import Knowledge

    nets = [server.net(f"client {client}", init="own") for client in range(CLIENTS)]
    return {client: Knowledge.of("weights", net.state_dict()) for client, net in enumerate(nets)}


def ours(source: str, epochs: int) -> float:
    """Seconds of DENSE's half at the server."""
    server = server_of(source, epochs)
    uploads = uploads_of(server)
    began = time.perf_counter()
    server.experiment.strategy.server_update(server, uploads)
    return time.perf_counter() - began


def bare(source: str, epochs: int) -> float:
    """Seconds of the same without a framework."""
    from fedkd.nets import build_net
    from fedkd.nets.generator import Generator

    server = server_of(source, epochs)
    federation = server.federation
    shape, classes = federation.source.shape, len(federation.source.classes)
    weights = [upload.tensors for upload in uploads_of(server).values()]
    began = time.perf_counter()
    nets = [build_net("cnn", shape=shape, classes=classes, options=NET) for _ in range(CLIENTS + 1)]
    student, *teachers = nets
    for teacher, held in zip(teachers, weights, strict=True):
        teacher.load_state_dict(held)
        teacher.eval().requires_grad_(False)
    generator = Generator(shape, noise=NOISE, width=WIDTH, pixels=federation.examples.moments)
    sgd = torch.optim.SGD(student.parameters(), lr=LR, momentum=MOMENTUM, fused=True)
    gaps: list[Tensor] = []

    def look(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        gaps.append((mean - layer.running_mean).norm() + (variance - layer.running_var).norm())

    norms = [part for teacher in teachers for part in teacher.modules() if isinstance(part, nn.BatchNorm2d)]
    pool, targets = torch.empty(0, *shape), torch.empty(0, classes)
    for _ in range(epochs):
        generator.redraw(torch.default_generator)
        labels = torch.randint(classes, (BATCH,))
        noise = torch.randn(BATCH, NOISE, requires_grad=True)
        adam = torch.optim.Adam([*generator.parameters(), noise], lr=GENERATOR_LR, betas=(0.5, 0.999), fused=True)
        student.eval().requires_grad_(False)
        hooks = [norm.register_forward_pre_hook(look) for norm in norms]
        best, least = torch.empty(0), float("inf")
        for _ in range(STEPS):
            gaps.clear()
            samples = generator(noise)
            taught = torch.stack([teacher(samples) for teacher in teachers]).mean(0)
            said = student(samples)
            apart = F.kl_div(said.log_softmax(1), taught.log_softmax(1), reduction="none", log_target=True).sum(1)
            loss = torch.stack(gaps).sum() / CLIENTS + F.cross_entropy(taught, labels)
            loss = loss - (apart * (said.argmax(1) != taught.argmax(1))).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            if loss.item() < least:
                best, least = samples.detach(), loss.item()
        for hook in hooks:
            hook.remove()
        student.train().requires_grad_(True)
        with torch.no_grad():
            answers = torch.stack([teacher(best) for teacher in teachers]).mean(0)
        pool, targets = torch.cat([pool, best]), torch.cat([targets, answers])
        for rows in torch.randperm(len(pool)).split(BATCH):
            images = pool[rows].contiguous(memory_format=torch.channels_last)
            log_s, log_t = ((logits / TEMPERATURE).log_softmax(1) for logits in (student(images), targets[rows]))
            sgd.zero_grad()
            (F.kl_div(log_s, log_t, reduction="batchmean", log_target=True) * TEMPERATURE**2).backward()
            sgd.step()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="digits", help="an image data set of fedkd's, of which only the shape matters")
    parser.add_argument("--epochs", type=int, default=10, help="of a turn")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    given = parser.parse_args()
    from fedkd.results.environment import cpu_model

    machine = {"cores": os.cpu_count(), "cpu": cpu_model(), "load": os.getloadavg()[0]}  # before it is ours
    torch.set_num_threads(1)
    contenders = {"bare": bare, "ours": ours}
    for each in contenders.values():  # which warms up
        each(given.source, 1)
    turns = []
    for turn in range(given.turns):
        order = [*contenders] if turn % 2 else [*reversed(contenders)]
        turns.append({name: contenders[name](given.source, given.epochs) for name in order})
        print(f"  DENSE over the bare loop ({turn + 1}/{given.turns}): {turns[-1]['ours'] / turns[-1]['bare']:.3f}", flush=True)
    ratios = [turn["ours"] / turn["bare"] for turn in turns]
    ratio = statistics.median(ratios)
    print(f"{'DENSE over the bare loop':50} {ratio:6.3f}")
    shown = [{str(given.results): "FILE"}.get(argument, argument) for argument in sys.argv[1:]]
    command = f"python benchmarks/data_free.py {' '.join(shown)}".strip()
    of_ratios = {"ratio": ratio, "ratio_range": [min(ratios), max(ratios)]}
    report = {"command": command, "machine": machine, **of_ratios, "seconds_a_turn": turns}
    given.results.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
