"""Knowledge on the wire and in memory."""

from __future__ import annotations

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd import Knowledge
from fedkd.knowledge.memory import Memory
from fedkd.knowledge.records import MANIFEST, TENSORS, RecordError, Unpacked, from_records, to_records, wire_bytes

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
DTYPES += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


@pytest.mark.slow
@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)), max_size=5), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_values_shapes_and_dtypes_come_back_exactly(kinds: list[tuple[torch.dtype, list[int]]], seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    tensors = {f"t{i}": torch.randint(0, 2, size, generator=rng).to(dtype) for i, (dtype, size) in enumerate(kinds)}
    sent = Knowledge.of("logits", tensors, header={"round": 3, "hash": "", "x": 0.5}, weight=7, metrics={"loss": 0.25})
    got = from_records(to_records(sent))
    assert list(got.tensors) == list(tensors)
    assert all(torch.equal(got.tensors[n], t) and got.tensors[n].dtype == t.dtype for n, t in tensors.items())
    assert (dict(got.header), got.weight, dict(got.metrics)) == ({"round": 3, "hash": "", "x": 0.5}, 7, {"loss": 0.25})
    assert dict(got.spaces) == dict(sent.spaces)


def test_knowledge_cannot_carry_a_graph() -> None:
    logits = torch.ones(2, 3, requires_grad=True) * 2
    assert not Knowledge.of("logits", {"z": logits}).tensors["z"].requires_grad


def test_bytes_are_counted_raw_and_on_the_wire() -> None:
    knowledge = Knowledge.of("weights", {"a": torch.zeros(1000, 10), "b": torch.zeros(24)})
    records = to_records(knowledge)
    assert knowledge.raw_bytes == 40_096
    assert records[TENSORS].count_bytes() == 40_096 + 128 + len("float32")  # one array: one header of 128 bytes
    assert 0 < wire_bytes(records) - records[TENSORS].count_bytes() < 150  # the manifest


def test_receivers_share_nothing_with_the_sender() -> None:
    sent = torch.zeros(3)
    records = to_records(Knowledge.of("weights", {"w": sent}))
    got = from_records(records).tensors["w"]
    got += 1
    assert torch.equal(from_records(records).tensors["w"], torch.zeros(3))


def test_equal_bytes_are_decoded_once_a_process() -> None:
    memo, records = Unpacked(), to_records(Knowledge.of("weights", {"w": torch.ones(3)}))
    again = RecordDict({key: record for key, record in records.items()})
    assert from_records(records, memo=memo).tensors["w"].data_ptr() == from_records(again, memo=memo).tensors["w"].data_ptr()


def record(text: str, values: list[float]) -> RecordDict:
    array = Array(torch.tensor(values).numpy())
    return RecordDict({TENSORS: ArrayRecord({"float32": array}), MANIFEST: ConfigRecord({"tensors": text, "weight": 1.0})})


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (RecordDict(), "carries no knowledge"),
        (record("w\tfloat32\t3\tweights", [1.0, 2.0]), "elements"),
        (record("w\tfloat32\t-1\tweights", [1.0]), "contradicts itself"),
        (record("w\tfloat32\t1\tweights\nw\tfloat32\t1\tweights", [1.0, 2.0]), "contradicts itself"),
        (record("w\tfloat16\t2\tweights", [1.0, 2.0]), "elements"),
        (record("nonsense", [1.0]), "not valid"),
        (record("w\tfloat32\tx\tweights", [1.0]), "not valid"),
        (record("w\tfloat32\t1\tsecrets", [1.0]), "unknown space"),
    ],
)
def test_what_is_no_knowledge_is_refused_in_one_line(records: RecordDict, reason: str) -> None:
    with pytest.raises(RecordError, match=reason) as caught:
        from_records(records)
    assert "\n" not in str(caught.value)


def test_a_header_holds_text_and_numbers_only() -> None:
    with pytest.raises(TypeError, match="a header holds text and numbers; 'who' is a list"):
        to_records(Knowledge(header={"who": [1]}))  # type: ignore[dict-item]


def test_size_is_bounded_before_anything_is_allocated() -> None:
    with pytest.raises(RecordError, match="more than the 100 allowed"):
        from_records(to_records(Knowledge.of("weights", {"w": torch.zeros(100)})), max_bytes=100)


def test_memory_lies_in_a_context_state_and_comes_back() -> None:
    memory, state = Memory(), RecordDict()
    memory["calls"], memory["half"] = 3, torch.ones(2, dtype=torch.bfloat16)
    memory.store("net/main/", {"w": torch.ones(2, 2)})
    memory.write(state)
    back = Memory.read(state)
    assert back["calls"] == 3
    assert back.tensor("half").dtype == torch.bfloat16
    assert torch.equal(back.under("net/main/")["w"], torch.ones(2, 2))
    with pytest.raises(TypeError, match="a list"):
        memory["x"] = [1]  # type: ignore[assignment]
