"""Is my strategy, net or codec what fedkd takes it for? The very checks that fedkd's own pass, for anybody's.

>>> from fedkd.testing import check_codec
>>> check_codec("float16")

Each failure is an AssertionError in one line: what was checked, in which setting, what was expected, what was found and where
to look. With pytest each check is a test of its own::

    @pytest.mark.parametrize("check", fedkd.testing.strategy_checks(MyMethod))
    def test_my_method(check):
        check()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedkd.testing.check import Check
    from fedkd.testing.codecs import check_codec, codec_checks
    from fedkd.testing.nets import check_net, net_checks
    from fedkd.testing.strategies import check_strategy, strategy_checks

__all__ = ["Check", "check_codec", "check_net", "check_strategy", "codec_checks", "net_checks", "strategy_checks"]

_HOME = {
    "Check": "check",
    "check_codec": "codecs",
    "check_net": "nets",
    "check_strategy": "strategies",
    "codec_checks": "codecs",
    "net_checks": "nets",
    "strategy_checks": "strategies",
}


def __getattr__(name: str) -> Any:
    """Load a name on first use: ``import fedkd.testing`` imports no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
