"""Federated and online knowledge distillation: one readable file per algorithm, any engine."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fedkd.base.earlier_names import know_earlier_names
from fedkd.base.garbage import collector_away

if TYPE_CHECKING:
    from fedkd.base.errors import InputError, Notice, RunFailed
    from fedkd.engine.simulation import simulate
    from fedkd.engine.strategy import Strategy
    from fedkd.experiment.algorithm.algorithm import Algorithm, Needs
    from fedkd.experiment.algorithm.client import Client
    from fedkd.experiment.algorithm.fields import Listed, NonNegative, Positive, Share
    from fedkd.experiment.algorithm.node import Node
    from fedkd.experiment.algorithm.predictors import Classifier, Embedder, Peers, Predictor, broadcast_net, classifier
    from fedkd.experiment.algorithm.server import Server
    from fedkd.experiment.algorithm.settings import Settings
    from fedkd.experiment.algorithm.train import Batch, Split, fit, predict
    from fedkd.experiment.experiment import Experiment
    from fedkd.knowledge.knowledge import Knowledge, TensorSpec, UpTo, schema_of
    from fedkd.knowledge.memory import Memory
    from fedkd.knowledge.table import Table
    from fedkd.nets import load
    from fedkd.results.histories import Histories
    from fedkd.results.history import History

__version__ = "0.1.0"

_HOME = {
    "Algorithm": "experiment.algorithm.algorithm",
    "Batch": "experiment.algorithm.train",
    "Classifier": "experiment.algorithm.predictors",
    "Client": "experiment.algorithm.client",
    "Embedder": "experiment.algorithm.predictors",
    "Experiment": "experiment.experiment",
    "Histories": "results.histories",
    "History": "results.history",
    "InputError": "base.errors",
    "Knowledge": "knowledge.knowledge",
    "Listed": "experiment.algorithm.fields",
    "Memory": "knowledge.memory",
    "Needs": "experiment.algorithm.algorithm",
    "Node": "experiment.algorithm.node",
    "NonNegative": "experiment.algorithm.fields",
    "Notice": "base.errors",
    "Peers": "experiment.algorithm.predictors",
    "Positive": "experiment.algorithm.fields",
    "Predictor": "experiment.algorithm.predictors",
    "RunFailed": "base.errors",
    "Server": "experiment.algorithm.server",
    "Settings": "experiment.algorithm.settings",
    "Share": "experiment.algorithm.fields",
    "Split": "experiment.algorithm.train",
    "Strategy": "engine.strategy",
    "Table": "knowledge.table",
    "TensorSpec": "knowledge.knowledge",
    "UpTo": "knowledge.knowledge",
    "broadcast_net": "experiment.algorithm.predictors",
    "classifier": "experiment.algorithm.predictors",
    "fit": "experiment.algorithm.train",
    "load": "nets",
    "predict": "experiment.algorithm.train",
    "schema_of": "knowledge.knowledge",
    "simulate": "engine.simulation",
}
__all__ = [
    "Algorithm",
    "Batch",
    "Classifier",
    "Client",
    "Embedder",
    "Experiment",
    "Histories",
    "History",
    "InputError",
    "Knowledge",
    "Listed",
    "Memory",
    "Needs",
    "Node",
    "NonNegative",
    "Notice",
    "Peers",
    "Positive",
    "Predictor",
    "RunFailed",
    "Server",
    "Settings",
    "Share",
    "Split",
    "Strategy",
    "Table",
    "TensorSpec",
    "UpTo",
    "broadcast_net",
    "classifier",
    "fit",
    "load",
    "predict",
    "schema_of",
    "simulate",
]


know_earlier_names()


def __getattr__(name: str) -> Any:
    """Load a public name on first use: importing fedkd imports neither torch nor Flower."""
    if name not in _HOME:
        raise AttributeError(f"module 'fedkd' has no attribute {name!r}")
    with collector_away():
        return getattr(importlib.import_module(f"fedkd.{_HOME[name]}"), name)
