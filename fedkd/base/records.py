"""Flower's records, put together without its checks of every key and value, which cost more than all the rest of a message.

Only for items that are known to be what such a record holds: numbers, text, arrays. The items are taken over, not copied.
"""

from __future__ import annotations

from typing import Any, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

R = TypeVar("R", bound=ArrayRecord | ConfigRecord | MetricRecord | RecordDict)


def record_of(kind: type[R], items: dict[str, Any]) -> R:
    """A record of this kind.

    >>> record_of(ConfigRecord, {"round": 3}) == ConfigRecord({"round": 3})
    True
    """
    record = kind.__new__(kind)
    if kind not in _EMPTY:
        _EMPTY[kind] = dict(vars(kind()))
    record.__dict__.update(_EMPTY[kind], _data=items)
    return record


#: The attributes of a record without items, by its kind.
_EMPTY: dict[Any, dict[str, Any]] = {}


def items_of(record: Any) -> dict[str, Any]:
    """The items of a record, not copied: to be read only."""
    items: dict[str, Any] = record.__dict__["_data"]
    return items


def array_of(dtype: str, shape: tuple[int, ...], stype: str, data: bytes) -> Array:
    """An array of these bytes."""
    array = Array.__new__(Array)
    array.__dict__.update(dtype=dtype, shape=shape, stype=stype, data=data)
    return array
