"""Each client its own data: what is agreed on when nodes join goes with every message, and tells a client what it knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedkd.base.errors import InputError
from fedkd.base.records import record_of
from fedkd.data import Federation
from fedkd.data.own import Agreement, OwnAtClient, Told
from fedkd.data.partition import EACH_ITS_OWN
from fedkd.engine.instruction import RECORD
from fedkd.engine.transport import Transport
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.own_data import at_client, at_server, servers_own
from fedkd.experiment.algorithm.settings import Settings
from fedkd.experiment.experiment import Experiment

#: The name of the record of what all agreed on.
AGREED = "fedkd.agreed"


def met(experiment: Experiment, transport: Transport) -> Experiment:
    """The experiment as the server sees it. Where each client has its own data, that is known once all nodes have joined.

    Raises:
        InputError: a node has data that cannot be used with the others'.
    """
    if experiment.data.partition != EACH_ITS_OWN:
        return experiment
    data, held = experiment.data, servers_own(experiment.data)
    replies = transport.meet({AGREED: _record(Agreement(held.classes))})
    counted = counts_are_told(experiment, simulated=transport.simulated)
    told = tuple(_told(client, replies[client], len(held.classes), counted=counted) for client in range(data.clients))
    federation = at_server(data, experiment.split_seed, held, told)
    _check_scored(experiment, federation, counted=counted)
    transport.beside[AGREED] = _record(federation.agreement)
    return experiment.held_by(federation)


def _check_scored(experiment: Experiment, federation: Federation, *, counted: bool) -> None:
    """Raise InputError where nothing would be evaluated: the server has no test set, and clients are not asked."""
    if len(federation.test) or (counted and experiment.evaluate_clients):
        return
    if not counted:
        why = "as [privacy] is on, clients elsewhere answer no evaluation"
        raise InputError(f"data.source: {why}, and the server has no test set: give it one")
    raise InputError(
        "evaluate_clients = 0: the server has no test set, so nothing would be evaluated: raise it, or give it one"
    )


def as_client(experiment: Experiment, content: RecordDict, context: Context, client: int) -> Experiment:
    """The experiment as a client sees it, which knows its own data and what the message says of all.

    The data here are the client's, whole, unless they are those of all clients, in a simulation or in folders below client/.
    """
    if experiment.data.partition != EACH_ITS_OWN:
        return experiment
    record = content.get(AGREED)
    if not isinstance(record, ConfigRecord):
        raise InputError('the message does not say what all agree on, as the server\'s data.partition is not "own"')
    agreement = Agreement.from_facts(record)
    held = experiment.at_clients.get(client)
    known = held.run_federation if held is not None else None
    if held is not None and isinstance(known, OwnAtClient) and known.agreement == agreement:
        return held
    if isinstance(known, OwnAtClient) and known.source.classes == agreement.classes:
        federation = known.agreeing(agreement)  # it is loaded already
    else:
        node = context.node_config
        given, simulated = "data-path" in node, bool(node.get("simulated", False))
        federation = at_client(experiment.data, experiment.split_seed, client, agreement, given=given, simulated=simulated)
    experiment.at_clients[client] = experiment.held_by(federation)
    return experiment.at_clients[client]


def told_by(client: Client, *, simulated: bool) -> Mapping[str, Any]:
    """What a node tells of its client's data when it joins; nothing where one data set is dealt out, which all have."""
    if not isinstance(client.federation, OwnAtClient):
        return {}
    return client.federation.told(counted=counts_are_told(client.experiment, simulated=simulated)).to_facts()


def counts_are_told(experiment: Settings, *, simulated: bool) -> bool:
    """Whether nodes say how many samples they have: not under [privacy], but where all lie with the experimenter."""
    return simulated or not experiment.privacy.noise_multiplier


def _record(agreement: Agreement) -> ConfigRecord:
    return record_of(ConfigRecord, agreement.to_facts())


def _told(client: int, reply: Message, classes: int, *, counted: bool) -> Told:
    record = reply.content.get(RECORD) if reply.has_content() else None
    facts: Mapping[str, Any] = record if isinstance(record, ConfigRecord) else {}
    try:
        return Told.from_facts(facts, classes=classes, counted=counted)
    except InputError as error:
        raise InputError(f"client {client} cannot join: {error}") from None
