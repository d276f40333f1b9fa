"""The one kind of net that strategies see: an encoder and named heads."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fedkd.errors import InputError
from fedkd.nets.encoder import Encoder
from fedkd.nets.outputs import Outputs


class Net(nn.Module):
    """An encoder with heads; ``build_net`` makes them.

    >>> from fedkd.nets import build_net
    >>> import torch
    >>> net = build_net("mlp", shape=(1, 8, 8), classes=10, heads=("classifier", "projection"))
    >>> images = torch.zeros(5, 1, 8, 8)
    >>> net(images).shape, net.head("projection", net.features(images)).shape
    (torch.Size([5, 10]), torch.Size([5, 256]))
    """

    architecture: str
    """The name it was built by; it tells which nets may exchange weights."""

    def __init__(self, architecture: str, encoder: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.architecture = architecture
        self.encoder = encoder
        self.heads = nn.ModuleDict(heads)

    def features(self, images: Tensor) -> Tensor:
        """Features (B, D) of images (B, C, H, W); an InputError for a user's module that gives logits only."""
        features: Tensor = self._featured(self.encoder)(images)
        return features

    def outputs(self, images: Tensor) -> Outputs:
        """Logits, features and feature maps of images (B, C, H, W), in one forward pass; an InputError as for ``features``."""
        maps, features = self._featured(self.encoder).stages(images)
        return Outputs(self.head("classifier", features), features, maps)

    def head(self, name: str, inputs: Tensor) -> Tensor:
        """Output of the named head, e.g. ``net.head("projection", net.features(images))``."""
        if name not in self.heads:
            raise ValueError(f"net {self.architecture!r} was built without head {name!r}; it has {list(self.heads)}")
        output: Tensor = self.heads[name](inputs)
        return output

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        return self.head("classifier", self.encoder(images))

    def _featured(self, encoder: nn.Module) -> Encoder:
        if not isinstance(encoder, Encoder):
            raise InputError(f"net {self.architecture!r} gives logits only: subclass fedkd.nets.Encoder for features")
        return encoder
