"""What is a strategy's own, beside its authors' code or a rival's: the loss of a step, or what the server computes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from fedkd.strategies.fedgkd import voted_loss
from fedkd.strategies.fedhkd import mean_divergence
from fedkd.strategies.fedkd import FedKD
from fedkd.strategies.fedmlb import mutual_divergence
from fedkd.strategies.fedtgp import largest_gap, margin_loss
from fedkd.strategies.flesd import ensemble_similarities
from fedkd.strategies.selective_fd import density_ratio
from official.case import Case, Drawn
from official.copies import Copy
from torch import Tensor, nn

from fedkd import losses
from fedkd.aggregate import entropy_reduction, power
from fedkd.strategies import fedx

HTFL, FCCL = "TsingZ0/HtFLlib", "WenkeHuang/FCCL"
CLIENTS, SERVERS = "system/flcore/clients/", "system/flcore/servers/"


class _Says:
    """A net, or a batch, that says of any input what it was given."""

    ids = torch.arange(16)

    def __init__(self, **said: Tensor) -> None:
        self.said = said

    def __len__(self) -> int:
        return 16

    def view(self, number: int) -> Tensor:
        return torch.zeros(16, 1)

    def features(self, inputs: Tensor) -> Tensor:
        return inputs

    def head(self, name: str, rows: Tensor) -> Tensor:
        return self.said[name]

    def requires_grad_(self, on: bool) -> _Says:
        return self


def _fedx(d: Drawn) -> Tensor:
    """The loss of FedX's step, of nets that say what was drawn; the strategy's own ``client_update`` makes it."""
    found: dict[str, Any] = {}
    anchors: Any = SimpleNamespace(view=lambda _: torch.zeros(20, 1))
    client: Any = SimpleNamespace(train=SimpleNamespace(stream=lambda _: iter([anchors])))
    teacher = _Says(projection=d.taught)
    with (
        patch.object(fedx, "broadcast_net", lambda *_, **__: teacher),
        patch.object(fedx, "train_by", lambda *_, objective: found.update(objective=objective)),
    ):
        fedx.FedX().client_update(client, None)  # type: ignore[arg-type]
    net = _Says(projection=torch.cat([d.es, d.et, d.anchors]), prediction=d.predicted)
    return torch.stack([*found["objective"](net, _Says(), None).values()]).sum()


def _their_fedx(copy: Copy, d: Drawn) -> Tensor:
    code = copy.define("losses.py", "nt_xent js_loss")
    step = copy.lines("main.py", "nt_local =", "loss = loss_nt + loss_js")
    own = fedx.FedX()
    options = {"temperature": own.temperature, "tt": own.global_target_temperature, "ts": own.local_target_temperature}
    rows = {"proj1_original": d.es, "proj1_pos": d.et, "proj1_random": d.anchors}
    rows |= {"pred1_original": d.predicted[:16], "pred1_pos": d.predicted[16:32]}
    rows |= {"proj2_pos": d.taught[:16], "proj2_random": d.taught[16:]}
    return step(args=SimpleNamespace(**options), **vars(code), **rows).loss  # type: ignore[no-any-return]


def _fedkd(d: Drawn) -> Tensor:
    """The loss of FedKD's step, of a mentor and a mentee that say what was drawn."""
    mentor = SimpleNamespace(encoded=lambda _: d.et, head=lambda *_: d.t)
    mentee = SimpleNamespace(encoded=lambda _: d.es, head=lambda *_: d.s)
    batch: Any = SimpleNamespace(inputs=None, cross_entropy=lambda logits: F.cross_entropy(logits, d.labels))
    parts = FedKD()._loss({"mentor": mentor, "mentee": mentee, "map": lambda rows: rows}, batch)
    return torch.stack([*parts.values()]).sum()


def _their_fedkd(copy: Copy, d: Drawn, reduction: str) -> Tensor:
    step = copy.lines(CLIENTS + "clientkd.py", "CE_loss = self", "loss_g =")
    by = SimpleNamespace(loss=nn.CrossEntropyLoss(), KL=nn.KLDivLoss(reduction=reduction), MSE=nn.MSELoss())
    ran = step(self=by, output=d.t, output_g=d.s, rep=d.et, rep_g=d.es, W_h=lambda rows: rows, y=d.labels)
    return ran.loss + ran.loss_g  # type: ignore[no-any-return]


def _their_prototypes(copy: Copy, d: Drawn, known: range) -> Tensor:
    step = copy.lines(CLIENTS + "clientproto.py", "if global_protos is not None:\n                    proto_new", "loss +=")
    by = SimpleNamespace(loss_mse=nn.MSELoss(), lamda=1.0)
    points = {label: d.points[label] if label in known else [] for label in range(10)}
    return step(self=by, rep=d.es, y=d.labels, global_protos=points, loss=0.0).loss  # type: ignore[no-any-return]


def _their_margin(copy: Copy, d: Drawn) -> Tensor:
    step = copy.lines(SERVERS + "servertgp.py", "features_square", "loss =")
    by = SimpleNamespace(
        num_classes=10, device="cpu", max_gap=torch.tensor(3.0), margin_threthold=2.0, CEloss=nn.CrossEntropyLoss()
    )
    return step(self=by, proto=d.et, proto_gen=d.points, y=d.labels).loss  # type: ignore[no-any-return]


def _their_gap(copy: Copy, d: Drawn) -> Tensor:
    step = copy.lines(SERVERS + "servertgp.py", "self.gap = torch.ones(self.num_classes, device=self.device) * 1e9\n"
                      "        avg_protos", "self.max_gap =")  # fmt: skip
    by = SimpleNamespace(num_classes=10, device="cpu")
    step(self=by, proto_cluster=lambda uploads: uploads, uploaded_protos_per_client=dict(enumerate(d.points[:8])))
    return by.max_gap  # type: ignore[no-any-return]


def _gap(d: Drawn) -> Tensor:
    return torch.tensor(largest_gap(d.points, torch.tensor([1] * 8 + [0, 0])), dtype=torch.float64)


def _their_fd(copy: Copy, d: Drawn) -> Tensor:
    step = copy.lines(CLIENTS + "clientfd.py", "if global_logits is not None:", "loss +=")
    by = SimpleNamespace(loss=nn.CrossEntropyLoss(), lamda=1.0)
    means = {label: d.t[label] for label in range(10)}
    return step(self=by, output=d.s, y=d.labels, global_logits=means, loss=0.0).loss  # type: ignore[no-any-return]


def _their_fccl(copy: Copy, d: Drawn) -> Tensor:
    code = copy.define("fccl+/models/fcclplus.py", "FCCLPLUS._off_diagonal")
    step = copy.lines("fccl+/models/fcclplus.py", "z_1_bn =", "fccl_loss =")
    by = SimpleNamespace(_off_diagonal=lambda square: code._off_diagonal(None, square))
    return step(self=by, linear_output=d.s, linear_output_target_avg=d.t, images=d.s).fccl_loss  # type: ignore[no-any-return]


def _their_similarity(copy: Copy, d: Drawn) -> Tensor:
    code = copy.define("fccl+/models/fcclplus.py", "FCCLPLUS._calculate_isd_sim")
    step = copy.lines("fccl+/models/fcclplus.py", "inputs = F.log_softmax(logits_sim", "loss_distill =")
    by = SimpleNamespace(device="cpu", args=SimpleNamespace(temp=0.02))
    own, taught = (code._calculate_isd_sim(by, F.normalize(rows, dim=1)) for rows in (d.es, d.et))
    return step(logits_sim=own, logits_sim_target_avg=taught).loss_distill  # type: ignore[no-any-return]


def _their_moon(copy: Copy, d: Drawn) -> Tensor:
    step = copy.lines("main.py", "posi = cos(pro1, pro2)", "loss2 = mu * criterion")
    previous = type("Net", (), {"__call__": lambda self, x: (None, d.anchors[:16], None), **{
        name: lambda self, *_: self for name in ("cuda", "to")}})()  # fmt: skip
    cos = nn.CosineSimilarity(dim=-1)
    named = {"pro1": d.es, "pro2": d.et, "previous_nets": [previous], "x": d.s, "temperature": 0.5, "mu": 1.0}
    return step(cos=cos, criterion=nn.CrossEntropyLoss(), **named).loss2  # type: ignore[no-any-return]


def _sskd(d: Drawn) -> Any:
    torch.manual_seed(d.seed)
    return losses.SSKDLoss(12, 12, ss_ratio=0.75, tf_ratio=1.0).double()


def _their_sskd(copy: Copy, d: Drawn) -> Tensor:
    own, options = _sskd(d), SimpleNamespace(kd_T=4.0, tf_T=4.0, ss_T=0.5, ratio_tf=1.0, ratio_ss=0.75)
    known = {"output": d.s, "s_feat": own.student_head(d.es), "target": d.labels[:4], "batch": 4, "x": None}
    turned = torch.arange(16) % 4 != 0
    step = copy.lines("student.py", "log_nor_output =", "loss4 = F.kl_div(log_simi[distill_index_ss], "
                      "simi_knowledge[distill_index_ss], \\\n                        reduction=")  # fmt: skip
    taught = (d.t, own.teacher_head(d.et).detach(), None)
    ran = step(t_model=lambda _: taught, args=options, nor_index=~turned, aug_index=turned, **known)
    return 0.9 * ran.loss2 + 2.7 * ran.loss3 + 10.0 * ran.loss4  # type: ignore[no-any-return]


def _ratio(copy: Copy, d: Drawn) -> Tensor:
    code = copy.define("KuLSIF.py", "KuLSIF_density_ratio_estimation").KuLSIF_density_ratio_estimation
    known, auxiliary = d.es.numpy(), d.anchors.numpy()
    return torch.from_numpy(code(4.0, known, auxiliary, len(auxiliary) ** -0.5).ratio_estimator(d.et.numpy()))


def _their_votes(copy: Copy, d: Drawn) -> Tensor:
    code = copy.define("pcode/workers/worker_fedgkd.py", "WorkerFedGKD._divergence WorkerFedGKD.distillation_with_multiple")
    by = SimpleNamespace(conf=SimpleNamespace(temperature=2.0), model_weights=[0.25, 0.75])
    by._divergence = lambda **logits: code._divergence(by, **logits)
    by.models_buffer = [{"model": lambda _: (None, d.t)}, {"model": lambda _: (None, d.u)}]
    return code.distillation_with_multiple(by, d.s, None)  # type: ignore[no-any-return]


def _concentrations(copy: Copy, d: Drawn) -> Tensor:
    step = copy.lines("main_pcl.py", "Dcluster = [[]", "density = args.temperature*density/density.mean()")
    squares = (d.es - d.points[d.labels]).square().sum(1, keepdim=True).numpy()
    ran = step(k=8, im2cluster=d.labels.tolist(), D=squares, args=SimpleNamespace(temperature=0.2))
    return torch.from_numpy(ran.density)


MAJORITY = torch.tensor([1, 4, 6])
CASES: list[Case] = [
    Case("fedx", "Sungwon-Han/FEDX", "main.py: train_net_fedx", _their_fedx, _fedx, "es et predicted",
         what="loss of a step: its four terms"),
    Case("sskd", "xuguodong03/SSKD", "student.py: the loop", _their_sskd,
         lambda d: _sskd(d)(d.s, d.es, d.t, d.et, d.labels[:4]), "s es", what="its loss, `SSKDLoss`"),
    Case("SSKDLoss", "xuguodong03/SSKD", "student.py: the loop", _their_sskd,
         lambda d: _sskd(d)(d.s, d.es, d.t, d.et, d.labels[:4]), "s es"),
    Case("moon", "QinbinLi/MOON", "main.py: train_net_fedcon", _their_moon,
         lambda d: losses.model_contrastive_loss(d.es, d.et, d.anchors[:16]), "es", what="its term, `model_contrastive_loss`"),
    Case("model_contrastive_loss", "QinbinLi/MOON", "main.py: train_net_fedcon", _their_moon,
         lambda d: losses.model_contrastive_loss(d.es, d.et, d.anchors[:16]), "es"),
    Case("fccl_loss", FCCL, "fccl+/models/fcclplus.py: col_update", _their_fccl, lambda d: losses.fccl_loss(d.s, d.t), "s"),
    Case("fccl", FCCL, "fccl+/models/fcclplus.py: col_update", _their_fccl, lambda d: losses.fccl_loss(d.s, d.t), "s",
         what="its loss on public samples, `fccl_loss`"),
    Case("instance_similarity_loss", FCCL, "fccl+/models/fcclplus.py: col_update", _their_similarity,
         lambda d: losses.instance_similarity_loss(d.es, losses.instance_similarities(d.et)), "es"),
    Case("fccl_plus", FCCL, "fccl+/models/fcclplus.py: col_update", _their_similarity,
         lambda d: losses.instance_similarity_loss(d.es, losses.instance_similarities(d.et)), "es",
         what="its second loss on public samples, `instance_similarity_loss`"),
    Case("prototype_concentrations", "salesforce/PCL", "main_pcl.py: run_kmeans", _concentrations,
         lambda d: losses.prototype_concentrations(d.es, d.points[:8], d.labels, temperature=0.2)),
    Case("byol_loss", "EasyFL-AI/EasyFL", "applications/fedssl/model.py: byol_loss_fn",
         lambda copy, d: copy.define("applications/fedssl/model.py", "byol_loss_fn").byol_loss_fn(d.es, d.et).mean(),
         lambda d: losses.byol_loss(d.es, d.et), "es"),
    Case("diversity_loss", "zhuangdizhu/FedGen", "FLAlgorithms/trainmodel/generator.py: DiversityLoss",
         lambda copy, d: copy.define("FLAlgorithms/trainmodel/generator.py", "DiversityLoss").DiversityLoss("l1")(d.et, d.es),
         lambda d: losses.diversity_loss(d.et, d.es), "es"),
    Case("fedkd", HTFL, "clientkd.py: train", lambda copy, d: _their_fedkd(copy, d, "batchmean"), _fedkd,
         what="loss of a step, its value, with a KL that sums over classes in both"),
    Case("fedkd", HTFL, "clientkd.py: train", lambda copy, d: _their_fedkd(copy, d, "mean"), _fedkd, "s t es et",
         what="loss of a step",
         because="HtFLlib's KL is a mean over classes too (ten times smaller here), and each net is also moved by what it "
         "teaches and by the divisor; here KL sums over classes, and teachers and divisor are constants"),
    Case("fedproto", HTFL, "clientproto.py: train", lambda copy, d: _their_prototypes(copy, d, range(10)),
         lambda d: losses.prototype_loss(d.es, d.points, d.labels, torch.ones(10).bool()), "es",
         what="its term where every class has a prototype, `prototype_loss`"),
    Case("fedproto", HTFL, "clientproto.py: train", lambda copy, d: _their_prototypes(copy, d, range(5)),
         lambda d: losses.prototype_loss(d.es, d.points, d.labels, torch.arange(10) < 5), "es",
         what="its term where some classes have none",
         because="samples whose class has no prototype count in the mean there, as 0; here they are left out of it"),
    Case("prototype_loss", HTFL, "clientproto.py: train", lambda copy, d: _their_prototypes(copy, d, range(10)),
         lambda d: losses.prototype_loss(d.es, d.points, d.labels, torch.ones(10).bool()), "es",
         what="every class has a prototype"),
    Case("fedtgp", HTFL, "servertgp.py: update_TGP", _their_margin,
         lambda d: margin_loss(d.et, d.points, d.labels, margin=2.0), "points", what="the server's loss"),
    Case("fedtgp", HTFL, "servertgp.py: receive_protos", _their_gap, _gap, what="the margin"),
    Case("fd", HTFL, "clientfd.py: train", _their_fd,
         lambda d: losses.soft_cross_entropy(d.s, d.t.softmax(1)[d.labels]), "s", what="its term",
         because="HtFLlib averages logits and takes them for probabilities as they are, below 0 too; here "
         "outputs of the softmax are averaged"),
    Case("fedmlb", "jinkyu032/FedMLB", "local_update_method/FedMLB.py: KD",
         lambda copy, d: copy.define("local_update_method/FedMLB.py", "KD").KD(d.t, d.s, 2.0),
         lambda d: mutual_divergence(d.t, d.s, temperature=2.0), "s t", what="the divergence of a branch"),
    Case("pfedsd", "CGCL-codes/pFedSD", "pcode/workers/worker_base.py: _divergence",
         lambda copy, d: copy.define("pcode/workers/worker_base.py", "WorkerBase._divergence")._divergence(None, d.s, d.t, 2.0),
         lambda d: losses.kd_loss(d.s, d.t, temperature=2.0), "s", what="its term, `kd_loss`"),
    Case("fedgkd", "CGCL-codes/FedGKD", "worker_fedgkd.py: distillation_with_multiple", _their_votes,
         lambda d: voted_loss(d.s, [d.t, d.u], [0.25, 0.75], temperature=2.0), "", what='its term of "vote", the value'),
    Case("fedgkd", "CGCL-codes/FedGKD", "worker_fedgkd.py: distillation_with_multiple", lambda copy, d: _their_votes(copy, d)
         + 0 * d.s.sum(), lambda d: voted_loss(d.s, [d.t, d.u], [0.25, 0.75], temperature=2.0), "s",
         what='its term of "vote", the gradient',
         because='there the term of "vote" is computed under no_grad, so that it teaches nothing; here it does'),
    Case("fedhkd", "CityChan/Federated-Hyper-Knowledge-Distillation", "Client/ClientFedHKD.py: update_weights_HKD",
         lambda copy, d: copy.lines("Client/ClientFedHKD.py", "loss2 = self.kld", "loss2 = self.kld")(
             self=SimpleNamespace(kld=nn.KLDivLoss()), Q_help=(d.s[:10] / 0.5).softmax(1),
             tensor_global_soft_prediction=d.t[:10].softmax(1)).loss2,
         lambda d: mean_divergence(d.s[:10], d.t[:10].softmax(1), torch.ones(10).bool(), temperature=0.5), "s",
         what="its divergence",
         because="that code's KL is a mean over elements, which divides by the number of classes once more"),
    Case("scarlet", "kitsuyaazuma/SCARLET", "algorithm/scarlet.py: enhanced_era",
         lambda copy, d: copy.define("src/scarlet/algorithm/scarlet.py", "SCARLETServerHandler.enhanced_era")
         .enhanced_era(d.t.softmax(1), 1.5), lambda d: power(d.t.softmax(1), 1.5), what="sharpening, `power`"),
    Case("dsfl", "kitsuyaazuma/SCARLET", "algorithm/dsfl.py: global_update",
         lambda copy, d: torch.stack([copy.lines("src/scarlet/algorithm/dsfl.py", "era_soft_labels =", "era_soft_labels")(
             mean_soft_labels=row, self=SimpleNamespace(era_temperature=0.1)).era_soft_labels for row in d.t.softmax(1)]),
         lambda d: entropy_reduction(d.t.softmax(1), 0.1), what="sharpening, `entropy_reduction`"),
    Case("selective_fd", "shaojiawei07/Selective-FD", "KuLSIF.py", _ratio,
         lambda d: density_ratio(d.et, d.es, d.anchors, width=4.0), what="density ratios",
         because="that code inverts a matrix and then multiplies by the matrix itself; here the system is solved"),
    Case("flesd", "WOWNICE/FLESD", "global_aggregate.py: ensemble_sims",
         lambda copy, d: copy.define("global_aggregate.py", "ensemble_sims").ensemble_sims([d.es, d.et], 100, 0.1),
         lambda d: ensemble_similarities([F.normalize(d.es), F.normalize(d.et)], temperature=0.1),
         what="the mean of similarities"),
    Case("fedntd", "Lee-Gihun/FedNTD", "algorithms/fedntd/criterion.py: NTD_Loss",
         lambda copy, d: copy.define("algorithms/fedntd/criterion.py algorithms/fedntd/utils.py", "NTD_Loss refine_as_not_true")
         .NTD_Loss(10, 3.0)._ntd_loss(d.s, d.t, d.labels),
         lambda d: losses.not_true_loss(d.s, d.t, d.labels, temperature=3.0), "s", what="its term, `not_true_loss`"),
    Case("fedlmd_tf", "wnma3mz/FedLMD", "src/algorithms/fedlmd_tf/criterion.py: lmd_tf_criterion",
         lambda copy, d: copy.define("src/algorithms/fedlmd_tf/criterion.py", "lmd_tf_criterion _get_gt_mask")
         .lmd_tf_criterion(d.s[:4], d.labels[:4], 2.0, MAJORITY),
         lambda d: losses.label_masking_loss(
             d.s[:4], torch.zeros(4, 10), d.labels[:4], torch.isin(torch.arange(10), MAJORITY), temperature=2.0), "s",
         what="its term, batches of four",
         because="that code's target shares a mass of 1 by C less the batch size less 1, where the number of classes left is "
         "meant: it sums to 1 by chance only, and a batch of C samples or more gives no number"),
]  # fmt: skip
