"""What the authors' code, or the library a preset names, gives for the same numbers: values and gradients, computed once.

The inputs are sines, so that no generator has a say. Weights that belong to the caller are left out: AB's 3/1000 and the like.
"""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import fedkd.losses as losses


def wave(pitch: float, *shape: int) -> Tensor:
    return (torch.arange(1, math.prod(shape) + 1, dtype=torch.float64) * pitch).sin().view(shape)


def filled(module: nn.Module) -> nn.Module:
    """The module in float64, with sines for parameters."""
    for number, parameter in enumerate(module.double().parameters()):
        nn.init.constant_(parameter, 0).data.add_(wave(0.7 + 0.1 * number, *parameter.shape) / 2)
    return module


S, T = 4 * wave(1.1, 6, 5), 4 * wave(1.7, 6, 5)  # logits
LABELS = torch.tensor([0, 3, 1, 0, 3, 1])
MAJORITY = torch.tensor([True, False, False, True, False])  # classes
MS, MT = wave(1.1, 3, 4, 4, 4), wave(1.7, 3, 4, 4, 4)  # maps
DEEPER_S, SMALL_T, DEEPER_T = wave(0.7, 3, 6, 2, 2), wave(1.3, 3, 4, 2, 2), wave(2.3, 3, 6, 2, 2)
ES, ET = wave(1.1, 6, 7), wave(1.7, 6, 7)  # embeddings
QUEUE = wave(0.9, 4, 7)
BATCH_NORM = wave(0.8, 4), wave(1.9, 4)  # weight and bias

Loss = Callable[..., Tensor]
CASES: dict[str, tuple[Loss, list[Tensor], float, float]] = {
    # name and library: call, the student's tensors, value, derivative along the sines of pitch 2.9
    "kd RepDistiller": (lambda s: losses.kd_loss(s, T), [S], 6.92159393804, 0.147272700272),
    "kd KD_Lib": (lambda s: losses.kd_loss(s, T, preset="kd_lib"), [S], 0.518145074351, 0.0480495552252),
    "kd TextBrewer": (lambda s: losses.kd_loss(s, T, preset="textbrewer"), [S], 1.83568637862, 0.00920454376702),
    "logit_mse TextBrewer": (lambda s: losses.logit_mse(s, T), [S], 16.7291389474, 0.0622570309286),
    "dkd mdistiller": (lambda s: losses.dkd_loss(s, T, LABELS), [S], 51.0594706952, 3.75606020006),
    "dist authors": (lambda s: losses.dist_loss(s, T), [S], 30.6845151045, 3.02966487233),
    "wsld authors": (lambda s: losses.wsld_loss(s, T, LABELS), [S], 7.52430060109, 0.0475006765438),
    "tfkd_reg authors": (lambda s: losses.tfkd_reg_loss(s, LABELS), [S], 0.473187477608, -0.000105551667101),
    "cskd authors": (lambda s: losses.cskd_loss(s, T, LABELS), [S], 11.0443182966, -0.227043340755),
    "logit_standardize authors": (
        lambda s: losses.kd_loss(losses.logit_standardize(s), losses.logit_standardize(T), temperature=2.0),
        [S],
        0.758752069581,
        0.0270670812693,
    ),
    "at RepDistiller": (lambda s: losses.at_loss(s, SMALL_T), [MS], 0.0224357951502, 0.00263726504867),
    "at torchdistill paper": (lambda s: losses.at_loss(s, MT, preset="paper"), [MS], 0.267684157725, 0.0262345703919),
    "nst RepDistiller": (lambda s: losses.nst_loss(s, SMALL_T), [MS], 0.22002619775, 0.00471589567751),
    "hint RepDistiller": (lambda s: losses.hint_loss(s, MT), [MS], 0.992107416793, 0.00666686980285),
    "ab RepDistiller": (lambda s: losses.ab_loss(s, MT), [MS], 93.0848899677, 1.15785735747),
    "ab KD-Zoo": (lambda s: losses.ab_loss(s, MT, preset="kd_zoo"), [MS], 1.45445140575, 0.0180915212104),
    "ofd authors": (
        lambda s: losses.ofd_loss(s, MT, losses.ofd_margin(*BATCH_NORM)),
        [MS],
        51.9810605185,
        7.42512804575,
    ),
    "cwd authors": (lambda s: losses.cwd_loss(s, MT), [MS], 0.488822192225, 0.0206276166408),
    "fsp RepDistiller": (
        lambda a, b: losses.fsp_loss((a, b), (MT, DEEPER_T)),
        [MS, DEEPER_S],
        0.0457619504576,
        -0.00610127763184,
    ),
    "fsp torchdistill": (
        lambda a, b: losses.fsp_loss((a, b), (MT, DEEPER_T), preset="torchdistill"),
        [MS, DEEPER_S],
        5.05532257435,
        -0.175851356673,
    ),
    "hcl authors": (lambda s: losses.hcl_loss(s, MT), [MS], 0.657024785254, 0.00341680122932),
    "sp RepDistiller": (lambda s: losses.sp_loss(s, ET), [ES], 0.287004304796, 0.000908024363689),
    "sp torchdistill": (lambda s: losses.sp_loss(s, ET, preset="torchdistill"), [ES], 0.0593636687729, -0.00138051049474),
    "cc RepDistiller": (lambda s: losses.cc_loss(s, ET), [ES], 4.5178380907, -2.20428255762),
    "cc torchdistill": (lambda s: losses.cc_loss(s, ET, preset="torchdistill"), [ES], 0.207164529369, 0.0160754598887),
    "cc KD-Zoo": (lambda s: losses.cc_loss(s, ET, preset="kd_zoo"), [ES], 0.105490820797, 0.00240808435162),
    "rkd_distance RepDistiller": (lambda s: losses.rkd_distance_loss(s, ET), [ES], 0.146139419436, 0.00506266948132),
    "rkd_distance KD_Lib": (
        lambda s: losses.rkd_distance_loss(s, ET, preset="kd_lib"),
        [ES],
        0.146139408664,
        0.0050626692164,
    ),
    "rkd_distance mmrazor": (
        lambda s: losses.rkd_distance_loss(s, ET, preset="mmrazor"),
        [ES],
        0.142922223901,
        0.0053157381824,
    ),
    "rkd_angle RepDistiller": (lambda s: losses.rkd_angle_loss(s, ET), [ES], 0.170256670938, -0.000739310292595),
    "rkd_angle mmrazor": (lambda s: losses.rkd_angle_loss(s, ET, preset="mmrazor"), [ES], 0.16678992953, 0.000793156111836),
    "pkt authors": (lambda s: losses.pkt_loss(s, ET), [ES], 0.124835756006, 0.00323952595265),
    "supcon authors": (lambda s: losses.supcon_loss(s, LABELS), [ES], 16.2385285443, 0.963600556083),
    # 0.07 is the temperature of the authors' ImageNet code, which gave these numbers.
    "icl authors": (lambda a, b: losses.icl_loss(a, b, LABELS, temperature=0.07), [ES, ET], 12.0266086029, -2.01253376091),
    "soft_icl authors": (partial(losses.soft_icl_loss, similarity_temperature=0.07), [ES, ET], 15.8733248579, -5.9729786155),
    "soft_similarity authors": (
        lambda s: losses.soft_similarity_loss(s, ET, similarity_temperature=0.07),
        [ES],
        9.22868697226,
        -0.0439961102783,
    ),
    "seed authors": (lambda s: losses.seed_loss(s, ET, QUEUE), [ES], 2.67704510529, 0.171979754983),
    "not_true authors": (lambda s: losses.not_true_loss(s, T, LABELS), [S], 2.71537437273, 0.263671792082),
    "label_masking authors": (
        lambda s: losses.label_masking_loss(s, T, LABELS, MAJORITY, temperature=2.0),
        [S],
        6.092129131616,
        0.0153841026859,
    ),
    "nt_xent FedX": (
        lambda a, b: losses.nt_xent_loss(a, b, temperature=0.1),
        [ES, ET],
        7.42844375613,
        -0.570001074719,
    ),
    "relational authors": (
        lambda a, b: losses.relational_loss(a, b, QUEUE, temperature=0.1, target_temperature=0.01),
        [ES, ET],
        0.092146269567,
        0.0295829878512,
    ),
    "model_contrastive authors": (
        lambda s: losses.model_contrastive_loss(s, ET, ES.flip(0)),
        [ES],
        1.17504913708,
        -0.0124807598147,
    ),
}


def crd_after_a_batch(student: Tensor) -> Tensor:
    """CRD's second batch: banks and normalisation are those that the first has left."""
    crd = filled(losses.CRDLoss(7, 7, samples=12, dim=4, negatives=11))
    assert isinstance(crd, losses.CRDLoss)
    crd.student_bank.copy_(wave(0.3, 12, 4))
    crd.teacher_bank.copy_(wave(0.4, 12, 4))
    crd.draw = lambda ids, rng=None: (ids[:, None] + torch.arange(1, 12)) % 12  # type: ignore[method-assign]
    crd(ET, ES, torch.tensor([0, 2, 4, 6, 8, 10]))
    return crd(student, ET, torch.tensor([1, 2, 3, 4, 5, 6]))  # type: ignore[no-any-return]


def sskd(logits: Tensor, features: Tensor) -> Tensor:
    teacher = 4 * wave(1.7, 24, 5), wave(1.3, 24, 7)
    return filled(losses.SSKDLoss(6, 7))(logits, features, *teacher, LABELS)  # type: ignore[no-any-return]


def semckd(shallow: Tensor, deep: Tensor) -> Tensor:
    module = filled(losses.SemCKD([(4, 4, 4), (6, 2, 2)], [(4, 4, 4), (6, 2, 2)], batch_size=8))
    return module([shallow, deep], [wave(1.7, 8, 4, 4, 4), wave(2.3, 8, 6, 2, 2)])  # type: ignore[no-any-return]


def review(shallow: Tensor, deep: Tensor) -> Tensor:
    module = filled(losses.ReviewKD([(4, 4, 4), (6, 2, 2)], [(4, 4, 4), (6, 2, 2)]))
    return module([shallow, deep], [MT, DEEPER_T])  # type: ignore[no-any-return]


MODULES: dict[str, tuple[Loss, list[Tensor], float, float]] = {
    "VIDLoss RepDistiller": (lambda s: filled(losses.VIDLoss(4, 4))(s, SMALL_T), [MS], 0.228874480087, 2.79563531304e-05),
    "FactorTransfer RepDistiller": (
        lambda s: filled(losses.FactorTransfer(4, 4))(s, SMALL_T),
        [MS],
        0.309942411866,
        0.327562788066,
    ),
    "FactorTransfer authors": (
        lambda s: filled(losses.FactorTransfer(4, 4, preset="official"))(s, MT),
        [MS],
        0.158789328892,
        0.0105356496387,
    ),
    "ReviewKD authors": (review, [MS, DEEPER_S], 1.20755152207, 0.154272674823),
    "SemCKD authors": (semckd, [wave(1.1, 8, 4, 4, 4), wave(0.7, 8, 6, 2, 2)], 0.655964036742, -0.00191490823355),
    "SSKDLoss authors": (sskd, [4 * wave(1.1, 24, 5), wave(0.9, 24, 6)], 25.7587653006, 1.01562141241),
    "CRDLoss authors": (crd_after_a_batch, [ES], 48.0641595161, 1.32750826689),
}


@pytest.mark.recomputed(
    "kd_loss",
    "logit_mse",
    "dkd_loss",
    "dist_loss",
    "wsld_loss",
    "tfkd_reg_loss",
    "cskd_loss",
    "logit_standardize",
    "at_loss",
    "nst_loss",
    "hint_loss",
    "ab_loss",
    "ofd_loss",
    "ofd_margin",
    "cwd_loss",
    "fsp_loss",
    "hcl_loss",
    "sp_loss",
    "cc_loss",
    "rkd_distance_loss",
    "rkd_angle_loss",
    "pkt_loss",
    "supcon_loss",
    "icl_loss",
    "soft_icl_loss",
    "soft_similarity_loss",
    "seed_loss",
    "not_true_loss",
    "label_masking_loss",
    "nt_xent_loss",
    "relational_loss",
    "model_contrastive_loss",
    "VIDLoss",
    "FactorTransfer",
    "ReviewKD",
    "SemCKD",
    "SSKDLoss",
    "CRDLoss",
    by="code",
)
@pytest.mark.parametrize("name", [*CASES, *MODULES])
def test_a_loss_is_that_of_the_code_it_is_named_after(name: str) -> None:
    loss, tensors, *expected = (CASES | MODULES)[name]
    students = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    value = loss(*students)
    gradients = torch.autograd.grad(value, students)
    derivative = sum(float((gradient * wave(2.9, *gradient.shape)).sum()) for gradient in gradients)
    assert [value.item(), derivative] == pytest.approx(expected, rel=1e-9, abs=1e-11)


@pytest.mark.recomputed("jacobian_loss", by="code")
def test_the_jacobian_loss_is_that_of_kd_zoo() -> None:
    student, teacher = wave(1.1, 12, 3).requires_grad_(), wave(1.7, 12, 3)
    images = wave(0.9, 3, 3, 2, 2).requires_grad_()
    flat = images.flatten(1)
    loss = losses.jacobian_loss((flat @ student).sin(), (flat @ teacher).sin(), images, torch.tensor([0, 2, 1]))
    (gradient,) = torch.autograd.grad(loss, student)
    derivative = float((gradient * wave(2.9, 12, 3)).sum())
    assert [loss.item(), derivative] == pytest.approx([0.164795913196, 0.00426920194028], rel=1e-9)
