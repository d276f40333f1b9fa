"""fedkd inside a ClientApp of a user's own: functions that its handlers call.

The messages are those of a strategy of ours, whose ``start`` runs in the ServerApp. A handler that a user writes sees each of
them first, and the reply last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from fedkd.engine import client_half
from fedkd.engine.given import functions_of
from fedkd.engine.node_memory import recall
from fedkd.experiment.algorithm.algorithm import Algorithm
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.functions import Functions
from fedkd.experiment.algorithm.predictors import Classifier
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.train import Batch, Split
from fedkd.experiment.experiment import Experiment
from fedkd.experiment.protection import ClientFailure
from fedkd.experiment.registry import name_of
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.memory import Memory

Nets = Callable[..., Any] | Mapping[str, Callable[..., Any]] | None
#: Inputs (B, ...), as nets get them, in; logits (B, C) out, as a tensor, an array or lists.
Predict = Callable[[Any], Any]
#: Inputs (N, ...) and labels (N,) of the client's own training samples in; losses by name out, or None.
Train = Callable[[Any, Tensor], Mapping[str, float] | None]
#: All public inputs (P, ...) of the round and what all clients said of them (P, C) in; losses by name out, or None.
Learn = Callable[[Any, Tensor], Mapping[str, float] | None]

#: The strategies of which ``answer_public`` is the client: they ask for a table about public samples, and nothing beside it.
OF_PUBLIC_TABLES = ("dsfl", "fedmd")
#: A client's memory of having answered so: its model is the app's own, and no net of the strategy's stands for it.
_OWN_MODEL = "own model"

#: The functions that were asked for last, with what was given: equal ones keep their data loaded.
_LAST: tuple[tuple[Any, ...], Functions] | None = None


def answer_queries(app: ClientApp, *, nets: Nets = None, data: Any = None, strategy: type[Algorithm] | None = None) -> None:
    """Have an app answer who it is, what it holds and where its memory is: three kinds of messages beside train and evaluate.

    Args:
        app: a ClientApp with train and evaluate handlers of its own.
        nets: as ``fedkd.app.client_app`` takes them.
        data: likewise; the same that the handlers give.
        strategy: a Strategy class of your own, if the server runs one.
    """

    @app.query("join")
    def join(message: Message, context: Context) -> Message:
        return client_half.join(message, context, _functions(nets, data, strategy))

    app.query("persist")(client_half.persist)
    app.query("recall")(recall)


def train_and_answer(
    message: Message, context: Context, *, nets: Nets = None, data: Any = None, strategy: type[Algorithm] | None = None
) -> Message:
    """The reply to a train message: the whole client half of the server's strategy, on these nets and these data."""
    return client_half.train(message, context, _functions(nets, data, strategy))


def evaluate_and_answer(
    message: Message,
    context: Context,
    *,
    predict: Predict | None = None,
    nets: Nets = None,
    data: Any = None,
    strategy: type[Algorithm] | None = None,
) -> Message:
    """The reply to an evaluate message: how many test samples the strategy's nets get right, or ``predict`` does.

    Raises:
        ClientFailure: there is no ``predict``, and this client answered by ``answer_public``: it has no net of the strategy's.
    """
    if predict is None and _OWN_MODEL in Memory.read(context.state):
        raise ClientFailure("evaluate_and_answer: this client's model is its app's own: give predict, as to answer_public")
    scored = {"main": Classifier(lambda inputs: _logits(predict, inputs))} if predict else None
    return client_half.evaluate(message, context, _functions(nets, data, strategy), scored)


def answer_public(
    message: Message,
    context: Context,
    *,
    predict: Predict,
    train: Train | None = None,
    learn: Learn | None = None,
    data: Any = None,
) -> Message:
    """The reply to a train message by a model of any kind: it says what it thinks of the round's public samples.

    For strategies whose clients send one table about public samples and get one back: ``fedmd``, ``dsfl``. In the exchange in
    which they send, ``train`` is given the client's own samples and then ``predict`` is asked; in the one after it ``learn``
    is given what all said. What the strategy's own clients would do beside that, a warm-up say, is left out.

    Args:
        message: a train message of the server's strategy.
        context: the handler's.
        predict: the model.
        train: what the model does with the client's own labelled training samples; left out, nothing.
        learn: what the model does with what all said; left out, it learns nothing from it.
        data: as ``fedkd.app.client_app`` takes it: where the public samples come from.

    Raises:
        ClientFailure: the server's strategy is another one, or ``predict`` gives no (B, C) finite numbers.
    """
    functions = _functions(None, data, None)

    def update(client: Client, broadcast: Knowledge) -> Knowledge:
        client.memory[_OWN_MODEL] = 1
        return _about_public(cast(Experiment, client.experiment).strategy, client, broadcast, predict, train, learn)

    return client_half.train(message, context, functions, update)


def _about_public(
    strategy: Algorithm,
    client: Client,
    broadcast: Knowledge,
    predict: Predict,
    train: Train | None,
    learn: Learn | None,
) -> Knowledge:
    if (name := name_of(type(strategy))) not in OF_PUBLIC_TABLES:
        raise ClientFailure(f"answer_public: {name} asks clients for more than a table: take {' or '.join(OF_PUBLIC_TABLES)}")
    own = client.train.labelled()
    # A client has all that a schema of public samples speaks of: they are the same at all nodes.
    schema = strategy.upload_schema(cast(Server, client), client.id)
    if not schema:
        ((_, targets),) = broadcast.tensors.items()
        losses = learn(_all(client.public_subset(len(targets))).inputs, targets) if learn else None
        return Knowledge(weight=len(own), metrics=dict(losses or {}))
    ((key, spec),) = schema.items()
    batch = _all(own)
    losses = train(batch.inputs, batch.labels) if train and len(own) else None
    logits = _logits(predict, _all(client.public_subset(cast(int, spec.shape[0]))).inputs)
    if logits.shape != tuple(spec.shape) or not bool(logits.isfinite().all()):
        raise ClientFailure(f"answer_public: predict must give finite numbers {tuple(spec.shape)}, got {tuple(logits.shape)}")
    table = logits.softmax(1) if spec.space == "probabilities" else logits
    return Knowledge.of(spec.space, {key: table}, weight=len(own), metrics=dict(losses or {}))


def _all(split: Split) -> Batch:
    """All samples of a split as one batch, un-augmented."""
    return Batch(split.samples, torch.arange(len(split)), split.work, 0)


def _logits(predict: Predict, inputs: Any) -> Tensor:
    return torch.as_tensor(predict(inputs)).detach().float().cpu()


def _functions(nets: Nets, data: Any, strategy: type[Algorithm] | None) -> Functions:
    """These as Functions; the very object of the last call, where it was given the same."""
    global _LAST
    given = (nets, data, strategy)
    if _LAST is None or any(mine is not theirs for mine, theirs in zip(_LAST[0], given, strict=True)):
        _LAST = given, functions_of(nets, data, strategy, None)
    return _LAST[1]
