"""Losses: pure functions on tensors, one idea a file; modules where a loss has parameters of its own.

A loss returns a scalar tensor ``()``, unweighted. Beside losses there are what goes into some of them: ``logit_standardize``,
``ofd_margin``, ``rotations``, ``draw_triplets``, ``instance_similarities``, ``majority_labels``, and the connectors between
maps of different shapes.

All of them compute in at least float32 whatever the inputs' type and whatever autocast region they are called from;
float64 stays float64. Where a student learns from a teacher, the student comes first and the teacher is a constant.
"""

from fedkd.losses.activation_boundary import ab_loss
from fedkd.losses.attention_transfer import at_loss
from fedkd.losses.byol import byol_loss
from fedkd.losses.channel_wise import cwd_loss
from fedkd.losses.class_wise import cskd_loss
from fedkd.losses.compress import compress_loss
from fedkd.losses.connectors import BoundaryConnector, ConvolutionalRegressor, OverhaulConnector
from fedkd.losses.correlation_congruence import cc_loss
from fedkd.losses.crd import CRDLoss
from fedkd.losses.cross_correlation import fccl_loss
from fedkd.losses.cross_entropy import cross_entropy_loss, labelled_cross_entropy
from fedkd.losses.decoupled import dkd_loss
from fedkd.losses.disagreement import disagreement
from fedkd.losses.distillation import kd_loss
from fedkd.losses.diversity import diversity_loss
from fedkd.losses.factor_transfer import FactorTransfer
from fedkd.losses.hint import hint_loss
from fedkd.losses.info_nce import info_nce_loss
from fedkd.losses.instance_similarity import instance_similarities, instance_similarity_loss
from fedkd.losses.jacobian import jacobian_loss
from fedkd.losses.kdsvd import kdsvd_loss
from fedkd.losses.label_masking import label_masking_loss, majority_labels
from fedkd.losses.logit_distance import logit_mae, logit_mse
from fedkd.losses.logit_standard import logit_standardize
from fedkd.losses.model_contrastive import model_contrastive_loss
from fedkd.losses.mutual_contrastive import icl_loss, soft_icl_loss, soft_similarity_loss
from fedkd.losses.neuron_selectivity import nst_loss
from fedkd.losses.not_true import not_true_loss
from fedkd.losses.nt_xent import nt_xent_loss
from fedkd.losses.overhaul import ofd_loss, ofd_margin
from fedkd.losses.pearson import dist_loss
from fedkd.losses.pkt import pkt_loss
from fedkd.losses.prototype import prototype_loss
from fedkd.losses.prototype_contrast import proto_nce_loss, prototype_concentrations
from fedkd.losses.proximal import proximal_term
from fedkd.losses.relation_votes import draw_triplets, relation_vote_loss
from fedkd.losses.relational import relational_loss
from fedkd.losses.review import ReviewKD, hcl_loss
from fedkd.losses.rkd import rkd_angle_loss, rkd_distance_loss
from fedkd.losses.seed import seed_loss
from fedkd.losses.self_supervision import SSKDLoss, rotations
from fedkd.losses.semckd import SemCKD
from fedkd.losses.similarity_preserving import sp_loss
from fedkd.losses.soft_cross_entropy import soft_cross_entropy
from fedkd.losses.solution_flow import fsp_loss
from fedkd.losses.supervised_contrastive import supcon_loss
from fedkd.losses.teacher_free import tfkd_reg_loss
from fedkd.losses.unifying import unify_loss
from fedkd.losses.variational import VIDLoss
from fedkd.losses.weighted_soft_labels import wsld_loss

__all__ = [
    "BoundaryConnector",
    "CRDLoss",
    "ConvolutionalRegressor",
    "FactorTransfer",
    "OverhaulConnector",
    "ReviewKD",
    "SSKDLoss",
    "SemCKD",
    "VIDLoss",
    "ab_loss",
    "at_loss",
    "byol_loss",
    "cc_loss",
    "compress_loss",
    "cross_entropy_loss",
    "cskd_loss",
    "cwd_loss",
    "disagreement",
    "dist_loss",
    "diversity_loss",
    "dkd_loss",
    "draw_triplets",
    "fccl_loss",
    "fsp_loss",
    "hcl_loss",
    "hint_loss",
    "icl_loss",
    "info_nce_loss",
    "instance_similarities",
    "instance_similarity_loss",
    "jacobian_loss",
    "kd_loss",
    "kdsvd_loss",
    "label_masking_loss",
    "labelled_cross_entropy",
    "logit_mae",
    "logit_mse",
    "logit_standardize",
    "majority_labels",
    "model_contrastive_loss",
    "not_true_loss",
    "nst_loss",
    "nt_xent_loss",
    "ofd_loss",
    "ofd_margin",
    "pkt_loss",
    "proto_nce_loss",
    "prototype_concentrations",
    "prototype_loss",
    "proximal_term",
    "relation_vote_loss",
    "relational_loss",
    "rkd_angle_loss",
    "rkd_distance_loss",
    "rotations",
    "seed_loss",
    "soft_cross_entropy",
    "soft_icl_loss",
    "soft_similarity_loss",
    "sp_loss",
    "supcon_loss",
    "tfkd_reg_loss",
    "unify_loss",
    "wsld_loss",
]
