"""Codecs on the wire: any strategy's Knowledge, bytes counted, and a base that survives lost and rejected uploads."""

from __future__ import annotations

import pytest

from fedkd import Experiment, InputError, simulate
from fedkd.grids import InProcessGrid
from fedkd.knowledge.codecs import CODECS
from fedkd.knowledge.codecs.delta import Delta


def experiment(**changes: object) -> Experiment:
    data = {"clients": 3, "partition": "iid", "train_limit": 90}
    return Experiment(**{"strategy": "fedavg", "rounds": 3, "nets": "mlp", "data": data, **changes})


@pytest.mark.slow
def test_float16_halves_the_coded_bytes_and_not_the_raw_ones() -> None:
    row = simulate(experiment(uplink=["float16"])).metrics[-1]
    assert row["coded_bytes_up"] * 2 == row["bytes_up"] == row["bytes_down"]


class Lossy(InProcessGrid):
    """Drops client 1's upload of round 2."""

    def send_and_receive(self, messages, *, timeout=None):  # type: ignore[no-untyped-def]
        messages = list(messages)
        lost = [m for m in messages if (m.metadata.message_type, m.metadata.group_id) == ("train", "2")]
        replies = list(super().send_and_receive(messages, timeout=timeout))
        return [r for r in replies if not (lost and r.metadata.src_node_id == 1)]


@pytest.mark.slow
@pytest.mark.parametrize("uplink", [["delta"], ["delta", "deflate"]])
def test_a_delta_chain_survives_a_lost_and_a_rejected_upload(uplink: list[str]) -> None:
    """Client 1 loses its reply of round 2 (late), so in round 3 it must code against round 1, as the server does."""
    assert CODECS["delta"] == Delta()
    coded = simulate(experiment(uplink=uplink, rounds=4), Lossy())
    plain = simulate(experiment(rounds=4), Lossy())
    assert [row["clients_ok"] for row in coded.metrics] == [0, 3, 2, 3, 3]
    assert [row.get("failures") for row in coded.metrics] == [row.get("failures") for row in plain.metrics]
    assert coded.metrics[-1]["loss"] == plain.metrics[-1]["loss"]  # not a bit is lost


@pytest.mark.slow
def test_every_lossy_codec_trains() -> None:
    """What a codec loses costs some accuracy and no client: the server can read every upload."""
    for uplink in (["bfloat16", "deflate"], ["int8", "delta", "deflate"], ["svd50"]):
        last = simulate(experiment(uplink=uplink)).metrics[-1]
        assert last["clients_ok"] == 3
        assert last["coded_bytes_up"] < last["bytes_up"]


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(InputError, match="uplink: unknown codec 'flaot16': did you mean 'float16'"):
        experiment(uplink=["flaot16"])
