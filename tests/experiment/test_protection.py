"""[privacy]: what no noise is defined for is refused; of all that leaves a client only noised tables tell of its data."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from grids.renumbered import RenumberedGrid
from test_every_strategy import NAMES, numbers, small

import fedkd.knowledge.channels
from fedkd import Client, Experiment, InputError, Knowledge, Predictor, Server, Strategy, TensorSpec, UpTo, simulate
from fedkd.app import client_app
from fedkd.base.errors import RunFailed
from fedkd.cli.baselines import baselines_of
from fedkd.data import Source, load_source
from fedkd.engine.guard import Rejected, check_header, common_ground
from fedkd.engine.instruction import RECORD
from fedkd.engine.run import Run
from fedkd.experiment.algorithm.upload_schemas import schemas_before_data, upload_schemas
from fedkd.experiment.registry import strategies
from fedkd.grids import InProcessGrid, JobGrid
from fedkd.knowledge.privacy import gaussian_epsilon
from fedkd.knowledge.records import METRICS
from fedkd.results.recorded import RecordedRun
from fedkd.results.report import write_report

NOISY = {"noise_multiplier": 2.0, "delta": 1e-3}
MINE = 1  # the client whose data differ in the two worlds


def world(mine: range) -> Source:
    """Four clients' digits: forty each, but for client 1, who holds these. In negative: none is among the public digits."""
    digits = load_source("digits")
    rows = {client: range(40 * client, 40 * client + 40) for client in range(4)} | {MINE: mine}
    picked = torch.tensor([row for held in rows.values() for row in held])
    owners = torch.tensor([client for client, held in rows.items() for _ in held])
    images, labels = 255 - digits.train_inputs[picked], digits.train_labels[picked]
    return Source(
        "a world", images, labels, 255 - digits.test_inputs[:100], digits.test_labels[:100], digits.classes, groups=owners
    )


def one_world() -> Source:
    return world(range(40, 80))


def another_world() -> Source:
    """Client 1 holds fewer samples, and no zeros and ones."""
    labels = load_source("digits").train_labels
    rows = [row for row in range(400, 700) if labels[row] > 1]
    return world(rows[:29])  # type: ignore[arg-type]


def experiment(name: str, source: object, **changes: Any) -> Experiment:
    public = {"public_source": "digits", "public": 30} if strategies()[name].needs.public else {}
    data = {"source": source, "clients": 4, "partition": "natural_id", **public}
    return small(name, **{"data": data, "privacy": NOISY, **changes})


def accepted() -> list[str]:
    """The strategies that run under [privacy], found by asking."""
    found = []
    for name in NAMES:
        try:
            small(name, privacy=NOISY)
            found.append(name)
        except InputError as error:
            assert "\n" not in str(error)
            assert re.match(
                r"privacy\.noise_multiplier: (\w+ uploads |each client of \w+ decides).*: set it to 0, or .*probabilities",
                str(error),
            )
    return found


ACCEPTED = accepted()


def test_some_strategies_run_under_privacy_and_most_are_refused_in_one_line() -> None:
    assert {"fd", "dsfl", "cfd", "cronus"} <= set(ACCEPTED)
    assert not {"fedavg", "fedx", "fedmd", "fedproto", "feddistill", "moon", "dml", "multi_teacher", "local"} & set(ACCEPTED)


@pytest.mark.parametrize("name", NAMES)
def test_what_travels_is_known_before_there_is_data(name: str) -> None:
    strategy, server = small(name).strategy, Run(small(name), InProcessGrid()).server
    before, run = schemas_before_data(strategy, small(name)), upload_schemas(strategy, server)
    spaces = [{(tensor, spec.space) for schema in schemas for tensor, spec in schema.items()} for schemas in (before, run)]
    assert before and spaces[0] == spaces[1]


@pytest.mark.parametrize(
    ("strategy", "uploads"),
    [
        ({"name": "fedmd_nfdp", "knowledge": "logits"}, "logits"),
        ({"name": "fedmd_nfdp", "knowledge": "labels"}, "labels"),
        ({"name": "feddistill"}, "logits and weights"),
        ({"name": "mcl", "logit_weight": 1.0}, "embedding and logits"),
        ({"name": "local"}, "nothing that can be noised"),
    ],
)
def test_the_refusal_names_what_would_leave_bare(strategy: dict[str, Any], uploads: str) -> None:
    with pytest.raises(InputError, match=rf"privacy\.noise_multiplier: \w+ uploads {uploads}\b"):
        small(strategy["name"], strategy=strategy, privacy=NOISY)


def test_a_setting_that_makes_uploads_tables_is_accepted_and_a_change_is_checked_again() -> None:
    settings = small("fedmd_nfdp", strategy={"name": "fedmd_nfdp", "knowledge": "probabilities"}, privacy=NOISY)
    with pytest.raises(InputError, match="FedAvg uploads weights"):
        settings.replace(strategy="fedavg")


def test_samples_that_all_clients_hold_are_told_of_by_all() -> None:
    with pytest.raises(InputError, match=r'with data\.partition = "shared" every client tells of the same samples'):
        Experiment(strategy="dsfl", data={"partition": "shared", "public": 20}, privacy=NOISY)


# ---- what is sent


class Overheard(InProcessGrid):
    """Keeps the replies of one client, as somebody on the wire sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.replies: list[Message] = []

    def run_jobs(self, messages: Sequence[Message], timeout: float | None) -> Iterator[Message]:
        for reply in super().run_jobs(messages, timeout):
            if reply.metadata.src_node_id == MINE and reply.metadata.message_type == "train":
                self.replies.append(reply)
            yield reply


def sent(settings: Experiment, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Knowledge], list[Message]]:
    """What client 1 hands to its codecs, which see nothing else of it, in every exchange; and its replies."""
    uploads: list[Knowledge] = []
    encode = fedkd.knowledge.channels.ClientChannel.encode

    def watched(self: Any, upload: Knowledge, which: str, *, acknowledged: str) -> Knowledge:
        uploads.append(upload)
        return encode(self, upload, which, acknowledged=acknowledged)

    with monkeypatch.context() as patch:
        patch.setattr(fedkd.knowledge.channels.ClientChannel, "encode", watched)
        history = simulate(settings, grid := Overheard())
    assert not any(row["clients_failed"] for row in history.metrics)
    return uploads[MINE :: settings.data.clients], grid.replies


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy", [*({"name": name} for name in ACCEPTED), {"name": "fedmd_nfdp", "knowledge": "probabilities"}], ids=str
)
def test_two_worlds_differ_in_the_noised_tables_only(strategy: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [experiment(strategy["name"], source, strategy=strategy) for source in (one_world, another_world)]
    held = [each.federation().client_train(MINE) for each in settings]
    assert len(held[0]) != len(held[1])
    (here, replies), (there, others) = (sent(each, monkeypatch) for each in settings)
    exchanges = 2 * settings[0].strategy.exchanges_per_round(settings[0])
    assert len(here) == len(there) == len(replies) == len(others) == exchanges
    tables = 0
    for one, other in zip(here, there, strict=True):
        assert one.metrics == other.metrics == {}
        assert one.weight == other.weight
        assert one.header == other.header
        assert one.spaces == other.spaces
        for name, tensor in one.tensors.items():
            assert (tensor.shape, tensor.dtype) == (other.tensors[name].shape, other.tensors[name].dtype)
            same = one.spaces[name] != "probabilities" or not tensor.numel()
            assert torch.equal(tensor, other.tensors[name]) == same
            tables += one.spaces[name] == "probabilities"
    assert tables
    assert all(not reply.content[METRICS] for reply in (*replies, *others))


@pytest.mark.slow
@pytest.mark.parametrize("name", ACCEPTED)
def test_what_an_attacker_or_a_fault_makes_of_it_is_made_after_the_noise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = {"attack": {"name": "similar_class", "share": 1.0}}
    clean, attacked = (sent(experiment(name, one_world, **extra), monkeypatch)[0][0] for extra in ({}, hostile))
    (table,) = [tensor for tensor, space in clean.spaces.items() if space == "probabilities"]
    assert torch.equal(clean.tensors[table].sort(-1).values, attacked.tensors[table].sort(-1).values)


@pytest.mark.slow
def test_fd_says_of_every_label_that_it_is_of_one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    uploads, _ = sent(experiment("fd", another_world), monkeypatch)
    assert [upload.tensors["counts"].tolist() for upload in uploads] == [[1] * 10] * 2


@pytest.mark.slow
def test_noise_is_the_same_on_every_grid_of_ours(make_grid: Callable[[], JobGrid]) -> None:
    settings = Experiment(strategy="fd", rounds=2, nets="mlp", data={"clients": 3, "train_limit": 90}, privacy=NOISY)
    assert numbers(simulate(settings, make_grid())) == numbers(simulate(settings))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:as .privacy. is on")
def test_noise_is_the_seed_s_in_a_simulation_and_nobody_s_elsewhere() -> None:
    settings = experiment("dsfl", one_world, rounds=1)
    nodes = {30: {"partition-id": 0}, 20: {"partition-id": 1}, 50: {"partition-id": 2}, 40: {"partition-id": 3}}
    here = [simulate(settings).metrics[1]["server_distillation"] for _ in range(2)]
    elsewhere = [simulate(settings, RenumberedGrid(nodes)).metrics[1]["server_distillation"] for _ in range(2)]  # type: ignore[arg-type]
    assert here[0] == here[1]
    assert len({*here, *elsewhere}) == 3


# ---- strategies of one's own


@final
@dataclass(frozen=True)
class Saying(Strategy):
    """Uploads one table, and whatever else a test asks for."""

    space: str = "probabilities"
    optional: bool = False
    rows_chosen: bool = False
    header: bool = False
    fails: bool = False
    sees_data: bool = False

    paper: ClassVar[str] = "none (test)"
    sends: ClassVar[str] = "a table"

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        if self.fails and client.id == 2:
            raise ValueError("the third one is patient Smith")
        table = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
        header = {"patient": "Smith"} if self.header and client.id == 2 else {}
        return Knowledge.of(self.space, {"table": table}, header=header)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        return Knowledge()

    def predictors(self, node: object, broadcast: Knowledge) -> dict[str, Predictor]:
        return {}

    def upload_schema(self, server: Server, client: int) -> dict[str, TensorSpec]:
        if self.sees_data:
            assert server.federation.source.name == "a world"
        rows = UpTo("rows", 2) if self.rows_chosen else 2
        return {"table": TensorSpec((rows, 2), torch.float32, self.space, optional=self.optional)}


def saying(**what: Any) -> Experiment:
    data = {"source": one_world, "clients": 4, "partition": "natural_id"}
    return Experiment(strategy=Saying(**what), rounds=2, nets="mlp", data=data, privacy=NOISY)


@pytest.mark.parametrize("space", ["weights", "logits", "labels", "embedding", "coded"])
def test_a_strategy_of_one_s_own_is_held_to_the_same(space: str) -> None:
    saying()
    with pytest.raises(InputError, match=f"Saying uploads {space}"):
        saying(space=space)


@pytest.mark.parametrize("chosen", ["optional", "rows_chosen"])
def test_whether_and_how_much_is_sent_may_not_be_the_client_s_choice(chosen: str) -> None:
    with pytest.raises(InputError, match=r"each client of Saying decides how much of 'table' it sends"):
        saying(**{chosen: True})


def test_what_only_data_can_tell_is_refused_before_round_one_and_leaves_no_directory(tmp_path: Path) -> None:
    settings = saying(space="logits", sees_data=True)
    with pytest.raises(InputError, match="Saying uploads logits"):
        simulate(settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_header_is_not_sent_and_the_reason_names_the_fact_and_not_its_value() -> None:
    (row,) = [row for row in simulate(saying(header=True)).clients if row["round"] == 1 and row["client"] == 2]
    assert "this upload's header says patient, for which no noise is defined" in row["reason"]
    assert "Smith" not in row["reason"]


def test_why_a_client_failed_stands_in_its_own_log(caplog: pytest.LogCaptureFixture) -> None:
    (row,) = [row for row in simulate(saying(fails=True)).clients if row["round"] == 1 and row["client"] == 2]
    assert "client 2, round 1 failed: as [privacy] is on, the reason stands in its own log only" in row["reason"]
    assert "Smith" not in row["reason"]
    assert "is patient Smith" in caplog.text


def test_clients_that_do_not_noise_are_not_listened_to() -> None:
    """A ServerApp of one's own has the experiment, and the clients' run-config may be another."""
    noisy, plain = (
        common_ground(settings.strategy, settings.privacy, settings.federation())
        for settings in (saying(), saying().replace(privacy={}))
    )
    said = Knowledge(header={"round": 1, "exchange": 0, **plain})
    check_header(said, round=1, exchange=0, common_ground=plain)
    with pytest.raises(Rejected, match="its noise is not named, the server's is 2 x 1: give both the same data and experiment"):
        check_header(said, round=1, exchange=0, common_ground=noisy)


# ---- evaluation


@pytest.mark.slow
def test_in_a_simulation_clients_are_measured_and_elsewhere_they_answer_nothing() -> None:
    settings = experiment("fd", one_world)
    assert 0 <= simulate(settings).metrics[-1]["client_accuracy"] <= 1
    nodes = {10 + client: {"partition-id": client} for client in range(4)}
    with pytest.warns(UserWarning, match="clients elsewhere are not asked for their accuracy"):
        rows = simulate(experiment("dsfl", one_world), RenumberedGrid(nodes)).metrics  # type: ignore[arg-type]
    assert not any("client_accuracy" in row or row["evaluation_bytes"] for row in rows)
    assert "accuracy" in rows[-1]  # of the server's net, which learned from noised tables only


class Elsewhere(InProcessGrid):
    """Clients that live elsewhere when they get a message of this kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def run_jobs(self, messages: Sequence[Message], timeout: float | None) -> Iterator[Message]:
        for message in messages:
            node = self.context(message.metadata.dst_node_id).node_config
            node["simulated"] = message.metadata.message_type != self.kind
        yield from super().run_jobs(messages, timeout)


@pytest.mark.slow
def test_a_client_elsewhere_does_not_answer_even_if_it_is_asked() -> None:
    with pytest.raises(RunFailed, match="this client answers no evaluation: the answer would be an exact count") as failed:
        simulate(experiment("fd", one_world, rounds=1), Elsewhere("evaluate"))
    assert [row["clients_ok"] for row in failed.value.history.metrics] == [0, 4]


def test_who_joins_from_elsewhere_says_nothing_of_its_own_data() -> None:
    said = []
    for source in (one_world, another_world):
        with (grid := Elsewhere("query.join")).open(client_app(data=source), 4, experiment("fd", source).to_flat()):
            asked = [grid.create_message(RecordDict({RECORD: ConfigRecord()}), "query.join", MINE, "0")]
            (reply,) = grid.send_and_receive(asked, timeout=60)
        said.append(dict(reply.content[RECORD]))
    assert said[0] == said[1]
    assert said[0].keys() == {"partition-id", "fedkd", "label_space", "public_set"}


# ---- the ledger


@pytest.mark.slow
@pytest.mark.parametrize("name", ACCEPTED)
def test_epsilon_counts_every_table_that_was_asked_for(name: str) -> None:
    """Two rounds, one table each; a client that crashes may have been heard, one that was never asked was not.

    SCARLET asks about no sample in the second.
    """
    rows = simulate(experiment(name, one_world)).metrics
    tables = (1, 1) if name == "scarlet" else (1, 2)
    assert [row.get("epsilon") for row in rows] == [None, *(gaussian_epsilon(2.0, n, 1e-3) for n in tables)]
    assert "everything that one client holds, replaced" in rows[-1]["epsilon_of"]
    crashed = simulate(experiment(name, one_world, faults={"crash": 0.5})).metrics
    assert crashed[-1]["clients_failed"] > 0
    assert crashed[-1]["epsilon"] == rows[-1]["epsilon"]


@pytest.mark.slow
def test_epsilon_is_that_of_the_client_that_sent_most() -> None:
    settings = experiment("cronus", one_world, rounds=5, participation=0.5)
    history = simulate(settings)
    sent = [
        sum(row["client"] == client and row["status"] == "ok" for row in history.clients if "status" in row)
        for client in range(4)
    ]
    assert max(sent) < 5
    assert history.metrics[-1]["epsilon"] == gaussian_epsilon(2.0, max(sent), 1e-3)


@pytest.mark.slow
def test_a_resumed_run_goes_on_counting_and_draws_the_same_noise(tmp_path: Path) -> None:
    settings = experiment("cfd", one_world, rounds=3)

    def breaks_off(row: dict[str, Any]) -> None:
        if row["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(settings, out=tmp_path / "run", on_round=breaks_off)
    resumed = simulate(settings, out=tmp_path / "run", resume=True)
    assert numbers(resumed) == numbers(simulate(settings))


@pytest.mark.slow
def test_elsewhere_a_run_under_privacy_is_not_resumed(tmp_path: Path) -> None:
    settings = experiment("cfd", one_world, rounds=1)
    simulate(settings, out=tmp_path / "run")
    nodes = {10 + client: {"partition-id": client} for client in range(4)}
    with pytest.raises(InputError, match="a run whose clients are elsewhere cannot be resumed"):
        simulate(settings, RenumberedGrid(nodes), out=tmp_path / "run", resume=True)  # type: ignore[arg-type]


# ---- what is written


@pytest.mark.slow
def test_the_report_says_what_epsilon_covers_and_only_where_noise_acted(tmp_path: Path) -> None:
    pages = {}
    for name, noise in (("noisy", NOISY), ("plain", {})):
        simulate(experiment("fd", one_world, privacy=noise), out=tmp_path / name)
        write_report(RecordedRun.read(tmp_path / name), tmp_path / f"{name}.html")
        pages[name] = (tmp_path / f"{name}.html").read_text()
    said = re.sub(r"\s+", " ", pages["noisy"])
    assert "neighbours: everything that one client holds, replaced" in said
    assert "measured by the experimenter" in said
    assert "<th>Epsilon" in said or ">Epsilon<" in said
    assert "epsilon_of" not in pages["plain"] and ">Epsilon<" not in pages["plain"]


def test_baselines_run_without_noise() -> None:
    baselines = baselines_of(small("dsfl", privacy=NOISY))
    assert {"local", "centralised", "ensemble", "fedavg"} == set(baselines)
    assert not any(each.privacy.noise_multiplier for each in baselines.values())
