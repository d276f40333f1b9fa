"""A classifier that all nets share, on encoders of any kind: the last layer of every net."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.predictors import Classifier
from fedkd.knowledge.knowledge import Knowledge
from fedkd.methods.prototypes import common_width
from fedkd.nets import Net, load


def check_classifiers(node: Node, *beside: str) -> None:
    """InputError unless the last layers of clients' nets, and of architectures ``beside``, are of one shape and trained."""
    common_width(node, *beside, what="shared classifiers")
    nets = [node.net(name, architecture=name) for name in dict.fromkeys((*beside, *node.experiment.architectures))]
    first = {name: tuple(tensor.shape) for name, tensor in nets[0].classifier.state_dict().items()}
    for net in nets:
        if not all(parameter.requires_grad for parameter in net.classifier.parameters()):
            raise InputError(f"net {net.architecture!r}: its last layer is frozen, and all clients are to share it")
        if {name: tuple(tensor.shape) for name, tensor in net.classifier.state_dict().items()} != first:
            raise InputError(
                f"nets: the last layers of {nets[0].architecture} and {net.architecture} differ, and all are to share "
                "it: give both a bias or neither"
            )


def classifier_of(net: Net) -> dict[str, Tensor]:
    """The net's last layer as it travels, under names that no architecture shows in: "classifier.weight" and the like."""
    return {f"classifier.{name}": tensor for name, tensor in net.classifier.state_dict().items()}


def put_classifier(net: Net, shared: Mapping[str, Tensor]) -> None:
    """Overwrite the net's last layer with one that ``classifier_of`` gave."""
    load(net.classifier, {name.removeprefix("classifier."): tensor for name, tensor in shared.items()})


def under_shared_classifier(node: Node, net: Net, shared: Knowledge) -> Classifier:
    """The net with the shared classifier in place of its own, which it keeps."""
    top, below = node.net("shared classifier").eval(), net.eval()
    put_classifier(top, shared.tensors)
    return Classifier(lambda inputs: top.head("classifier", below.features(inputs)))
