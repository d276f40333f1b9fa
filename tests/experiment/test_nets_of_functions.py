"""A user's function of nets in whole runs: every call gives a net of its own, on every grid and in every run of a process."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grids.forgetful import ForgetfulGrid
from safetensors.torch import load_file
from torch import Tensor, nn

from fedkd import Experiment, InputError, simulate
from fedkd.base import remembered_draws
from fedkd.base.errors import Notice
from fedkd.data import Source
from fedkd.experiment.algorithm import net_supply
from fedkd.experiment.algorithm.functions import Functions
from fedkd.grids import JobGrid
from fedkd.nets import as_function
from fedkd.results.history import OF_ENGINE, TIMES
from fedkd.results.identity import code_of


def run(nets: Any, grid: JobGrid | None = None, **changes: Any) -> list[dict[str, Any]]:
    data = {"clients": 3, "partition": "iid", "train_limit": 90, "test_limit": 50}
    given = {"strategy": "local", "rounds": 1, "nets": nets, "data": data, "train": {"lr": 0.1}, **changes}
    history = simulate(Experiment(**given), grid)
    assert not any(row["clients_failed"] for row in history.metrics), history.clients
    rows = [*history.metrics, *history.clients]
    return [{key: value for key, value in row.items() if key not in (*TIMES, *OF_ENGINE)} for row in rows]


def layers(width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, classes))


def named_alike(width: int) -> Callable[..., nn.Module]:
    def net(shape: tuple[int, int, int], classes: int) -> nn.Module:
        return layers(width, classes)

    return net


def bytes_up(rows: list[dict[str, Any]]) -> int:
    return int(rows[1]["bytes_up"])


@pytest.mark.slow
def test_functions_of_one_name_make_two_nets() -> None:
    """As a cell of a notebook that is run again."""
    small, large = (bytes_up(run(named_alike(width), strategy="fedavg")) for width in (4, 8))
    assert small < large
    assert bytes_up(run(named_alike(4), strategy="fedavg")) == small


@pytest.mark.slow
def test_what_a_function_reads_may_change_between_two_runs() -> None:
    width = 4

    def net(shape: tuple[int, int, int], classes: int) -> nn.Module:
        return layers(width, classes)

    small = bytes_up(run(net, strategy="fedavg"))
    width = 8
    assert bytes_up(run(net, strategy="fedavg")) > small


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedavg", "local", "dml"])
def test_layers_that_a_function_shares_between_its_nets_are_nobody_elses(strategy: str) -> None:
    """Each net trains copies; the layers themselves stay as they were."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8))
    before = deepcopy(backbone.state_dict())
    data = {"clients": 3, "partition": "shared" if strategy == "dml" else "iid", "train_limit": 90, "test_limit": 50}

    def sharing(shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(backbone, nn.Linear(8, classes))

    def copying(shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(deepcopy(backbone), nn.Linear(8, classes))

    assert run(sharing, strategy=strategy, data=data) == run(copying, strategy=strategy, data=data)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


@pytest.mark.slow
def test_the_same_module_each_time_is_copied_and_said() -> None:
    torch.manual_seed(0)
    net = layers(4, 10)
    with pytest.warns(Notice, match="is made of the same module at each call: every client and seed starts from its weights"):
        found = run(lambda shape, classes: net)
    assert found == run(lambda shape, classes: deepcopy(net))


def test_hooks_that_reach_their_own_net_still_do() -> None:
    """A copy of such a net would look into the first one's features."""

    class Hooked(nn.Module):
        def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
            super().__init__()
            self.body, self.last, self.seen = layers(4, 4), nn.Linear(4, classes), dict[str, Tensor]()
            self.body.register_forward_hook(lambda module, inputs, output: self.seen.update(features=output))

        def forward(self, images: Tensor) -> Tensor:
            self.body(images)
            logits: Tensor = self.last(self.seen["features"])
            return logits

    assert run(Hooked)[1]["clients_ok"] == 3


class Noisy(nn.Module):
    """Much of it is in no state dict: a random table, a share of dropout that is drawn, a hook, a count of passes."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.2))
        self.register_buffer("table", torch.randn(256), persistent=False)
        self.p, self.passes, self.last = random.uniform(0.1, 0.5), 0, nn.Linear(256, classes)
        self.body.register_forward_hook(lambda module, inputs, output: output + 0.01 * self.passes * self.table)

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        logits: Tensor = self.last(nn.functional.dropout(self.body(images), self.p, self.training))
        return logits


def usual(shape: tuple[int, int, int], classes: int) -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(), nn.Linear(256, classes))
    nn.init.xavier_uniform_(net[1].weight)
    return net


@pytest.mark.parametrize("net", [usual, Noisy])
@pytest.mark.parametrize("strategy", ["fedavg", "local"])
def test_what_is_remembered_of_draws_changes_no_number(strategy: str, net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every client's net is made by the function; only numbers that were drawn before are copied."""
    found = run(net, strategy=strategy, rounds=2)
    monkeypatch.setattr(net_supply, "draws_of", lambda seed: nullcontext())
    assert run(net, strategy=strategy, rounds=2) == found


def test_what_is_remembered_of_draws_outlives_a_run_and_no_net_does() -> None:
    gain, p = 1.0, 0.5

    def net(shape: tuple[int, int, int], classes: int) -> nn.Module:
        made = usual(shape, classes)
        nn.init.xavier_uniform_(made[1].weight, gain)
        made[4].p = p
        return made

    first = run(net, strategy="fedavg")
    gain, p = 3.0, 0.1
    second = run(net, strategy="fedavg")
    remembered_draws._OF_SEEDS.clear()
    assert run(net, strategy="fedavg") == second != first


class OfNumPy(nn.Module):
    """Weights from NumPy and Python, and a dropout of NumPy's."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.last = nn.Linear(64, classes)
        with torch.no_grad():
            self.last.weight.copy_(torch.from_numpy(np.random.randn(classes, 64) * random.uniform(0.01, 0.1)))

    def forward(self, images: Tensor) -> Tensor:
        kept = torch.from_numpy(np.random.rand(len(images), 64) > 0.3) if self.training else torch.tensor(True)
        logits: Tensor = self.last(images.flatten(1) * kept)
        return logits


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedavg", "local"])
def test_numpy_draws_the_same_on_every_grid(strategy: str, make_grid: Callable[[], JobGrid]) -> None:
    np.random.seed(1)
    expected = run(OfNumPy, strategy=strategy)
    np.random.seed(2)
    assert run(OfNumPy, make_grid(), strategy=strategy) == expected
    assert run(OfNumPy, strategy=strategy, seed=1) != expected


def test_weights_that_no_seed_repeats_are_refused() -> None:
    def net(shape: tuple[int, int, int], classes: int) -> nn.Module:
        made = layers(4, classes)
        with torch.no_grad():
            made[1].weight.copy_(torch.from_numpy(np.random.default_rng().normal(size=(4, 64))))
        return made

    with pytest.raises(InputError, match=r"encoder\.1\.weight starts from other numbers each time, under the same seed"):
        run(net)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::fedkd.base.errors.Notice")
def test_a_module_is_one_net_for_all_and_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = layers(4, 10)
    before = deepcopy(net.state_dict())
    assert run(net, strategy="fedavg") == run(lambda shape, classes: deepcopy(net), strategy="fedavg")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    (tmp_path / "a_net.py").write_text(
        "import torch\nfrom torch import nn\n\ntorch.manual_seed(0)\nnet = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert run("a_net:net")[1]["clients_ok"] == 3
    sys.modules.pop("a_net")


def test_a_module_is_written_down_with_a_hash_of_its_weights() -> None:
    one, other = layers(4, 10), layers(4, 10)
    texts = [code_of(Functions(nets={"mine": as_function(net)}))["nets-mine.py"] for net in (one, deepcopy(one), other)]
    assert "Linear(in_features=64, out_features=4" in texts[0]
    assert texts[0] == texts[1] != texts[2]


def test_where_nets_must_start_different_the_last_layer_of_a_module_is_drawn_anew_and_said() -> None:
    data = {"clients": 2, "partition": "shared", "train_limit": 60, "test_limit": 50}
    with pytest.warns(
        Notice, match="is a module: every net .* starts from its weights; where nets must start different, 4, its"
    ):
        rows = run(layers(4, 10), strategy="dml", data=data)
    first, second = (row["accuracy"] for row in rows if row.get("client") is not None and row["round"] == 0)
    assert first != second


def test_shares_and_functions_do_not_mix() -> None:
    for given in ({layers(4, 10): 1.0}, {"mlp": 0.5, "mine": named_alike(4)}):
        with pytest.raises(
            InputError, match=r"^nets: shares are numbers by name, .*; functions are given alone, or all by name"
        ):
            run(given)


@pytest.mark.slow
def test_several_functions_by_name_have_equal_shares_on_a_grid_that_forgets() -> None:
    nets = {"small": named_alike(3), "large": OfNumPy}
    data = {"clients": 4, "partition": "iid", "train_limit": 80, "test_limit": 50, "public": 20}
    experiment = Experiment(strategy="fedmd", nets=nets, rounds=1, data=data)
    assert sorted(experiment.architecture_of(client) for client in range(4)) == ["<large>", "<large>", "<small>", "<small>"]
    assert experiment.to_tables()["nets"] == {"<small>": 0.5, "<large>": 0.5}
    assert run(nets, strategy="fedmd", data=data) == run(nets, ForgetfulGrid(), strategy="fedmd", data=data)


def test_options_of_functions_by_name() -> None:
    def net(shape: tuple[int, int, int], classes: int, *, width: int = 4) -> nn.Module:
        return layers(width, classes)

    plain, wide = (run({"mine": net}, strategy="fedavg", **given) for given in ({}, {"net_options": {"mine": {"width": 9}}}))
    assert bytes_up(wide) > bytes_up(plain)
    with pytest.raises(InputError, match="has no option 'widht': did you mean 'width'"):
        run({"mine": net}, net_options={"mine": {"widht": 9}})


@pytest.mark.parametrize("strategy", ["fedproto", "okddip", pytest.param("fedx", marks=pytest.mark.slow), "mcl", "fedkd"])
def test_strategies_on_features_take_plain_modules(strategy: str) -> None:
    shared = strategy in ("okddip", "mcl")
    data = {"clients": 3, "partition": "shared" if shared else "iid", "train_limit": 60, "test_limit": 50}
    assert run(named_alike(6), strategy=strategy, data=data, train={"batch_size": 30})[1]["clients_ok"] == 3


class Counting(nn.Module):
    """Counts its passes where no state dict looks."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.body, self.passes = layers(4, classes), 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        logits: Tensor = self.body(images)
        return logits


def test_what_works_and_was_not_meant_so_is_said() -> None:
    with pytest.warns(Notice, match=r"changes encoder\.passes in a forward pass, which its state dict does not hold"):
        run(Counting)
    with pytest.warns(Notice, match="gives probabilities, it seems, where logits are expected"):
        run(lambda shape, classes: nn.Sequential(layers(4, classes), nn.Softmax(1)))


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_nothing_is_said_of_usual_nets() -> None:
    run(named_alike(4))
    run(lambda shape, classes: nn.Sequential(layers(4, classes), nn.LogSoftmax(1)))
    for normalise in (nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm):
        run(lambda shape, classes, of=normalise: nn.Sequential(nn.Flatten(), nn.Dropout(0.1), of(nn.Linear(64, classes))))


@pytest.mark.slow
def test_tied_weights_are_saved_and_read_again(tmp_path: Path) -> None:
    def tied(shape: tuple[int, int, int], classes: int) -> nn.Module:
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, classes))
        net[2].weight = net[1].weight
        return net

    data = {"clients": 2, "partition": "iid", "train_limit": 60, "test_limit": 50}
    simulate(Experiment(strategy="fedavg", rounds=1, nets=tied, data=data), out=tmp_path / "run")
    saved = load_file(tmp_path / "run" / "nets" / "global.safetensors")
    assert torch.equal(saved["encoder.1.weight"], saved["encoder.2.weight"])


@pytest.mark.slow
def test_a_file_that_changed_or_another_of_its_name_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "from torch.nn import *\n\ndef net(shape, classes): return Sequential(Flatten(), Linear(64, {w}), Linear({w}, classes))"
    )
    found = []
    for place, width in (("here", 4), ("here", 8), ("there", 6)):
        (tmp_path / place).mkdir(exist_ok=True)
        file = tmp_path / place / "my_changing_net.py"
        file.write_text(text.format(w=width))
        os.utime(file, ns=(width * 1000, width * 1000))  # within one second, and of one size
        monkeypatch.chdir(tmp_path / place)
        found.append(bytes_up(run("my_changing_net:net", strategy="fedavg")))
    sys.modules.pop("my_changing_net")
    assert [found[1] - found[0], found[2] - found[0]] == [3 * 4 * 4 * 75, 3 * 4 * 2 * 75]  # 64 + 1 + 10 numbers a unit


def by_name() -> Source:
    ids, labels = torch.arange(60).remainder(7).view(20, 3) + 1, torch.arange(20) % 2
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Source("texts", inputs, labels, inputs, labels, ("a", "b"))


@pytest.mark.parametrize(
    ("nets", "source", "said"),
    [
        (
            lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(64, 32)),
            "digits",
            "if these are features, end it with nn",
        ),
        (lambda shape, classes: layers(4, classes), by_name, "fails in train mode on a batch of tokens samples input_ids"),
        ("mlp", by_name, "net 'mlp' takes real numbers of any shape: images, vectors or signals, and these samples are tokens"),
        ("transformer", "digits", r"net 'transformer' takes tokens \(L,\), and these samples are \(1, 8, 8\): take"),
    ],
)
def test_a_net_that_does_not_fit_its_samples_is_one_line_before_round_1(nets: Any, source: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"^nets: .*{said}") as error:
        run(nets, data={"source": source, "clients": 2, "partition": "iid"})
    assert len(str(error.value).splitlines()) == 1
