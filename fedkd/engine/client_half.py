"""The client half of a run: what a ClientApp does with each kind of message, whoever's ClientApp it is."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedkd.base.compiler import load_compiler_where_time_is_short
from fedkd.base.meeting import waited
from fedkd.base.randomness import derive, seeded, torch_threads
from fedkd.engine.adversity import mislabel, under_adversity
from fedkd.engine.client_metrics import check_metrics
from fedkd.engine.evaluation.evaluate import evaluate_client
from fedkd.engine.guard import common_ground
from fedkd.engine.instruction import EXPERIMENT, RECORD, Instruction
from fedkd.engine.joining import facts_of
from fedkd.engine.node_memory import check_noted, keep_on_disk, note_run
from fedkd.engine.own_nodes import as_client, told_by
from fedkd.engine.sent_probes import split_probes
from fedkd.engine.sent_test import split_test
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.counted_work import counting
from fedkd.experiment.algorithm.device import device_of
from fedkd.experiment.algorithm.functions import Functions
from fedkd.experiment.algorithm.predictors import Predictor
from fedkd.experiment.experiment import Experiment
from fedkd.experiment.protection import ClientFailure, reasons_stay
from fedkd.experiment.strategy_of_round import strategy_of
from fedkd.grids.flower import reply_to
from fedkd.knowledge.channels import ClientChannel
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.memory import Memory
from fedkd.knowledge.records import Unpacked, from_records, to_records

Update = Callable[[Client, Knowledge], Knowledge]
Predictors = Mapping[str, Predictor]

#: At most so many clients keep live nets in one process; the longest unused is written to its Context first.
LIVE_CLIENTS = 32
_LIVE: OrderedDict[int, tuple[Context, Client]] = OrderedDict()
_UNPACKED = Unpacked()


def join(message: Message, context: Context, functions: Functions) -> Message:
    """Who this node is, and what it says of its fedkd and its data."""
    with functions.given_only(), _reasons(message, context, "joining"):
        partition = int(context.node_config.get("partition-id", -1))
        experiment = _experiment(message.content, context, functions)
        experiment = as_client(experiment, message.content, context, max(partition, 0))
        node = Client(0, experiment, functions, experiment.run_federation, Memory(), device_of(experiment.engine))
        note_run(message, context)
        simulated = _simulated(context)
        facts = {**facts_of(experiment.strategy, node, simulated=simulated), **told_by(node, simulated=simulated)}
    load_compiler_where_time_is_short(experiment.timeout)
    return Message(RecordDict({RECORD: ConfigRecord({"partition-id": partition, **facts})}), reply_to=message)


def train(message: Message, context: Context, functions: Functions, update: Update | None = None) -> Message:
    """The client's part of one exchange: the strategy's ``client_update``, or an ``update`` in its place."""
    asked = Instruction.from_records(message.content)
    with functions.given_only(), _reasons(message, context, _where(asked)):
        return _reply(_exchange(asked, message.content, context, functions, update), message, context)


def evaluate(message: Message, context: Context, functions: Functions, predictors: Predictors | None = None) -> Message:
    """The client's scores of the strategy's predictors, or of others in their place."""
    asked = Instruction.from_records(message.content)
    with functions.given_only(), _reasons(message, context, _where(asked)):
        return _reply(_evaluate(asked, message.content, context, functions, predictors), message, context)


def persist(message: Message, context: Context) -> Message:
    """Write the memory of a client that left in mid-round."""
    if (held := _LIVE.get(id(context))) and held[0] is context:
        _persist(context, held[1])
    return Message(RecordDict(), reply_to=message)


def _reply(content: RecordDict, message: Message, context: Context) -> Message:
    return reply_to(message, content) if _simulated(context) else Message(content, reply_to=message)


def _experiment(content: RecordDict, context: Context, functions: Functions) -> Experiment:
    """The experiment of the run, or what a ServerApp of a user's own says of it, with this node's own places of the files."""
    config = _config(content, context)
    places = {"data-path": "data.path", "public-path": "data.public_source"}
    own = {key: context.node_config[name] for name, key in places.items() if context.node_config.get(name)}
    return Experiment.from_flat({**config, **own} if own else config, functions)


def _open(asked: Instruction, context: Context, experiment: Experiment, functions: Functions) -> Client:
    """The client of this call: live from an earlier exchange of this round, or made anew from its memory."""
    check_noted(context)
    held, client = _LIVE.pop(id(context), (None, None))
    if client is None or held is not context or client.round != asked.round:
        memory = Memory.read(context.state)
        device = device_of(experiment.engine)
        client = Client(asked.client, experiment, functions, experiment.run_federation, memory, device)
        mislabel(client)
    client.round, client.exchange = asked.round, asked.exchange
    client.simulated = _simulated(context)
    return client


def _simulated(context: Context) -> bool:
    return bool(context.node_config.get("simulated", False))


def _where(asked: Instruction) -> str:
    return f"client {asked.client}, round {asked.round}"


def _config(content: RecordDict, context: Context) -> Mapping[str, Any]:
    said = content.get(EXPERIMENT)
    return dict(said) if isinstance(said, ConfigRecord) else context.run_config


def _reasons(message: Message, context: Context, where: str) -> AbstractContextManager[None]:
    """Under [privacy] only this machine's log says what went wrong here."""
    said = message.content.get(EXPERIMENT)
    configs = (context.run_config, said) if isinstance(said, ConfigRecord) else (context.run_config,)
    noise = max(float(str(config.get("privacy.noise_multiplier", 0))) for config in configs)
    return reasons_stay(where) if noise > 0 else nullcontext()


def _persist(context: Context, client: Client) -> None:
    client.flush()
    keep_on_disk(context, client)
    client.memory.write(context.state)
    client.release()
    _LIVE.pop(id(context), None)


def _close(asked: Instruction, context: Context, client: Client) -> None:
    """Write memory now, or keep the client for the round's next exchange."""
    if asked.persist:
        return _persist(context, client)
    client.release(kept=False)
    _LIVE[id(context)] = (context, client)
    while len(_LIVE) > LIVE_CLIENTS:
        _persist(*next(iter(_LIVE.values())))


def _exchange(
    asked: Instruction, content: RecordDict, context: Context, functions: Functions, update: Update | None
) -> RecordDict:
    """One exchange: strategy, then codec, then record."""
    start = time.perf_counter()
    experiment = as_client(_experiment(content, context, functions), content, context, asked.client)
    client = _open(asked, context, experiment, functions)
    seed = derive(experiment.seed, client.round, client.exchange, client.name, "torch")
    with torch_threads(experiment.engine.num_cpus), seeded(seed):
        which, strategy = f"{client.round}.{client.exchange}", strategy_of(experiment, client.round)
        down = ClientChannel("downlink", strategy.downlink(experiment), client.memory)
        broadcast = down.decode(from_records(content, memo=_UNPACKED), which, against=asked.held)
        with counting(on=experiment.clock.on and client.simulated) as work:
            upload = under_adversity(client, update or strategy.client_update, broadcast)
        check_metrics(upload.metrics)
        header = {
            **upload.header,
            "round": client.round,
            "exchange": client.exchange,
            **common_ground(experiment.strategy, experiment.privacy, client.federation),
            "base": "",  # the channel says which, where it codes against one
        }
        seconds = {} if experiment.privacy.noise_multiplier else {"seconds": time.perf_counter() - start - waited()}
        upload = replace(upload, header=header, metrics={**upload.metrics, **seconds, **work})
        up = ClientChannel("uplink", strategy.uplink(experiment), client.memory)
        records = to_records(up.encode(upload, which, acknowledged=asked.acknowledged))
        _close(asked, context, client)
    return records


def _evaluate(
    asked: Instruction, content: RecordDict, context: Context, functions: Functions, predictors: Predictors | None
) -> RecordDict:
    """Score the strategy's predictors on this client's own test samples, and on the global test set if asked to."""
    experiment = as_client(_experiment(content, context, functions), content, context, asked.client)
    client = _open(asked, context, experiment, functions)
    if experiment.privacy.noise_multiplier and not client.simulated:
        raise ClientFailure("as [privacy] is on, this client answers no evaluation: the answer would be an exact count")
    seed = derive(experiment.seed, client.round, client.name, "evaluate")
    with torch_threads(experiment.engine.num_cpus), seeded(seed):
        broadcast, probes = split_probes(from_records(content, memo=_UNPACKED), client.device)
        broadcast = split_test(broadcast, client)
        scored = predictors or experiment.strategy.predictors(client, broadcast)
        answer = evaluate_client(scored, client, probes, globally=bool(asked.globally), logits=asked.compared)
        client.release()
    return to_records(answer)
