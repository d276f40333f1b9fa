"""One client's upload, from records to knowledge."""

from __future__ import annotations

from dataclasses import replace

from flwr.app import RecordDict

from fedkd.engine.guard import Guard
from fedkd.engine.received import Received, Traffic
from fedkd.experiment.algorithm.counted_work import FLOPS
from fedkd.knowledge import codecs
from fedkd.knowledge.channels import ServerChannel
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.records import from_records, wire_bytes


def read_upload(
    client: int, records: RecordDict, channel: ServerChannel, guard: Guard, received: Received
) -> tuple[Knowledge, codecs.Bases]:
    """Bound an upload's size and decode it; its bytes and the operations that it took are noted, whatever comes of it.

    Raises ValueError: what is wrong with it.
    """
    limit = guard.most_bytes(client)
    message = from_records(records, max_bytes=limit, max_facts=guard.most_facts(client))
    traffic = received.traffic[client] = Traffic(0, message.raw_bytes, wire_bytes(records))
    received.flops[client] = message.metrics.get(FLOPS, 0.0)
    upload, bases = codecs.decode(channel.codecs, message, _bases_of(client, message, channel), max_bytes=limit)
    traffic.raw = upload.raw_bytes
    if FLOPS in upload.metrics:
        upload = replace(upload, metrics={key: value for key, value in upload.metrics.items() if key != FLOPS})
    return upload, bases


def _bases_of(client: int, message: Knowledge, channel: ServerChannel) -> codecs.Bases:
    which = channel.which(client)
    if (base := message.header.get("base", "")) not in ("", which):
        raise ValueError(f"it is coded against upload {base}, the last accepted one is {which or 'none'}")
    return channel.bases(client) if base else {}
