"""What leans on Flower's private parts: identities, contexts, message ids, and records as plain values.

A *plain* value is made of lists, dicts, strings, numbers and bytes only. It is how records are compared, and sent to workers:
Ray packs such a value in C, and pickles what holds anything else, a tuple say, which takes several times as long.
Flower's own constructors check every key and value again, which costs more than the copy; so `fedkd.base.records` goes round.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.app.constants import DEFAULT_TTL
from flwr.app.metadata import Metadata
from flwr.app.user_config import UserConfig
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.constant import ErrorCode as ErrorCode  # for the other grid files: Flower's private paths stand here only
from flwr.supercore.run import Run as Run
from flwr.supercore.task_identity import TaskIdentity

from fedkd.base.records import array_of, items_of, record_of

RUN_ID = 1
TASK_ID = 1

PlainRecords = list[list[Any]]  # [name, which of _RECORDS, items] each
PlainMessage = list[Any]  # metadata, PlainRecords or None, [code, reason] of an error or None
_RECORDS: tuple[type[Any], ...] = (ArrayRecord, MetricRecord, ConfigRecord)
_KINDS = {kind: number for number, kind in enumerate(_RECORDS)}


def _same(data: Any) -> Any:
    return data


# ---- identities and contexts


@contextmanager
def server_identity() -> Iterator[None]:
    """Inside the block this process is the server of a run, so that ``Message(...)`` can be made; restored after it."""
    names = ("_task_id", "_run_id", "_node_id")
    before = {name: getattr(TaskIdentity, name) for name in names}
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = TASK_ID, RUN_ID, SUPERLINK_NODE_ID
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(TaskIdentity, name, value)


def new_run(run_config: UserConfig) -> Run:
    """The description of a run that no SuperLink knows."""
    run = Run.create_empty(RUN_ID)
    run.override_config = dict(run_config)
    return run


def server_context(run_config: UserConfig) -> Context:
    """The Context that a ServerApp is given."""
    return Context(RUN_ID, SUPERLINK_NODE_ID, {}, RecordDict(), dict(run_config))


def client_context(node_id: int, nodes: int, run_config: UserConfig, state: RecordDict | None = None) -> Context:
    """The Context of one client; node ``i`` of ``nodes`` holds partition ``i``, and is told that it is simulated.

    ``run_config`` is not copied, as all clients of a grid have the same.
    """
    node_config: UserConfig = {"partition-id": node_id, "num-partitions": nodes, "simulated": True}
    return Context(RUN_ID, node_id, node_config, RecordDict() if state is None else state, run_config)


# ---- records and messages as plain values


def plain_records(records: RecordDict, store: Callable[[bytes], Any] = _same) -> PlainRecords:
    """Take records apart; ``store`` says what stands for the bytes of an array (by default the bytes themselves)."""
    plain: PlainRecords = []
    for name, record in items_of(records).items():
        if (kind := _kind_of(record)) == 0:
            arrays = {key: [a.dtype, list(a.shape), a.stype, store(a.data)] for key, a in items_of(record).items()}
            plain.append([name, kind, arrays])
        else:
            plain.append([name, kind, _copy_items(record)])
    return plain


def _kind_of(record: Any) -> int:
    """Which of _RECORDS it is."""
    exact = _KINDS.get(type(record))
    return next(kind for kind, of in enumerate(_RECORDS) if isinstance(record, of)) if exact is None else exact


def _copy_items(record: Any) -> dict[str, Any]:
    return {key: list(value) if type(value) is list else value for key, value in items_of(record).items()}


def records_from_plain(plain: PlainRecords, load: Callable[[Any], bytes] = _same) -> RecordDict:
    """Put records together again; ``load`` undoes ``store``."""
    records: dict[str, Any] = {}
    for name, kind, items in plain:
        held: dict[str, Any]
        if kind == 0:
            held = {key: array_of(dtype, tuple(shape), stype, load(data)) for key, (dtype, shape, stype, data) in items.items()}
        else:
            held = {key: list(value) if isinstance(value, list) else value for key, value in items.items()}
        records[name] = record_of(_RECORDS[kind], held)
    return record_of(RecordDict, records)


def copy_records(records: RecordDict) -> RecordDict:
    """New records which share the bytes of the arrays and nothing that can be changed."""
    return record_of(RecordDict, {name: _copy_record(record) for name, record in items_of(records).items()})


def _copy_record(record: Any) -> Any:
    if kind := _kind_of(record):
        return record_of(_RECORDS[kind], _copy_items(record))
    arrays = {key: array_of(a.dtype, tuple(a.shape), a.stype, a.data) for key, a in items_of(record).items()}
    return record_of(ArrayRecord, arrays)


def plain_message(message: Message, store: Callable[[bytes], Any] = _same) -> PlainMessage:
    """Take a message apart, see `plain_records`."""
    content = plain_records(message.content, store) if message.has_content() else None
    error = [message.error.code, message.error.reason] if message.has_error() else None
    return [dict(message.metadata.__dict__), content, error]


def message_from_plain(plain: PlainMessage, load: Callable[[Any], bytes] = _same) -> Message:
    """Put a message together again, see `records_from_plain`."""
    metadata, content, error = plain
    return _message(metadata, None if content is None else records_from_plain(content, load), error)


def array_bytes(message: Message) -> Iterator[bytes]:
    """The bytes of each array in a message."""
    for record in message.content.values() if message.has_content() else ():
        if isinstance(record, ArrayRecord):
            yield from (array.data for array in record.values())


def _message(metadata: dict[str, Any], content: RecordDict | None, error: list[Any] | None) -> Message:
    head, message = Metadata.__new__(Metadata), Message.__new__(Message)
    head.__dict__.update(metadata)
    message.__dict__.update(_metadata=head, _content=content, _error=None if error is None else Error(*error))
    return message


def copy_message(message: Message) -> Message:
    """A copy that shares only the bytes of the arrays."""
    content = copy_records(message.content) if message.has_content() else None
    error = [message.error.code, message.error.reason] if message.has_error() else None
    return _message(message.metadata.__dict__, content, error)


def with_new_id(message: Message) -> Message:
    """The same message, given an id of its own as a SuperLink would."""
    message.metadata.__dict__["_message_id"] = os.urandom(16).hex()
    return message


def instruction(content: RecordDict, message_type: str, node_id: int, group_id: str, ttl: float | None) -> Message:
    """A message from the server to a client, in a process that has no Flower identity too."""
    metadata = Metadata(
        run_id=RUN_ID,
        message_id="",
        src_node_id=SUPERLINK_NODE_ID,
        dst_node_id=node_id,
        reply_to_message_id="",
        group_id=group_id,
        created_at=time.time(),
        ttl=DEFAULT_TTL if ttl is None else ttl,
        message_type=message_type,
        src_task_id=TASK_ID,
    )
    metadata.delivered_at = ""
    return _message(metadata.__dict__, content, None)


def reply_to(message: Message, content: RecordDict) -> Message:
    """What ``Message(content, reply_to=message)`` is, without its checks; only for clients of a grid of ours."""
    asked, now = message.metadata, time.time()
    metadata = Metadata(
        run_id=asked.run_id,
        message_id="",
        src_node_id=asked.dst_node_id,
        dst_node_id=asked.src_node_id,
        reply_to_message_id=asked.message_id,
        group_id=asked.group_id,
        created_at=now,
        ttl=asked.created_at + asked.ttl - now,
        message_type=asked.message_type,
        src_task_id=asked.dst_task_id,
        dst_task_id=asked.src_task_id,
    )
    metadata.delivered_at = ""
    return _message(metadata.__dict__, content, None)


def error_reply(message: Message, code: int, reason: str) -> Message:
    """The reply to a message whose client failed; ``code`` is one of Flower's ``ErrorCode``."""
    return Message(Error(code, reason), reply_to=message)
