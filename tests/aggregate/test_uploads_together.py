"""weighted_mean over whole uploads, and stack, which prepares one tensor of them for every other reduction."""

import pytest
import torch

from fedkd.aggregate import stack, weighted_mean
from fedkd.knowledge.knowledge import Knowledge

LOGITS = {k: Knowledge.of("logits", {"table": torch.full((2, 3), float(k))}, weight=k) for k in (1, 3)}


@pytest.mark.recomputed("weighted_mean", by="hand")
def test_given_weights_replace_those_of_the_uploads_in_order_of_client_id() -> None:
    assert weighted_mean(LOGITS).tensors["table"].unique().item() == 2.5  # 1/4 * 1 + 3/4 * 3
    assert weighted_mean(LOGITS, weights=[1, 1]).tensors["table"].unique().item() == 2.0
    assert weighted_mean({3: LOGITS[3], 1: LOGITS[1]}, weights=[3, 1]).tensors["table"].unique().item() == 1.5


def test_a_weight_of_zero_leaves_a_client_out() -> None:
    assert torch.equal(weighted_mean(LOGITS, weights=[0, 5]).tensors["table"], LOGITS[3].tensors["table"])


@pytest.mark.parametrize("weights", [[], [1], [1, 1, 1], [0, 0], [2, -1], [1, float("nan")]])
def test_weights_that_make_no_mean_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="2 clients need a weight"):
        weighted_mean(LOGITS, weights=weights)


def test_the_round_is_not_averaged_but_other_facts_stay() -> None:
    uploads = {k: LOGITS[k].with_header(round=4, exchange=1, classes="0 1 2") for k in LOGITS}
    assert dict(weighted_mean(uploads).header) == {"classes": "0 1 2"}


def test_stack_is_in_order_of_client_id_however_the_uploads_arrived() -> None:
    stacked = stack({3: LOGITS[3], 1: LOGITS[1]}, "table")
    assert stacked.shape == (2, 2, 3)
    assert stacked[:, 0, 0].tolist() == [1.0, 3.0]


def test_stack_refuses_to_mix_logits_with_probabilities() -> None:
    other = Knowledge.of("probabilities", LOGITS[1].tensors)
    with pytest.raises(ValueError, match=r"of client 3 is logits .*, of client 8 probabilities"):
        stack({3: LOGITS[3], 8: other}, "table")


@pytest.mark.parametrize("tensor", [torch.zeros(2, 4), torch.zeros(2, 3, dtype=torch.float64)])
def test_stack_refuses_other_shapes_and_types(tensor: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="of client 8"):
        stack({3: LOGITS[3], 8: Knowledge.of("logits", {"table": tensor})}, "table")


def test_stack_names_the_client_that_lacks_the_tensor() -> None:
    with pytest.raises(ValueError, match="client 8 sent no 'table', only other"):
        stack({3: LOGITS[3], 8: Knowledge.of("logits", {"other": torch.zeros(1)})}, "table")
    with pytest.raises(ValueError, match="no uploads"):
        stack({}, "table")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_mean_of_equal_tensors_is_that_tensor_bit_for_bit(dtype: torch.dtype) -> None:
    """As a frozen layer: shares of sevenths sum to one but nearly."""
    frozen = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    uploads = {k: Knowledge.of("weights", {"w": frozen.clone()}, weight=k + 0.3) for k in range(7)}
    assert torch.equal(weighted_mean(uploads).tensors["w"], frozen)


def test_infinities_that_all_have_stay_and_who_counts_for_nothing_adds_nothing() -> None:
    mask = torch.tensor([-torch.inf, 0.0, 1.0])
    uploads = {k: Knowledge.of("weights", {"mask": mask + k}, weight=k) for k in (1, 3)}
    assert weighted_mean(uploads).tensors["mask"].tolist() == [-torch.inf, 2.5, 3.5]
    assert weighted_mean(uploads, weights=[0, 1]).tensors["mask"].tolist() == [-torch.inf, 3.0, 4.0]
