"""The one kind of net that strategies see: an encoder and named heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from fedkd.base.errors import InputError
from fedkd.base.inputs import Inputs, count, each
from fedkd.nets.encoder import Encoder
from fedkd.nets.frozen import unchanging
from fedkd.nets.listing import Listing
from fedkd.nets.outputs import Outputs, called, logits_of
from fedkd.nets.tap import Tap, tapped


class Net(nn.Module):
    """An encoder with heads; ``build_net`` makes them.

    What its maker froze (``requires_grad = False``) stays frozen: ``requires_grad_(True)`` passes over it, optimisers get the
    rest, and a BatchNorm in it is in train mode or not as the module's own ``train()`` says. What never changes does not
    travel: the state dict leaves frozen parameters out, and the buffers of frozen parts that stay in eval mode; every node has
    them of its own. ``whole_state`` has all.

    Args:
        architecture: the name it was built by.
        encoder: an ``Encoder``, or a user's module that gives logits.
        heads: by name.
        width: D of an encoder's features, or C of a module that gives logits.
        find: of a module that gives logits: where its features are, None where it has none; asked for when they are needed.
        memory_format: how images lie in memory when they enter the encoder, and its weights too where it is no usual one;
            samples that are no images lie as they come.

    >>> from fedkd.nets import build_net
    >>> import torch
    >>> net = build_net("mlp", shape=(1, 8, 8), classes=10, heads=("classifier", "projection"))
    >>> images = torch.zeros(5, 1, 8, 8)
    >>> net(images).shape, net.head("projection", net.features(images)).shape
    (torch.Size([5, 10]), torch.Size([5, 256]))
    """

    architecture: str
    """The name it was built by; it tells which nets may exchange weights."""
    left_out: frozenset[str]
    """What its state dict leaves out, as it never changes."""

    def __init__(
        self,
        architecture: str,
        encoder: nn.Module,
        heads: Mapping[str, nn.Module],
        *,
        width: int,
        memory_format: torch.memory_format = torch.contiguous_format,
        find: Callable[[nn.Module], Tap | None] | None = None,
    ) -> None:
        super().__init__()
        self.architecture, self.width, self.memory_format = architecture, width, memory_format
        self._find = find
        self.encoder = encoder
        self.heads = nn.ModuleDict(heads)
        if memory_format != torch.contiguous_format:
            self.to(memory_format=memory_format)  # type: ignore[call-overload]
        self._frozen = frozenset(name for name, parameter in self.named_parameters() if not parameter.requires_grad)
        self.left_out = unchanging(self) if self._frozen else frozenset()

    @cached_property
    def tap(self) -> Tap | None:
        """Where a user's module has its features; None of an encoder, which gives them, and of what has none."""
        return None if isinstance(self.encoder, Encoder) or self._find is None else self._find(self.encoder)

    @property
    def has_features(self) -> bool:
        """Whether it gives features, and not logits only."""
        return isinstance(self.encoder, Encoder) or self.tap is not None

    @property
    def feature_width(self) -> int:
        """D, the width of its features; an InputError for a user's module that gives logits only."""
        self._check_features()
        return self.tap.width if self.tap else self.width

    @property
    def classifier(self) -> nn.Module:
        """The layer that makes logits of features; an InputError for a user's module that has none."""
        self._check_features()
        if self.tap and not self.tap.last:
            raise InputError(
                f"net {self.architecture!r}: what its last layer reads are not the features that {self.tap.place!r} gives, so "
                "that no logits can be made of them: leave features away in its net_options, or name another part"
            )
        return self.encoder.get_submodule(self.tap.last) if self.tap else self.heads["classifier"]

    def features(self, inputs: Inputs) -> Tensor:
        """Features (B, D) of samples (B, ...); an InputError for a user's module that gives logits only."""
        self._check_features()
        return self.encoded(inputs)

    def encoded(self, inputs: Inputs) -> Tensor:
        """What the classifier reads: features (B, D) of samples (B, ...), or the logits (B, C) of a module that has none."""
        if isinstance(self.encoder, Encoder):
            return self._checked(called(self.encoder, self.laid_out(inputs)), inputs)
        return self._logits_and_features(inputs)[1] if self.tap else self._logits(inputs)

    def outputs(self, inputs: Inputs) -> Outputs:
        """Logits, features and feature maps of samples (B, ...), in one forward pass; an InputError as for ``features``."""
        self._check_features()
        if not isinstance(self.encoder, Encoder):
            logits, features = self._logits_and_features(inputs)
            return Outputs(self._classified(logits), features)
        laid = self.laid_out(inputs)
        maps, features = self.encoder.stages(**laid) if isinstance(laid, Mapping) else self.encoder.stages(laid)
        return Outputs(self.head("classifier", self._checked(features, inputs)), features, maps)

    def head(self, name: str, inputs: Tensor) -> Tensor:
        """Output of the named head, e.g. ``net.head("projection", net.features(images))``."""
        if name not in self.heads:
            raise ValueError(f"net {self.architecture!r} was built without head {name!r}; it has {list(self.heads)}")
        if name == "classifier" and self.tap:  # the module's own last layer
            return self._classified(self._both_classes(self.classifier(inputs)))
        output: Tensor = self.heads[name](inputs)
        return output

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits (B, classes) of samples (B, ...)."""
        if isinstance(self.encoder, Encoder):
            return self.head("classifier", self.encoded(inputs))
        return self._classified(self._logits(inputs))

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """As torch has it, but what was frozen when the net was made stays frozen."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad != (wanted := requires_grad and name not in self._frozen):
                parameter.requires_grad_(wanted)
        return self

    def train(self, mode: bool = True) -> Self:
        """As torch has it, which goes through all parts again where they are in this mode."""
        listing = self._listed()
        return self if self.training == mode and listing and listing.are_in_mode(mode) else super().train(mode)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """As torch has it."""
        if not prefix and recurse and remove_duplicate and (listing := self._listed()):
            return iter(listing.parameters.items())
        return super().named_parameters(prefix, recurse, remove_duplicate)

    def state_dict(self, *arguments: Any, **named: Any) -> Any:
        """All that changes when it is trained, by name: what is sent, kept and restored."""
        whole = not arguments and named.keys() <= {"keep_vars"}
        if whole and (listing := self._listed()):
            state: dict[str, Any] = listing.state(**{"keep_vars": False, **named})
        else:
            state = super().state_dict(*arguments, **named)
        prefix = named.get("prefix", arguments[1] if len(arguments) > 1 else "")
        for name in self.left_out:
            state.pop(f"{prefix}{name}", None)
        return state

    def whole_state(self) -> dict[str, Tensor]:
        """All that it holds, by name, what never changes too."""
        return dict(super().state_dict())

    def _listed(self) -> Listing | None:
        held: Listing | None = vars(self).get("_listing")
        if held is None or not held.is_current():
            held = vars(self)["_listing"] = Listing.of(self)
        return held

    def laid_out(self, inputs: Inputs) -> Inputs:
        """Samples as the encoder takes them: images channels last in the zoo, contiguous for a user's module, as that may
        ``view``.
        """
        return laid_out(inputs, self.memory_format)

    def redraw_last(self) -> None:
        """Draw the last layer of a user's module anew, if it is a linear one that is trained."""
        last = self.encoder.get_submodule(self.tap.last) if self.tap and self.tap.last else None
        if isinstance(last, nn.Linear) and last.weight.requires_grad:
            last.reset_parameters()

    def wrap(self, wrapper: Callable[[nn.Module], nn.Module]) -> None:
        """Put its encoder, or the user's module, into another that gives the same."""
        self.encoder = wrapper(self.encoder)
        self.__dict__.pop("tap", None)  # its layer has another name now

    def _logits(self, inputs: Inputs) -> Tensor:
        return self._of_user(called(self.encoder, self.laid_out(inputs)), inputs)

    def _logits_and_features(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        assert self.tap is not None
        given, features = tapped(self.architecture, self.encoder, self.tap, self.laid_out(inputs))
        return self._of_user(given, inputs), features

    def _of_user(self, given: Any, inputs: Inputs) -> Tensor:
        return self._checked(self._both_classes(logits_of(given, self.architecture)), inputs)

    def _both_classes(self, logits: Tensor) -> Tensor:
        """One logit z (B, 1) or (B,) of two classes becomes (0, z): the same probabilities as the sigmoid of z."""
        if self.width != 2 or (logits.dim() > 1 and logits.shape[1:] != (1,)):
            return logits
        z = logits.reshape(-1, 1)
        return torch.cat([torch.zeros_like(z), z], dim=1)

    def _classified(self, logits: Tensor) -> Tensor:
        classified: Tensor = self.heads["classifier"](logits)
        return classified

    def _check_features(self) -> None:
        if not self.has_features:
            raise InputError(
                f"net {self.architecture!r} gives logits only, and no linear layer makes them: name the part that gives "
                f"its features, net_options.NAME.features, or subclass fedkd.nets.Encoder"
            )

    def _checked(self, given: Any, inputs: Inputs) -> Tensor:
        """InputError unless the encoder gave one row a sample, of the width it promised."""
        expected = (count(inputs), self.width)
        if isinstance(given, Tensor) and given.is_floating_point() and given.shape == expected:
            return given
        found = f"a {type(given).__name__}"
        if isinstance(given, Tensor):
            dtype = "" if given.is_floating_point() else f"{given.dtype} of ".removeprefix("torch.")
            found = f"{dtype}{tuple(given.shape)}"
        if isinstance(self.encoder, Encoder):
            said = f"features that are {found}, not {expected}, one row of out_features numbers for each sample"
        else:
            said = (
                f"{found} for {count(inputs)} samples: it must give logits {expected}, one number for each of the {self.width} "
                "classes"
            )
            if isinstance(given, Tensor) and given.is_floating_point() and given.dim() == 2 and given.shape[1] > self.width:
                said += f"; if these are features, end it with nn.Linear({given.shape[1]}, classes)"
        raise InputError(f"net {self.architecture!r} gives {said}")


def laid_out(inputs: Inputs, memory_format: torch.memory_format) -> Inputs:
    """Images (B, C, H, W) in this format, all else contiguous."""

    def lie(tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=memory_format) if tensor.dim() == 4 else tensor.contiguous()

    return each(lie, inputs)
