"""Replay: a round's uploads through another aggregator, target or codec, without training again."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedkd import Experiment, InputError, Knowledge, simulate
from fedkd.base.errors import Notice
from fedkd.engine.kept import kept_exchange, knowledge_of
from fedkd.engine.replay.changes import Change, check_put_together
from fedkd.engine.replay.measures import agreement, difference, equal
from fedkd.engine.replay.replay import replay
from fedkd.results.files import read_lines
from fedkd.results.uploads import read_exchanges, read_tables, upload_files, write_uploads


def experiment(strategy: str | dict[str, Any], **changes: Any) -> Experiment:
    data = {"clients": 3, "partition": "iid", "train_limit": 90, "test_limit": 60, **changes.pop("data", {})}
    nets = {"nets": "mlp", "net_options": {"mlp": {"hidden": [4]}}}
    train = {"lr": 0.1, "batch_size": 16}
    return Experiment(**{"strategy": strategy, "rounds": 2, **nets, "train": train, "data": data, "record": KEPT, **changes})


KEPT = {"uploads": True, "checkpoints": 9}
PUBLIC = {"data": {"public": 20}}
VALIDATED = {"data": {"public": 20, "validation": 20}}
#: So much that distillation at the server gains something.
UNLIKE = {"clients": 2, "public": 200, "validation": 100, "train_limit": 700, "partition": "dirichlet", "alpha": 0.3}
MANY = {"data": UNLIKE, "rounds": 1, "net_options": {"mlp": {"hidden": [16]}}}


def run(tmp_path: Path, *arguments: Any, name: str = "run", **changes: Any) -> Path:
    simulate(experiment(*arguments, **changes), out=tmp_path / name)
    return tmp_path / name


def broadcast(path: Path, round: int, exchange: int = 0) -> Knowledge:
    kept = read_exchanges(upload_files(path)[round])[exchange].common
    assert kept is not None
    return knowledge_of(kept)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        ("fedavg", {"net_options": {"mlp": {"hidden": [4]}}, "participation": 0.7}),
        ("fedavg", {"uplink": ["int8", "delta"], "faults": {"straggle": 0.5}, "late_rounds": 1, "rounds": 3}),
        ("fedmd", PUBLIC),
        ("dsfl", PUBLIC),
        ("cfd", PUBLIC),
        ("feddf", VALIDATED),
        ("cronus", {**PUBLIC, "strategy": {"name": "cronus", "local_rounds": 1}}),
        ("fedproto", {}),
        ("feddistill", {}),
        ("dml", {"data": {"partition": "shared"}}),
    ],
)
def test_a_replay_without_a_change_gives_every_broadcast_again_to_the_bit(
    strategy: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """It is compared before anything is said; that the comparison can fail is tested below."""
    path = run(tmp_path, changes.pop("strategy", strategy), **changes)
    found = replay(path, Change(), [])
    assert {each.round for each in found} == {*range(1, 1 + len(upload_files(path)))}
    for each in found:
        assert each.difference == 0 and each.agreement in (None, 1.0)
        assert each.accuracy == each.accuracy_then and each.bytes == each.bytes_then


@pytest.mark.slow
def test_accuracy_of_weights_is_that_of_the_run(tmp_path: Path) -> None:
    path = run(tmp_path, "fedavg")
    rows = read_lines(path / "metrics.jsonl")
    found = replay(path, Change(), [])
    assert [each.accuracy_then for each in found] == [row["accuracy"] for row in rows[1:]]
    assert found[0].accuracy_of == "on the global test set"
    assert (found[0].clients, found[0].bytes.up) == (3, rows[1]["bytes_up"])
    assert found[0].bytes.down * 3 == rows[1]["bytes_down"]


@pytest.mark.slow
def test_a_change_that_does_nothing_says_so(tmp_path: Path) -> None:
    path = run(tmp_path, "fedavg", rounds=1)
    with pytest.warns(Notice, match="the change does nothing to round 1: broadcasts and their bytes are what they were"):
        replay(path, Change(codec=("top2",)))  # which is for tables of answers
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replay(path, Change())
        assert replay(path, Change(codec=("int8",)))[0].difference > 0


@pytest.mark.slow
def test_the_median_of_tables_and_of_weights_as_torch_has_it(tmp_path: Path) -> None:
    path = run(tmp_path, "fedmd", **PUBLIC)
    tables = torch.stack([named["logits"][1] for named in read_tables(upload_files(path)[1]).values()])  # (3, P, C)
    changed = Knowledge.of("logits", {"logits": tables.median(0).values})
    (found,) = replay(path, Change(aggregator="median"), [1])
    assert found.difference == pytest.approx(difference(broadcast(path, 1), changed))
    assert found.agreement == agreement(broadcast(path, 1), changed)
    assert found.accuracy_of == "on the public samples" and found.difference > 0
    assert found.accuracy_then == read_lines(path / "metrics.jsonl")[1]["teacher_accuracy"]
    (mean,) = replay(path, Change(aggregator="mean"), [1])
    assert mean.difference == 0  # which is what FedMD does

    path = run(tmp_path, "fedavg", name="weights")
    exchange = read_exchanges(upload_files(path)[2])[0]
    names = [name for name, (_, tensor) in exchange.uploads[0].tensors.items() if tensor.is_floating_point()]
    medians = {
        name: torch.stack([upload.tensors[name][1] for upload in exchange.uploads.values()]).median(0).values for name in names
    }
    (found,) = replay(path, Change(aggregator="median"))
    assert found.round == 2  # the last
    assert found.difference == pytest.approx(difference(broadcast(path, 2), Knowledge.of("weights", medians)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "rerun"),
    [
        (Change(aggregator="mean"), {"strategy": {"name": "cronus", "local_rounds": 1, "aggregate": "mean"}}),
        (Change(codec=("int8",)), {"uplink": ["int8"]}),
        (Change(codec=("top2",)), {"uplink": ["top2"]}),
    ],
)
def test_a_replay_says_what_another_run_does_broadcast(change: Change, rerun: dict[str, Any], tmp_path: Path) -> None:
    """In round 1, as clients have heard nothing yet: the same uploads, put together as the other run does."""
    base = {"name": "cronus", "local_rounds": 1, "aggregate": "median"}
    path = run(tmp_path, base, **PUBLIC)
    other = run(tmp_path, rerun.pop("strategy", base), name="other", **PUBLIC, **rerun)
    (found,) = replay(path, change, [1])
    assert found.difference == pytest.approx(difference(broadcast(path, 1), broadcast(other, 1)), abs=0) and found.difference
    row = read_lines(other / "metrics.jsonl")[1]
    assert (found.bytes.coded_up, found.bytes.up) == (row["coded_bytes_up"], row["bytes_up"])


@pytest.mark.slow
def test_targets_are_made_of_tables(tmp_path: Path) -> None:
    """FedMD broadcasts the mean of logits; DS-FL's mean of probabilities is the target of that name."""
    path = run(tmp_path, "fedmd", data={"public": 20, "public_labels": True})
    assert replay(path, Change(target="mean_logits"))[0].difference == pytest.approx(0, abs=1e-6)
    right = replay(path, Change(target="lowest_loss"))[0]
    assert right.accuracy is not None and right.accuracy_then is not None and right.accuracy >= right.accuracy_then
    path = run(tmp_path, "dsfl", name="dsfl", **PUBLIC)
    assert replay(path, Change(target="mean_probs"))[0].difference == pytest.approx(0, abs=1e-5)
    with pytest.raises(InputError, match=r"^target lowest_loss needs labels, .* may not be used \(data.public_labels\)$"):
        replay(path, Change(target="lowest_loss"))
    with pytest.raises(InputError, match=r"^target min_norm needs student, which a replay does not have$"):
        replay(path, Change(target="min_norm"))


def test_what_is_compared_is_bits_and_facts() -> None:
    one = Knowledge.of("logits", {"a": torch.tensor([[0.0, 1.0], [3.0, 2.0]])}, header={"made": 1})
    assert equal(one, one.copy())
    assert not equal(one, one.with_header(made=2)) and not equal(one, replace(one, weight=2.0))
    assert not equal(one, replace(one, tensors={"a": one.tensors["a"].clone().mul(-1).abs_().neg_()}))
    negative = replace(one, tensors={"a": torch.tensor([[-0.0, 1.0], [3.0, 2.0]])})
    assert torch.equal(one.tensors["a"], negative.tensors["a"]) and not equal(one, negative)
    other = replace(one, tensors={"a": torch.tensor([[0.0, 1.0], [3.0, 6.0]])})
    assert agreement(one, other) == 0.5
    assert difference(one, other) == pytest.approx(4 / 14**0.5)  # |(0, 0, 0, 4)| over |(0, 1, 3, 2)|


def test_exchanges_come_back_as_they_were_kept(tmp_path: Path) -> None:
    uploads = {4: Knowledge.of("labels", {"b": torch.tensor([1, 2]), "a/x": torch.tensor([3])}, header={"n": 1}, weight=7.0)}
    told = {4: Knowledge(header={"text": "a/b"}), 5: Knowledge()}
    write_uploads(tmp_path, 3, [kept_exchange(uploads, Knowledge()), kept_exchange(uploads, told), kept_exchange({}, None)])
    first, second = read_exchanges(upload_files(tmp_path)[3])[:2]
    assert equal(knowledge_of(first.uploads[4]), uploads[4]) and list(first.uploads[4].tensors) == ["b", "a/x"]
    assert first.common is not None and second.common is None
    assert {client: knowledge_of(each).header for client, each in second.personal.items()} == {4: {"text": "a/b"}, 5: {}}


def test_a_file_of_an_earlier_fedkd_is_named(tmp_path: Path) -> None:
    save_file({"0/1/a": torch.zeros(2)}, tmp_path / "round-0001.safetensors", metadata={"spaces": '{"0/1/a": "logits"}'})
    assert load_file(tmp_path / "round-0001.safetensors")
    assert list(read_tables(tmp_path / "round-0001.safetensors")) == [1]
    with pytest.raises(InputError, match="is of an earlier fedkd, which kept no broadcasts: run the experiment again"):
        read_exchanges(tmp_path / "round-0001.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "changes", "change", "error"),
    [
        ("fd", {}, Change(), "fd tells each client something of its own: there is no one broadcast to replay"),
        (
            "dml",
            {"data": {"partition": "shared"}},
            Change(aggregator="median"),
            "dml tells all clients what each of them said and puts nothing together: only a codec can be replayed",
        ),
        (
            "feddf",
            {"strategy": {"name": "feddf", "steps": 100, "lr": 0.02, "validate_every": 5}, **MANY},
            Change(aggregator="median"),
            "the server of feddf does more with weights than average them",
        ),
        ("fedproto", {}, Change(aggregator="median"), "aggregator median: uploads have counts beside their tables"),
        ("fedavg", {}, Change(target="vote"), "target vote: uploads are no tables of logits or probabilities"),
        ("fedavg", {"record": {}}, Change(), "kept no uploads: run it again with record.uploads = true"),
        ("local", {}, Change(), "no broadcast was made of uploads in round 2, so there is nothing to replay"),
        (
            "cfd",
            {**PUBLIC, "rounds": 3, "record": {"uploads": True, "checkpoints": 1, "best": ""}},
            Change(),
            "its server goes on from earlier rounds (net/main): keep the checkpoint of round 2 too (record.checkpoints)",
        ),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_one_line(
    strategy: str, changes: dict[str, Any], change: Change, error: str, tmp_path: Path
) -> None:
    path = run(tmp_path, changes.pop("strategy", strategy), **changes)
    with pytest.raises(InputError) as caught:
        replay(path, change)
    assert error in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_round_that_was_not_kept_and_a_broadcast_that_was_changed_are_told(tmp_path: Path) -> None:
    path = run(tmp_path, "fedmd", **PUBLIC)
    with pytest.raises(InputError, match="kept no uploads of round 7: there are 1 to 2"):
        replay(path, Change(), [7])
    file = upload_files(path)[2]
    first, second = read_exchanges(file)
    assert first.common is not None
    space, logits = first.common.tensors["logits"]
    wrong = replace(first, common=replace(first.common, tensors={"logits": (space, logits * 1.0001)}))
    write_uploads(path, 2, [wrong, second])
    with pytest.raises(InputError, match="round 2 of fedmd does not give its broadcast again, to the bit, from its uploads"):
        replay(path, Change())


@pytest.mark.parametrize("weights", [(1.0, 3.0), (1.0, 1.0)])
def test_a_server_that_averages_weights_is_known_by_what_it_broadcasts(weights: tuple[float, float]) -> None:
    """Of uploads 0 and 1 that count 1 and 3: their mean by samples is 3/4, by clients 1/2."""
    uploads = {
        client: Knowledge.of(
            "weights", {"w": torch.full((2,), float(client)), "n": torch.tensor(client)}, weight=1.0 + 2 * client
        )
        for client in (0, 1)
    }
    told = Knowledge.of("weights", {"w": torch.full((2,), weights[1] / sum(weights)), "n": torch.tensor(1)})
    check_put_together(uploads, told, "mine")
    with pytest.raises(InputError, match="the server of mine does more with weights than average them"):
        check_put_together(uploads, Knowledge.of("weights", {"w": torch.zeros(2)}), "mine")


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Change(aggregator="medain"), "unknown aggregator 'medain': did you mean 'median'?"),
        (lambda: Change(target="mean_logit"), "unknown target 'mean_logit': did you mean 'mean_logits'?"),
        (lambda: Change(aggregator="median", target="vote"), "an aggregator and a target are two answers to one question"),
        (lambda: Change(codec=("int9",)), "codec: unknown codec 'int9'"),
    ],
)
def test_a_wrong_name_is_one_line(make: Callable[[], Change], error: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert error in str(caught.value)
