"""What each attack does to a row that can be checked by eye, and what all of them owe to the guard."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from fedkd.engine.guard import check_upload
from fedkd.knowledge.attacks import ATTACKS
from fedkd.knowledge.knowledge import Knowledge, schema_of

ROW = [0.5, 0.25, 0.125, 0.125, 0.0]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def attacked(
    name: str, upload: Knowledge, broadcast: Knowledge | None = None, *, scale: float = 1.0, seed: int = 0
) -> Knowledge:
    return ATTACKS[name].upload(upload, broadcast or Knowledge(), scale=scale, rng=rng(seed))


def on(name: str, space: str, tensor: Tensor, sent: Mapping[str, Tensor] | None = None, *, scale: float = 1.0) -> Tensor:
    """The attack on one tensor called "x"."""
    return attacked(name, Knowledge.of(space, {"x": tensor}), Knowledge.of(space, sent or {}), scale=scale).tensors["x"]


def honest() -> Knowledge:
    """An upload with every space in it, zero rows, integers and BatchNorm's buffers."""
    rows = torch.randn(6, 5, generator=rng(1)).softmax(1)
    rows[2] = 0
    weights = {
        "layer": torch.randn(3, 4, generator=rng(2)),
        "running_var": torch.rand(3, generator=rng(3)),
        "empty": torch.zeros(0),
    }
    upload = Knowledge.of("weights", {**weights, "batches": torch.tensor(7)}, weight=3.0, header={"round": 2})
    upload = upload.with_tensors("probabilities", {"rows": rows, "half": rows.half(), "one class": torch.ones(2, 1)})
    upload = upload.with_tensors("logits", {"logits": torch.randn(6, 5, generator=rng(4)).bfloat16()})
    upload = upload.with_tensors("embedding", {"prototypes": torch.randn(5, 3, generator=rng(5)).double()})
    upload = upload.with_tensors("samples", {"made": torch.randn(2, 1, 3, 3, generator=rng(6))})
    return upload.with_tensors("labels", {"votes": torch.tensor([0, 4])}).with_tensors(
        "counts", {"counts": torch.tensor([1.0, 2.0])}
    )


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("scale", [1.0, 1e30])
@pytest.mark.parametrize("broadcast", [Knowledge(), honest()])
def test_an_attacked_upload_passes_every_check_on_form(name: str, scale: float, broadcast: Knowledge) -> None:
    upload = honest()
    hostile = attacked(name, upload, broadcast, scale=scale)
    assert schema_of(hostile) == schema_of(upload)
    assert (hostile.header, hostile.weight) == (upload.header, upload.weight)
    for key, tensor in hostile.tensors.items():
        assert tensor.isfinite().all(), key
        if hostile.spaces[key] == "probabilities":
            nothing = (upload.tensors[key] == 0).all(-1)
            assert (tensor >= 0).all(), key
            assert torch.allclose(tensor.float().sum(-1), (~nothing).float(), atol=1e-3), key
    assert (hostile.tensors["running_var"] >= 0).all()
    for key in ("batches", "votes", "counts"):
        assert torch.equal(hostile.tensors[key], upload.tensors[key])


@pytest.mark.parametrize("name", ATTACKS)
def test_the_guard_accepts_every_attack_so_that_aggregation_must_bear_it(name: str) -> None:
    check_upload(attacked(name, honest()), schema_of(honest()), classes=5)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_repeats_with_its_seed_and_leaves_the_honest_upload_alone(name: str) -> None:
    upload = honest()
    first, again = attacked(name, upload), attacked(name, upload)
    assert all(torch.equal(first.tensors[key], again.tensors[key]) for key in first.tensors)
    assert all(torch.equal(tensor, honest().tensors[key]) for key, tensor in upload.tensors.items())


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_changes_labels_or_uploads(name: str) -> None:
    labels, upload = torch.arange(5), honest()
    poisons = not torch.equal(ATTACKS[name].labels(labels, 5, rng()), labels)
    if ATTACKS[name].collusion:
        return  # what its clients do they do together: see test_collusion.py
    distorts = any(not torch.equal(tensor, upload.tensors[key]) for key, tensor in attacked(name, upload).tensors.items())
    assert poisons is not distorts


def test_label_flip_mirrors_the_classes_and_leaves_what_has_no_label() -> None:
    assert ATTACKS["label_flip"].labels(torch.tensor([0, 1, 4, -1]), 5, rng()).tolist() == [4, 3, 0, -1]


def test_sign_flip_reverses_the_update_and_not_the_weights() -> None:
    trained, sent = torch.tensor([3.0, 1.0]), torch.tensor([2.0, 2.0])
    assert on("sign_flip", "weights", trained, {"x": sent}).tolist() == [1.0, 3.0]
    assert on("sign_flip", "weights", trained, {"x": sent}, scale=10.0).tolist() == [-8.0, 12.0]


def test_sign_flip_of_what_the_server_did_not_send_negates_it() -> None:
    trained = torch.tensor([3.0, 1.0])
    assert on("sign_flip", "weights", trained, scale=2.0).tolist() == [-6.0, -2.0]
    assert on("sign_flip", "weights", trained, {"x": torch.zeros(3)}).tolist() == [-3.0, -1.0]  # of another shape
    other_space = Knowledge.of("logits", {"x": torch.ones(2)})
    hostile = attacked("sign_flip", Knowledge.of("weights", {"x": trained}), other_space)
    assert hostile.tensors["x"].tolist() == [-3.0, -1.0]


def test_sign_flip_reverses_the_order_of_the_classes() -> None:
    assert on("sign_flip", "logits", torch.tensor([[1.0, -2.0]]), scale=3.0).tolist() == [[-3.0, 6.0]]
    mirrored = on("sign_flip", "probabilities", torch.tensor([[0.75, 0.25, 0.0]]))  # (0, 0.5, 0.75) / 1.25
    assert torch.allclose(mirrored, torch.tensor([[0.0, 0.4, 0.6]]))


def test_noise_is_measured_in_standard_deviations_of_the_tensor() -> None:
    tensor = torch.tensor([[-5.0, 5.0]]).repeat(5000, 1)
    noise = on("noise", "logits", tensor, scale=2.0) - tensor
    assert noise.std().item() == pytest.approx(10, rel=0.03)
    assert on("noise", "weights", torch.full((4,), 3.0)).tolist() == [3.0] * 4


def test_noise_in_place_of_probabilities_forgets_the_honest_rows() -> None:
    one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])
    assert torch.equal(on("noise", "probabilities", one), on("noise", "probabilities", other))


def test_least_likely_class_takes_all() -> None:
    assert on("least_likely_class", "probabilities", torch.tensor([ROW])).tolist() == [[0, 0, 0, 0, 1]]
    assert on("least_likely_class", "logits", torch.tensor([[3.0, 1.0, 2.0]])).tolist() == [[1.0, 3.0, 2.0]]


def test_similar_class_swaps_the_two_likeliest_in_both_spaces() -> None:
    assert on("similar_class", "probabilities", torch.tensor([ROW])).tolist() == [[0.25, 0.5, 0.125, 0.125, 0.0]]
    assert on("similar_class", "logits", torch.tensor([[3.0, 1.0, 2.0]])).tolist() == [[2.0, 1.0, 3.0]]


def test_a_free_rider_returns_what_it_got_or_says_nothing() -> None:
    sent = torch.tensor([[0.9, 0.1]])
    assert torch.equal(on("free_rider", "probabilities", torch.tensor([[0.2, 0.8]]), {"x": sent}), sent)
    assert on("free_rider", "probabilities", torch.tensor([[0.2, 0.8]])).tolist() == [[0.5, 0.5]]
    assert on("free_rider", "weights", torch.ones(2), {"x": torch.full((2,), 4.0)}).tolist() == [4.0, 4.0]
    assert on("free_rider", "logits", torch.ones(1, 2), {"x": torch.ones(9, 2)}).tolist() == [[0.0, 0.0]]
