"""The guard, value by value: what an upload must be before anybody computes with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedkd import Knowledge, Table, TensorSpec, UpTo
from fedkd.engine.guard import Rejected, check_header, check_upload, check_weight
from fedkd.engine.outliers import step_of, too_far, too_heavy
from fedkd.knowledge.knowledge import schema_of

F32 = torch.float32
ROWS = TensorSpec((2, 3), F32, "probabilities")


def check(space: str, tensor: Tensor, spec: TensorSpec | None = None) -> None:
    spec = spec or TensorSpec(tuple(tensor.shape), tensor.dtype, space)
    check_upload(Knowledge.of(space, {"table": tensor}), {"table": spec}, classes=3)


@pytest.mark.parametrize(
    ("space", "values", "reason"),
    [
        ("logits", [[torch.inf, 0.0]], "table holds a value that is not finite"),
        ("logits", [[torch.nan, 0.0]], "table holds a value that is not finite"),
        ("weights", [[-2e6, 1.0]], "table holds -2e\\+06, beyond 1e\\+06"),
        ("probabilities", [[0.7, 0.7]], "table holds a row that is no probability distribution"),
        ("probabilities", [[1.5, -0.5]], "table holds a row that is no probability distribution"),
        ("probabilities", [[0.0, 0.5]], "table holds a row that is no probability distribution"),
        ("labels", [0, 3], "table names class 3 of 3"),
        ("labels", [-1, 0], "table names class -1 of 3"),
        ("counts", [5, -1], "table counts -1"),
    ],
)
def test_values_outside_their_space_are_refused(space: str, values: list[float], reason: str) -> None:
    with pytest.raises(Rejected, match=reason):
        check(space, torch.tensor(values))


def test_honest_values_pass() -> None:
    check("probabilities", torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 0.0]]))  # a class without samples has a row of zeros
    check("probabilities", torch.tensor([[0.3333, 0.3333, 0.3333]]).half())
    check("logits", torch.tensor([[-80.0, 90.0]]))
    check("labels", torch.tensor([0, 2]))
    check("weights", torch.empty(0))


def test_a_side_of_the_senders_choice_is_bounded_and_the_same_wherever_it_stands() -> None:
    schema = {
        "prototypes": TensorSpec((UpTo("classes", 3), 2), F32, "embedding"),
        "class_ids": TensorSpec((UpTo("classes", 3),), torch.int32, "labels"),
    }
    ids = torch.tensor([0, 2], dtype=torch.int32)

    def upload(rows: int) -> Knowledge:
        return Knowledge.of("embedding", {"prototypes": torch.zeros(rows, 2)}).with_tensors("labels", {"class_ids": ids})

    check_upload(upload(2), schema, classes=3)
    with pytest.raises(Rejected, match=r"class_ids has shape \(2,\), expected \(classes \(at most 3\)\)"):
        check_upload(upload(1), schema, classes=3)
    with pytest.raises(Rejected, match=r"prototypes has shape \(4, 2\), expected \(classes \(at most 3\), 2\)"):
        check_upload(upload(4), schema, classes=3)
    assert sum(spec.raw_bytes for spec in schema.values()) == 3 * (2 * 4 + 4)


def test_an_optional_tensor_may_be_left_out_and_others_may_not() -> None:
    schema = {"table": ROWS, "more": TensorSpec((1,), F32, "logits", optional=True)}
    table = torch.full((2, 3), 1 / 3)
    check_upload(Knowledge.of("probabilities", {"table": table}), schema, classes=3)
    with pytest.raises(Rejected, match="table missing or unexpected"):
        check_upload(Knowledge.of("logits", {"more": torch.zeros(1)}), schema, classes=3)


def test_a_message_about_other_classes_or_another_public_set_is_refused() -> None:
    ground = {"label_space": "aa", "public_set": "bb"}
    said = Knowledge(header={"round": 1, "exchange": 0, **ground})
    check_header(said, round=1, exchange=0, common_ground=ground)
    with pytest.raises(Rejected, match="its public set is bb, the server's is cc: give both the same data"):
        check_header(said, round=1, exchange=0, common_ground=ground | {"public_set": "cc"})
    with pytest.raises(Rejected, match="its label space is not named"):
        check_header(Knowledge(header={"round": 1, "exchange": 0}), round=1, exchange=0, common_ground=ground)
    with pytest.raises(Rejected, match="it answers round 1, exchange 0"):
        check_header(said, round=2, exchange=0, common_ground=ground)


def weights(*values: float) -> dict[int, Knowledge]:
    return {client: Knowledge(weight=value) for client, value in enumerate(values)}


def test_where_sizes_are_unknown_a_weight_over_so_many_times_the_median_is_refused_and_the_key_is_named() -> None:
    assert "over guard.weight_ratio = 10 times the median 1" in too_heavy(weights(1, 1, 11), 10.0)[2]
    assert too_heavy(weights(1, 1, 10), 10.0) == {}
    assert too_heavy(weights(1, 1, 11), 20.0) == {}
    assert too_heavy(weights(1, 1000), 10.0) == {}  # of two, nobody can tell who lies


def test_where_sizes_are_known_a_weight_beyond_them_is_refused() -> None:
    check_weight(Knowledge(weight=64), 64)
    check_weight(Knowledge(weight=1), 0)  # what an upload weighs by default
    with pytest.raises(Rejected, match=r"claims a weight of 65, it has 64 training samples \(guard.weight_ratio = 0"):
        check_weight(Knowledge(weight=65), 64)


@pytest.mark.parametrize("weight", [0.0, -1.0, 1e13, 1e-13, float("nan"), float("inf")])
def test_a_weight_that_is_no_number_of_samples_is_refused_whatever_the_ratio(weight: float) -> None:
    with pytest.raises(Rejected, match="is not a positive number"):
        check_upload(Knowledge(weight=weight), {}, classes=3)


def test_a_step_is_held_against_the_rounds_median() -> None:
    sent = Knowledge.of("weights", {"w": torch.ones(4), "n": torch.tensor(3)})

    def moved(by: float) -> Knowledge:
        return Knowledge.of("weights", {"w": torch.ones(4) + by, "n": torch.tensor(9)})

    uploads = {client: moved(by) for client, by in enumerate([0.5, 1.0, -1.0, 40.0])}
    assert [step_of(upload, sent) for upload in uploads.values()] == [1.0, 2.0, 2.0, 80.0]
    assert (
        "its step of 80 is over guard.step_ratio = 20 times the median 2"
        in too_far(uploads, dict.fromkeys(uploads, sent), 20.0)[3]
    )
    assert too_far(uploads, dict.fromkeys(uploads, sent), 40.0) == {}
    assert too_far({0: moved(0), 1: moved(0), 2: moved(9)}, dict.fromkeys(range(3), sent), 2.0) == {}  # nobody else moved
    assert (
        too_far({k: Knowledge.of("logits", {"w": torch.ones(1) * 9**k}) for k in range(3)}, {k: sent for k in range(3)}, 2.0)
        == {}
    )


def test_variances_and_counts_of_batch_norm_are_never_negative() -> None:
    held = Knowledge.of("weights", torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2)).state_dict())
    schema = schema_of(held)
    assert {name for name, spec in schema.items() if spec.low == 0} == {"1.running_var", "1.num_batches_tracked"}
    for name in ("1.running_var", "1.num_batches_tracked"):
        with pytest.raises(Rejected, match=f"{name} holds -1, below 0"):
            check_upload(replace(held, tensors={**held.tensors, name: -torch.ones_like(held.tensors[name])}), schema, classes=3)
    check_upload(replace(held, tensors={**held.tensors, "1.running_mean": -torch.ones(2)}), schema, classes=3)
    assert all(spec.low is None for spec in schema_of(Knowledge.of("logits", held.tensors)).values())


def test_a_table_is_read_by_sample_id_and_never_by_position() -> None:
    table = Table(torch.tensor([40, 10, 30]), torch.tensor([[4.0], [1.0], [3.0]]))
    assert table.rows(torch.tensor([10, 30, 40, 10])).flatten().tolist() == [1, 3, 4, 1]
    with pytest.raises(KeyError, match="no row for sample 20"):
        table.rows(torch.tensor([10, 20]))
    with pytest.raises(ValueError, match="a sample stands twice"):
        Table(torch.tensor([1, 1]), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="2 rows cannot speak of 1 samples"):
        Table(torch.tensor([1]), torch.zeros(2, 1))


def test_what_the_servers_own_net_holds_is_legal_in_its_place() -> None:
    """A mask of minus infinities, one of a very large number, a gap that is not a number; moved by nobody, and nowhere else."""
    own = torch.tensor([-torch.inf, torch.inf, torch.nan, -1e9, 0.5])
    schema = schema_of(Knowledge.of("weights", {"mask": own}))

    def upload(changes: dict[int, float]) -> Knowledge:
        values = own.clone()
        for place, value in changes.items():
            values[place] = value
        return Knowledge.of("weights", {"mask": values})

    check_upload(upload({}), schema, classes=3)
    check_upload(upload({4: -2.0, 0: 0.0}), schema, classes=3)
    for changes, said in (
        ({4: torch.nan}, "not finite"),
        ({0: torch.inf}, "not finite"),
        ({0: torch.nan}, "not finite"),
        ({2: -torch.inf}, "not finite"),
        ({3: -2e9}, "beyond"),
        ({3: 1e9}, "beyond"),
    ):
        with pytest.raises(Rejected, match=said):
            check_upload(upload(changes), schema, classes=3)


def test_a_mask_of_infinities_is_no_step() -> None:
    mask = Knowledge.of("weights", {"mask": torch.tensor([-torch.inf, 3.0])})
    assert step_of(mask, Knowledge.of("weights", {"mask": torch.tensor([-torch.inf, -1.0])})) == 4.0
