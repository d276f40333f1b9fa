"""Name -> base, as the ``base`` field of a strategy has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fedkd.base.errors import InputError, did_you_mean
from fedkd.experiment.registry import build_class
from fedkd.methods.contrastive.base import Base
from fedkd.methods.contrastive.byol import BYOL
from fedkd.methods.contrastive.divergence_aware import DivergenceAwarePredictor
from fedkd.methods.contrastive.divergence_mixed import DivergenceAwareAverage
from fedkd.methods.contrastive.moco import MoCo
from fedkd.methods.contrastive.protocl import ProtoCL
from fedkd.methods.contrastive.simclr import SimCLR

BASES: dict[str, type[Base[Any]]] = {
    "simclr": SimCLR,
    "moco": MoCo,
    "protocl": ProtoCL,
    "byol": BYOL,
    "fedu": DivergenceAwarePredictor,
    "fedema": DivergenceAwareAverage,
}
#: Those that have a temperature: a field with a default.
WITH_TEMPERATURE = [name for name, base in BASES.items() if hasattr(base, "temperature")]


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
