"""What a user's app gives to fedkd's half of it: nets, data, a strategy and other code, by the names of a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedkd.experiment.algorithm.functions import Functions
from fedkd.experiment.algorithm.net_shares import FUNCTION, given_name
from fedkd.nets import as_function


def functions_of(nets: Any, data: Any, strategy: Any, code: Mapping[str, Any] | None) -> Functions:
    """The code of a client or a server, as ``client_app`` and ``server_app`` take it."""
    named = dict(nets) if isinstance(nets, Mapping) else ({FUNCTION: nets} if nets is not None else {})
    named |= {given_name(name): net for name, net in named.items() if ":" not in name}
    return Functions(
        nets={name: as_function(net) for name, net in named.items()}, data=data, strategy=strategy, code=dict(code or {})
    )
