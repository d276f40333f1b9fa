"""Transport between server and clients: knowledge goes out, checked uploads come back, and every byte is counted."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedkd.base.records import record_of
from fedkd.engine.guard import Guard
from fedkd.engine.instruction import RECORD, RUN, TRAIN, Instruction
from fedkd.engine.joining import assign_clients, check_data, claims_of, questions, refuse_errors
from fedkd.engine.newcomers import Newcomers
from fedkd.engine.reasons import in_words
from fedkd.engine.received import Received, Replies, Traffic, sort_replies
from fedkd.engine.uploads import read_upload
from fedkd.engine.waiting import looks, replies_to, telling, wait_for_nodes
from fedkd.grids.jobs import JobGrid
from fedkd.knowledge import codecs
from fedkd.knowledge.channels import ServerChannel
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.records import config_bytes, to_records, wire_bytes
from fedkd.results.progress import OnProgress

_PLAIN = ServerChannel("downlink", ())


class Transport:
    """Knows which node is which client, makes messages, and reads replies."""

    def __init__(self, grid: Grid, *, up: ServerChannel, down: ServerChannel, clients: int, timeout: float) -> None:
        self.grid, self.up, self.down = grid, up, down
        self._clients, self.timeout = clients, timeout
        #: The number of a run in a deployment, under which nodes keep their clients' memories; empty where none is kept.
        self.run = ""
        #: Clients whose node was started again, and does not know the run.
        self.started_again: set[int] = set()
        self._node_of: dict[int, int] = {}
        self._newcomers = Newcomers()
        #: What each client was last sent, until its upload says that it came: which broadcast, and the bases it left.
        self._sent: dict[int, tuple[str, codecs.Bases]] = {}
        #: Records that go with every message: what all agreed on when they joined.
        self.beside: dict[str, ConfigRecord] = {}
        self._joined: dict[int, Message] = {}
        #: Messages of ended exchanges that may still be answered: id -> round and exchange.
        self._unanswered: dict[str, tuple[int, int]] = {}
        self.on_progress: OnProgress | None = None  # hears how far an exchange is

    @property
    def simulated(self) -> bool:
        """Whether the clients are those of a grid of ours."""
        return isinstance(self.grid, JobGrid)

    @property
    def keeps_contexts(self) -> bool:
        """Whether clients may keep live values between the exchanges of a round."""
        return isinstance(self.grid, JobGrid) and self.grid.keeps_contexts

    def join(self, facts: Mapping[str, str], *, begins: bool = True) -> None:
        """Find out which node is which client, if that is not known yet, and that all hold the data of these ``facts``.

        Raises:
            InputError: as ``meet``, or a node holds other data.
        """
        check_data(self._joined or self.meet({}, begins=begins), facts)
        self._newcomers.expect(facts, self._node_of.values())

    def meet(self, told: Mapping[str, ConfigRecord], *, begins: bool = True, poll: float = 0.5) -> Mapping[int, Message]:
        """Ask the nodes who they are: their answers by client id.

        Our own grids number nodes 0..N-1, and unless something is ``told`` one of each process answers for all: what it has
        loaded is everybody's. Elsewhere wait until as many nodes as clients are there; each is the client of its
        ``partition-id``, or else they come in the order of node ids.

        Args:
            told: records that go with the question.
            begins: whether the run is new, so that nodes note its number.
            poll: seconds from one look at who is there to the next.

        Raises:
            InputError: too few nodes within the timeout, one that cannot load its data, or two that claim one partition.
        """
        nodes = wait_for_nodes(self.grid, self._clients, self.timeout, poll)
        asked = self.grid.who_joins() if isinstance(self.grid, JobGrid) and not told else nodes
        messages = questions(asked, ConfigRecord({RUN: self.run} if begins else {}), {**self.beside, **told})
        if isinstance(self.grid, JobGrid):
            replies = list(self.grid.send_and_receive(messages))  # to load the data is the simulation's time, and no client's
            refuse_errors(replies)
            self._node_of = dict(enumerate(nodes[: self._clients]))
        else:
            replies = self.ask(messages)
            refuse_errors(replies)
            self._node_of = assign_clients(claims_of(replies), nodes, self._clients)
        client_of = {node: client for client, node in self._node_of.items()}
        answers = {client_of.get(reply.metadata.src_node_id): reply for reply in replies}
        self._joined = {client: answers[client] for client in sorted(self._node_of) if client in answers}
        return self._joined

    def admit(self) -> None:
        """Give the places of clients whose nodes are gone to nodes that came later and claim them."""
        if not self.simulated:
            places = self._newcomers.take_places(self._node_of, self.grid, self.beside, self.ask)
            self._node_of |= places
            self.started_again |= places.keys()

    def instruct(
        self,
        kind: str,
        broadcasts: Mapping[int, Knowledge],
        traffic: dict[int, Traffic],
        *,
        round: int,
        exchange: int = 0,
        **asked: bool,
    ) -> list[Message]:
        """One message a client, in order of client id. Equal knowledge is coded and packed once and its bytes are shared.

        Args:
            kind: ``TRAIN``, ``PERSIST`` or ``EVALUATE``.
            broadcasts: what each client is sent.
            traffic: bytes by client; those of these messages are added.
            round: of these messages.
            exchange: within the round.
            asked: what else each `Instruction` says.
        """
        channel = self.down if kind == TRAIN else _PLAIN
        packed: dict[tuple[int, int], tuple[RecordDict, int, int, codecs.Bases]] = {}
        messages = []
        for client, knowledge in sorted(broadcasts.items()):
            bases = channel.bases(client)
            if (key := (id(knowledge), id(bases) if bases else 0)) not in packed:
                coded, leaves = codecs.encode(channel.codecs, knowledge, bases)
                records = to_records(coded)
                packed[key] = (records, wire_bytes(records), coded.raw_bytes, leaves)
            records, size, coded_bytes, left = packed[key]
            instruction = Instruction(
                round, exchange, client, self.up.which(client), channel.which(client), **asked
            ).to_record()
            content = record_of(RecordDict, {**records, RECORD: instruction, **self.beside})
            messages.append(self._message(content, kind, self._node_of[client], str(round)))
            wire = size + sum(map(config_bytes, (instruction, *self.beside.values())))
            traffic.setdefault(client, Traffic()).add(knowledge.raw_bytes, coded_bytes, wire)
            if kind == TRAIN:
                self._sent[client] = (f"{round}.{exchange}", left)
        return messages

    def _message(self, content: RecordDict, kind: str, node: int, group: str) -> Message:
        if isinstance(self.grid, JobGrid):
            return self.grid.create_message(content, kind, node, group)
        return Message(content, node, kind, group_id=group)

    def as_received(self, knowledge: Knowledge) -> Knowledge:
        """What clients read when this is broadcast: the same, but for what the codecs lose."""
        return codecs.as_decoded(self.down.codecs, knowledge)

    def collect(self, messages: list[Message], enough: int, *, round: int, exchange: int) -> Replies:
        """Send messages and wait, at most the timeout: on our own grids for all replies, elsewhere for ``enough`` of them."""
        if not messages:
            return Replies([], {})
        if isinstance(self.grid, JobGrid):
            return Replies(self.ask(messages), {})
        hears = telling(messages, self.on_progress)
        current = set(self.grid.push_messages(messages))
        self._unanswered |= dict.fromkeys(current, (round, exchange))
        replies = Replies([], {})
        for _ in looks(self.timeout):
            for reply in self.grid.pull_messages(sorted(self._unanswered)):
                asked = self._unanswered.pop(reply.metadata.reply_to_message_id, None)
                if asked is None:  # an answer to nothing, or a second one
                    continue
                mine = reply.metadata.reply_to_message_id in current
                (replies.current if mine else replies.earlier.setdefault(asked, [])).append(reply)
            hears(len(replies.current))
            if len(replies.current) >= enough:
                break
        return replies

    def ask(self, messages: list[Message]) -> list[Message]:
        """Send messages and wait, at most the timeout, for a reply to each."""
        return replies_to(messages, self.grid, self.timeout, telling(messages, self.on_progress)) if messages else []

    def receive(self, replies: Iterable[Message], asked: Iterable[int]) -> tuple[dict[int, RecordDict], Received]:
        """Sort replies by client id, and find out who failed and who is late. A client's second reply is ignored."""
        contents, received, started_again = sort_replies(replies, {self._node_of[client]: client for client in asked})
        self.started_again |= started_again
        return contents, received

    def read(self, replies: list[Message], asked: Iterable[int], guard: Guard, *, round: int, exchange: int) -> Received:
        """Bound the size of uploads, decode them and check them. A bad one does not count this round; the reason is kept.

        The list of replies is emptied, so that no upload is in memory both as it came and decoded.
        """
        contents, received = self.receive(replies, asked)
        replies.clear()
        for client in list(contents):
            try:
                upload, bases = read_upload(client, contents.pop(client), self.up, guard, received)
                guard.inspect(client, upload, round=round, exchange=exchange)
            except Exception as error:  # whatever a stranger's bytes make our code or the strategy's do, others go on
                received.failed[client] = f"upload rejected: {in_words(error)}"
                continue
            received.uploads[client], received.bases[client] = upload, bases
        return received

    def accept(self, received: Received, in_time: Container[int], guard: Guard, *, round: int, exchange: int) -> None:
        """Set apart the uploads of all that are not ``in_time``, and those that stand out from the others."""
        received.late_uploads = {client: upload for client, upload in received.uploads.items() if client not in in_time}
        received.uploads = {client: upload for client, upload in received.uploads.items() if client in in_time}
        self.hold(received, round=round, exchange=exchange)
        self.leave_out(received, guard)
        received.late = sorted({*received.late, *received.late_uploads})

    def hold(self, received: Received, *, round: int, exchange: int) -> None:
        """Keep what the next uploads of these clients may be coded against."""
        for client in received.uploads:
            self.up.hold(client, f"{round}.{exchange}", received.bases[client])

    def leave_out(self, received: Received, guard: Guard) -> None:
        """Set apart the uploads that stand out from the others."""
        for client, reason in guard.outliers(received.uploads).items():
            del received.uploads[client]
            received.failed[client] = f"upload rejected: {reason}"
            self.up.forget(client)

    def settle(self, asked: Iterable[int], answered: Container[int]) -> None:
        """Note which clients have what they were last sent: those whose upload was accepted. Of the others nobody knows."""
        for client in asked:
            sent = self._sent.pop(client, None)
            if client in answered and sent:
                self.down.hold(client, *sent)
            else:
                self.down.forget(client)

    def save(self) -> dict[str, RecordDict]:
        """The codecs' bases and the run's number, for a checkpoint."""
        number = {RUN: RecordDict({RUN: ConfigRecord({RUN: self.run})})} if self.run else {}
        return self.up.save() | self.down.save() | number

    def restore(self, parts: Mapping[str, RecordDict]) -> None:
        """Take them from a checkpoint's parts."""
        self.run = str(parts[RUN].config_records[RUN][RUN]) if RUN in parts else ""
        self.up.restore(parts)
        self.down.restore(parts)
