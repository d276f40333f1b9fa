"""What every codec owes, of the registry or a user's own: a message that comes back, whoever sent it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from fedkd.base.errors import InputError
from fedkd.knowledge.codecs import Codec, chain, decode, encode
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.records import from_records, to_records
from fedkd.testing.check import Check, checks_of, fail
from fedkd.testing.hostile_messages import answers, damaged
from fedkd.testing.messages import INTEGERS, floating, forms, message, same_bits, table
from fedkd.testing.watch import digest

SEEDS = range(40)


@final
@dataclass(frozen=True)
class Coding:
    """A codec that is checked."""

    codec: Codec
    error: float | None = None

    def there_and_back(self, sent: Knowledge, base: Knowledge | None = None) -> Knowledge:
        """What comes back of a message by way of Flower's records."""
        coded = from_records(to_records(self.codec.encode(sent, base)))
        return self.codec.decode(coded, base, 1 << 31)


def check_codec(codec: str | Codec, *, error: float | None = None) -> None:
    """Hold a codec against all that both ends of a link rely on.

    Args:
        codec: a codec, or the name of one, as in ``uplink``.
        error: how far a matrix of normal numbers may be from itself after the way there and back, by Frobenius norm relative to
            its own; None: so far as it likes.

    Raises:
        AssertionError: the first promise that is not kept, in one line.
    """
    for check in codec_checks(codec, error=error):
        check()


def codec_checks(codec: str | Codec, *, error: float | None = None) -> list[Check]:
    """The checks of ``check_codec``, one by one, for ``pytest.mark.parametrize``."""
    made = chain([codec])[0] if isinstance(codec, str) else codec
    if not isinstance(made, Codec):
        raise InputError(f"check_codec takes a Codec or the name of one; got {codec!r}")
    return checks_of(codec if isinstance(codec, str) else type(codec).__name__, CHECKS, Coding(made, error))


def is_final_and_holds_no_state(coding: Coding) -> None:
    """What it remembers is the base that it is given: one codec serves all clients."""
    codec, look = coding.codec, "its class: @final @dataclass(frozen=True)"
    if not getattr(type(codec), "__final__", False):
        fail("another", expected="a final class", setting="its definition", look=look)
    before = repr(sorted(vars(codec).items()))
    for seed in SEEDS[:8]:
        coding.there_and_back(message(seed))
    if repr(sorted(vars(codec).items())) != before:
        fail(repr(sorted(vars(codec).items())), expected=before, setting="after some messages", look=look)
    try:
        codec.state = 1  # type: ignore[attr-defined]
    except AttributeError:
        return
    fail("one that takes attributes", expected="a frozen codec", setting="its definition", look=look)


def all_but_the_values_comes_back(coding: Coding) -> None:
    """Names, order, shapes, dtypes, spaces, header, weight and metrics, from a message that is no larger."""
    for seed in SEEDS:
        comes_back(coding, message(seed), f"message {seed}")


def comes_back(coding: Coding, sent: Knowledge, setting: str) -> None:
    """The same of one message; a lossless codec may need a few bytes more."""
    before = digest(sent)
    coded = coding.codec.encode(sent, None)
    if digest(sent) != before:
        fail("others", expected="what is encoded to stay as it was", setting=setting, look="encode: in-place operations")
    if coded.raw_bytes > sent.raw_bytes and not coding.codec.lossless:
        expected = f"at most {sent.raw_bytes} bytes"
        fail(f"{coded.raw_bytes}", expected=expected, setting=setting, look="encode: leave whole what would grow")
    got = coding.there_and_back(sent)
    if forms(got) != forms(sent):
        look = "decode: names, order, shapes, dtypes and spaces, e.g. by fedkd.knowledge.codecs.parts"
        fail(str(forms(got)), expected=str(forms(sent)), setting=setting, look=look)
    rest = [(dict(each.header), each.weight, dict(each.metrics)) for each in (sent, got)]
    if rest[0] != rest[1]:
        look = "decode: dataclasses.replace(message, ...), without its own note"
        fail(str(rest[1]), expected=f"header, weight and metrics {rest[0]}", setting=setting, look=look)


def gives_back_every_bit_if_it_says_so(coding: Coding) -> None:
    """``lossless`` is a promise."""
    for seed in SEEDS:
        keeps_bits(coding, message(seed), message(seed + 1) if seed % 2 else None, f"message {seed}")


def keeps_bits(coding: Coding, sent: Knowledge, base: Knowledge | None, setting: str) -> None:
    """The same of one message, against a base or none."""
    if not coding.codec.lossless:
        return
    got = coding.codec.decode(coding.codec.encode(sent, base), base, 1 << 20)
    if odd := [name for name, tensor in sent.tensors.items() if not same_bits(got.tensors[name], tensor)]:
        fail(f"another {odd[0]}", expected="every bit", setting=setting, look="decode, or lossless = False")


def stays_within_its_error(coding: Coding) -> None:
    """The error that the caller of ``check_codec`` named."""
    if coding.error is None:
        return
    for seed in SEEDS[:8]:
        matrix = floating((40, 30), seed).float()
        got = coding.there_and_back(Knowledge.of("weights", {"w": matrix})).tensors["w"]
        if (found := float((got - matrix).norm() / matrix.norm())) > coding.error:
            fail(f"{found:.3g}", expected=f"an error of at most {coding.error:g}", setting="weights (40, 30)", look="encode")


def leaves_integers_and_what_is_not_finite_alone(coding: Coding) -> None:
    """Of a lossy codec: ids and counters are no numbers to round, and the guard must see what is not finite."""
    if coding.codec.lossless:
        return
    integers = {str(dtype): torch.ones(6, 10).to(dtype) for dtype in INTEGERS}
    for space in ("weights", "logits", "probabilities", "embedding", "counts"):
        for bad in (float("nan"), float("inf")):
            sent = Knowledge.of(space, {**integers, "bad": torch.full((6, 10), bad)})
            coded = coding.codec.encode(sent, None)
            if odd := [n for n, t in sent.tensors.items() if n not in coded.tensors or not same_bits(coded.tensors[n], t)]:
                look = "encode: ask tensor.is_floating_point() and isfinite()"
                fail(f"a coded {odd[0]}", expected="it to pass untouched", setting=f"{space}, {bad}", look=look)
            if dict(coded.header) != {}:
                fail(str(dict(coded.header)), expected="no note of what is not coded", setting=f"{space}, {bad}", look="encode")


def distributions_stay_so(coding: Coding) -> None:
    """A server refuses an upload whose rows are no distributions; rows of zeros say nothing and stay so."""
    probabilities = table(50, 10)
    probabilities[7] = 0
    got = coding.there_and_back(Knowledge.of("probabilities", {"p": probabilities})).tensors["p"]
    sums = (torch.arange(50) != 7).float()
    if not (got.min() >= 0 and torch.allclose(got.sum(1), sums, atol=5e-3)):
        found = f"a least value of {float(got.min()):.3g}, sums that are off by {float((got.sum(1) - sums).abs().max()):.3g}"
        look = "decode: divide rows by their sums, or leave space probabilities whole"
        fail(found, expected="distributions, and zeros where they were", setting="probabilities (50, 10)", look=look)


def both_ends_keep_the_same_base(coding: Coding) -> None:
    """Each message is coded against what the last one left behind, at either end."""
    agrees_over_rounds((coding.codec,), [message(seed) for seed in (3, 3, 5, 0, 8, 8)])


def agrees_over_rounds(codecs: tuple[Codec, ...], messages: list[Knowledge]) -> None:
    """The same of any chain and messages: whatever loses digits, and where, the bases agree."""
    mine: dict[int, Knowledge] = {}
    theirs: dict[int, Knowledge] = {}
    for number, sent in enumerate(messages):
        setting, look = f"message {number + 1} of {len(messages)}", "encode and decode: what they do with the base"
        coded, mine_next = encode(codecs, sent, mine)
        got, theirs_next = decode(codecs, from_records(to_records(coded)), theirs)
        if forms(got) != forms(sent) or dict(got.header) != dict(sent.header):
            fail(
                f"{forms(got)}, {dict(got.header)}", expected=f"{forms(sent)}, {dict(sent.header)}", setting=setting, look=look
            )
        if mine_next.keys() != theirs_next.keys() or mine_next.keys() != {i for i, c in enumerate(codecs) if c.needs_base}:
            fail(f"{[*mine_next]}, {[*theirs_next]}", expected="a base for each that needs one", setting=setting, look=look)
        for position, base in theirs_next.items():
            same = forms(base) == forms(mine_next[position])
            if not same or not all(same_bits(base.tensors[n], t) for n, t in mine_next[position].tensors.items()):
                fail("two bases", expected="one at both ends", setting=setting, look=look)
        # What a memory gives back: the tensors, not their spaces.
        mine = {position: Knowledge.of("coded", base.tensors) for position, base in mine_next.items()}
        theirs = theirs_next


def answers_any_message_within_its_bound(coding: Coding) -> None:
    """Knowledge of at most ``max_bytes``, or a ValueError of one line: whatever the message says."""
    weights = torch.outer(torch.arange(1.0, 21), torch.arange(1.0, 13))
    base = Knowledge(
        {"w": weights, "p": table(20, 40), "z": table(20, 40), "n": torch.tensor(3), "b": torch.tensor([True, False])},
        {"w": "weights", "p": "probabilities", "z": "logits", "n": "counts", "b": "weights"},
    )
    for what, hostile in damaged(coding.codec.encode(base, base)):
        answers(coding.codec, hostile, base, what)
        answers(coding.codec, hostile, None, f"{what}, without a base")


CHECKS = (
    is_final_and_holds_no_state,
    all_but_the_values_comes_back,
    gives_back_every_bit_if_it_says_so,
    stays_within_its_error,
    leaves_integers_and_what_is_not_finite_alone,
    distributions_stay_so,
    both_ends_keep_the_same_base,
    answers_any_message_within_its_bound,
)
