"""Architectures: an encoder, and the heads that a strategy asks for on top of it."""

from fedkd.nets.branched import Branched, Branches, Gate, check_branches, pooled, scale_gradient
from fedkd.nets.build import build_net, check_net
from fedkd.nets.encoder import Encoder
from fedkd.nets.exits import AtExits, NetWithExits, check_exits
from fedkd.nets.feature_generator import FeatureGenerator
from fedkd.nets.frozen import completed
from fedkd.nets.fusion import Fusion, separable
from fedkd.nets.halves import Halves, cut_net, parts_of
from fedkd.nets.heads import HEADS
from fedkd.nets.load import copied, load, unsaved_buffers
from fedkd.nets.moving_average import MovingAverage, move_towards
from fedkd.nets.net import Net
from fedkd.nets.oddities import are_probabilities, changed, unsaved_state
from fedkd.nets.outputs import Outputs, features_of, logits_of
from fedkd.nets.slimmed import check_slimmable, slimmed
from fedkd.nets.user_net import Copies, as_function, check_function, name_of
from fedkd.nets.zoo import ZOO

__all__ = [
    "HEADS",
    "ZOO",
    "AtExits",
    "Branched",
    "Branches",
    "Copies",
    "Encoder",
    "FeatureGenerator",
    "Fusion",
    "Gate",
    "Halves",
    "MovingAverage",
    "Net",
    "NetWithExits",
    "Outputs",
    "are_probabilities",
    "as_function",
    "build_net",
    "changed",
    "check_branches",
    "check_exits",
    "check_function",
    "check_net",
    "check_slimmable",
    "completed",
    "copied",
    "cut_net",
    "features_of",
    "load",
    "logits_of",
    "move_towards",
    "name_of",
    "parts_of",
    "pooled",
    "scale_gradient",
    "separable",
    "slimmed",
    "unsaved_buffers",
    "unsaved_state",
]
