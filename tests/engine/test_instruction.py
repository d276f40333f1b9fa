"""What a message asks of a client: it comes back from its record, and a record of another kind is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedkd import Knowledge
from fedkd.engine.evaluation.probe import Probe
from fedkd.engine.instruction import RECORD, Instruction
from fedkd.engine.sent_probes import split_probes, with_probes
from fedkd.knowledge.records import config_bytes

NUMBER = st.integers(0, 2**31 - 1)
MESSAGE = st.just("") | st.builds("{}.{}".format, st.integers(0, 10**9 - 1), st.integers(0, 10**9 - 1))
FLAG = st.none() | st.booleans()
INSTRUCTIONS = st.builds(Instruction, NUMBER, NUMBER, NUMBER, MESSAGE, MESSAGE, FLAG, FLAG, st.booleans())
USUAL = {"round": 2, "exchange": 0, "client": 1, "acknowledged": "1.0", "held": "", "persist": 1}


def records(**values: Any) -> RecordDict:
    return RecordDict({RECORD: ConfigRecord(values)})


@pytest.mark.slow
@given(INSTRUCTIONS)
def test_it_comes_back_from_its_record(instruction: Instruction) -> None:
    assert Instruction.from_records(RecordDict({RECORD: instruction.to_record()})) == instruction


def test_what_it_does_not_say_takes_no_bytes() -> None:
    training = Instruction(2, 0, 1, acknowledged="1.0", persist=True).to_record()
    assert dict(training) == USUAL
    # keys of 5, 8, 6, 12, 4 and 7 letters; four numbers of 8 bytes; three letters of text
    assert config_bytes(training) == 42 + 32 + 3
    assert list(Instruction(2, 0, 1, globally=False).to_record())[2] == "global"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"round": -1}, "'round' is '-1'"),
        ({"round": 2**31}, "'round' is '2147483648'"),
        ({"client": 1.5}, "'client' is '1.5'"),
        ({"client": True}, "'client' is 'True'"),
        ({"persist": 2}, "'persist' is '2'"),
        ({"acknowledged": 1}, "'acknowledged' is '1'"),
        ({"held": "../1"}, "'held' is '../1'"),
        ({"held": "1.0\n"}, r"'held' is '1.0\n'"),
        ({"net": "cnn"}, "'net' is 'cnn'"),
        ({"round": b"1" * 1000}, "'round' is"),
    ],
)
def test_a_strange_record_is_refused_in_one_short_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as caught:
        Instruction.from_records(records(**(USUAL | changes)))
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 200


@pytest.mark.parametrize("key", ["round", "exchange", "client", "acknowledged", "held"])
def test_a_record_must_have_what_every_message_says(key: str) -> None:
    with pytest.raises(ValueError, match=f"'{key}' is missing"):
        Instruction.from_records(records(**{name: value for name, value in USUAL.items() if name != key}))


@pytest.mark.parametrize("content", [RecordDict(), RecordDict({RECORD: MetricRecord({"round": 1})})])
def test_a_message_without_one_asks_for_nothing(content: RecordDict) -> None:
    with pytest.raises(ValueError, match="asks for nothing"):
        Instruction.from_records(content)


def test_probes_travel_beside_a_broadcast() -> None:
    broadcast = Knowledge.of("weights", {"fc.weight": torch.ones(2, 3)}).with_header(base="1.0")
    probes = {"encoder": Probe(torch.ones(4, 5), torch.zeros(4)), "ema": Probe(torch.zeros(4, 5), torch.ones(4))}
    again, found = split_probes(with_probes(broadcast, probes), torch.device("cpu"))
    assert again.tensors.keys() == {"fc.weight"} and again.spaces == {"fc.weight": "weights"}
    assert again.header == {"base": "1.0"}
    assert list(found) == ["encoder", "ema"]
    assert all(torch.equal(found[name].weight, probe.weight) for name, probe in probes.items())
    assert torch.equal(found["ema"].bias, torch.ones(4))
