"""Each client its own data: what a client and the server have in common, which is what all agreed on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from fedkd.base.inputs import Inputs
from fedkd.data.federation import Federation
from fedkd.data.kinds import Moments
from fedkd.data.own.agreement import Agreement


@dataclass(frozen=True, eq=False, kw_only=True)
class OwnFederation(Federation):
    """What a node knows of a federation in which nobody has all data."""

    agreement: Agreement

    @property
    def all_client_moments(self) -> Sequence[Moments]:
        """They are not told."""
        return ()

    def moments_for(self, inputs: Inputs, rows: Tensor) -> Moments:
        """Those that all agreed on; under ``client`` the rows' own."""
        return self.source.kind.measure(inputs, rows) if self.normalise == "client" else self.agreement.moments

    @cached_property
    def facts(self) -> dict[str, str]:
        """Classes and public set."""
        return {"label_space": self.label_space, "public_set": self.public_hash}
