"""What a node of a deployment keeps of a run on its own disk: a run that is gone on with finds its clients as they were.

Flower keeps a client's memory in the node's Context, under the id of the run; ``flwr run`` gives a new id, also to a run that
is gone on with. So where the node's config names a directory, ``memory-path``, the node writes what its client keeps into
``memory-path/RUN/client-3/round-00007/`` too, as the server writes its checkpoints. RUN is a number that the server drew for
the run and that its checkpoint holds.
"""

from __future__ import annotations

import re
import secrets
import warnings
from collections.abc import Iterable
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedkd.base.errors import InputError, Notice
from fedkd.engine.instruction import RECALL, RECORD, RUN, Instruction
from fedkd.engine.newcomers import STARTED_AGAIN
from fedkd.engine.reasons import first_line
from fedkd.engine.transport import Transport
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.protection import ClientFailure
from fedkd.knowledge.knowledge import Knowledge
from fedkd.results import checkpoint
from fedkd.results.checkpoint import Checkpoint
from fedkd.results.files import writing

#: The key of a node's config that names the directory.
KEY = "memory-path"
LOST = "lost"
_NUMBER = re.compile(r"[0-9a-f]{32}")


# ---- at a node


def note_run(asked: Message, context: Context) -> None:
    """Note on joining that a run begins, and which, and make the directory: from here on this node is with it."""
    record = asked.content.get(RECORD)
    number = record.get(RUN) if isinstance(record, ConfigRecord) else None
    simulated = context.node_config.get("simulated", False)  # on a grid of ours, where who only joined takes no room
    if not simulated and (number == "" or _number(asked.content, RECORD)):  # empty: a run that keeps no memory
        context.state[RUN] = ConfigRecord({RUN: str(number)})
    if folder := _folder(context):
        with writing(folder, InputError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def check_noted(context: Context) -> None:
    """Raise ClientFailure if this node was not there when the run began, or was started again: the server will help it."""
    if RUN not in context.state and not context.node_config.get("simulated", False):
        raise ClientFailure(STARTED_AGAIN)


def keep_on_disk(context: Context, client: Client) -> None:
    """Write what a client keeps, if its node has a directory for it: of as many rounds as the server may go back, and one."""
    if folder := _folder(context):
        client.memory.write(memory := RecordDict())
        place = folder / f"client-{client.id}"
        with writing(place, InputError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # after a loss it is not there
            keep = client.experiment.record.checkpoints + 1
            checkpoint.save(place, Checkpoint(client.round, {"memory": memory}, {}), keep=keep)


def recall(message: Message, context: Context) -> Message:
    """The answer to a server that goes on with a run: the client's memory is as it was after a round, or why it is lost."""
    asked = Instruction.from_records(message.content)
    context.state[RUN] = ConfigRecord({RUN: _number(message.content, RUN)})
    folder = _folder(context)
    lost = _recalled(folder, asked, context) if folder else f"its node's config has no {KEY}"
    return Message(RecordDict({RECORD: ConfigRecord({LOST: lost})}), reply_to=message)


def _recalled(folder: Path, asked: Instruction, context: Context) -> str:
    """Read the memory into the Context; what was kept of later rounds goes. Why it is lost; empty if it is not."""
    if not folder.is_dir():
        return f"its node's {KEY} holds nothing of this run"
    place = folder / f"client-{asked.client}"
    there = checkpoint.places(place)
    until = [each for each in there if checkpoint.round_of(each) <= asked.round]
    if not there and any(folder.iterdir()):
        return f"its node's {KEY} holds the memory of another client"
    if not until and len(there) > int(context.run_config["record.checkpoints"]):  # else it had not worked by then
        return f"its node's {KEY} holds only rounds after {asked.round}"
    if until and (why := checkpoint.damage(until[0])):
        return f"{until[0].name} in its node's {KEY} is damaged: {why}"
    if until:
        context.state.update(checkpoint.load(until[0]).parts["memory"])
    for later in there[: len(there) - len(until)]:
        checkpoint.remove(later)
    return ""


def _folder(context: Context) -> Path | None:
    """Where the memory of this run's clients lies on this node; None where it is kept by Flower alone."""
    path, number = context.node_config.get(KEY), _number(context.state, RUN)
    return Path(str(path)) / number if path and number else None


def _number(records: RecordDict, name: str) -> str:
    """The run's number in one of these records; empty where there is none, or text that no server of fedkd sends."""
    record = records.get(name)
    number = record.get(RUN) if isinstance(record, ConfigRecord) else None
    return number if isinstance(number, str) and _NUMBER.fullmatch(number) else ""


# ---- at the server


def draw_number() -> str:
    """A number for a new run, by which nodes tell its memory from that of others. It enters nothing that is computed."""
    return secrets.token_hex(16)


def recall_all(transport: Transport, clients: Iterable[int], round: int) -> None:
    """Have all nodes put their clients' memories where they were after a round. A Notice tells whose is lost.

    Of those, both ends forget what codecs code against, or their first messages could not be read.
    """
    everyone = list(clients)
    transport.started_again.difference_update(everyone)
    number = ConfigRecord({RUN: transport.run})
    messages = [
        Message(RecordDict({**message.content, RUN: number}), message.metadata.dst_node_id, RECALL)
        for message in transport.instruct(RECALL, dict.fromkeys(everyone, Knowledge()), {}, round=round)
    ]
    contents, received = transport.receive(transport.ask(messages), everyone)
    lost = dict.fromkeys(received.late, "it did not answer in time") | received.failed
    for client, content in contents.items():
        record = content.get(RECORD)
        said = record.get(LOST) if isinstance(record, ConfigRecord) else None
        if said != "":
            lost[client] = str(said or "its node gave no answer")
    for client in lost:
        transport.up.forget(client)
        transport.down.forget(client)
    if lost:
        client, why = min(lost.items())
        text = f"clients {', '.join(map(str, sorted(lost)))} go on without what they kept (nets of their own, optimisers)"
        cure = f"name a directory as {KEY} in each node's config, and a run finds it there"
        warnings.warn(f"{text}: client {client}: {first_line(why)}; {cure}", Notice, stacklevel=2)


def welcome_back(transport: Transport, done: int) -> None:
    """Before a round: nodes that were started again since the last one go on as after round ``done``, as far as can be."""
    transport.admit()
    if transport.started_again:
        recall_all(transport, sorted(transport.started_again), done)
