"""A user's script: a strategy, a loss and a Flower app that stand in ``__main__``. Prints what each engine makes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from torch import Tensor

from fedkd import Client, Experiment, Knowledge, Needs, Node, Server, Strategy, broadcast_net, classifier, fit, load, simulate
from fedkd.aggregate import weighted_mean
from fedkd.experiment.algorithm.fields import Positive
from fedkd.experiment.algorithm.predictors import Classifier
from fedkd.grids import run_app
from fedkd.losses import cross_entropy_loss
from fedkd.losses.distillers import DISTILLERS, Recipe

ENGINES = ("in-process", "ray")


@dataclass(frozen=True)
class Mine(Strategy):
    """FedAvg with a factor on its loss."""

    factor: Positive = 1.0  # a default, and a type that workers do not know by this name
    paper: ClassVar[str] = "none"
    sends: ClassVar[str] = "weights"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)

    def first_broadcast(self, server: Server) -> Knowledge:
        return Knowledge.of("weights", server.net().state_dict())

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        net = client.net()
        load(net, broadcast.tensors)
        fit(net, client.train, lambda net, batch: {"loss": self.factor * cross_entropy_loss(net(batch.inputs), batch.labels)})
        return Knowledge.of("weights", net.state_dict(), weight=len(client.train))

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        return {"global": classifier(broadcast_net(node, broadcast))}


def brier(student: Tensor, teacher: Tensor) -> Tensor:
    return ((student.softmax(1) - teacher.softmax(1)) ** 2).sum(1).mean()


def rows(strategy: object, engine: str) -> list[object]:
    data = {"source": "digits", "clients": 2, "partition": "iid", "train_limit": 60}
    history = simulate(Experiment(strategy=strategy, nets="mlp", shared_net="mlp", rounds=1, data=data), engine)
    return [[row["accuracy"], row["clients_failed"]] for row in history.metrics]


client_app = ClientApp()


@client_app.query()
def read(message: Message, context: Context) -> Message:
    tensors = message.content["arrays"].to_torch_state_dict()
    return Message(RecordDict({"config": ConfigRecord({"sum": float(tensors["w"].sum())})}), reply_to=message)


def sum_at_a_client(engine: str) -> list[object]:
    import torch

    server_app, found = ServerApp(), list[object]()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        content = RecordDict({"arrays": ArrayRecord({"w": torch.ones(3)})})
        for reply in grid.send_and_receive([grid.create_message(content, "query", 0, "")]):
            found.append(reply.content["config"]["sum"] if reply.has_content() else reply.error.reason)

    run_app(server_app, client_app, 1, grid=engine)
    return found


if __name__ == "__main__":
    DISTILLERS["brier"] = Recipe(brier, DISTILLERS["kd"].build, frozenset({"logits"}))
    said = {
        "strategy": [rows(Mine(), engine) for engine in ENGINES],
        "loss": [rows({"name": "fml", "loss": "brier"}, engine) for engine in ENGINES],
        "records": [sum_at_a_client(engine) for engine in ENGINES],
    }
    print(json.dumps(said))
