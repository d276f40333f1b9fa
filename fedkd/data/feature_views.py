"""Random views of features: of the rows of a table, and of signals."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.base.randomness import generator
from fedkd.data.kinds import Moments
from fedkd.data.samples import Samples

#: Of a row's features ``corrupt`` replaces this share: SCARF's.
CORRUPTED = 0.6
#: Standard deviations of what ``jitter_scale`` adds to a value, and of what it multiplies a feature by.
JITTER, SCALING = 0.05, 0.1


def corrupt(vectors: Tensor, seed: int, samples: Samples, moments: Moments) -> Tensor:
    """SCARF's views of a table (Bahri et al. 2022, arXiv 2106.15147): 60 % of a row's features are those of other rows.

    Which features is drawn for each row (B, F); each is replaced by that of a row of the split, one drawn for itself: by its
    empirical marginal. The paper contrasts such a view with the row as it is; here both views of a pair are drawn.
    """
    B, F = vectors.shape
    rng = generator(seed, "corrupt")
    chosen = torch.rand(B, F, generator=rng).argsort(1).argsort(1) < max(1, int(CORRUPTED * F))  # (B, F) bool
    donors = samples.indices[torch.randint(len(samples), (B, F), generator=rng)]  # (B, F)
    assert isinstance(samples.inputs, Tensor)
    drawn = samples.inputs[donors, torch.arange(F)].to(vectors.device)  # (B, F)
    views = samples.kind.normalise(vectors.where(~chosen.to(vectors.device), drawn), moments)
    assert isinstance(views, Tensor)
    return views


def jitter_scale(signals: Tensor, seed: int, samples: Samples, moments: Moments) -> Tensor:
    """Signals scaled and with noise (Um et al. 2017, arXiv 1706.00527; the weak views of TS-TCC, arXiv 2106.14112).

    Each feature of a sample times one draw of N(1, 0.1), and at each time plus one of N(0, 0.05), of signals (B, L, F) as
    the net takes them: of standard deviation 1, unless data.normalise is "none".
    """
    B, L, F = signals.shape
    rng = generator(seed, "jitter and scale")
    factors = 1 + SCALING * torch.randn(B, 1, F, generator=rng)
    noise = JITTER * torch.randn(B, L, F, generator=rng)
    plain = samples.kind.normalise(signals, moments)
    assert isinstance(plain, Tensor)
    return plain * factors.to(plain.device) + noise.to(plain.device)
