"""What the server's half makes of uploads that are missing, bad, alike, or of public samples in another order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any
from unittest.mock import patch

import torch

from fedkd.engine.simulation import simulate
from fedkd.engine.strategy import Strategy
from fedkd.experiment.algorithm.client import Client
from fedkd.grids import InProcessGrid
from fedkd.knowledge.knowledge import Knowledge
from fedkd.results.history import TIMES, History
from fedkd.testing.check import fail
from fedkd.testing.trial import Trial, difference, said

#: What becomes of client 1's upload.
Fault = Callable[[Knowledge], Knowledge]


def a_bad_upload_leaves_the_others_as_if_its_client_had_dropped_out(trial: Trial) -> None:
    """One client is missing, or is refused: the round goes on with the others."""
    experiment = trial.experiment(rounds=1)
    expected = with_fault(trial, _breaks_down)
    row = expected.metrics[1]
    if row["clients_ok"] != experiment.data.clients - 1:
        found = f"{row['clients_ok']}: {row.get('failures')}"
        look = "server_update: go over the uploads that came, not over all clients"
        fail(found, expected="the uploads of all clients but one", setting=f"{said(experiment)}; client 1 fails", look=look)
    for fault in (_turns_nan, _grows_a_side, _claims_to_be_huge):
        found_run = with_fault(trial, fault)
        setting = f"{said(experiment)}; client 1{fault.__name__.replace('_', ' ')}"
        if "upload rejected" not in str(found_run.metrics[1].get("failures", {}).get("1")):
            look = "upload_schema: it must hold for every tensor that is sent"
            fail("none", expected="client 1's upload to be refused", setting=setting, look=look)
        if found := difference(_others(expected), _others(found_run)):
            fail(found, expected="what happens without client 1", setting=setting, look="client_update and predictors")


def with_fault(trial: Trial, fault: Fault) -> History:
    """A run of one round in which ``fault`` replaces what client 1 uploads."""
    update = trial.cls.client_update

    def changed(self: Strategy, client: Client, broadcast: Knowledge) -> Knowledge:
        upload = update(self, client, broadcast)
        return fault(upload) if client.id == 1 else upload

    with patch.object(trial.cls, "client_update", changed):
        return simulate(trial.experiment(rounds=1), InProcessGrid())


def _others(history: History) -> History:
    """What all but client 1 report, and the server's accuracy if it is its own."""
    kept = ("round", "accuracy") if "server_accuracy" in history.metrics[1] else ("round",)
    return History(
        [{key: row[key] for key in kept if key in row} for row in history.metrics],
        [{k: v for k, v in row.items() if k not in TIMES} for row in history.clients if row["client"] != 1],
    )


def _breaks_down(upload: Knowledge) -> Knowledge:
    raise RuntimeError("no power")


def _turns_nan(upload: Knowledge) -> Knowledge:
    tensors = {name: t * torch.nan if t.is_floating_point() else t for name, t in upload.tensors.items()}
    return dataclasses.replace(upload, tensors=tensors, weight=torch.nan)


def _grows_a_side(upload: Knowledge) -> Knowledge:
    return upload.with_tensors("weights", {"unheard_of": torch.zeros(1, 3)})


def _claims_to_be_huge(upload: Knowledge) -> Knowledge:
    return dataclasses.replace(upload, weight=1e9)


def copies_of_an_upload_average_to_it(trial: Trial) -> None:
    """Where what is broadcast is a mean of what was uploaded, copies of one upload give what it alone gives, at any weights."""
    uploads: list[Knowledge] = []
    alone = _answer(trial, lambda all: {min(all): _kept(all[min(all)], uploads)})
    copies = _answer(trial, lambda all: {k: dataclasses.replace(all[min(all)], weight=1.0 + n) for n, k in enumerate(all)})
    if not (isinstance(alone, Knowledge) and isinstance(copies, Knowledge) and uploads):
        return
    if alone.tensors.keys() != uploads[0].tensors.keys() or dict(alone.spaces) != dict(uploads[0].spaces):
        return  # what comes down is no mean of what went up
    if "server_net" in (trial.cls.needs.uses or ()) and {*alone.spaces.values()} == {"weights"}:
        return  # nor is a student that the server trained, even with the clients' kind of net: each teacher has its place
    for name, tensor in alone.tensors.items():
        if tensor.is_floating_point() and not torch.allclose(
            copies.tensors[name], tensor, rtol=1e-2, atol=1e-3, equal_nan=True
        ):
            far = float((copies.tensors[name] - tensor).abs().nan_to_num().max())
            setting = f"{said(trial.experiment(rounds=1))}; all clients upload what client 0 does, with weights 1, 2, 3 ..."
            expected = f"{name} to be broadcast as if one had uploaded it"
            look = "server_update: divide by the sum of the weights of those that came, as fedkd.aggregate.weighted_mean does"
            fail(f"a difference of {far:.3g}", expected=expected, setting=setting, look=look)


def _kept(upload: Knowledge, uploads: list[Knowledge]) -> Knowledge:
    uploads.append(upload)
    return dataclasses.replace(upload, weight=1.0)


def _answer(trial: Trial, change: Callable[[Mapping[int, Knowledge]], Mapping[int, Knowledge]]) -> Any:
    """What the server answers first in a run of one round in which ``change`` replaces its uploads."""
    answers: list[Any] = []
    update = trial.cls.server_update

    def changed(self: Strategy, server: Any, uploads: Mapping[int, Knowledge]) -> Any:
        answer = update(self, server, change(uploads) if not answers else uploads)
        answers.append(answer.copy() if isinstance(answer, Knowledge) else answer)
        return answer

    with patch.object(trial.cls, "server_update", changed):
        simulate(trial.experiment(rounds=1), InProcessGrid())
    return answers[0]


def public_samples_may_lie_in_any_order(trial: Trial) -> None:
    """Nodes may hold the public samples in different orders; ``public_subset`` is the same at all."""
    if not trial.cls.needs.public:
        return
    expected, update = trial.history, trial.cls.client_update

    def elsewhere(self: Strategy, client: Client, broadcast: Knowledge) -> Knowledge:
        public = client.federation.public
        if client.id == 1 and public is not None:
            turned = dataclasses.replace(public, indices=public.indices.flip(0))
            client.federation = dataclasses.replace(client.federation, public=turned)
        return update(self, client, broadcast)

    with patch.object(trial.cls, "client_update", elsewhere):
        found = difference(expected, simulate(trial.experiment(), InProcessGrid()))
    if found:
        setting = f"{said(trial.experiment())}; client 1 holds the public samples the other way round"
        fail(found, expected="the numbers of the usual run", setting=setting, look="client.public: use public_subset()")
