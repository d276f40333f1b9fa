"""What came back from an exchange, and how many bytes it took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict

from fedkd.engine.newcomers import STARTED_AGAIN
from fedkd.engine.reasons import clipped
from fedkd.engine.secure_aggregation import refuse_mod
from fedkd.knowledge.codecs import Bases
from fedkd.knowledge.knowledge import Knowledge


@dataclass
class Traffic:
    """Bytes of one direction: raw, as the strategy's tensors are; coded, by codecs; and on Flower's wire."""

    raw: int = 0
    coded: int = 0
    wire: int = 0

    def add(self, raw: int, coded: int, wire: int) -> None:
        """Count one message."""
        self.raw, self.coded, self.wire = self.raw + raw, self.coded + coded, self.wire + wire


@dataclass
class Received:
    """What came back: uploads by client id, in order; why the others did not count."""

    uploads: dict[int, Knowledge] = field(default_factory=dict)
    late_uploads: dict[int, Knowledge] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    late: list[int] = field(default_factory=list)
    traffic: dict[int, Traffic] = field(default_factory=dict)
    #: Floating point operations of each client's call, where a virtual clock has them counted.
    flops: dict[int, float] = field(default_factory=dict)
    #: What each upload leaves for the codecs of the next one, once it is accepted.
    bases: dict[int, Bases] = field(default_factory=dict)


@dataclass
class Replies:
    """Replies to the messages of an exchange, and to those of earlier ones, by round and exchange."""

    current: list[Message]
    earlier: dict[tuple[int, int], list[Message]]


def sort_replies(replies: Iterable[Message], client_of: Mapping[int, int]) -> tuple[dict[int, RecordDict], Received, set[int]]:
    """Contents by client id, who failed and who is late, and whose nodes were started again. A second reply is ignored.

    Args:
        replies: of any nodes.
        client_of: the clients that were asked, by node.
    """
    contents: dict[int, RecordDict] = {}
    received, started_again = Received(), set[int]()
    for reply in replies:
        client = client_of.get(reply.metadata.src_node_id)
        if client is None or client in contents or client in received.failed:
            continue
        if reply.has_error():
            reason = reply.error.reason or ""
            refuse_mod(client, reason)
            if STARTED_AGAIN in reason:
                started_again.add(client)
            received.failed[client] = clipped(reason or f"error {reply.error.code}")
        elif not reply.has_content():
            received.failed[client] = "its reply is empty"
        else:
            contents[client] = reply.content
    received.late = sorted(set(client_of.values()) - contents.keys() - received.failed.keys())
    return dict(sorted(contents.items())), received, started_again
