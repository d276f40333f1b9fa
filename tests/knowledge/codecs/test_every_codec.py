"""What every codec owes, whichever file it is in: a new name in the registry is tested here without an edit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import LOSSLESS, NAMES, knowledge, one

from fedkd import Knowledge
from fedkd.knowledge.codecs import chain
from fedkd.testing.check import checks_of
from fedkd.testing.codecs import CHECKS, Coding, agrees_over_rounds, comes_back, keeps_bits
from fedkd.testing.messages import table

FEW = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("check", CHECKS)
def test_keeps_what_fedkd_testing_checks(name: str, check: Callable[[Coding], None]) -> None:
    for bound in checks_of(name, (check,), Coding(one(name))):
        bound()


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(sent=knowledge())
def test_all_but_the_values_comes_back_from_a_message_that_is_no_larger(name: str, sent: Knowledge) -> None:
    comes_back(Coding(one(name)), sent, "drawn")
    assert one(name).encode(sent, None).raw_bytes <= sent.raw_bytes or name == "deflate"


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSLESS)
@FEW
@given(sent=knowledge(), base=st.none() | knowledge())
def test_a_lossless_codec_gives_back_every_bit(name: str, sent: Knowledge, base: Knowledge | None) -> None:
    keeps_bits(Coding(one(name)), sent, base, "drawn")


@pytest.mark.slow
@FEW
@given(
    names=st.lists(st.sampled_from(NAMES), max_size=5, unique_by=one),
    messages=st.lists(knowledge(), min_size=3, max_size=3),
    unchanged=st.booleans(),
)
def test_any_chain_keeps_both_ends_alike_over_rounds(names: list[str], messages: list[Knowledge], unchanged: bool) -> None:
    agrees_over_rounds(chain(names), [*messages, messages[-1]] if unchanged else messages)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("svd")])  # an svd cuts each time
@pytest.mark.parametrize("space", ["logits", "probabilities"])
def test_coding_what_was_coded_loses_no_more(name: str, space: str) -> None:
    sent = Knowledge.of(space, {"t": table(50, 10)})
    once = one(name).decode(one(name).encode(sent, None), None, 1 << 20)
    twice = one(name).decode(one(name).encode(once, None), None, 1 << 20)
    assert torch.allclose(once.tensors["t"], twice.tensors["t"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_codec(name: str) -> None:
    assert one(name) == one(name)
