"""Training samples without any label: some labelled test samples join them, as encoders too are judged by labels."""

from __future__ import annotations

from dataclasses import replace

import torch

from fedkd.base.inputs import concatenate, count, rows
from fedkd.data.rows import is_mapped
from fedkd.data.source import Source, hold_out


def with_labels_to_judge_by(source: Source) -> tuple[Source, str]:
    """The source, and what is to be said of it.

    A probe is fitted on labels and tested on others: where no training sample has one, half of the labelled test samples
    become training samples.
    """
    known = source.test_labels >= 0
    if (
        bool((source.train_labels >= 0).any())
        or int(known.sum()) < 2
        or source.groups is not None
        or is_mapped(source.train_inputs)
    ):
        return source, ""
    stay, go = hold_out(count(source.test_inputs), 0.5, only=known)
    joined = replace(
        source,
        train_inputs=concatenate([source.train_inputs, rows(source.test_inputs, go)]),
        train_labels=torch.cat([source.train_labels, source.test_labels[go]]),
        test_inputs=rows(source.test_inputs, stay),
        test_labels=source.test_labels[stay],
    )
    said = (
        f"no training sample has a label: {len(go)} of {int(known.sum())} labelled test samples join them, for what is judged"
    )
    return joined, f"{said} by labels"
