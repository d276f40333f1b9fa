"""Replies that come twice, again, from nobody, or as anything: ten thousand changed ones, and none that is wrong counts."""

from __future__ import annotations

import math
import random
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from grids.renumbered import RenumberedGrid
from hostile import HostileGrid

from fedkd import Experiment, Knowledge, simulate
from fedkd.engine.guard import Guard, guard_of
from fedkd.engine.transport import Transport
from fedkd.experiment.algorithm.server import Server
from fedkd.grids.flower import copy_records, message_from_plain, plain_message
from fedkd.knowledge.channels import ServerChannel
from fedkd.knowledge.knowledge import MAX_MAGNITUDE
from fedkd.knowledge.memory import Memory
from fedkd.knowledge.records import MANIFEST, METRICS, TENSORS, to_records
from fedkd.results.history import TIMES

REPLIES = 10_000
STRATEGIES: dict[str, dict[str, Any]] = {
    "fedavg": {"uplink": ("deflate",)},
    "fd": {},
    "dsfl": {"uplink": ("int8", "deflate")},
    "fedmd": {"uplink": ("top3", "float16")},
}


def experiment(name: str, **changes: Any) -> Experiment:
    data = {"clients": 3, "partition": "iid", "train_limit": 60, "public": 12 * (name in ("dsfl", "fedmd"))}
    nets = {"nets": "mlp", "net_options": {"mlp": {"hidden": [4]}}}
    return Experiment(strategy=name, rounds=2, data=data, train={"batch_size": 16}, **nets, **{**STRATEGIES[name], **changes})


# Twice, again, from nobody


class OddGrid(RenumberedGrid):
    """What is made of the replies to training, by round, before the server sees them."""

    def __init__(self, change: Callable[[int, list[Message], list[Message]], list[Message]]) -> None:
        super().__init__({node: {} for node in (10, 20, 30)})
        self._change, self._seen, self._round = change, list[Message](), 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        asked = list(messages)
        training = asked[0].metadata.message_type == "train"
        self._round = int(str(asked[0].content["fedkd.instruction"]["round"])) if training else 0
        return super().push_messages(asked)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        if not self._round or not replies:
            return replies
        changed = self._change(self._round, replies, self._seen)
        self._seen += replies
        return changed


def with_content(reply: Message, of: Message) -> Message:
    """The reply, with what another one held."""
    metadata, _, error = plain_message(reply)
    return message_from_plain((metadata, plain_message(of)[1], error))


def from_node(reply: Message, node: int) -> Message:
    reply.metadata.__dict__["_src_node_id"] = node
    return reply


def rows(change: Callable[[int, list[Message], list[Message]], list[Message]]) -> list[dict[str, Any]]:
    history = simulate(experiment("fd"), OddGrid(change))  # type: ignore[arg-type]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in history.metrics]


@pytest.mark.slow
def test_a_reply_that_comes_twice_counts_once() -> None:
    honest = rows(lambda round, replies, seen: replies)
    assert rows(lambda round, replies, seen: [*replies, *reversed(replies)]) == honest
    assert honest[2]["clients_ok"] == 3


@pytest.mark.slow
def test_replies_of_the_round_before_lose_their_clients_and_say_so() -> None:
    replayed = rows(lambda round, replies, seen: [*map(with_content, replies, seen)] or replies)
    assert (replayed[1]["clients_ok"], replayed[2]["clients_ok"]) == (3, 0)
    assert set(replayed[2]["failures"].values()) == {"upload rejected: it answers round 1, exchange 0"}


@pytest.mark.slow
def test_replies_of_nobody_who_was_asked_are_let_be() -> None:
    honest = rows(lambda round, replies, seen: replies)
    stranger = lambda replies: from_node(Message(replies[0].content, reply_to=replies[0]), 99)  # noqa: E731
    assert rows(lambda round, replies, seen: [stranger(replies), *replies]) == honest


# Ten thousand


@dataclass(frozen=True)
class Door:
    """What an upload passes at the server of one run, and an honest reply."""

    transport: Transport
    guard: Guard
    reply: RecordDict

    def accepts(self, content: RecordDict) -> Knowledge | None:
        """The upload if it is let in; the reason must be one printable line where it is not."""
        message = SimpleNamespace(
            metadata=SimpleNamespace(src_node_id=0), has_error=lambda: False, has_content=lambda: True, content=content
        )
        received = self.transport.read([message], [0], self.guard, round=1, exchange=0)  # type: ignore[list-item]
        self.transport.accept(received, [0], self.guard, round=1, exchange=0)
        for reason in received.failed.values():
            assert reason.startswith("upload rejected: ") and reason.isprintable() and len(reason) < 700
        assert len(received.failed) + len(received.uploads) == 1
        return received.uploads.get(0)


def door(name: str) -> Door:
    settings = experiment(name)
    grid = HostileGrid(("train", 1, 0), {})
    simulate(settings, grid)
    server = Server(settings, settings.functions(), settings.federation(), Memory(), torch.device("cpu"))
    server.round = 1
    up, down = (ServerChannel(way, names) for way, names in (("uplink", settings.uplink), ("downlink", ())))
    transport = Transport(grid, up=up, down=down, clients=3, timeout=1.0)
    transport._node_of = {0: 0}
    guard = guard_of(settings.strategy, server, simulated=True, sent_to=lambda client: Knowledge())
    return Door(transport, guard, grid.legal)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bits turned, a piece lost, doubled or put elsewhere, or something else altogether."""
    raw = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(max(1, len(raw)))
        kind = rng.randrange(6)
        if kind == 0 and raw:
            raw[at % len(raw)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del raw[at : at + rng.choice((1, 4, 64))]
        elif kind == 2:
            raw[at:at] = rng.randbytes(rng.choice((1, 4, 64)))
        elif kind == 3:
            raw[at : at + 4] = rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\xff\xff", b"\x00\x00\x80\xff"))
        elif kind == 4:
            raw += raw[at:]
        else:
            raw = raw[:at]
    return bytes(raw)


def text(given: str, rng: random.Random) -> str:
    """The same for text, some of whose numbers become other ones."""
    if rng.random() < 0.5:
        parts = given.split("\t")
        parts[rng.randrange(len(parts))] = rng.choice(
            ("-1", "9" * 18, "0", "1,1", "float64", "coded", "", "\n", "weights", "10")
        )
        return "\t".join(parts)
    return damaged(given.encode(), rng).decode("utf-8", "replace")


def number(given: float, rng: random.Random) -> float:
    return rng.choice((math.nan, math.inf, -math.inf, -given, 0.0, 1e300, given * 1e9, float(rng.randrange(9)), -1.0, given))


def value(given: Any, rng: random.Random) -> Any:
    """Another value for one that stood in a record, of its type as a rule."""
    if rng.random() < 0.1:
        return rng.choice(("x", b"x", [1, 2], 2**62, -1, 1.5, "x" * 10_000))
    if isinstance(given, str):
        return text(given, rng)
    if isinstance(given, bytes):
        return damaged(given, rng)
    if isinstance(given, list):
        return given[1:]
    return type(given)(rng.randrange(-3, 9)) if isinstance(given, int) else number(float(given), rng)


def changed(reply: RecordDict, rng: random.Random) -> RecordDict:
    """A copy of a legal reply in which one thing or a few are other ones."""
    records: dict[str, Any] = dict(copy_records(reply))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        name = rng.choice([TENSORS, TENSORS, MANIFEST, METRICS])
        held = dict(records.get(name, {}))
        key = rng.choice([*held, "new"]) if held else "new"
        kind = rng.randrange(10)
        if kind == 0:
            held.pop(key, None)
        elif kind == 1:
            held[text(key, rng)] = held.get(key, Array("uint8", (1,), "numpy.ndarray", b"\x00") if name == TENSORS else 1.0)
        elif key in held and name == TENSORS:
            array = held[key]
            data = damaged(array.data, rng) if kind > 2 else array.data
            odd = [("float64", array.shape), (array.dtype, (7,)), (array.dtype, (2**40,)), ("object", array.shape)]
            dtype, shape = rng.choice(odd) if kind == 2 else (array.dtype, array.shape)
            held[key] = Array(dtype, tuple(shape), rng.choice(("numpy.ndarray", "numpy.ndarray", "pickle")), data)
        elif key in held:
            held[key] = value(held[key], rng)
        try:
            records[name] = {TENSORS: ArrayRecord, MANIFEST: ConfigRecord, METRICS: MetricRecord}[name](held)
        except (TypeError, ValueError):  # what Flower's own records do not take
            continue
        if rng.random() < 0.01:
            records.pop(rng.choice([*records]))
    return RecordDict(records)


def wrong(upload: Knowledge, guard: Guard) -> Iterator[str]:
    """What is wrong with an upload that was let in, looked at by other means than the guard's."""
    schema = guard.schema_of(0)
    if not upload.tensors.keys() <= schema.keys():
        yield "names"
    for name, tensor in upload.tensors.items():
        spec = schema[name]
        fits = tuple(tensor.shape) == spec.shape if all(isinstance(side, int) for side in spec.shape) else True
        if not fits or tensor.dtype != spec.dtype or upload.spaces[name] != spec.space:
            yield f"the form of {name}"
        flat = [float(number) for number in tensor.double().flatten().tolist()]
        most = MAX_MAGNITUDE if tensor.is_floating_point() else math.inf
        if not all(math.isfinite(number) and abs(number) <= most for number in flat):
            yield f"a value of {name}"
        if spec.space == "counts" and min(flat) < 0:
            yield f"a count of {name}"
        if spec.space == "probabilities" and any(not (-0.011 <= sum(row) <= 1.011) for row in tensor.double().tolist()):
            yield f"a row of {name}"
    if not 0 < upload.weight <= max(1, guard.samples_of(0) or 0):
        yield "weight"
    if not all(math.isfinite(number) for number in upload.metrics.values()):
        yield "metrics"
    if (upload.header["round"], upload.header["exchange"]) != (1, 0):
        yield "round"
    if any(upload.header[name] != expected for name, expected in guard.common_ground.items()):
        yield "common ground"


def peak() -> int:
    """The most memory that this process ever had, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux does")
@pytest.mark.parametrize("name", STRATEGIES)
def test_of_ten_thousand_changed_replies_none_that_is_wrong_is_let_in(name: str) -> None:
    place, rng, accepted, before = door(name), random.Random(name), 0, 0
    assert place.accepts(place.reply) is not None
    for turn in range(REPLIES // len(STRATEGIES)):
        upload = place.accepts(changed(place.reply, rng))
        if upload is not None:
            accepted += 1
            assert [*wrong(upload, place.guard)] == []
        if turn == 200:
            before = peak()
    assert peak() - before < 64 * 2**20
    assert 0 < accepted < REPLIES // len(STRATEGIES) // 2  # some changes are none, or another legal upload


@pytest.mark.slow
def test_an_upload_that_unpacks_to_far_more_than_it_may_is_refused_unpacked_no_further_than_that() -> None:
    place = door("fedavg")
    bomb = zlib.compress(bytes(40_000_000), 9)  # a thousandth of it on the wire
    assert len(bomb) < place.guard.most_bytes(0)
    note = next(str(fact) for key, fact in place.reply[MANIFEST].items() if "codec.deflate" in key)
    lines: Mapping[str, str] = {"its own size": note, "the bomb's": "w\tfloat32\t10000000\tweights"}
    before = peak()
    for announced in lines.values():
        stream = torch.frombuffer(bytearray(bomb), dtype=torch.uint8)
        facts = {key.removeprefix("header."): fact for key, fact in place.reply[MANIFEST].items() if key.startswith("header.")}
        sent = Knowledge.of("coded", {"deflate": stream}, header={**facts, "codec.deflate": announced})  # type: ignore[dict-item]
        assert place.accepts(to_records(sent)) is None
    assert peak() - before < 16 * 2**20
