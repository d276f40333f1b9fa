"""Losses beside torchdistill's, by the presets that bear its name."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from official.case import Case, Drawn
from official.copies import Copy
from torch import Tensor

from fedkd import losses

CODE, FILE = "yoshitomo-matsubara/torchdistill", "torchdistill/losses/mid_level.py"
KNOWN: dict[str, Any] = {
    "register_mid_level_loss": lambda cls: cls,
    "normalize": F.normalize,
    "adaptive_max_pool2d": F.adaptive_max_pool2d,
}
SHARED = {"student_output_path": "net", "teacher_output_path": "net", "reduction": "batchmean"}


def _module(copy: Copy, name: str, **settings: Any) -> Any:
    return getattr(copy.define(FILE, f"{name} _extract_feature_map", **KNOWN), name)(**settings)


def _of_paths(module: Any, student: Tensor, teacher: Tensor) -> Tensor:
    """What the module gives for nets whose outputs are these."""
    return module({"net": {"output": student}}, {"net": {"output": teacher}})  # type: ignore[no-any-return]


def _at(copy: Copy, d: Drawn, mode: str) -> Tensor:
    pairs = {"maps": {side: {"io": "output", "path": "net"} for side in ("student", "teacher")}}
    return _of_paths(_module(copy, "ATLoss", at_pairs=pairs, mode=mode), d.ms, d.mt)


def _fsp(copy: Copy, d: Drawn) -> Tensor:
    places = {
        f"{side}_{place}": {"io": "output", "path": place} for side in ("student", "teacher") for place in ("first", "second")
    }
    module = _module(copy, "FSPLoss", fsp_pairs={"maps": places})
    student, teacher = ({"first": {"output": a}, "second": {"output": b}} for a, b in ((d.ms, d.deep_ms), (d.mt, d.deep_mt)))
    return module(student, teacher)  # type: ignore[no-any-return]


def _cc(copy: Copy, d: Drawn) -> Tensor:
    kernel = {"type": "gaussian", "gamma": 0.4, "max_p": 2}
    paths = {"student_linear_path": "net", "teacher_linear_path": "net", "reduction": "batchmean"}
    return _of_paths(_module(copy, "CCKDLoss", kernel_config=kernel, **paths), d.es, d.et)


CASES: list[Case] = [
    Case("at_loss", CODE, f"{FILE}: ATLoss", lambda copy, d: _at(copy, d, "paper"),
         lambda d: losses.at_loss(d.ms, d.mt, preset="paper"), "ms", what="preset paper"),
    Case("at_loss", CODE, f"{FILE}: ATLoss", lambda copy, d: _at(copy, d, "code"),
         lambda d: losses.at_loss(d.ms, d.mt), "ms"),
    Case("fsp_loss", CODE, f"{FILE}: FSPLoss", _fsp,
         lambda d: losses.fsp_loss((d.ms, d.deep_ms), (d.mt, d.deep_mt), preset="torchdistill"), "ms deep_ms",
         what="preset torchdistill"),
    Case("sp_loss", CODE, f"{FILE}: SPKDLoss",
         lambda copy, d: _of_paths(_module(copy, "SPKDLoss", **SHARED), d.es, d.et),
         lambda d: losses.sp_loss(d.es, d.et, preset="torchdistill"), "es", what="preset torchdistill"),
    Case("sp_loss", CODE, f"{FILE}: SPKDLoss",
         lambda copy, d: _of_paths(_module(copy, "SPKDLoss", **SHARED), d.es, d.et),
         lambda d: losses.sp_loss(d.es, d.et), "es", what="beside the default",
         because="torchdistill divides rows by the sum of their magnitudes, where the paper and others take the 2-norm"),
    Case("cc_loss", CODE, f"{FILE}: CCKDLoss", _cc,
         lambda d: losses.cc_loss(d.es, d.et, preset="torchdistill"), "es", what="preset torchdistill"),
]  # fmt: skip
