"""Decoding is total: whatever a message says, the answer is Knowledge within the bound, or a ValueError of one line."""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import NAMES, knowledge, one, tensors

from fedkd import Knowledge
from fedkd.knowledge.codecs import chain, decode, encode
from fedkd.testing.hostile_messages import BOUND
from fedkd.testing.hostile_messages import answers as held
from fedkd.testing.messages import table

MANY = settings(max_examples=50, deadline=None)
#: One name of each kind of codec, but for the one that notes nothing.
CODED = list({type(one(name)): name for name in NAMES if name != "bits32"}.values())


def sample(name: str) -> tuple[Knowledge, Knowledge]:
    """A base, and a message of this codec that is coded against it."""
    weights = torch.outer(torch.arange(1.0, 21), torch.arange(1.0, 13))
    wide = table(20, 40)
    wide[3] = 0
    base = Knowledge(
        {"w": weights, "p": wide, "z": wide.clone(), "n": torch.tensor(3), "b": torch.tensor([True, False])},
        {"w": "weights", "p": "probabilities", "z": "logits", "n": "counts", "b": "weights"},
    )
    return base, one(name).encode(base, base)


def answers(name: str, message: Knowledge, base: Knowledge | None) -> None:
    """Decode, and hold that the answer is one of the two allowed."""
    held(one(name), message, base, "drawn")


def note_of(name: str) -> tuple[str, str]:
    """The key and the text of a codec's note."""
    ((key, note),) = sample(name)[1].header.items()
    return key, str(note)


@pytest.mark.slow
@pytest.mark.parametrize("name", CODED)
@MANY
@given(data=st.data())
def test_damaged_notes(name: str, data: st.DataObject) -> None:
    base, message = sample(name)
    key, note = note_of(name)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(note)))
        end = data.draw(st.integers(start, min(len(note), start + 6)))
        words = st.sampled_from(["\t", "\n", ",", "0", "-1", "9" * 18, "9" * 30, "float64", "bool", "int8", "coded", "é", "²"])
        note = note[:start] + data.draw(words | st.text(max_size=4)) + note[end:]
    answers(name, replace(message, header={key: note}), data.draw(st.sampled_from([base, None])))


@pytest.mark.slow
@pytest.mark.parametrize("name", CODED)
@MANY
@given(data=st.data())
def test_notes_that_claim_other_forms(name: str, data: st.DataObject) -> None:
    """Well-formed notes of false content: forms swapped among tensors, sides and dtypes changed."""
    base, message = sample(name)
    key, note = note_of(name)
    lines = [line.split("\t") for line in note.split("\n")]
    sides = st.lists(st.sampled_from(["0", "1", "2", "12", "20", "40", "240", "65536", "9" * 17]), max_size=5).map(",".join)
    changes = {
        0: st.sampled_from(["w", "p", "z", "n", "b", "w/u", "w/scale", "p/classes", "deflate", ""]),
        1: st.sampled_from(["float64", "float32", "float16", "bfloat16", "int64", "uint8", "bool"]),
        2: sides,
        3: st.sampled_from(["weights", "logits", "probabilities", "labels", "coded"]),
    }
    for _ in range(data.draw(st.integers(1, 3))):
        column = data.draw(st.sampled_from(sorted(changes)))
        data.draw(st.sampled_from(lines))[column] = data.draw(changes[column])
    answers(name, replace(message, header={key: "\n".join(map("\t".join, lines))}), data.draw(st.sampled_from([base, None])))


@pytest.mark.slow
@pytest.mark.parametrize("name", CODED)
@MANY
@given(data=st.data())
def test_damaged_tensors(name: str, data: st.DataObject) -> None:
    """One tensor is missing, renamed, cut, reshaped, of another dtype, or any other tensor, with the note as it was."""
    base, message = sample(name)
    held, spaces = dict(message.tensors), dict(message.spaces)
    victim = data.draw(st.sampled_from(sorted(held)))
    tensor, flat = held[victim], held[victim].reshape(-1)
    ways = {
        "missing": lambda: None,
        "renamed": lambda: None,
        "cut": lambda: flat[: data.draw(st.integers(0, flat.numel()))],
        "flat": lambda: flat,
        "scalar": lambda: flat[0],
        "transposed": lambda: tensor.reshape(tensor.shape[0], -1).t() if tensor.ndim else tensor,
        "cast": lambda: tensor.to(
            data.draw(st.sampled_from([torch.float64, torch.float32, torch.int8, torch.uint8, torch.bool]))
        ),
        "bits": lambda: torch.randint(0, 256, tensor.shape, generator=torch.Generator().manual_seed(0)).to(tensor.dtype),
        "other": lambda: data.draw(tensors())[1],
    }
    way = data.draw(st.sampled_from(sorted(ways)))
    changed = ways[way]()
    if changed is None:
        space = spaces.pop(victim)
        left = held.pop(victim)
        if way == "renamed":
            new = data.draw(st.sampled_from(["w", "p", "w/u", "deflate", "", "new"]))
            held[new], spaces[new] = left, space
    else:
        held[victim] = changed
    answers(name, replace(message, tensors=held, spaces=spaces), base)


@pytest.mark.slow
@pytest.mark.parametrize("name", CODED)
@MANY
@given(
    message=knowledge(), base=st.none() | knowledge(), note=st.text(max_size=60) | st.integers() | st.floats() | st.just([1])
)
def test_any_tensors_under_any_note(name: str, message: Knowledge, base: Knowledge | None, note: object) -> None:
    answers(name, message.with_header(**{note_of(name)[0]: note}), base)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CODED)
@pytest.mark.parametrize("shape", ["1000000,1000000", f"0,{'9' * 18}", ",".join(["9" * 18] * 60), ",".join("1" * 99)])
def test_claimed_shapes_are_held_against_the_bound_before_they_are_made(name: str, shape: str) -> None:
    base, message = sample(name)
    key, note = note_of(name)
    first, *_ = note.split("\n")
    label, dtype, _, space = first.split("\t")
    with pytest.raises(ValueError, match=r"more bytes than the|more than 64 axes"):
        decode(chain([name]), replace(message, header={key: f"{label}\t{dtype}\t{shape}\t{space}"}), {0: base})


@pytest.mark.slow
def test_a_stream_that_grows_beyond_what_it_announces_is_cut_off() -> None:
    bomb = zlib.compress(bytes(50_000_000))
    stream = torch.frombuffer(bytearray(bomb), dtype=torch.uint8)
    for announced in (0, 8, 16_000):
        header = {"codec.deflate": f"w\tfloat32\t{announced}\tweights"}
        with pytest.raises(ValueError, match=f"does not hold the {4 * announced} bytes"):
            decode(chain(["deflate"]), Knowledge.of("coded", {"deflate": stream}, header=header), {}, max_bytes=BOUND)


def test_what_a_chain_of_casts_grows_to_is_bounded_step_by_step() -> None:
    sent = Knowledge.of("weights", {"w": torch.ones(1000)})
    codecs = chain(["float16", "deflate"])
    message, _ = encode(codecs, sent, {})
    assert decode(codecs, message, {}, max_bytes=4000)[0].raw_bytes == 4000
    with pytest.raises(ValueError, match="more bytes than the 3999 allowed"):
        decode(codecs, message, {}, max_bytes=3999)


def test_a_difference_without_its_base_is_refused() -> None:
    base, message = sample("delta")
    with pytest.raises(ValueError, match="the base does not have"):
        decode(chain(["delta"]), message, {})
    with pytest.raises(ValueError, match="the base does not have"):
        decode(chain(["delta"]), message, {0: replace(base, tensors={n: t.double() for n, t in base.tensors.items()})})
