"""OKDDip: peers learn from targets that their attention to each other makes, and a group leader from all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

from pydantic import Field
from torch import Tensor

from fedkd import Batch, Classifier, Client, Experiment, Knowledge, Needs, Node, Positive, Server, Strategy, TensorSpec
from fedkd.losses import cross_entropy_loss, kd_loss
from fedkd.methods.lockstep import Heard, Peer, Said, check_said, gather, said_schema, take_turn
from fedkd.methods.peer_attention import FormName, attend, attending_shapes, form_of, leader_of
from fedkd.methods.ramp import ramped
from fedkd.methods.turns import exchanges
from fedkd.nets import Net
from fedkd.targets import mean_logits


@final
@dataclass(frozen=True)
class OKDDip(Strategy):
    """The last of K clients is the group leader, the others are its peers, P = K - 1; all take the same batches.

    Paper: Chen et al., "Online Knowledge Distillation with Diverse Peers", AAAI 2020, arXiv 1912.00350; network-based.
    What travels: for each batch up, of a peer, logits and features, 4 B (C + D) bytes, or with ``attention = "own"`` logits,
    query and key, 4 B (C + 2 d), of the leader nothing; down, to all, what all peers said. And a hash of the batch.
        peer a: CE(z_a, y) + w T^2 sum over peers c of KL(softmax(t_c / T) || softmax(z_c / T)),   t_c = sum_b A_cb z_b
        leader: CE(z, y) + w T^2 KL(softmax(mean_b z_b / T) || softmax(z / T)),   A_cb = softmax_b(W_q h_c . W_k h_b), b = c too
    z_b in targets is constant, A is not; a peer holds constant what it hears. Beside its own term, ``distillation``, it has a
    share in the others' targets, ``others_distillation``, by its key: the gradient of its net is that of all in one process.
    ``attention``: "shared", the paper's W for all, a replica at each peer; "own", W of a peer alone, for nets of different D;
    "auto", "shared" where the peers have the same net. What of it is exact stands in fedkd.methods.peer_attention.
    Defaults: T = 3, d = D / 8 of the narrowest net; w rises to 1 over the first 80 of 300 epochs, here 0.27 of the rounds. Who
    fails leaves for the round; a leader alone learns from labels only. Nothing bounds A: nets without normalisation break down
    at rates that DML bears (official form too): lower lr, or set train.clip. Deviations: the official code cuts no gradient,
    so others' targets and the leader pull a peer's z too, adds 1e-7 to targets' probabilities and has one optimiser.
    """

    temperature: Positive = 3.0  # T
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.27  # share of the rounds until w is 1; 0 = from the start
    attention: FormName = "auto"
    projection: Annotated[int, Field(ge=0)] = 0  # d, width of queries and keys; 0 = an eighth of the narrowest features

    paper: ClassVar[str] = "Chen et al., AAAI 2020, arXiv 1912.00350"
    sends: ClassVar[str] = "logits and features, or queries and keys, of every mini-batch, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, shared_data=True)
    outlives_its_round: ClassVar[bool] = False
    compares_clients: ClassVar[bool] = True

    def check(self, experiment: Experiment) -> None:
        """Maps that all share need equal nets."""
        self.needs.check(type(self).__name__, experiment)
        form_of(experiment, self.attention)

    def exchanges_per_round(self, experiment: Experiment) -> int:
        """One a batch, and one."""
        return exchanges(experiment)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """A peer's logits and what attention needs; nothing of the leader."""
        if client == leader_of(server.experiment):
            return {}
        return said_schema(server, client, attending_shapes(server, client, self.attention, self.projection))

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """The batch must be everybody's."""
        check_said(server, upload)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Learn from one batch, speak of the next."""
        role = self._leader if client.id == leader_of(client.experiment) else self._peer
        return take_turn(client, broadcast, role(client, client.net(init="own", keep=True), ramped(client, self.ramp)))

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge | Mapping[int, Knowledge]:
        """Stack what the peers said; all hear it, the leader too."""
        return gather(server, {id: upload for id, upload in uploads.items() if id != leader_of(server.experiment)})

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """A client's own net; the server has none."""
        return {"main": Classifier(node.net(init="own", keep=True).eval())} if isinstance(node, Client) else {}

    def _peer(self, client: Client, net: Net, weight: float) -> Peer:
        attending = attend(client, net, self.attention, self.projection)

        def loss(said: Said, heard: Heard, batch: Batch) -> dict[str, Tensor]:
            taught = attending.losses(said, heard, temperature=self.temperature, weight=weight)
            return {"cross_entropy": cross_entropy_loss(said["logits"], batch.labels), **taught}

        return Peer(attending.trained, attending.say, loss, weight)

    def _leader(self, client: Client, net: Net, weight: float) -> Peer:
        def loss(said: Said, heard: Heard, batch: Batch) -> dict[str, Tensor]:
            target = mean_logits(heard.tensors["logits"]).logits() if heard.ids else said["logits"]  # (B, C)
            taught = weight * kd_loss(said["logits"], target, temperature=self.temperature)
            return {"cross_entropy": cross_entropy_loss(said["logits"], batch.labels), "distillation": taught}

        return Peer(net, lambda batch: {"logits": net(batch.images)}, loss, weight, unsaid=("logits",))
