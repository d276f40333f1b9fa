"""Instruction: what a message asks of a client, beside the knowledge that it carries."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self, final

from flwr.app import ConfigRecord, RecordDict

from fedkd.base.records import items_of, record_of

#: The kinds of messages, as Flower names them: who are you, write your memory, go back to it, train, evaluate.
JOIN, PERSIST, RECALL, TRAIN, EVALUATE = "query.join", "query.persist", "query.recall", "train", "evaluate"
#: The name of the record, of the reply to ``JOIN`` too.
RECORD = "fedkd.instruction"
#: The key, and the name of the record, of a run's number: see ``fedkd.engine.node_memory``.
RUN = "fedkd.run"
#: The name of the record of an experiment's keys, where a ServerApp of a user's own runs a strategy: no run-config has them.
EXPERIMENT = "fedkd.experiment"
#: Which message: round and exchange in which it was sent, ``"3.0"``; empty for none.
_MESSAGE = re.compile(r"(\d{1,9}\.\d{1,9})?", re.ASCII)
#: No run has so many rounds, exchanges or clients.
_MOST = 2**31
_NUMBERS, _MESSAGES, _FLAGS = ("round", "exchange", "client"), ("acknowledged", "held"), ("persist", "global", "compared")


@final
@dataclass(frozen=True)
class Instruction:
    """One client's work in one exchange of a round, or in its evaluation.

    >>> record = Instruction(round=3, exchange=0, client=7, acknowledged="2.0", persist=True).to_record()
    >>> dict(record)
    {'round': 3, 'exchange': 0, 'persist': 1, 'client': 7, 'acknowledged': '2.0', 'held': ''}
    >>> Instruction.from_records(RecordDict({RECORD: record})).acknowledged
    '2.0'
    """

    round: int
    exchange: int
    client: int
    acknowledged: str = ""  # the client's last accepted upload, against which codecs may code the next
    held: str = ""  # the broadcast against which this message is coded
    persist: bool | None = None  # when training: whether memory is written now, or the client stays live for the next exchange
    globally: bool | None = None  # when evaluating: whether to score on the global test set too
    compared: bool = False  # whether to send the logits there, by which clients are compared

    def to_record(self) -> ConfigRecord:
        """The record that travels. What is not said takes no bytes."""
        flags = {"persist": self.persist, "global": self.globally, "compared": self.compared or None}
        said = {key: int(flag) for key, flag in flags.items() if flag is not None}
        numbers = {"round": self.round, "exchange": self.exchange, **said, "client": self.client}
        return record_of(ConfigRecord, {**numbers, "acknowledged": self.acknowledged, "held": self.held})

    @classmethod
    def from_records(cls, records: RecordDict) -> Self:
        """The instruction in a message.

        Raises:
            ValueError: there is none, or it has a key or a value that ``to_record`` does not write. One line.
        """
        found = records.get(RECORD)
        if not isinstance(found, ConfigRecord):
            raise ValueError(f"the message has no {RECORD!r}, so it asks for nothing")
        record = items_of(found)
        if missing := [key for key in (*_NUMBERS, *_MESSAGES) if key not in record]:
            raise ValueError(f"{RECORD}: {missing[0]!r} is missing")
        for key, value in record.items():
            if not _is_valid(key, value):
                raise ValueError(f"{RECORD}: {key[:50]!r} is {str(value)[:50]!r}, which no server of fedkd asks for")
        round, exchange, client = (int(str(record[key])) for key in _NUMBERS)
        acknowledged, held = (str(record[key]) for key in _MESSAGES)
        persist, globally, compared = (bool(record[key]) if key in record else None for key in _FLAGS)
        return cls(round, exchange, client, acknowledged, held, persist, globally, bool(compared))


def _is_valid(key: str, value: object) -> bool:
    if key in _MESSAGES:
        return value == "" or (isinstance(value, str) and _MESSAGE.fullmatch(value) is not None)
    most = _MOST if key in _NUMBERS else 2 if key in _FLAGS else 0
    return type(value) is int and 0 <= value < most
