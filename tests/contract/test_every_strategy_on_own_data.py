"""Every strategy where each node has its own data: it computes what it does on the joined data, and nobody looks."""

import re
from pathlib import Path
from typing import Any

import pytest
from own_data import split_up

from fedkd import Experiment, History, InputError, simulate
from fedkd.experiment.registry import strategies
from fedkd.results.history import TIMES

SMALL = {
    "rounds": 2,
    "evaluate_every": 2,
    "nets": "cnn",
    "net_options": {"cnn": {"channels": [4, 8], "hidden": 8}},
    "train": {"batch_size": 16, "lr": 0.05},
}
#: What all agreed on goes with every message, and the server's test set to clients whose nets it does not have.
BYTES = ("wire_bytes_down", "evaluation_bytes")
#: Of encoders: on joined data a probe is fitted to the labels of all clients, here to those of the server or of one client.
OF_PROBES = re.compile("accuracy|alignment|uniformity")
#: What is refused before round 1, as it takes the samples of several clients at one place.
REFUSED = {name for name, cls in strategies().items() if cls.needs.shared_data or cls.needs.pooled_data}


def rows(history: History, *, of_probes: bool) -> list[dict[str, Any]]:
    left = (*TIMES, *BYTES)
    kept = [{key: value for key, value in row.items() if key not in left} for row in (*history.metrics, *history.clients)]
    return [{key: value for key, value in row.items() if of_probes or not OF_PROBES.search(key)} for row in kept]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(strategies().keys() - REFUSED))
def test_rows_are_those_of_the_joined_data_to_the_bit(name: str, tmp_path: Path) -> None:
    """A strategy that asks for samples or sizes of another client would meet a LookupError: they are not there."""
    needs = strategies()[name].needs
    encoders = bool({"representations", "probe_epochs"}.intersection(needs.uses or ()))
    # The server's validation samples are no client's, so everybody's moments are of fewer samples here.
    moments = {"normalise": "none"} if needs.validation else {}
    split = split_up(tmp_path, public=24 if needs.public else 0, validation=12 if needs.validation else 0, **moments)
    briefly = {"probe_epochs": 2} if encoders else {}
    briefly |= {"label_shares": []} if "representations" in (needs.uses or ()) else {}
    settings = SMALL | {"evaluation": briefly}
    joined = simulate(Experiment(strategy=name, data=split.joined, **settings))
    own = simulate(Experiment(strategy=name, data=split.own, **settings), split.grid())  # type: ignore[arg-type]
    assert rows(own, of_probes=not encoders) == rows(joined, of_probes=not encoders)
    assert all(row.get("status", "ok") == "ok" for row in own.clients)
    assert not any("evaluation_failures" in row for row in own.metrics)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_needs_the_samples_of_others_is_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^strategy: {strategies()[name].__name__} .*data\.partition = \"(own|shared)\""):
        Experiment(strategy=name, data={"source": str(tmp_path), "partition": "own"})


def test_a_student_at_the_server_needs_public_samples_where_runs_teach_it() -> None:
    taught = {"name": "multi_teacher", "teachers": "runs/done"}
    with pytest.raises(
        InputError, match=r"^strategy: MultiTeacher needs the samples of all clients at the server, .*\(data.public\)"
    ):
        Experiment(strategy=taught, data={"source": "sites", "partition": "own"})
    Experiment(strategy=taught, data={"source": "sites", "partition": "own", "public": 9, "public_source": "photos"})
