"""fedkd inside a ClientApp of your own."""

from __future__ import annotations

from fedkd.engine.own_client import answer_public, answer_queries, evaluate_and_answer, train_and_answer

__all__ = ["answer_public", "answer_queries", "evaluate_and_answer", "train_and_answer"]
