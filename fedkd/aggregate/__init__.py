"""Reductions over uploads: pure functions, clients in order of their id, weights that sum to one.

What means something other than weights goes through ``stack``, which refuses to mix spaces. All of them compute in float64
and give back the type of their input; values are (K, P, C): clients, public samples (or classes), classes (or features).
"""

from fedkd.aggregate.entropy import entropy_reduction, power
from fedkd.aggregate.geometric import geometric_median
from fedkd.aggregate.learned import learned_coefficients, personalised
from fedkd.aggregate.outlier_weights import discounted, outlier_scores
from fedkd.aggregate.reductions import REDUCTIONS
from fedkd.aggregate.robust import median, trimmed_mean
from fedkd.aggregate.simplex import nearest_on_simplex, renormalise
from fedkd.aggregate.spectral import spectral_filter
from fedkd.aggregate.stack import stack
from fedkd.aggregate.tables import leave_one_out, masked_mean, mean
from fedkd.aggregate.variance import equal_scales, variance_weights
from fedkd.aggregate.weights import weighted_mean

__all__ = [
    "REDUCTIONS",
    "discounted",
    "entropy_reduction",
    "equal_scales",
    "geometric_median",
    "learned_coefficients",
    "leave_one_out",
    "masked_mean",
    "mean",
    "median",
    "nearest_on_simplex",
    "outlier_scores",
    "personalised",
    "power",
    "renormalise",
    "spectral_filter",
    "stack",
    "trimmed_mean",
    "variance_weights",
    "weighted_mean",
]
