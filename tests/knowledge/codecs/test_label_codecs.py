"""Codecs for tables of labels: bytes by hand, what is lost, what is kept."""

from __future__ import annotations

import pytest
import torch
from messages import one

from fedkd import Knowledge
from fedkd.knowledge.codecs import chain, decode, encode
from fedkd.knowledge.codecs.quantiser import quantise
from fedkd.testing.messages import table


def soft(probabilities: torch.Tensor) -> Knowledge:
    return Knowledge.of("probabilities", {"p": probabilities})


def coded_bytes(name: str, probabilities: torch.Tensor) -> int:
    return one(name).encode(soft(probabilities), None).raw_bytes


def through(name: str, sent: Knowledge) -> torch.Tensor:
    (tensor,) = one(name).decode(one(name).encode(sent, None), None, 1 << 20).tensors.values()
    return tensor


def test_bytes_by_hand() -> None:
    assert coded_bytes("bits4", table(10, 10)) == 50  # 100 entries of half a byte
    assert coded_bytes("bits3", table(3, 3)) == 4  # 27 bits
    assert coded_bytes("bits1", table(5000, 10)) == 2500  # four bits tell ten classes apart
    assert coded_bytes("bits1", table(8, 2)) == 1
    assert coded_bytes("bits1", table(8, 16)) == 4
    assert coded_bytes("bits1", table(8, 17)) == 5
    assert coded_bytes("bits1", table(8, 1)) == 0  # the only class needs no telling
    assert coded_bytes("bits32", table(10, 10)) == 400
    assert coded_bytes("top3", table(10, 100)) == 10 * 3 * (4 + 1)
    assert coded_bytes("top3", table(10, 1000)) == 10 * 3 * (4 + 2)


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_what_comes_back_is_the_quantiser_s(bits: int, dtype: torch.dtype) -> None:
    probabilities = table(30, 7).to(dtype).view(5, 6, 7)
    assert torch.equal(through(f"bits{bits}", soft(probabilities)), quantise(probabilities, bits))


@pytest.mark.parametrize("name", ["bits1", "bits2", "bits16", "top1"])
@pytest.mark.parametrize("classes", [5, 8])
def test_a_class_without_samples_survives(name: str, classes: int) -> None:
    """With 8 classes no index of three bits is left to say so."""
    label_wise = torch.eye(classes)
    label_wise[2] = 0
    assert torch.equal(through(name, soft(label_wise)), label_wise)


def test_absent_rows_cost_a_bit_a_row_and_only_where_there_are_any() -> None:
    probabilities = table(16, 10)
    assert coded_bytes("bits1", probabilities) == 8
    probabilities[3] = 0
    assert coded_bytes("bits1", probabilities) == 8 + 2


def test_other_spaces_are_not_quantised() -> None:
    logits = Knowledge.of("logits", {"z": table(10, 10)})
    assert torch.equal(through("bits4", logits), logits.tensors["z"])
    weights = Knowledge.of("weights", {"w": table(10, 100)})
    assert torch.equal(through("top3", weights), weights.tensors["w"])


def test_top_spreads_what_is_left_of_one() -> None:
    row = torch.tensor([[0.02, 0.5, 0.02, 0.3, 0.02, 0.02, 0.02, 0.02, 0.04, 0.04]])
    expected = torch.tensor([[0.025, 0.5, 0.025, 0.3, 0.025, 0.025, 0.025, 0.025, 0.025, 0.025]])
    assert torch.allclose(through("top2", soft(row)), expected)


def test_top_gives_the_other_logits_their_mean() -> None:
    logits = Knowledge.of("logits", {"z": torch.tensor([[-1.0, 7.0, -2.0, 5.0, -3.0, 0.0, 0.0, 0.0, 0.0, -2.0]])})
    assert through("top2", logits).tolist() == [[-1.0, 7.0, -1.0, 5.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0]]
    assert one("top2").encode(logits, None).raw_bytes == (2 + 1) * 4 + 2


def test_top_keeps_its_entries_exactly_and_sums_to_one() -> None:
    probabilities = table(200, 100)
    got = through("top8", soft(probabilities))
    kept, ids = probabilities.topk(8)
    assert torch.allclose(got.gather(1, ids), kept, rtol=1e-6)
    assert torch.allclose(got.sum(1), torch.ones(200))


def test_top_sends_whole_what_would_not_become_smaller() -> None:
    assert coded_bytes("top8", table(10, 10)) == 400
    assert coded_bytes("top8", table(10, 11)) == 400
    assert coded_bytes("top8", table(10, 4)) == 160


@pytest.mark.slow
@pytest.mark.parametrize("names", [("top8", "int8", "delta", "deflate"), ("bits1", "delta", "deflate")])
def test_chains_of_codecs_code_against_the_last_message(names: tuple[str, ...]) -> None:
    codecs, first = chain(names), table(5000, 100)
    second = torch.where(torch.arange(5000)[:, None] % 20 == 0, table(5000, 100, seed=1), first)  # one sample in twenty moves
    message, bases = encode(codecs, soft(first), {})
    again, _ = encode(codecs, soft(first), bases)
    changed, _ = encode(codecs, soft(second), bases)
    assert again.raw_bytes < 0.01 * message.raw_bytes < 0.01 * 2_000_000
    assert changed.raw_bytes < 0.3 * message.raw_bytes
    for tensor, coded in ((first, again), (second, changed)):
        got = decode(codecs, coded, bases)[0].tensors["p"]
        assert torch.equal(got, decode(codecs, encode(codecs, soft(tensor), {})[0], {})[0].tensors["p"])
