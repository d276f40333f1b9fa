"""One down/up trip as the server sees it: knowledge out to clients, validated uploads back, every byte counted."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedkd import codecs
from fedkd.errors import InputError
from fedkd.grids.jobs import JobGrid
from fedkd.guard import Rejected, check_upload, too_heavy
from fedkd.knowledge import Knowledge, TensorSpec
from fedkd.records import RecordError, from_records, to_records, wire_bytes

INSTRUCTION = "fedkd.instruction"
JOIN, PERSIST, TRAIN, EVALUATE = "query.join", "query.persist", "train", "evaluate"
#: Tensors of the server's linear probes, beside those of the broadcast, in a message that asks to evaluate.
PROBE = "probe/"
#: How many bytes an upload may have beyond the raw bytes of its schema: array headers, and codecs that grow small tensors.
SLACK_BYTES = 65_536


@dataclass
class Traffic:
    """Bytes of one direction: of the tensors' elements as the strategy sees them, coded, and on Flower's wire."""

    raw: int = 0
    coded: int = 0
    wire: int = 0

    def add(self, raw: int, coded: int, wire: int) -> None:
        """Book one message."""
        self.raw, self.coded, self.wire = self.raw + raw, self.coded + coded, self.wire + wire


@dataclass
class Received:
    """What came back: uploads by client id, in order; why the others did not count."""

    uploads: dict[int, Knowledge] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    late: list[int] = field(default_factory=list)
    traffic: dict[int, Traffic] = field(default_factory=dict)


class Courier:
    """Knows which node is which client, makes messages, and reads replies."""

    def __init__(self, grid: Grid, uplink: tuple[str, ...], clients: int, timeout: float) -> None:
        self.grid = grid
        self.codecs = codecs.chain(uplink)
        self._needs_base = any(codec.needs_base for codec in self.codecs)
        self._clients, self._timeout = clients, timeout
        self._node_of: dict[int, int] = {}
        #: client -> (which upload, bases): what the last accepted upload left for the next one to be coded against.
        self._accepted: dict[int, tuple[str, codecs.Bases]] = {}

    @property
    def keeps_contexts(self) -> bool:
        """Whether clients may keep live values between the exchanges of a round."""
        return isinstance(self.grid, JobGrid) and self.grid.keeps_contexts

    def join(self, poll: float = 0.5) -> None:
        """Find out which node is which client: by its ``partition-id``, else by the order of node ids.

        Our own grids number nodes 0..N-1. Elsewhere wait until as many nodes as clients are there.

        Raises:
            InputError: too few nodes within the timeout, or two nodes claim one partition.
        """
        if isinstance(self.grid, JobGrid):
            self._node_of = {client: client for client in range(self._clients)}
            return
        deadline = time.monotonic() + self._timeout
        while len(nodes := sorted(self.grid.get_node_ids())) < self._clients:
            if time.monotonic() > deadline:
                raise InputError(f"data.clients: {len(nodes)} of {self._clients} nodes joined in {self._timeout:g} s")
            time.sleep(poll)
        asked = [Message(RecordDict({INSTRUCTION: ConfigRecord()}), node, JOIN) for node in nodes]
        replies = self.grid.send_and_receive(asked, timeout=self._timeout)
        claims = {r.metadata.src_node_id: int(r.content[INSTRUCTION]["partition-id"]) for r in replies if r.has_content()}  # type: ignore[arg-type]
        if all(claims.get(node, -1) < 0 for node in nodes):
            claims = {node: client for client, node in enumerate(nodes)}
        self._node_of = {}
        for node, client in claims.items():
            if client >= 0 and self._node_of.setdefault(client, node) != node:
                raise InputError(f"node config: two nodes have partition-id {client}: give each node its own")
        if missing := sorted(set(range(self._clients)) - self._node_of.keys()):
            raise InputError(f"node config: no node has partition-id {missing[0]}: start one node for each client")

    def instruct(
        self, kind: str, broadcasts: Mapping[int, Knowledge], facts: Mapping[str, int], traffic: Traffic
    ) -> list[Message]:
        """One message a client, in order of client id. Equal knowledge is packed once and its array bytes are shared."""
        packed: dict[int, tuple[RecordDict, int]] = {}
        messages = []
        for client, knowledge in sorted(broadcasts.items()):
            if id(knowledge) not in packed:
                records = to_records(knowledge)
                packed[id(knowledge)] = (records, wire_bytes(records))
            records, size = packed[id(knowledge)]
            acknowledged = self._accepted.get(client, ("", {}))[0] if self._needs_base else ""
            instruction = ConfigRecord({**facts, "client": client, "acknowledged": acknowledged})
            content = RecordDict({**records, INSTRUCTION: instruction})
            group = str(facts.get("round", 0))
            messages.append(Message(content, self._node_of[client], kind, group_id=group))
            traffic.add(knowledge.raw_bytes, knowledge.raw_bytes, size + wire_bytes(RecordDict({INSTRUCTION: instruction})))
        return messages

    def receive(self, replies: Iterable[Message], asked: Iterable[int]) -> tuple[dict[int, RecordDict], Received]:
        """Sort replies by client id; name who failed and who is late. One reply a client: a second is not looked at."""
        client_of = {self._node_of[client]: client for client in asked}
        contents: dict[int, RecordDict] = {}
        received = Received()
        for reply in replies:
            client = client_of.get(reply.metadata.src_node_id)
            if client is None or client in contents or client in received.failed:
                continue
            if reply.has_error():
                received.failed[client] = (reply.error.reason or f"error {reply.error.code}").strip()
            else:
                contents[client] = reply.content
        received.late = sorted(set(client_of.values()) - contents.keys() - received.failed.keys())
        return dict(sorted(contents.items())), received

    def uploads(
        self,
        replies: Iterable[Message],
        asked: Iterable[int],
        schema: Mapping[str, TensorSpec],
        *,
        round: int,
        exchange: int,
    ) -> Received:
        """Bound the size, decode, guard and sort. A bad upload loses its client for this round; the reason is kept."""
        contents, received = self.receive(replies, asked)
        limit = 2 * sum(spec.raw_bytes for spec in schema.values()) + SLACK_BYTES
        bases: dict[int, codecs.Bases] = {}
        for client, records in contents.items():
            try:
                message = from_records(records, max_bytes=limit)
                traffic = received.traffic[client] = Traffic(0, message.raw_bytes, wire_bytes(records))
                upload, bases[client] = codecs.decode(self.codecs, message, self._base_of(client, message))
                traffic.raw = upload.raw_bytes
                check_upload(upload, schema, round=round, exchange=exchange)
                received.uploads[client] = upload
            except (RecordError, Rejected, ValueError) as error:
                received.failed[client] = f"upload rejected: {error}"
        for client, reason in too_heavy(received.uploads).items():
            del received.uploads[client]
            received.failed[client] = f"upload rejected: {reason}"
        for client in received.uploads:
            self._accepted[client] = (f"{round}.{exchange}", bases[client])
        return received

    def _base_of(self, client: int, message: Knowledge) -> codecs.Bases:
        which, bases = self._accepted.get(client, ("", {}))
        if (said := message.header.get("base", "")) not in ("", which):
            raise Rejected(f"it is coded against upload {said}, the last accepted one is {which or 'none'}")
        return bases if said else {}

    def save(self) -> dict[str, RecordDict]:
        """The codecs' bases, for a checkpoint."""
        return {
            f"base/{client}/{which}/{position}": to_records(base)
            for client, (which, bases) in self._accepted.items()
            for position, base in bases.items()
        }

    def restore(self, parts: Mapping[str, RecordDict]) -> None:
        """Take the codecs' bases from a checkpoint's parts."""
        for key in (key for key in parts if key.startswith("base/")):
            _, client, which, position = key.split("/")
            bases = self._accepted.setdefault(int(client), (which, {}))[1]
            self._accepted[int(client)] = (which, {**bases, int(position): from_records(parts[key])})
