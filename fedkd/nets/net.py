"""The one kind of net that strategies see: an encoder and named heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from fedkd.base.errors import InputError
from fedkd.base.inputs import Inputs, count, each
from fedkd.nets.encoder import Encoder
from fedkd.nets.outputs import Outputs, logits_of
from fedkd.nets.user_net import called


class Net(nn.Module):
    """An encoder with heads; ``build_net`` makes them.

    What its maker froze (``requires_grad = False``) stays frozen: ``requires_grad_(True)`` passes over it, optimisers get the
    rest, and a BatchNorm in it is in train mode or not as the module's own ``train()`` says. Frozen tensors travel like all
    others, as the state dict is sent whole: their bytes count, their mean is themselves, bit for bit, and a lossy codec rounds
    them like the rest.

    Args:
        architecture: the name it was built by.
        encoder: an ``Encoder``, or a user's module that gives logits only.
        heads: by name.
        width: D of the encoder's features, or C of a module that gives logits.
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

    def __init__(
        self,
        architecture: str,
        encoder: nn.Module,
        heads: Mapping[str, nn.Module],
        *,
        width: int,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        super().__init__()
        self.architecture, self.width, self.memory_format = architecture, width, memory_format
        self.encoder = encoder
        self.heads = nn.ModuleDict(heads)
        if memory_format != torch.contiguous_format:
            self.to(memory_format=memory_format)  # type: ignore[call-overload]
        self._frozen = frozenset(name for name, parameter in self.named_parameters() if not parameter.requires_grad)

    @property
    def feature_width(self) -> int:
        """D, the width of its features; an InputError for a user's module that gives logits only."""
        return self._featured(self.encoder).out_features

    def features(self, inputs: Inputs) -> Tensor:
        """Features (B, D) of samples (B, ...); an InputError for a user's module that gives logits only."""
        self._featured(self.encoder)
        return self.encoded(inputs)

    def encoded(self, inputs: Inputs) -> Tensor:
        """What the encoder gives of samples (B, ...): features (B, D), or the logits (B, C) of a module that gives these."""
        given = called(self.encoder, self.laid_out(inputs))
        return self._checked(given if isinstance(self.encoder, Encoder) else logits_of(given, self.architecture), inputs)

    def outputs(self, inputs: Inputs) -> Outputs:
        """Logits, features and feature maps of samples (B, ...), in one forward pass; an InputError as for ``features``."""
        encoder, laid = self._featured(self.encoder), self.laid_out(inputs)
        maps, features = encoder.stages(**laid) if isinstance(laid, Mapping) else encoder.stages(laid)
        return Outputs(self.head("classifier", self._checked(features, inputs)), features, maps)

    def head(self, name: str, inputs: Tensor) -> Tensor:
        """Output of the named head, e.g. ``net.head("projection", net.features(images))``."""
        if name not in self.heads:
            raise ValueError(f"net {self.architecture!r} was built without head {name!r}; it has {list(self.heads)}")
        output: Tensor = self.heads[name](inputs)
        return output

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits (B, classes) of samples (B, ...)."""
        return self.head("classifier", self.encoded(inputs))

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """As torch has it, but what was frozen when the net was made stays frozen."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(requires_grad and name not in self._frozen)
        return self

    def laid_out(self, inputs: Inputs) -> Inputs:
        """Samples as the encoder takes them: images channels last in the zoo, contiguous for a user's module, as that may
        ``view``.
        """
        return laid_out(inputs, self.memory_format)

    def _featured(self, encoder: nn.Module) -> Encoder:
        if not isinstance(encoder, Encoder):
            raise InputError(f"net {self.architecture!r} gives logits only: subclass fedkd.nets.Encoder for features")
        return encoder

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
            )
            said += "classes"
        raise InputError(f"net {self.architecture!r} gives {said}")


def laid_out(inputs: Inputs, memory_format: torch.memory_format) -> Inputs:
    """Images (B, C, H, W) in this format, all else contiguous."""

    def lie(tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=memory_format) if tensor.dim() == 4 else tensor.contiguous()

    return each(lie, inputs)
