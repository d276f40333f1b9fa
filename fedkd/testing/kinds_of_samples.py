"""Little made-up data of every kind, with a net for each: what strategies are tried on beside images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from fedkd.base.randomness import generator
from fedkd.data import Source

#: Training and test samples, classes, the length of signals and texts, token ids.
TRAIN, TEST, CLASSES, LENGTH, VOCABULARY = 120, 30, 3, 8, 12


@final
@dataclass(frozen=True)
class Little:
    """A little data set, as ``data.source`` takes it, and a net that takes its samples, with its options."""

    source: Callable[[], Source]
    net: str
    options: Mapping[str, Any]


def vectors() -> Source:
    """Five features, the first three those of the classes."""
    labels, rng = _labels(), generator(0, "vectors")
    inputs = torch.randn(TRAIN + TEST, 5, generator=rng)
    inputs[:, :CLASSES] += 2 * torch.nn.functional.one_hot(labels, CLASSES)
    return _split("vectors", inputs, labels)


def signals() -> Source:
    """Two values at each of eight times; the first is higher the higher the class."""
    labels, rng = _labels(), generator(0, "signals")
    inputs = torch.randn(TRAIN + TEST, LENGTH, 2, generator=rng)
    inputs[:, :, 0] += labels[:, None]
    return _split("signals", inputs, labels)


def texts() -> Source:
    """Up to eight tokens, two of them those of the class, and padding."""
    labels, rng = _labels(), generator(0, "texts")
    ids = torch.randint(1, VOCABULARY, (TRAIN + TEST, LENGTH), generator=rng)
    ids[:, 1:3] = 1 + labels[:, None]
    lengths = torch.randint(3, LENGTH + 1, (TRAIN + TEST, 1), generator=rng)
    return _split("texts", ids.where(torch.arange(LENGTH) < lengths, 0), labels)


def texts_by_name() -> Source:
    """The same as ``input_ids``, with an ``attention_mask``, as transformers take them."""
    plain = texts()
    train, test = ({"input_ids": ids, "attention_mask": (ids != 0).long()} for ids in _tensors(plain))
    return Source("texts by name", train, plain.train_labels, test, plain.test_labels, plain.classes, vocabulary=VOCABULARY)


#: By what they are called in messages.
LITTLE = {
    "vectors": Little(vectors, "mlp", {"hidden": (16, 16)}),
    "signals": Little(signals, "cnn1d", {"channels": (4, 8), "hidden": 16}),
    "texts": Little(texts, "cnn1d", {"channels": (4, 8), "hidden": 16, "embedding": 4}),
    "texts by name": Little(texts_by_name, "transformer", {"width": 16, "heads": 2}),
}


def _labels() -> Tensor:
    return torch.arange(TRAIN + TEST) % CLASSES


def _tensors(source: Source) -> tuple[Tensor, Tensor]:
    assert isinstance(source.train_inputs, Tensor) and isinstance(source.test_inputs, Tensor)
    return source.train_inputs, source.test_inputs


def _split(name: str, inputs: Tensor, labels: Tensor) -> Source:
    held = (inputs[:TRAIN], labels[:TRAIN], inputs[TRAIN:], labels[TRAIN:])
    return Source(name, *held, ("a", "b", "c"), vocabulary=0 if inputs.is_floating_point() else VOCABULARY)
