"""OKDDip's attention over peers, against values by hand, loops and derivatives."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from fedkd.targets import attention

K, B, C, D = 3, 4, 5, 2


def rows(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


LOGITS, QUERIES, KEYS = rows(0, K, B, C), rows(1, K, B, D), rows(2, K, B, D)


@pytest.mark.recomputed("attention", by="formula")
def test_equals_the_definition_peer_by_peer() -> None:
    target = attention(LOGITS, QUERIES, KEYS)
    assert target.kind == "logits"
    for a in range(K):
        for sample in range(B):
            scores = [math.exp(QUERIES[a, sample] @ KEYS[b, sample]) for b in range(K)]
            expected = sum(scores[b] / sum(scores) * LOGITS[b, sample] for b in range(K))
            torch.testing.assert_close(target.values[a, sample], expected)


@pytest.mark.recomputed("attention", by="hand")
def test_queries_that_meet_no_key_give_everyone_the_mean() -> None:
    target = attention(LOGITS, torch.zeros_like(QUERIES), KEYS)
    torch.testing.assert_close(target.values, LOGITS.mean(0).expand(K, -1, -1))


def test_the_order_of_peers_is_that_of_their_targets() -> None:
    order = torch.tensor([2, 0, 1])
    shuffled = attention(LOGITS[order], QUERIES[order], KEYS[order])
    torch.testing.assert_close(shuffled.values, attention(LOGITS, QUERIES, KEYS).values[order])


def test_queries_and_keys_learn_and_logits_do_not() -> None:
    logits, queries, keys = (tensor.clone().requires_grad_() for tensor in (LOGITS, QUERIES, KEYS))
    assert gradcheck(lambda q, k: attention(LOGITS, q, k).values, [queries, keys])
    attention(logits, queries, keys).values.square().sum().backward()
    assert logits.grad is None
    assert queries.grad is not None
    assert queries.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_that_overflow_an_exponential_and_autocast_do_no_harm(dtype: torch.dtype) -> None:
    queries, keys = (1e3 * rows(seed, K, B, D) for seed in (1, 2))
    inputs = [tensor.to(dtype).requires_grad_() for tensor in (LOGITS, queries, keys)]
    outside = attention(*inputs).values
    with torch.autocast("cpu", torch.bfloat16):
        inside = attention(*inputs).values
    assert outside.dtype == torch.float32
    assert torch.equal(inside, outside)
    outside.sum().backward()
    assert all(tensor.grad is None or tensor.grad.isfinite().all() for tensor in inputs)


def test_queries_and_keys_of_other_peers_or_samples_are_refused() -> None:
    for queries, keys in ((QUERIES[:2], KEYS[:2]), (QUERIES, KEYS[..., :1]), (QUERIES[:, :1], KEYS[:, :1])):
        with pytest.raises(ValueError, match=r"attention: queries and keys are \(3, 4, D\)"):
            attention(LOGITS, queries, keys)
