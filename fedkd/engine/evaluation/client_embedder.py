"""An embedder at one client: under the server's probe, or where there is none under one fitted here; under its own labels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from torch import Tensor

from fedkd.data import Samples
from fedkd.engine.evaluation.encoders import (
    Features,
    Function,
    features_of,
    fit_probe,
    fit_small_probe,
    neighbour_score,
    probe_logits,
    probe_score,
)
from fedkd.engine.evaluation.probe import Probe
from fedkd.engine.evaluation.score import Score
from fedkd.experiment.algorithm.client import Client


class ClientEmbedder:
    """Its features of some splits of samples, by name, computed once.

    The server probes the encoder it has. A net that is a client's own is probed there by the same protocol, on the labelled
    training samples of all clients, which every node has or builds; where each client has its own data, on its own.
    """

    def __init__(self, function: Function, splits: Mapping[str, Samples], probe: Probe | None, client: Client) -> None:
        self._function, self._client, self._given = function, client, probe
        self._asked = {split: features_of(function, samples, client) for split, samples in splits.items()}

    def logits(self) -> dict[str, Tensor]:
        """What the linear probe says of each split: (N, C)."""
        probe = self._given or fit_probe(self._everyones, self._client)
        return {split: probe_logits(probe, asked) for split, asked in self._asked.items()}

    def beside(self) -> dict[str, Score]:
        """Other scores, as ``<name>/<split>``.

        ``probe/own``: of a probe on this client's own labelled training samples, if it has any. Where the server fitted none,
        ``knn`` on each split: of weighted neighbours among the labelled training samples of all clients.
        """
        client = self._client
        own = client.federation.client_train(client.id).labelled()  # true labels, an attacker's too
        scores = {}
        if len(own):
            probe = fit_small_probe(features_of(self._function, own, client), client, client.name)
            scores["probe/own"] = probe_score(probe, self._asked["own"], client)
        if self._given is None:
            scores |= {
                f"knn/{split}": neighbour_score(self._everyones, asked, client)
                for split, asked in self._asked.items()
                if len(asked.labels)
            }
        return scores

    @cached_property
    def _everyones(self) -> Features:
        """The labelled training samples of all clients."""
        return features_of(self._function, self._client.federation.train.labelled(), self._client)
