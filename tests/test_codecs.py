"""Codecs on the wire: any strategy's Knowledge, bytes counted, and a base that survives lost and rejected uploads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedkd import Experiment, InputError, Knowledge, simulate
from fedkd.codecs import CODECS, Codec, chain, decode, encode
from fedkd.grids import InProcessGrid


class Delta(Codec):
    """The example of a codec that codes against a base: the difference to the last acknowledged message."""

    needs_base = True

    def encode(self, knowledge: Knowledge, base: Knowledge | None) -> Knowledge:
        return self._shift(knowledge, base, -1.0)

    def decode(self, message: Knowledge, base: Knowledge | None) -> Knowledge:
        return self._shift(message, base, 1.0)

    def _shift(self, knowledge: Knowledge, base: Knowledge | None, sign: float) -> Knowledge:
        if base is None:
            return knowledge
        moved = {n: t + sign * base.tensors[n] if t.is_floating_point() else t for n, t in knowledge.tensors.items()}
        return replace(knowledge, tensors=moved)


@pytest.mark.parametrize("name", sorted(CODECS))
def test_every_codec_round_trips_within_its_precision(name: str) -> None:
    sent = Knowledge.of("logits", {"z": torch.randn(4, 3), "n": torch.arange(3)}, header={"round": 1})
    message, _ = encode(chain([name]), sent, {})
    got, _ = decode(chain([name]), message, {})
    assert message.raw_bytes < sent.raw_bytes
    assert got.tensors["z"].dtype == torch.float32
    assert torch.allclose(got.tensors["z"], sent.tensors["z"], atol=1e-2)
    assert dict(got.header) == dict(sent.header)


def experiment(**changes: object) -> Experiment:
    data = {"clients": 3, "partition": "iid", "train_limit": 90}
    return Experiment(**{"strategy": "fedavg", "rounds": 3, "nets": "mlp", "data": data, **changes})


def test_float16_halves_the_coded_bytes_and_not_the_raw_ones() -> None:
    row = simulate(experiment(uplink=["float16"])).metrics[-1]
    assert row["coded_bytes_up"] * 2 == row["bytes_up"] == row["bytes_down"]


def test_a_delta_chain_survives_a_lost_and_a_rejected_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    """Client 1 loses its reply of round 2 (late), so in round 3 it must code against round 1, as the server does."""
    monkeypatch.setitem(CODECS, "delta", Delta())

    class Lossy(InProcessGrid):
        """Drops client 1's upload of round 2."""

        def send_and_receive(self, messages, *, timeout=None):  # type: ignore[no-untyped-def]
            messages = list(messages)
            lost = [m for m in messages if (m.metadata.message_type, m.metadata.group_id) == ("train", "2")]
            replies = list(super().send_and_receive(messages, timeout=timeout))
            return [r for r in replies if not (lost and r.metadata.src_node_id == 1)]

    coded = simulate(experiment(uplink=["delta"], rounds=4), Lossy())
    plain = simulate(experiment(rounds=4), Lossy())
    assert [row["clients_ok"] for row in coded.metrics] == [0, 3, 2, 3, 3]
    assert [row.get("failures") for row in coded.metrics] == [row.get("failures") for row in plain.metrics]
    assert coded.metrics[-1]["loss"] == pytest.approx(plain.metrics[-1]["loss"], rel=1e-4)


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(InputError, match="uplink: unknown codec 'flaot16': did you mean 'float16'"):
        experiment(uplink=["flaot16"])
