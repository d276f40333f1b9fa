"""What every codec owes, whichever file it is in: a new name in the registry is tested here without an edit."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import INTEGERS, LOSSLESS, NAMES, forms, knowledge, one, same_bits, table

import fedkd.knowledge.codecs
import fedkd.knowledge.codecs.lowrank
from fedkd import Knowledge
from fedkd.knowledge.codecs import Codec, chain, decode, encode
from fedkd.knowledge.records import from_records, to_records

FEW = settings(max_examples=25, deadline=None)
MODULES = [
    fedkd.knowledge.codecs.lowrank,
    *(
        importlib.import_module(f"fedkd.knowledge.codecs.{m.name}")
        for m in pkgutil.iter_modules(fedkd.knowledge.codecs.__path__)
    ),
]


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(sent=knowledge())
def test_all_but_the_values_comes_back_from_a_message_that_is_no_larger(name: str, sent: Knowledge) -> None:
    message, _ = encode(chain([name]), sent, {})
    assert message.raw_bytes <= sent.raw_bytes or name == "deflate"
    got, _ = decode(chain([name]), from_records(to_records(message)), {})
    assert forms(got) == forms(sent)
    assert (dict(got.header), got.weight, dict(got.metrics)) == (dict(sent.header), sent.weight, dict(sent.metrics))


@pytest.mark.parametrize("name", LOSSLESS)
@FEW
@given(sent=knowledge(), base=st.none() | knowledge())
def test_a_lossless_codec_gives_back_every_bit(name: str, sent: Knowledge, base: Knowledge | None) -> None:
    got = one(name).decode(one(name).encode(sent, base), base, 1 << 20)
    assert all(same_bits(got.tensors[n], t) for n, t in sent.tensors.items())


@FEW
@given(
    names=st.lists(st.sampled_from(NAMES), max_size=5, unique_by=one),
    messages=st.lists(knowledge(), min_size=3, max_size=3),
    unchanged=st.booleans(),
)
def test_any_chain_keeps_both_ends_alike_over_rounds(names: list[str], messages: list[Knowledge], unchanged: bool) -> None:
    """Each message is coded against what the one before left behind; whatever loses digits, and where, the bases agree."""
    codecs, mine, theirs = chain(names), {}, {}
    for sent in [*messages, messages[-1]] if unchanged else messages:
        message, mine_next = encode(codecs, sent, mine)
        got, theirs_next = decode(codecs, from_records(to_records(message)), theirs)
        assert forms(got) == forms(sent)
        assert dict(got.header) == dict(sent.header)
        assert mine_next.keys() == theirs_next.keys() == {i for i, codec in enumerate(codecs) if codec.needs_base}
        for position, base in theirs_next.items():
            assert forms(base) == forms(mine_next[position])
            assert all(same_bits(base.tensors[n], t) for n, t in mine_next[position].tensors.items())
        # What a memory gives back: the tensors, not their spaces.
        mine = {position: Knowledge.of("coded", base.tensors) for position, base in mine_next.items()}
        theirs = theirs_next


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LOSSLESS])
def test_integers_and_what_is_not_finite_pass_untouched(name: str) -> None:
    integers = {str(dtype): torch.ones(6, 10).to(dtype) for dtype in INTEGERS}
    for space in ("weights", "logits", "probabilities", "embedding", "counts"):
        for bad in (float("nan"), float("inf")):
            sent = Knowledge.of(space, {**integers, "bad": torch.full((6, 10), bad)})
            message = one(name).encode(sent, None)
            assert dict(message.header) == {}
            assert all(same_bits(message.tensors[n], t) for n, t in sent.tensors.items())


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_stay_distributions_and_empty_rows_stay_empty(name: str) -> None:
    """A server refuses an upload whose rows are no distributions."""
    probabilities = table(50, 10)
    probabilities[7] = 0
    sent = Knowledge.of("probabilities", {"p": probabilities})
    got = one(name).decode(one(name).encode(sent, None), None, 1 << 20).tensors["p"]
    assert got.min() >= 0
    assert torch.allclose(got.sum(1), (torch.arange(50) != 7).float(), atol=5e-3)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("svd")])  # an svd cuts each time
@pytest.mark.parametrize("space", ["logits", "probabilities"])
def test_coding_what_was_coded_loses_no_more(name: str, space: str) -> None:
    sent = Knowledge.of(space, {"t": table(50, 10)})
    once = one(name).decode(one(name).encode(sent, None), None, 1 << 20)
    twice = one(name).decode(one(name).encode(once, None), None, 1 << 20)
    assert torch.allclose(once.tensors["t"], twice.tensors["t"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_codec_is_final_holds_no_state_and_is_one_of_its_kind(name: str) -> None:
    kind = type(one(name))
    assert issubclass(kind, Codec) and getattr(kind, "__final__", False)
    assert one(name) == one(name)
    with pytest.raises(AttributeError):
        one(name).state = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples_in_docstrings_run(module: object) -> None:
    assert inspect.ismodule(module)
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0
