"""How alike the clients' encoders have become: reported in rounds that are evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from fedkd.engine.evaluation.encoders import drawn_from_test
from fedkd.engine.evaluation.representations import mean_similarity
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.train import predict
from fedkd.knowledge.knowledge import Knowledge
from fedkd.nets import load

#: How the names of an encoder's tensors begin in a net's.
ENCODER = "encoder."


def report_client_cka(server: Server, features: Sequence[Tensor]) -> None:
    """Put ``client_cka`` into the round's row: the mean linear CKA over pairs of clients. Nothing of fewer than two.

    Args:
        server: whose row.
        features: of each client's encoder, (N, D) with a width of its own, of the same samples.
    """
    if len(features) > 1:
        server.report({"cka": mean_similarity(features)}, prefix="client_")


def compares_encoders(server: Server) -> bool:
    """Whether clients' encoders are compared in this round."""
    return server.experiment.evaluation.compared > 1 and server.experiment.evaluates(server.round)


def compare_uploaded(server: Server, uploads: Mapping[int, Knowledge]) -> None:
    """Compare the encoders among uploaded weights of nets on some test samples, by the features before all heads.

    One net at the server takes each client's weights and buffers in turn.
    """
    if len(uploads) < 2 or not compares_encoders(server) or not len(server.federation.test):
        return
    samples = server.federation.test.subset(drawn_from_test(server, server.experiment.evaluation.compared))
    net = server.net("compared", heads=()).eval()
    features = []
    for upload in uploads.values():
        load(net, {name: tensor for name, tensor in upload.tensors.items() if name.startswith(ENCODER)})
        features.append(predict(net.features, samples, server.work()))
    report_client_cka(server, features)
