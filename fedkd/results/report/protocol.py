"""The protocol card: how every number came about, so that another can measure it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedkd.results.changes import read_changes
from fedkd.results.curves import headline, is_recorded
from fedkd.results.environment import read_environment
from fedkd.results.identity import read_code
from fedkd.results.recorded import RecordedRun, Seeds
from fedkd.results.report.algorithm import told_of
from fedkd.results.report.names import DETAILED
from fedkd.results.report.parts import Section, Table
from fedkd.results.row_keys import with_test_set
from fedkd.results.statistics import energy, size

#: How the headline numbers are chosen.
CHOSEN = (
    ("Last", "after the last measured round: the number to quote"),
    ("Best", "the highest of all rounds; it was chosen on the test set and so flatters"),
    ("Mean of the last rounds", "over five measured rounds, or as many as there are; not chosen, and less noisy than the last"),
)


def protocol(groups: Sequence[Seeds]) -> Section:
    """The section: one card for each group of seeds; what the groups do not have in common comes first."""
    several, pairs, texts = len(groups) > 1, [], []
    for group in groups[:DETAILED]:
        more = f": {group.label}" if several else ""
        run = group.runs[0]
        pairs += [(f"{term}{more}", text) for term, text in card(group)]
        texts += [(f"Code of the user, {name}{more}", text) for name, text in read_code(run.path).items()]
        keys = "\n".join(f"{key} = {value}" for key, value in run.experiment.items())
        texts.append((f"All keys of the experiment{more}", keys))
    tables = [_differing(groups)] if several else []
    return Section("protocol", "Protocol card", "How these numbers were measured.", tables=tables, pairs=pairs, texts=texts)


def card(group: Seeds) -> Iterator[tuple[str, str]]:
    """The card of one group, as (term, description) pairs."""
    run = group.runs[0]
    yield from told_of(run)
    yield from splits(run)
    every = int(run.experiment.get("evaluate_every", 1))
    yield "Accuracy", f"of: {with_test_set(headline(run))}, measured {'every round' if every == 1 else f'every {every} rounds'}"
    yield from CHOSEN
    yield from _clients(run)
    seeds = ", ".join(str(each.seed) for each in group.runs)
    yield "Seeds", f"{seeds}; one run is one draw: compare methods over several seeds"
    yield from _changes(run)
    yield from _machine(run)


def splits(run: RecordedRun) -> Iterator[tuple[str, str]]:
    """What the data were cut into, and whether the pieces overlap."""
    told, data = run.experiment, run.data
    if data is None:
        return
    yield (
        "Data",
        f"{data.source}: {len(data.classes)} classes, content {data.content_hash[:12]}, partition {data.partition_hash[:12]}",
    )
    own = told.get("data.partition") == "own"
    train, test = sum(data.client_train), sum(data.client_test)
    pieces = {
        "clients train on": train,
        "clients keep for their own tests": test,
        "public": data.public,
        "validation, at the server": data.validation,
        "global test": data.test,
        "held by nobody": data.unheld,
    }
    yield "Splits, in samples", "; ".join(f"{name} {count:,}" for name, count in pieces.items() if count)
    if own:
        overlap = "each client has data of its own: whether samples of two clients are the same is not known here"
    elif told.get("data.partition") == "shared":
        overlap = "all clients train on the same samples, by design; public, validation and test samples are none of these"
    else:
        overlap = "none: each training sample is in one piece only, and the global test set is a split of its own"
    if data.public_content and not own:
        overlap += "; public samples are of another data set, and none of them is among the samples here"
    yield "Overlap of splits", f"{overlap}. Equal samples that the data set itself holds twice are not looked for"
    labels = "may be used" if told.get("data.public_labels") else "are not used in training"
    if data.public:
        yield "Public labels", f"{labels}; where the simulation knows them the teacher is scored with them"


def _clients(run: RecordedRun) -> Iterator[tuple[str, str]]:
    told = run.experiment
    share, split = told.get("participation", 1.0), float(told.get("data.client_test", 0.0))
    if share == "async":
        at_once, buffer = told.get("asynchrony.concurrency") or "all", told.get("asynchrony.buffer")
        who = f"{at_once} are at work at any time, and a round is a buffer of {buffer} uploads"
    else:
        who = f"{100 * share:g} % take part in a round"
    nets = told.get("nets") or ", ".join(f"{k.removeprefix('nets.')}: {v}" for k, v in told.items() if k.startswith("nets."))
    yield "Clients", f"{told.get('data.clients', '?')}, of which {who}; nets {nets}"
    devices = ", ".join(f"{key.rpartition('.')[2]} {each}" for key, each in told.items() if key.startswith("clock.devices."))
    if devices or told.get("clock.table"):
        yield "Virtual clock", f"seconds of counted operations and coded bytes, on: {devices or told['clock.table']}"
    if run.stopped:
        yield "Stopped", f"after round {run.rounds_done} of {told['rounds']}: {run.stopped}"
    yield "Client accuracy", f"mean over clients on their own test splits ({100 * split:g} % of each client's samples)"
    yield "Mean accuracy of the worst tenth of clients", "the same mean over the tenth of clients with the lowest accuracy"
    training = {key.removeprefix("train."): value for key, value in told.items() if key.startswith("train.")}
    yield "Local training", ", ".join(f"{key} {value}" for key, value in training.items() if value not in ("", (), 0, 0.0))


def _changes(run: RecordedRun) -> Iterator[tuple[str, str]]:
    """What was changed when the run was gone on with."""
    for line in read_changes(run.path):
        changed = {**line.get("keys", {}), **line.get("packages", {})}
        said = "; ".join(f"{key} from {value.get('was')} to {value['is']}" for key, value in changed.items())
        yield f"After round {line['after_round']}", said


def _machine(run: RecordedRun) -> Iterator[tuple[str, str]]:
    found = read_environment(run.path)
    names = {"command": "Command line", "time": "Begun", "versions": "Versions", "cpu": "Processor", "gpus": "GPUs"}
    why_not = found.pop("energy", None)
    for key, value in found.items():
        yield names.get(key, key.capitalize()), _flat(key, value)
    if is_recorded(run.rows, "joules"):
        whole = energy(sum(row.get("joules") or 0.0 for row in run.rows))
        yield "Energy", f"{whole} of the machine's processor packages, of whatever ran on them; memory and GPUs not counted"
    elif why_not is not None:
        yield "Energy", f"not measured: {why_not or 'clients were at work on other machines too'}"
    if run.rounds_done >= 0:
        yield "To run it again", "fedkd run experiment.toml, with the file of that name in the run's directory"


def _flat(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_flat(name, each)}" for name, each in value.items())
    if value in (None, []):
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else size(value) if key == "memory" else str(value)


def _differing(groups: Sequence[Seeds]) -> Table:
    """The keys in which the groups' experiments differ."""
    told = [group.runs[0].identity for group in groups]
    keys = [
        key for key in dict.fromkeys(key for each in told for key in each) if len({repr(each.get(key)) for each in told}) > 1
    ]
    rows = [[key, *(str(each.get(key, "not there")) for each in told)] for key in keys]
    return Table("In what the experiments differ", ["key", *(group.label for group in groups)], rows)
