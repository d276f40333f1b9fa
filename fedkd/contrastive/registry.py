"""Name -> base, as the ``base`` field of a strategy has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fedkd.contrastive.base import Base
from fedkd.contrastive.byol import BYOL
from fedkd.contrastive.divergence_aware import DivergenceAwarePredictor
from fedkd.contrastive.divergence_mixed import DivergenceAwareAverage
from fedkd.contrastive.moco import MoCo
from fedkd.contrastive.protocl import ProtoCL
from fedkd.contrastive.simclr import SimCLR
from fedkd.errors import InputError, did_you_mean
from fedkd.registry import build_class

BASES: dict[str, type[Base[Any]]] = {
    "simclr": SimCLR,
    "moco": MoCo,
    "protocl": ProtoCL,
    "byol": BYOL,
    "fedu": DivergenceAwarePredictor,
    "fedema": DivergenceAwareAverage,
}


def make_base(name: str, options: Mapping[str, Any], *, temperature: float) -> Base[Any]:
    """The base of this name. It gets the strategy's temperature if it has one, and the options that are its own fields.

    Raises:
        InputError: an unknown base or option, a bad value, a base without a projection head.

    >>> make_base("moco", {"queue": 1024}, temperature=0.1)
    MoCo(temperature=0.1, queue=1024, momentum=0.99, resync=False)
    """
    if name not in BASES:
        raise InputError(f"strategy.base: unknown base {name!r}: {did_you_mean(name, BASES)}")
    cls = BASES[name]
    if "projection" not in cls.heads:
        raise InputError(f"strategy.base: {name!r} has no projection head, which is compared here: put it among its heads")
    shared = {"temperature": temperature} if "temperature" in {field.name for field in fields(cls)} else {}  # type: ignore[arg-type]
    return build_class(cls, {**shared, **options}, key="strategy.base_options")
