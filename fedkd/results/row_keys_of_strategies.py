"""Keys that strategies write into rows and clients' lines: parts of their losses, and what else they report."""

from __future__ import annotations

from fedkd.results.row_key import BYTES, NATS, SHARE, of_strategy

#: Parts of losses and what else strategies report, as means over batches and over clients.
OF_STRATEGIES = (
    of_strategy("train_accuracy", "training accuracy", "share of its training samples that a client gets right", SHARE),
    of_strategy("cross_entropy", "cross-entropy", "cross-entropy to the labels, as it enters the loss", NATS),
    of_strategy("hybrid_cross_entropy", "hybrid cross-entropy", "FedMLB: of own maps under the rest of the global net", NATS),
    of_strategy("distillation", "distillation", "distillation from teachers or peers, as it enters the loss"),
    of_strategy("consistency", "consistency", "how far student and mean teacher are apart, as it enters the loss"),
    of_strategy("digest", "digest", "FedMD: distance to the consensus while clients learn it"),
    of_strategy("consensus", "consensus", "D-Distillation: distance to the neighbours' average, as it enters the loss"),
    of_strategy("edges", "edges", "D-Distillation, MHD: neighbours whose tables a client received", "", "edges"),
    of_strategy("edge_bytes", "bytes along an edge", "D-Distillation, MHD: of what a client sends each neighbour", BYTES),
    of_strategy("staleness", "staleness", "codistillation: age of the others' checkpoints, in steps of training"),
    of_strategy("generation", "generation", "born-again networks: number of the student that is trained now"),
    of_strategy("hint", "hint", "distance between feature maps, as it enters the loss"),
    of_strategy(
        "relation", "relation", "distance between a client's and the global relations of samples, as it enters the loss"
    ),
    of_strategy(
        "not_true", "not-true distillation", "FedNTD, FCCL+: distillation of all classes but the true one, as it enters"
    ),
    of_strategy("label_masking", "label-masking distillation", "FedLMD: distillation of classes that a client has few of"),
    of_strategy("correlation", "correlation", "FCCL: how far logits of public samples are from going with those of all"),
    of_strategy("proximal", "proximal term", "FedProx: squared distance to the broadcast weights, as it enters the loss"),
    of_strategy("prototype", "prototype term", "distance of features to the prototype of their class, as it enters the loss"),
    of_strategy(
        "model_contrastive", "model-contrastive term", "MOON: contrast of the local, global and last local net, as it enters"
    ),
    of_strategy("attention", "attention", "FFSD: distance of the leader's attention map to the fused map's, as it enters"),
    of_strategy("spread_attention", "attention, spread", "FFSD: the same of its map made wide, to those of all students"),
    of_strategy("self_distillation", "self-distillation", "FFSD: distance of attention to what a decoder makes, as it enters"),
    of_strategy("diversity", "diversity", "FFSD: distance of attention to another student's, shifted, as it enters the loss"),
    of_strategy("decoder", "decoder", "FFSD: distance of what a decoder makes of the last map to the maps before it"),
    of_strategy("adversarial", "adversarial term", "what a net's maps lack to pass for another net's, as it enters the loss"),
    of_strategy(
        "discriminator", "discriminator", "squared error of what tells a net's maps from another's; one half: it cannot"
    ),
    of_strategy("vcl", "VCL", "MCL: vanilla contrastive loss, within each peer"),
    of_strategy("icl", "ICL", "MCL: interactive contrastive loss, between peers"),
    of_strategy("soft_vcl", "soft VCL", "MCL: distillation of the peers' contrastive distributions, within each peer"),
    of_strategy("soft_icl", "soft ICL", "MCL: distillation of the peers' contrastive distributions, between peers"),
)
