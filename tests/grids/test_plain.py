"""Messages as plain values: what travels to a worker, and what a copy shares with its original."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedkd.grids.flower import copy_message, instruction, message_from_plain, plain_message, reply_to, with_new_id
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.records import TENSORS, to_records, wire_bytes


def upload() -> Message:
    logits = {"logits": torch.arange(6.0).view(2, 3)}
    records = to_records(Knowledge.of("logits", logits, header={"batch": "0f"}, metrics={"loss": 0.5}))
    records["facts"] = ConfigRecord({"names": ["a", "b"], "on": True, "raw": b"\x00"})
    records["scores"] = MetricRecord({"each": [1, 2]})
    return instruction(records, "train", 3, "1", None)


def kinds(value: Any) -> set[type]:
    """The types of all that a plain value is made of."""
    inner = [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return {type(value)}.union(*map(kinds, inner))


def test_a_plain_message_holds_only_what_ray_packs_without_pickling() -> None:
    error = Message(Error(1, "it broke"), reply_to=upload())
    for message in (upload(), error):
        assert kinds(plain_message(message)) <= {list, dict, str, bytes, int, float, bool, type(None)}


@pytest.mark.parametrize("again", [copy_message, lambda message: message_from_plain(plain_message(message))])
def test_a_message_comes_back_equal_and_shares_only_the_bytes_of_arrays(again: Any) -> None:
    message = upload()
    copy = again(message)
    assert copy.content == message.content
    assert vars(copy.metadata) == vars(message.metadata)
    assert wire_bytes(copy.content) == wire_bytes(message.content)
    mine, theirs = (each.content[TENSORS]["float32"] for each in (message, copy))
    assert theirs is not mine
    assert theirs.data is mine.data
    copy.content["facts"]["names"].append("c")
    copy.content["scores"]["each"][0] = 9
    copy.metadata.ttl = 1.0
    assert message.content == upload().content
    assert message.metadata.ttl != 1.0


def test_an_error_is_copied_too() -> None:
    error = copy_message(Message(Error(1, "it broke"), reply_to=upload()))
    assert (error.has_content(), error.error.code, error.error.reason) == (False, 1, "it broke")


def test_a_copy_of_no_records_is_no_records() -> None:
    assert copy_message(instruction(RecordDict(), "train", 0, "", None)).content == RecordDict()


def test_a_reply_is_flowers_own() -> None:
    asked = with_new_id(upload())
    mine, theirs = (vars(reply.metadata) for reply in (reply_to(asked, RecordDict()), Message(RecordDict(), reply_to=asked)))
    passing = ("_created_at", "_ttl")
    assert {key: value for key, value in mine.items() if key not in passing} == {
        key: value for key, value in theirs.items() if key not in passing
    }
    ends = [reply["_created_at"] + reply["_ttl"] for reply in (mine, theirs)]
    assert ends[0] == pytest.approx(ends[1], abs=1e-3)
