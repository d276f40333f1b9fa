"""Messages that no codec of ours sends, and what may be answered to them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fedkd.knowledge.codecs import Codec
from fedkd.knowledge.knowledge import Knowledge
from fedkd.testing.check import fail

#: How many bytes an answer may have.
BOUND = 1 << 16
#: What a hostile header may say in place of a word.
WORDS = ("", "\t", "\n", ",", "0", "-1", "9" * 18, "9" * 30, "65536", "float64", "bool", "coded", "é", "²")


def damaged(coded: Knowledge) -> Iterator[tuple[str, Knowledge]]:
    """Messages that no codec of ours sends: words of the header replaced, tensors missing, renamed, cut, cast."""
    for key, note in coded.header.items():
        for value in (0, -1.5, "", "no note"):
            yield f"header {key} = {value!r}", coded.with_header(**{key: value})
        words = list(re.finditer(r"[^\s,]+|[\s,]", str(note)))
        for place in words[:24]:
            for word in WORDS:
                text = str(note)[: place.start()] + word + str(note)[place.end() :]
                yield f"header {key} with {place[0]!r} replaced by {word!r}", coded.with_header(**{key: text})
        yield f"header {key} claims sides of a million", coded.with_header(**{key: re.sub(r"\d+", "1000000", str(note))})
    for name, tensor in coded.tensors.items():
        rest = {other: held for other, held in coded.tensors.items() if other != name}
        flat = tensor.reshape(-1)
        ways: dict[str, dict[str, Tensor]] = {
            "missing": {},
            "renamed": {f"{name}?": tensor},
            "cut": {name: flat[: len(flat) // 2]},
            "empty": {name: flat[:0]},
            "flat": {name: flat},
            "cast": {name: tensor.to(torch.float64 if tensor.dtype != torch.float64 else torch.int8)},
            "noise": {name: torch.full_like(tensor, 100 if tensor.dtype != torch.bool else 1)},
        }
        for way, held in ways.items():
            spaces = {other: coded.spaces.get(other, coded.spaces[name]) for other in (*rest, *held)}
            yield f"tensor {name} {way}", replace(coded, tensors={**rest, **held}, spaces=spaces)


def answers(codec: Codec, hostile: Knowledge, base: Knowledge | None, setting: str) -> None:
    """One message from anybody: Knowledge within the bound, or a ValueError of one line."""
    report = partial(fail, expected=f"Knowledge of at most {BOUND} bytes, or a ValueError of one line", setting=setting)
    look = "decode: hold what the message claims against max_bytes before anything is made"
    try:
        got = codec.decode(hostile, base, BOUND)
    except ValueError as error:
        if type(error) is not ValueError or "\n" in str(error) or len(str(error)) >= 500:
            report(f"{type(error).__name__} of {len(str(error))} characters", look="what decode raises")
    except Exception as error:  # whatever a codec raises in its place
        report(f"{type(error).__name__}: {error}", look="decode: check names, shapes and dtypes before they are used")
    else:
        if got.raw_bytes > BOUND + hostile.raw_bytes:  # what is passed on as it came has its memory already
            report(f"{got.raw_bytes} bytes", look=look)
        for name, tensor in got.tensors.items():
            if tensor.dtype == torch.bool and not set(tensor.view(torch.uint8).flatten().tolist()) <= {0, 1}:
                report(f"{name} with a bool that is neither 0 nor 1", look=look)
            tensor.clone().double().sum()
