"""What a strategy owes in each call: seen in two usual rounds, and in two with a net of a user's own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from fedkd.experiment.algorithm.device import device_of
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.experiment import Experiment
from fedkd.knowledge.knowledge import TensorSpec, UpTo
from fedkd.knowledge.memory import Memory
from fedkd.results.history import History
from fedkd.testing.check import fail
from fedkd.testing.trial import Trial, said
from fedkd.testing.watch import Watch


def answers_every_round(trial: Trial) -> None:
    """No client fails, none is refused: its tensors are those that ``upload_schema`` names."""
    all_answered(trial.history, trial.experiment())


def works_with_a_net_of_the_users_own(trial: Trial) -> None:
    """What is frozen, a mask, not saved or viewed in a user's net stays so."""
    history, experiment = trial.watch_of_users_net.history, trial.of_users_net()
    all_answered(history, experiment)
    if failures := history.metrics[-1].get("evaluation_failures"):
        fail(str(failures), expected="every client to be evaluated", setting=said(experiment), look="predictors")


def all_answered(history: History, experiment: Experiment) -> None:
    """Every client's upload counted in every round."""
    for row in history.metrics[1:]:
        if row["clients_failed"] or row["clients_ok"] != experiment.data.clients:
            reasons = "; ".join(dict.fromkeys(map(str, row.get("failures", {}).values())))
            found = f"{row['clients_ok']} in round {row['round']}: {reasons}"
            look = "client_update, and upload_schema where an upload is rejected"
            fail(found, expected=f"{experiment.data.clients} uploads that count", setting=said(experiment), look=look)


def sends_what_its_schema_says(trial: Trial) -> None:
    """The bytes that are counted are those of the schemas."""
    experiment = trial.experiment()
    sent, counted = trial.watch.sent.get(1, 0), trial.history.metrics[1]["bytes_up"]
    specs = [spec for schema in schemas(experiment) for spec in schema.values()]
    most = sum(spec.raw_bytes for spec in specs)
    exact = all(not spec.optional and not any(isinstance(side, UpTo) for side in spec.shape) for spec in specs)
    if sent != counted or not (sent == most if exact else 0 < sent <= most):
        expected = f"{'' if exact else 'at most '}{most} bytes, those of upload_schema, to be sent and counted in round 1"
        fail(f"{sent} sent, {counted} counted", expected=expected, setting=said(experiment), look="upload_schema")


def schemas(experiment: Experiment) -> Iterator[Mapping[str, TensorSpec]]:
    """What every client owes in every exchange of a round."""
    server = Server(experiment, experiment.functions(), experiment.run_federation, Memory(), device_of(experiment.engine))
    for exchange in range(experiment.strategy.exchanges_per_round(experiment)):
        server.exchange = exchange
        yield from (experiment.strategy.upload_schema(server, client) for client in server.clients)


def reports_its_loss(trial: Trial) -> None:
    """What ``fit`` returns goes into the upload's metrics, so that a user sees each part."""
    has_loss(trial.history, trial.experiment())


def has_loss(history: History, experiment: Experiment) -> None:
    """Every round has a finite one."""
    for row in history.metrics[1:]:
        if not math.isfinite(row.get("loss", math.nan)):
            look = "metrics= of the upload: give it what fit returns"
            found, setting = str(row.get("loss", "none")), said(experiment)
            fail(found, expected=f"a loss in round {row['round']}", setting=setting, look=look)


def leaves_what_it_is_handed_as_it_was(trial: Trial) -> None:
    """Broadcast and uploads are read by others too."""
    _unseen(
        trial,
        "handed",
        "tensors that are handed over to stay as they were",
        "in-place operations: copy first, or load(net, ...)",
    )


def keeps_nothing_on_itself(trial: Trial) -> None:
    """Each call may run in another process: what shall last lies in ``memory``."""
    look = "what it assigns: client.memory, server.memory and node.live(...) hold what shall last"
    _unseen(trial, "self", "a strategy, its class and its nodes to be as they were after each call", look)


def keeps_no_graph(trial: Trial) -> None:
    """A tensor that is kept with its graph keeps all activations behind it alive."""
    _unseen(trial, "graph", "kept tensors to be detached", "set_live and live: detach() what they hold")


def reads_only_its_own_samples(trial: Trial) -> None:
    """In a deployment there are no others."""
    _unseen(
        trial,
        "samples",
        "each client to read its own training samples and public ones alone",
        "client.federation: use client.train",
    )


def sends_buffers_with_the_weights(trial: Trial) -> None:
    """Running statistics and masks are part of a net."""
    _unseen(trial, "buffers", "a net that is sent to be sent whole", "named_parameters(): send net.state_dict()")


def predicts_in_eval_mode(trial: Trial) -> None:
    """A score depends on neither dropout nor on the other samples of a batch."""
    _unseen(
        trial,
        "mode",
        "predictors to give the same for a sample whenever they are asked",
        "predictors: net.eval(), or classifier(net)",
    )


def _unseen(trial: Trial, kind: str, expected: str, look: str) -> None:
    """Nothing of this kind was seen in either run."""
    runs: list[tuple[Watch, Experiment]] = [
        (trial.watch, trial.experiment()),
        (trial.watch_of_users_net, trial.of_users_net()),
    ]
    for watch, experiment in runs:
        if found := watch.seen.get(kind):
            fail(found, expected=expected, setting=said(experiment), look=look)
