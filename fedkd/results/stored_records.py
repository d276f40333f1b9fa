"""Flower's records as safetensors and JSON hold them: arrays by name, and beside them what the records say of these."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

_TENSOR_TYPES = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
_TENSOR_TYPES |= {"bool", "float16", "float32", "float64"}
_TEXT = "records"


class Packing:
    """Takes records apart: ``tensors`` fills up with their arrays, of which those that share their bytes are there once."""

    def __init__(self) -> None:
        self.tensors: dict[str, NDArray[Any]] = {}
        self._names: dict[int, str] = {}  # id of the bytes -> tensor name

    def pack(self, records: RecordDict, where: str) -> dict[str, Any]:
        """What JSON says of these records; ``where`` begins the names of their arrays."""
        return {key: self._described(record, f"{where}/{key}") for key, record in records.items()}

    def _described(self, record: ArrayRecord | ConfigRecord | MetricRecord, where: str) -> dict[str, Any]:
        if not isinstance(record, ArrayRecord):
            return {"type": type(record).__name__, "values": dict(record)}
        values: dict[str, dict[str, Any]] = {}
        for key, array in record.items():
            name = self._names.setdefault(id(array.data), f"{len(self._names)}:{where}/{key}")
            tensor = _tensor(array)
            values[key] = {"tensor": name}
            if tensor is None:  # kept as its raw bytes, with what Flower needs to know about them
                values[key] |= {"dtype": array.dtype, "shape": list(array.shape), "stype": array.stype}
                tensor = np.frombuffer(array.data, dtype=np.uint8)
            self.tensors[name] = tensor
        return {"type": "ArrayRecord", "values": values}


class Unpacking:
    """Puts records together again; arrays that shared their bytes share them again."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        self._tensors = tensors
        self._arrays: dict[str, Array] = {}  # by tensor name

    def unpack(self, described: Mapping[str, Any]) -> RecordDict:
        """The records that were described so."""
        return RecordDict({key: self._restored(record) for key, record in described.items()})

    def _restored(self, record: Mapping[str, Any]) -> ArrayRecord | ConfigRecord | MetricRecord:
        if record["type"] == "ConfigRecord":
            return ConfigRecord(record["values"])
        if record["type"] == "MetricRecord":
            return MetricRecord(record["values"])
        restored = ArrayRecord()
        for key, value in record["values"].items():
            restored[key] = self._array(value)
        return restored

    def _array(self, value: Mapping[str, Any]) -> Array:
        name = value["tensor"]
        if name not in self._arrays:
            tensor = self._tensors[name]
            raw = "stype" in value
            self._arrays[name] = (
                Array(value["dtype"], tuple(value["shape"]), value["stype"], tensor.tobytes()) if raw else Array(tensor)
            )
        return self._arrays[name]


def to_text(content: object) -> str:
    """JSON of what ``Packing`` and its like describe: bytes and NumPy's numbers too."""
    return json.dumps(content, default=_encode)


def from_text(text: str) -> Any:
    """Undo ``to_text``."""
    return json.loads(text, object_hook=_decode)


def to_bytes(records: RecordDict) -> bytes:
    """Records as one safetensors file, the JSON of which stands in its metadata; the same bytes for the same records."""
    from safetensors.numpy import save  # here and below: most processes keep nothing

    packing = Packing()
    text = to_text(packing.pack(records, ""))
    content: bytes = save(packing.tensors, metadata={_TEXT: text})
    return content


def from_bytes(content: bytes) -> RecordDict:
    """Undo ``to_bytes``."""
    from safetensors.numpy import load

    described = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"][_TEXT]
    return Unpacking(load(content)).unpack(from_text(described))


def _tensor(array: Array) -> NDArray[Any] | None:
    """The array as safetensors can hold it without loss, or None for an unusual type or memory order."""
    if array.stype != "numpy.ndarray" or array.dtype not in _TENSOR_TYPES:
        return None
    tensor = array.numpy()
    return tensor if tensor.flags.c_contiguous and tensor.dtype.isnative else None


def _encode(value: Any) -> Any:
    """What JSON cannot hold: bytes as base64, numpy and torch numbers as Python's."""
    if isinstance(value, bytes):
        return {"__base64__": base64.b64encode(value).decode()}
    return value.tolist()


def _decode(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["__base64__"]) if value.keys() == {"__base64__"} else value
