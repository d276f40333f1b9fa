"""Names of codecs, plain and with a number; bad ones are one clear line."""

from __future__ import annotations

import pytest

from fedkd import InputError
from fedkd.knowledge.codecs import CODECS, chain
from fedkd.knowledge.codecs.hard_labels import HardLabels
from fedkd.knowledge.codecs.soft_labels import SoftLabels
from fedkd.knowledge.codecs.svd import Svd
from fedkd.knowledge.codecs.top import Top


def test_names_with_a_number_make_codecs() -> None:
    made = chain(["top8", "bits1", "bits4", "svd98", "int8", "delta", "deflate"])
    assert made[:4] == (Top(8), HardLabels(), SoftLabels(4), Svd(98))
    assert made[4:] == (CODECS["int8"], CODECS["delta"], CODECS["deflate"])
    assert chain(["svd"]) == chain(["svd95"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flaot16", "downlink: unknown codec 'flaot16': did you mean 'float16'?"),
        ("bit4", "downlink: unknown codec 'bit4': did you mean 'bits4'?"),
        ("bits", "downlink: unknown codec 'bits': did you mean 'bits8'?"),
        ("float17", "downlink: unknown codec 'float17': did you mean 'float16'?"),
        ("top-3", "downlink: unknown codec 'top-3': did you mean 'top3'?"),
        ("top0", "downlink: 'top0': top takes the number of classes to keep, 1 or more"),
        ("bits0", "downlink: 'bits0': bits takes 1 to 16, or 32 for no quantisation"),
        ("bits17", "downlink: 'bits17': bits takes 1 to 16, or 32 for no quantisation"),
        ("svd0", "downlink: 'svd0': svd takes the energy to keep in percent, 1 to 99"),
        ("svd100", "downlink: 'svd100': svd takes the energy to keep in percent, 1 to 99"),
    ],
)
def test_a_bad_name_is_one_clear_line(name: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        chain(["float16", name], "downlink")
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["", "top" + "9" * 5000, "zzz", "top٣"])
def test_any_text_is_answered_in_one_line(name: str) -> None:
    with pytest.raises(InputError, match="uplink: unknown codec"):
        chain([name])


@pytest.mark.parametrize("names", [["delta", "float16", "delta"], ["svd", "svd95"]])
def test_a_codec_stands_in_a_chain_once(names: list[str]) -> None:
    with pytest.raises(InputError, match=f"uplink: codec '{names[0]}' stands in the chain twice"):
        chain(names)
