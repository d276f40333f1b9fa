"""A grid that forgets everything between calls: what an app remembers on it, it keeps in ``Context.state``.

Each message is handled by a process of its own, from serialized bytes, and only the bytes of its reply and of the state
that it leaves come back. So it is also the smallest example of a grid of your own.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import ClassVar

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.common.serde import context_from_proto, context_to_proto, message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Context as ContextProto
from flwr.proto.message_pb2 import Message as MessageProto

from fedkd.grids import JobGrid
from fedkd.grids.client_call import run_client
from fedkd.grids.flower import error_reply, message_from_plain

_fork = multiprocessing.get_context("fork")  # a ClientApp made in a function cannot be pickled


class ForgetfulGrid(JobGrid):
    """One process per message. Keep torch at one thread in this process: a fork does not survive its thread pool."""

    keeps_contexts: ClassVar[bool] = False

    def run_jobs(self, messages: Sequence[Message], timeout: float | None) -> Iterator[Message]:
        for message in messages:
            if reply := self._run_in_process(message, timeout):
                yield reply

    def _run_in_process(self, message: Message, timeout: float | None) -> Message | None:
        context = self.context(message.metadata.dst_node_id)
        here, there = _fork.Pipe()
        message_bytes = message_to_proto(message).SerializeToString()
        context_bytes = context_to_proto(context).SerializeToString()
        process = _fork.Process(target=_handle, args=(there, self.client_app, message_bytes, context_bytes, timeout))
        process.start()
        there.close()
        try:
            answer = here.recv_bytes()
            reply = message_from_proto(MessageProto.FromString(answer)) if answer else None
            context.state = context_from_proto(ContextProto.FromString(here.recv_bytes())).state
        except EOFError:
            reply = error_reply(message, ErrorCode.CLIENT_APP_CRASHED, "the process died")
        finally:
            process.join()
        return reply


def _handle(pipe: Connection, client_app: ClientApp, message_bytes: bytes, context_bytes: bytes, timeout: float | None) -> None:
    message = message_from_proto(MessageProto.FromString(message_bytes))
    context: Context = context_from_proto(ContextProto.FromString(context_bytes))
    reply = run_client(client_app, message, context, timeout=timeout)
    pipe.send_bytes(message_to_proto(message_from_plain(reply)).SerializeToString() if reply else b"")  # b"": it is late
    pipe.send_bytes(context_to_proto(context).SerializeToString())
