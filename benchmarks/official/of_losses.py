"""Losses and targets beside the code that their papers' authors, or much used libraries, give for them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from official.case import Case, Drawn
from official.copies import Copy
from torch import Tensor, nn

import fedkd.losses as losses
from fedkd import targets

REP, MEGVII, ZOO = "HobbitLong/RepDistiller", "megvii-research/mdistiller", "AberHu/Knowledge-Distillation-Zoo"
KD_LIB, TEXT = "SforAiDl/KD_Lib", "airaria/TextBrewer"


def _case(
    name: str,
    code: str,
    files: str,
    definitions: str,
    theirs: Callable[[Any, Drawn], Tensor],
    ours: Callable[[Drawn], Tensor],
    learned: str,
    **more: str,
) -> Case:
    """A case whose other side is made of definitions."""

    def of_copy(copy: Copy, d: Drawn) -> Tensor:
        return theirs(copy.define(files, definitions), d)

    where = f"{files.split()[0]}: {definitions.split()[0]}"
    return Case(name, code, where, of_copy, ours, learned, **more)


def _alike(theirs: nn.Module, own: nn.Module) -> nn.Module:
    """Their module with the parameters of ours, in order."""
    with torch.no_grad():
        for mine, other in zip(own.parameters(), theirs.parameters(), strict=True):
            other.copy_(mine)
    return theirs


def _seeded(module: Callable[[], nn.Module], d: Drawn) -> Any:
    """A module of ours, in float64, whose parameters are the seed's."""
    torch.manual_seed(d.seed)
    return module().double()


def _vid(d: Drawn) -> Any:
    return _seeded(lambda: losses.VIDLoss(6, 6), d)


def _their_vid(code: Any, d: Drawn) -> Tensor:
    theirs, own = code.VIDLoss(6, 6, 6), _vid(d)
    layers = [layer.weight for layer in theirs.regressor if isinstance(layer, nn.Conv2d)]
    mine = [parameter for parameter in own.parameters() if parameter.ndim == 4]
    scale = next(parameter for parameter in own.parameters() if parameter.ndim != 4)
    with torch.no_grad():
        for layer, parameter in zip([*layers, theirs.log_scale], [*mine, scale.flatten()], strict=True):
            layer.copy_(parameter)
    return theirs(d.ms, d.small_mt)


def _crd(d: Drawn) -> Any:
    own = _seeded(lambda: losses.CRDLoss(12, 12, samples=40, dim=8, negatives=30), d)
    own.draw = lambda ids, rng=None: (ids[:, None] + torch.arange(1, 31)) % 40
    return own


def _their_crd(code: Any, d: Drawn) -> Tensor:
    own = _crd(d)
    options = {"s_dim": 12, "t_dim": 12, "feat_dim": 8, "nce_k": 30, "nce_t": 0.07, "nce_m": 0.5, "n_data": 40}
    theirs = _alike(code.CRDLoss(SimpleNamespace(**options)), own)
    theirs.contrast.memory_v1.copy_(own.student_bank)
    theirs.contrast.memory_v2.copy_(own.teacher_bank)
    beside = torch.cat([d.ids[:, None], own.draw(d.ids)], 1)
    theirs(d.et, d.es.detach(), d.ids, beside)  # a batch before, so that banks and constants have moved
    return theirs(d.es, d.et, d.ids, beside)


def _own_crd(d: Drawn) -> Tensor:
    own = _crd(d)
    own(d.et, d.es.detach(), d.ids)
    return own(d.es, d.et, d.ids)  # type: ignore[no-any-return]


def _factors(d: Drawn) -> Any:
    return _seeded(lambda: losses.FactorTransfer(6, 6), d)


def _their_factors(code: Any, d: Drawn) -> Tensor:
    own, shape = _factors(d), (16, 6, 8, 8)
    taught = _alike(code.Paraphraser(shape).encoder, own.paraphraser)(d.mt).detach()
    said = _alike(code.Translator(shape, shape).encoder, own.translator)(d.ms)
    return code.FactorTransfer()(said, taught)  # type: ignore[no-any-return]


def _their_singular(code: Any, d: Drawn) -> Tensor:
    return code.KDSVD()([d.ms, d.deep_ms], [d.mt, d.deep_mt])[0]  # type: ignore[no-any-return]


def _their_signed(copy: Copy, d: Drawn) -> Tensor:
    """Theirs, over singular vectors whose largest component is positive."""

    def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, s, v = torch.svd(matrix)
        sign = v.detach().gather(1, v.detach().abs().argmax(1, keepdim=True)).sign()
        return u * sign, s, v * sign

    known = SimpleNamespace(**{**vars(torch), "svd": svd})
    return _their_singular(copy.define("distiller_zoo/KDSVD.py", "KDSVD", torch=known), d)


def _their_seed(copy: Copy, d: Drawn) -> Tensor:
    code = copy.define("tools/utils.py", "soft_cross_entropy", torch=torch)
    step = copy.lines("seed/builder.py", "logit_stu = torch.einsum", "logit_tea = nn.functional.softmax")
    queue = SimpleNamespace(queue=_unit(d.anchors).T, t=0.2, temp=0.05)
    ran = step(self=queue, s_emb=_unit(d.es), t_emb=_unit(d.et))
    return code.soft_cross_entropy(ran.logit_stu, ran.logit_tea)  # type: ignore[no-any-return]


def _unit(rows: Tensor) -> Tensor:
    return nn.functional.normalize(rows, dim=1)


def _mutual(number: int) -> Callable[[Any, Drawn], Tensor]:
    """One of the four sums that MCL's code gives of two peers."""

    def of(code: Any, d: Drawn) -> Tensor:
        options = SimpleNamespace(number_net=2, feat_dim=12, kd_T=3.0, tau=0.1)
        return code.SupMCL(options)([_unit(d.es), _unit(d.et)], d.labels)[number]  # type: ignore[no-any-return]

    return of


def _matched(d: Drawn) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Logits of two linear-and-sine nets at images, for what reads gradients by inputs."""
    images = d.normal("images", 16, 3, 2, 2).requires_grad_()
    return lambda own, other: ((images.flatten(1) @ own).sin(), (images.flatten(1) @ other).sin(), images)


def _of_inputs(function: Callable[..., Tensor], d: Drawn) -> Tensor:
    weights = d.es[:12, :10], d.et[:12, :10]
    return function(*_matched(d)(*weights), d.labels)


def _averaged(d: Drawn) -> Tensor:
    return torch.stack([d.s, d.t, d.u])


CASES: list[Case] = [
    _case("kd_loss", REP, "distiller_zoo/KD.py", "DistillKL", lambda c, d: c.DistillKL(4.0)(d.s, d.t),
          lambda d: losses.kd_loss(d.s, d.t), "s"),
    _case("at_loss", REP, "distiller_zoo/AT.py", "Attention", lambda c, d: c.Attention().at_loss(d.ms, d.small_mt),
          lambda d: losses.at_loss(d.ms, d.small_mt), "ms"),
    _case("nst_loss", REP, "distiller_zoo/NST.py", "NSTLoss", lambda c, d: c.NSTLoss().nst_loss(d.ms, d.small_mt),
          lambda d: losses.nst_loss(d.ms, d.small_mt), "ms"),
    _case("hint_loss", REP, "distiller_zoo/FitNet.py", "HintLoss", lambda c, d: c.HintLoss()(d.ms, d.mt),
          lambda d: losses.hint_loss(d.ms, d.mt), "ms"),
    _case("ab_loss", REP, "distiller_zoo/AB.py", "ABLoss", lambda c, d: c.ABLoss(1)([d.ms], [d.mt])[0] * 1000 / 3,
          lambda d: losses.ab_loss(d.ms, d.mt), "ms", what="without the weight 3/1000, which is DISTILLERS' here"),
    _case("fsp_loss", REP, "distiller_zoo/FSP.py", "FSP",
          lambda c, d: c.FSP.compute_loss(c.FSP.compute_fsp([d.ms, d.deep_ms])[0], c.FSP.compute_fsp([d.mt, d.deep_mt])[0]),
          lambda d: losses.fsp_loss((d.ms, d.deep_ms), (d.mt, d.deep_mt)), "ms deep_ms"),
    Case("kdsvd_loss", REP, "distiller_zoo/KDSVD.py: KDSVD", _their_signed,
         lambda d: losses.kdsvd_loss((d.ms, d.deep_ms), (d.mt, d.deep_mt)), "ms deep_ms",
         what="with the sign of singular vectors that is chosen here"),
    _case("kdsvd_loss", REP, "distiller_zoo/KDSVD.py", "KDSVD", _their_singular,
          lambda d: losses.kdsvd_loss((d.ms, d.deep_ms), (d.mt, d.deep_mt)), "ms deep_ms",
          what="as it is", because="the sign of a singular vector is arbitrary and the loss depends on it: RepDistiller takes "
          "the one that LAPACK happens to give, here the teacher's largest component is positive"),
    _case("pkt_loss", REP, "distiller_zoo/PKT.py", "PKT", lambda c, d: c.PKT()(d.es, d.et),
          lambda d: losses.pkt_loss(d.es, d.et), "es"),
    _case("rkd_distance_loss", REP, "distiller_zoo/RKD.py", "RKDLoss", lambda c, d: c.RKDLoss(1, 0)(d.es, d.et),
          lambda d: losses.rkd_distance_loss(d.es, d.et), "es"),
    _case("rkd_angle_loss", REP, "distiller_zoo/RKD.py", "RKDLoss", lambda c, d: c.RKDLoss(0, 1)(d.es, d.et),
          lambda d: losses.rkd_angle_loss(d.es, d.et), "es"),
    _case("sp_loss", REP, "distiller_zoo/SP.py", "Similarity", lambda c, d: c.Similarity().similarity_loss(d.es, d.et),
          lambda d: losses.sp_loss(d.es, d.et), "es"),
    _case("cc_loss", REP, "distiller_zoo/CC.py", "Correlation", lambda c, d: c.Correlation()(d.es, d.et),
          lambda d: losses.cc_loss(d.es, d.et), "es"),
    _case("VIDLoss", REP, "distiller_zoo/VID.py", "VIDLoss", _their_vid, lambda d: _vid(d)(d.ms, d.small_mt), "ms"),
    _case("CRDLoss", REP, "crd/criterion.py crd/memory.py", "CRDLoss ContrastLoss Embed Normalize ContrastMemory AliasMethod",
          _their_crd, _own_crd, "es", what="the second batch"),
    _case("FactorTransfer", REP, "distiller_zoo/FT.py models/util.py", "FactorTransfer Paraphraser Translator",
          _their_factors, lambda d: _factors(d)(d.ms, d.mt), "ms"),
    _case("kd_loss", MEGVII, "mdistiller/distillers/KD.py", "kd_loss", lambda c, d: c.kd_loss(d.s, d.t, 4.0),
          lambda d: losses.kd_loss(d.s, d.t), "s"),
    _case("dkd_loss", MEGVII, "mdistiller/distillers/DKD.py", "dkd_loss _get_gt_mask _get_other_mask cat_mask",
          lambda c, d: c.dkd_loss(d.s, d.t, d.labels, 1.0, 8.0, 4.0), lambda d: losses.dkd_loss(d.s, d.t, d.labels), "s"),
    _case("hcl_loss", MEGVII, "mdistiller/distillers/ReviewKD.py", "hcl_loss", lambda c, d: c.hcl_loss([d.ms], [d.mt]),
          lambda d: losses.hcl_loss(d.ms, d.mt), "ms"),
    _case("at_loss", MEGVII, "mdistiller/distillers/AT.py", "single_stage_at_loss at_loss",
          lambda c, d: c.at_loss([d.ms], [d.small_mt], 2), lambda d: losses.at_loss(d.ms, d.small_mt), "ms"),
    _case("sp_loss", MEGVII, "mdistiller/distillers/SP.py", "similarity_loss", lambda c, d: c.similarity_loss(d.es, d.et),
          lambda d: losses.sp_loss(d.es, d.et), "es"),
    _case("pkt_loss", MEGVII, "mdistiller/distillers/PKT.py", "pkt_loss", lambda c, d: c.pkt_loss(d.es, d.et),
          lambda d: losses.pkt_loss(d.es, d.et), "es"),
    _case("nst_loss", MEGVII, "mdistiller/distillers/NST.py", "single_stage_nst_loss poly_kernel",
          lambda c, d: c.single_stage_nst_loss(d.ms, d.small_mt), lambda d: losses.nst_loss(d.ms, d.small_mt), "ms"),
    _case("ofd_loss", MEGVII, "mdistiller/distillers/OFD.py", "feat_loss",
          lambda c, d: c.feat_loss(d.ms, d.mt, -d.points[0, :6].abs().view(1, 6, 1, 1)),
          lambda d: losses.ofd_loss(d.ms, d.mt, -d.points[0, :6].abs()), "ms"),
    _case("kd_loss", ZOO, "kd_losses/st.py", "SoftTarget", lambda c, d: c.SoftTarget(4.0)(d.s, d.t),
          lambda d: losses.kd_loss(d.s, d.t), "s"),
    _case("logit_mse", ZOO, "kd_losses/logits.py", "Logits", lambda c, d: c.Logits()(d.s, d.t),
          lambda d: losses.logit_mse(d.s, d.t), "s"),
    _case("ab_loss", ZOO, "kd_losses/ab.py", "AB", lambda c, d: c.AB(1.0)(d.ms, d.mt),
          lambda d: losses.ab_loss(d.ms, d.mt, preset="kd_zoo"), "ms", what="preset kd_zoo"),
    _case("cc_loss", ZOO, "kd_losses/cc.py", "CC", lambda c, d: c.CC(0.4, 2)(d.es, d.et),
          lambda d: losses.cc_loss(d.es, d.et, preset="kd_zoo"), "es", what="preset kd_zoo"),
    _case("nst_loss", ZOO, "kd_losses/nst.py", "NST", lambda c, d: c.NST()(d.ms, d.mt),
          lambda d: losses.nst_loss(d.ms, d.mt), "ms"),
    _case("sp_loss", ZOO, "kd_losses/sp.py", "SP", lambda c, d: c.SP()(d.es, d.et), lambda d: losses.sp_loss(d.es, d.et), "es"),
    _case("jacobian_loss", ZOO, "kd_losses/sobolev.py", "Sobolev", lambda c, d: _of_inputs(c.Sobolev(), d),
          lambda d: _of_inputs(losses.jacobian_loss, d), "es"),
    _case("kd_loss", KD_LIB, "KD_Lib/KD/vision/vanilla/vanilla_kd.py", "VanillaKD.calculate_kd_loss",
          lambda c, d: c.calculate_kd_loss(
              SimpleNamespace(temp=4.0, distil_weight=1.0, loss_fn=nn.MSELoss()), d.s, d.t, d.labels),
          lambda d: losses.kd_loss(d.s, d.t, preset="kd_lib"), "s", what="preset kd_lib"),
    _case("rkd_distance_loss", KD_LIB, "KD_Lib/KD/vision/RKD/loss_metric.py", "RKDDistanceLoss pairwaise_distance",
          lambda c, d: c.RKDDistanceLoss()(d.et, d.es), lambda d: losses.rkd_distance_loss(d.es, d.et, preset="kd_lib"), "es",
          what="preset kd_lib"),
    _case("rkd_angle_loss", KD_LIB, "KD_Lib/KD/vision/RKD/loss_metric.py", "RKDAngleLoss",
          lambda c, d: c.RKDAngleLoss()(d.et, d.es), lambda d: losses.rkd_angle_loss(d.es, d.et), "es"),
    _case("at_loss", KD_LIB, "KD_Lib/KD/vision/attention/loss_metric.py", "ATLoss",
          lambda c, d: c.ATLoss()([d.mt], [d.ms]), lambda d: losses.at_loss(d.ms, d.mt), "ms",
          because="KD_Lib compares squares of single activations: without a mean over channels there is no attention map"),
    _case("kd_loss", TEXT, "src/textbrewer/losses.py", "kd_ce_loss", lambda c, d: c.kd_ce_loss(d.s, d.t, 4.0),
          lambda d: losses.kd_loss(d.s, d.t, preset="textbrewer"), "s", what="preset textbrewer"),
    _case("logit_mse", TEXT, "src/textbrewer/losses.py", "kd_mse_loss", lambda c, d: c.kd_mse_loss(d.s, d.t),
          lambda d: losses.logit_mse(d.s, d.t), "s"),
    _case("dist_loss", "hunto/DIST_KD", "segmentation/losses/dist_kd.py",
          "DIST cosine_similarity pearson_correlation inter_class_relation intra_class_relation",
          lambda c, d: c.DIST()(d.s, d.t), lambda d: losses.dist_loss(d.s, d.t, temperature=1.0), "s"),
    _case("supcon_loss", "HobbitLong/SupContrast", "losses.py", "SupConLoss",
          lambda c, d: c.SupConLoss()(_unit(d.es)[:, None], d.labels), lambda d: losses.supcon_loss(d.es, d.labels), "es"),
    _case("nt_xent_loss", "Sungwon-Han/FEDX", "losses.py", "nt_xent", lambda c, d: c.nt_xent(d.es, d.et, t=0.1),
          lambda d: losses.nt_xent_loss(d.es, d.et, temperature=0.1), "es et"),
    _case("relational_loss", "Sungwon-Han/FEDX", "losses.py", "js_loss",
          lambda c, d: c.js_loss(d.es, d.et, d.anchors, 0.1, 0.01),
          lambda d: losses.relational_loss(d.es, d.et, d.anchors, temperature=0.1, target_temperature=0.01), "es et"),
    _case("not_true_loss", "Lee-Gihun/FedNTD", "algorithms/fedntd/criterion.py algorithms/fedntd/utils.py",
          "NTD_Loss refine_as_not_true", lambda c, d: c.NTD_Loss(10, 1.0)._ntd_loss(d.s, d.t, d.labels),
          lambda d: losses.not_true_loss(d.s, d.t, d.labels), "s"),
    _case("label_masking_loss", "wnma3mz/FedLMD", "src/algorithms/fedlmd/criterion.py", "lmd_criterion _get_gt_mask",
          lambda c, d: c.lmd_criterion(d.s, d.t, d.labels, 2.0, torch.tensor([1, 4, 6])),
          lambda d: losses.label_masking_loss(
              d.s, d.t, d.labels, torch.isin(torch.arange(10), torch.tensor([1, 4, 6])), temperature=2.0), "s"),
    _case("model_contrastive_loss", "wnma3mz/FedLMD", "src/algorithms/moon/criterion.py", "ModelContrastiveLoss",
          lambda c, d: c.ModelContrastiveLoss(1.0, 0.5)(d.s, d.labels, d.es, d.anchors[:16], d.et)
          - nn.functional.cross_entropy(d.s, d.labels),
          lambda d: losses.model_contrastive_loss(d.es, d.et, d.anchors[:16]), "es"),
    _case("tfkd_reg_loss", "yuanli2333/Teacher-free-Knowledge-Distillation", "my_loss_function.py", "loss_kd_regularization",
          lambda c, d: c.loss_kd_regularization(
              d.s, d.labels, SimpleNamespace(reg_alpha=1.0, reg_temperature=20.0, multiplier=1.0)),
          lambda d: losses.tfkd_reg_loss(d.s, d.labels), "s"),
    _case("cskd_loss", "alinlab/cs-kd", "train.py", "KDLoss",
          lambda c, d: nn.functional.cross_entropy(d.s, d.labels) + c.KDLoss(4.0)(d.s, d.t),
          lambda d: losses.cskd_loss(d.s, d.t, d.labels), "s"),
    _case("logit_standardize", "sunshangquan/logit-standardization-KD", "mdistiller/distillers/KD.py", "normalize",
          lambda c, d: c.normalize(d.s) * d.t, lambda d: losses.logit_standardize(d.s) * d.t, "s"),
    Case("wsld_loss", "bellymonster/Weighted-Soft-Label-Distillation", "knowledge_distiller.py: WSLDistiller.forward",
         lambda copy, d: copy.lines("knowledge_distiller.py", "s_input_for_softmax =", "soft_loss =")(
             fc_s=d.wide_s, fc_t=d.wide_t, label=d.labels,
             self=SimpleNamespace(T=2, softmax=nn.Softmax(1), logsoftmax=nn.LogSoftmax(1))).soft_loss,
         lambda d: losses.wsld_loss(d.wide_s, d.wide_t, d.labels), "wide_s", what="1000 classes, as is written there"),
    _case("supcon_loss", "winycg/MCL", "losses/cifar_sup_mcl_loss.py", "SupMCL KLDiv", _mutual(0),
          lambda d: sum(losses.supcon_loss(rows, d.labels, temperature=0.1) for rows in (d.es, d.et)), "es et"),
    _case("soft_similarity_loss", "winycg/MCL", "losses/cifar_sup_mcl_loss.py", "SupMCL KLDiv", _mutual(1),
          lambda d: losses.soft_similarity_loss(d.es, d.et) + losses.soft_similarity_loss(d.et, d.es), "es et"),
    _case("icl_loss", "winycg/MCL", "losses/cifar_sup_mcl_loss.py", "SupMCL KLDiv", _mutual(2),
          lambda d: losses.icl_loss(d.es, d.et, d.labels), "es et"),
    _case("soft_icl_loss", "winycg/MCL", "losses/cifar_sup_mcl_loss.py", "SupMCL KLDiv", _mutual(3),
          lambda d: losses.soft_icl_loss(d.es, d.et), "es et"),
    _case("ofd_margin", "clovaai/overhaul-distillation", "ImageNet/distiller.py", "get_margin_from_BN",
          lambda c, d: c.get_margin_from_BN(SimpleNamespace(weight=d.points[0], bias=d.points[1])),
          lambda d: losses.ofd_margin(d.points[0], d.points[1]), ""),
    _case("cwd_loss", "irfanICMLL/TorchDistiller", "SemSeg-distill/utils/criterion.py", "CriterionCWD ChannelNorm",
          lambda c, d: c.CriterionCWD("channel", "kl", 4.0)(d.ms, d.mt), lambda d: losses.cwd_loss(d.ms, d.mt), "ms"),
    Case("seed_loss", "jacobswan1/SEED", "seed/builder.py: forward, tools/utils.py: soft_cross_entropy", _their_seed,
         lambda d: losses.seed_loss(d.es, d.et, d.anchors, teacher_temperature=0.05), "es", what="teacher's temperature 0.05"),
    _case("confidence", "Rorozhl/CA-MKD", "distiller_zoo/CAMKD.py", "CAMKD",
          lambda c, d: c.CAMKD()([d.es] * 3, [d.et] * 3, list(_averaged(d)), d.labels)[1],
          lambda d: targets.confidence_weights(_averaged(d), d.labels), "", what="shares of three teachers"),
    _case("min_norm", "AnTuo1998/AE-KD", "helper/optimization.py", "find_optimal_svm",
          lambda c, d: c.find_optimal_svm(d.points[:3, None], nu=1 / (3 * 0.6), is_norm=False).double(),
          lambda d: targets.min_norm_weights(d.points[:3], cap=0.6), "", what="shares of three teachers, cap 0.6"),
    Case("attention", "DefangChen/OKDDip-AAAI2020", "models/model_cifar/resnet_GL.py: forward",
         lambda copy, d: copy.lines("models/model_cifar/densenet_GL.py", "energy =", "x_m =")(
             proj_q=d.normal("queries", 3, 16, 4).transpose(0, 1), proj_k=d.normal("keys", 3, 16, 4).transpose(0, 1),
             pro=_averaged(d).permute(1, 2, 0)).x_m.permute(2, 0, 1),
         lambda d: targets.attention(_averaged(d), d.normal("queries", 3, 16, 4), d.normal("keys", 3, 16, 4)).values, "",
         what="targets of three peers"),
]  # fmt: skip
