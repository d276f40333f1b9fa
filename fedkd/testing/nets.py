"""What every net owes, of the zoo or a user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.base.errors import InputError
from fedkd.base.inputs import Inputs, Shape, rows
from fedkd.base.randomness import seeded
from fedkd.nets import Encoder, are_probabilities, changed, copied, unsaved_state
from fedkd.nets.encoder import cut_in_two
from fedkd.nets.outputs import called
from fedkd.nets.user_net import name_of
from fedkd.testing.check import Check, checks_of
from fedkd.testing.net_kind import SAMPLES, Kind


def check_net(
    net: str | Callable[..., nn.Module],
    *,
    shape: Shape = (1, 8, 8),
    classes: int = 10,
    vocabulary: int = 0,
    **options: Any,
) -> None:
    """Hold a net against all that clients and the server rely on.

    Args:
        net: its name, ``"my_module:net"``, or a function ``(shape, classes, **options)`` that makes it.
        shape: of a sample: (C, H, W) of an image, (F,) of a vector, (L, F) of a signal, (L,) of tokens, or shapes by name.
        classes: how many.
        vocabulary: of tokens: how many ids there are.
        options: the net's own, as in ``net_options``.

    Raises:
        AssertionError: the first promise that is not kept, in one line.
    """
    for check in net_checks(net, shape=shape, classes=classes, vocabulary=vocabulary, **options):
        check()


def net_checks(
    net: str | Callable[..., nn.Module],
    *,
    shape: Shape = (1, 8, 8),
    classes: int = 10,
    vocabulary: int = 0,
    **options: Any,
) -> list[Check]:
    """The checks of ``check_net``, one by one, for ``pytest.mark.parametrize``."""
    return checks_of(net if isinstance(net, str) else name_of(net), CHECKS, Kind(net, shape, classes, options, vocabulary))


def _tensors(inputs: Inputs) -> list[Tensor]:
    return list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]


def gives_finite_logits_of_any_batch(kind: Kind) -> None:
    """(B, ...) -> (B, classes), in train and in eval mode, of one sample too in eval mode."""
    for count, training in ((SAMPLES, True), (SAMPLES, False), (1, False)):
        setting = f"{count} samples in {'train' if training else 'eval'} mode"
        with seeded(0):
            logits = kind.net().train(training)(kind.inputs(count))
        if logits.shape != (count, kind.classes):
            kind.fail(str(tuple(logits.shape)), expected=f"logits ({count}, {kind.classes})", setting=setting, look="forward")
        if not logits.isfinite().all():
            kind.fail("inf or nan", expected="finite logits before any training", setting=setting, look="how weights are drawn")


def gives_logits_and_no_probabilities(kind: Kind) -> None:
    """Losses take the softmax themselves; twice taken it flattens everything."""
    if are_probabilities(kind.net().eval()(kind.inputs())):
        kind.fail("rows that sum to one", expected="logits", look="its last layer: leave the softmax away")


def judges_each_sample_alone_in_eval_mode(kind: Kind) -> None:
    """In eval mode nothing is drawn, and no sample depends on the others of its batch."""
    net, inputs = kind.net().eval(), kind.inputs()
    with torch.no_grad():
        once, again, alone = net(inputs), net(inputs), net(rows(inputs, slice(1)))
    if not torch.equal(once, again):
        kind.fail("others", expected="the same logits twice in eval mode", look="dropout and draws: ask self.training")
    if not torch.allclose(once[:1], alone, rtol=1e-3, atol=1e-4):
        kind.fail("others", expected="a sample's logits, whatever its batch", look="statistics over the batch in eval mode")


def leaves_its_samples_as_they_were(kind: Kind) -> None:
    """The same batch may be given to another net."""
    inputs = kind.inputs()
    kind.net()(inputs)
    if any(not torch.equal(one, other) for one, other in zip(_tensors(inputs), _tensors(kind.inputs()), strict=True)):
        kind.fail("others", expected="the samples to stay as they were", look="in-place operations on the input")


def weights_are_drawn_from_the_seed(kind: Kind) -> None:
    """Equal seeds, equal weights; other seeds, others; further heads change no weight; no two nets share a tensor."""
    first, same, other = kind.net(), kind.net(), kind.net(seed=1)
    look = "how weights are drawn: torch's own functions are seeded, generators of one's own are not"
    if any(not torch.equal(tensor, same.state_dict()[name]) for name, tensor in first.state_dict().items()):
        kind.fail("others", expected="equal weights from equal seeds", look=look)
    if all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in first.state_dict().items()):
        kind.fail("the same", expected="other weights from another seed", look=look)
    if shared := {id(tensor) for tensor in first.parameters()} & {id(tensor) for tensor in same.parameters()}:
        kind.fail(f"{len(shared)} tensors of both", expected="two nets of two calls", look="its function: make a new module")
    if isinstance(first.encoder, Encoder):
        more = kind.net(heads=("classifier", "projection")).state_dict()
        if any(not torch.equal(tensor, more[name]) for name, tensor in first.state_dict().items()):
            kind.fail("others", expected="the same weights with a further head", look=look)


def its_state_dict_is_all_of_it(kind: Kind) -> None:
    """Nets are sent, kept and restored by their state dict: what it lacks is lost on the way."""
    net, fresh, inputs = kind.net().train(), kind.net(seed=1), kind.inputs()
    before = unsaved_state(net)
    with seeded(0), torch.no_grad():
        net(inputs)
        if lost := changed(before, unsaved_state(net)):
            look = f"{lost[0]}: keep it in a persistent buffer (register_buffer)"
            kind.fail(f"{lost[0]}, which moves", expected="all that a pass changes in the state dict", look=look)
        fresh.load_state_dict(net.whole_state())
        if not torch.allclose(net.eval()(inputs), fresh.eval()(inputs), rtol=1e-4, atol=1e-5):
            look = "attributes that are drawn or counted: keep them in buffers"
            kind.fail("others", expected="a net with the same state dict to give the same logits", look=look)
        if not torch.equal(copied(net)(inputs), net(inputs)):
            kind.fail("others", expected="a copy to give the same logits", look="what deepcopy makes of its attributes")


def every_weight_learns(kind: Kind) -> None:
    """Each trainable parameter gets a finite gradient, and some steps on a batch lower its loss."""
    net, inputs = kind.net().train(), kind.inputs()
    labels = torch.arange(SAMPLES) % kind.classes
    trained = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
    if not trained:
        kind.fail("none", expected="a weight that can be trained", look="requires_grad")
    optimizer = torch.optim.SGD(trained.values(), lr=0.05)
    losses = []
    with seeded(0):
        for step in range(20):
            loss = F.cross_entropy(net(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            losses.append(loss.item())
            for name, parameter in trained.items() if step == 0 else ():
                if parameter.grad is None or not parameter.grad.isfinite().all():
                    found = "none" if parameter.grad is None else "inf or nan"
                    kind.fail(found, expected=f"a gradient of {name}", look=f"{name}: use it in forward, or freeze it")
            optimizer.step()
    if not min(losses[-5:]) < losses[0]:
        look = "detach, argmax and no_grad on the way from weights to logits"
        kind.fail(f"{losses[-1]:.3f}", expected=f"a loss below {losses[0]:.3f} after 20 steps on a batch", look=look)


def maps_and_features_are_those_of_a_plain_pass(kind: Kind) -> None:
    """``outputs`` gives the very logits and features; maps are those before their ReLU."""
    net, inputs = kind.net().eval(), kind.inputs()
    if not net.has_features:
        return  # it gives logits only
    outputs = net.outputs(inputs)
    if not (torch.equal(outputs.logits, net(inputs)) and torch.equal(outputs.features, net.features(inputs))):  # type: ignore[arg-type]
        kind.fail("others", expected="stages() to give the features of forward()", look="stages")
    if [held.shape[-1] for held in outputs.maps] != sorted((held.shape[-1] for held in outputs.maps), reverse=True):
        kind.fail("others", expected="maps in the order in which the net makes them, large ones first", look="stages")
    for before, after in zip(outputs.maps, outputs.activated, strict=True):
        if not ((before < 0).any() and torch.equal(after, before.clamp_min(0))):
            kind.fail("none below 0", expected="maps from before their ReLU", look="stages: in-place ReLU writes into them")


def trunk_then_tail_is_the_whole_net(kind: Kind) -> None:
    """Of an encoder that can be cut, at each level: bit for bit, in either mode, each weight in one half, nothing written."""
    cuts = getattr(kind.net().encoder, "cuts", 0)
    for training, level in product((True, False), range(cuts + 1)):
        encoder = kind.net().encoder.train(training)
        if not isinstance(encoder, Encoder):
            return
        try:
            trunk, tail = cut_in_two(encoder, level)
        except InputError:
            return  # it cannot be cut, and says so
        inputs = kind.net().laid_out(kind.inputs())
        with seeded(0):
            expected = called(copied(encoder), inputs)
        with seeded(0):
            held = called(trunk, inputs)
            before = held.clone()
            found = tail(held)
        if not torch.equal(found, expected) or not torch.equal(held, before):
            kind.fail("others", expected="tail(trunk(inputs)) to be the features, bit for bit", look="cut")
        parts = [id(tensor) for half in (trunk, tail) for tensor in (*half.parameters(), *half.buffers())]
        if sorted(parts) != sorted({id(tensor) for tensor in (*encoder.parameters(), *encoder.buffers())}):
            kind.fail("others", expected="each weight in one half of the two", look="cut")


CHECKS = (
    gives_finite_logits_of_any_batch,
    gives_logits_and_no_probabilities,
    judges_each_sample_alone_in_eval_mode,
    leaves_its_samples_as_they_were,
    weights_are_drawn_from_the_seed,
    its_state_dict_is_all_of_it,
    every_weight_learns,
    maps_and_features_are_those_of_a_plain_pass,
    trunk_then_tail_is_the_whole_net,
)
