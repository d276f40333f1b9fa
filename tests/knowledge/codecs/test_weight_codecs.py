"""Codecs for weights and whatever else floats: casts, eight bits, factors, differences, entropy coding."""

from __future__ import annotations

import pytest
import torch
from messages import one

from fedkd import Knowledge
from fedkd.knowledge.codecs import chain, decode, encode
from fedkd.knowledge.codecs.notes import Form
from fedkd.knowledge.codecs.planes import from_planes, to_planes
from fedkd.knowledge.memory import Memory
from fedkd.knowledge.records import from_records, to_records
from fedkd.testing.messages import FLOATS, INTEGERS, floating, same_bits, table


def weights(*tensors: torch.Tensor) -> Knowledge:
    return Knowledge.of("weights", {f"w{i}": tensor for i, tensor in enumerate(tensors)})


def through(name: str, tensor: torch.Tensor) -> torch.Tensor:
    sent = weights(tensor)
    return one(name).decode(one(name).encode(sent, None), None, 1 << 20).tensors["w0"]


@pytest.mark.parametrize(("name", "error"), [("float16", 2**-11), ("bfloat16", 2**-8)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_casts_keep_so_many_digits_in_two_bytes(name: str, error: float, dtype: torch.dtype) -> None:
    tensor = floating((50, 7), 0).to(dtype)
    assert one(name).encode(weights(tensor), None).raw_bytes == 50 * 7 * 2
    assert torch.allclose(through(name, tensor), tensor, rtol=error, atol=1e-7)


def test_a_value_that_float16_cannot_hold_keeps_its_tensor_whole() -> None:
    large = torch.tensor([1.0, 70_000.0])
    assert torch.equal(through("float16", large), large)
    assert through("bfloat16", large).tolist() == [1.0, 70_144.0]


@pytest.mark.parametrize("shape", [(300,), (20, 30), (8, 4, 3, 3)])
def test_int8_stays_within_half_a_step_of_its_row(shape: tuple[int, ...]) -> None:
    tensor = floating(shape, 0).float()
    rows = tensor.reshape(shape[0], -1) if len(shape) > 1 else tensor[None]
    steps = rows.abs().amax(1, keepdim=True) / 127  # (rows, 1)
    assert ((through("int8", tensor).reshape(rows.shape) - rows).abs() <= steps * 0.5001).all()
    assert one("int8").encode(weights(tensor), None).raw_bytes == tensor.numel() + 4 * len(rows)


def test_int8_by_hand() -> None:
    tensor = torch.tensor([[127.0, -127.0, 0.4, 0.6, 0.0, 64.0], [0.0] * 6])
    assert through("int8", tensor).tolist() == [[127.0, -127.0, 0.0, 1.0, 0.0, 64.0], [0.0] * 6]


def test_int8_sends_whole_what_would_not_become_smaller() -> None:
    sent = weights(torch.tensor(0.3), torch.rand(6, 1), torch.rand(6, 4).bfloat16(), torch.rand(1))
    assert one("int8").encode(sent, None).raw_bytes == sent.raw_bytes


def test_svd_sends_factors_of_what_has_few_and_all_else_whole() -> None:
    low, noise = torch.outer(torch.arange(1.0, 65), torch.ones(576)).view(64, 64, 3, 3), floating((64, 64), 0).float()
    message = one("svd").encode(weights(low, noise, torch.ones(64)), None)
    assert {name: tuple(t.shape) for name, t in message.tensors.items()} == {
        "w0/u": (64, 1),
        "w0/s": (1,),
        "w0/v": (1, 576),
        "w1": (64, 64),
        "w2": (64,),
    }
    assert torch.allclose(through("svd", low), low, rtol=1e-4)


def test_a_higher_energy_is_nearer_and_larger() -> None:
    tensor = torch.linalg.qr(floating((40, 40), 0))[0] @ torch.diag(0.5 ** torch.arange(40)).double()
    sizes = [one(name).encode(weights(tensor), None).raw_bytes for name in ("svd50", "svd95", "svd99")]
    errors = [(through(name, tensor) - tensor).norm() ** 2 / tensor.norm() ** 2 for name in ("svd50", "svd95", "svd99")]
    assert sizes == sorted(set(sizes))
    assert errors[0] <= 0.5 and errors[1] <= 0.05 and errors[2] <= 0.01


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 4)])
def test_byte_planes_of_every_dtype_come_back(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = floating(shape, 0).mul(100).to(dtype)
    planes = to_planes(tensor)
    assert planes.shape == (dtype.itemsize, tensor.numel())
    assert same_bits(from_planes(planes, Form(shape, dtype, "weights")), tensor)


def test_planes_put_equal_bytes_side_by_side() -> None:
    assert to_planes(torch.tensor([1, 2, 258], dtype=torch.int16)).tolist() == [[1, 2, 2], [0, 0, 1]]


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
def test_an_unchanged_message_is_zeros_and_deflates_to_nearly_nothing(dtype: torch.dtype) -> None:
    sent = weights(floating((100, 100), 0).mul(100).to(dtype))
    assert not one("delta").encode(sent, sent).tensors["w0"].any()
    codecs = chain(["delta", "deflate"])
    _, bases = encode(codecs, sent, {})
    again, _ = encode(codecs, sent, bases)
    assert again.raw_bytes < 0.01 * sent.raw_bytes
    assert same_bits(decode(codecs, again, bases)[0].tensors["w0"], sent.tensors["w0"])


def test_a_delta_holds_only_the_bits_that_changed() -> None:
    base, sent = weights(torch.tensor([1, 2, 3], dtype=torch.uint8)), weights(torch.tensor([1, 2, 7], dtype=torch.uint8))
    assert one("delta").encode(sent, base).tensors["w0"].tolist() == [[0, 0, 4]]


def test_a_delta_sends_whole_what_the_base_does_not_have_so() -> None:
    base = Knowledge.of("weights", {"same": torch.ones(3), "longer": torch.ones(3), "wider": torch.ones(3)})
    sent = Knowledge.of(
        "weights", {"same": torch.ones(3), "longer": torch.ones(4), "wider": torch.ones(3).double(), "new": torch.ones(1)}
    )
    message = one("delta").encode(sent, base)
    assert [name for name, tensor in message.tensors.items() if tensor.dtype == torch.uint8] == ["same"]
    got = one("delta").decode(message, base, 1 << 20)
    assert all(same_bits(got.tensors[name], tensor) for name, tensor in sent.tensors.items())


def test_a_delta_goes_on_from_what_a_memory_and_a_checkpoint_hold() -> None:
    """A client's memory keeps a base's tensors, the server's checkpoint its records; neither may change a bit."""
    tensors = {
        "conv.weight": torch.randn(4, 3),
        "half": torch.randn(5).bfloat16(),
        "steps": torch.tensor(7),
        "on": torch.tensor([True]),
    }
    codecs, sent = chain(["delta", "deflate"]), Knowledge.of("weights", tensors)
    _, left = encode(codecs, sent, {})
    memory = Memory()
    memory.store("base/", left[0].tensors)
    state = to_records(Knowledge.of("weights", {k: v for k, v in memory.items() if isinstance(v, torch.Tensor)}))
    mine = {0: Knowledge.of("coded", {k.removeprefix("base/"): v for k, v in from_records(state).tensors.items()})}
    theirs = {0: from_records(to_records(left[0]))}
    moved = Knowledge.of("weights", {name: tensor + tensor for name, tensor in tensors.items()})
    got, _ = decode(codecs, from_records(to_records(encode(codecs, moved, mine)[0])), theirs)
    assert all(same_bits(got.tensors[name], tensor) for name, tensor in moved.tensors.items())


def test_a_lossy_codec_behind_a_delta_leaves_both_ends_the_same_base() -> None:
    codecs, sent = chain(["delta", "float16"]), weights(torch.tensor([0.1, 0.2]))
    message, mine = encode(codecs, sent, {})
    assert same_bits(mine[0].tensors["w0"], decode(codecs, message, {})[1][0].tensors["w0"])
    assert not torch.equal(mine[0].tensors["w0"], sent.tensors["w0"])


def test_deflate_finds_the_order_in_float16_weights_and_in_packed_labels() -> None:
    sent = weights(floating((200, 500), 0).mul(0.02).float())
    halved, deflated = (encode(chain(names), sent, {})[0].raw_bytes for names in (["float16"], ["float16", "deflate"]))
    assert deflated < 0.87 * halved  # the sign and the exponent; the mantissa is noise
    labels = Knowledge.of("probabilities", {"p": table(5000, 10)})
    packed, deflated = (encode(chain(names), labels, {})[0].raw_bytes for names in (["bits1"], ["bits1", "deflate"]))
    assert deflated < 0.87 * packed  # log2(10) / 4 is 0.83


def test_deflate_makes_one_tensor_of_bytes_and_leaves_nothing_alone() -> None:
    message = one("deflate").encode(weights(torch.zeros(100), torch.zeros(3, dtype=torch.int64)), None)
    assert [(name, t.dtype, t.ndim) for name, t in message.tensors.items()] == [("deflate", torch.uint8, 1)]
    assert one("deflate").encode(Knowledge(), None).raw_bytes == 0
