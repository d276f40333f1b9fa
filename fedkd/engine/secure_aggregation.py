"""Flower's secure aggregation, SecAgg and SecAgg+: refused in one line, wherever somebody tries it.

In flwr 1.41 and 1.42 both run in the legacy server workflow only (``DefaultWorkflow`` in a ``LegacyContext``), which asks for a
legacy strategy's ``configure_fit``; their client mods understand its messages and no others. What they would sum is one whole
list of arrays, each weighted by its sender's number of examples. That is a mean of weights; a server of ours is shown single
uploads, which the guard, robust reductions, votes, entropy filters and all that compares clients need.
"""

from __future__ import annotations

from fedkd.base.errors import InputError

#: What the failure of a client names whose app has one of the mods: the record that the mod looks for in vain.
SIGN = "secaggplus_configs"
WHY = (
    "Flower's SecAgg+ sums uploads in its legacy workflow, and strategies of fedkd read single uploads in its message API: "
    "leave it out (what can be combined stands in docs/threat-model.md)"
)


def refuse_mod(client: int, reason: str) -> None:
    """Raise InputError if a client failed because its app has a mod of secure aggregation. It has sent nothing then."""
    if SIGN in reason:
        raise InputError(f"client {client}: its ClientApp has secaggplus_mod or secagg_mod: {WHY}")


def refuse_workflow() -> None:
    """Raise InputError: a legacy workflow was given a strategy of ours."""
    raise InputError(WHY)
