"""The [asynchrony] section of the experiment file: rounds without a cohort, each as long as its first few uploads take."""

from __future__ import annotations

from pydantic import Field

from fedkd.experiment.algorithm.section import Section


class Asynchrony(Section):
    """With participation = "async": clients train all the time, and the server works whenever enough uploads have come.

    After FedBuff: Nguyen et al., Federated Learning with Buffered Asynchronous Aggregation, AISTATS 2022, arXiv 2106.06639.
    """

    buffer: int = Field(0, ge=0)
    """Uploads of a round: as soon as so many have come, the server works and the next round begins. ``buffer = 10``"""
    concurrency: int = Field(0, ge=0)
    """Clients that are at work at any time; 0 is all of them. ``concurrency = 20``"""
    staleness: float = Field(0.5, ge=0)
    """Of an upload that is s rounds old (1 + s) to the power of minus this is left; 0: all count alike. ``staleness = 1.0``"""
    rebase: bool = True
    """Whether a stale upload of weights counts as a step: the part that staleness leaves of what its client changed is added to
    the newest broadcast. Else it is the net that it is, of less weight, as where uploaded nets teach. ``rebase = false``
    """
