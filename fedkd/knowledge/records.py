"""Knowledge <-> Flower's records: the only place that knows how tensors lie on the wire.

Each Flower array costs 128 bytes of header, so all tensors of one dtype travel as one flat array, with a manifest beside it.
NumPy has no bfloat16: those bits travel as int16, and the manifest says what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from io import BytesIO
from itertools import chain

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, ConfigRecordValues, MetricRecord, RecordDict
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.base.records import array_of, items_of, record_of
from fedkd.knowledge.knowledge import DTYPES, Knowledge
from fedkd.knowledge.layout import Layout, layout_of

TENSORS, MANIFEST, METRICS = "fedkd.tensors", "fedkd.manifest", "fedkd.metrics"
#: Bytes of a NumPy header, at most; the usual one has 128.
MAX_HEADER = 256
#: The dtype in which the bits of a torch dtype lie in the array; all others lie as themselves.
_CARRIER = {torch.bfloat16: torch.int16}
_NO_METRICS = MetricRecord()
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class RecordError(ValueError):
    """Records that are no Knowledge: the message says why in one line."""


def to_records(knowledge: Knowledge) -> RecordDict:
    """Pack Knowledge into records. Values, shapes and dtypes come back exactly from ``from_records``."""
    groups: dict[str, list[Tensor]] = {}
    lines, spaces = [], knowledge.spaces
    for name, tensor in knowledge.tensors.items():
        groups.setdefault(dtype := _dtype_name(tensor), []).append(tensor)
        lines.append(f"{name}\t{dtype}\t{','.join(map(str, tensor.shape))}\t{spaces[name]}")
    arrays = record_of(ArrayRecord, {dtype: _pack(alike) for dtype, alike in groups.items()})
    manifest: dict[str, ConfigRecordValues] = {
        "tensors": "\n".join(lines),  # one text, a line a tensor: Flower would check each element of a list
        "weight": float(knowledge.weight),
        **{f"header.{key}": _fact(key, value) for key, value in knowledge.header.items()},
    }
    metrics = record_of(MetricRecord, {key: float(value) for key, value in knowledge.metrics.items()})
    return record_of(RecordDict, {TENSORS: arrays, MANIFEST: record_of(ConfigRecord, manifest), METRICS: metrics})


def _fact(key: str, value: object) -> str | int | float:
    if not isinstance(value, str | int | float):
        raise TypeError(f"a header holds text and numbers; {key!r} is a {type(value).__name__}")
    return value


def from_records(
    records: RecordDict, *, max_bytes: int | None = None, max_facts: int | None = None, memo: Unpacked | None = None
) -> Knowledge:
    """Unpack records; the size is bounded before anything is read or allocated.

    Args:
        records: what ``to_records`` made, here or at the other end of a network.
        max_bytes: refuse arrays that are larger in sum, and records that ``to_records`` does not make.
        max_facts: the same of all that stands beside the arrays: manifest, header and metrics. Default: ``max_bytes``.
        memo: share the unpacked tensors of equal array bytes among the calls of one process.

    Raises:
        RecordError: the records are not Knowledge, contradict themselves, or are too large. One line.
    """
    arrays, manifest = records.get(TENSORS), records.get(MANIFEST)
    if not isinstance(arrays, ArrayRecord) or not isinstance(manifest, ConfigRecord):
        raise RecordError(f"the message carries no knowledge: it lacks {TENSORS!r} or {MANIFEST!r}")
    if max_bytes is not None:
        _check_size(records, arrays, manifest, max_bytes, max_bytes if max_facts is None else max_facts)
    try:
        layout = layout_of(str(manifest["tensors"]))
        tensors = memo.unpack(arrays, layout) if memo else _unpack(arrays, layout)
        header = {key[7:]: value for key, value in items_of(manifest).items() if key.startswith("header.")}
        metrics = items_of(records.get(METRICS, _NO_METRICS))
        return Knowledge(tensors, layout.spaces, header, _number(manifest["weight"]), metrics)
    except (KeyError, TypeError, ValueError, EOFError, RuntimeError) as error:
        raise RecordError(f"the message is not valid knowledge: {error}") from None


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"its weight is {type(value).__name__}, not a number")
    return float(value)


def _check_size(records: RecordDict, arrays: ArrayRecord, manifest: ConfigRecord, max_bytes: int, max_facts: int) -> None:
    """Raise RecordError for what is too large or of another kind, looking at nothing longer than a key."""
    metrics = records.get(METRICS, _NO_METRICS)
    if len(records) > 2 + (METRICS in records) or not isinstance(metrics, MetricRecord):
        raise RecordError(f"the message holds other records than {TENSORS!r}, {MANIFEST!r} and {METRICS!r}")
    size = sum(len(array.data) for array in arrays.values())
    if size > max_bytes or len(arrays) > len(DTYPES):
        raise RecordError(f"the message holds {size} bytes in {len(arrays)} arrays, more than the {max_bytes} allowed")
    facts = 0
    for key, value in chain(items_of(manifest).items(), items_of(metrics).items()):
        if isinstance(value, str):
            facts += len(key) + len(value)
        elif isinstance(value, int | float):
            facts += len(key) + 8
        else:
            raise RecordError(f"the message has {type(value).__name__} under {key[:100]!r}, where text or a number belongs")
        if facts > max_facts:
            raise RecordError(f"the message holds over {max_facts} bytes beside its arrays, more than are allowed")


def wire_bytes(records: RecordDict) -> int:
    """Bytes of these records as Flower counts them: arrays with their headers, configs and metrics with their keys."""
    return sum(
        config_bytes(record) if isinstance(record, ConfigRecord) else record.count_bytes() for record in records.values()
    )


def config_bytes(record: ConfigRecord) -> int:
    """Bytes of keys and values, as Flower's ``count_bytes``, which refuses empty text and empty lists."""
    size = 0
    for key, value in items_of(record).items():
        size += len(key)
        for one in value if isinstance(value, list) else (value,):
            size += len(one) if isinstance(one, str | bytes) else 1 if isinstance(one, bool) else 8
    return size


class Unpacked:
    """Remembers the tensors of the last few messages by the identity of their bytes: decode once a process and exchange."""

    def __init__(self, size: int = 4) -> None:
        self._size = size
        self._kept: dict[tuple[int, ...], tuple[Layout, list[bytes], dict[str, Tensor]]] = {}

    def unpack(self, arrays: ArrayRecord, layout: Layout) -> dict[str, Tensor]:
        """The tensors of this message, shared with every earlier call on the same bytes."""
        data = [array.data for array in arrays.values()]
        key = (id(layout), *map(id, data))
        if key not in self._kept:
            tensors = _unpack(arrays, layout)
            while len(self._kept) >= self._size:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = (layout, data, tensors)  # holding what the key is made of keeps its ids from being given again
        return self._kept[key][2]


def _dtype_name(tensor: Tensor) -> str:
    if name := _NAMES.get(tensor.dtype):
        return name
    raise TypeError(
        f"tensors of dtype {str(tensor.dtype).removeprefix('torch.')} cannot travel: use one of {', '.join(DTYPES)}"
    )


def _pack(tensors: list[Tensor]) -> Array:
    parts = [tensor.reshape(-1) for tensor in tensors]
    flat = (torch.cat(parts) if len(parts) > 1 else parts[0]).detach().cpu()  # (sum of elements,)
    carrier = flat.view(_CARRIER[flat.dtype]) if flat.dtype in _CARRIER else flat
    data = b"".join((_npy_header_of(kind := _dtype_name(carrier), len(carrier)), carrier.numpy().data))
    return array_of(kind, tuple(carrier.shape), "numpy.ndarray", data)


@lru_cache(maxsize=256)
def _npy_header_of(kind: str, length: int) -> bytes:
    """What NumPy's format 1.0 puts before the elements of a flat array. Cached: online methods send thousands alike."""
    stream = BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(stream, description)
    return stream.getvalue()


def _unpack(arrays: Mapping[str, Array], layout: Layout) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for dtype, array in arrays.items():
        flat = _flat(array, DTYPES[dtype])
        mine = layout.arrays.get(dtype, [])
        elements = [number for *_, number in mine]
        if not mine or sum(elements) != flat.numel():
            raise ValueError(f"its {dtype} array has {flat.numel()} elements, the manifest says {sum(elements)}")
        parts = flat.split_with_sizes(elements) if len(mine) > 1 else [flat]
        for (name, size, _), part in zip(mine, parts, strict=True):
            tensors[name] = part.view(size)
    return {name: tensors[name] for name in layout.names}


def _flat(array: Array, dtype: torch.dtype) -> Tensor:
    """The array as a flat tensor of its own memory, so that writing to it reaches no other receiver."""
    carrier = _CARRIER.get(dtype, dtype)
    if array.stype != "numpy.ndarray" or len(array.data) < 10:
        raise ValueError(f"an array of type {array.stype!r} and {len(array.data)} bytes is no NumPy array")
    if (length := 10 + int.from_bytes(array.data[8:10], "little")) > MAX_HEADER:
        raise ValueError(f"an array has a header of {length} bytes")
    kind, shape, start = _npy_header(array.data[:length])
    if kind != str(carrier).removeprefix("torch.") or len(shape) != 1:
        raise ValueError(f"an array of dtype {kind} and shape {shape} stands where {dtype} was announced")
    if len(array.data) - start != shape[0] * carrier.itemsize:
        raise ValueError(f"an array of {shape[0]} {kind} holds {len(array.data) - start} bytes")
    if not shape[0]:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(memoryview(array.data)[start:]), dtype=carrier).view(dtype)


@lru_cache(maxsize=64)
def _npy_header(head: bytes) -> tuple[str, tuple[int, ...], int]:
    """Dtype, shape and where the elements start, of NumPy's format 1.0. Cached: uploads of a round have the same."""
    stream = BytesIO(head)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array is in another version of NumPy's format than 1.0")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return str(dtype), shape, stream.tell()


def with_arrays(knowledge: Knowledge, arrays: ArrayRecord) -> Knowledge:
    """The knowledge with the values of these arrays, as a user of Flower gives them: one a tensor, by its name.

    Raises:
        InputError: a name is missing or unexpected.
    """
    if odd := sorted(arrays.keys() ^ knowledge.tensors.keys())[:3]:
        raise InputError(f"initial_arrays: {', '.join(odd)} missing or unexpected: give the state_dict of the broadcast net")
    given = {name: torch.from_numpy(array.numpy().copy()) for name, array in arrays.items()}
    return replace(knowledge, tensors={name: given[name].to(tensor.dtype) for name, tensor in knowledge.tensors.items()})
