"""A grid as a deployment shows it to a ServerApp: not one of ours, node ids that mean nothing, messages as bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedkd.grids import InProcessGrid


class RenumberedGrid(Grid):
    """An `InProcessGrid` behind other node ids.

    ``node_configs`` has the config of each node by its id. Who asks which nodes are there is told of none at first.
    ``client_of`` tells after a run which client each node was: what stood in the last instruction to it.
    """

    def __init__(self, node_configs: Mapping[int, Mapping[str, Any]]) -> None:
        self.client_of: dict[int, int] = {}
        self._node_configs = node_configs
        self._place = {node: place for place, node in enumerate(node_configs)}  # the node's id on the inner grid
        self._present: list[int] = []
        self._inner = InProcessGrid()
        self._pushes, self._ready = 0, dict[str, tuple[int, Message]]()

    def open(self, client_app: ClientApp, num_supernodes: int, run_config: Mapping[str, Any] | None = None) -> Self:
        self._inner.open(client_app, len(self._place), run_config)
        for node, place in self._place.items():
            self._inner.context(place).node_config = dict(self._node_configs[node])
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._inner.close()

    def get_node_ids(self) -> Iterable[int]:
        present, self._present = self._present, list(self._place)
        return present

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The replies come in another order than the messages."""
        replies = self._inner.send_and_receive([self._inward(message) for message in messages], timeout=timeout)
        return [self._outward(reply) for reply in reversed(list(replies))]

    def _inward(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        if "client" in (instruction := message.content["fedkd.instruction"]):
            self.client_of[node] = int(str(instruction["client"]))
        message = through_bytes(message)
        message.metadata.dst_node_id = self._place[node]
        return message

    def _outward(self, reply: Message) -> Message:
        node = list(self._place)[reply.metadata.src_node_id]
        reply = through_bytes(reply)
        reply.metadata.__dict__["_src_node_id"] = node
        return reply

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """A node whose config says ``late = 1`` has its reply to training ready only when the next such messages are pushed."""
        ids = []
        for place, message in enumerate(messages):
            training = message.metadata.message_type == "train"
            self._pushes += training and not place
            late = training * int(self._node_configs[message.metadata.dst_node_id].get("late", 0))
            (reply,) = self.send_and_receive([message])
            ids.append(reply.metadata.reply_to_message_id)
            self._ready[ids[-1]] = (self._pushes + late, reply)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        ready = [name for name in message_ids if self._ready[name][0] <= self._pushes]
        return [self._ready.pop(name)[1] for name in ready]

    # The rest of Flower's Grid, which fedkd does not call.

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        raise NotImplementedError


def through_bytes(message: Message) -> Message:
    """The message as it is after a trip over a wire."""
    return message_from_proto(MessageProto.FromString(message_to_proto(message).SerializeToString()))
