"""A grid on which some clients answer what they should not: replies of honest clients, changed in every place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedkd.grids import JobGrid
from fedkd.grids.client_call import run_client
from fedkd.grids.flower import copy_records, message_from_plain
from fedkd.knowledge.records import MANIFEST, METRICS, TENSORS

Change = Callable[[RecordDict], RecordDict]
#: What is changed: the kind of message that a reply answers, its round and its exchange.
Where = tuple[str, int, int]


class HostileGrid(JobGrid):
    """Runs honest clients in this process. The nodes in ``changes`` run nothing: to one kind of message they answer what node
    0 answers, changed, and to no other do they answer at all, once they have joined.
    """

    def __init__(self, where: Where, changes: Mapping[int, Change]) -> None:
        super().__init__()
        self._where, self._changes = where, changes
        self.legal = RecordDict()  # what is changed

    def run_jobs(self, messages: Sequence[Message], deadline: float | None) -> Iterator[Message]:
        for message in messages:
            node, asked = message.metadata.dst_node_id, message.content["fedkd.instruction"]
            kind = message.metadata.message_type
            here = (kind, asked.get("round"), asked.get("exchange")) == self._where
            if node not in self._changes or kind.startswith("query"):
                reply = message_from_plain(run_client(self.client_app, message, self.context(node)))
                if here and not node:
                    self.legal = reply.content
                yield reply
            elif here:
                yield Message(self._changes[node](copy_records(self.legal)), reply_to=message)


def changed(key: str, record: Any) -> Change:
    """The reply with one record replaced, or without it."""

    def apply(reply: RecordDict) -> RecordDict:
        records = {name: value for name, value in reply.items() if name != key}
        return RecordDict(records if record is None else {**records, key: record(reply[key]) if callable(record) else record})

    return apply


def entry(key: str, value: Any, kind: type) -> Callable[[Any], Any]:
    """The record with another value under a key; without it where the value is None."""
    return lambda record: kind({k: v for k, v in {**record, key: value}.items() if v is not None})


def renamed(key: str, to: str) -> Callable[[Any], MetricRecord]:
    return lambda record: MetricRecord({to if name == key else name: value for name, value in record.items()})


NO_NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "list": [1.0, 2.0], "ints": [1], "1e300": 1e300}
NO_FACTS = {"none": None, "text": "often", "empty": "", "bytes": b"x", "list": [1, 2], "texts": ["a"], "float": 0.5, "-1": -1}
NO_FACTS |= {"huge": 2**62, "nan": math.nan, "true": True, "long": "x" * 100_000}
SPOKEN_FOR = ("round", "reason", "status", "client", "accuracy", "client_accuracy", "weight", "bytes_up", "wire_bytes_down")


def mutations(reply: RecordDict) -> dict[str, Change]:
    """Changes of a legal reply, each of which makes it one that must not be used."""
    every = dict[str, Change]()
    for key in reply:
        for kind in (ArrayRecord, ConfigRecord, MetricRecord):
            if not isinstance(reply[key], kind) and not (key == METRICS and kind is MetricRecord):
                every[f"{key} is an empty {kind.__name__}"] = changed(key, kind())
        every[f"{key} twice"] = lambda reply, key=key: RecordDict({**reply, "more": reply[key]})
    every |= {f"no {key}": changed(key, None) for key in (TENSORS, MANIFEST)}
    every["no record"] = lambda reply: RecordDict()
    every |= {
        f"metric {name!r}": changed(METRICS, entry(name, 0.5, MetricRecord)) for name in (*SPOKEN_FOR, "", "a\nb", "x" * 200)
    }
    every["many metrics"] = changed(METRICS, lambda r: MetricRecord({**r, **{f"m{n}": 1.0 for n in range(20_000)}}))
    for name in reply[METRICS]:
        every |= {f"metric {name} {why}": changed(METRICS, entry(name, bad, MetricRecord)) for why, bad in NO_NUMBERS.items()}
    every |= {
        f"weight {why}": changed(MANIFEST, entry("weight", bad, ConfigRecord)) for why, bad in _not("float", "huge").items()
    }
    every["weight huge"] = changed(MANIFEST, entry("weight", 1e15, ConfigRecord))
    every |= {f"tensors {why}": changed(MANIFEST, entry("tensors", bad, ConfigRecord)) for why, bad in lines(reply).items()}
    every |= {f"fact {n}": changed(MANIFEST, entry(f"header.{n}", b, ConfigRecord)) for n, b in {"x": [1], "y": b"z"}.items()}
    every["a long fact"] = changed(MANIFEST, entry("header.more", "x" * 300_000, ConfigRecord))
    every["many facts"] = changed(MANIFEST, lambda r: ConfigRecord({**r, **{f"header.h{n}": 1 for n in range(20_000)}}))
    every["a long name"] = changed(MANIFEST, entry("header." + "x" * 300_000, 1, ConfigRecord))
    every |= {f"array {why}": changed(TENSORS, bad) for why, bad in arrays(reply[TENSORS]).items()}
    return every


def mutated_uploads(reply: RecordDict) -> dict[str, Change]:
    """The same of a reply to training: what its header says of round, exchange and classes must be true."""
    every = mutations(reply)
    for key in ("round", "exchange", "label_space"):
        bad = {why: value for why, value in NO_FACTS.items() if value != reply[MANIFEST][f"header.{key}"]}
        every |= {f"{key} {why}": changed(MANIFEST, entry(f"header.{key}", value, ConfigRecord)) for why, value in bad.items()}
    every |= {f"seconds {n}": changed(METRICS, entry("seconds", n, MetricRecord)) for n in (-1.0, 1e12)}
    return every


def mutated_answers(reply: RecordDict) -> dict[str, Change]:
    """The same of a reply to evaluation: counts of right answers, by predictor and split."""
    every = mutations(reply)
    for name in reply[METRICS]:
        samples = name.rpartition("/")[0] + "/samples"
        more = reply[METRICS][samples] + 1
        every |= {f"{name} {n}": changed(METRICS, entry(name, n, MetricRecord)) for n in (-1.0, more, 1e9)}
        every |= {f"no {name}": changed(METRICS, entry(name, None, MetricRecord))}
        others = ("own/correct", "main/own", "main/elsewhere/correct", name.upper(), "/" + name, name + "/")
        every |= {f"{name} as {to}": changed(METRICS, renamed(name, to)) for to in others}
        every[f"{name} beside"] = changed(METRICS, entry(name.replace("/", "_"), 1.0, MetricRecord))
    every["half a sample"] = changed(
        METRICS, lambda r: MetricRecord({k: v if k.endswith("correct") else v + 0.5 for k, v in r.items()})
    )
    return every


def _not(*names: str) -> dict[str, Any]:
    return {why: value for why, value in NO_FACTS.items() if why not in names}


def lines(reply: RecordDict) -> dict[str, Any]:
    """Manifests that contradict the arrays; of a reply without tensors, such as name some."""
    text = reply[MANIFEST]["tensors"]
    bad = {why: value for why, value in NO_FACTS.items() if why not in ("empty",) or text}
    bad |= {
        "unknown": "w\tfloat32\t3\tweights",
        "no shape": "w\tfloat32",
        "axes": f"w\tfloat32\t{','.join('1' * 200)}\tweights",
    }
    bad |= {"digits": f"w\tfloat32\t{'9' * 6000}\tweights", "object": "w\tobject\t1\tweights", "tabs": "\t" * 50}
    if text:
        first, *rest = text.split("\n")
        name, dtype, shape, space = first.split("\t")
        bad |= {"twice": f"{text}\n{first}", "less": "\n".join(rest), "renamed": text.replace(name, name + "x", 1)}
        bad |= {"negative": text.replace(first, f"{name}\t{dtype}\t-1\t{space}")}
        if space != "coded":
            bad |= {"space": "\n".join([f"{name}\t{dtype}\t{shape}\tlabels", *rest])}
    return bad


def arrays(held: ArrayRecord) -> dict[str, Any]:
    """Arrays that are cut, of another kind, or not asked for."""
    wrong = {
        "extra": Array("uint8", (1,), "numpy.ndarray", b"\x00"),
        "pickle": Array("float32", (1,), "pickle", b"\x80\x04K\x01."),
    }
    found = {why: ArrayRecord({**held, "uint8" if why == "extra" else "float32": array}) for why, array in wrong.items()}
    found["unknown"] = ArrayRecord({**held, "complex64": wrong["extra"]})
    for key, array in held.items():
        data, facts = array.data, (array.dtype, array.shape, array.stype)
        for why, bytes_ in {
            "cut": data[:-1],
            "grown": data + b"\x00",
            "empty": b"",
            "header": data[:60],
            "other": b"\xff" * len(data),
        }.items():
            found[f"{key} {why}"] = ArrayRecord({**held, key: Array(*facts, bytes_)})
        found[f"{key} large"] = ArrayRecord({**held, key: Array(*facts, data + bytes(3 * len(data) + 200_000))})
        found[f"{key} is missing"] = ArrayRecord({k: v for k, v in held.items() if k != key})
    return found
