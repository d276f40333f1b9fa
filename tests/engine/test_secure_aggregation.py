"""Flower's SecAgg+ is refused in one line, at the client and at the server, and no upload leaves in its stead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import pytest
from contract import Numbers, number
from flwr.app import Context, Message, RecordDict
from flwr.client.mod import secagg_mod, secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.server import LegacyContext
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow

from fedkd import Client, Experiment, InputError, Knowledge, Server
from fedkd.app import client_app, server_app
from fedkd.grids import InProcessGrid, run_app

TOLD = r"Flower's SecAgg\+ sums uploads in its legacy workflow, and strategies of fedkd read single uploads"
ASKED: list[int] = []


@final
@dataclass(frozen=True)
class Telltale(Numbers):
    """Notes whose half of the algorithm was called."""

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        ASKED.append(client.id)
        return number(client.id)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        return number(0)


def with_mod(mod: Any, inner: ClientApp) -> ClientApp:
    """The app of a user who puts the mod around ours."""
    app = ClientApp(mods=[mod])

    def call(message: Message, context: Context) -> Message:
        return inner(message, context)

    app.train()(call)
    app.evaluate()(call)
    app.query("join")(call)
    app.query("persist")(call)
    return app


@pytest.mark.slow
@pytest.mark.parametrize("mod", [secaggplus_mod, secagg_mod])
def test_a_client_with_the_mod_sends_nothing_and_the_run_ends_with_the_reason(mod: Any) -> None:
    ASKED.clear()
    settings = Experiment(strategy=Telltale(), rounds=2, nets="mlp", data={"clients": 2, "train_limit": 60})
    with pytest.raises(InputError, match=r"client 0: its ClientApp has secaggplus_mod or secagg_mod: " + TOLD) as error:
        run_app(
            server_app(strategy=Telltale),
            with_mod(mod, client_app(strategy=Telltale)),
            num_supernodes=2,
            run_config=settings.to_flat(),
        )
    assert ASKED == [] and "\n" not in str(error.value)


def test_the_servers_workflow_is_refused_before_anybody_is_asked() -> None:
    context = LegacyContext(Context(1, 0, {}, RecordDict(), {}), None, Telltale(), None)  # type: ignore[arg-type]
    workflow = DefaultWorkflow(fit_workflow=SecAggPlusWorkflow(num_shares=3, reconstruction_threshold=2))
    with pytest.raises(InputError, match=TOLD):
        workflow(InProcessGrid(), context)
