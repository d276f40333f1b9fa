"""Architectures: an encoder, and the heads that a strategy asks for on top of it."""

from fedkd.nets.build import build_net, check_net
from fedkd.nets.encoder import Encoder
from fedkd.nets.heads import HEADS
from fedkd.nets.net import Net
from fedkd.nets.outputs import Outputs, features_of
from fedkd.nets.zoo import ZOO

__all__ = ["HEADS", "ZOO", "Encoder", "Net", "Outputs", "build_net", "check_net", "features_of"]
