"""Means by class: the same however the samples come, and free of any graph."""

from __future__ import annotations

import torch

from fedkd.methods.class_means import ClassMeans


def rows_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(30, 4, generator=rng), torch.randint(0, 4, (30,), generator=rng)


def test_neither_batches_nor_their_order_show() -> None:
    rows, labels = rows_and_labels()
    whole, parts = (ClassMeans(classes=5, width=4) for _ in range(2))
    whole.add(rows, labels)
    for positions in torch.arange(29, -1, -1).split(7):
        parts.add(rows[positions], labels[positions])
    assert torch.equal(whole.values(), parts.values())
    assert torch.equal(whole.counts(), parts.counts())
    assert whole.values()[4].tolist() == [0] * 4  # nobody has this label


def test_an_autocast_region_changes_nothing() -> None:
    rows, labels = rows_and_labels()
    inside, outside = (ClassMeans(classes=5, width=4) for _ in range(2))
    outside.add(rows, labels)
    with torch.autocast("cpu", torch.bfloat16):
        inside.add(rows, labels)
    assert torch.equal(inside.values(), outside.values())


def test_rows_with_a_graph_leave_none_behind() -> None:
    means = ClassMeans(classes=2, width=1)
    means.add(torch.ones(3, 1, requires_grad=True) * 2, torch.tensor([0, 0, 1]))
    assert not means.values().requires_grad
