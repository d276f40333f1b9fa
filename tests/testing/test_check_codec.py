"""Each check of a codec finds the codec that breaks its promise, and passes the one that breaks none."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

import pytest
import torch
from torch import Tensor

from fedkd import Knowledge
from fedkd.base.errors import InputError
from fedkd.knowledge.codecs import Codec
from fedkd.knowledge.codecs.notes import read_note
from fedkd.knowledge.codecs.parts import Parts, join, split
from fedkd.testing import check_codec, codec_checks

KEY = "codec.halves"


@dataclass(frozen=True)
class Halving(Codec):
    """Weights of float32 travel in float16, where these can hold them."""

    def encode(self, knowledge: Knowledge, base: Knowledge | None) -> Knowledge:
        return split(knowledge, KEY, ("",), self.halved)

    def decode(self, message: Knowledge, base: Knowledge | None, max_bytes: int) -> Knowledge:
        return join(message, KEY, ("",), lambda parts, form: self.doubled(parts).view(form.shape), max_bytes)

    def halved(self, tensor: Tensor, space: str) -> Parts | None:
        fits = space == "weights" and tensor.dtype == torch.float32 and tensor.half().isfinite().all()
        return {"": tensor.half()} if fits else None

    def doubled(self, parts: Parts) -> Tensor:
        found = parts.get("")
        if found is None or found.dtype != torch.float16:
            raise ValueError(f"{KEY}: a coded tensor is missing or no float16")
        return found.float()


@final
@dataclass(frozen=True)
class Right(Halving):
    """Breaks nothing."""

    def decode(self, message: Knowledge, base: Knowledge | None, max_bytes: int) -> Knowledge:
        def whole(parts: Parts, form: Any) -> Tensor:
            found = self.doubled(parts)
            if found.shape != form.shape or form.dtype != torch.float32:
                raise ValueError(f"{KEY}: the header says {form.shape}, the tensor is {tuple(found.shape)}")
            return found

        return join(message, KEY, ("",), whole, max_bytes)


@final
@dataclass(frozen=True)
class Counting(Halving):
    """Counts its messages."""

    seen: list[int] = field(default_factory=list)

    def encode(self, knowledge: Knowledge, base: Knowledge | None) -> Knowledge:
        self.seen.append(knowledge.raw_bytes)
        return super().encode(knowledge, base)


@final
@dataclass(frozen=True)
class Renaming(Halving):
    """Gives everything back as weights."""

    def decode(self, message: Knowledge, base: Knowledge | None, max_bytes: int) -> Knowledge:
        got = super().decode(message, base, max_bytes)
        return replace(got, spaces=dict.fromkeys(got.tensors, "weights"))


@final
@dataclass(frozen=True)
class InPlace(Halving):
    """Rounds what it is given."""

    def encode(self, knowledge: Knowledge, base: Knowledge | None) -> Knowledge:
        for tensor in knowledge.tensors.values():
            if tensor.is_floating_point():
                tensor.mul_(64).round_().div_(64)
        return super().encode(knowledge, base)


@final
@dataclass(frozen=True)
class Boasting(Halving):
    """Says that it loses nothing."""

    lossless: ClassVar[bool] = True


@final
@dataclass(frozen=True)
class RoundsAll(Codec):
    """Rounds all that it is given, counters and what is not finite too; its header is always there."""

    def encode(self, knowledge: Knowledge, base: Knowledge | None) -> Knowledge:
        tensors = {name: tensor.double().nan_to_num().sub(0.4).to(tensor.dtype) for name, tensor in knowledge.tensors.items()}
        return replace(knowledge, tensors=tensors)

    def decode(self, message: Knowledge, base: Knowledge | None, max_bytes: int) -> Knowledge:
        return message


@final
@dataclass(frozen=True)
class Baseless(Codec):
    """Sends the difference to the base of its own, not to the one that it is given."""

    needs_base: ClassVar[bool] = True

    def encode(self, knowledge: Knowledge, base: Knowledge | None) -> Knowledge:
        return knowledge.with_header(based=1) if base is not None else knowledge

    def decode(self, message: Knowledge, base: Knowledge | None, max_bytes: int) -> Knowledge:
        return message


@final
@dataclass(frozen=True)
class Trusting(Halving):
    """Makes whatever the header claims."""

    def decode(self, message: Knowledge, base: Knowledge | None, max_bytes: int) -> Knowledge:
        forms, header = read_note(message, KEY, 1 << 26)
        tensors = {name: torch.zeros(form.shape, dtype=form.dtype) for name, form in forms.items()}
        return Knowledge({**message.tensors, **tensors}, dict(message.spaces), header)


CASES: list[tuple[str, Codec, float | None, str]] = [
    ("is_final_and_holds_no_state", Counting(), None, "after some messages"),
    ("is_final_and_holds_no_state", Halving(), None, "a final class"),
    ("all_but_the_values_comes_back", Renaming(), None, "decode: names, order, shapes, dtypes and spaces"),
    ("all_but_the_values_comes_back", InPlace(), None, "what is encoded to stay as it was"),
    ("gives_back_every_bit_if_it_says_so", Boasting(), None, "expected every bit"),
    ("stays_within_its_error", Right(), 1e-6, "expected an error of at most 1e-06"),
    ("leaves_integers_and_what_is_not_finite_alone", RoundsAll(), None, "it to pass untouched"),
    ("distributions_stay_so", RoundsAll(), None, "expected distributions"),
    ("both_ends_keep_the_same_base", Baseless(), None, "message 2 of 6"),
    ("answers_any_message_within_its_bound", Trusting(), None, "65536 bytes"),
    ("answers_any_message_within_its_bound", Halving(), None, "RuntimeError"),
]


@pytest.mark.slow
def test_a_right_codec_passes() -> None:
    check_codec(Right(), error=1e-3)
    check_codec("delta", error=0.0)


@pytest.mark.parametrize(("name", "codec", "error", "said"), CASES)
def test_a_wrong_codec_is_found_in_one_line(name: str, codec: Codec, error: float | None, said: str) -> None:
    checks = {check.__name__: check for check in codec_checks(codec, error=error)}
    with pytest.raises(AssertionError, match=re.escape(said)) as found:
        checks[name]()
    assert "\n" not in str(found.value)


def test_every_check_has_a_codec_that_it_finds() -> None:
    assert {check.__name__ for check in codec_checks("int8")} == {name for name, _, _, _ in CASES}


def test_what_is_no_codec_is_named() -> None:
    with pytest.raises(InputError, match="check_codec takes a Codec or the name of one; got 3"):
        codec_checks(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="unknown codec 'int9'"):
        codec_checks("int9")
