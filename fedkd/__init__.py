"""Federated and online knowledge distillation: one readable file per algorithm, any engine."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedkd.base.errors import InputError, Notice, RunFailed
    from fedkd.engine.evaluation.evaluate import Classifier, Embedder, Peers, Predictor, broadcast_net, classifier
    from fedkd.engine.simulation import simulate
    from fedkd.engine.strategy import Listed, Needs, NonNegative, Positive, Share, Strategy
    from fedkd.experiment.algorithm.client import Client
    from fedkd.experiment.algorithm.node import Node
    from fedkd.experiment.algorithm.server import Server
    from fedkd.experiment.algorithm.train import Batch, Split, fit, predict
    from fedkd.experiment.experiment import Experiment
    from fedkd.knowledge.knowledge import Knowledge, TensorSpec, UpTo, schema_of
    from fedkd.knowledge.memory import Memory
    from fedkd.knowledge.table import Table
    from fedkd.nets import load
    from fedkd.results.history import History

__version__ = "0.1.0"

_HOME = {
    "Batch": "experiment.algorithm.train",
    "Classifier": "engine.evaluation.evaluate",
    "Client": "experiment.algorithm.client",
    "Embedder": "engine.evaluation.evaluate",
    "Experiment": "experiment.experiment",
    "History": "results.history",
    "InputError": "base.errors",
    "Knowledge": "knowledge.knowledge",
    "Listed": "engine.strategy",
    "Memory": "knowledge.memory",
    "Needs": "engine.strategy",
    "Node": "experiment.algorithm.node",
    "NonNegative": "engine.strategy",
    "Notice": "base.errors",
    "Peers": "engine.evaluation.evaluate",
    "Positive": "engine.strategy",
    "Predictor": "engine.evaluation.evaluate",
    "RunFailed": "base.errors",
    "Server": "experiment.algorithm.server",
    "Share": "engine.strategy",
    "Split": "experiment.algorithm.train",
    "Strategy": "engine.strategy",
    "Table": "knowledge.table",
    "TensorSpec": "knowledge.knowledge",
    "UpTo": "knowledge.knowledge",
    "broadcast_net": "engine.evaluation.evaluate",
    "classifier": "engine.evaluation.evaluate",
    "fit": "experiment.algorithm.train",
    "load": "nets",
    "predict": "experiment.algorithm.train",
    "schema_of": "knowledge.knowledge",
    "simulate": "engine.simulation",
}
__all__ = [
    "Batch",
    "Classifier",
    "Client",
    "Embedder",
    "Experiment",
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


def __getattr__(name: str) -> Any:
    """Load a public name on first use: importing fedkd imports neither torch nor Flower."""
    if name not in _HOME:
        raise AttributeError(f"module 'fedkd' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fedkd.{_HOME[name]}"), name)
