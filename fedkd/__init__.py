"""Federated and online knowledge distillation: one readable file per algorithm, any engine."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedkd.client import Client
    from fedkd.errors import InputError, Notice, RunFailed
    from fedkd.evaluate import Classifier, Embedder, Peers, Predictor, broadcast_net, classifier
    from fedkd.experiment import Experiment
    from fedkd.history import History
    from fedkd.knowledge import Knowledge, TensorSpec, UpTo, schema_of
    from fedkd.nets import load
    from fedkd.node import Node
    from fedkd.server import Server
    from fedkd.simulation import simulate
    from fedkd.strategy import Listed, Needs, NonNegative, Positive, Share, Strategy
    from fedkd.table import Table
    from fedkd.train import Batch, Split, fit, predict

__version__ = "0.1.0"

_HOME = {
    "Batch": "train",
    "Classifier": "evaluate",
    "Client": "client",
    "Embedder": "evaluate",
    "Experiment": "experiment",
    "History": "history",
    "InputError": "errors",
    "Knowledge": "knowledge",
    "Listed": "strategy",
    "Needs": "strategy",
    "Node": "node",
    "NonNegative": "strategy",
    "Notice": "errors",
    "Peers": "evaluate",
    "Positive": "strategy",
    "Predictor": "evaluate",
    "RunFailed": "errors",
    "Server": "server",
    "Share": "strategy",
    "Split": "train",
    "Strategy": "strategy",
    "Table": "table",
    "TensorSpec": "knowledge",
    "UpTo": "knowledge",
    "broadcast_net": "evaluate",
    "classifier": "evaluate",
    "fit": "train",
    "load": "nets",
    "predict": "train",
    "schema_of": "knowledge",
    "simulate": "simulation",
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
